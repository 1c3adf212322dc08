"""Planned memory and disk: estimated, printed, and refused where the machine has less, before anything is written."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from particlegen import machine
from particlegen.cli import app
from particlegen.energy import SystemSettings, build_system
from particlegen.networks import NetworkSettings, build_network, network_size
from particlegen.workflow import plan, runner
from particlegen.workflow.plans import Need
from particlegen.workflow.room import check_memory
from particlegen.workflow.schema import load_workflow

ROOT = Path(__file__).parents[1]
TINY, TINY_ISOMERS = (ROOT / "tests" / "workflows" / name for name in ("tiny.yaml", "tiny_isomers.yaml"))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert "Traceback" not in result.stderr
    return result.exit_code, " ".join(result.output.split())


LARGE = [
    (TINY, "generation.chunk", 100_000, ("generation.samples=100000", "generation.likelihood=hutchinson")),
    (TINY, "training.batch", 1 << 20, ()),
    (TINY, "reference.frames", 10**12, ()),
    (TINY, "reference.frames", 2**63 - 1, ()),
    (TINY, "reference.block_frames", 1_000_000, ("reference.frames=1000000",)),
    (TINY, "reference.chains", 100_000, ("reference.frames=800000", "reference.sampler=tempering")),
    (TINY, "reference.workers", 1024, ()),
    (TINY_ISOMERS, "production.samples", 10**12, ()),
    (TINY_ISOMERS, "production.draws", 10**12, ()),
    (TINY_ISOMERS, "adaptation.kept", 10**12, ()),
    (TINY_ISOMERS, "chains.count", 10_000, ("production.samples=80000", "adaptation.sweeps=10000000")),
    (TINY_ISOMERS, "vibrations.states", 10_000, ("vibrations.periods=100000",)),
    (TINY_ISOMERS, "learned.per_round", 10_000, ("learned.rounds=1000", "adaptation.rounds=1000")),
    (TINY_ISOMERS, "correction.chains", 10**10, ("learned={}",)),
]


@pytest.mark.parametrize(("workflow", "key", "value", "more"), LARGE, ids=[f"{case[1]}={case[2]}" for case in LARGE])
def test_what_the_machine_cannot_hold_is_refused_by_the_key_that_drives_it(workflow, key, value, more, monkeypatch):
    monkeypatch.setattr(machine, "total_memory", lambda: 1_000_000_000)
    monkeypatch.setattr(machine, "free_disk", lambda path: 10**30)
    settings = [text for pair in (f"{key}={value}", *more) for text in ("--set", pair)]
    code, said = call("validate", workflow, *settings)
    assert code == 2 and "this machine has 1 GB" in said
    assert key in said.partition("error: key ")[2].partition(":")[0]
    assert call("run", workflow, *settings) == (code, said)
    assert not list(Path.cwd().iterdir())


def test_the_value_that_the_message_names_would_fit(monkeypatch):
    monkeypatch.setattr(machine, "total_memory", lambda: 1_000_000_000)
    _, said = call("validate", TINY, "--set", "training.batch=65536")
    (text,) = re.findall(r"lower training\.batch from 65536 to (\d+) or less", said)
    fits = int(text)
    assert call("validate", TINY, "--set", f"training.batch={fits}")[0] == 0
    assert call("validate", TINY, "--set", f"training.batch={fits + fits // 50 + 1}")[0] == 2


def test_particles_that_no_network_could_take_are_refused_at_once():
    code, said = call("validate", TINY, "--set", "system.particles=1000000")
    assert code == 2 and "system.particles" in said


def test_disk_is_refused_and_another_place_offered(monkeypatch):
    monkeypatch.setattr(machine, "free_disk", lambda path: 10_000_000)
    for command in ("validate", "run"):
        code, said = call(command, TINY, "--set", "reference.frames=1000000", "--out", "there")
        assert code == 2 and "key 'reference.frames'" in said and "there has 0.01 GB" in said and "--out" in said
    assert not list(Path.cwd().iterdir())


def test_resume_and_extend_are_refused_too(monkeypatch):
    folder = Path("made")
    for workflow, command in ((TINY, "resume"), (TINY_ISOMERS, "extend")):
        folder.mkdir()
        prepared = runner.prepare(
            workflow, ["training.batch=65536"] if workflow is TINY else ["production.draws=1000000"]
        )
        provenance = prepared.provenance()
        (folder / "workflow.yaml").write_text(runner.canonical_yaml(prepared.workflow))
        manifest = runner.build_manifest(prepared.workflow, provenance, {}, prepared.relative_to, "tiny", "cpu")
        (folder / "manifest.json").write_text(json.dumps(manifest))
        monkeypatch.setattr(runner.Prepared, "origin", lambda self: {})
        with monkeypatch.context() as context:
            context.setattr(machine, "total_memory", lambda: 750_000_000)
            code, said = call(command, folder)
        assert code == 2 and "of memory are planned" in said
        assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "workflow.yaml"]
        assert list(Path.cwd().iterdir()) == [folder.absolute()]
        shutil.rmtree(folder)


def test_workers_of_this_machine_count(here):
    (here / "machine.yaml").write_text("executor: {kind: process, workers: 8}\n")
    (here / "cluster.yaml").write_text("executor: {kind: parsl, workers: 8}\n")
    alone, eight, cluster = (plan(TINY, resources=file).memory_bytes for file in (None, "machine.yaml", "cluster.yaml"))
    assert eight == cluster and 3e9 < eight - alone < 5e9
    (here / "many.yaml").write_text("executor: {kind: process, workers: 1024}\n")
    code, said = call("validate", TINY, "--resources", "many.yaml")
    assert code == 2 and "key 'executor.workers'" in said


def test_a_gpu_holds_what_networks_take(monkeypatch):
    class Card:
        total_memory = 2_000_000_000

    monkeypatch.setattr(machine, "total_memory", lambda: 1_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    workflow, cuda = load_workflow(TINY)[0], torch.device("cuda")
    batch = Need("a batch", 1.5e9, ("training.batch",), on_device=True)
    check_memory((batch,), workflow, cuda)
    with pytest.raises(ValueError, match="this machine has 1 GB"):
        check_memory((batch,), workflow, torch.device("cpu"))
    with pytest.raises(ValueError, match="the device cuda has 2 GB"):
        check_memory((batch, batch), workflow, cuda)


def test_validate_prints_both():
    code, said = call("validate", TINY)
    assert code == 0
    assert re.search(r"memory about 0\.\d+ GB of the [\d.]+ GB that are there; most for Python", said)
    assert re.search(r"disk about [\d.]+ GB of the [\d.]+ GB that are free", said)


# --- what the machine has -------------------------------------------------------------------------------------------


def test_limits_of_control_groups(tmp_path):
    root, groups = tmp_path / "fs", tmp_path / "cgroup"
    for folder, text in (("", "max"), ("a", "5000"), ("a/b", "max"), ("a/b/c", "7000")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "memory.max").write_text(text + "\n")
    (root / "memory" / "x").mkdir(parents=True)
    (root / "memory" / "x" / "memory.limit_in_bytes").write_text("6000\n")
    groups.write_text("0::/a/b/c\n")
    assert sorted(machine._group_limits(groups, root)) == [5000, 7000]
    groups.write_text("7:cpu:/y\n4:memory:/x/of/the/host\n")
    assert list(machine._group_limits(groups, root)) == [6000]
    assert list(machine._group_limits(tmp_path / "none", root)) == []


def test_total_memory_and_free_disk(tmp_path, monkeypatch):
    assert 0 < machine.total_memory() <= 1 << 50
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1234, -1))
    assert machine.total_memory() == 1234
    assert machine.free_disk(tmp_path / "not" / "there" / "yet") == pytest.approx(
        shutil.disk_usage(tmp_path).free, rel=0.1
    )


# --- is the estimate honest? ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hollow", "standard"])
def test_the_size_of_a_network_is_what_a_real_pass_keeps(kind):
    system = build_system(SystemSettings(card="ipl_binary_2d", particles=8)).system
    settings = NetworkSettings(kind=kind, width=16, rounds=2)
    network, kept = build_network(settings, system), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        velocity = network(torch.rand(3), torch.rand(3, 8, 2))
    assert velocity.requires_grad
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    size = network_size(settings, system)
    assert size.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert size.activations == pytest.approx(real / 3, rel=0.05)


RUN = """
import json, resource, sys
from particlegen import workflow
workflow.run(sys.argv[1], out="run", set=json.loads(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workflow", "changes"),
    [
        (TINY, {}),
        (TINY, {"system.particles": 20, "network.width": 32, "training.steps": 1, "training.batch": 384}),
        (TINY_ISOMERS, {}),
        (TINY_ISOMERS, {"chains.count": 1000, "production.samples": 8_000}),
    ],
)
def test_the_plan_is_within_a_factor_of_what_a_run_takes(workflow, changes):
    """`benchmarks/planned_memory.py` records more of these."""
    planned = plan(workflow, set=changes)
    command = [sys.executable, "-c", RUN, str(workflow), json.dumps(changes)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = int(found.stdout.splitlines()[-1])
    assert 0.85 * measured < planned.memory_bytes < 2 * measured
    size = sum(file.stat().st_size for file in Path("run").rglob("*") if file.is_file())
    assert size < 1.1 * planned.disk_bytes < 10 * size
