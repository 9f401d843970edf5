"""What every model does for its user: register, train, give latents, save, load."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self, cast
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
    Values,
    checked_values,
    given_split,
    is_sparse,
    make_registration,
    random_split,
    read_modality,
    register,
)
from indiseek.metrics import Certificate, Thresholds, certify, thin_counts
from indiseek.models._arguments import check_processes, check_range, split_arguments
from indiseek.models._checkpoint import Checkpoint
from indiseek.models._fitted import Fitted, cells_digest, empty_transforms
from indiseek.models._io import FORMAT, MDATA_NAME, plain, read_payload, write_payload
from indiseek.models._module import StagedModule
from indiseek.models._schedules import PATIENCE
from indiseek.objectives import Batch, Objective, gather_objects, rank
from indiseek.train import StageSettings, StageState, fit_stage, resolve_device, resolve_place, seeded

logger = logging.getLogger(__name__)

INFERENCE_BATCH = 8192
# What train() takes when the user says nothing: a later call then keeps the split that there is.
_DEFAULT_SPLIT = {"train_size": 0.8, "validation_size": 0.1, "external_indexing": None}
MIN_HELD_OUT_CELLS = 100


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
    _least_modalities: ClassVar[int] = 2
    _setups: ClassVar[WeakKeyDictionary[MuData, tuple[Registration, dict[str, Any]]]] = WeakKeyDictionary()
    _adata: Any

    def __init__(
        self,
        mdata: MuData | None = None,
        *,
        registry: dict[str, Any] | None = None,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        self._transforms: dict[str, Transform] = dict(transforms or {})
        self._fitted: Fitted | None = None
        if mdata is None and registry is not None:
            super().__init__(registry=registry)
            return
        if not isinstance(mdata, MuData) or mdata not in self._setups:
            # Raises TypeError for anything but a MuData.
            self.setup_mudata(cast(MuData, mdata))
        mdata = cast(MuData, mdata)
        self._registration, setup_args = self._setups[mdata]
        self._check_transforms()
        values, self._transforms = checked_values(
            mdata, self._registration, self._transforms, at_least=self._least_modalities
        )
        self._var_names = {name: mdata.mod[name].var_names.tolist() for name in self.modalities}
        self._matrices = values
        self._sparse = {name: is_sparse(matrix) for name, matrix in values.items()}
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
        registration = make_registration(mdata, modalities, layers, at_least=cls._least_modalities)
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
    def _n_condition(self) -> int:
        """Dimension of the frozen codes that later stages see."""

    @abstractmethod
    def _make_objectives(self, n_features: dict[str, int], ranks: dict[str, int]) -> dict[str, Objective]:
        """New objectives by stage, in the order of training, for features of these numbers and ranks."""

    @abstractmethod
    def _schedule(
        self,
        n_train: int,
        *,
        max_epochs: int | Mapping[str, int] | None,
        batch_size: int | Mapping[str, int] | None,
        patience: int | None,
        given: Mapping[str, Any],
    ) -> tuple[dict[str, StageSettings], dict[str, int]]:
        """Settings and batch size of each stage: what the user has `given`, and for the rest the defaults."""

    def _views(self, fitted: Fitted, rows: NDArray[np.intp], seed: int) -> tuple[torch.Tensor, ...]:
        """Augmented features of cells, ``(n_cells, n_views, n_features)`` by modality, for objectives that want any."""
        del fitted, rows, seed
        return ()

    def _describe(self) -> str:
        if self._adata is None:
            return f"{type(self).__name__} without data"
        parts = []
        for name in self.modalities:
            layer = self._registration.layers[name]
            where = f"layer {layer!r} of " if layer else ""
            parts.append(f"{where}{name!r} ({len(self._var_names[name])} features, {self._transforms[name].name})")
        return f"{type(self).__name__}: {self._adata.n_obs} cells, {' and '.join(parts)}"

    def __repr__(self) -> str:
        stages = [] if self._fitted is None else self._fitted.trained_stages
        return f"{self._describe()}; trained stages: {', '.join(stages) or 'none'}"

    def _check_transforms(self) -> None:
        unknown = sorted(set(self._transforms) - set(self.modalities))
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
    def fitted(self) -> Fitted:
        """State that training has left.

        Raises
        ------
        RuntimeError
            Before training.
        """
        if self._fitted is None:
            raise RuntimeError("expected a trained model, got one that is not; call train() first.")
        return self._fitted

    @property
    def module(self) -> StagedModule:
        """Networks and fitted transforms; RuntimeError before training."""
        return self.fitted.module

    @property
    def is_trained(self) -> bool:
        """Whether ``train`` has finished or was interrupted after an epoch."""
        return self._fitted is not None

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """Means of each epoch, one ``(n_epochs, 1)`` table by ``"stage/term"``; empty before training."""
        return {} if self._fitted is None else self._fitted.history

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Wall time of training by stage."""
        return self.fitted.stage_seconds

    @property
    def train_indices(self) -> NDArray[np.intp] | None:
        """Sorted positions of the training cells; None before training."""
        return self._part("train")

    @property
    def validation_indices(self) -> NDArray[np.intp] | None:
        """Sorted positions of the cells that early stopping sees; None before training."""
        return self._part("validation")

    @property
    def test_indices(self) -> NDArray[np.intp] | None:
        """Sorted positions of the cells that no fit, early stopping or transform sees; None before training."""
        return self._part("test")

    def _part(self, name: str) -> NDArray[np.intp] | None:
        if self._fitted is None or self._fitted.split is None:
            return None
        part: NDArray[np.intp] = getattr(self._fitted.split, name)
        return part

    def _values(self, name: str) -> Values:
        return self._matrices[name]

    def train(
        self,
        max_epochs: int | Mapping[str, int] | None = None,
        *,
        batch_size: int | Mapping[str, int] | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        early_stopping: bool = True,
        patience: int = PATIENCE,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        external_indexing: Sequence[ArrayLike] | None = None,
        accelerator: str = "auto",
        devices: int = 1,
        num_nodes: int = 1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        write_latents: bool = True,
        show_progress: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train all stages, with early stopping on held-out cells.

        The cells are split once into training, validation and test cells; test cells are touched by no
        fit, no early stopping and no transform. A second call continues from the weights that are there.
        Ctrl-C ends the stage that runs and keeps its best weights.

        Parameters
        ----------
        max_epochs
            Most epochs of every stage, or of each by name; the defaults stand on the model's page.
        batch_size
            Cells in a step, for every stage or for each by name. InfoNCE cannot show more than
            ``log(batch_size)`` nats.
        lr, weight_decay
            Learning rate and decoupled weight decay of AdamW.
        early_stopping
            Whether a stage stops when its held-out loss has not fallen for `patience` epochs. Without it
            contrastive learning memorises the training pairs.
        patience
            See `early_stopping`.
        train_size, validation_size
            Fractions of the cells; the rest are test cells.
        external_indexing
            Positions of training, validation and (optionally) test cells, instead of a random split.
        accelerator
            ``"auto"``, ``"cpu"``, ``"gpu"``, ``"mps"``, as Lightning names them.
        devices, num_nodes
            Number of devices of each machine, and of machines. Each device has a process of its own, which takes its
            share of every batch; `batch_size` counts the cells of all of them.
        seed
            Seed of split, weights and batches. The same seed on the same machine gives the same latents.
            Global random states are left alone.
        checkpoint_dir
            Where the state is kept after every epoch. The same call in a new process, after the first one was
            killed, goes on from there to the same result. The state is deleted when training is complete.
        write_latents
            Whether :meth:`write_latents` is called at the end.
        show_progress
            Whether progress bars are shown.
        **trainer_kwargs
            Further arguments of :class:`lightning.pytorch.Trainer`.

        Raises
        ------
        RuntimeError
            If the model was loaded without data.
        ValueError
            If an argument is out of range, a later call asks for another split, `checkpoint_dir` holds the state of
            another fit or is in use by one, or the processes do not have the same cells.
        FloatingPointError
            If a loss is not finite; the model is then as it was before the call.
        MemoryError
            If a step does not fit into memory; likewise. Names a batch size to try.
        """
        self._train(
            {"lr": lr, "weight_decay": weight_decay},
            max_epochs=max_epochs,
            batch_size=batch_size,
            patience=patience,
            early_stopping=early_stopping,
            split=split_arguments(train_size, validation_size, external_indexing),
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            write_latents=write_latents,
            show_progress=show_progress,
            trainer_kwargs=trainer_kwargs,
        )

    def _train(
        self,
        rates: Mapping[str, float | None],
        *,
        max_epochs: int | Mapping[str, int] | None,
        batch_size: int | Mapping[str, int] | None,
        patience: int,
        early_stopping: bool,
        split: dict[str, Any],
        accelerator: str,
        devices: int,
        num_nodes: int,
        seed: int,
        checkpoint_dir: str | Path | None,
        write_latents: bool,
        show_progress: bool,
        trainer_kwargs: dict[str, Any],
        **schedule_options: Any,
    ) -> None:
        """Check the arguments of :meth:`train`, fit all stages and write the codes."""
        check_processes(devices, num_nodes, trainer_kwargs.get("strategy", "auto"))
        check_range("patience", patience, low=1)
        given = {name: value for name, value in rates.items() if value is not None}
        for name, value in given.items():
            check_range(name, value, **({"low": 0} if name == "weight_decay" else {"above": 0}))
        settings, sizes = self._schedule(
            self._n_train(split["train_size"], split["external_indexing"]),
            max_epochs=max_epochs,
            batch_size=batch_size,
            patience=patience if early_stopping else None,
            given=given,
            **schedule_options,
        )
        self._fit(
            settings,
            split,
            batch_sizes=sizes,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            show_progress=show_progress,
            trainer_kwargs=trainer_kwargs,
        )
        if write_latents:
            self.write_latents()

    def _n_train(self, train_size: float, external_indexing: Sequence[ArrayLike] | None) -> int:
        """Number of training cells that these arguments will give."""
        if self._adata is None:
            raise RuntimeError("expected a model with data, got one loaded without; call load(path, mdata).")
        if external_indexing is not None:
            return max(1, np.size(external_indexing[0]))
        return max(1, round(train_size * self._adata.n_obs))

    def _fit(
        self,
        settings: Mapping[str, StageSettings],
        split: dict[str, Any],
        *,
        batch_sizes: Mapping[str, int],
        accelerator: str,
        devices: int,
        num_nodes: int,
        seed: int,
        checkpoint_dir: str | Path | None,
        show_progress: bool,
        trainer_kwargs: dict[str, Any],
    ) -> None:
        """Train all stages on a copy of the state, and keep the copy if nothing fails."""
        place = resolve_place(accelerator, devices=devices, num_nodes=num_nodes)
        for stage, size in batch_sizes.items():
            if size < place.world_size:
                raise ValueError(
                    f"expected batch_size of at least {place.world_size}, a cell for each process, got {size} for "
                    f"stage {stage!r}; take a larger one or fewer devices."
                )
        indexing = split["external_indexing"]
        digests = None if indexing is None else [cells_digest(pd.Index(np.asarray(part))) for part in indexing]
        # What the result depends on: a checkpoint of anything else is refused.
        what = {
            **self._description(),
            "split": split | {"external_indexing": digests},
            "stages": {name: asdict(setting) for name, setting in settings.items()},
            "batch_size": batch_sizes,
            "accelerator": accelerator,
            "devices": devices,
            "num_nodes": num_nodes,
            "seed": seed,
            "trainer": {key: value for key, value in trainer_kwargs.items() if isinstance(value, str | int | float)},
        }
        with Checkpoint(checkpoint_dir, what, writes=place.rank == 0) as checkpoint:
            saved = checkpoint.read()
            fitted = self._to_fit(split, seed)
            if saved is not None:
                fitted = Fitted.from_payload(saved["fitted"], fitted.module, fitted.transforms)
            module = fitted.module.to(place.device)
            parts = cast(Split, fitted.split)
            cells = module.features([self._values(name) for name in self.modalities])
            lengths = [float(torch.linalg.vector_norm(x)) for x in cells.features]
            # Machines may round in their own ways.
            if saved is not None and not np.allclose(saved["lengths"], lengths, rtol=1e-3):
                raise ValueError(
                    f"expected the values of the cells with which the fit in {checkpoint_dir} began, got others; "
                    "repeat that call to go on with it, or delete the directory to train from the start."
                )
            train, validation = (torch.as_tensor(rows, device=place.device) for rows in (parts.train, parts.validation))
            views = [self._views(fitted, rows, seed + i) for i, rows in enumerate((parts.train, parts.validation))]
            n_fits = len(fitted.history) if saved is None else saved["n_fits"]
            stages = list(module.objectives)
            first = 0 if saved is None else stages.index(saved["stage"])
            for number, stage in list(enumerate(stages))[first:]:

                def save(state: StageState, stage: str = stage) -> None:
                    progress = {"stage": stage, "state": state, "n_fits": n_fits, "lengths": lengths}
                    checkpoint.write({"fitted": fitted.payload(), **progress})

                # Codes of these cells only: those of all would be the largest tensors that there are.
                seen = [
                    module.inputs(stage, cells.take(rows), INFERENCE_BATCH)._replace(views=view)
                    for rows, view in zip((train, validation), views, strict=True)
                ]
                result = fit_stage(
                    module.objective(stage),
                    (seen[0], seen[1]),
                    settings[stage],
                    name=stage,
                    batch_size=batch_sizes[stage],
                    accelerator=accelerator,
                    devices=devices,
                    num_nodes=num_nodes,
                    seed=seed + number + n_fits,
                    show_progress=show_progress,
                    save=None if checkpoint_dir is None else save,
                    resume=saved["state"] if saved is not None and number == first else None,
                    trainer_kwargs=trainer_kwargs,
                )
                del seen
                if len(result.history):
                    fitted.record(stage, result)
                if stage in module.conditions[-1:]:
                    module.bridge.fit(module.inputs("specific", cells.take(train), INFERENCE_BATCH).shared)
                if result.interrupted:
                    if not fitted.trained_stages:
                        raise KeyboardInterrupt
                    logger.warning(
                        f"training interrupted in stage {stage!r} after {len(result.history)} epochs; the best weights "
                        "so far are kept, train() goes on from them."
                    )
                    break
            else:
                checkpoint.remove()
                if place.world_size > 1:
                    # A next call must not find in one process what another is about to delete.
                    gather_objects(None)
        self._fitted = fitted
        self._transforms = fitted.transforms

    def _description(self) -> dict[str, Any]:
        """Plain values that tell this model and its cells from others."""
        return {
            "version": version("indiseek"),
            "model": type(self).__name__,
            "init": self._init_arguments(),
            "modalities": self.modalities,
            "layers": self._registration.layers,
            "var_names": {name: cells_digest(pd.Index(names)) for name, names in self._var_names.items()},
            "obs_names": cells_digest(self._adata.obs_names),
        }

    def _to_fit(self, wanted: dict[str, Any], seed: int) -> Fitted:
        """State to train: a copy of the present one, or a new one with split, fitted transforms and networks."""
        if self._fitted is not None:
            if self._fitted.split is None:
                raise RuntimeError(
                    "expected the cells that the model was trained on, got others; "
                    "load the model with its own MuData to train it further."
                )
            if plain(wanted) not in (plain(self._fitted.split_arguments), _DEFAULT_SPLIT):
                raise ValueError(
                    f"expected the split of the first training, {self._fitted.split_arguments}, got {wanted}; "
                    "a test cell must stay one: leave these arguments out or make a new model."
                )
            return copy.deepcopy(self._fitted)
        n_cells = self._adata.n_obs
        if wanted["external_indexing"] is not None:
            split = given_split(n_cells, wanted["external_indexing"])
        else:
            sizes = {key: wanted[key] for key in ("train_size", "validation_size")}
            split = random_split(n_cells, seed=seed, **sizes)
        # One by one, so that a transform given for two modalities is fitted to each.
        transforms = {name: copy.deepcopy(transform) for name, transform in self._transforms.items()}
        for name, transform in transforms.items():
            transform.fit(self._values(name), split.train)
        return Fitted(
            transforms, self._new_module(transforms, seed), split, wanted, cells_digest(self._adata.obs_names)
        )

    def _new_module(self, transforms: dict[str, Transform], seed: int) -> StagedModule:
        n_features = {name: transforms[name].n_output for name in self.modalities}
        ranks = {name: transforms[name].rank for name in self.modalities}
        with seeded(seed):
            objectives = self._make_objectives(n_features, ranks)
        return StagedModule([transforms[name] for name in self.modalities], objectives, self._n_condition())

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
            code = self._code_of_one(cast(MuData, mdata), only, modality, kind, indices, size)
        else:
            cells = self._cells(mdata, indices)
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
    ) -> torch.Tensor:
        if modality is not None and modality != only:
            raise KeyError(f"expected modality {only!r}, the only one that these cells have, got {modality!r}.")
        position = self.modalities.index(only)
        values = self._read_one(mdata, only)
        rows = None if indices is None else np.arange(values.shape[0])[np.asarray(indices)]
        features = self.fitted.transforms[only].apply_to(values, rows)
        if kind == "specific":
            logger.warning(
                f"the cells have no modality but {only!r}: what their specific code should be independent of is "
                f"predicted from {only!r} itself."
            )
        return self.module.code_of_one(kind, position, features, batch_size)

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
        return self.fitted.transforms[modality].output_names(self._var_names[modality])

    def _check_stage(self, stage: str) -> None:
        if stage not in self.fitted.trained_stages:
            raise RuntimeError(f"expected a finished stage {stage!r}, got an interrupted training; call train() again.")

    def _check_modality(self, modality: str) -> None:
        if modality not in self.modalities:
            raise KeyError(f"expected modality to be one of {list(self.modalities)}, got {modality!r}; use its name.")

    def _cells(self, mdata: MuData | None, indices: ArrayLike | None = None) -> Batch:
        module = self.module
        values = self._values_of(mdata)
        rows = None if indices is None else np.arange(values[0].shape[0])[np.asarray(indices)]
        return module.features(values, rows)

    def _values_of(self, mdata: MuData | None) -> list[Values]:
        """Values of cells, by default those of training, in the model's order of modalities and features."""
        if mdata is None and self._adata is None:
            raise RuntimeError("expected a MuData, got none from a model loaded without data; pass mdata.")
        if mdata is None or mdata is self._adata:
            return [self._values(name) for name in self.modalities]
        return list(self._read(mdata).values())

    def _read(self, mdata: MuData) -> dict[str, Values]:
        """Values of cells that the model was not registered with, features in the model's order."""
        make_registration(mdata, self.modalities, self._registration.layers, at_least=self._least_modalities)
        return {name: self._read_one(mdata, name) for name in self.modalities}

    def _read_one(self, mdata: MuData, name: str) -> Values:
        layer = self._registration.layers[name]
        return read_modality(mdata, name, layer, self._var_names[name], as_sparse=self._sparse[name])

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
        """
        target = self._adata if mdata is None else mdata
        cells = self._cells(mdata)
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
        n_permutations: int = 100,
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
            Permutations of the distance correlation.
        seed
            Seed of probes, critics, permutations and thinning.
        thresholds
            Limits of the verdicts.

        Returns
        -------
        The certificate: tables, verdicts, ``summary()``.

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the specific stage.
        ValueError
            If there are fewer than 100 cells to measure on.
        """
        stages = list(self.module.objectives)
        first, last = stages[0], stages[-1]
        self._check_stage(last)
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
        module = self.module
        cells = module.features(list(values.values()))
        shared = module.codes(first, cells, INFERENCE_BATCH)
        specific = self._by_name(module.codes(last, cells, INFERENCE_BATCH)) if last != first else None
        reference = None if split is None else self._cells(None, split.train)
        return certify(
            self._by_name(cells.features),
            self._by_name(shared),
            specific,
            joint=module.joint(first, cells, INFERENCE_BATCH).cpu().numpy(),
            reference=None if reference is None else self._by_name(reference.features),
            replicates=self._replicates(values, seed),
            feature_names={name: self.feature_names(name) for name in self.modalities},
            n_permutations=n_permutations,
            seed=seed,
            thresholds=thresholds,
        )

    def _replicates(self, values: Mapping[str, Matrix], seed: int) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Features of two thinned halves of the counts, for modalities that have counts."""
        result = {}
        for name, transform in self.fitted.transforms.items():
            if transform.needs_counts:
                first, second = thin_counts(values[name], seed=seed)
                result[name] = (transform.apply_to(first).cpu().numpy(), transform.apply_to(second).cpu().numpy())
        return result

    def _by_name(self, tensors: Sequence[torch.Tensor]) -> dict[str, NDArray[Any]]:
        return {name: tensor.cpu().numpy() for name, tensor in zip(self.modalities, tensors, strict=True)}

    def save(self, dir_path: str | Path, *, overwrite: bool = False, save_mdata: bool = False) -> None:
        """Save the model; never its code. Of several processes that train together, the first one writes.

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
            Before training, or if there is no MuData to save.
        FileExistsError
            If the directory exists and `overwrite` is False.
        """
        fitted = self.fitted
        if rank() > 0:
            return
        if save_mdata and self._adata is None:
            raise RuntimeError("expected a model with data, got one loaded without; leave save_mdata out.")
        directory = Path(dir_path)
        if directory.exists() and not overwrite:
            raise FileExistsError(f"expected a new directory, got {directory}, which exists; pass overwrite=True.")
        directory.mkdir(parents=True, exist_ok=True)
        payload = {
            "format": FORMAT,
            "version": version("indiseek"),
            "model": type(self).__name__,
            "init": self._init_arguments(),
            "registry": self.registry_,
            "modalities": self.modalities,
            "layers": self._registration.layers,
            "var_names": self._var_names,
            "sparse": self._sparse,
            **fitted.payload(),
        }
        write_payload(plain(payload), directory)
        # load() must not take an earlier model's cells for this one's.
        (directory / MDATA_NAME).unlink(missing_ok=True)
        if save_mdata:
            with mudata.set_options(pull_on_update=False):
                self._adata.write(directory / MDATA_NAME)
            if self._adata.isbacked:
                # mudata closes the file that it was backed by and goes on with the new one.
                self._matrices = self._read(self._adata)

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
        if mdata is None and (directory / MDATA_NAME).is_file():
            with mudata.set_options(pull_on_update=False):
                mdata = mudata.read_h5mu(directory / MDATA_NAME)
        model = cls(None, registry=payload["registry"], **payload["init"])
        model._registration = Registration(tuple(payload["modalities"]), payload["layers"])
        model._var_names, model._sparse = payload["var_names"], payload["sparse"]
        n_features = {name: len(names) for name, names in model._var_names.items()}
        model._transforms = empty_transforms(payload["transforms"], n_features)
        module = model._new_module(model._transforms, seed=0)
        model._fitted = Fitted.from_payload(payload, module, model._transforms)
        module.to(resolve_device(accelerator))
        if mdata is not None:
            model._attach(mdata)
        return model

    def _attach(self, mdata: MuData) -> None:
        """Register data with a loaded model."""
        setup_args = {key: self.registry_[key] for key in ("model_name", "setup_method_name", "setup_args")}
        self._matrices = self._read(mdata)
        self._adata_manager = register(self._matrices, mdata.obs_names, self._var_names, setup_args)
        self._adata = mdata
        if self.fitted.cells != cells_digest(mdata.obs_names):
            self.fitted.split = None
