"""Sphinx configuration: pages in Markdown (myst), API pages from docstrings, benchmark tables from recorded results."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from benchmark_tables import MARKER, render_results  # noqa: E402

import particlegen  # noqa: E402
from particlegen.settings import Section  # noqa: E402

project = "particlegen"
author = "The particlegen developers"
copyright = "the particlegen developers, MIT licence"
version = release = particlegen.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"particlegen {release}"
html_show_sourcelink = False
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

# Single backticks in docstrings are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
nitpicky = True
# Types of other packages, and jaxtyping's shapes, which are no links. Names of this package have to resolve.
nitpick_ignore_regex = [(r"py:.*", r"(?!particlegen\b).*|.*\.(Annotated|SectionType|_\w+)")]


def _escape(app, what, name, obj, options, lines):
    """|x| is an absolute value in docstrings, not a substitution; code in backticks stays as it is."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith(">>>"):
            pieces = re.split(r"(`[^`]*`)", line)
            lines[number] = "".join(p if p.startswith("`") else p.replace("|", r"\|") for p in pieces)


def _hide_pydantic(app, what, name, obj, skip, options):
    """Of a settings section the keys are shown, not what pydantic adds to every model."""
    return True if name.startswith("model_") else None


def _hide_keys(app, what, name, obj, options, signature, returns):
    """The keys of a settings section stand below its name with what they mean, not a second time in a signature."""
    return ("", None) if what == "class" and issubclass(obj, Section) else None


def _resolve(app, env, node, contnode):
    """A class documented in its room's page is also found under the module that defines it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("particlegen."):
        return None
    domain, room, name = env.get_domain("py"), target.split(".")[1], target.rsplit(".", 1)[-1]
    known = [key for key in domain.objects if key.rsplit(".", 1)[-1] == name]
    known = [key for key in known if key.split(".")[1] == room] or known
    if len(known) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", known[0], node, contnode)


def _tabulate(app, docname, source):
    """The benchmark page shows what the recorded results hold, so that page and results cannot drift apart."""
    if docname == "benchmarks":
        source[0] = source[0].replace(MARKER, render_results(HERE.parent / "benchmarks" / "results"))


def setup(app):
    app.connect("autodoc-process-docstring", _escape)
    app.connect("autodoc-skip-member", _hide_pydantic)
    app.connect("autodoc-process-signature", _hide_keys)
    app.connect("missing-reference", _resolve)
    app.connect("source-read", _tabulate)
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: ["benchmarks"])
    return {"parallel_read_safe": True}
