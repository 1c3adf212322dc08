"""The documentation is true: it builds without warnings, its code runs, its commands, keys, cards and links exist."""

import doctest
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

import particlegen
from particlegen.cli import app, console
from particlegen.energy import PySCFSettings
from particlegen.energy.cards import SystemCard, load_potential
from particlegen.isomers import ClusterCard
from particlegen.report.advice import advise
from particlegen.settings import InputError
from particlegen.validation import parse_section
from particlegen.workflow import Resources, load_workflow

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TINY = ROOT / "tests" / "workflows" / "tiny.yaml"
TINY_ISOMERS = ROOT / "tests" / "workflows" / "tiny_isomers.yaml"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def stem(page: Path) -> str:
    return page.stem


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the pages' code runs: `quickstart.yaml`, a run made from it, one on isomers; all at the smallest size."""
    where = tmp_path_factory.mktemp("docs")
    shutil.copy(TINY, where / "quickstart.yaml")
    particlegen.run(where / "quickstart.yaml", out=where / "runs" / "quickstart-001")
    particlegen.run(TINY_ISOMERS, out=where / "runs" / "lj6_isomers-001")
    return where


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    done = subprocess.run([*command, "-d", out / "trees", DOCS, out / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_site_builds_without_warnings(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()


def test_benchmark_page_shows_every_recorded_result(site):
    shown = (site / "benchmarks.html").read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert path.name in shown


@pytest.mark.parametrize("page", [page for page in with_blocks("python") if page.parent == DOCS], ids=stem)
def test_python_of_a_page_runs(page, folder, monkeypatch):
    """Blocks of a page share their names, as for a reader who types them one after the other."""
    monkeypatch.chdir(folder)
    names = {"__name__": "page"}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for number, code in enumerate(blocks(page, "python")):
        if ">>>" in code:
            test = doctest.DocTestParser().get_doctest(code, names, f"{page.name}[{number}]", page.name, 0)
            found: list[str] = []
            runner.run(test, out=found.append, clear_globs=False)
            names = test.globs
            assert not found, "".join(found)
        else:
            exec(compile(code, f"{page.name}[{number}]", "exec"), names)


def test_python_of_the_readme_compiles():
    for code in blocks(ROOT / "README.md", "python"):
        compile(code, "README.md", "exec")


def parsed(line: str):
    """What the command line makes of a line, short of doing it; raises for commands and options that do not exist."""
    name, *arguments = shlex.split(line, comments=True)[1:]
    command = COMMANDS[name]
    if isinstance(command, typer.core.TyperGroup):
        name, *arguments = arguments
        command = command.commands[name]
    return command.make_context(name, arguments)


def shell_lines(page: Path, program: str) -> list[str]:
    lines = [line for code in blocks(page, "sh") for line in code.splitlines()]
    return [line for line in lines if line.startswith(f"{program} ")]


@pytest.mark.parametrize("page", with_blocks("sh"), ids=stem)
def test_commands_of_a_page_exist(page):
    for line in shell_lines(page, "particlegen"):
        parsed(line)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for line in shell_lines(page, "make"):
        assert line.split()[1] in targets


@pytest.mark.parametrize(
    "line",
    [
        "particlegen sample x",
        "particlegen run x --steps 3",
        "particlegen export runs/x",
        "particlegen labels sort labels.db",
        "particlegen labels export labels.db",
    ],
)
def test_a_command_that_does_not_exist_is_found(line):
    with pytest.raises((Exception, SystemExit)):
        parsed(line)


def test_every_command_and_exit_code_is_documented():
    text = (DOCS / "command_line.md").read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"particlegen {name}" not in text} == set()
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}
    ours = {console.EXIT_INPUT, console.EXIT_RUN, console.EXIT_NOT_CONVERGED, console.EXIT_INTERRUPTED}
    assert codes == {0} | ours


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=stem)
def test_yaml_of_a_page_is_valid(page, folder, tmp_path):
    """Cards, resources, or sections of a workflow."""
    for number, text in enumerate(blocks(page, "yaml")):
        data = yaml.safe_load(text)
        if "dimensions" in data:
            parse_section(SystemCard, data, page.name)
        elif data.get("kind") == "cluster":
            parse_section(ClusterCard, data, page.name)
        elif data.get("kind") == "even_power":
            path = tmp_path / f"card{number}.yaml"
            path.write_text(text, encoding="utf-8")
            load_potential(path.name, tmp_path)
        elif data.get("kind") == "pyscf":
            parse_section(PySCFSettings, data, page.name)
        elif data.get("kind") == "isomers":
            load_workflow(data)
        elif "executor" in data:
            parse_section(Resources, data, page.name)
        else:
            load_workflow(folder / "quickstart.yaml", data)


def keys_of(results, prefix: str = "") -> set[str]:
    """Dotted names of everything in results.json, down to quantities, lists and curves; a quantity may hold others."""
    found = set()
    for name, value in results.items():
        leaf = not isinstance(value, dict) or "value" in value or "reference_stderr" in value
        found |= {f"{prefix}{name}"} if leaf else keys_of(value, f"{prefix}{name}.")
        if leaf and isinstance(value, dict):
            found |= keys_of({key: part for key, part in value.items() if isinstance(part, dict)}, f"{prefix}{name}.")
    return found


def listed_keys(text: str, kind: str) -> list[str]:
    """Those of every kind of workflow, then those of one."""
    section = text.split("## results.json")[1].split("\n## ")[0]
    common, *parts = re.split(r"^### (\w+)$", section, flags=re.M)
    own = dict(zip(map(str.lower, parts[::2]), parts[1::2], strict=True))[kind]
    return re.findall(r"^\| `([^`]+)` \|", common + own, re.M)


@pytest.mark.parametrize(("kind", "name"), [("glass", "quickstart-001"), ("isomers", "lj6_isomers-001")])
def test_results_keys_are_those_of_a_run(folder, kind, name):
    text = (DOCS / "run_folder.md").read_text(encoding="utf-8")
    listed = listed_keys(text, kind)
    patterns = [re.compile(re.sub(r"<\w+>", "[^.]+", re.escape(key).replace("\\<", "<"))) for key in listed]
    real = keys_of(json.loads((folder / "runs" / name / "results.json").read_text(encoding="utf-8")))
    assert {key for key in real if not any(pattern.fullmatch(key) for pattern in patterns)} == set()
    assert [k for k, p in zip(listed, patterns, strict=True) if not any(p.fullmatch(key) for key in real)] == []


def test_files_of_a_run_folder_are_listed(folder):
    text = (DOCS / "run_folder.md").read_text(encoding="utf-8")
    for path in (folder / "runs" / "quickstart-001").iterdir():
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in text, path.name


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=stem)
def test_relative_links_resolve(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, link


def test_every_room_has_its_api_page():
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: particlegen\.(\w+)", text))
    rooms = {path.stem for path in (ROOT / "particlegen").iterdir() if path.suffix == ".py" or path.is_dir()}
    rooms = {room for room in rooms if not room.startswith("_")}
    assert rooms - documented == {"cli"}


@pytest.mark.parametrize(
    ("level", "key", "value"),
    [
        ("good", "reference.r_hat", 1.009),
        ("fair", "reference.r_hat", 1.011),
        ("good", "generated.pareto_k", 0.49),
        ("fair", "generated.pareto_k", 0.51),
        ("poor", "generated.pareto_k", 0.71),
        ("good", "generated.log_q_error", 0.09),
        ("fair", "generated.log_q_error", 0.11),
        ("good", "generated.discard_fraction", 0.019),
        ("fair", "generated.discard_fraction", 0.021),
        ("poor", "generated.discard_fraction", 0.21),
    ],
)
def test_thresholds_are_those_of_the_page_on_reports(level, key, value):
    section, name = key.split(".")
    (found,) = advise({section: {name: {"value": value, "stderr": None}}})
    assert (found.level, found.key) == (level, key)


def test_stated_r_hat_decides(folder):
    """A limit below what the run reaches is missed, whatever the default; nothing but the limit differs."""
    reached = particlegen.open_run(folder / "runs" / "quickstart-001").results["reference"]["r_hat"]["value"]
    run = particlegen.run(folder / "quickstart.yaml", out=folder / "strict", set={"stop.r_hat": (1 + reached) / 2})
    assert 1.0 < reached < 1.01
    assert not run.converged and "R-hat" in run.reasons[0]


def test_benchmark_tables(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from benchmark_tables import NOTHING, render_results

    assert render_results(tmp_path) == render_results(tmp_path / "nowhere") == NOTHING
    content = {
        "title": "Cost | of <likelihood>",
        "machine": {"cores": 2, "versions": {"numpy": "2.0"}},
        "free_energy.excess": {"mbar": {"value": 1.5, "stderr": 0.25, "unit": "kT"}, "gap": None},
        "cost": [{"N": 10, "evaluations": 3.25, "stable": True}, {"N": 44, "evaluations": float("nan")}],
        "speed": {"10": {"moves": 1.5e7, "acceptance": 0.4}, "44": {"moves": 1.0e7, "acceptance": 0.5}},
    }
    (tmp_path / "b.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    text = render_results(tmp_path)
    assert text.startswith("## a\n") and "no JSON" in text
    assert "## Cost \\| of \\<likelihood\\>" in text and "Measured on: cores 2; versions.numpy 2.0." in text
    assert "| `mbar` | 1.5 ± 0.25 kT |" in text and "| `gap` | – |" in text
    assert "| N | evaluations | stable |" in text and "| 10 | 3.25 | yes |" in text and "| 44 | – | – |" in text
    assert "|  | moves | acceptance |" in text and "| `44` | 1e+07 | 0.5 |" in text


def test_a_wrong_page_is_found(folder, tmp_path):
    """The checks above can fail: a key that no run has, a workflow key that does not exist, a link to nowhere."""
    page = (
        "## results.json\n| `kind` | x | |\n### Glass\n| `generated.ess` | x | |\n### More\n| `a` |\n## more\n| `b` |"
    )
    assert listed_keys(page, "glass") == ["kind", "generated.ess"]
    with pytest.raises(InputError):
        load_workflow(folder / "quickstart.yaml", {"stop": {"pareto": 0.7}})
    page = tmp_path / "page.md"
    page.write_text("[there](nowhere.md) and [web](https://example.org)\n", encoding="utf-8")
    assert links(page) == ["nowhere.md"]
