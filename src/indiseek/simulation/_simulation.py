from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anndata
import mudata
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated paired modalities together with their truth.

    Attributes
    ----------
    features
        For each modality the observed array of shape ``(n_cells, n_features)``, float32, real-valued (not counts).
    shared
        True shared latents, shape ``(n_cells, n_shared)``, float64, the same for all modalities.
    specific
        For each modality its true private latents, shape ``(n_cells, n_specific)``, float64.
    clusters
        For each modality with a discrete private state the state of every cell, shape ``(n_cells,)``, integers from 0.
        Empty when there are none.
    labels
        Answers to named questions for every cell, shape ``(n_cells,)`` each, integers from 0. Empty where none.
    style
        For each modality what it has in common with the other up to a random change, shape ``(n_cells, n_style)``,
        float64. Empty when there is none.
    paired
        For each two of three or more modalities, by their names, what they have in common and no other has, shape
        ``(n_cells, n_paired)``, float64. Empty when there is none.
    mutual_information
        I(X_1; X_2) between the features of the two modalities in nats where a closed form exists, else None.
        None means unknown, not zero.
    """

    features: Mapping[str, np.ndarray]
    shared: np.ndarray
    specific: Mapping[str, np.ndarray]
    clusters: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    style: Mapping[str, np.ndarray] = field(default_factory=dict)
    paired: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict)
    mutual_information: float | None = None

    def to_mudata(self) -> mudata.MuData:
        """The simulation as a MuData.

        Returns
        -------
        mudata.MuData
            For each modality ``.X`` holds the features as float32, ``.obsm["true_shared"]`` and
            ``.obsm["true_specific"]`` the true latents, and where there is any ``.obsm["true_style"]`` the style,
            ``.obsm["true_paired"]`` what it has in common with each other modality alone, side by side, and
            ``.obs["true_cluster"]`` the private state; the MuData's own ``.obs`` holds the labels as ``true_<label>``.
            Cells are called ``cell_0``, features ``<modality>_0``. All arrays are copies.
        """
        cells = pd.Index([f"cell_{i}" for i in range(len(self.shared))])
        modalities = {}
        for name, x in self.features.items():
            adata = anndata.AnnData(
                X=x.copy(),
                obs=pd.DataFrame(index=cells),
                var=pd.DataFrame(index=pd.Index([f"{name}_{j}" for j in range(x.shape[1])])),
                obsm={"true_shared": self.shared.copy(), "true_specific": self.specific[name].copy()},
            )
            if name in self.style:
                adata.obsm["true_style"] = self.style[name].copy()
            if self.paired:
                own = [factors for pair, factors in self.paired.items() if name in pair]
                adata.obsm["true_paired"] = np.hstack(own)
            if name in self.clusters:
                adata.obs["true_cluster"] = pd.Categorical([str(state) for state in self.clusters[name]])
            modalities[name] = adata
        # mudata 0.3 warns of its coming default unless it is chosen; scoped, so that the user's own option stays.
        with mudata.set_options(pull_on_update=False):
            mdata = mudata.MuData(modalities)
            for label, answers in self.labels.items():
                mdata.obs[f"true_{label}"] = pd.Categorical([str(answer) for answer in answers])
            return mdata
