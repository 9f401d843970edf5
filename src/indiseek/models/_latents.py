"""What a trained model says of cells: codes, features, and the certificate of its codes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, cast

import mudata
import numpy as np
import torch
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from indiseek.data import Split
from indiseek.metrics import Certificate, Thresholds
from indiseek.models._certificate import certificate
from indiseek.models._module import INFERENCE_BATCH
from indiseek.models._staged import StagedModel
from indiseek.objectives import Batch
from indiseek.train._memory import amount, must_fit

logger = logging.getLogger(__name__)

MIN_HELD_OUT_CELLS = 100
FEWER_CELLS = "take fewer cells at once"
_BY_CHUNK = f"{FEWER_CELLS}, or let indiseek.models.embed write the codes chunk by chunk"


class LatentModel(StagedModel):
    """Model that gives its codes of cells."""

    _key: ClassVar[str]

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        kind: str | None = None,
        indices: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Codes of cells, those that the model was trained on or others with the same features.

        Parameters
        ----------
        mdata
            Cells; by default those of training. Features may be in any order. Cells with only one of the
            modalities are taken too: their joint code is that modality's, and where the specific code is a
            map given the other modalities' codes, these are predicted, with a warning.
        modality
            Modality whose code is wanted. None, for the first kind, gives the joint code of all modalities;
            of shared codes that is the mean of the modalities' unit codes, brought back to unit length.
        kind
            Stage whose codes are wanted, by default the first. Of IndiSeekModel and DisentangledSSLModel
            ``"shared"`` or ``"specific"``, and ``"context"`` for the wide codes that are the condition of
            IndiSeek's flow; of CoMMModel ``"fused"``.
        indices
            Positions of the cells wanted, or a boolean mask; by default all, in order.
        batch_size
            Cells in a step; changes memory, not values.

        Returns
        -------
        ``(n_cells, n_latent)``.

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the stage.
        ValueError
            If `kind` is unknown, the features are not the model's, or values are not finite.
        KeyError
            If `modality` is unknown or not in `mdata`.
        MemoryError
            If features and codes of so many cells do not fit into memory.
        """
        kinds = list(self.module.objectives)
        kind = kinds[0] if kind is None else kind
        if kind not in kinds:
            raise ValueError(f"expected kind to be one of {kinds}, got {kind!r}; choose one of them.")
        self._check_stage(kind)
        if modality is None and kind != kinds[0]:
            raise ValueError(f"expected a modality for kind={kind!r}, got None; choose one of {list(self.modalities)}.")
        if modality is not None:
            self._check_modality(modality)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}; leave it out for the default.")
        size = batch_size or INFERENCE_BATCH
        only = self._only_modality(mdata)
        if only is not None:
            return self._code_of_one(cast(MuData, mdata), only, modality, kind, indices, size)
        cells = self._cells(mdata, indices)
        with self._must_fit(cells.n_cells, f"{FEWER_CELLS}, or a batch_size below {size}"):
            if modality is None:
                code = self.module.joint(kind, cells, size)
            else:
                code = self.module.codes(kind, cells, size)[self.modalities.index(modality)]
            return code.cpu().numpy()

    def _only_modality(self, mdata: MuData | None) -> str | None:
        """The one modality that these cells have, or None where they have all."""
        if mdata is None or not isinstance(mdata, MuData):
            return None
        present = [name for name in self.modalities if name in mdata.mod]
        return present[0] if len(present) == 1 else None

    def _code_of_one(
        self, mdata: MuData, only: str, modality: str | None, kind: str, indices: ArrayLike | None, batch_size: int
    ) -> NDArray[np.float32]:
        if modality is not None and modality != only:
            raise KeyError(f"expected modality {only!r}, the only one that these cells have, got {modality!r}.")
        position = self.modalities.index(only)
        values = self._read_one(mdata, only)
        rows = None if indices is None else np.arange(values.shape[0])[np.asarray(indices)]
        if self.module.objective(kind).sees_others:
            logger.warning(
                f"the cells have no modality but {only!r}: what their specific code should be independent of is "
                f"predicted from {only!r} itself."
            )
        with self._must_fit(values.shape[0] if rows is None else len(rows), FEWER_CELLS):
            features = self.fitted.transforms[only].apply_to(values, rows)
            return self.module.code_of_one(kind, position, features, batch_size).cpu().numpy()

    def get_features(
        self, mdata: MuData | None = None, *, modality: str, indices: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """What the networks see of a modality: its values after the transform fitted on the training cells.

        Parameters
        ----------
        mdata
            Cells; by default those of training.
        modality
            Name of the modality.
        indices
            Positions of the cells wanted, or a boolean mask; by default all, in order.

        Returns
        -------
        ``(n_cells, n_features)``.

        Raises
        ------
        RuntimeError
            Before training.
        KeyError
            If `modality` is unknown.
        MemoryError
            If the features of so many cells do not fit into memory.
        """
        self._check_modality(modality)
        return self._cells(mdata, indices).features[self.modalities.index(modality)].cpu().numpy()

    def feature_names(self, modality: str) -> list[str]:
        """Names of the columns of :meth:`get_features`: the modality's features, or its components.

        Parameters
        ----------
        modality
            Name of the modality.

        Raises
        ------
        RuntimeError
            Before training.
        KeyError
            If `modality` is unknown.
        """
        self._check_modality(modality)
        return self.fitted.transforms[modality].output_names(self._var_names[modality])

    def _check_stage(self, stage: str) -> None:
        if stage not in self.fitted.trained_stages:
            raise RuntimeError(f"expected a finished stage {stage!r}, got an interrupted training; call train() again.")

    def _cells(self, mdata: MuData | None, indices: ArrayLike | None = None, *, advice: str = FEWER_CELLS) -> Batch:
        module = self.module
        values = self._values_of(mdata)
        rows = None if indices is None else np.arange(values[0].shape[0])[np.asarray(indices)]
        with self._must_fit(values[0].shape[0] if rows is None else len(rows), advice):
            return module.features(values, rows)

    def _must_fit(self, n_cells: int, advice: str) -> AbstractContextManager[None]:
        """Block whose memory may run out for so many cells, and what to do then."""
        n_features = sum(transform.n_output for transform in self.fitted.transforms.values())
        return must_fit(
            f"features and codes of {amount(n_cells, n_features)}",
            self.module.device,
            advice,
            on_cpu="move the model by to_device('cpu')",
            left="The model keeps its training, and no codes are written.",
        )

    def write_latents(self, mdata: MuData | None = None) -> None:
        """Write the codes into ``.obsm`` for scanpy.

        For a model of modalities rna and prot, ``mdata.obsm`` gets the joint shared code and each
        modality's specific one (for IndiSeekModel ``X_indiseek_shared``, ``X_indiseek_rna``,
        ``X_indiseek_prot``); each modality's own ``.obsm`` gets the joint shared code and its specific
        code (``X_indiseek_specific``). CoMMModel gives the fused code (``X_comm``) and each modality's projection
        (``X_comm_rna``, ``X_comm_prot``, in the modality ``X_comm_projection``). Nothing else changes.

        Parameters
        ----------
        mdata
            Cells; by default those of training.

        Raises
        ------
        RuntimeError
            Before training.
        MemoryError
            If features and codes of so many cells do not fit into memory; nothing is written then.
        """
        target = self._adata if mdata is None else mdata
        cells = self._cells(mdata, advice=_BY_CHUNK)
        with self._must_fit(cells.n_cells, _BY_CHUNK):
            whole, parts = self._obsm(cells)
        with mudata.set_options(pull_on_update=False):
            for key, code in whole.items():
                target.obsm[key] = code
            for name, codes in parts.items():
                for key, code in codes.items():
                    target.mod[name].obsm[key] = code

    def _obsm(self, cells: Batch) -> tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, NDArray[np.float32]]]]:
        """Codes to write, by key: those of the MuData, and those of each modality."""
        joint = self.module.joint("shared", cells, INFERENCE_BATCH).cpu().numpy()
        whole = {f"X_{self._key}_shared": joint}
        parts = {name: {f"X_{self._key}_shared": joint.copy()} for name in self.modalities}
        if "specific" in self.fitted.trained_stages:
            codes = self.module.codes("specific", cells, INFERENCE_BATCH)
            for name, code in self._by_name(codes).items():
                whole[f"X_{self._key}_{name}"] = code
                parts[name][f"X_{self._key}_specific"] = code.copy()
        return whole, parts

    def certify(
        self,
        mdata: MuData | None = None,
        *,
        n_permutations: int = 99,
        seed: int = 0,
        thresholds: Thresholds | None = None,
    ) -> Certificate:
        """Measure on held-out cells whether the specific spaces are independent and complete, the shared ones shared.

        Uses the test cells, and nothing of the model but its codes: see :func:`indiseek.metrics.certify`. What one
        modality knows of another is fitted on the training cells' features. The counts of the test cells,
        thinned into halves, give the counting noise where the transform takes counts. Of a model without specific
        codes (CoMMModel) the projections are judged as shared codes, and the fused code, which is meant to hold what
        only one modality knows, as the joint one.

        Parameters
        ----------
        mdata
            Other held-out cells with all modalities, instead of the test cells.
        n_permutations
            Permutations of the scan for dependence of other forms; 0 leaves it out.
        seed
            Seed of probes, critics, permutations and thinning.
        thresholds
            Limits of the verdicts.

        Returns
        -------
        The certificate: print it, or read its ``verdicts`` and ``tables``.

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the specific stage.
        ValueError
            If there are fewer than 100 cells to measure on.
        """
        self._check_stage(list(self.module.objectives)[-1])
        if self._adata is None:
            raise RuntimeError("expected a model with data, got one loaded without; call load(path, mdata).")
        split = self.fitted.split
        if mdata is None and split is None:
            raise RuntimeError("expected the cells of training, got others; pass held-out cells as mdata.")
        found = {name: self._values(name) for name in self.modalities} if mdata is None else self._read(mdata)
        rows = cast(Split, split).test if mdata is None else slice(None)
        values = {name: matrix[rows] for name, matrix in found.items()}
        n_cells = next(iter(values.values())).shape[0]
        if n_cells < MIN_HELD_OUT_CELLS:
            raise ValueError(
                f"expected at least {MIN_HELD_OUT_CELLS} held-out cells, got {n_cells}; train with smaller train_size "
                "and validation_size, or pass other cells as mdata."
            )
        reference = None if split is None else self._by_name(self._cells(None, split.train).features)
        return certificate(
            self.fitted,
            values,
            reference,
            feature_names={name: self.feature_names(name) for name in self.modalities},
            n_permutations=n_permutations,
            seed=seed,
            thresholds=thresholds,
        )

    def _by_name(self, tensors: Sequence[torch.Tensor]) -> dict[str, NDArray[Any]]:
        return {name: tensor.cpu().numpy() for name, tensor in zip(self.modalities, tensors, strict=True)}
