"""The resources file and the executors that it names; the same run whoever does the tasks."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import yaml
from faults.comparison import compare
from task_functions import Task, square
from test_workflow_run import TINY
from typer.testing import CliRunner

import particlegen
from particlegen.cli import app
from particlegen.sampling import ReferenceSettings, sample_reference
from particlegen.settings import InputError, RunError
from particlegen.system import ThermodynamicState
from particlegen.tasks import Done, TaskLimits, map_tasks
from particlegen.workflow import Resources, load_resources, open_executor, resources_schema
from particlegen.workflow.resources import InlineSettings, ParslSettings, ProcessSettings, SlurmNodes

ROOT = Path(__file__).parents[1]


def written(tmp_path, content) -> Path:
    path = tmp_path / "resources.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_every_kind_of_executor_is_read(tmp_path):
    assert load_resources(None) == Resources()
    found = load_resources(written(tmp_path, "executor: {kind: process, workers: 3, timeout: 60}"))
    assert found.executor == ProcessSettings(kind="process", workers=3, timeout=60)
    assert found.executor.limits == TaskLimits(2, 60.0)
    assert load_resources(written(tmp_path, "executor: {kind: inline}")).executor.limits == TaskLimits(2, None)
    nodes = "{kind: slurm, walltime: 12:00:00, nodes: 4}"
    found = load_resources(written(tmp_path, f"executor: {{kind: parsl, workers: 64, nodes: {nodes}}}"))
    assert isinstance(found.executor, ParslSettings) and isinstance(found.executor.nodes, SlurmNodes)
    assert found.executor.nodes.walltime == "12:00:00" and found.executor.nodes.seconds == 43200


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ({"kind": "process", "workrs": 2}, "unknown key 'executor.workrs': did you mean 'workers'"),
        ({"kind": "process"}, "'executor.workers' is missing"),
        ({"kind": "proces", "workers": 2}, "'process'"),
        ({"kind": "inline", "timeout": 3}, "unknown key 'executor.timeout'"),
        ({"kind": "process", "workers": 2, "timeout": 0}, "'executor.timeout'"),
        ({"kind": "parsl", "workers": 2, "blocks": {"initial": 2}}, "fewest <= initial <= most"),
        ({"kind": "parsl", "workers": 2, "blocks": {"mots": 2}}, "did you mean 'most'"),
        ({"kind": "parsl", "workers": 2, "nodes": {"kind": "slurm", "walltime": "1 day"}}, "executor.nodes.walltime"),
        (
            {"kind": "parsl", "workers": 8, "threads": 2, "nodes": {"kind": "slurm", "walltime": 3600, "cores": 8}},
            "need 16 cores",
        ),
        (
            {"kind": "parsl", "workers": 8, "timeout": 3600, "nodes": {"kind": "slurm", "walltime": "01:00:00"}},
            "a job ends after 3600 s",
        ),
    ],
)
def test_a_wrong_executor_is_named(tmp_path, executor, said):
    with pytest.raises(InputError, match=r"resources\.yaml") as caught:
        load_resources(written(tmp_path, {"executor": executor}))
    assert said in str(caught.value)


def test_the_workflow_says_how_many_where_no_resources_do():
    assert Resources().executor_for(1) == InlineSettings()
    assert Resources().executor_for(3) == ProcessSettings(kind="process", workers=3)
    stated = InlineSettings(retries=5)
    assert Resources(executor=stated).executor_for(3) is stated


def test_what_is_not_installed_is_said_before_anything_runs(tmp_path, monkeypatch):
    path = written(tmp_path, {"executor": {"kind": "parsl", "workers": 2}})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "parsl", None)
        result = CliRunner().invoke(app, ["run", str(TINY), "--out", str(tmp_path / "run"), "--resources", str(path)])
    assert result.exit_code == 2 and "pip install 'particlegen[cluster]'" in result.output
    assert not (tmp_path / "run").exists()
    pytest.importorskip("parsl")
    monkeypatch.setenv("PATH", str(tmp_path))
    slurm = ParslSettings(kind="parsl", workers=2, nodes=SlurmNodes(kind="slurm", walltime="00:10:00"))
    with pytest.raises(InputError, match="no sbatch here"), open_executor(slurm):
        pass


def test_validate_and_schema_know_the_resources(tmp_path):
    path = written(tmp_path, {"device": "cpu", "executor": {"kind": "process", "workers": 2, "threads": 3}})
    result = CliRunner().invoke(app, ["validate", str(TINY), "--resources", str(path)])
    assert result.exit_code == 0 and "cpu; 2 processes of 3 threads" in result.output
    assert "tasks in this process" in CliRunner().invoke(app, ["validate", str(TINY)]).output
    shown = json.loads(CliRunner().invoke(app, ["schema", "resources"]).stdout)
    assert shown == resources_schema() and set(shown["properties"]) == {
        "device",
        "threads",
        "executor",
        "checkpoint_seconds",
    }
    assert "seed" in json.loads(CliRunner().invoke(app, ["schema"]).stdout)["$defs"]["GlassWorkflow"]["properties"]


def test_a_chain_without_an_answer_ends_the_run_with_its_reason(monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("no sweeps")

    monkeypatch.setattr("particlegen.sampling.reference.equilibrate", broken)
    from particlegen.energy import SystemSettings, build_system

    system = build_system(SystemSettings(card="lj_cluster", particles=3))
    told = []
    with pytest.raises(RunError, match=r"reference chain 0: ZeroDivisionError: no sweeps \(2 attempts\)"):
        list(
            sample_reference(
                system.system,
                system.potential,
                ThermodynamicState(1.0),
                ReferenceSettings(chains=1, frames=8),
                seed=1,
                events=told.append,
                limits=TaskLimits(retries=1),
            )
        )
    assert "in broken" in told[-1].message


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return particlegen.run(TINY, out=tmp_path_factory.mktemp("tiny") / "run")


@pytest.mark.slow
def test_a_run_on_nodes_gives_the_same_answer(finished, tmp_path):
    pytest.importorskip("parsl", reason="pip install 'particlegen[cluster]'")
    resources = Resources(executor=ParslSettings(kind="parsl", workers=2, heartbeat=2))
    run = particlegen.run(TINY, out=tmp_path / "run", resources=resources)
    compare(run.folder.path, finished.folder.path)
    assert list((tmp_path / "run" / "workers").rglob("manager.log"))


SBATCH = """#!/bin/sh
# A cluster of one machine: the job starts at once; squeue shows it while it runs.
cp "$1" "{folder}/submitted.sh"
SLURM_JOB_NAME=job setsid bash "$1" > "{folder}/job.log" 2>&1 &
echo $! >> "{folder}/jobs"
echo "Submitted batch job $!"
"""
SQUEUE = """#!/bin/sh
for job in $(cat "{folder}/jobs"); do kill -0 "$job" 2>/dev/null && echo "$job R"; done
exit 0
"""


@pytest.mark.slow
def test_the_slurm_example_of_the_docs_runs_where_sbatch_does(tmp_path, monkeypatch):
    pytest.importorskip("parsl", reason="pip install 'particlegen[cluster]'")
    programs = {
        "sbatch": SBATCH,
        "squeue": SQUEUE,
        "sacct": "#!/bin/sh\nexit 1\n",
        "scancel": '#!/bin/sh\nfor job in "$@"; do kill -- "-$job"; done\n',
        "srun": '#!/bin/sh\nshift 3  # --ntasks 1 -l\nexec "$@"\n',
    }
    for name, text in programs.items():
        path = tmp_path / name
        path.write_text(text.replace("{folder}", str(tmp_path)))
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    page = (ROOT / "docs" / "executors.md").read_text()
    text = next(block for block in page.split("```yaml\n") if "kind: slurm" in block).split("```")[0]
    stated = Resources.model_validate(yaml.safe_load(text)).executor
    settings = stated.model_copy(update={"workers": 2, "heartbeat": 2})
    with open_executor(settings, tmp_path / "logs") as executor:
        found = map_tasks(executor, square, [Task(n, str(tmp_path)) for n in range(4)], settings.limits)
    assert found == [Done(n * n) for n in range(4)]
    script = (tmp_path / "submitted.sh").read_text()
    for line in ("#SBATCH --time=720", "#SBATCH --partition=standard", "export OMP_NUM_THREADS=2", "--drain_period="):
        assert line in script, script
