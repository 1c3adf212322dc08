"""The page's style sheet."""

__all__ = ["PAGE_STYLE"]

PAGE_STYLE = """
:root { --ink: #1f2933; --soft: #5b6875; --line: #dfe4ea; --back: #f5f6f8; --card: #ffffff; --accent: #0b7a75; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", sans-serif; }
header, main { max-width: 68rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
.brand { margin: 0; color: var(--accent); font-weight: 600; letter-spacing: .04em; font-size: .85rem; }
h1 { margin: .1rem 0; font-size: 1.8rem; line-height: 1.25; }
h1 .mark { vertical-align: middle; font-size: .8rem; }
h2 { font-size: 1.1rem; margin: 0 0 .75rem; }
.sub { margin: 0 0 1.25rem; color: var(--soft); overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.25rem; margin: 0 0 1.25rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem;
  margin-bottom: 1.25rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.card span { display: block; }
.label { color: var(--soft); font-size: .85rem; }
.big { font-size: 1.6rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.3; }
.small { color: var(--soft); font-size: .85rem; font-variant-numeric: tabular-nums; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
@media (max-width: 32rem) { .grid { grid-template-columns: 1fr; } }
figure { margin: 0 0 1rem; min-width: 0; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; text-align: center; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; color: var(--soft); font-weight: 600; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; font-weight: 600; }
code { font-size: .82rem; color: var(--soft); }
pre { overflow-x: auto; background: var(--back); border-radius: 8px; padding: .9rem; font-size: .82rem; }
.mark { display: inline-block; border-radius: 99px; padding: 0 .6em; font-size: .78rem; font-weight: 600; }
.mark.good { background: #d9f0e6; color: #12623f; }
.mark.fair { background: #fdf0cf; color: #7a5200; }
.mark.poor { background: #fbdcdc; color: #8f1d1d; }
.advice { list-style: none; margin: 0; padding: 0; }
.advice li { padding: .35rem 0; border-bottom: 1px solid var(--line); }
.advice li:last-child { border-bottom: 0; }
summary { cursor: pointer; padding: .3rem 0; font-weight: 600; }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""
