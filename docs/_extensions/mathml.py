"""Formulas as MathML, which browsers draw by themselves: no script, no fonts, nothing from the network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from docutils.nodes import SkipNode
from latex2mathml.converter import convert
from sphinx.util import logging

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

_logger = logging.getLogger(__name__)
# Commands that the converter does not know after \big, and what they stand for.
_SAME = {r"\lVert": "‖", r"\rVert": "‖", r"\Vert": "‖", r"\lvert": "|", r"\rvert": "|", r"\vert": "|"}


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(_mathml(node.astext(), "inline", node))
    raise SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node.get("number"):
        self.body.append(f'<span class="eqno">({node["number"]})</span>')
    self.body.append(_mathml(node.astext(), "block", node))
    self.body.append("</div>\n")
    raise SkipNode


def _mathml(latex: str, display: str, node: nodes.Node) -> str:
    wanted = latex.strip()
    for command, same in _SAME.items():
        wanted = wanted.replace(command, same)
    try:
        found: str = convert(wanted, display=display)
    except Exception as error:  # noqa: BLE001 (the converter has no errors of its own that all others derive from)
        _logger.warning("a formula that cannot be drawn (%s): %s", error, latex, location=node)
        return f"<code>{escape(latex)}</code>"
    if "\\" in found or ">&<" in found:
        _logger.warning("a formula with a command that is not known: %s", latex, location=node)
    return found


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the renderer, to be chosen by ``html_math_renderer``."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True}
