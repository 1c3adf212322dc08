"""The report page: self-contained, escaped, and honest about poor numbers."""

import re
from dataclasses import replace

import numpy as np
import pytest
from html_shape import EVIL, shape, with_text

from particlegen.report import GlassReport, advise, format_quantity, render_glass


def number(value, stderr=None, unit="", method="test"):
    return {"value": value, "stderr": stderr, "unit": unit, "method": method}


def results(**generated):
    base = {"n_samples": 10_000, "ess_per_sample": 0.5, "forward_ess": 0.4, "pareto_k": 0.3}
    base |= {"discard_fraction": 0.001, "log_q_error": 0.01} | generated
    curves = {"reference": [0.0, 1.0, 1.1], "raw": [0.1, 0.9, 1.0], "reweighted": [0.0, 1.0, 1.1]}
    return {
        "status": {"converged": True, "reasons": []},
        "system": {"name": "ipl", "N": 4},
        "reference": {"energy_per_particle": number(0.33, 0.001, "epsilon"), "r_hat": number(1.001)},
        "generated": {key: number(value) for key, value in base.items()},
        "reweighted": {"energy_per_particle": number(0.331, 0.002, "epsilon")},
        "free_energy": {"excess": number(4.2, 0.03, "kT")},
        "observables": {"rdf": {"r": [0.1, 0.2, 0.3], "partials": {"A-A": curves, "A-B": curves}}},
    }


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    species = np.array([0, 0, 1, 1])
    return GlassReport(
        title="a run",
        results=results(),
        manifest={"particlegen": "0.1.0", "citations": ["Kob & Andersen (1994)"]},
        workflow_yaml="version: 1\n",
        lengths=(2.0, 2.0),
        species=species,
        diameters=np.where(species == 0, 0.5, 0.7),
        reference_positions=rng.random((3, 4, 2)) * 2,
        generated_positions=rng.random((3, 4, 2)) * 2,
        reference_energy=rng.normal(size=200),
        generated_energy=rng.normal(size=300),
        log_weight=rng.normal(size=300),
        curve={"step": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "validation_loss": [float("nan"), 2.1, 1.2]},
    )


def test_the_page_holds_everything_and_fetches_nothing(data):
    page = render_glass(data)
    assert page.count("<figure>") == 6
    assert "Kob &amp; Andersen (1994)" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert "all diagnostics in order" in page


def test_three_dimensions_and_missing_parts_are_drawn(data):
    rng = np.random.default_rng(2)
    bulk = replace(
        data,
        lengths=(2.0, 2.0, 3.0),
        reference_positions=rng.random((2, 4, 3)),
        generated_positions=np.zeros((0, 4, 3)),
        generated_energy=np.zeros(0),
        log_weight=np.zeros(0),
        curve={},
        results={"system": {}},
    )
    assert render_glass(bulk).count("<figure>") == 1


def spoiled(data, text):
    """The same data with one text in the place of every string that comes from a file."""
    found = with_text(results() | {"status": {"reasons": ["no"]}}, text)
    found["observables"]["rdf"]["partials"] = {
        f"{text}{k}": curves for k, curves in enumerate(results()["observables"]["rdf"]["partials"].values())
    }
    found["system"] = {"name": text, text: text, "composition": {text: 3}}
    manifest = {text: text, "host": [text], "citations": [text], "engines": {text: text}}
    return replace(data, title=text, results=found, manifest=manifest, workflow_yaml=text, energy_unit=text)


def test_no_text_of_a_file_becomes_part_of_the_page(data):
    page = render_glass(spoiled(data, EVIL))
    assert shape(page) == shape(render_glass(spoiled(data, "plain")))
    assert "<script" not in page and page.count("&lt;script&gt;") >= 20


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"pareto_k": 0.9}, "generated.pareto_k"),
        ({"pareto_k": None}, "generated.pareto_k"),
        ({"ess_per_sample": 0.0005}, "generated.ess_per_sample"),
        ({"forward_ess": 0.001}, "generated.forward_ess"),
        ({"log_q_error": 2.0}, "generated.log_q_error"),
        ({"discard_fraction": 0.4}, "generated.discard_fraction"),
    ],
)
def test_a_poor_number_gets_advice(change, key):
    assert all(item.level == "good" for item in advise(results()))
    assert [item.key for item in advise(results(**change)) if item.level == "poor"] == [key]


def test_errors_as_large_as_a_float_are_compared():
    large = results()
    large["reweighted"]["energy_per_particle"]["stderr"] = 1e308
    assert advise(large)
    large["reference"]["energy_per_particle"]["value"] = [1.0]
    assert advise(large)


def test_a_disagreement_with_the_reference_is_poor():
    wrong = results()
    wrong["reweighted"]["energy_per_particle"]["value"] = 0.36
    assert advise(wrong)[0].key == "reweighted.energy_per_particle"
    assert advise(wrong)[0].level == "poor"


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (12.3456, 0.123, "12.35 ± 0.12"),
        (1234.0, 56.0, "1234 ± 56"),
        (123456.0, 780.0, "123460 ± 780"),
        (0.25, float("nan"), "0.25"),
        (1.7e308, 1e308, "1.7e+308 ± 1e+308"),
    ],
)
def test_numbers_are_rounded_by_their_error(value, stderr, text):
    assert format_quantity(value, stderr) == text
