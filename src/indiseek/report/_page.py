"""The page: what goes in, and the HTML."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from indiseek._checks import printable
from indiseek.report._colours import Colours
from indiseek.report._encode import as_json, squeezed
from indiseek.report._spaces import Space

_SCRIPTS = ("data.js", "maps.js", "table.js")
# Rows that are there without a script, as in the preview of a mail.
_STATIC_ROWS = 15


@dataclass(frozen=True, eq=False, kw_only=True)
class Page:
    """What a page tells. All texts are plain: whatever is in them is shown as it is.

    Attributes
    ----------
    title, written
        Headline, and when and by what the page was written.
    summary
        What was found, a sentence each.
    facts
        What was run on what: label and value.
    spaces
        Maps, of the same cells.
    cells
        Names of the cells of the maps.
    n_cells
        Number of cells in all; where it is larger than that of the maps, the page says so.
    colours, first
        What the maps can be coloured by, and the title of the one that they have at first.
    features, features_note
        :func:`feature_rows`, and how to read it; None for none.
    certificate, findings
        The certificate's headline, and :func:`findings`.
    groups
        Tables of batches, donors and conditions: caption, columns and rows.
    effects
        :func:`effect_rows`; None for none.
    curves
        :func:`curves`.
    versions, code, citation
        Packages with their versions, code that gives the same again, and what to cite: text and address.
    """

    title: str
    written: str
    summary: Sequence[str]
    facts: Sequence[tuple[str, str]]
    spaces: Sequence[Space] = ()
    cells: pd.Index = field(default_factory=lambda: pd.Index([], dtype=object))
    n_cells: int = 0
    colours: Colours = field(default_factory=lambda: Colours([], [], 0))
    first: str | None = None
    features: dict[str, Any] | None = None
    features_note: str = ""
    certificate: str = ""
    findings: Sequence[dict[str, Any]] = ()
    groups: Sequence[dict[str, Any]] = ()
    effects: dict[str, Any] | None = None
    curves: Sequence[dict[str, Any]] = ()
    versions: Sequence[tuple[str, str]] = ()
    code: str = ""
    citation: tuple[str, str] = ("", "")


def render(page: Page) -> str:
    """HTML of a page, which loads nothing and which its own rules forbid to.

    Parameters
    ----------
    page
        What it tells.
    """
    folder = files("indiseek.report") / "page"
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (folder / "page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["printable"] = lambda value: printable(str(value))
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    names = "\n".join(printable(str(name)).replace("\n", " ") for name in page.cells)
    data = {
        "n": len(page.cells),
        "spaces": [space.packed() for space in page.spaces],
        "columns": page.colours.columns,
        "features": page.colours.features,
        "first": page.first,
        "table": page.features,
        "names": squeezed(names.encode()),
    }
    return template.render(
        page=page,
        static_rows=_STATIC_ROWS,
        data=as_json(data),
        script=Markup(script),
        style=Markup(style),
        script_hash=_hash(script),
        style_hash=_hash(style),
    )


def _hash(text: str) -> str:
    """Hash by which a browser knows an element that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
