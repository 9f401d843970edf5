"""Sphinx configuration; the build reads nothing from the network."""

from __future__ import annotations

import pkgutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.pycode import ModuleAnalyzer

import indiseek

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "indiseek"
author = "the indiseek developers"
copyright = f"2026, {author}"
release = version = installed_version("indiseek")

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))
extensions = [
    "mathml",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]

# autosummary writes its pages with the first suffix.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
nitpicky = True

# Markdown and notebooks. Notebooks are committed as they were run.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True

# API pages. Types stand in the signatures, one parameter a line; the numpydoc sections give shapes and units.
autosummary_generate = True
# Two pages must differ by more than case, for file systems that ignore it.
autosummary_filename_map = {
    "indiseek.metrics.Explained": "indiseek.metrics.Explained-class",
    "indiseek.metrics.Leakage": "indiseek.metrics.Leakage-class",
}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

# No inventories of other projects are fetched, so references to them cannot be resolved here.
_elsewhere = (
    "anndata|collections|contextlib|fractions|lightning|matplotlib|mudata|np|numpy|pandas|pathlib|pd|scanpy|scipy|scvi|"
    "sklearn|tqdm|zarr"
)
# Protocols that say what a plot needs; private on purpose.
nitpick_ignore = [
    ("py:class", "Cells"),
    ("py:class", "Certified"),
    ("py:class", "TuningResult"),
    ("py:class", "Verdict"),
]
nitpick_ignore_regex = [
    ("py:.*", rf"({_elsewhere}|torch|types)\..*"),
    # The same, and aliases of private files, by the short names that signatures use.
    ("py:class", r"AnnData|Array|ArrayLike|Axes|Figure|Metric|Module|MuData|NDArray|Parameter|Probe|Tensor|Verdict"),
    # Attributes of a dataclass are a list in its docstring, without an entry of their own.
    ("py:attr", r"tables|verdicts"),
    # Private classes have no page.
    ("py:class", r"indiseek\..*\b_.*"),
]

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
bibtex_default_style = "plain"

html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "indiseek"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sphinx = False
html_theme_options = {
    "navbar_persistent": [],
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
}
# Prompts are not copied with the code.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def _describe_constant(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Take the docstring of a constant from the private file that defines it; autodoc looks in the facade only."""
    if what != "data":
        return
    for module in pkgutil.walk_packages(indiseek.__path__, "indiseek."):
        docs = ModuleAnalyzer.for_module(module.name).find_attr_docs()
        if ("", name.rpartition(".")[2]) in docs:
            lines[:] = docs["", name.rpartition(".")[2]]
            return
    # That of its type says nothing of a plain number or word.
    if type(obj).__module__ == "builtins":
        lines[:] = []


def setup(app: Sphinx) -> None:
    """Connect the hook above, before numpydoc reads what it writes."""
    app.connect("autodoc-process-docstring", _describe_constant, priority=100)
