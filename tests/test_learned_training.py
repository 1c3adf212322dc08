"""Training of learned potentials: it learns, from where labels come, what is held out, the same bytes, restarts."""

import json

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from test_energy_engines import octahedra, silver

from particlegen.energy import (
    ASEEnergy,
    Cached,
    Committee,
    LabelSet,
    LabelStore,
    LearnedSettings,
    PotentialTraining,
    export_labels,
    learned_errors,
    train_potential,
)
from particlegen.geometry import FlatTorus
from particlegen.networks import PotentialSettings
from particlegen.settings import InputError
from particlegen.system import ParticleSystem
from particlegen.training import TrainingSettings

NETWORK = PotentialSettings(kind="moments", cutoff=5.5, width=8)


@pytest.fixture(scope="module")
def labels():
    """60 distorted octahedra of Ag6 by effective-medium theory."""
    x = octahedra(60, seed=11)
    found = ASEEnergy(silver(), "emt").evaluate(x, ("energy", "forces"))
    return LabelSet(silver(), x, found.energy, found.forces)


def settings(steps=6, **changes):
    often = max(2, steps // 10)
    rates = {"learning_rate": 0.01, "warm_up": 20, "ema": 0.98, "optimiser": "adam"}
    training = TrainingSettings(batch=8, steps=steps, validate_every=often, **rates)
    return LearnedSettings(**({"network": NETWORK, "committee": 1, "training": training, "held_out": 0.2} | changes))


def check_learned(labels, steps=150, network=NETWORK, share=0.1):
    potential, errors = train_potential(labels, settings(steps, network=network), seed=3)
    assert errors.labels >= 6
    assert errors.energy_rmse < share * errors.energy_spread, "energy"
    assert errors.force_rmse < share * errors.force_spread, "force"
    return potential


def test_it_learns_energies_and_forces(labels):
    """Held-out errors below a share of the spread; with forces of the wrong sign it cannot."""
    check_learned(labels)
    wrong = LabelSet(labels.system, labels.positions, labels.energies, -labels.forces)
    with pytest.raises(AssertionError):
        check_learned(wrong)


@pytest.mark.slow
def test_the_e3nn_network_learns_too(labels):
    pytest.importorskip("e3nn", reason="pip install 'particlegen[learned]'")
    check_learned(labels, 600, NETWORK.model_copy(update={"kind": "e3nn"}))


def weights(training):
    tensors, metadata = training.state()
    for member in metadata["members"]:
        del member["seconds"]
    return {name: value.numpy().tobytes() for name, value in tensors.items()}, metadata


@pytest.mark.parametrize("bootstrap", [False, True])
def test_the_same_seed_gives_the_same_bytes_stopped_or_not(labels, bootstrap):
    def make(seed=1):
        return PotentialTraining(labels, settings(committee=2, bootstrap=bootstrap), seed)

    whole, other = make(), make(2)
    yields = [(number, progress.step) for number, progress in whole.run()]
    list(other.run())
    assert yields[0][0] == 0 and yields[-1] == (1, 6)
    assert weights(whole)[0] != weights(other)[0]
    for stop in (1, len(yields) - 1):
        first, again = make(), make()
        for _ in zip(range(stop), first.run(), strict=False):
            pass
        tensors, metadata = first.state()
        again.restore(tensors, json.loads(json.dumps(metadata)))
        list(again.run())
        assert weights(again) == weights(whole)
    one, two = (member.ema_weights() for member in whole.members)
    assert not torch.equal(one["energy.0.weight"], two["energy.0.weight"])


def test_a_bootstrap_member_validates_on_what_it_did_not_draw(labels):
    members = PotentialTraining(labels, settings(committee=2, bootstrap=True), 1).members
    for member in members:
        drawn, left = ({row.numpy().tobytes() for row in part} for part in (member.data, member.validation))
        assert not drawn & left and len(drawn) + len(left) == len(member.data) > len(drawn)
    assert not torch.equal(members[0].data, members[1].data)
    plain = PotentialTraining(labels, settings(committee=1), 1).members[0]
    assert len({row.numpy().tobytes() for row in plain.data}) == len(plain.data)


def test_held_out_labels_are_unseen_and_stay_held_out(labels):
    training = PotentialTraining(labels, settings(), 1)
    inside = {x.numpy().tobytes() for x in training.labels.positions}
    outside = {x.numpy().tobytes() for x in training.held.positions}
    assert not inside & outside and len(inside | outside) == 60 and 6 <= len(outside) <= 18
    member = training.members[0]
    seen = {x.numpy().tobytes() for x in torch.cat([member.data, member.validation])[:, :18]}
    assert seen == inside
    few = labels.select(torch.arange(30))
    assert torch.equal(few.held_out(0.2), labels.held_out(0.2)[:30])
    assert not labels.held_out(0.0).any()
    assert PotentialTraining(labels, settings(held_out=0.0), 1).errors() is None


def test_the_loss_is_that_of_energies_and_known_forces(labels):
    forces = labels.forces.clone()
    forces[::2] = torch.nan
    some = LabelSet(labels.system, labels.positions, labels.energies, forces)
    training = PotentialTraining(some, settings(energy_weight=3.0, force_weight=0.5, held_out=0.0), 1)
    member = training.members[0]
    rows = torch.cat([some.positions.flatten(1), forces.flatten(1), some.energies[:, None]], 1)
    loss = float(member.loss(member.network, rows, torch.Generator()))
    member._validate()
    found = training.potential().evaluate(labels.positions, ("energy", "forces"))
    scale = training.model.scale
    known = some.known_forces
    assert scale == pytest.approx(float(forces[known].square().mean().sqrt()))
    expected = 3.0 * ((found.energy - some.energies) / scale).square().mean() / 6
    expected += 0.5 * ((found.forces - forces)[known] / scale).square().mean()
    assert loss == pytest.approx(float(expected), rel=1e-10)
    reference = training.model.reference_energies
    assert reference == (pytest.approx(float(some.energies.mean()) / 6),)


def test_labels_without_forces(labels):
    bare = LabelSet(labels.system, labels.positions, labels.energies, torch.full_like(labels.forces, torch.nan))
    potential, errors = train_potential(bare, settings(force_weight=0.0), seed=1)
    assert np.isnan(errors.force_rmse) and errors.energy_rmse > 0
    assert potential.evaluate(labels.positions[:2], ("energy", "forces")).forces.isfinite().all()
    with pytest.raises(InputError, match="no label has forces, and 'energy_weight' is 0"):
        PotentialTraining(bare, settings(energy_weight=0.0))


def test_training_goes_on_from_given_weights(labels):
    first, _ = train_potential(labels.select(torch.arange(30)), settings(30, committee=2), seed=1)
    going_on = PotentialTraining(labels, settings(committee=2), 2, start=first)
    x = labels.positions[:3]
    assert torch.equal(going_on.potential().evaluate(x).energy, first.evaluate(x).energy)
    assert going_on.model == first.model
    list(going_on.run())
    later = going_on.potential()
    assert isinstance(later, Committee) and not torch.equal(later.evaluate(x).energy, first.evaluate(x).energy)
    with pytest.raises(InputError, match="'start' has 2 members"):
        PotentialTraining(labels, settings(committee=1), start=first)
    with pytest.raises(InputError, match="set them alike"):
        wider = NETWORK.model_copy(update={"width": 16})
        PotentialTraining(labels, settings(committee=2, network=wider), start=first)


def test_errors_are_those_of_the_whole_cluster(labels):
    shifted = LabelSet(labels.system, labels.positions, labels.energies + 0.3, labels.forces + 0.2)
    found = learned_errors(ASEEnergy(silver(), "emt"), shifted)
    assert (found.energy_rmse, found.energy_mae) == (pytest.approx(0.3), pytest.approx(0.3))
    assert (found.force_rmse, found.force_mae) == (pytest.approx(0.2), pytest.approx(0.2))
    assert found.energy_spread == pytest.approx(float(labels.energies.std(correction=0)))


def test_labels_come_from_a_store_and_from_files(labels, tmp_path):
    x, store = labels.positions[:4], LabelStore(tmp_path / "labels.db")
    engine = Cached(ASEEnergy(silver(), "emt"), store)
    engine.evaluate(x[:2])
    engine.evaluate(x[2:], ("energy", "forces"))
    Cached(ASEEnergy(silver(5), "emt"), store).evaluate(x[:, :5])
    found = LabelSet.of_labels(silver(), store.labels())
    assert torch.equal(found.positions, x) and torch.equal(found.energies, labels.energies[:4])
    assert found.known_forces.tolist() == [False, False, True, True]
    assert torch.equal(found.forces[2:], labels.forces[2:4])

    Cached(ASEEnergy(silver(), "emt", parameters={"asap_cutoff": True}), store).evaluate(x[:1])
    with pytest.raises(InputError, match="engines with different settings"):
        LabelSet.of_labels(silver(), store.labels())
    with pytest.raises(InputError, match="there are none"):
        LabelSet.of_labels(silver(7), store.labels())

    export_labels(store, tmp_path / "labels.extxyz", engine.settings_hash)
    (tmp_path / "mixed.extxyz").write_text((tmp_path / "labels.extxyz").read_text())
    with pytest.raises(InputError, match="frame 5: the atoms are Ag5, expected Ag6"):
        LabelSet.of_file(silver(), tmp_path / "mixed.extxyz")
    frames = ase.io.read(tmp_path / "labels.extxyz", index=":4")
    ase.io.write(tmp_path / "four.extxyz", frames)
    again = LabelSet.of_file(silver(), tmp_path / "four.extxyz")
    assert torch.allclose(again.positions, x, atol=1e-7) and again.known_forces.tolist() == [False, False, True, True]


def test_a_file_of_a_box(tmp_path):
    pair = ParticleSystem("pair", FlatTorus((3.0, 4.0, 5.0)), (0, 0), ("Ag",), units="metal")
    atoms = ase.Atoms("Ag2", positions=[[0.0, 0, 0], [1.0, 1, 1]], cell=[3.0, 4.0, 5.0], pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5)
    ase.io.write(tmp_path / "box.extxyz", atoms)
    found = LabelSet.of_file(pair, tmp_path / "box.extxyz")
    assert found.energies.tolist() == [-1.5] and not found.known_forces.any()
    other = ParticleSystem("pair", FlatTorus((3.0, 4.0, 5.5)), (0, 0), ("Ag",), units="metal")
    for system, message in ((other, "expected the box"), (silver(2), "of free space")):
        with pytest.raises(InputError, match=message):
            LabelSet.of_file(system, tmp_path / "box.extxyz")
    atoms.calc = None
    ase.io.write(tmp_path / "bare.extxyz", atoms)
    with pytest.raises(InputError, match="no frame has an energy"):
        LabelSet.of_file(pair, tmp_path / "bare.extxyz")
    for name, text, message in (("no.extxyz", None, "no such file"), ("bad.extxyz", "two\n", "cannot read it")):
        if text:
            (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            LabelSet.of_file(pair, tmp_path / name)


def test_wrong_labels_and_settings_are_refused(labels):
    x, e, forces = labels.positions, labels.energies, labels.forces
    for wrong, message in (
        ((x[:, :5], e, forces[:, :5]), r"positions have shape \(60, 5, 3\), expected \(60, 6, 3\)"),
        ((x, torch.where(e == e[0], torch.nan, e), forces), "finite numbers"),
    ):
        with pytest.raises(InputError, match=message):
            LabelSet(silver(), *wrong)
    with pytest.raises(InputError, match="1 labels to train on"):
        PotentialTraining(labels.select(torch.arange(1)), settings(held_out=0.0))
    for key in ({"compile": True}, {"precision": "bfloat16"}):
        with pytest.raises(ValueError, match="leave out compile and precision"):
            LearnedSettings(training=TrainingSettings(steps=3, **key))
