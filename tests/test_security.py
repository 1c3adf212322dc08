"""Files that were made to do harm: refused with a sentence, at no cost. Mutated files of every kind are in `fuzz`."""

import gzip
import os
import signal
import sqlite3
import struct
import time
import tracemalloc

import h5py
import numpy as np
import pytest
from fuzz.mutate import mutated
from fuzz.run import run_target, run_target_apart
from fuzz.targets import TARGETS, Target, labels_seeds, weights_seeds

from particlegen.energy import LabelStore
from particlegen.io.checkpoint import load_checkpoint, load_weights, save_checkpoint
from particlegen.io.store import RunStore
from particlegen.io.structures import read_structures
from particlegen.settings import InputError, RunError
from particlegen.workflow.folder import Journal, RunFolder

# --- mutated files --------------------------------------------------------------------------------------------------

SHORT = {"segment": 60, "data_h5": 30, "labels": 100, "card": 100, "workflow": 80, "yaml": 100, "structure_ase": 150}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutated_files_are_read_or_refused(name):
    """A few hundred of what `python -m fuzz` runs by the million."""
    assert run_target(name, SHORT.get(name, 300)) == {}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_files_that_are_mutated_are_well_formed_or_old(name):
    """Otherwise all executions could end in the first line of a parser."""
    target = TARGETS[name]
    read = 0
    for seed in target.seeds():
        try:
            target.run(seed)
            read += 1
        except RunError:
            assert name in ("segment", "weights")
        except InputError:
            assert name == "weights"
    assert read >= 1


def test_what_a_parser_lets_out_is_found(monkeypatch):
    """An error of another kind, an execution without an end, and a process that dies."""

    def broken(content: bytes) -> None:
        if content.startswith(b"1"):
            raise KeyError
        if content.startswith(b"2"):
            while True:
                pass
        if content.startswith(b"3"):
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError

    monkeypatch.setitem(TARGETS, "broken", Target(broken, lambda: [b"0", b"1", b"1", b"2", b"3", b"0"], 0.0))
    assert set(run_target_apart("broken", 6, limit=0.2)["findings"]) == {f"process ended with {-signal.SIGKILL}"}
    alone = run_target("broken", 4, limit=0.2)
    assert {key.partition(" at ")[0]: (entry["count"], entry["first"]) for key, entry in alone.items()} == {
        "KeyError": (2, 1),
        "Hang": (1, 3),
    }


def test_a_number_says_which_file_it_was():
    seeds = [b"first file", b"second"]
    assert [mutated(seeds, k) for k in range(200)] == [mutated(seeds, k) for k in range(200)]
    assert mutated(seeds, 1) == b"second" and len({mutated(seeds, k) for k in range(200)}) > 150


# --- structures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "comment",
    [
        "pbc=F " + "a" * 99_000,
        "columns:id,pos " + "a" * 99_000,
        "pbc=" + "F" * 99_000,
        'pbc=F Lattice="' + "1 " * 49_000,
    ],
)
def test_a_long_comment_line_costs_no_more_than_its_length(tmp_path, comment):
    path = tmp_path / "long.xyz"
    path.write_text(f"1\n{comment}\nA 0 0 0\n")
    began = time.process_time()
    try:
        read_structures(path)
    except InputError as error:
        assert "long.xyz" in str(error)
    assert time.process_time() - began < 1.0


def test_a_count_of_columns_has_few_digits(tmp_path):
    path = tmp_path / "odd.xyz"
    path.write_text(f"1\nProperties=species:S:1:pos:R:{'9' * 5000}\nA 0 0 0\n")
    with pytest.raises(InputError, match=r"line 2: Properties=.* is not a list of name:type:count"):
        read_structures(path)


def test_axes_without_the_first_one_are_refused(tmp_path):
    path = tmp_path / "odd.xyz"
    path.write_text("1\ncolumns:id,pos,y\nA 0 0 0 0\n")
    assert read_structures(path)[0].dim == 3


def test_ase_reads_the_file_and_not_what_its_name_could_mean(tmp_path):
    """ASE unpacks `.gz`, and reads an index behind an `@`."""
    poscar = "x\n1.0\n4 0 0\n0 5 0\n0 0 6\nAr\n1\nDirect\n0 0 0\n"
    (tmp_path / "POSCAR@0").write_text(poscar)
    assert len(read_structures(tmp_path / "POSCAR@0", format="vasp")) == 1
    with gzip.open(tmp_path / "POSCAR.gz", "wt") as file:
        file.write(poscar)
    with pytest.raises(InputError, match="ASE cannot read it as 'vasp'"):
        read_structures(tmp_path / "POSCAR.gz", format="vasp")


# --- safetensors ----------------------------------------------------------------------------------------------------


def container(header: str, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2**63 + 5) + b"{}",
        struct.pack("<Q", 90 * 2**20) + b"{}" + b" " * 100,
        container(
            '{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"F64","shape":[1],"data_offsets":[4,12]}}',
            bytes(12),
        ),
        container('{"a":{"dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,8]}}', bytes(8)),
        container('{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
        container('{"a":{"dtype":"F64","shape":[0,9223372036854775807],"data_offsets":[0,0]}}'),
        container('{"a":{"dtype":"F64","shape":[-1],"data_offsets":[0,8]}}', bytes(8)),
        container('{"a":{"dtype":"OBJECT","shape":[1],"data_offsets":[0,8]}}', bytes(8)),
        container('{"a":{"dtype":"F64","shape":[1],"data_offsets":[8,0]}}', bytes(8)),
        container('{"__metadata__":' + '{"a":' * 5000 + "1" + "}" * 5001),
        container('{"__metadata__":{"card":"' + "[" * 100_000 + '"}}'),
    ],
)
def test_weights_that_claim_what_is_not_there(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"w\.safetensors: weights cannot be used"):
        load_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_short_file_is_read_in_short_memory(tmp_path):
    """The limit of 4 GiB is no buffer of 4 GiB."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(weights_seeds()[0])
    tracemalloc.start()
    load_weights(path)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_names_of_checkpoints_are_numbers_in_plain_digits(tmp_path):
    save_checkpoint(tmp_path, "flow", 3, {}, {})
    for name in ("flow-².json", "flow-" + "9" * 200 + ".json", "flow-٣.json"):
        (tmp_path / name).write_text("{}")
    found = load_checkpoint(tmp_path, "flow")
    assert found is not None and found.step == 3


# --- the run store --------------------------------------------------------------------------------------------------


def bomb(group):
    group.create_dataset("energy", shape=(4, 10**5), chunks=(4, 10**5), dtype="f8", compression="gzip", fillvalue=0.0)
    group["energy"][...] = 0.0


FORGED = {
    "a gzip bomb": bomb,
    # Stored in more bytes than it claims; what a compressed chunk unfolds to is not known before.
    "a filter": lambda group: group.create_dataset(
        "energy", data=np.random.default_rng(0).random(4), chunks=(4,), compression="gzip"
    ),
    "a soft link": lambda group: group.__setitem__("energy", h5py.SoftLink("/elsewhere")),
    "a soft link to a group": lambda group: group.__setitem__("energy", h5py.SoftLink("/")),
    "references": lambda group: group.create_dataset("energy", data=[group.ref] * 4, dtype=h5py.ref_dtype),
    "texts of any length": lambda group: group.create_dataset("energy", data=["x"] * 4, dtype=h5py.string_dtype()),
    "a compound": lambda group: group.create_dataset("energy", data=np.zeros(4, [("a", "f8"), ("b", "i4")])),
    "raw data in another file": lambda group: group.create_dataset(
        "energy", shape=(4,), dtype="f8", external=[("/etc/passwd", 0, 32)]
    ),
    "nothing stored": lambda group: group.create_dataset("energy", shape=(4, 10**9), chunks=(1, 1000), dtype="f8"),
    "a scalar": lambda group: group.create_dataset("energy", data=1.0),
    "a group": lambda group: group.create_group("energy"),
    "a group in a circle": lambda group: group.__setitem__("energy", group),
}


def virtual(group):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(4,))
    group.create_virtual_dataset("energy", layout)


@pytest.mark.parametrize("forge", [*FORGED.values(), virtual], ids=[*FORGED, "a virtual dataset"])
@pytest.mark.parametrize("consolidated", [False, True])
def test_arrays_that_are_not_what_the_store_writes(tmp_path, forge, consolidated):
    store = RunStore(tmp_path)
    store.append("generated", 0, {"energy": np.zeros(4)})
    path, place = next((tmp_path / "segments" / "generated").iterdir()), "arrays"
    if consolidated:
        store.consolidate("generated")
        path, place = store.file, "observables/generated"
    with h5py.File(path, "a") as file:
        del file[place]["energy"]
        forge(file[place].create_group("energy") if consolidated else file[place])
        if consolidated:
            file[place]["energy"].move("energy", "value")
    tracemalloc.start()
    with pytest.raises(RunError, match=path.name):
        store.read("generated", "energy")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


@pytest.mark.parametrize("attribute", ["chunks", "frames"])
@pytest.mark.parametrize("value", [10**15, -1, 1.5, "4", np.zeros(3, int), h5py.Empty("i8")])
def test_counts_that_cannot_be(tmp_path, attribute, value):
    store = RunStore(tmp_path)
    store.append("generated", 0, {"energy": np.zeros(4)})
    store.consolidate("generated")
    with h5py.File(store.file, "a") as file:
        file["observables/generated"].attrs[attribute] = value
    for read in (store.segments, store.length, store.names, store.consolidate):
        with pytest.raises(RunError, match=r"data\.h5: damaged"):
            read("generated")


def test_groups_behind_links_are_not_followed(tmp_path):
    store = RunStore(tmp_path)
    store.append("generated", 0, {"energy": np.zeros(4)})
    store.consolidate("generated")
    with h5py.File(tmp_path / "other.h5", "w") as other, h5py.File(store.file, "a") as file:
        file.copy("observables/generated", other, "generated")
        del file["observables/generated"]
        file["observables/generated"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/generated")
    with pytest.raises(RunError, match="generated is missing"):
        store.length("generated")


def test_a_segment_whose_name_promises_more_than_a_disk_reserves_nothing(tmp_path):
    store = RunStore(tmp_path)
    store.append("generated", 0, {"energy": np.zeros(4)})
    path = next((tmp_path / "segments" / "generated").iterdir())
    path.rename(path.with_name("00000000-9999999999.h5"))
    with pytest.raises(RunError, match="too short for the frames of its name"):
        store.consolidate("generated")


# --- label stores ---------------------------------------------------------------------------------------------------

BOMB = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
SCHEMAS = {
    "a trigger": ["CREATE TRIGGER t AFTER INSERT ON labels BEGIN DELETE FROM settings; END"],
    "a view in place of a table": ["DROP TABLE systems", f"CREATE VIEW systems AS {BOMB}"],
    "one more table": ["CREATE TABLE more (x)"],
    "an index over a computed value": ["CREATE INDEX i ON settings (upper(content))"],
    "a missing table": ["DROP TABLE systems"],
}


@pytest.mark.parametrize("statements", SCHEMAS.values(), ids=SCHEMAS)
def test_a_store_with_tables_of_its_own_making_is_refused(tmp_path, statements):
    path = tmp_path / "labels.db"
    path.write_bytes(labels_seeds()[0])
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    with pytest.raises(InputError, match=r"labels\.db: is damaged \(its tables are not those of a label store"):
        LabelStore(path, create=False)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE settings SET content = '[1]'", "settings .*not a JSON object"),
        ("UPDATE settings SET content = '{\"a\": ' || printf('%.*c', 5000, '[')", "settings .*not JSON"),
        ('UPDATE settings SET content = \'{"engine": "y"}\'', "settings .*not what was stored"),
        ("UPDATE settings SET content = CAST(x'ff' AS TEXT)", "damaged"),
        ("UPDATE systems SET content = '{\"species\": 1}'", "label 1"),
        ("UPDATE systems SET content = printf('%.*c', 100000, '[')", "label 1"),
        ("UPDATE labels SET positions = zeroblob(99999999)", "damaged|too big"),
        ("UPDATE labels SET positions = 'text'", "label 1"),
    ],
)
def test_rows_that_are_not_what_was_stored(tmp_path, statement, said):
    path = tmp_path / "labels.db"
    path.write_bytes(labels_seeds()[0])
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    tracemalloc.start()
    with pytest.raises(InputError, match=said):
        store = LabelStore(path, create=False)
        store.summaries()
        list(store.labels())
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


# --- files of a run -------------------------------------------------------------------------------------------------


def test_a_journal_with_lines_that_nobody_wrote_is_read_around_them(tmp_path):
    folder = RunFolder(tmp_path)
    good = (
        '{"time": 1, "kind": "progress", "stage": "s", "message": "", "fields": {"done": 1}, "spent": {"seconds": 2}}'
    )
    bad = [
        "x" * (3 * 2**20),
        "[" * 10_000,
        good.replace('"s"', "7"),
        good.replace('{"done": 1}', "[]"),
        good.replace('"done": 1', '"done": "1"'),
        good.replace('"seconds": 2', f'"seconds": {10**400}'),
        good.replace('"seconds": 2', '"engines": {"a": {"surplus": 1}}'),
        good.replace('"seconds": 2', '"engines": []'),
        '{"kind": "progress"}',
    ]
    folder.events_file.write_text("\n".join([good, *bad, good]) + "\n")
    assert len(list(folder.events())) == 2
    with Journal(folder) as journal:
        assert journal.spent()[0] == {"s": 4.0}


def test_json_of_a_run_that_is_too_large_is_not_read(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.results_file.open("wb") as file:
        file.truncate(65 * 2**20)
    tracemalloc.start()
    with pytest.raises(InputError, match=r"results\.json: cannot be read \(68157440 bytes, more than"):
        folder.read_json(folder.results_file)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
