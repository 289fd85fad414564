"""The site: ``pip install -e ".[docs]" && sphinx-build -j auto -W --keep-going -b html docs docs/_build``.

Every code cell runs when the site is built, and an error in one of them is an error of the build.
"""

import os
import re
import sys
import typing
from importlib import resources

from sphinx import addnodes
from sphinx.domains.python import PyObject

project = "gvgap_jax"

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # of the cells, as is the next line: they compile more than they compute
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
typing.GENERATING_DOCUMENTATION = project  # jaxtyping then names shapes as they stand in the source

author = "the gvgap_jax maintainers"
html_title = "gvgap_jax"
html_theme = "furo"
# Formulas without a network. As an extension that package would forbid -j: it alone brings the scripts and letters.
html_static_path = ["_static", str(resources.files("sphinx-mathjax-offline") / "static")]
mathjax_path = "mathjax/tex-chtml.js"
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["_build", "jupyter_execute"]
templates_path = ["_templates"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autosummary_generate = True
autosummary_ignore_module_all = False
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # they stand in the signature
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

nitpicky = True  # a reference to something of this project that is not there is an error
nitpick_ignore_regex = [(r"py:.*", r"(?!(gvgap_jax|theory)\b).*")]

ALIASES = {  # annotations, which autodoc sees resolved
    "Float[Array, ''] | float": "~gvgap_jax.types.Number",
    "Int[Array, ''] | int": "~gvgap_jax.types.Count",
    "Key[Array, '']": "~gvgap_jax.types.PRNGKey",
    "Int[Array, 'N P']": "~gvgap_jax.types.Prompts",
    "Int[Array, 'N H']": "~gvgap_jax.types.Responses",
}


def as_written(app, what, name, obj, options, signature, returned):
    """Annotations, and default values that are functions, as they stand in the source."""

    def written(text):
        for resolved, alias in ALIASES.items():
            text = text.replace(resolved, alias)
        return re.sub(r"<function (\w+)>", r"\1", re.sub(r"<factory>|<function \S*<lambda>>", "...", text))

    return signature and written(signature), returned and written(returned)


def leave_out_values(app, domain, kind, content):
    """Values of constants that are more than a number: unions, tables of functions."""
    if kind == "data":
        for value in list(content.parent.findall(addnodes.desc_annotation)):
            if len(value.astext()) > 20:
                value.parent.remove(value)


def leave_out_fields(app, what, name, obj, skip, options):
    """Fields of a NamedTuple and functions that are default values: the docstring of the class describes them."""
    default = what == "class" and getattr(obj, "__name__", name) != name
    return True if default or type(obj).__name__ == "_tuplegetter" else None


def link_names(app, what, name, obj, options, lines):
    """``module.name`` in a docstring becomes a link where the library has it; attributes described together stay so."""

    def link(match):
        module, _, attribute = match[1].rpartition(".")
        there = f"gvgap_jax.{module}" in sys.modules and hasattr(sys.modules[f"gvgap_jax.{module}"], attribute)
        return f":py:obj:`{match[1]} <gvgap_jax.{match[1]}>`" if there else match[0]

    def together(match):
        return match[0].replace(", ", "/")  # the domain reads "a, b" as a type and a name

    lines[:] = [re.sub(r"^:ivar [\w, ]+:", together, re.sub(r"``([\w.]+\.\w+)``", link, line)) for line in lines]


def is_type_variable(app, domain, node):
    """Whether a name without a page is one that needs none."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    return True if isinstance(getattr(sys.modules.get(module), name, None), typing.TypeVar) else None


def setup(app):
    """What is called while docstrings are read."""
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", leave_out_fields)
    app.connect("autodoc-process-docstring", link_names)
    app.connect("object-description-transform", leave_out_values)
    app.connect("warn-missing-reference", is_type_variable)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
