"""A workflow on isomers as the runner sees it: checks, provenance, plan."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from particlegen import catalogue
from particlegen.energy.distributed import made
from particlegen.energy.engine_cards import engine_digest
from particlegen.energy.provider import EnergyProvider
from particlegen.energy.pyscf_spectra import excited
from particlegen.isomers import BuiltCluster, build_cluster
from particlegen.settings import InputError
from particlegen.workflow.citations import METHODS, PACKAGE, one_of_each_work
from particlegen.workflow.engines import engine_recipe
from particlegen.workflow.isomers.adaptation import run_adaptation
from particlegen.workflow.isomers.check import run_check
from particlegen.workflow.isomers.correction import run_correction
from particlegen.workflow.isomers.estimates import run_estimates
from particlegen.workflow.isomers.extension import origin, run_inheritance
from particlegen.workflow.isomers.job import IsomerJob, engine_card
from particlegen.workflow.isomers.learning import labels_reserved
from particlegen.workflow.isomers.minima import run_minima
from particlegen.workflow.isomers.plan import outline
from particlegen.workflow.isomers.production import run_production
from particlegen.workflow.isomers.report import run_report
from particlegen.workflow.isomers.run import IsomerRun
from particlegen.workflow.isomers.schema import IsomerWorkflow
from particlegen.workflow.isomers.spectra import run_spectra
from particlegen.workflow.isomers.vibrations import run_vibrations
from particlegen.workflow.kind import Provenance
from particlegen.workflow.plans import Outline

__all__ = ["ISOMERS"]


class _Isomers:
    """`kind: isomers`."""

    stages: Mapping[str, Callable[[Any], None]] = {
        "inherited": run_inheritance,
        "minima": run_minima,
        "adaptation": run_adaptation,
        "production": run_production,
        "correction": run_correction,
        "vibrations": run_vibrations,
        "spectra": run_spectra,
        "check": run_check,
        "estimates": run_estimates,
        "report": run_report,
    }
    job = IsomerJob
    open = IsomerRun

    def build(self, workflow: IsomerWorkflow, relative_to: Path) -> BuiltCluster:
        """The cluster of the workflow, once its engine is opened."""
        built = build_cluster(workflow.system, relative_to)
        name, folder = engine_card(workflow, built, relative_to)
        engine = made(engine_recipe(built.system, name, None, folder))
        if "forces" not in getattr(engine, "quantities", ("forces",)):
            raise InputError(f"key 'energy.engine': {name!r} gives no forces, which local moves need")
        _check_budget(workflow, built)
        _check_baseline(workflow, built, name, relative_to)
        _check_observations(workflow, built, relative_to, engine)
        return built

    def provenance(self, workflow: IsomerWorkflow, built: BuiltCluster, relative_to: Path) -> Provenance:
        name, folder = engine_card(workflow, built, relative_to)
        card = catalogue.load("potentials", name, folder)
        cards, engines = [card], {name: engine_digest(name, folder)}
        others = (workflow.learned and workflow.learned.baseline, workflow.check and workflow.check.engine)
        for other in filter(None, others):
            cards.append(catalogue.load("potentials", other, relative_to))
            engines[other] = engine_digest(other, relative_to)
        texts = [PACKAGE, *built.citations, *(str(text) for each in cards for text in each.data.get("citations", ()))]
        keys = ["adaptive flow", "eckart", "coupling", "isir", "hmc", "bar", "r_hat", "pareto_k"]
        keys += [] if workflow.vibrations is None else ["verlet", "velocity spectrum"]
        keys += [] if workflow.spectra is None else ["tddft", "nuclear ensemble"]
        return Provenance(
            _system_hash(built),
            (built.card, *cards),
            engines,
            one_of_each_work([*texts, *(METHODS[key] for key in keys)]),
        )

    def origin(
        self, workflow: IsomerWorkflow, built: BuiltCluster, provenance: Provenance, relative_to: Path
    ) -> Mapping[str, Any]:
        return origin(workflow, built, provenance, relative_to)

    def workers(self, workflow: IsomerWorkflow) -> int:
        return 1

    def outline(self, workflow: IsomerWorkflow, built: BuiltCluster) -> Outline:
        return outline(workflow, built)


ISOMERS = _Isomers()

OPTIMISATION = 10
"""Labels that an optimisation takes from a fair guess."""


def _check_budget(workflow: IsomerWorkflow, built: BuiltCluster) -> None:
    """A budget has to pay for minima, first labels and correction, and for a round of learning."""
    budget, learned = workflow.energy.budget, workflow.learned
    if budget is None:
        return
    if learned is None:
        raise InputError(
            "key 'energy.budget': it is for learned potentials; without 'learned' every move asks the engine: leave it "
            "out, or add the section 'learned'"
        )
    frame = 3 * built.system.n_particles - 6
    if workflow.start_from is not None:
        least = len(built.isomers) * learned.per_round + labels_reserved(workflow, len(built.isomers))
        if budget < least:
            raise InputError(
                f"key 'energy.budget': found {budget}, at least {least} new labels are needed: {learned.per_round} of "
                f"a round for each of the {len(built.isomers)} isomers, and the correction; raise it, or lower "
                "learned.per_round, correction.labels, correction.decisions"
            )
        return
    each = 2 * frame + OPTIMISATION + learned.first + learned.per_round
    least = len(built.isomers) * each + labels_reserved(workflow, len(built.isomers))
    if budget < least:
        raise InputError(
            f"key 'energy.budget': found {budget}, at least {least} are needed to start: for each of the "
            f"{len(built.isomers)} isomers about {OPTIMISATION} for its optimisation, {2 * frame} for its Hessian, "
            f"{learned.first} first labels, {learned.per_round} of a round, and the correction; raise it, or lower "
            "learned.first, learned.per_round, correction.labels, correction.decisions"
        )


def _check_baseline(workflow: IsomerWorkflow, built: BuiltCluster, engine: str, relative_to: Path) -> None:
    """A baseline has to open, to give forces, and to be another engine than the one that is learned."""
    if workflow.learned is None or workflow.learned.baseline is None:
        return
    name, key = workflow.learned.baseline, "key 'learned.baseline'"
    if name == engine:
        raise InputError(f"{key}: {name!r} is the engine itself; name a cheaper one, or leave it out")
    baseline = made(engine_recipe(built.system, name, None, relative_to))
    if "forces" not in getattr(baseline, "quantities", ("forces",)):
        raise InputError(f"{key}: {name!r} gives no forces, which learning and local moves need")


def _check_observations(
    workflow: IsomerWorkflow, built: BuiltCluster, relative_to: Path, engine: EnergyProvider
) -> None:
    """Spectra need excitations, and a check another engine, which is opened here."""
    name, folder = engine_card(workflow, built, relative_to)
    if workflow.spectra is not None:
        try:
            excited(engine)
        except InputError as error:
            raise InputError(f"key 'spectra': card {name!r}: {error}; or leave the section out") from error
    if workflow.check is not None:
        other = workflow.check.engine
        try:
            made(engine_recipe(built.system, other, None, relative_to))
        except InputError as error:
            raise InputError(f"key 'check.engine': {error}") from error
        if engine_digest(other, relative_to) == engine_digest(name, folder):
            raise InputError(f"key 'check.engine': {other!r} is the run's own engine; name another one")


def _system_hash(built: BuiltCluster) -> str:
    """A digest of the particles, the confinement and the structures that basins and frames rest on."""
    content = {
        "species": list(built.system.species),
        "radius": f"{built.system.geometry.radius:.10g}",  # pyright: ignore[reportAttributeAccessIssue]
        "reach": f"{built.basins.reach:.10g}",
        "scales": [f"{value:.10g}" for value in built.basins.scales],
        "structures": [[f"{value:.8f}" for value in x.flatten().tolist()] for x in built.basins.references],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
