"""The section that says how labels are spent."""

from typing import Annotated

from pydantic import Field, model_validator

from particlegen.settings import Section

__all__ = ["LabelSettings"]


class LabelSettings(Section):
    """How labels are spent.

    Attributes:
        budget: calls of the target in all, failed ones among them; null for no limit.
        first: labels of an isomer that has none yet.
        per_round: labels of an isomer from then on.
        most_failures: share of all calls so far that may fail; more end the run.
    """

    budget: Annotated[int, Field(ge=2)] | None = 200
    first: Annotated[int, Field(ge=2)] = 20
    per_round: Annotated[int, Field(ge=1)] = 10
    most_failures: Annotated[float, Field(ge=0, le=1)] = 0.3

    @model_validator(mode="after")
    def _affordable(self) -> "LabelSettings":
        if self.budget is not None and self.first > self.budget:
            raise ValueError(f"first: {self.first} labels are more than the budget of {self.budget}; raise the budget")
        return self
