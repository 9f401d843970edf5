"""Maps of spaces: two coordinates for each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mudata
import numpy as np
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from indiseek.pl import umap_coordinates
from indiseek.report._encode import base64_of

_STEPS = 65535
_MARGIN = 0.03


@dataclass(frozen=True, eq=False)
class Space:
    """One map.

    Attributes
    ----------
    title
        Name of the space.
    note
        What it holds, in words.
    coordinates
        ``(n_cells, 2)``, finite.
    shown
        Whether it is there when the page opens.
    """

    title: str
    note: str
    coordinates: NDArray[np.floating]
    shown: bool = True

    def packed(self) -> dict[str, object]:
        """Plain values for the page: coordinates of 16 bits, in a square, up being up."""
        xy = np.asarray(self.coordinates, dtype=np.float64)
        low, high = xy.min(axis=0), xy.max(axis=0)
        side = float((high - low).max()) or 1.0
        unit = 0.5 + (xy - (low + high) / 2) / side * (1 - 2 * _MARGIN)
        unit[:, 1] = 1 - unit[:, 1]
        steps = np.rint(unit * _STEPS).astype(np.uint16)
        return {"title": self.title, "note": self.note, "shown": self.shown, "xy": base64_of(steps)}


def maps_of(codes: Mapping[str, NDArray[np.floating]], *, seed: int) -> dict[str, NDArray[np.float32]]:
    """UMAP of each space; nothing but the codes is read, and nothing is written.

    Parameters
    ----------
    codes
        Codes by name, ``(n_cells, n_latent)`` each, of at least 4 cells.
    seed
        Makes the coordinates reproducible on one machine.
    """
    n_cells = len(next(iter(codes.values())))
    with mudata.set_options(pull_on_update=False):
        cells = MuData({"cells": AnnData(np.zeros((n_cells, 1), dtype=np.float32))})
    for name, code in codes.items():
        cells.obsm[name] = np.asarray(code)
    return umap_coordinates(cells, list(codes), seed=seed)
