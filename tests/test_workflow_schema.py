"""The workflow file: the documented example, defaults, overrides, the catalogue's workflows."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from particlegen import catalogue, machine
from particlegen.settings import InputError
from particlegen.workflow import Resources, load_workflow, plan, workflow_schema
from particlegen.workflow.folder import next_run_folder
from particlegen.workflow.glass.schema import PretrainedSettings
from particlegen.workflow.overrides import apply_overrides, parse_override
from particlegen.workflow.schema import canonical_yaml

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflows" / "tiny.yaml"

EXAMPLE = """
version: 1                              # glass
kind: glass
seed: 7
system: {card: ipl_binary_2d, particles: 10, temperature: 1.0}
reference: {sampler: displacement, chains: 16, sweeps_between_frames: 100, frames: 20000}  # displacement | swap
network: {kind: hollow, width: 64, rounds: 2, harmonics: 3}
interpolant: {path: geodesic, noise: none, coupling: [species, translation]}
training: {batch: 256, minutes: 3, learning_rate: 2.0e-3, ema: 0.995}
generation: {samples: 10000, solver: rk4, steps: 16, likelihood: exact}                     # exact | hutchinson
estimates: {observables: [energy, heat_capacity, rdf], free_energy: true}
stop: {pareto_k: 0.7}
"""


def test_the_documented_example_is_valid(tmp_path):
    file = tmp_path / "glass.yaml"
    file.write_text(EXAMPLE)
    workflow, folder, name = load_workflow(file)
    assert (workflow.reference.chains, workflow.training.minutes, workflow.stop.pareto_k) == (16, 3, 0.7)
    assert folder == tmp_path and name == "glass"


def test_the_canonical_form_is_a_fixed_point(tmp_path):
    workflow, _, _ = load_workflow(TINY)
    file = tmp_path / "canonical.yaml"
    file.write_text(canonical_yaml(workflow))
    again, _, _ = load_workflow(file)
    assert again == workflow
    assert canonical_yaml(again) == file.read_text()
    assert "learning_rate" in file.read_text() and "held_out" in file.read_text()


@pytest.mark.parametrize("name", catalogue.names("workflows"))
def test_every_catalogue_workflow_is_valid_and_commented(name, monkeypatch):
    monkeypatch.setattr(machine, "total_memory", lambda: 24_000_000_000)
    planned = plan(name)
    own = {"glass": ["reference", "training", "generation"], "isomers": ["minima", "adaptation", "production"]}
    workflow = load_workflow(name)[0]
    sections = {"learned": "correction"} | {section: section for section in ("vibrations", "spectra", "check")}
    asked = [stage for section, stage in sections.items() if getattr(workflow, section, None) is not None]
    assert [stage.name for stage in planned.stages] == [*own[workflow.kind], *asked, "estimates", "report"]
    assert planned.stages[0].energy_calls > 0
    text = (ROOT / "workflows" / f"{name}.yaml").read_text()
    assert text.startswith("# ") and text.count("  # ") >= 5


def test_pretrained_weights_replace_training_settings():
    data = yaml.safe_load(TINY.read_text()) | {"training": {"pretrained": "some_card"}}
    workflow, _, _ = load_workflow(data)
    assert workflow.training == PretrainedSettings(pretrained="some_card")
    with pytest.raises(InputError, match="minutes"):
        load_workflow(data, {"training": {"pretrained": "some_card", "minutes": 3}})


def test_overrides():
    assert load_workflow(TINY, ["seed=11", "training.steps=5"])[0].training.steps == 5
    assert load_workflow(TINY, {"seed": 11})[0].seed == 11
    assert parse_override("a.b=[1, x]") == ("a.b", [1, "x"])
    data = {"training": {"minutes": 3}}
    apply_overrides(data, {"training.minutes": 1})
    assert data == {"training": {"minutes": 3}}


def test_the_schema_is_json_and_names_every_section():
    schema = workflow_schema()
    json.dumps(schema)
    assert {"$ref": "#/$defs/GlassWorkflow"} in schema["oneOf"]
    schema = schema["$defs"]["GlassWorkflow"]
    assert set(schema["required"]) == {"version", "kind", "system", "reference", "training"}
    assert {"network", "interpolant", "generation", "estimates", "stop"} <= set(schema["properties"])


def test_run_folders_are_numbered(tmp_path):
    assert next_run_folder("a", tmp_path).name == "a-001"
    (tmp_path / "a-007").mkdir()
    (tmp_path / "a-b-009").mkdir()
    assert next_run_folder("a", tmp_path).name == "a-008"


def test_resources_have_defaults():
    assert Resources() == Resources(device="auto", threads=None, executor=None)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["version", "kind", "seed", "system", "reference", "network", "training", "generation", "stop"]),
)
def test_any_nonsense_in_a_section_is_an_input_error_or_valid(nonsense, section):
    data = yaml.safe_load(TINY.read_text()) | {section: nonsense}
    try:
        load_workflow(data)
    except InputError as error:
        assert section in str(error)
