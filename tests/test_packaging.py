"""The wheel carries everything: installed away from the checkout it lists its cards and runs a workflow."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    from hatchling.build import build_wheel

    folder, before = tmp_path_factory.mktemp("wheel"), Path.cwd()
    os.chdir(ROOT)
    try:
        return folder / build_wheel(str(folder))
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """`run(*arguments)` of the installed command, in a folder of its own; nothing is fetched from a network."""
    home = tmp_path_factory.mktemp("elsewhere")
    venv.create(home / "venv", system_site_packages=True, with_pip=False)
    python = home / "venv" / "bin" / "python"
    # The new environment sees what the tests' own environment holds, save an editable install of this package.
    purelib = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (Path(purelib) / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True, cwd=home)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def run(*arguments, program="particlegen"):
        command = [str(home / "venv" / "bin" / program), *map(str, arguments)]
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300)

    return run, home


def test_the_wheel_holds_package_catalogues_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "particlegen/py.typed" in names
    for kind in ("systems", "potentials", "workflows"):
        for card in (ROOT / kind).rglob("*.yaml"):
            assert f"particlegen/_data/{card.relative_to(ROOT)}" in names
    for structure in (ROOT / "systems").rglob("*.xyz"):
        assert f"particlegen/_data/{structure.relative_to(ROOT)}" in names
    assert {name.split("/")[0] for name in names} == {"particlegen", "particlegen-0.1.0.dist-info"}


def test_the_installed_command_works_away_from_the_checkout(installed):
    run, home = installed
    where = run("-c", "import particlegen; print(particlegen.__file__)", program="python").stdout
    assert where.startswith(str(home))
    listed = run("list")
    assert listed.returncode == 0, listed.stderr
    for name in ("ipl_binary_2d", "quickstart"):
        assert name in listed.stdout
    workflow = home / "tiny.yaml"
    workflow.write_text((ROOT / "tests" / "workflows" / "tiny.yaml").read_text())
    finished = run("run", "tiny.yaml", "--out", "answer")
    assert finished.returncode == 0, finished.stderr
    assert "report: answer/report.html" in finished.stdout
    assert json.loads((home / "answer" / "results.json").read_text())["free_energy"]["excess"]["unit"] == "kT"


def test_versions_agree_and_constraints_pin_every_dependency():
    import particlegen

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert particlegen.__version__ == project["version"] == citation["version"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    assert all("==" in line and "/" not in line and "+" not in line for line in lines)
    asked = project["dependencies"] + [text for extra in project["optional-dependencies"].values() for text in extra]
    for text in asked:
        name = text.split(">=")[0].split("[")[0].lower()
        assert name in pinned | {"particlegen"}, f"{name} is not pinned"
    assert "torch==2.13.0" in lines


STAND_IN = """#!{python}
import os, sys
if sys.argv[1:3] == ["-m", "pip_audit"]:
    if "--output" in sys.argv and {answer!r}:
        with open(sys.argv[sys.argv.index("--output") + 1], "w") as file:
            file.write({answer!r})
    sys.exit(1 if "--output" in sys.argv else 0)
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
"""An interpreter whose pip-audit answers what a test wants it to answer."""


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        (None, 0, "audit skipped: the service of known vulnerabilities cannot be reached"),
        ([{"name": "a", "skip_reason": "x"}], 0, "audit skipped: the service knows none of the 1 packages"),
        ([{"name": "a", "version": "1", "vulns": []}], 0, "audit: 0 known vulnerabilities in 1 packages"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "V-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: V-1; fixed in: 2",
        ),
        (
            [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "x"}],
            0,
            "not audited, unknown to the service: b",
        ),
    ],
)
def test_an_audit_says_what_was_found_and_what_was_not_asked(tmp_path, packages, code, said):
    answer = "" if packages is None else json.dumps({"dependencies": packages})
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, answer=answer))
    python.chmod(0o755)
    done = subprocess.run([ROOT / ".ci" / "audit", python], capture_output=True, text=True)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
    offline = {**os.environ, "PARTICLEGEN_OFFLINE": "1"}
    done = subprocess.run([ROOT / ".ci" / "audit", python], capture_output=True, text=True, env=offline)
    assert (done.returncode, done.stdout) == (0, "audit skipped: PARTICLEGEN_OFFLINE is set\n")


def test_the_readme_shows_the_two_commands_first():
    first_block = (ROOT / "README.md").read_text().split("```")[1]
    commands = [line.split("#")[0].strip() for line in first_block.splitlines()[1:] if line.strip()]
    assert commands == ["make demo", "make test"]
