"""What a page is made of, to tell whether a text of a file became part of it."""

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

EVIL = """<script>alert(1)</script>"'></style></title><img src=javascript:x onerror=y><!-- &lt; $x_{^ [red]"""
"""A text that breaks out wherever it is not escaped."""


class _Shape(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, ...]] = []

    def handle_starttag(self, tag, attrs):
        # Pictures differ with the texts in them; their address may be data alone.
        kept = [f"{name}={value[:14] if name == 'src' else value}" for name, value in attrs if name != "alt"]
        self.found.append((tag, *kept))

    def handle_endtag(self, tag):
        self.found.append((f"/{tag}",))

    def handle_comment(self, data):
        self.found.append(("comment", data))


def shape(page: str) -> list[tuple[str, ...]]:
    """Elements and attributes of a page in order, texts left out."""
    parser = _Shape()
    parser.feed(page)
    parser.close()
    return parser.found


def with_text(value: Any, text: str) -> Any:
    """The same nested value with every string replaced; keys stay."""
    if isinstance(value, str):
        return text
    if isinstance(value, Mapping):
        return {key: with_text(inner, text) for key, inner in value.items()}
    return [with_text(inner, text) for inner in value] if isinstance(value, list) else value
