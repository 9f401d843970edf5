"""What every model does for its user: register, train, give latents, save, load."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast
from weakref import WeakKeyDictionary

import mudata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray
from scvi.model.base import BaseModelClass

from indiseek.data import (
    TRANSFORMS,
    Matrix,
    Registration,
    Split,
    Transform,
    checked_values,
    given_split,
    make_registration,
    random_split,
    read_modality,
    register,
)
from indiseek.models._io import FORMAT, plain, read_payload, write_payload
from indiseek.models._module import StagedModule
from indiseek.objectives import Batch, Objective, joint_code
from indiseek.train import StageResult, StageSettings, fit_stage, resolve_device, seeded

logger = logging.getLogger(__name__)

Kind = Literal["shared", "specific"]

_INFERENCE_BATCH = 8192


class MultimodalModel(BaseModelClass):
    """Base of the models: a subclass declares its objectives and how each stage is trained.

    Parameters
    ----------
    mdata
        Paired cells; None only for a model that is loaded without data.
    registry
        For :meth:`load` only.
    transforms
        Transform by modality; the others are chosen from the data.
    """

    _key: ClassVar[str]
    _setups: ClassVar[WeakKeyDictionary[MuData, tuple[Registration, dict[str, Any]]]] = WeakKeyDictionary()

    def __init__(
        self,
        mdata: MuData | None = None,
        *,
        registry: dict[str, Any] | None = None,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        self._transforms: dict[str, Transform] = dict(transforms or {})
        self._module: StagedModule | None = None
        self._trained_stages: list[str] = []
        self._split: Split | None = None
        self._split_arguments: dict[str, Any] = {}
        self._n_cells = 0
        self.stage_seconds: dict[str, float] = {}
        if mdata is None:
            super().__init__(registry=registry)
            return
        if not isinstance(mdata, MuData) or mdata not in self._setups:
            self.setup_mudata(mdata)
        self._registration, setup_args = self._setups[mdata]
        self._check_transforms()
        values, self._transforms = checked_values(mdata, self._registration, self._transforms)
        self._var_names = {name: mdata.mod[name].var_names.tolist() for name in self.modalities}
        self._sparse = {name: not isinstance(matrix, np.ndarray) for name, matrix in values.items()}
        manager = register(values, mdata.obs_names, self._var_names, setup_args)
        self.register_manager(manager)
        super().__init__(manager.adata)
        # scvi-tools would keep every registered object alive for the life of the process.
        self._setup_adata_manager_store.pop(manager.adata_uuid)
        self._per_instance_manager_store.pop(self.id)
        self._adata = mdata
        logger.info(self._describe())

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        modalities: Sequence[str] | None = None,
        layers: Mapping[str, str | None] | None = None,
        batch_key: str | None = None,
    ) -> None:
        """Choose what a model sees of `mdata`. Without this call the constructor chooses.

        Nothing is written into `mdata`.

        Parameters
        ----------
        mdata
            Paired cells: every modality holds the same cells in the same order.
        modalities
            Names of the modalities in the order wanted. By default one called rna or gex and one called
            prot, protein, adt or ab; else the two that there are.
        layers
            Layer by modality; ``X`` where none is named.
        batch_key
            Not supported yet.

        Raises
        ------
        TypeError
            If `mdata` is not a MuData.
        KeyError
            If a modality does not exist.
        ValueError
            If modalities cannot be detected or are not paired, or `batch_key` is given.
        """
        if batch_key is not None:
            raise ValueError(
                f"expected batch_key=None, got {batch_key!r}: no model corrects for batches yet; "
                "train on one batch, or integrate the latents afterwards."
            )
        registration = make_registration(mdata, modalities, layers)
        setup_args = cls._get_setup_method_args(
            cls=cls, mdata=mdata, modalities=list(registration.modalities), layers=registration.layers, batch_key=None
        )
        cls._setups[mdata] = (registration, setup_args)

    @classmethod
    def setup_anndata(cls, adata: AnnData) -> None:
        """Not for these models: they need two modalities.

        Raises
        ------
        TypeError
            Always; says what to call.
        """
        raise TypeError(
            f"expected a MuData with two modalities, got {type(adata).__name__}; build one with "
            f"mudata.MuData({{'rna': rna, 'prot': protein}}) and call {cls.__name__}.setup_mudata."
        )

    @abstractmethod
    def _init_arguments(self) -> dict[str, Any]:
        """Arguments, plain values only, that build this model again on the same data; without transforms."""

    @abstractmethod
    def _make_objectives(self, n_features: dict[str, int]) -> dict[str, Objective]:
        """New objectives by stage, in the order of training."""

    def _describe(self) -> str:
        parts = []
        for name in self._registration.modalities:
            layer = self._registration.layers[name]
            where = f"layer {layer!r} of " if layer else ""
            parts.append(f"{where}{name!r} ({len(self._var_names[name])} features, {self._transforms[name].name})")
        return f"{type(self).__name__}: {self._adata.n_obs} cells, {' and '.join(parts)}"

    def __repr__(self) -> str:
        stages = ", ".join(self._trained_stages) or "none"
        what = self._describe() if self._adata is not None else f"{type(self).__name__} without data"
        return f"{what}; trained stages: {stages}"

    def _check_transforms(self) -> None:
        unknown = sorted(set(self._transforms) - set(self._registration.modalities))
        if unknown:
            raise KeyError(
                f"expected transforms for the modalities {list(self.modalities)}, got {unknown}; use their names."
            )
        for name, transform in self._transforms.items():
            if type(transform) not in TRANSFORMS.values():
                raise TypeError(
                    f"expected a transform for {name!r} out of {sorted(c.__name__ for c in TRANSFORMS.values())}, got "
                    f"{type(transform).__name__}; a saved model must be able to find its transforms again."
                )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the model's order."""
        return self._registration.modalities

    @property
    def module(self) -> StagedModule:
        """Networks and fitted transforms.

        Raises
        ------
        RuntimeError
            Before training.
        """
        if self._module is None:
            raise RuntimeError("expected a trained model, got one without networks; call train() first.")
        return self._module

    def _values(self, name: str) -> Matrix:
        return cast(Matrix, self._adata_manager.adata.mod[name].X)

    def _fit(
        self,
        settings: Mapping[str, StageSettings],
        split_arguments: dict[str, Any],
        *,
        batch_size: int,
        accelerator: str,
        seed: int,
        show_progress: bool,
        trainer_kwargs: dict[str, Any],
    ) -> None:
        """Train all stages in place; on failure the model is as it was."""
        if self._adata is None:
            raise RuntimeError("expected a model with data, got one loaded without; call load(path, mdata).")
        device = resolve_device(accelerator)
        before = self._snapshot()
        try:
            self._prepare(split_arguments, seed, device)
            cells = self.module.features([self._values(name) for name in self.modalities])
            split = cast(Split, self._split)
            train, validation = (torch.as_tensor(rows, device=device) for rows in (split.train, split.validation))
            for stage, objective in self.module.objectives.items():
                if stage != "shared":
                    cells = self.module.with_shared(cells, _INFERENCE_BATCH)
                result = fit_stage(
                    cast(Objective, objective),
                    (cells.take(train), cells.take(validation)),
                    settings[stage],
                    name=stage,
                    batch_size=batch_size,
                    accelerator=accelerator,
                    seed=seed + len(self.stage_seconds),
                    show_progress=show_progress,
                    trainer_kwargs=trainer_kwargs,
                )
                self._record(stage, result)
                if result.interrupted:
                    logger.warning(
                        "training interrupted in stage %r after %d epochs; the best weights so far are kept, "
                        "train() goes on from them.",
                        stage,
                        len(result.history),
                    )
                    break
        except BaseException:
            self._restore(before)
            raise
        self.is_trained_ = True

    def _prepare(self, split_arguments: dict[str, Any], seed: int, device: torch.device) -> None:
        """First training: split, fitted transforms, networks. Later ones keep all three."""
        if self._module is not None:
            if self._split is None:
                raise RuntimeError(
                    "expected the cells that the model was trained on, got another number of cells; "
                    "load the model with its own MuData to train it further."
                )
            if split_arguments != self._split_arguments:
                raise ValueError(
                    f"expected the split of the first training, {self._split_arguments}, got {split_arguments}; "
                    "a test cell must stay one: leave these arguments out or make a new model."
                )
            self._module.to(device)
            return
        n_cells = self._adata.n_obs
        if split_arguments["external_indexing"] is not None:
            split = given_split(n_cells, split_arguments["external_indexing"])
        else:
            split = random_split(
                n_cells,
                train_size=split_arguments["train_size"],
                validation_size=split_arguments["validation_size"],
                seed=seed,
            )
        for name, transform in self._transforms.items():
            transform.fit(self._values(name), split.train)
        n_features = {name: self._transforms[name].n_output for name in self.modalities}
        with seeded(seed):
            objectives = self._make_objectives(n_features)
        self._module = StagedModule([self._transforms[name] for name in self.modalities], objectives).to(device)
        self._split, self._split_arguments, self._n_cells = split, split_arguments, n_cells
        self._set_indices(split)

    def _set_indices(self, split: Split | None) -> None:
        parts: tuple[NDArray[np.intp] | None, ...] = (None, None, None) if split is None else split
        self.train_indices_, self.validation_indices_, self.test_indices_ = parts

    def _snapshot(self) -> dict[str, Any]:
        state = None if self._module is None else {k: v.clone() for k, v in self._module.state_dict().items()}
        kept = ("_split", "_split_arguments", "train_indices_", "validation_indices_", "test_indices_", "is_trained_")
        return {
            "module": self._module,
            "state": state,
            "history": dict(self.history_ or {}),
            "stages": list(self._trained_stages),
            "seconds": dict(self.stage_seconds),
            "attributes": {name: getattr(self, name) for name in kept},
        }

    def _restore(self, before: dict[str, Any]) -> None:
        self._module = before["module"]
        if self._module is not None:
            self._module.load_state_dict(before["state"])
            self._module.eval()
        self.history_ = before["history"] or None
        self._trained_stages = before["stages"]
        self.stage_seconds = before["seconds"]
        for name, value in before["attributes"].items():
            setattr(self, name, value)

    def _record(self, stage: str, result: StageResult) -> None:
        history = dict(self.history_ or {})
        for column in result.history:
            key = f"{stage}/{column}"
            new = result.history[[column]].rename(columns={column: key})
            if key in history:
                new.index = new.index + len(history[key])
                new = pd.concat([history[key], new]).rename_axis("epoch")
            history[key] = new
        self.history_ = history
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + result.seconds
        if stage not in self._trained_stages:
            self._trained_stages.append(stage)

    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        *,
        modality: str | None = None,
        kind: Kind = "shared",
        indices: ArrayLike | None = None,
        batch_size: int | None = None,
    ) -> NDArray[np.float32]:
        """Codes of cells, those that the model was trained on or others with the same features.

        Parameters
        ----------
        mdata
            Cells; by default those of training. Features may be in any order.
        modality
            Modality whose code is wanted. None, for ``kind="shared"``, gives the joint code: the mean of
            the modalities' unit codes, brought back to unit length.
        kind
            ``"shared"`` or ``"specific"``.
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
        """
        kinds = list(self.module.objectives)
        if kind not in kinds:
            raise ValueError(f"expected kind to be one of {kinds}, got {kind!r}; choose one of them.")
        if kind not in self._trained_stages:
            raise RuntimeError(f"expected a finished stage {kind!r}, got an interrupted training; call train() again.")
        if modality is None and kind != "shared":
            raise ValueError(f"expected a modality for kind={kind!r}, got None; choose one of {list(self.modalities)}.")
        if modality is not None:
            self._check_modality(modality)
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}; leave it out for the default.")
        codes = self._codes(self._cells(mdata, indices), kind, batch_size or _INFERENCE_BATCH)
        code = joint_code(codes) if modality is None else codes[self.modalities.index(modality)]
        return code.cpu().numpy()

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
        if self._module is None:
            raise RuntimeError("expected a trained model, got one whose transforms are not fitted; call train() first.")
        return self._transforms[modality].output_names(self._var_names[modality])

    def _check_modality(self, modality: str) -> None:
        if modality not in self.modalities:
            raise KeyError(f"expected modality to be one of {list(self.modalities)}, got {modality!r}; use its name.")

    def _cells(self, mdata: MuData | None, indices: ArrayLike | None = None) -> Batch:
        if mdata is None and self._adata is None:
            raise RuntimeError("expected a MuData, got none from a model loaded without data; pass mdata.")
        if mdata is None or mdata is self._adata:
            values = [self._values(name) for name in self.modalities]
        else:
            values = list(self._read(mdata).values())
        if indices is not None:
            rows = np.arange(values[0].shape[0])[np.asarray(indices)]
            values = [matrix[rows] for matrix in values]
        return self.module.features(values)

    def _read(self, mdata: MuData) -> dict[str, Matrix]:
        """Values of cells that the model was not registered with, features in the model's order."""
        layers = self._registration.layers
        make_registration(mdata, self.modalities, layers)
        return {
            name: read_modality(mdata, name, layers[name], self._var_names[name], as_sparse=self._sparse[name])
            for name in self.modalities
        }

    def _attach(self, mdata: MuData) -> None:
        """Register data with a loaded model."""
        setup_args = {key: self.registry_[key] for key in ("model_name", "setup_method_name", "setup_args")}
        self._adata_manager = register(self._read(mdata), mdata.obs_names, self._var_names, setup_args)
        self._adata = mdata
        if self._n_cells != mdata.n_obs:
            self._split = None
            self._set_indices(None)

    def _codes(self, cells: Batch, kind: str, batch_size: int) -> tuple[torch.Tensor, ...]:
        if kind != "shared" and not cells.shared:
            cells = self.module.with_shared(cells, batch_size)
        return self.module.codes(kind, cells, batch_size)

    def write_latents(self, mdata: MuData | None = None) -> None:
        """Write the codes into ``.obsm`` for scanpy.

        For a model of modalities rna and prot, ``mdata.obsm`` gets the joint shared code and each
        modality's specific one (for IndiSeekModel ``X_indiseek_shared``, ``X_indiseek_rna``,
        ``X_indiseek_prot``); each modality's own ``.obsm`` gets the joint shared code and its specific
        code (``X_indiseek_specific``). Nothing else changes.

        Parameters
        ----------
        mdata
            Cells; by default those of training.

        Raises
        ------
        RuntimeError
            Before training.
        """
        target = self._adata if mdata is None else mdata
        cells = self._cells(mdata)
        written: dict[str, NDArray[np.float32]] = {}
        for kind in self._trained_stages:
            codes = self._codes(cells, kind, _INFERENCE_BATCH)
            if kind == "shared":
                written["shared"] = joint_code(codes).cpu().numpy()
            else:
                written |= {name: code.cpu().numpy() for name, code in zip(self.modalities, codes, strict=True)}
        with mudata.set_options(pull_on_update=False):
            for name, code in written.items():
                target.obsm[f"X_{self._key}_{name}"] = code
            for name in self.modalities:
                target.mod[name].obsm[f"X_{self._key}_shared"] = written["shared"].copy()
                if name in written:
                    target.mod[name].obsm[f"X_{self._key}_specific"] = written[name].copy()

    def save(self, dir_path: str | Path, *, overwrite: bool = False, save_mdata: bool = False) -> None:
        """Save the model; never its code.

        Parameters
        ----------
        dir_path
            Directory; made if it does not exist.
        overwrite
            Whether a model that is there is replaced.
        save_mdata
            Whether the MuData is written beside it as ``mdata.h5mu``.

        Raises
        ------
        RuntimeError
            Before training.
        FileExistsError
            If the directory exists and `overwrite` is False.
        """
        module = self.module
        directory = Path(dir_path)
        if directory.exists() and not overwrite:
            raise FileExistsError(f"expected a new directory, got {directory}, which exists; pass overwrite=True.")
        directory.mkdir(parents=True, exist_ok=True)
        payload = {
            "format": FORMAT,
            "version": version("indiseek"),
            "model": type(self).__name__,
            "init": plain(self._init_arguments()),
            "registry": plain(self.registry_),
            "modalities": list(self.modalities),
            "layers": dict(self._registration.layers),
            "var_names": self._var_names,
            "sparse": self._sparse,
            "transforms": {
                name: {"name": t.name, "config": t.config(), "n_output": t.n_output}
                for name, t in self._transforms.items()
            },
            "state": {key: value.cpu() for key, value in module.state_dict().items()},
            "split": [torch.as_tensor(part) for part in cast(Split, self._split)],
            "n_cells": self._n_cells,
            "split_arguments": plain(self._split_arguments),
            "history": {key: frame[key].tolist() for key, frame in (self.history_ or {}).items()},
            "trained_stages": self._trained_stages,
            "stage_seconds": self.stage_seconds,
        }
        write_payload(payload, directory)
        if save_mdata:
            if self._adata is None:
                raise RuntimeError("expected a model with data, got one loaded without; leave save_mdata out.")
            self._adata.write(directory / "mdata.h5mu")

    @classmethod
    def load(cls, dir_path: str | Path, mdata: MuData | None = None, *, accelerator: str = "auto") -> Self:
        """Load a saved model.

        Parameters
        ----------
        dir_path
            Directory given to :meth:`save`.
        mdata
            Cells with the same features, in any order. None loads the MuData saved beside the model, or
            else gives a model without data, which needs `mdata` in its calls.
        accelerator
            Where the model goes, as Lightning names it.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If the file is damaged or carries code, or the features are not the model's.
        """
        directory = Path(dir_path)
        payload = read_payload(directory, cls.__name__)
        if mdata is None and (directory / "mdata.h5mu").is_file():
            mdata = mudata.read_h5mu(directory / "mdata.h5mu")
        transforms = {}
        for name, saved in payload["transforms"].items():
            transforms[name] = TRANSFORMS[saved["name"]](**saved["config"])
        model = cls(None, registry=payload["registry"], transforms=transforms, **payload["init"])
        model._registration = Registration(tuple(payload["modalities"]), payload["layers"])
        model._var_names, model._sparse = payload["var_names"], payload["sparse"]
        for name, saved in payload["transforms"].items():
            transforms[name].allocate(len(model._var_names[name]), saved["n_output"])
        n_features = {name: transforms[name].n_output for name in model.modalities}
        with seeded(0):
            objectives = model._make_objectives(n_features)
        model._module = StagedModule([transforms[name] for name in model.modalities], objectives)
        model._module.load_state_dict(payload["state"])
        model._module.to(resolve_device(accelerator)).eval()
        model._split = Split(*(part.numpy() for part in payload["split"]))
        model._split_arguments, model._n_cells = payload["split_arguments"], payload["n_cells"]
        model._set_indices(model._split)
        model.history_ = {
            key: pd.DataFrame({key: values}).rename_axis("epoch") for key, values in payload["history"].items()
        }
        model._trained_stages, model.stage_seconds = payload["trained_stages"], payload["stage_seconds"]
        model.is_trained_ = True
        if mdata is not None:
            model._attach(mdata)
        return model
