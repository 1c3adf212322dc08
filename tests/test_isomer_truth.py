"""The script that computes truths for isomers: its weights, its batched engine, and what it recorded."""

import doctest
import importlib
import json
from pathlib import Path

import pytest

from particlegen.isomers import ClusterSettings, build_cluster
from particlegen.settings import RunError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("isomer_truth")


def test_a_sphere_about_the_origin_becomes_one_about_the_centroid(truth):
    found = doctest.testmod(truth)
    assert found.attempted >= 5 and found.failed == 0


def test_batched_effective_medium_theory_is_that_of_ase(truth, monkeypatch):
    cluster = build_cluster(ClusterSettings(card="ag6_emt"))
    assert truth.opened(cluster).name == "batched_emt"
    e0, *others = truth.emt.parameters["Ag"]
    right = truth.batched_emt("Ag")
    with monkeypatch.context() as patch:
        patch.setitem(truth.emt.parameters, "Ag", (e0 * 1.001, *others))
        wrong = truth.batched_emt("Ag")
    monkeypatch.setattr(truth, "batched_emt", lambda symbol: lambda x: wrong(x))
    with pytest.raises(RunError, match="differ from ASE's"):
        truth.opened(cluster)
    x = cluster.isomers[0].structure[None]
    assert abs(float(right(x) - 4.219497)) < 1e-6


def test_recorded_routes_agree_and_are_sharp():
    cases = json.loads((BENCHMARKS / "results" / "isomer_truth.json").read_text())["cases"]
    assert set(cases) >= {"lj6_T0.05", "lj6_T0.1", "lj6_T0.15", "lj7_T0.1"}
    assert set(cases) >= {f"ag6_emt_T{temperature}" for temperature in (100, 300, 500)}
    rows = {(name, pair): row for name, case in cases.items() for pair, row in case.items() if "target_met" in row}
    assert all(row["target_met"] for row in rows.values())
    assert max(abs(row.get("difference_in_standard_errors", 0.0)) for row in rows.values()) < 3.5
