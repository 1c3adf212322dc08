"""What a glass workflow would do, and what it takes, known before anything runs."""

from particlegen.energy import BuiltSystem
from particlegen.networks import NetworkSize, network_size
from particlegen.workflow.glass.observables import SAMPLES
from particlegen.workflow.glass.schema import GlassWorkflow, PretrainedSettings
from particlegen.workflow.plans import Need, Outline, PlannedStage

__all__ = ["outline"]

EDGES_AT_ONCE = 1 << 13
"""What the hollow network's divergence holds at a time, however large the chunk."""

GRADIENT = 1.5
"""Memory of a training step, in what is kept for the gradient."""

PASS = 0.65
"""Memory of a pass without gradients, in what would be kept for one."""

COMPILER = 6e8
"""Bytes that torch.compile takes."""

OPTIMISER = 60
"""Bytes per parameter: weights, gradient, moments, averages, and a copy of all for the checkpoint."""


def outline(workflow: GlassWorkflow, built: BuiltSystem) -> Outline:
    """Stages, memory and disk of a workflow."""
    system, size = built.system, network_size(workflow.network, built.system)
    composition = " ".join(f"{name}{n}" for name, n in zip(system.species_names, system.composition, strict=True))
    box = " x ".join(f"{length:.5g}" for length in system.torus.lengths)
    coordinates = system.n_particles * system.dim
    frames, samples = workflow.reference.frames, workflow.generation.samples
    return Outline(
        system=f"{system.name}: N = {system.n_particles} ({composition}), box {box}, T = {built.state.temperature:g}",
        stages=_stages(workflow, built, size.parameters),
        memory=_memory(workflow, built, size),
        disk=(
            # Segments and data.h5 are there together until the last are moved.
            Need(
                "frames of the reference", 16.0 * frames * (coordinates + 2), ("reference.frames", "system.particles")
            ),
            Need("samples", 16.0 * samples * (coordinates + 4), ("generation.samples", "system.particles")),
            Need("checkpoints", 50.0 * size.parameters + 1e6, ("network.width",)),
        ),
    )


def _memory(workflow: GlassWorkflow, built: BuiltSystem, size: NetworkSize) -> tuple[Need, ...]:
    reference, generation, system = workflow.reference, workflow.generation, built.system
    coordinates, samples = system.n_particles * system.dim, generation.samples
    chains = reference.chains * len(reference.ladder(system, built.state))
    block = reference.chunk_frames * reference.chains
    return (
        Need(
            "frames of the reference",
            16.0 * reference.frames * (coordinates + 2),
            ("reference.frames", "system.particles"),
        ),
        Need("a block of frames", 40.0 * block * (coordinates + 2), ("reference.block_frames", "reference.chains")),
        Need("states of the chains", 100.0 * chains * coordinates, ("reference.chains", "system.particles")),
        *_training(workflow, size),
        _drawing(workflow, built, size),
        Need(
            "samples and their weights",
            100.0 * samples + 24.0 * min(samples, SAMPLES) * coordinates,
            ("generation.samples", "system.particles"),
        ),
    )


def _training(workflow: GlassWorkflow, size: NetworkSize) -> tuple[Need, ...]:
    training, network = workflow.training, ("network.width", "network.rounds")
    weights = Need("weights and optimiser", float(OPTIMISER * size.parameters), network, on_device=True)
    if isinstance(training, PretrainedSettings):
        return (weights,)
    step = GRADIENT * training.batch * size.activations
    keys = ("training.batch", "system.particles", *network)
    compiled = (Need("torch.compile", COMPILER, ("training.compile",)),) if training.compile else ()
    return weights, Need("the gradient of a batch", step, keys, on_device=True), *compiled


def _drawing(workflow: GlassWorkflow, built: BuiltSystem, size: NetworkSize) -> Need:
    """Of a chunk of samples that the flow carries along."""
    generation, n = workflow.generation, built.system.n_particles
    rows = min(generation.chunk, generation.samples)
    if generation.likelihood == "exact" and workflow.network.kind == "hollow":
        passing = GRADIENT * min(rows, max(1.0, EDGES_AT_ONCE / n**2))
    else:
        # A pass, and the directions that are carried along with it.
        along = {"exact": 1, "hutchinson": generation.probes, "path": 0}[generation.likelihood]
        passing = PASS * (1 + along) * rows
    solver = 160.0 * rows * n * built.system.dim
    keys = ("generation.chunk", "system.particles", "network.width", "network.rounds")
    return Need("a chunk of samples on its way", passing * size.activations + solver, keys, on_device=True)


def _stages(workflow: GlassWorkflow, built: BuiltSystem, parameters: int) -> tuple[PlannedStage, ...]:
    reference, training, generation = workflow.reference, workflow.training, workflow.generation
    calls = reference.energy_calls(built.system, built.state)
    if isinstance(training, PretrainedSettings):
        learns = f"weights of {training.pretrained}"
    else:
        length = f"{training.minutes:g} minutes, batches" if training.steps is None else f"{training.steps:,} steps"
        learns = f"{parameters:,} parameters, {length} of {training.batch}"
        if training.start_from is not None:
            learns += f", from the weights of {training.start_from}"
    draws = f"{generation.samples:,} samples, {generation.solver}, {generation.likelihood} likelihood"
    shown = ", ".join(workflow.estimates.observables) + (", free energy" if workflow.estimates.free_energy else "")
    return (
        PlannedStage(
            "reference", f"{reference.frames:,} frames, {reference.sampler}, {reference.chains} chains", calls
        ),
        PlannedStage("training", learns),
        PlannedStage("generation", draws, generation.samples),
        PlannedStage("estimates", shown),
        PlannedStage("report", "report.html"),
    )
