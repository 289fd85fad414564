"""The site: ``pip install -e ".[docs]" && sphinx-build -W --keep-going -b html docs docs/_build``.

Every code cell runs when the site is built, and an error in one of them is an error of the build.
"""

import os
import re
import sys

from sphinx.domains.python import PyObject

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # of the cells

project = "gvgap_jax"
author = "the gvgap_jax maintainers"
html_title = "gvgap_jax"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["_build"]
templates_path = ["_templates"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource", "no-value": True}
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
nitpick_ignore = [("py:class", f"gvgap_jax.optimize.{name}") for name in ("Batch", "Candidates")]  # type variables

AS_WRITTEN = {  # annotations, which autodoc sees resolved
    "~jaxlib._jax.Array": "Array",
    "~jaxtyping.": "",
    "Float[Array, ''] | float": "~gvgap_jax.types.Number",
    "Int[Array, ''] | int": "~gvgap_jax.types.Count",
    "Key[Array, '']": "~gvgap_jax.types.PRNGKey",
    "Int[Array, 'N P']": "~gvgap_jax.types.Prompts",
    "Int[Array, 'N H']": "~gvgap_jax.types.Responses",
}


def as_written(app, what, name, obj, options, signature, returned):
    """Shapes and aliases as they stand in the source; default values without where they lie in memory."""
    for resolved, written in AS_WRITTEN.items():
        signature, returned = (text and text.replace(resolved, written) for text in (signature, returned))
    return signature and re.sub(r"<function .*? at 0x[0-9a-f]+>", "…", signature), returned


def leave_out_fields(app, what, name, obj, skip, options):
    """The fields of a NamedTuple are described in its docstring already."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def link_names(app, what, name, obj, options, lines):
    """``module.name`` in a docstring becomes a link where the library has it."""

    def link(match):
        module, _, attribute = match[1].rpartition(".")
        there = f"gvgap_jax.{module}" in sys.modules and hasattr(sys.modules[f"gvgap_jax.{module}"], attribute)
        return f":py:obj:`{match[1]} <gvgap_jax.{match[1]}>`" if there else match[0]

    lines[:] = [re.sub(r"``([\w.]+\.\w+)``", link, line) for line in lines]


def setup(app):
    """What is called while docstrings are read."""
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", leave_out_fields)
    app.connect("autodoc-process-docstring", link_names)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
