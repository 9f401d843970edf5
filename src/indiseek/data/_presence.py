"""Which cells have which modality, where not every cell has all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from indiseek.data._pairing import check_unique, refuse_other_names


@dataclass(frozen=True, eq=False)
class Presence:
    """Which cells have a modality, and where its values of a cell lie.

    Attributes
    ----------
    names
        By modality, names of the cells that it holds, in its own order.
    kept
        By modality, sorted positions among these of the cells that have it; the others are said to be without.
    places
        By modality, position among `kept` of each cell of the MuData, ``(n_cells,)``; -1 for one without it.
    has
        By modality, whether a cell has it, ``(n_cells,)``.
    with_all
        Whether a cell has every modality, ``(n_cells,)``: the paired ones.
    """

    names: dict[str, pd.Index]
    kept: dict[str, NDArray[np.intp]]
    places: dict[str, NDArray[np.intp]]
    has: dict[str, NDArray[np.bool_]] = field(init=False)
    with_all: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """Find who has what."""
        object.__setattr__(self, "has", {name: place >= 0 for name, place in self.places.items()})
        object.__setattr__(self, "with_all", np.logical_and.reduce(list(self.has.values())))

    def parted(self, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Those of the cells at `rows` that have every modality, and the others."""
        both = self.with_all[rows]
        return rows[both], rows[~both]

    def digest(self) -> str:
        """Digest of which cell has which modality."""
        found = hashlib.sha256()
        for mask in self.has.values():
            found.update(np.packbits(mask).tobytes())
        return found.hexdigest()

    def describe(self) -> str:
        """How many cells have what, in words."""
        alone = [f"{int((mask & ~self.with_all).sum()):,} with only {name!r}" for name, mask in self.has.items()]
        return ", ".join([f"{int(self.with_all.sum()):,} with all modalities", *alone])


def find_presence(
    mdata: MuData, modalities: Sequence[str], columns: Mapping[str, str], *, are_new: bool = False
) -> Presence | None:
    """Find which cells have which modality; None where each cell of the MuData has all of them, in its order.

    Parameters
    ----------
    mdata
        The cells.
    modalities
        Names of the modalities that are used.
    columns
        By modality, column of ``.obs`` that says which of the cells that it holds have it.
    are_new
        Whether these are not the cells of training: a column that they lack says nothing then.

    Raises
    ------
    KeyError
        If there is no such column.
    TypeError
        If a column holds anything but True and False.
    ValueError
        If names are not unique or not those of the MuData, a modality has no cell, or a cell no modality.
    """
    check_unique(mdata, modalities)
    refuse_other_names(mdata, modalities, need_pairs=not are_new)
    names = {name: mdata.mod[name].obs_names for name in modalities}
    places: dict[str, NDArray[np.intp]] = {}
    kept: dict[str, NDArray[np.intp]] = {}
    for name in modalities:
        place = np.asarray(names[name].get_indexer(mdata.obs_names), dtype=np.intp)
        if name in columns and not (are_new and columns[name] not in mdata.obs):
            said = _mask(mdata, name, columns[name])
            _check_said(said, place, name, columns[name])
            place = np.where(said, place, -1)
        kept[name] = np.sort(place[place >= 0])
        if not len(kept[name]):
            raise ValueError(
                f"expected cells that have modality {name!r}, got none; leave it out of modalities, or see to the "
                "column that is named in present."
            )
        places[name] = np.where(place >= 0, np.searchsorted(kept[name], place), -1)
    found = Presence(names, kept, places)
    without = ~np.logical_or.reduce(list(found.has.values()))
    if without.any():
        raise ValueError(
            f"expected every cell to have at least one of {list(modalities)}, got {int(without.sum())} without any, "
            f"such as {mdata.obs_names[without][0]!r}; leave these cells out."
        )
    # All is as it was without the word: the values are those of the modalities as they are.
    if found.with_all.all() and all(each.equals(mdata.obs_names) for each in names.values()):
        return None
    if len(modalities) > 2 and not found.with_all.all():
        raise ValueError(
            f"expected two modalities where some cells lack one, got {list(modalities)}; name two of them in "
            "setup_mudata(mdata, modalities=[...]), or keep the cells that have all."
        )
    return found


def _mask(mdata: MuData, name: str, key: str) -> NDArray[np.bool_]:
    if key not in mdata.obs:
        raise KeyError(
            f"expected a column {key!r} in .obs of the MuData, which says which cells have {name!r}, got "
            f"{list(mdata.obs.columns)}; add it: mdata.obs[{key!r}] = mask."
        )
    column = mdata.obs[key]
    if column.isna().any() or not pd.api.types.is_bool_dtype(column.dtype):
        raise TypeError(
            f"expected in .obs[{key!r}] True or False for every cell, got {column.dtype} values such as "
            f"{column.iloc[0]!r}{' and missing ones' * bool(column.isna().any())}; write "
            f"mdata.obs[{key!r}] = mdata.obs[{key!r}].astype(bool) once no value is missing."
        )
    return column.to_numpy(dtype=bool)


def _check_said(said: NDArray[np.bool_], place: NDArray[np.intp], name: str, key: str) -> None:
    n = int((said & (place < 0)).sum())
    if n:
        raise ValueError(
            f"expected .obs[{key!r}] to be True only for cells that modality {name!r} holds, got {n} that it does not; "
            "set it to False for them."
        )
