"""Checkpoints, weights and the run store: what is written comes back, or a message that names the file."""

import json
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from particlegen.geometry import FlatTorus
from particlegen.io import atomic
from particlegen.io.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights
from particlegen.io.store import RunStore
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem

SYSTEM = ParticleSystem("pair", FlatTorus((3.0, 4.0)), (0, 1), ("A", "B"))


def frames(n, seed=0, particles=2):
    rng = np.random.default_rng(seed)
    return {
        "position": rng.uniform(0, 3, size=(n, particles, 2)),
        "energy": rng.normal(size=n),
        "chain": np.arange(n) % 3,
        "log_weight": np.where(np.arange(n) == 1, -np.inf, 0.5),
    }


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "answer.json"
    atomic.write_text(path, "old")
    with pytest.raises(KeyError), atomic.writing(path) as aside:
        aside.write_text("new")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(RunError, match=r"answer\.json"):
        atomic.write_text(tmp_path / "missing" / "answer.json", "x")


LIMITED = """
import resource, sys
import numpy as np
from particlegen.io import atomic
from particlegen.io.store import RunStore
from particlegen.settings import RunError
store = RunStore(sys.argv[1])
arrays = {"position": np.zeros((200, 10, 2))}
for chunk in range(8):
    store.append("reference", chunk, arrays)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for work in (
    lambda: store.append("reference", 8, {"position": np.zeros((4000, 10, 2))}),
    lambda: store.consolidate("reference"),
    lambda: atomic.write_bytes(sys.argv[1] + "/big", bytes(200_000)),
):
    try:
        work()
    except RunError as error:
        assert "no space left" in str(error) and "free some space" in str(error), error
    else:
        raise SystemExit("no error")
store.append("reference", 8, arrays)
"""


def test_no_space_left_is_said_and_nothing_half_written_stays(tmp_path):
    """A limit on the size of files stands in for a full disk."""
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["segments"]
    assert len(list((tmp_path / "segments" / "reference").iterdir())) == 9
    assert RunStore(tmp_path).length("reference") == 9 * 200


def test_checkpoints_come_back_and_old_ones_go(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"w": shared.T, "tied": shared, "count": torch.tensor(3), "empty": torch.zeros(0, dtype=torch.float64)}
    for step in (1, 20, 300):
        save_checkpoint(tmp_path, "training", step, tensors, {"loss": 0.1 * step, "state": [1, {"a": 2**70}]})
    assert len(list(tmp_path.iterdir())) == 4
    found = load_checkpoint(tmp_path, "training")
    assert found is not None and found.step == 300 and not found.skipped
    assert found.metadata == {"loss": 0.1 * 300, "state": [1, {"a": 2**70}]}
    assert set(found.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == tensor.dtype
    assert load_checkpoint(tmp_path, "train") is None and load_checkpoint(tmp_path / "none", "x") is None


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "garbage"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, suffix, damage):
    for step in (1, 2):
        save_checkpoint(tmp_path, "flow", step, {"w": torch.arange(50.0) + step}, {"loss": 1.0 + step})
    path = tmp_path / f"flow-{2:012d}{suffix}"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        if damage == "flipped":
            content[content.rindex(b"3.0") if suffix == ".json" else -7] ^= 1
        path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"\x00\xff" * 40}.get(damage, content))
    found = load_checkpoint(tmp_path, "flow")
    assert found is not None and found.step == 1 and found.tensors["w"][0] == 1
    if (suffix, damage) != (".json", "missing"):
        assert len(found.skipped) == 1 and path.stem in found.skipped[0]


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    path = save_checkpoint(tmp_path, "flow", 5, {"w": torch.zeros(3)}, {})
    path.write_text("[" * 100_000)
    with pytest.raises(RunError, match=r"flow-000000000005\.json.*remove them"):
        load_checkpoint(tmp_path, "flow")


def test_weights_carry_their_metadata_and_checksum(tmp_path):
    path = tmp_path / "net.safetensors"
    tensors = {"a": torch.randn(3, 4, dtype=torch.float64), "b": torch.zeros((), dtype=torch.int64)}
    save_weights(path, tensors, {"network": {"width": 8}})
    assert json.loads((tmp_path / "net.json").read_text())["metadata"] == {"network": {"width": 8}}
    for _ in range(2):
        loaded, metadata = load_weights(path)
        assert metadata == {"network": {"width": 8}}
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
        (tmp_path / "net.json").unlink(missing_ok=True)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    for damaged in (content, content[:40], b"", b"\x80\x04."):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"net\.safetensors"):
            load_weights(path)
    with pytest.raises(InputError, match="more than"):
        save_weights(path, tensors, {})
        load_weights(path, largest_bytes=10)
    with pytest.raises(InputError, match="No such file"):
        load_weights(tmp_path / "other.safetensors")


def test_frames_are_the_same_before_and_after_consolidation(tmp_path):
    store = RunStore(tmp_path)
    assert store.length("reference") == 0 and store.segments("reference") == []
    whole = frames(30)
    for chunk, (start, stop) in enumerate([(0, 7), (7, 20), (20, 30)]):
        store.append("reference", chunk, {name: array[start:stop] for name, array in whole.items()})
    store.append("generated", 0, frames(5, seed=1))

    def check():
        assert store.length("reference") == 30 and store.segments("reference") == [0, 1, 2]
        assert store.names("reference") == sorted(whole)
        for name, array in whole.items():
            assert np.array_equal(store.read("reference", name), array)
            assert store.read("reference", name).dtype == array.dtype
            for start, stop in ((5, 8), (0, 1), (19, 21), (-4, None), (3, 3), (29, 99)):
                assert np.array_equal(store.read("reference", name, start, stop), array[start:stop])
            assert np.array_equal(np.concatenate(list(store.blocks("reference", name, 8))), array)

    check()
    for _ in range(2):
        store.consolidate("reference", SYSTEM)
        check()
    assert not list((tmp_path / "segments" / "reference").iterdir())
    store.consolidate("generated", SYSTEM)
    check()
    assert np.array_equal(store.read("generated", "energy"), frames(5, seed=1)["energy"])
    store.append("reference", 3, {name: array[:4] for name, array in whole.items()})
    assert store.length("reference") == 34
    store.consolidate("reference", SYSTEM)
    assert np.array_equal(store.read("reference", "energy"), np.concatenate([whole["energy"], whole["energy"][:4]]))
    assert store.read("generated", "position").shape == (5, 2, 2)
    with pytest.raises(RunError, match="consolidated already"):
        store.append("reference", 2, frames(3))


def test_data_file_is_h5md(tmp_path):
    store = RunStore(tmp_path)
    store.append("generated", 0, frames(6))
    store.consolidate("generated", SYSTEM)
    with h5py.File(tmp_path / "data.h5") as file:
        assert list(file["h5md"].attrs["version"]) == [1, 1]
        assert {"author", "creator"} <= set(file["h5md"]) and file["h5md/author"].attrs["name"]
        group = file["particles/generated"]
        assert group["box"].attrs["dimension"] == 2 and list(group["box"].attrs["boundary"]) == [b"periodic"] * 2
        assert list(group["box/edges"]) == [3.0, 4.0] and list(group["species"]) == [0, 1]
        elements = [group["position"], *file["observables/generated"].values()]
        assert len(elements) == 4
        for element in elements:
            assert len(element["value"]) == len(element["step"]) == len(element["time"]) == 6


def test_a_chunk_written_again_replaces_the_first(tmp_path):
    store = RunStore(tmp_path)
    store.append("generated", 0, frames(6))
    store.append("generated", 0, frames(4, seed=2))
    assert store.length("generated") == 4
    assert np.array_equal(store.read("generated", "energy"), frames(4, seed=2)["energy"])


def test_a_kill_between_the_new_file_and_the_removal_of_segments_loses_and_doubles_nothing(tmp_path):
    store = RunStore(tmp_path)
    for chunk in range(3):
        store.append("reference", chunk, frames(5, seed=chunk))
    kept = {path: path.read_bytes() for path in (tmp_path / "segments" / "reference").iterdir()}
    store.consolidate("reference")
    for path, content in kept.items():
        path.write_bytes(content)
    assert store.length("reference") == 15 and len(store.read("reference", "energy")) == 15
    store.consolidate("reference")
    assert not list((tmp_path / "segments" / "reference").iterdir())


def test_missing_chunks_fields_and_bad_arrays(tmp_path):
    store = RunStore(tmp_path)
    for chunk in range(3):
        store.append("reference", chunk, frames(5))
    next((tmp_path / "segments" / "reference").glob("00000001-*")).unlink()
    assert store.segments("reference") == [0, 2]
    with pytest.raises(RunError, match="chunk 1 is missing"):
        store.read("reference", "energy")
    with pytest.raises(RunError, match="chunk 1 is missing"):
        store.consolidate("reference")
    with pytest.raises(InputError, match="generated"):
        store.read("generated", "energy")
    store.append("reference", 1, frames(5))
    with pytest.raises(InputError, match="log_q"):
        store.read("reference", "log_q")
    with pytest.raises(ValueError, match="unknown ensemble"):
        store.length("../../etc")
    with pytest.raises(ValueError, match="numbers only"):
        store.append("generated", 0, {"a": np.array([object()])})
    with pytest.raises(ValueError, match="equal length"):
        store.append("generated", 0, {"a": np.zeros(2), "b": np.zeros(3)})


@pytest.mark.parametrize("consolidated", [False, True])
def test_flipped_bytes_never_change_an_array_in_silence(tmp_path, consolidated):
    store = RunStore(tmp_path)
    store.append("generated", 0, frames(40, particles=6))
    if consolidated:
        store.consolidate("generated", SYSTEM)
    path = store.file if consolidated else next((tmp_path / "segments" / "generated").iterdir())
    content, truth = path.read_bytes(), frames(40, particles=6)
    rng, caught = np.random.default_rng(1), 0
    for position in rng.integers(0, len(content), size=120):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            for name, array in truth.items():
                assert np.array_equal(store.read("generated", name), array)
        except (RunError, InputError) as error:
            assert str(path) in str(error) or str(tmp_path) in str(error)
            caught += 1
    assert caught > 30
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=path.name):
        store.read("generated", "position")


def test_files_that_claim_too_much_or_lead_outside_are_refused(tmp_path):
    store = RunStore(tmp_path)
    store.append("generated", 0, {"energy": np.zeros(4)})
    path = next((tmp_path / "segments" / "generated").iterdir())
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["energy"] = np.zeros(4)
    for forge in (
        lambda group: group.create_dataset("energy", shape=(4, 10**12), chunks=(4, 10), dtype=np.float64),
        lambda group: group.__setitem__("energy", h5py.ExternalLink(str(outside), "/energy")),
        lambda group: group.create_dataset("energy", data=["text"] * 4),
    ):
        with h5py.File(path, "w") as file:
            forge(file.create_group("arrays"))
        with pytest.raises(RunError, match=path.name):
            store.read("generated", "energy")


def test_consolidation_and_reading_stay_within_bounded_memory(tmp_path):
    """80 MB of frames in 20 segments pass through less than 40 MB."""
    store = RunStore(tmp_path)
    block = np.zeros((5700, 44, 2))
    for chunk in range(20):
        store.append("reference", chunk, {"position": block, "energy": np.zeros(len(block))})
    del block
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    store.consolidate("reference", SYSTEM)
    total = sum(len(piece) for piece in store.blocks("reference", "position", 4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 114_000 and Path(store.file).stat().st_size > 80e6
    assert peak < 40e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 80_000
