"""A disk that is full or read-only: told in one message, and nothing lost that had been paid for."""

import multiprocessing
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

import particlegen
from faults.injection import GLASS, WORKFLOWS, FullDisk, call, quick, same, told, written
from particlegen.energy import LabelStore
from particlegen.settings import RunError

SPREAD = {"glass": (0.0, 0.03, 0.5, 0.99), "learned": (0.3,)}
"""Shares of a run's writes at which the disk fills up in the quick tests; the slow ones take every write."""


def labels(folder):
    """Digests of the labels that a run has paid for."""
    if not (folder / "labels.db").is_file() or not (folder / "labels.db").stat().st_size:
        return set()
    return {label.digest for label in LabelStore(folder / "labels.db", create=False).labels()}


def full_then_free(name, at, undisturbed, folder, monkeypatch):
    """The disk fills up at the `at`-th write of a run and has space again; true if the run was over before."""
    reference, writes = undisturbed(name)
    workflow = written(folder, WORKFLOWS[name])
    with monkeypatch.context() as patch:
        quick(patch)
        disk = FullDisk(folder / "run", patch, at)
        code, said = call("run", workflow, "--out", folder / "run", "--quiet")
        if at > writes:
            assert code == 0, said
            return True
        told((code, said), 3, "no space|cannot be written", f"resume {folder / 'run'}|the same command again")
        disk.free = True
        paid = labels(folder / "run")
        begun = (folder / "run" / "manifest.json").is_file()
        assert begun == ("same command" not in said)
        again = ("resume", folder / "run") if begun else ("run", workflow, "--out", folder / "run")
        told(call(*again, "--quiet"), 0)
    assert paid <= labels(folder / "run")
    same(folder / "run", reference)
    return False


@pytest.mark.parametrize(("name", "share"), [(name, share) for name, shares in SPREAD.items() for share in shares])
def test_a_disk_that_fills_up_is_told_and_the_run_goes_on_once_there_is_space(
    name, share, undisturbed, tmp_path, monkeypatch
):
    at = 1 + int(share * (undisturbed(name)[1] - 1))
    assert not full_then_free(name, at, undisturbed, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WORKFLOWS))
def test_a_disk_that_fills_up_at_every_write(name, undisturbed, tmp_path, monkeypatch):
    at = 1
    while not full_then_free(name, at, undisturbed, tmp_path / str(at), monkeypatch):
        at += 1
    assert at == undisturbed(name)[1] + 1 > 100


def test_every_kind_of_write_is_counted(tmp_path, monkeypatch):
    """Otherwise the tests above would pass over it."""
    disk = FullDisk(tmp_path, monkeypatch)
    counts = []

    def after(work):
        before = disk.writes
        work()
        counts.append(disk.writes - before)

    after(lambda: (tmp_path / "a").write_text("x"))
    after(lambda: (tmp_path / "a").read_text())
    after(lambda: (tmp_path / "a").replace(tmp_path / "b"))
    after(lambda: (tmp_path / "c").mkdir())
    after(lambda: LabelStore(tmp_path / "labels.db"))
    after(lambda: (tmp_path / "b").unlink())
    disk.free = True
    assert counts[:4] == [1, 0, 1, 1] and counts[4] > 3 and counts[5] == 0


def as_nobody(commands, answers):
    """Outcomes of commands whose user may write only where everybody may: root may write everywhere."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    answers.put([call(*command) for command in commands])


@pytest.fixture
def open_to_all():
    """pytest's own folders are closed to other users."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_folder_without_permission_to_write(undisturbed, open_to_all, monkeypatch):
    quick(monkeypatch)
    run, closed = shutil.copytree(undisturbed("glass")[0], open_to_all / "run"), open_to_all / "closed"
    closed.mkdir()
    commands = [
        ("status", run),
        ("run", written(open_to_all, GLASS), "--out", closed / "run"),
        ("run", open_to_all / "workflow.yaml", "--out", closed),
        ("resume", run),
        ("report", run),
        ("export", run, "--to", "extxyz", "-o", closed / "x.extxyz"),
    ]
    # Here first, so that the other user need not read what they import.
    told(call("report", run), 0)
    told(call("export", run, "--to", "extxyz", "-o", open_to_all / "x.extxyz"), 0)
    for folder in (run, closed):
        folder.chmod(0o555)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=as_nobody, args=(commands, answers))
    process.start()
    status, made, occupied, resumed, reported, exported = answers.get(timeout=120)
    process.join()
    for folder in (run, closed):
        folder.chmod(0o755)
    told(status, 0)
    told(made, 2, "cannot be made", "not writable")
    told(occupied, 2, "cannot be made", "not writable")
    told(resumed, 3, "events.jsonl: cannot be written", "permission")
    told(reported, 3, "report.html: cannot be written", "permission")
    told(exported, (2, 3), "x.extxyz.*: cannot be written .permission")
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("number", [30, 22])
def test_a_file_system_that_refuses_the_folder(number, tmp_path, monkeypatch):
    """EROFS and EINVAL are no PermissionError, and are told alike."""

    def refused(*arguments, **options):
        raise OSError(number, os.strerror(number))

    workflow = written(tmp_path, GLASS)
    monkeypatch.setattr(Path, "mkdir", refused)
    for where in (["--out", tmp_path / "run"], []):
        monkeypatch.chdir(tmp_path)
        told(call("run", workflow, *where), 2, "made", os.strerror(number))


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refused(*arguments):
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr("fcntl.flock", refused)
    told(call("run", written(tmp_path, GLASS), "--out", tmp_path / "run"), 3, "cannot be locked", "another file system")


def test_a_label_store_that_another_process_holds(tmp_path, monkeypatch):
    """Told after the wait; the labels stay, and the run goes on once it is free."""
    quick(monkeypatch)
    held = []

    def hold(event):
        if event.stage == "adaptation" and not held:
            other = sqlite3.connect(tmp_path / "run" / "labels.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            held.append(other)

    monkeypatch.setattr(LabelStore.__init__, "__defaults__", (True, 0.2))
    with pytest.raises(RunError, match=r"labels\.db: locked by another process.*particlegen resume"):
        particlegen.run(WORKFLOWS["learned"], out=tmp_path / "run", listener=hold)
    paid = labels(tmp_path / "run") if held[0].close() is None else set()
    told(call("resume", tmp_path / "run", "--quiet"), 0)
    assert paid and paid <= labels(tmp_path / "run")
