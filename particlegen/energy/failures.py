"""How much of an engine's failing is borne."""

from particlegen.settings import RunError

__all__ = ["MOST_FAILURES", "check_failures"]

MOST_FAILURES = 0.5
"""A larger share of calls without an energy ends a run where its workflow states none: the engine is broken."""


def check_failures(name: str, asked: int, failed: int, first: str | None, most: float = MOST_FAILURES) -> None:
    """End the run where too large a share of an engine's calls failed.

    Args:
        name: of the engine.
        asked: calls so far.
        failed: those without an energy.
        first: reason of the first failure.
        most: share that may fail.

    Raises:
        RunError: more failed.
    """
    if failed > most * asked:
        raise RunError(
            f"{failed} of {asked} calls of {name} failed, more than {most:.0%}; the first: {first or 'not told'}; "
            "labels so far are kept: mend the engine, then resume"
        )
