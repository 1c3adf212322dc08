"""What a running computation tells the outside: events handed to a callback. No room prints or logs by itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Event", "EventSink", "ignore"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Args:
        kind: `started`, `progress`, `finished`, `warning`.
        stage: the workflow stage it belongs to, e.g. `reference`.
        message: one sentence for a person.
        fields: the same in numbers: JSON-serialisable values. `progress` events carry `done` and `total`,
            and `seconds_left` where it can be estimated.
    """

    kind: str
    stage: str
    message: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


EventSink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The sink that drops every event."""
