from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

_DISPLAY_DPI = 110


class NotebookFigure(Figure):
    """A figure that a notebook shows once, whether or not pyplot was ever imported.

    Figures made by pyplot stay in its global list and are drawn a second time at the end of a notebook cell; plain
    ones are only shown after pyplot has registered its own hook.
    """

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=_DISPLAY_DPI)
        return buffer.getvalue()
