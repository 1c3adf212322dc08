"""The page of isomers: self-contained, escaped, whole or in parts, and honest about poor numbers."""

import re
from dataclasses import replace

import numpy as np
import pytest
from html_shape import EVIL, shape
from matplotlib.collections import LineCollection

from particlegen.estimate import work_distributions
from particlegen.report import IsomerReport, advise, render_isomers
from particlegen.report.isomer_figures import structure, vibrations

NAMES = ("ring", "chain")


def number(value, stderr=None, unit="", method="test"):
    return {"value": value, "stderr": stderr, "unit": unit, "method": method}


def isomer(**changed):
    values = {"acceptance": 0.3, "acceptance_local": 0.7, "left_basin": 0.01, "r_hat": 1.001, "ess_per_sample": 0.5}
    values |= {"pareto_k": 0.3, "overlap": 0.8, "copies": 30.0} | changed
    quantities = {key: number(value) for key, value in values.items()}
    quantities |= {"free_energy": number(-1.0, 0.002, "epsilon"), "energy_minimum": number(-12.712062, 0.0, "epsilon")}
    return {"point_group": "Oh", "order": 48} | quantities


def results(**changed):
    budget = {"statistical": 0.002, "surrogate": 0.0, "basin": 0.001, "scf": 0.0, "half_width": 0.0044}
    difference = number(0.06, 0.002, "epsilon", "BAR") | {
        "flow": number(0.061, 0.003, "epsilon"),
        "mixture": number(0.059, 0.004, "epsilon"),
        "harmonic": number(0.066, 0.0, "epsilon"),
        "per_labelled_basin": number(0.31, 0.002, "epsilon"),
        "budget": {part: number(value, unit="epsilon") for part, value in budget.items()},
    }
    curve = {"value": [1.0, 1.1, 1.2], "density": [0.0, 5.0, 0.0], "stderr": [0.0, 0.1, 0.0]}
    return {
        "kind": "isomers",
        "status": {"converged": True, "reasons": []},
        "system": {"name": "lj", "composition": {"A": 4}},
        "isomers": {"ring": isomer(**changed), "chain": isomer()},
        "delta_free_energy": {"chain-ring": difference},
        "observables": {name: {"distances": curve, "gyration_radius": curve} for name in NAMES},
    }


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    log_w = {name: rng.normal(10.0, 0.3, 300) for name in NAMES}
    return IsomerReport(
        title="a run",
        results=results(),
        manifest={"particlegen": "0.1.0", "citations": ["Wales & Doye (1997)"]},
        workflow_yaml="version: 1\n",
        kt=0.1,
        energy_unit="epsilon",
        length_unit="sigma",
        species=np.array([0, 0, 1, 1]),
        species_names=("A", "B"),
        titles={"ring": "a ring", "chain": ""},
        structures={name: rng.normal(size=(4, 3)) for name in NAMES},
        energies={name: rng.normal(size=(4, 50)) for name in NAMES},
        drawn={name: (rng.normal(size=300), log_w[name]) for name in NAMES},
        works={name: work_distributions(log_w[name], rng.normal(10.1, 0.3, (4, 50))) for name in NAMES},
    )


def test_the_page_holds_everything_and_fetches_nothing(data):
    page = render_isomers(data)
    # Two structures, a budget, works and energies of two, traces, two observables.
    assert page.count("<figure>") == 2 + 1 + 2 + 2 + 1 + 2
    assert "Wales &amp; Doye (1997)" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "all diagnostics in order" in page
    assert "F(chain) − F(ring)" in page and "0.0600" in page and "± 0.0044 epsilon (95 %) = 0.6 kT" in page
    assert "ring (a ring). Found: Oh, 30 labelled copies" in page and "-12.71206<" in page
    for way in ("weights of the flows", "chains that move between isomers", "one labelled copy", "harmonic superp"):
        assert way in page
    assert "How it settled" not in page and "Spectra" not in page


def entry(labels, value=2.0):
    """What a round says of one isomer; in kT."""
    return {"labels": labels, "free_energy": value, "stderr": 0.1}


def test_what_was_learned_is_shown_where_there_is_something(data):
    learned = {
        "rounds": {name: [{"labels": n, "energy_rmse": 0.1 / n} for n in (40, 80)] for name in ("ring", "chain")},
        "parity": {name: {"exact": [1.0, 2.0], "surrogate": [1.1, 1.9]} for name in ("ring", "chain")},
    }
    rounds = {name: [entry(n) for n in (40, 80)] for name in ("ring", "chain")}
    lists = {"energies": [1.0, 2.0], "mean": [0.1, 0.2], "stderr": [0.0, 0.01], "zero_kelvin": [0.1, 0.3]}
    facts = {"complete_up_to": 2.0, "effective": None, "configurations": 8, "failed": 1, "method": "<TDDFT>"}
    spectra = {"ring": lists | facts, "chain": dict.fromkeys(lists) | facts}  # nothing converged of the chain
    before = render_isomers(data).count("<figure>")
    page = render_isomers(replace(data, results=results() | {"rounds": rounds, "learned": learned, "spectra": spectra}))
    assert page.count("<figure>") == before + 4
    assert "How it settled" in page and "Absorption spectra" in page and "&lt;TDDFT&gt;" in page


def test_another_engine_is_no_part_of_the_answer(data):
    checked = results()
    checked["delta_free_energy"]["chain-ring"]["check"] = number(0.07, 0.003, "epsilon", "the answer, shifted")
    more = {"engine": "other", "labels": 24, "failed": 2, "warnings": ["Pareto k"], "pareto_k": number(0.8)}
    checked["check"] = {"ring": number(1.25, 0.002, "epsilon") | more, "chain": number(None) | more}
    page = render_isomers(replace(data, results=checked))
    assert "another engine, no part of the answer" in page and "What another engine says" in page
    assert "1.2500" in page and "not known" in page and "all diagnostics in order" in page


def test_vibrations_are_shown_with_their_sticks_and_what_they_rest_on(data):
    block = {"frequency": [0.0, 1.0, 2.0], "density": [0.0, 3.0, 0.5], "stderr": [0.0, 0.1, 0.1], "unit": "1/tau"}
    block |= {"harmonic": [0.9, 1.1], "resolution": number(0.1), "left_basin": number(0.25, 0.1)}
    before = render_isomers(data).count("<figure>")
    page = render_isomers(replace(data, results=results() | {"vibrations": {name: block for name in NAMES}}))
    assert page.count("<figure>") == before + 1
    assert "<h2>Vibrations" in page and "0.25 ± 0.10" in page
    (axis,) = vibrations({name: block for name in NAMES}, "1/tau").axes
    rows = [part for part in axis.collections if isinstance(part, LineCollection)]
    sticks = [{segment[0][0] for segment in row.get_segments()} for row in rows]
    assert sticks.count({0.9, 1.1}) == 2


def test_unknown_parts_are_said_and_missing_ones_left_out(data):
    partial = results()
    budget = partial["delta_free_energy"]["chain-ring"]["budget"]
    budget["basin"], budget["half_width"] = number(None), number(None)
    del partial["delta_free_energy"]["chain-ring"]["mixture"], partial["observables"]
    page = render_isomers(replace(data, results=partial))
    assert "not known" in page and "move between isomers" not in page
    assert page.count("<figure>") == render_isomers(data).count("<figure>") - 3


def test_a_difference_that_failed_leaves_the_rest_standing(data):
    """BAR without overlap has no value: no card, no line, and the other ways as they are."""
    failed = results()
    failed["isomers"]["ring"]["free_energy"] = number(None)
    difference = failed["delta_free_energy"]["chain-ring"]
    difference["value"] = difference["stderr"] = None
    difference["budget"] |= {"statistical": number(None), "half_width": number(None)}
    rounds = {name: [entry(n, None) for n in (40, 80)] for name in ("ring", "chain")}
    failed |= {"rounds": rounds, "status": {"reasons": ["BAR failed"]}}
    page = render_isomers(replace(data, results=failed))
    assert "needs attention" in page and "(95 %) =" not in page
    assert "weights of the flows" in page and "BAR of flow and chains" not in page
    # The work of one isomer, with no F to mark, and the budget are gone; the learning is there.
    assert page.count("<figure>") == render_isomers(data).count("<figure>") - 2 + 1


def renamed(value, names, text):
    """The same nested value: isomers by other names, and one text in the place of every string."""
    if isinstance(value, str):
        return names.get(value, text)
    if isinstance(value, dict):
        pairs = names | {"chain-ring": f"{names['chain']}-{names['ring']}"}
        return {pairs.get(key, key): renamed(inner, names, text) for key, inner in value.items()}
    return [renamed(inner, names, text) for inner in value] if isinstance(value, list) else value


def spoiled(data, text):
    """The same data with all sections, and a text in the place of all that comes from files."""
    names = {name: f"{text}{number}".replace(".", " ").replace("-", " ") for number, name in enumerate(NAMES)}
    block = {"frequency": [0.0, 1.0], "density": [0.0, 3.0], "stderr": [0.0, 0.1], "unit": "x", "harmonic": [0.9]}
    lists = {"energies": [1.0, 2.0], "mean": [0.1, 0.2], "stderr": [0.0, 0.01], "zero_kelvin": [0.1, 0.3]}
    facts = {"complete_up_to": 2.0, "effective": None, "configurations": 8, "failed": 1, "method": "x"}
    more = {"engine": "x", "labels": 24, "failed": 2, "warnings": ["x"], "pareto_k": number(0.8)}
    whole = results() | {
        "status": {"reasons": ["no"]},
        "rounds": {name: [entry(n) for n in (40, 80)] for name in NAMES},
        "vibrations": {name: block | {"resolution": number(0.1, unit="x")} for name in NAMES},
        "spectra": {name: lists | facts for name in NAMES},
        "check": {name: number(1.25, 0.002, "x") | more for name in NAMES},
    }

    def by_name(parts):
        return {names[name]: part for name, part in parts.items()}

    return replace(
        data,
        title=text,
        results=renamed(whole, names, text),
        manifest={text: text, "host": [text], "citations": [text]},
        workflow_yaml=text,
        energy_unit=text,
        length_unit=text,
        species_names=(text, f"{text}B"),
        titles=dict.fromkeys(names.values(), text),
        structures=by_name(data.structures),
        energies=by_name(data.energies),
        drawn=by_name(data.drawn),
        works=by_name(data.works),
    )


def test_no_text_of_a_file_becomes_part_of_the_page(data):
    page = render_isomers(spoiled(data, EVIL))
    assert shape(page) == shape(render_isomers(spoiled(data, "plain")))
    assert "<script" not in page and page.count("&lt;script&gt;") >= 60


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({"r_hat": 1.009}, "good"),
        ({"r_hat": 1.011}, "fair"),
        ({"r_hat": 1.051}, "poor"),
        ({"acceptance": 0.101}, "good"),
        ({"acceptance": 0.099}, "fair"),
        ({"acceptance": 0.019}, "poor"),
        ({"acceptance_local": 0.29}, "fair"),
        ({"left_basin": 0.11}, "fair"),
        ({"left_basin": 0.31}, "poor"),
        ({"ess_per_sample": 0.049}, "fair"),
        ({"ess_per_sample": 0.0049}, "poor"),
        ({"pareto_k": 0.51}, "fair"),
        ({"pareto_k": 0.71}, "poor"),
        ({"pareto_k": None}, "poor"),
        ({"overlap": 0.101}, "good"),
        ({"overlap": 0.099}, "fair"),
        ({"overlap": 0.029}, "poor"),
    ],
)
def test_a_poor_number_gets_advice(change, level):
    """The thresholds are those of the page on isomers; nothing else is judged worse than good."""
    found = {item.key: item.level for item in advise(results(**change))}
    key = f"isomers.ring.{next(iter(change))}"
    assert found.pop(key) == level
    assert set(found.values()) == {"good"}


@pytest.mark.parametrize(("way", "value"), [("flow", 0.075), ("mixture", 0.04)])
def test_ways_that_disagree_are_poor(way, value):
    wrong = results()
    wrong["delta_free_energy"]["chain-ring"][way]["value"] = value
    assert (advise(wrong)[0].level, advise(wrong)[0].key) == ("poor", f"delta_free_energy.chain-ring.{way}")


@pytest.mark.parametrize(
    ("part", "remedy"),
    [("statistical", "production.samples"), ("basin", "production.quenches"), ("scf", "converge the engine")],
)
def test_the_largest_part_of_the_error_is_named(part, remedy):
    wide = results()
    wide["delta_free_energy"]["chain-ring"]["budget"] |= {part: number(0.05), "half_width": number(0.1)}
    found = advise(wide)[0]
    assert found.level == "fair" and found.key.endswith("half_width")
    assert "holds 0" in found.text and repr(part) in found.text and remedy in found.text


def test_no_particle_hides_another():
    """An octahedron along its own axes has its ends in line; as it is drawn, all six discs are apart."""
    octahedron = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], dtype=float)
    figure = structure(octahedron, np.zeros(6, dtype=int), ("A",))
    for axis in figure.axes:
        sizes = [disc.get_radius() for disc in axis.patches]
        centres = np.array([d.get_center() for d in axis.patches if d.get_radius() == max(sizes)])
        assert len(centres) == 6 and len(axis.lines) == 12
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)[np.triu_indices(6, 1)]
        assert apart.min() > 0.25
