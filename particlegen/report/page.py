"""The frame of every report: one self-contained HTML page, its cards, tables, advice and figures."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from particlegen.report.advice import advise
from particlegen.report.drawing import as_image
from particlegen.report.quantities import Advice, entry_of, format_quantity, quantity
from particlegen.report.style import PAGE_STYLE

__all__ = ["card", "card_row", "document", "figure_block", "grid", "mark", "quantity_table", "table"]


def document(
    title: str,
    results: Mapping[str, Any],
    manifest: Mapping[str, Any],
    workflow_yaml: str,
    headline: str,
    sections: Sequence[tuple[str, str]],
) -> str:
    """The report as one HTML document that needs no network: figures are inside, no scripts, every string escaped.

    Args:
        title: the run's name.
        results: content of `results.json`.
        manifest: content of `manifest.json`.
        workflow_yaml: the canonical workflow.
        headline: HTML of the cards.
        sections: (heading, HTML), between the advice and how the run was made.
    """
    judgements = advise(results)
    reasons = [str(reason) for reason in results.get("status", {}).get("reasons", ())]
    verdict = "poor" if reasons or any(item.level == "poor" for item in judgements) else "good"
    said = "needs attention" if verdict == "poor" else "all diagnostics in order"
    shown = (
        ("What to make of it", _advice(judgements, reasons)),
        *sections,
        ("How it was made", _details(manifest, workflow_yaml)),
    )
    body = "\n".join(f"<section><h2>{escape(heading)}</h2>{html}</section>" for heading, html in shown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)} · particlegen</title>
<style>{PAGE_STYLE}</style>
</head>
<body>
<header>
<p class="brand">particlegen report</p>
<h1>{escape(title)} <span class="mark {verdict}">{said}</span></h1>
<p class="sub">{escape(_subtitle(results.get("system", {})))}</p>
</header>
<main>
{headline}
{body}
</main>
</body>
</html>
"""


def _subtitle(system: Mapping[str, Any]) -> str:
    """The system in one line."""
    parts = []
    for key, value in system.items():
        if isinstance(value, Mapping):
            value = " ".join(f"{name}{count}" for name, count in value.items())
        elif isinstance(value, list | tuple):
            value = " × ".join(f"{length:.5g}" for length in value)
        parts.append(str(value) if key == "name" else f"{key.replace('_', ' ')} {value}")
    return " · ".join(parts)


def card(label: str, entry: Mapping[str, Any], after: str = "") -> str:
    """A number that stands out, with its error.

    Args:
        label: what it is.
        entry: a quantity of `results.json`; its `stderr` is what stands behind ±.
        after: words behind the error and the unit.
    """
    stderr = float("nan") if entry.get("stderr") is None else float(entry["stderr"])
    number, _, error = format_quantity(float(entry["value"]), stderr).partition(" ± ")
    unit = str(entry.get("unit", ""))
    small = " ".join(part for part in (f"± {error}" if error else "", unit, after) if part)
    return (
        f'<div class="card"><span class="label">{escape(label)}</span><span class="big">{escape(number)}</span>'
        f'<span class="small">{escape(small)}&nbsp;</span></div>'
    )


def card_row(cards: Sequence[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'


def mark(level: str | None) -> str:
    """The coloured word of a judgement; empty for none."""
    return f'<span class="mark {level}">{level}</span>' if level else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table that scrolls where it is too wide.

    Args:
        head: headings as text.
        rows: cells as HTML.
        numbers: columns that hold numbers.
    """

    def cell(column: int, html: str) -> str:
        return f'<td class="number">{html}</td>' if column in numbers else f"<td>{html}</td>"

    top = "".join(f"<th>{escape(heading)}</th>" for heading in head)
    body = "".join(f"<tr>{''.join(cell(column, html) for column, html in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def quantity_table(results: Mapping[str, Any], rows: Sequence[tuple[str, str]]) -> str:
    """Quantities by dotted key and title, with their judgements; absent ones are left out."""
    levels = {item.key: item.level for item in advise(results)}
    shown = []
    for key, title in rows:
        entry, found = entry_of(results, key), quantity(results, key)
        if entry is None or found is None:
            continue
        shown.append(
            (
                f"{escape(title)}<br><code>{escape(key)}</code>",
                escape(format_quantity(*found)),
                escape(str(entry.get("unit", ""))),
                escape(str(entry.get("method", ""))),
                mark(levels.get(key)),
            )
        )
    return table(("quantity", "value ± standard error", "unit", "method", ""), shown, numbers=(1,))


def _advice(judgements: Sequence[Advice], reasons: Sequence[str]) -> str:
    items = [f'<li class="poor"><b>Not converged.</b> {escape(reason)}</li>' for reason in reasons]
    for item in judgements:
        items.append(
            f'<li class="{item.level}">{mark(item.level)} <code>{escape(item.key)}</code> {escape(item.text)}</li>'
        )
    return f'<ul class="advice">{"".join(items)}</ul>'


def figure_block(figure: Figure, alt: str, caption: str) -> str:
    """A figure with its caption; both texts are escaped."""
    return f"<figure>{as_image(figure, escape(alt))}<figcaption>{escape(caption)}</figcaption></figure>"


def grid(blocks: Sequence[str]) -> str:
    """Figures side by side."""
    return f'<div class="grid">{"".join(blocks)}</div>'


def _shown(value: Any) -> str:
    return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def _details(manifest: Mapping[str, Any], workflow_yaml: str) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(key))}</td><td>{_shown(value)}</td></tr>"
        for key, value in manifest.items()
        if key != "citations"
    )
    citations = "".join(f"<li>{escape(str(text))}</li>" for text in manifest.get("citations", ()))
    return (
        "<details><summary>The workflow, with defaults filled in</summary>"
        f"<pre>{escape(workflow_yaml)}</pre></details>"
        f'<details><summary>Versions, seeds, hashes</summary><div class="scroll"><table>{rows}</table></div></details>'
        f"<details open><summary>Please cite</summary><ul>{citations}</ul></details>"
    )
