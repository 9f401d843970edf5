"""Cells of several batches with known types, and which of them a method may see."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import mudata
import numpy as np
import pandas as pd
from _types import Labels, Rows, column
from mudata import MuData

from indiseek import datasets

_N_TEST = 4000
_DONOR_SEED = 0
_FILES = {"bmmc": "bmmc_cite_starter.h5mu", "midas": "midas_pbmc_paired.h5mu"}
_COVID = "covid_cite_donors.h5mu"
_COLUMNS = {"batch": "Batch", "type": "mergedcelltype", "condition": "cond_group", "donor": "Donor"}
WHOLE = tuple(_FILES)
SPLITS = ("random", "donors A", "donors B")


@dataclass(frozen=True, eq=False)
class Study:
    """Paired cells and their split.

    Attributes
    ----------
    mdata
        Modalities rna and prot; ``.obs`` has batch and type, of COVID also condition and donor.
    train, validation, test
        Sorted positions.
    whole
        Whether a method may fit on all cells, which are training and test cells at once: of what is measured only what
        is read across batches says anything then.
    """

    mdata: MuData
    train: Rows
    validation: Rows
    test: Rows
    whole: bool = False

    def column(self, name: str) -> Labels:
        """Labels of all cells."""
        return column(self.mdata, name)

    def take(self, rows: Rows) -> MuData:
        """Some of the cells."""
        return subset(self.mdata, rows)


def subset(mdata: MuData, rows: Rows, modalities: tuple[str, ...] = ("rna", "prot")) -> MuData:
    """Some cells, all or some modalities, labels with the MuData."""
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        # A gene and a protein may have one name.
        warnings.filterwarnings("ignore", message="var_names are not unique")
        some = MuData({name: mdata[name][rows].copy() for name in modalities})
        some.obs = mdata.obs.iloc[rows].copy()
    return some


def whole(shared: Path, name: str) -> Study:
    """A small set, all of it."""
    with mudata.set_options(pull_on_update=False), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="var_names are not unique")
        mdata = mudata.read_h5mu(shared / _FILES[name])
    mdata.obs = pd.DataFrame(
        {key: column(mdata, of) for key, of in (("batch", "batch"), ("type", "cell_type"))}, index=mdata.obs_names
    )
    every = np.arange(mdata.n_obs)
    return Study(mdata, every, every[:0], every, whole=True)


def covid(shared: Path, split: str, n_train: int, seed: int, *, without: str | None = None) -> Study:
    """COVID blood of 30 donors: cells held out at random, or all cells of six donors.

    Parameters
    ----------
    shared
        Folder with the file.
    split
        ``"random"``, ``"donors A"`` or ``"donors B"``.
    n_train
        Number of training cells; a ninth of them more are for validation, and up to 4,000 others are test cells.
    seed
        Draws the cells, not the donors.
    without
        Type of which no training or validation cell is taken.
    """
    mdata = datasets.covid_cite(shared / _COVID)
    mdata.obs = pd.DataFrame({key: column(mdata, of) for key, of in _COLUMNS.items()}, index=mdata.obs_names)
    order = np.random.default_rng(5000 + seed).permutation(mdata.n_obs)
    n_validation = n_train // 9
    if split == "random":
        seen, test = np.split(order[: n_train + n_validation + _N_TEST], [n_train + n_validation])
    else:
        away = np.isin(mdata.obs["donor"].to_numpy()[order], held_out_donors(mdata.obs)[split])
        seen, test = order[~away][: n_train + n_validation], order[away][:_N_TEST]
    train, validation = np.split(seen, [n_train])
    if without is not None:
        train, validation = (rows[mdata.obs["type"].to_numpy()[rows] != without] for rows in (train, validation))
    kept = np.sort(np.concatenate([train, validation, test]))
    positions = [np.searchsorted(kept, np.sort(rows)) for rows in (train, validation, test)]
    return Study(subset(mdata, kept), *positions)


def held_out_donors(obs: pd.DataFrame) -> dict[str, list[str]]:
    """Two sets of donors, in each a patient and a healthy one of every batch."""
    rng = np.random.default_rng(_DONOR_SEED)
    donors = obs[["batch", "condition", "donor"]].drop_duplicates().sort_values("donor")
    pairs = [rng.permutation(group["donor"].to_numpy())[:2] for _, group in donors.groupby(["batch", "condition"])]
    return {split: [str(pair[i]) for pair in pairs] for i, split in enumerate(SPLITS[1:])}


def types_of_all_batches(study: Study, *, least: int = 30) -> list[str]:
    """Types of which every batch has so many training cells."""
    train = study.train
    counts = pd.crosstab(study.column("type")[train], study.column("batch")[train])
    return [str(name) for name in counts.index[(counts >= least).all(axis=1)]]
