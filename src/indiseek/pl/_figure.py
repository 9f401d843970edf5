from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import pandas as pd
from matplotlib.figure import Figure
from mudata import MuData

_DISPLAY_DPI = 110


def as_text(name: object) -> str:
    """A name from the data, which matplotlib shall show as it is: no mathematics, no control characters."""
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in str(name))
    # Nor does it put into a legend what begins so.
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")


def check_mdata(mdata: object) -> None:
    """Raise TypeError if it is no MuData."""
    if not isinstance(mdata, MuData):
        raise TypeError(
            f"expected a MuData, got {type(mdata).__name__}; give the one that the latents were written to."
        )


def check_has(value: object, names: Sequence[str], what: str) -> None:
    """Raise TypeError if an object has not what is drawn of it."""
    if not all(hasattr(value, name) for name in names):
        raise TypeError(f"expected {what}, got {type(value).__name__}; give it as it is.")


def check_columns(table: object, columns: Sequence[str], source: str) -> None:
    """Raise TypeError if it is no table, ValueError if columns are missing; `source` says what makes such a table."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"expected a table, got {type(table).__name__}; give what {source} gave.")
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"expected the columns {list(columns)}, got a table without {missing}; give what {source} gave."
        )


class NotebookFigure(Figure):
    """A figure that a notebook shows once, whether or not pyplot was ever imported.

    Figures made by pyplot stay in its global list and are drawn a second time at the end of a notebook cell; plain
    ones are only shown after pyplot has registered its own hook.
    """

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=_DISPLAY_DPI)
        return buffer.getvalue()
