"""Paths in workflows, cards and run folders: inside the folder of the file that names them, or given by a person."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

import particlegen
from particlegen import catalogue
from particlegen.io import atomic
from particlegen.io.reading import Damaged, inside, json_object, read_bytes
from particlegen.settings import InputError
from particlegen.workflow.folder import RunFolder, next_run_folder
from particlegen.workflow.paths import CARDS, RUNS
from particlegen.workflow.schema import SCHEMAS, load_workflow

WORKFLOWS = Path(__file__).parent / "workflows"
TINY, TINY_ISOMERS = WORKFLOWS / "tiny.yaml", WORKFLOWS / "tiny_isomers.yaml"

NO_PATHS = {"kind", "system.composition", "system.isomers"}
"""Other texts of workflows: names of species and isomers, which the cards know."""


def texts(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of every field of a schema that may hold free text."""
    for name, field in model.model_fields.items():
        waiting, free = [field.annotation], False
        while waiting:
            annotation = waiting.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from texts(annotation, f"{prefix}{name}.")
            free |= annotation is str
            waiting += [each for each in get_args(annotation) if not isinstance(each, str)]
        if free:
            yield f"{prefix}{name}"


def test_every_text_of_a_workflow_is_known_as_a_path_or_as_none():
    """A key that is added has to be put into one of the lists."""
    found = {key for schema in SCHEMAS.values() for key in texts(schema)}
    assert found - NO_PATHS == {*CARDS, *RUNS}


def written(folder: Path, base: Path, changes: dict) -> Path:
    """A workflow with dotted keys changed, in a file."""
    data = yaml.safe_load(base.read_text())
    for dotted, value in changes.items():
        here = data
        *sections, last = dotted.split(".")
        for section in sections:
            here = here.setdefault(section, {})
        here[last] = value
    path = folder / "workflow.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def base_of(key: str) -> Path:
    isomers = key in ("learned.baseline", "check.engine", "start_from")
    return TINY_ISOMERS if isomers else TINY


@pytest.mark.parametrize("key", [*CARDS, *RUNS])
@pytest.mark.parametrize(
    "leads", ["/etc/card.yaml", "../card.yaml", "inner/../../card.yaml", "link.yaml", "link/card.yaml"]
)
def test_a_path_of_a_file_stays_in_its_folder_and_a_given_one_may_leave(tmp_path, key, leads):
    folder, outside = tmp_path / "mine", tmp_path / "outside"
    for each in (folder, outside, folder / "inner"):
        each.mkdir()
    (outside / "card.yaml").write_text("{}")
    (folder / "link.yaml").symlink_to(outside / "card.yaml")
    (folder / "link").symlink_to(outside)
    training = {"training": {key.split(".")[1]: leads}} if key == "training.pretrained" else {}
    path = written(folder, base_of(key), training or {key: leads})
    with pytest.raises(InputError, match=rf"workflow\.yaml: key '{key}': .*leads outside.*--set {key}="):
        load_workflow(path)
    given = {"training": {"pretrained": leads}} if training else {key: leads}
    plain = written(folder, base_of(key), {})
    for chosen in (given, [f"{name}={json.dumps(value)}" for name, value in given.items()]):
        here = load_workflow(plain, chosen)[0]
        for part in key.split("."):
            here = getattr(here, part)
        assert here == str((folder / leads).resolve())


@pytest.mark.parametrize("inner", ["card.yaml", "inner/card.yaml", "inner/../card.yaml", "a name"])
def test_what_stays_inside_is_left_as_it_is(tmp_path, inner):
    (tmp_path / "inner").mkdir()
    assert load_workflow(written(tmp_path, TINY, {"system.card": inner}))[0].system.card == inner


def test_a_mapping_in_python_is_given_by_a_person(tmp_path):
    data = yaml.safe_load(TINY.read_text()) | {"system": {"card": str(tmp_path / "card.yaml")}}
    assert load_workflow(data)[0].system.card == str(tmp_path / "card.yaml")


# --- cards ----------------------------------------------------------------------------------------------------------


def test_inside_follows_links(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "away").symlink_to(tmp_path)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in" / "loop")
    (tmp_path / "in" / "near").symlink_to(tmp_path / "in" / "x")
    for bad in ("../x", "away/x", "/etc/passwd", "loop/x", "a\0b"):
        with pytest.raises(InputError, match=r"^card: .*leads outside"):
            inside(tmp_path / "in", bad, "card")
    assert inside(tmp_path / "in", "near", "card") == tmp_path / "in" / "near"


def test_files_that_are_no_files_and_files_that_are_too_long_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for bad, said in (
        (tmp_path / "pipe", "no regular file"),
        (Path("/dev/zero"), "no regular file"),
        (tmp_path, "no reg"),
    ):
        with pytest.raises(Damaged, match=said):
            read_bytes(bad, 10)
    (tmp_path / "long").write_bytes(bytes(11))
    with pytest.raises(Damaged, match="11 bytes, more than the 10"):
        read_bytes(tmp_path / "long", 10)
    with pytest.raises(InputError, match="cannot be read"):
        catalogue.parse_yaml(tmp_path / "pipe")


@pytest.mark.parametrize(
    "content", ["[]", "1", "", "{", '{"a": ' * 101 + "1" + "}" * 101, "[" * 10**6, '{"a": ' + "1" * 5000 + "}"]
)
def test_json_that_is_no_shallow_object_is_refused(content):
    with pytest.raises(Damaged):
        json_object(content)


# --- run folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def handed_over(tmp_path):
    """A run folder as somebody else may have made it, with a card outside of it."""
    run, cards = tmp_path / "run", tmp_path / "cards"
    run.mkdir()
    cards.mkdir()
    shutil.copy(catalogue.root() / "systems" / "ipl_binary_2d.yaml", cards / "card.yaml")
    written(run, TINY, {"system.card": "card.yaml"})
    digest = hashlib.sha256((run / "workflow.yaml").read_bytes()).hexdigest()
    content = {
        "name": "../../evil",
        "relative_to": str(cards),
        "citations": [],
        "inputs": {},
        "workflow_sha256": digest,
    }
    (run / "manifest.json").write_text(json.dumps(content))
    return run


def test_a_run_reads_outside_only_what_its_manifest_pins(handed_over):
    with pytest.raises(InputError, match=r"key 'system.card': .*cards/card.yaml: changed, or is another file"):
        _ = particlegen.open_run(handed_over).system
    card = Path(json.loads((handed_over / "manifest.json").read_text())["relative_to"]) / "card.yaml"
    content = json.loads((handed_over / "manifest.json").read_text())
    content["inputs"] = {"system.card": hashlib.sha256(card.read_bytes()).hexdigest()}
    (handed_over / "manifest.json").write_text(json.dumps(content))
    assert particlegen.open_run(handed_over).system.n_particles > 0
    card.write_text(card.read_text() + "\n")
    with pytest.raises(InputError, match=r"changed, or is another file, since the run .* began; restore it"):
        _ = particlegen.open_run(handed_over).system


FILES = ("manifest.json", "results.json", "events.jsonl", "report.html", "labels.db", "data.h5")


@pytest.mark.parametrize(
    "name", [*FILES, "checkpoints", "segments", "workers", "segments/reference", "checkpoints/a.json"]
)
def test_links_that_lead_out_of_a_run_folder_are_refused(handed_over, name):
    target = handed_over.parent / "mine"
    target.mkdir() if "." not in name else target.write_text("{}")
    (handed_over / name).parent.mkdir(exist_ok=True)
    (handed_over / name).unlink(missing_ok=True)
    (handed_over / name).symlink_to(target)
    with pytest.raises(InputError, match=rf"{name}: a link that leads out of the run folder"):
        RunFolder.open(handed_over)
    (handed_over / name).unlink()
    if name != "manifest.json":
        (handed_over / name).symlink_to(handed_over / "workflow.yaml")
        RunFolder.open(handed_over)


def test_pipes_in_a_run_folder_are_refused_and_the_folder_itself_may_be_a_link(handed_over):
    link = handed_over.parent / "link"
    link.symlink_to(handed_over)
    RunFolder.open(link)
    os.mkfifo(handed_over / "results.json")
    with pytest.raises(InputError, match=r"results\.json: neither a file nor a folder"):
        RunFolder.open(link)


def test_a_name_from_a_manifest_makes_no_path(tmp_path):
    assert next_run_folder("../../evil", tmp_path) == tmp_path / "evil-001"
    assert next_run_folder("\0/..", tmp_path) == tmp_path / "workflow-001"


def test_a_write_follows_no_link_that_lay_there(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / ".partial-report.html").symlink_to(mine)
    (tmp_path / "report.html").symlink_to(mine)
    atomic.write_text(tmp_path / "report.html", "new")
    assert mine.read_text() == "mine"
    assert (tmp_path / "report.html").read_text() == "new" and not (tmp_path / "report.html").is_symlink()
