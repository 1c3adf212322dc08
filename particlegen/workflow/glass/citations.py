"""What a glass workflow is to be cited for."""

from collections.abc import Sequence

from particlegen.catalogue import Card
from particlegen.energy import BuiltSystem
from particlegen.workflow.citations import METHODS, PACKAGE, one_of_each_work
from particlegen.workflow.glass.schema import GlassWorkflow, PretrainedSettings

__all__ = ["citations"]


def citations(workflow: GlassWorkflow, built: BuiltSystem, cards: Sequence[Card]) -> list[str]:
    """What to cite, from what the workflow uses.

    Args:
        cards: of the engine and of the trained network, where the workflow names them.
    """
    keys = ["interpolant", "flow matching", "r_hat", "pareto_k"]
    keys += [workflow.network.kind] if workflow.network.kind == "hollow" else []
    training = workflow.training
    keys += ["muon"] if not isinstance(training, PretrainedSettings) and training.optimiser == "muon" else []
    keys += ["hutchinson"] if workflow.generation.likelihood == "hutchinson" else []
    keys += ["denoiser"] if workflow.network.denoiser else []
    keys += ["path weights"] if workflow.generation.likelihood == "path" else []
    keys += [workflow.reference.sampler] if workflow.reference.sampler in METHODS else []
    keys += ["freud"] if {"rdf", "structure_factor"} & set(workflow.estimates.observables) else []
    theirs = [str(text) for card in cards for text in card.data.get("citations", ())]
    return one_of_each_work([PACKAGE, *built.citations, *(METHODS[key] for key in keys), *theirs])
