"""How `make docs` builds the site: MyST pages as they stand, and an API reference of the docstrings. No network."""

from __future__ import annotations

import re
from typing import Any, get_args

from docutils import nodes
from sphinx.util.inspect import TypeAliasForwardRef
from sphinx.util.nodes import make_refnode

import pidsl
import pidsl.analysis.questions  # before the modules that it stands on, which import each other
from pidsl.language.terms import Node, Term

project = "pidsl"
author = "The pidsl authors"
copyright = "The pidsl authors, MIT licence"
version = release = pidsl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["notebooks"]  # made of these pages
language = "en"

# -- pages ---------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # `page.md#a-heading` is a link, and is checked
html_theme = "furo"
html_title = f"pidsl {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style, pygments_dark_style = "a11y-high-contrast-light", "a11y-high-contrast-dark"
templates_path: list[str] = []
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1a5fb4", "color-brand-content": "#1a5fb4"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}

# -- docstrings ----------------------------------------------------------------------------------------------------

default_role = "code"  # `x` in a docstring is code
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
autosummary_generate = False  # the pages say by hand which names there are, in an order that can be read
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
add_module_names = False
autodoc_type_aliases = {name: name for name in ("Term", "Index", "Assume", "Pattern", "Subject", "Value")}
TypeAliasForwardRef.__repr__ = lambda self: self.name  # within `tuple[Term, ...]`

# What all kinds of patterns can do stands in their base class.
Term.__name__, Term.__qualname__, Term.__module__ = "Term", "Term", "pidsl"
KINDS = tuple(kind.__name__ for kind in get_args(Node))

# A type that has no page here, of another library or of the inside, is shown and not linked: nothing is fetched.
nitpick_ignore_regex = [("py:class", r"[\w.]+"), ("py:.*", r"(torch|numpy|sympy|islpy|networkx|matplotlib|typing)\..*")]
KINDS_IN_TEXT = r" \| ".join(rf"[\w.~]*\b{kind}" for kind in KINDS)
COLON = "\ue000"


def _short(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Docstrings name `TermError` or `Bound`: the one public thing that has it as its last name."""
    name = node.get("reftarget", "").rpartition(".")[2]
    objects = env.get_domain("py").objects
    for full, found in objects.items():
        if (
            node.get("refdomain") == "py"
            and full.rpartition(".")[2] == name
            and found.objtype in ("class", "exception")
        ):
            return make_refnode(app.builder, node.get("refdoc", ""), found.docname, found.node_id, content, full)
    return None


def _hide_colons(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes the words before a colon of a property's first line for its type."""
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(":", COLON)


def _show_colons(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def _named(app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returned: str) -> Any:
    """`Term` where an annotation was evaluated to the union."""
    return tuple(text and re.sub(KINDS_IN_TEXT, "pidsl.Term", text) for text in (signature, returned))


def _without_last_line(app: Any, document: nodes.document) -> None:
    """Examples end in an empty line, which ends the output for doctest and is not shown."""
    for block in document.findall(nodes.literal_block):
        text = block.astext().rstrip("\n")
        if block.rawsource == block.astext():
            block.rawsource = text
        block.children = [nodes.Text(text)]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", _without_last_line)
    app.connect("autodoc-process-docstring", _hide_colons, priority=1)
    app.connect("autodoc-process-docstring", _show_colons, priority=999)
    app.connect("autodoc-process-signature", _named)
    app.connect("missing-reference", _short)
