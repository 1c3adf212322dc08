"""The label store and the provider that answers from it: durability, concurrency, what counts as the same question."""

import dataclasses
import json
import math
import multiprocessing
import os
import signal
import sqlite3
import time

import numpy as np
import pytest
import torch
from test_energy_engines import octahedra, silver
from test_energy_pair import engine, lattice

from particlegen.energy import (
    ASEEnergy,
    Cached,
    Counted,
    EnergyResult,
    Label,
    LabelStore,
    Ledger,
    LinearEnergy,
    OpenMMEnergy,
    SystemSettings,
    TorchPairEnergy,
    build_system,
    geometry_hash,
    settings_hash,
    xtb_energy,
)
from particlegen.energy.labels import APPLICATION_ID
from particlegen.geometry import FlatTorus, FreeSpace
from particlegen.settings import InputError, RunError
from particlegen.system import ParticleSystem
from particlegen.testing import check_energy_provider

WANT = ("energy", "forces", "virial")
SETTINGS = {"engine": "invented", "versions": {"invented": "1.0"}}
PAIR = ParticleSystem("pair", FreeSpace(3), (0, 0), ("A",))


def label(number: float, key: str, **changes) -> Label:
    """A label that its number says everything about."""
    x = np.array([[0.0, 0.0, 0.0], [number, 1 / 3, 0.0]])
    values = {"energy": math.sin(number), "forces": np.cos(x), "virial": number / 7, "reason": None, "iterations": 5}
    values |= {"seconds": 0.1, "provider": "invented", "time": 1e9 + number, "system": PAIR, "positions": x}
    return Label(settings_hash=key, **(values | changes))


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels.db")


def fork(work, *arguments):
    """A real process of its own."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"forces": None, "virial": None, "iterations": None},
        {"energy": math.inf, "virial": math.inf, "forces": np.zeros((2, 3))},
        {"energy": -0.0, "virial": -0.0},
        {"energy": 5e-324, "virial": -1.7976931348623157e308},
        {"energy": None, "forces": None, "virial": None, "reason": "SCF: 'no' \"convergence\"\nafter 50 – ü"},
    ],
)
def test_a_label_comes_back_bit_for_bit(store, changes):
    key = store.add_settings(SETTINGS)
    (kept,) = store.put([one := label(0.1, key, **changes)])
    (found,) = store.labels()
    assert kept.digest == found.digest == one.digest == store.get(key, [one.geometry_hash])[one.geometry_hash].digest
    assert found.positions.tobytes() == one.positions.tobytes() and found.system == one.system
    assert found.energy == one.energy and found.virial == one.virial and found.reason == one.reason
    assert (found.forces is None) == (one.forces is None) and found.converged == one.converged
    assert found.forces is None or found.forces.tobytes() == one.forces.tobytes()
    assert store.get(key, ["0" * 64]) == {} and store.get("0" * 64, [one.geometry_hash]) == {}


def test_labels_of_other_particles_keep_their_geometry(store):
    key = store.add_settings(SETTINGS)
    systems = [
        ParticleSystem("flat", FlatTorus((3.0, 4.5)), (0, 1), ("B", "A"), diameters=(1.0, 1.1)),
        ParticleSystem("drop", FreeSpace(3, radius=2.5), (1, 1), ("unused", "Ag"), units="metal"),
    ]
    for system in systems:
        x = np.full((2, system.dim), 0.3)
        store.put([label(1.0, key, system=system, positions=x, forces=x)])
    flat, drop = (found.system for found in store.labels())
    assert flat.geometry == FlatTorus((3.0, 4.5)) and flat.diameters == (1.0, 1.1) and flat.units == "lj"
    assert [flat.species_names[s] for s in flat.species] == ["B", "A"]
    assert drop.geometry == FreeSpace(3, 2.5) and drop.species_names == ("Ag",) and drop.units == "metal"


def test_what_a_second_label_changes(store):
    """First success stays and gains what it lacks; failures give way; nothing else changes an energy."""
    key = store.add_settings(SETTINGS)
    failed = label(0.5, key, energy=None, forces=None, virial=None, reason="no convergence")
    energy = label(0.5, key, forces=None, virial=None, energy=1.0)
    full = label(0.5, key, energy=2.0)
    other = label(0.5, key, energy=3.0, forces=np.ones((2, 3)))
    put = [store.put([one])[0] for one in (failed, energy, failed, full, other)]
    assert [one.energy for one in put] == [None, 1.0, 1.0, 1.0, 1.0]
    assert put[2].digest == put[1].digest == energy.digest and put[4].digest == put[3].digest
    assert np.array_equal(put[3].forces, full.forces) and put[3].seconds == pytest.approx(0.2)
    assert [one.digest for one in store.labels()] == [put[3].digest]


@pytest.mark.parametrize(
    "changes",
    [
        {"energy": None},
        {"reason": "failed"},
        {"energy": None, "reason": "failed"},
        {"energy": math.nan},
        {"forces": np.zeros((1, 3))},
        {"forces": np.full((2, 3), np.nan)},
    ],
)
def test_a_label_that_makes_no_sense_is_refused(changes):
    with pytest.raises((ValueError, TypeError)):
        label(0.5, "0" * 64, **changes)


def test_all_or_nothing(store):
    key = store.add_settings(SETTINGS)
    with pytest.raises(sqlite3.IntegrityError):
        store.put([label(0.1, key), label(0.2, "f" * 64)])  # settings that the store does not know
    assert list(store.labels()) == []


def test_pages_and_summaries(store, monkeypatch):
    monkeypatch.setattr("particlegen.energy.labels._PAGE", 3)
    one, other = store.add_settings(SETTINGS), store.add_settings({"engine": "other"})
    assert store.add_settings(SETTINGS) == one
    for number in range(7):
        store.put([label(number, one)])
        store.put([label(number, other, energy=None, forces=None, virial=None, reason="no", provider=f"p{number % 2}")])
    assert [found.time - 1e9 for found in store.labels(one)] == list(range(7))
    assert len(list(store.labels())) == 14
    mine, theirs = store.summaries()
    assert (mine.labels, mine.converged, mine.failed, mine.with_forces, mine.providers) == (7, 7, 0, 7, ("invented",))
    assert (theirs.labels, theirs.converged, theirs.failed, theirs.with_forces) == (7, 0, 7, 0)
    assert theirs.providers == ("p0", "p1") and mine.settings == SETTINGS and mine.seconds == pytest.approx(0.7)


def write_all(store, key, numbers):
    for number in numbers:
        store.put([label(number, key)])


def test_two_processes_write_at_once(store):
    """Their own labels and shared ones; every label is there once and whole."""
    key = store.add_settings(SETTINGS)
    shared = [1000 + k for k in range(20)]
    writers = [fork(write_all, store, key, [*range(k, 40, 2), *shared]) for k in range(2)]
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    expected = {label(number, key).digest for number in [*range(40), *shared]}
    assert sorted(found.digest for found in store.labels()) == sorted(expected)


def test_two_processes_make_the_store_at_once(tmp_path):
    paths = [tmp_path / f"{k}.db" for k in range(10)]

    def make():
        for path in paths:
            store = LabelStore(path)
            store.put([label(os.getpid(), store.add_settings(SETTINGS))])

    makers = [fork(make) for _ in range(2)]
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0, 0]
    assert {len(list(LabelStore(path).labels())) for path in paths} == {2}


def acknowledge(store, key, pipe):
    for number in range(100_000):
        store.put([label(number, key)])
        os.write(pipe, number.to_bytes(4, "little"))


def test_a_killed_writer_loses_nothing_that_it_acknowledged(store):
    """kill -9 at other points of the writing each time; what `put` returned from is there, and the file is sound."""
    key, acknowledged = store.add_settings(SETTINGS), -1
    for wanted in (1, 2, 3, 5, 8):
        reader, writer = os.pipe()
        process = fork(acknowledge, store, key, writer)
        os.close(writer)
        for _ in range(wanted):
            acknowledged = int.from_bytes(os.read(reader, 4), "little")
        os.kill(process.pid, signal.SIGKILL)
        process.join(10)
        rest = b""
        while piece := os.read(reader, 4096):
            rest += piece
        os.close(reader)
        acknowledged = int.from_bytes(rest[-4:], "little") if rest else acknowledged
        again = LabelStore(store.path)  # checks the file; a writer after a kill does not wait for the dead
        found = [one.digest for one in again.labels()]
        assert process.exitcode == -signal.SIGKILL
        assert set(found) >= {label(number, key).digest for number in range(acknowledged + 1)}
        assert len(found) == len(set(found))
    again.put([label(-1.0, key)])


def hold(path, held, seconds):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    held.set()
    time.sleep(seconds)
    connection.execute("ROLLBACK")


def test_a_locked_store_waits_and_says_so(tmp_path):
    path, held = tmp_path / "labels.db", multiprocessing.get_context("fork").Event()
    key = LabelStore(path).add_settings(SETTINGS)
    impatient, patient = LabelStore(path, wait=0.05), LabelStore(path, wait=20.0)
    holder = fork(hold, path, held, 1.0)
    assert held.wait(20)
    start = time.perf_counter()
    for action in (lambda: impatient.put([label(0.1, key)]), impatient.summaries, lambda: LabelStore(path, wait=0.05)):
        with pytest.raises(RunError, match=r"labels\.db: locked by another process for 0\.05 s"):
            action()
    assert time.perf_counter() - start > 0.15
    patient.put([label(0.1, key)])
    assert time.perf_counter() - start > 0.5 and len(list(patient.labels())) == 1
    holder.join(20)


def foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()


def newer(path):
    LabelStore(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()


def torn(path):
    filled(path)
    content = bytearray(path.read_bytes())
    content[4096:12288] = os.urandom(8192)
    path.write_bytes(content)


def filled(path):
    store = LabelStore(path)
    write_all(store, store.add_settings(SETTINGS), range(5))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("frames, not labels " * 99), "is no label store"),
        (foreign, "no label store.*recipes.*another path"),
        (newer, "label format 7, this version of particlegen reads 1"),
        (torn, "is damaged.*left as it is.*recover"),
    ],
    ids=["text", "foreign", "newer", "torn"],
)
def test_a_file_that_is_no_sound_store_is_left_alone(tmp_path, make, said):
    path = tmp_path / "labels.db"
    make(path)
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(InputError, match=rf"(?s)labels\.db.*{said}"):
            LabelStore(path, create=create)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["labels.db"]


@pytest.mark.parametrize("change", ["energy = energy + 1e-12", "positions = zeroblob(48)", "positions = zeroblob(7)"])
def test_a_changed_label_is_noticed(tmp_path, change):
    path = tmp_path / "labels.db"
    filled(path)
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE labels SET {change} WHERE rowid = 3")
    connection.close()
    with pytest.raises(InputError, match=r"labels\.db: is damaged \(label 3"):
        list(LabelStore(path).labels())


def test_paths_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match=r"none\.db: no such label store"):
        LabelStore(tmp_path / "none.db", create=False)
    with pytest.raises(InputError, match=r"folder .*nowhere is not there"):
        LabelStore(tmp_path / "nowhere" / "labels.db")
    with pytest.raises(InputError, match="cannot be opened"):
        LabelStore(tmp_path)
    (tmp_path / "empty.db").touch()
    with pytest.raises(InputError, match="no label store"):
        LabelStore(tmp_path / "empty.db", create=False)
    odd = tmp_path / "ä b?%20#.db"
    LabelStore(odd)
    assert odd.is_file()


# --- hashes -----------------------------------------------------------------------------------------------------------


def test_what_makes_a_geometry():
    x = np.array([[0.0, 0.5, 1.0], [1.0, 2.0, 3.0]])
    same = ParticleSystem("another name", FreeSpace(3), (1, 1), ("unused", "A"))
    assert geometry_hash(PAIR, x) == geometry_hash(same, x) == geometry_hash(PAIR, np.where(x == 0, -0.0, x))
    others = [
        dataclasses.replace(PAIR, species_names=("B",)),
        dataclasses.replace(PAIR, geometry=FreeSpace(3, radius=9.0)),
        dataclasses.replace(PAIR, geometry=FlatTorus((9.0, 9.0, 9.0))),
        dataclasses.replace(PAIR, units="metal"),
        dataclasses.replace(PAIR, diameters=(1.0, 1.0)),
    ]
    moved = x.copy()
    moved[0, 1] = np.nextafter(0.5, 1)
    hashes = [geometry_hash(PAIR, x), geometry_hash(PAIR, moved), geometry_hash(PAIR, x[::-1])]
    hashes += [geometry_hash(system, x) for system in others]
    assert len(set(hashes)) == len(hashes)


def test_settings_that_are_no_json_are_refused():
    for wrong in ({"cutoff": math.inf}, {"cutoff": math.nan}, {"model": object()}):
        with pytest.raises(InputError, match="finite numbers"):
            settings_hash(wrong)
    assert settings_hash({"a": 1.0, "b": [1, 2]}) == settings_hash({"b": (1, 2), "a": 1.0})


def test_settings_of_the_engines_tell_them_apart(tmp_path):
    """Every engine made twice has one hash; every change of what it computes has another."""
    store = LabelStore(tmp_path / "labels.db")

    def by_openmm(**settings):
        built = build_system(SystemSettings(**settings))
        return OpenMMEnergy.of_pairs(built.system, built.potential)

    def renamed():
        made = engine(card="ipl_binary_2d")
        return TorchPairEnergy(dataclasses.replace(made.system, species_names=("B", "A")), made.potential)

    pair = engine(card="lj_bulk")
    makers = [
        lambda: engine(card="lj_bulk"),
        lambda: engine(card="lj_bulk", potential="lj_cut"),
        lambda: engine(card="lj_cluster"),
        lambda: engine(card="ipl_binary_2d"),
        renamed,
        lambda: LinearEnergy((1.0, pair)),
        lambda: LinearEnergy((0.5, pair)),
        lambda: LinearEnergy((0.5, engine(card="lj_bulk", potential="lj_cut"))),
        lambda: ASEEnergy(silver(), "emt"),
        lambda: ASEEnergy(silver(), "lj"),
        lambda: ASEEnergy(silver(), "emt", stated={"method": "mine"}),
    ]
    pytest.importorskip("openmm", reason="pip install 'particlegen[openmm]'")
    makers += [lambda: by_openmm(card="lj_bulk"), lambda: by_openmm(card="lj_bulk", potential="lj_cut")]
    pytest.importorskip("tblite", reason="pip install 'particlegen[xtb]'")
    makers += [
        lambda: xtb_energy(silver()),
        lambda: xtb_energy(silver(), "GFN1-xTB"),
        lambda: xtb_energy(silver(), accuracy=1.0),
        lambda: xtb_energy(silver(), charge=2),
    ]
    hashes = [Cached(make(), store).settings_hash for make in makers]
    assert hashes == [Cached(Counted(make(), Ledger(), "x"), store).settings_hash for make in makers]
    assert len(set(hashes)) == len(hashes)
    assert json.dumps([summary.settings for summary in store.summaries()])


def test_an_engine_that_does_not_say_is_refused(store):
    from ase.calculators.emt import EMT

    with pytest.raises(InputError, match=r"ase_emt: what EMT's answers depend on.*stated="):
        Cached(ASEEnergy(silver(), EMT()), store)

    class Silent:
        name, system, differentiable, device = "silent", PAIR, False, torch.device("cpu")

        def evaluate(self, positions, want=("energy",)):
            raise NotImplementedError

    for silent in (Silent(), Counted(Silent(), Ledger(), "x"), LinearEnergy((1.0, Silent()))):
        with pytest.raises(InputError, match="'silent' does not say what its answers depend on"):
            Cached(silent, store)
    assert Cached(Silent(), store, settings=SETTINGS).settings_hash == settings_hash(SETTINGS)


# --- the provider -----------------------------------------------------------------------------------------------------


class Scripted:
    """U = x of the first particle, in so many iterations; fails beyond 2, and beyond 1 where forces are wanted."""

    name, system, differentiable, device, settings = "scripted", PAIR, False, torch.device("cpu"), SETTINGS

    def __init__(self):
        self.batches, self.shift, self.limit = [], 0.0, 2.0

    def evaluate(self, positions, want=("energy",)):
        x = positions[:, 0, 0]
        self.batches.append(x.tolist())
        ok = x <= (self.limit - 1 if "forces" in want else self.limit)
        energy, forces = (x + self.shift).masked_fill(~ok, torch.nan), torch.zeros_like(positions)
        forces[:, 0, 0] = -1.0
        return EnergyResult(
            energy,
            forces.masked_fill(~ok[:, None, None], torch.nan) if "forces" in want else None,
            None,
            ok,
            tuple(None if good else "too far" for good in ok.tolist()),
            tuple(range(len(x))),
        )


def at(*numbers):
    x = torch.zeros(len(numbers), 2, 3, dtype=torch.float64)
    x[:, 0, 0] = torch.tensor(numbers, dtype=torch.float64)
    return x


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("card", ["lj_cluster", "ka_ternary_2d"])
def test_cached_keeps_the_contract(store, card, chunk):
    """With an empty store, and again with every answer from the store."""
    provider = engine(card=card)
    x, ledger = lattice(provider, 3), Ledger()
    for _ in range(2):
        check_energy_provider(Cached(Counted(provider, ledger, "test"), store, chunk=chunk), x)
        first = ledger.take("test")["torch_pair"]
        assert first.calls + first.cached > 40 and not ledger.entries
    assert first.calls == 0


def test_cached_keeps_the_contract_for_silver(store):
    check_energy_provider(Cached(ASEEnergy(silver(), "emt"), store), octahedra(2))


def test_only_what_is_missing_is_asked_for(store):
    provider, ledger = Scripted(), Ledger()
    cached = Cached(Counted(provider, ledger, "test"), store)
    first = cached.evaluate(at(0.5, 1.0, 0.5, 3.0, math.nan, 0.0, -0.0))
    assert provider.batches == [[0.5], [1.0], [3.0], [0.0]]
    assert first.energy[:3].tolist() == [0.5, 1.0, 0.5] and first.ok.tolist() == [1, 1, 1, 0, 0, 1, 1]
    assert first.reasons[3] == "too far" and first.reasons[4] == "positions are not finite"
    provider.shift = 10.0  # an engine that changed would be noticed
    again = cached.evaluate(at(1.0, 3.0, 0.5))
    assert again.energy[[0, 2]].tolist() == [1.0, 0.5] and again.reasons == (None, "too far", None)
    assert len(provider.batches) == 4
    entry = ledger.entries[("scripted", "test")]
    assert (entry.calls, entry.cached, entry.failures) == (4, 2 + 3, 1)
    assert entry.calls + entry.cached == 7 - 1 + 3
    other = Cached(provider, store, settings=SETTINGS | {"accuracy": 2})
    assert other.evaluate(at(1.0)).energy.tolist() == [11.0]
    assert cached.evaluate(at()).energy.shape == (0,)


def test_forces_are_asked_for_where_they_are_missing(store):
    provider = Scripted()
    cached = Cached(provider, store, chunk=8)
    cached.evaluate(at(0.5, 1.5))
    provider.shift = 1e-9
    found = cached.evaluate(at(0.5, 0.7, 1.5), WANT[:2])
    assert provider.batches == [[0.5, 1.5], [0.5, 0.7, 1.5]]
    assert found.energy[:2].tolist() == [0.5, 0.7 + 1e-9]  # an energy once served never changes
    assert found.forces[:2, 0, 0].tolist() == [-1.0, -1.0] and found.iterations == (0, 1, 2)
    assert found.ok.tolist() == [True, True, False] and found.energy[2].isnan() and found.forces[2].isnan().all()
    assert cached.evaluate(at(1.5)).energy.tolist() == [1.5]  # whose energy is still there
    assert len(provider.batches) == 2


def test_failures_are_kept_until_they_are_tried_again(store):
    provider = Scripted()
    assert Cached(provider, store).evaluate(at(3.0)).reasons == ("too far",)
    provider.limit = 5.0
    assert Cached(provider, store).evaluate(at(3.0)).reasons == ("too far",)
    assert Cached(provider, store, retry_failed=True).evaluate(at(3.0, 9.0)).ok.tolist() == [True, False]
    assert Cached(provider, store).evaluate(at(3.0)).energy.tolist() == [3.0]
    assert [one.converged for one in store.labels()] == [True, False]


def test_answers_before_a_crash_are_kept(store):
    class Crashing(Scripted):
        def evaluate(self, positions, want=("energy",)):
            if (positions[:, 0, 0] > 1).any():
                raise MemoryError
            return super().evaluate(positions, want)

    with pytest.raises(MemoryError):
        Cached(Crashing(), store).evaluate(at(0.1, 0.2, 1.5, 0.3))
    assert [one.energy for one in store.labels()] == [0.1, 0.2]


def test_what_another_process_stored_first_is_the_answer(store):
    """Both computed the same geometry at once: both go on with the same energy."""
    slow, fast = Scripted(), Scripted()
    fast.shift = 1e-10

    class Overtaken(Scripted):
        def evaluate(self, positions, want=("energy",)):
            Cached(fast, store).evaluate(positions, want)
            return slow.evaluate(positions, want)

    assert Cached(Overtaken(), store).evaluate(at(0.5)).energy.tolist() == [0.5 + 1e-10]


def test_bad_requests_are_refused_even_with_full_stores(store):
    cached = Cached(engine(card="lj_cluster"), store)
    x = lattice(engine(card="lj_cluster"), 2)
    cached.evaluate(x, WANT)
    with pytest.raises(ValueError, match="has positions"):
        cached.evaluate(x[:, :-1])
    with pytest.raises(ValueError, match="colour"):
        cached.evaluate(x, ("energy", "colour"))
    with pytest.raises(ValueError, match="at least 1"):
        Cached(engine(card="lj_cluster"), store, chunk=0)
    assert not cached.differentiable and not cached.evaluate(x.requires_grad_()).energy.requires_grad


def test_the_file_says_what_it_is(store):
    assert store.path.read_bytes()[68:72] == APPLICATION_ID.to_bytes(4, "big") == b"pglb"
