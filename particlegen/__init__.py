"""Equilibrium samples and free energies of particle systems from generative models.

>>> import particlegen
>>> sorted(set(particlegen.__all__) - {"__version__"})
['Run', 'extend', 'open_run', 'resume', 'run']
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from particlegen.workflow import Run, extend, open_run, resume, run

__all__ = ["Run", "__version__", "extend", "open_run", "resume", "run"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The workflow room is loaded when first asked for, so that `import particlegen.geometry` stays light."""
    if name in ("Run", "extend", "open_run", "resume", "run"):
        from particlegen import workflow

        return getattr(workflow, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
