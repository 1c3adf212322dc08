"""Two runs in one folder, odd clocks and locales, odd folder names."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import particlegen
from faults.injection import GLASS, ISOMERS, call, quick, same, told, written
from particlegen.settings import InputError
from particlegen.workflow.folder import RunFolder, next_run_folder

NAME = "Läufe 운행 β (1)"


class Stop(Exception):
    pass


def stop(event):
    raise Stop


def test_a_start_between_the_look_at_the_folder_and_the_lock_is_noticed(tmp_path, monkeypatch):
    """The second finds the folder empty, and then the first begins there: its workflow is not touched."""
    workflow, folder, create = written(tmp_path, GLASS), tmp_path / "run", RunFolder.create

    def late(path):
        found = create(path)
        monkeypatch.setattr(RunFolder, "create", create)
        with pytest.raises(Stop):
            particlegen.run(workflow, out=folder, set={"seed": 9}, listener=stop)
        return found

    monkeypatch.setattr(RunFolder, "create", late)
    told(call("run", workflow, "--out", folder), 2, "already holds a run", f"resume {folder}")
    run = particlegen.open_run(folder)
    assert run.workflow.seed == run.manifest["seed"] == 9


def test_a_start_while_another_one_writes_is_refused(tmp_path, monkeypatch):
    workflow, folder, said = written(tmp_path, GLASS), tmp_path / "run", []

    def meanwhile(event):
        for command in (("run", workflow, "--out", folder), ("resume", folder)):
            said.append(told(call(*command), 2))
        raise Stop

    write = RunFolder.write_json

    def early(this, file, content):  # the manifest is not there yet
        said.append(told(call("run", workflow, "--out", folder), 2))
        return write(this, file, content)

    monkeypatch.setattr(RunFolder, "write_json", early)
    with pytest.raises(Stop):
        particlegen.run(workflow, out=folder, listener=meanwhile)
    assert "another process" in said[0] and "already holds a run" in said[1] and "another process" in said[2]
    assert particlegen.open_run(folder).workflow.seed == GLASS["seed"]


def test_what_a_killed_start_left_behind_is_no_obstacle(undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    workflow, folder = written(tmp_path, GLASS), tmp_path / "run"
    folder.mkdir()
    (folder / "events.jsonl").touch()
    (folder / "manifest.json").write_bytes((undisturbed("glass")[0] / "manifest.json").read_bytes())
    (folder / ".partial-workflow.yaml").write_text("{")
    told(call("resume", folder), 2, "no run folder yet", "begin again")
    told(call("run", workflow, "--out", folder, "--quiet"), 0)
    same(folder, undisturbed("glass")[0])


@pytest.mark.parametrize(
    ("name", "content"), [("workflow.yaml", "kind: mine\n"), ("events.jsonl", "{}\n"), ("notes", "x"), (".hidden", "x")]
)
def test_what_somebody_else_put_there_is_left_alone(name, content, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text(content)
    told(call("run", written(tmp_path, GLASS), "--out", folder), 2, "already holds")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {name: content}


def test_folders_with_numbers_are_given_out_once(tmp_path):
    assert [next_run_folder("a", tmp_path).name for _ in range(3)] == ["a-001", "a-002", "a-003"]


def begin(workflow, folder, barrier, seed, answers):
    barrier.wait()
    try:
        particlegen.run(workflow, out=folder, set={"seed": seed}, listener=stop)
    except (Stop, InputError) as error:
        answers.put((seed, str(error)))


@pytest.mark.slow
def test_two_processes_that_start_at_the_same_moment(tmp_path):
    context, workflow = multiprocessing.get_context("fork"), written(tmp_path, GLASS)
    for number in range(20):
        barrier, answers, folder = context.Barrier(2), context.Queue(), tmp_path / str(number)
        processes = [context.Process(target=begin, args=(workflow, folder, barrier, s, answers)) for s in (1, 2)]
        for process in processes:
            process.start()
        found = [answers.get(timeout=60) for _ in processes]
        for process in processes:
            process.join()
        (began,) = [seed for seed, said in found if not said]
        run = particlegen.open_run(folder)
        assert run.workflow.seed == run.manifest["seed"] == began, found


@pytest.mark.parametrize("clock", ["backwards", "1970", "2100"])
def test_an_odd_clock_changes_nothing(clock, undisturbed, tmp_path, monkeypatch):
    quick(monkeypatch)
    now = {"backwards": 1.7e9, "1970": 0.0, "2100": 4102444800.0}[clock]
    calls = []

    def told_time():
        calls.append(None)
        return now - (3600.0 * len(calls) if clock == "backwards" else 0.0)

    monkeypatch.setattr(time, "time", told_time)
    told(call("run", written(tmp_path, GLASS), "--out", tmp_path / "run", "--quiet"), 0)
    told(call("status", tmp_path / "run"), 0)
    monkeypatch.undo()
    same(tmp_path / "run", undisturbed("glass")[0])
    spent = particlegen.open_run(tmp_path / "run").results["spent"]["seconds"]
    assert calls and all(0 <= entry["value"] < 600 for entry in spent.values())


COMMANDS = """
import contextlib, io, os, sys
from particlegen.cli import main
for line in sys.stdin.buffer.read().split(b"\\n"):
    sys.argv = ["particlegen", *(os.fsdecode(part) for part in line.split(b"\\t"))]
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, b"\\n##%d\\n" % code)
"""


def in_a_place_like(environment, *commands):
    """(exit code, output) of commands in a process with another locale and time zone."""
    text = b"\n".join(b"\t".join(os.fsencode(str(part)) for part in command) for command in commands)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONIO"))}
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=inherited | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
    )
    parts = ("begun\n" + done.stdout.decode("utf-8", "replace")).split("\n##")
    assert len(parts) == len(commands) + 1, parts
    said = [part.partition("\n")[2] for part in parts]
    return [(int(part.partition("\n")[0]), text) for part, text in zip(parts[1:], said, strict=False)]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Odd+25:61"}


TURKISH = {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8", "TZ": ":nowhere"}


@pytest.mark.parametrize("environment", [ASCII, pytest.param(TURKISH, marks=pytest.mark.slow)])
def test_an_odd_locale_and_time_zone_and_folder(environment, undisturbed, tmp_path):
    folder = tmp_path / NAME / "lauf ö"
    workflow = written(tmp_path / NAME, GLASS, "glas ü")
    outcomes = in_a_place_like(
        environment,
        ("run", workflow, "--out", folder),
        ("status", folder),
        ("free-energy", folder),
        ("export", folder, "--to", "extxyz", "-o", folder / "proben ä.extxyz"),
        ("resume", folder),
        ("run", workflow, "--out", folder),
    )
    for outcome in outcomes[:-1]:
        told(outcome, 0)
    told(outcomes[-1], 2, "already holds a run")
    assert (folder / "proben ä.extxyz").is_file() and (folder / "report.html").read_text(encoding="utf-8")
    same(folder, undisturbed("glass")[0])


@pytest.mark.slow
def test_isomers_in_an_odd_folder_with_an_odd_locale(tmp_path):
    folder, further = tmp_path / NAME / "lauf ö", tmp_path / NAME / "weiter ü"
    outcomes = in_a_place_like(
        ASCII,
        ("run", written(tmp_path / NAME, ISOMERS), "--out", folder),
        ("status", folder),
        ("report", folder),
        ("extend", folder, "--out", further, "--set", "system.temperature=0.09"),
        ("resume", further),
    )
    for outcome in outcomes:
        told(outcome, 0)
    assert Path(particlegen.open_run(further).workflow.start_from).name == folder.name
