"""Bad input: exit code 2, the key or file named, the remedy given, no traceback, nothing written."""

import errno
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from particlegen.cli import app
from particlegen.io import atomic

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflows" / "tiny.yaml"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    said = result.output + (result.stderr or "")
    assert "Traceback" not in said
    return result.exit_code, " ".join(said.split())


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(key, value):
    """The tiny workflow with one dotted key changed."""
    content = yaml.safe_load(TINY.read_text())
    *sections, last = key.split(".")
    inner = content
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return content


BAD = [
    ("reference.frams", 10, ["'reference.frams'", "did you mean 'frames'"]),
    ("trianing", {}, ["'trianing'", "did you mean 'training'"]),
    ("training.learning_rat", 1e-3, ["'training.learning_rat'", "did you mean 'learning_rate'"]),
    ("estimates.free_energie", True, ["'estimates.free_energie'", "did you mean 'free_energy'"]),
    ("version", 2, ["'version'", "found 2"]),
    ("version", True, ["'version'", "found True"]),
    ("kind", "glas", ["'kind'", "'glass'"]),
    ("seed", -1, ["'seed'", "found -1"]),
    ("seed", "seven", ["'seed'", "integer"]),
    ("system.card", "ipl_binry_2d", ["ipl_binry_2d", "ipl_binary_2d"]),
    ("system.temperature", -0.5, ["temperature", "-0.5"]),
    ("system.temperature", float("nan"), ["temperature", "nan"]),
    ("system.temperature", float("inf"), ["temperature", "inf"]),
    ("system.density", 0, ["density", "greater than 0"]),
    ("system.composition", {"A": 3, "B": 2}, ["composition", "adds up to 5", "'particles' is 4"]),
    ("system.composition", {"A": 3, "Z": 1}, ["composition", "'Z'"]),
    ("system.composition", {"A": -3, "B": 7}, ["composition", "-3"]),
    ("system.particles", 5, ["particles"]),
    ("reference.frames", 0, ["'reference.frames'", "found 0"]),
    ("reference.frames", "many", ["'reference.frames'", "'many'"]),
    ("reference.sampler", "metropolis", ["'reference.sampler'", "displacement"]),
    ("network.kind", "holow", ["'network.kind'", "holow"]),
    ("network.width", 1.5, ["'network.width'", "1.5"]),
    ("training.learning_rate", float("nan"), ["'training.learning_rate'"]),
    ("training.learning_rate", -1.0, ["'training.learning_rate'", "-1.0"]),
    ("training", {"pretrained": "no_such_weights"}, ["no_such_weights"]),
    ("training", {"pretrained": "missing.yaml"}, ["missing.yaml"]),
    ("training", [1, 2], ["'training'", "[1, 2]"]),
    ("generation.samples", -5, ["'generation.samples'", "-5"]),
    ("generation.solver", "euler9", ["'generation.solver'", "rk4"]),
    ("estimates.observables", ["energy", "colour"], ["'estimates.observables[1]'", "colour"]),
    ("stop.pareto_k", "low", ["'stop.pareto_k'", "low"]),
]


@pytest.mark.parametrize(("key", "value", "said"), BAD, ids=[f"{key}={value}" for key, value, _ in BAD])
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_wrong_value_is_named_and_nothing_is_written(here, command, key, value, said):
    file = here / "mine.yaml"
    file.write_text(yaml.safe_dump(changed(key, value)))
    before = tree(here)
    code, output = call(command, file)
    assert code == 2, output
    for text in [*said, "mine.yaml" if not key.startswith("system") and "pretrained" not in str(value) else ""]:
        assert text in output
    assert tree(here) == before


def test_every_mistake_is_listed_at_once(here):
    content = changed("reference.frams", 3) | {"sed": 1}
    (here / "mine.yaml").write_text(yaml.safe_dump(content))
    code, output = call("validate", "mine.yaml")
    assert code == 2
    assert "2 mistakes" in output and "'sed'" in output and "'reference.frams'" in output


@pytest.mark.parametrize("section", ["system", "reference", "training", "version", "kind"])
def test_a_missing_section_is_named(here, section):
    content = yaml.safe_load(TINY.read_text())
    del content[section]
    (here / "mine.yaml").write_text(yaml.safe_dump(content))
    code, output = call("validate", "mine.yaml")
    assert code == 2
    assert f"'{section}' is missing" in output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version: 1\nversion: 1\n", "version"),
        (b"- a\n- b\n", "mapping"),
        (b"a: [1, 2\n", "line"),
        (b"a: \xff\xfe\n", "UTF-8"),
        (b"a: !!python/object/apply:os.system ['true']\n", "python"),
        (b"", "mapping"),
        (b"\x00\x01", "mine.yaml"),
    ],
)
def test_a_file_that_is_no_workflow_is_refused(here, content, said):
    (here / "mine.yaml").write_bytes(content)
    code, output = call("run", "mine.yaml")
    assert code == 2
    assert said in output and "mine.yaml" in output
    assert not (here / "runs").exists()


def test_missing_files_and_folders(here):
    for command in (["run", "none.yaml"], ["validate", "none.yaml"], ["resume", "none"], ["status", "none"]):
        code, output = call(*command)
        assert code == 2 and "none" in output
    (here / "empty").mkdir()
    for command in ("resume", "status", "report", "free-energy", "cite"):
        code, output = call(command, "empty")
        assert code == 2 and "no run folder" in output and "workflow.yaml" in output
    code, output = call("run", TINY, "--resources", "none.yaml")
    assert code == 2 and "none.yaml" in output and not (here / "runs").exists()


def test_an_unknown_workflow_name_lists_near_ones(here):
    code, output = call("run", "quikstart")
    assert code == 2 and "quickstart" in output


@pytest.mark.parametrize("text", ["seed", "=3", "seed.deep=3", "training.stepps=3", "seed=[", "reference.frames=-3"])
def test_a_wrong_override_is_named(here, text):
    code, output = call("validate", TINY, "--set", text)
    assert code == 2
    assert text.partition("=")[0].split(".")[-1] in output or text in output


def test_a_wrong_resource_is_named(here):
    (here / "machine.yaml").write_text("device: abacus\nexecutor: {kind: process, workers: 0}\n")
    code, output = call("run", TINY, "--resources", "machine.yaml")
    assert code == 2
    assert "'device'" in output and "'executor.workers'" in output
    assert not (here / "runs").exists()


@pytest.mark.parametrize("occupant", ["workflow.yaml", "notes.txt"])
def test_an_occupied_output_folder_is_left_alone(here, occupant):
    (here / "out").mkdir()
    (here / "out" / occupant).write_text("precious")
    before = tree(here)
    code, output = call("run", TINY, "--out", "out")
    assert code == 2
    assert "out" in output and "--out" in output
    assert tree(here) == before


def test_an_output_that_is_a_file_is_left_alone(here):
    (here / "out").write_text("precious")
    assert call("run", TINY, "--out", "out")[0] == 2
    assert call("run", TINY, "--out", "out/deeper")[0] == 2
    assert (here / "out").read_text() == "precious"


def test_no_space_left_is_exit_code_3_and_says_how_to_go_on(here, monkeypatch):
    def full(path, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(atomic, "write_text", full)
    code, output = call("run", TINY, "--out", "out")
    assert code == 3
    assert "no space left" in output.lower() and "the same command again" in output and "resume" not in output


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "frames.xyz"),
        ("", "frames.xyz"),
        ('4\nLattice="3 0 0 0 3 0 0 0 0" Properties=species:S:1:pos:R:2\nA 0.1 0.1\nB 1 1\n', "frames.xyz"),
        ('2\nLattice="3 0 0 0 3 0 0 0 0" Properties=species:S:1:pos:R:2\nA 0.1 nan\nB 1 1\n', "frames.xyz"),
        ('2\nLattice="3 0 0 0 3 0 0 0 0" Properties=species:S:1:pos:R:2\nA 0.1 0.2\nQ 1 1\n', "Q"),
    ],
)
def test_a_missing_or_broken_structure_file(here, content, said):
    if content is not None:
        (here / "frames.xyz").write_text(content)
    code, output = call("energy", "--system", "ipl_binary_2d", "frames.xyz", "--json")
    assert code == 2
    assert said in output


def test_energy_of_a_good_file(here):
    text = '2\nLattice="9 0 0 0 9 0 0 0 0" Properties=species:S:1:pos:R:2\n1 1.0 1.0\n2 2.2 1.0\n'
    (here / "frames.xyz").write_text(text * 2)
    result = CliRunner().invoke(app, ["energy", "--system", "ipl_binary_2d", "frames.xyz", "--json"])
    assert result.exit_code == 0, result.output
    frames = json.loads(result.stdout)
    assert len(frames) == 2
    assert frames[0]["energy"] == pytest.approx(1 - 0.4**12, abs=1e-12)
    assert frames[0]["energy_per_particle"] == pytest.approx(frames[0]["energy"] / 2)


def test_init_copies_once(here):
    code, output = call("init", "quickstart")
    assert code == 0 and "quickstart.yaml" in output
    (here / "quickstart.yaml").write_text("mine")
    code, output = call("init", "quickstart")
    assert code == 2 and "exists" in output
    assert (here / "quickstart.yaml").read_text() == "mine"


def test_what_there_is(here):
    code, output = call("list")
    assert code == 0 and "ipl_binary_2d" in output and "quickstart" in output
    code, output = call("list", "systems")
    assert code == 0 and "quickstart" not in output
    code, output = call("doctor")
    assert code == 0 and "torch" in output and "threads" in output and "cpu" in output
    result = CliRunner().invoke(app, ["schema"])
    assert json.loads(result.stdout)["$defs"]["GlassWorkflow"]["properties"]["kind"]["const"] == "glass"
    assert call("nonsense")[0] == 2
    assert call("run")[0] == 2
