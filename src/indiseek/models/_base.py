"""What every model does for its user: set up, train, give codes, certify, save, load."""

from __future__ import annotations

import copy
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import mudata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import ArrayLike, NDArray
from scvi.data import AnnDataManager

from indiseek._checks import check_flags, check_mapping, check_number, check_path, check_seed, check_strings
from indiseek.data import (
    Cells,
    CellTensors,
    Groups,
    Schema,
    Setup,
    Split,
    SplitOptions,
    Transform,
    check_labels_of_training,
    check_transforms,
    confounded_columns,
    covariate_columns,
    digest_of_names,
    files_of,
    how_to_build,
    isotype_controls,
    make_folder,
    make_setup,
    note_setup,
    noted_setup,
    positions,
    settle,
    setup_line,
)
from indiseek.effects import Effects
from indiseek.metrics import Certificate, Thresholds
from indiseek.models._certificate import MIN_HELD_OUT_CELLS, certificate, cross_fitted
from indiseek.models._options import Options
from indiseek.models._report import write_report
from indiseek.objectives import rank
from indiseek.report import from_certificate
from indiseek.train import (
    INFERENCE_BATCH,
    Fitted,
    MakeViews,
    Pipeline,
    Plan,
    Stage,
    amount_of,
    empty_transforms,
    fit_pipeline,
    malformed_named,
    memory_explained,
    plain_torch,
    read_beside,
    read_saved,
    reopened,
    resolve_device,
    settings_of,
    write_saved,
)

logger = logging.getLogger(__name__)

FEWER_CELLS = "take fewer cells at once"
_BY_CHUNK = f"{FEWER_CELLS}, or let indiseek.models.embed write the codes chunk by chunk"


class MultimodalModel(ABC):
    """A model of a MuData's modalities: what the cells are, a pipeline of stages, the trained state, the spaces.

    A subclass declares its options and its stages.

    Parameters
    ----------
    mdata
        Paired cells.
    options
        The subclass's own options.
    transforms
        Transform by modality; the others are chosen from the data.
    """

    _least_modalities: ClassVar[int] = 2
    # Whether cells may lack a modality.
    _takes_unpaired: ClassVar[bool] = False
    # Whether a stage may learn labels of the cells.
    _takes_labels: ClassVar[bool] = False
    _options_class: ClassVar[type[Options]]

    _mdata: MuData | None = None
    _cells: Cells | None = None
    _fitted: Fitted | None = None
    # Split and seed on which the options were chosen, whose test cells must stay test cells.
    _chosen_on: dict[str, Any] | None = None

    def __init__(
        self,
        mdata: MuData,
        options: Options,
        transforms: Mapping[str, Transform] | None,
        *,
        n_components: int | None = None,
    ) -> None:
        self._options: Any = options
        noted = noted_setup(mdata, type(self).__name__)
        setup = make_setup(mdata, at_least=self._least_modalities) if noted is None else noted
        self._check_setup(setup)
        unused = [] if noted is not None else [name for name in mdata.mod if name not in setup.modalities]
        if transforms is not None:
            check_mapping("transforms", transforms, "transforms by modality")
        given = dict(transforms or {})
        check_transforms(given, setup.modalities)
        with plain_torch():
            cells, self._transforms = Cells.to_train_on(
                mdata, setup, given, at_least=self._least_modalities, n_components=n_components
            )
        self._schema: Schema = cells.schema
        self._mdata, self._cells = mdata, cells
        self._check_options()
        logger.info(f"{self._describe()}{f'; not used: {unused} (setup_mudata chooses)' if unused else ''}")
        if setup.covariates and not any(stage.uses_covariates for stage in self._stages()):
            logger.warning(
                f"{list(setup.covariates)} are stored with the model, but its codes are not corrected for them: no "
                f"stage of {type(self).__name__} with these options uses covariates."
            )
        elif confounded := confounded_columns(mdata, setup):
            logger.warning(
                f"{confounded} of .obs are the same for all cells of a batch: how cells differ in them cannot be told "
                f"from {setup.batch_key!r} and is corrected away with it. Leave batch_key out, or name a finer batch, "
                "if it is what you study."
            )

    @abstractmethod
    def _stages(self) -> list[Stage]:
        """The stages, in the order of training."""

    def _check_options(self) -> None:  # noqa: B027 (most models have something to check, but none must)
        """Raise KeyError or ValueError where the options do not go with the cells."""

    @property
    def _make_views(self) -> MakeViews | None:
        """What makes augmented features of cells, for objectives that want any."""
        return None

    # What the cells are

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        modalities: Sequence[str] | None = None,
        layers: Mapping[str, str | None] | None = None,
        batch_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        unpaired: Literal["refuse", "keep"] = "refuse",
        present: Mapping[str, str] | None = None,
        labels_key: str | None = None,
        unlabeled_category: str | int | None = None,
        **others: Any,
    ) -> None:
        """Choose what models of this class see of `mdata`. Without this call the constructor chooses.

        The choice is noted in ``mdata.uns["indiseek_setup"]`` and so goes with copies, subsets and files. Nothing else
        is written, and other classes are not touched.

        Parameters
        ----------
        mdata
            Paired cells: every modality holds the same cells in the same order, unless `unpaired` or `present` says
            that some lack one.
        modalities
            Names of the modalities in the order wanted. By default one called rna or gex and one called
            prot, protein, adt or ab; else the two that there are.
        layers
            Layer by modality; ``X`` where none is named.
        batch_key
            Column of ``.obs`` with the batch, of the MuData or else of a modality. In IndiSeekModel cells are compared
            within a batch in stage 1, so that the shared codes have no use for it; ``X_indiseek`` is corrected for it
            state by state; and the specific codes of ``specific="closed-form"`` are independent of it and of the
            categorical covariates. What uses no covariates registers them and checks them in new cells, and the
            constructor says so.
        categorical_covariate_keys, continuous_covariate_keys
            Further columns of ``.obs``: categories, and numbers.
        unpaired
            ``"keep"``: a modality may hold some of the MuData's cells only, which are known by their names, in any
            order; the others lack it. IndiSeekModel is then trained with all of them: :doc:`/mosaic`. By default cells
            must be paired, so that names which differ by mistake are told.
        present
            By modality, column of ``.obs`` with True for the cells that have it, where the modality holds values of
            all cells but not all of them were measured. Without it zeros are zeros.
        labels_key
            Column of ``.obs`` with labels, such as cell types, that the specific codes of IndiSeekModel with
            ``specific=NCEClub()`` are to keep: ``NCEClub(supervision=)``.
        unlabeled_category
            Its value for cells without a label, such as ``"Unknown"``. Missing values are none in any case.
        **others
            Nothing: arguments of other models' set-up, such as totalVI's ``rna_layer``, are refused with the line to
            write instead.

        Raises
        ------
        TypeError
            If `mdata` is not a MuData, or an argument is one of another model's.
        KeyError
            If a modality or a column does not exist.
        ValueError
            If modalities cannot be detected or are not paired, a covariate has missing values, cells may lack a
            modality and the model needs all, the labels are a covariate too, or the model learns no labels.
        """
        if others or isinstance(modalities, Mapping):
            raise TypeError(setup_line(cls.__name__, mdata, modalities, layers, batch_key, others, labels_key))
        setup = make_setup(
            mdata,
            modalities,
            layers,
            batch_key=batch_key,
            categorical_covariate_keys=categorical_covariate_keys,
            continuous_covariate_keys=continuous_covariate_keys,
            unpaired=unpaired,
            present=present,
            labels_key=labels_key,
            unlabeled_category=unlabeled_category,
            at_least=cls._least_modalities,
        )
        cls._check_setup(setup)
        note_setup(mdata, cls.__name__, setup)

    @classmethod
    def _check_setup(cls, setup: Setup) -> None:
        """Raise ValueError if cells may lack a modality and these models need all, or labels are of no use to them."""
        if setup.labels_key is not None and not cls._takes_labels:
            raise ValueError(
                f"expected no labels for {cls.__name__}, which learns none, got labels_key={setup.labels_key!r}; leave "
                "it out, or use IndiSeekModel(mdata, specific=indiseek.NCEClub())."
            )
        if setup.may_be_unpaired and not cls._takes_unpaired:
            raise ValueError(
                f"expected paired cells for {cls.__name__}, got unpaired or present, by which cells may lack a "
                "modality; use IndiSeekModel, or keep the paired cells with muon.pp.intersect_obs(mdata)."
            )

    @classmethod
    def setup_anndata(cls, adata: AnnData, **others: Any) -> None:
        """Not for these models: they need two modalities.

        Parameters
        ----------
        adata
            An AnnData, of which :func:`indiseek.data.mudata_of` may build a MuData.
        **others
            Arguments of other models' set-up, such as totalVI's ``protein_expression_obsm_key``.

        Raises
        ------
        TypeError
            Always; says what to call.
        """
        key = others.get("protein_expression_obsm_key")
        build = how_to_build(adata, None if key is None else str(key))
        raise TypeError(
            f"expected a MuData with two modalities, got {type(adata).__name__}; {build}, and call "
            f"{cls.__name__}.setup_mudata(mdata), or {cls.__name__}(mdata) at once."
        )

    def _describe(self) -> str:
        if self._cells is None:
            return f"{type(self).__name__} without data"
        parts = []
        for name in self.modalities:
            layer = self._schema.setup.layers[name]
            where = f"layer {layer!r} of " if layer else ""
            n_features = len(self._schema.features[name])
            controls = isotype_controls(name, self._schema.features[name])
            among = f", {len(controls)} of them isotype controls: {controls}" if controls else ""
            parts.append(f"{where}{name!r} ({n_features} features, {self._transforms[name].name}{among})")
        presence = self._cells.presence
        who = "" if presence is None else f" ({presence.describe()})"
        labels, key = self._cells.labels, self._schema.setup.labels_key
        known = (
            "" if labels is None else f", {len(self._schema.labels)} labels of {int((labels >= 0).sum())} in {key!r}"
        )
        return f"{type(self).__name__}: {len(self._cells)} cells{who}{known}, {' and '.join(parts)}"

    def __repr__(self) -> str:
        stages = [] if self._fitted is None else self._fitted.trained_stages
        return f"{self._describe()}; trained stages: {', '.join(stages) or 'none'}\nNext: {self._next_step()}"

    def _next_step(self) -> str:
        """What a user is likely to call now."""
        if self._fitted is None:
            return "model.train()"
        if self._fitted.trained_stages != list(self.module.stages):
            return "model.train(), which goes on with the stages that are not trained"
        if self._cells is None or self._fitted.split is None:
            return "model.get_latent_representation(mdata) of cells with these features"
        return "print(model.certify()), on the test cells, and model.report('report.html')"

    @property
    def adata(self) -> MuData | None:
        """The MuData of the model; None for a model that was loaded without."""
        return self._mdata

    @property
    def adata_manager(self) -> AnnDataManager:
        """scvi-tools' record of the fields of the cells.

        Raises
        ------
        RuntimeError
            If the model was loaded without data.
        """
        return self._training_cells().manager

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the model's order."""
        return self._schema.modalities

    def _training_cells(self) -> Cells:
        if self._cells is None:
            raise RuntimeError("expected a model with data, got one loaded without; call load(path, mdata).")
        return self._cells

    def _unchanged_cells(self) -> Cells:
        """Cells of training, of which names and values are those that were read.

        Raises
        ------
        ValueError
            If they are not; says what has changed.
        """
        cells = self._training_cells()
        cells.check_names(cast(MuData, self._mdata))
        changed = cells.changed
        if changed is not None:
            # Memory that the model shared holds other values now. The MuData may still have the right ones.
            cells = self._cells = self._read_again(cells, changed)
        return cells

    def _read_again(self, before: Cells, changed: str) -> Cells:
        mdata = cast(MuData, self._mdata)
        try:
            cells = self._read(mdata)
        except ValueError:
            cells = None
        if cells is None or not before.same_values(cells):
            layer = self._schema.setup.layers[changed]
            where = f"mdata[{changed!r}].{'X' if layer is None else f'layers[{layer!r}]'}"
            raise ValueError(
                f"expected in modality {changed!r} the values with which the model was made, got others: they were "
                "changed in place, as scanpy.pp.log1p and scanpy.pp.scale do it, in memory that the model shares; put "
                f"the counts back ({where} = counts), and transform a copy of them, or another layer."
            )
        return cells

    def _check_mdata_to_save(self) -> None:
        """Raise ValueError if the MuData is not what the model was made with: loaded, it would give other codes."""
        mdata, cells = cast(MuData, self._mdata), self._unchanged_cells()
        if cells.is_unchanged(mdata):
            return
        found = self._read(mdata)
        if not (cells.same_values(found) and cells.same_covariates(found)):
            raise ValueError(
                "expected in the MuData the values and covariates with which the model was made, got others, because "
                "it has changed since; put them back, or leave save_mdata out and pass cells to load()."
            )

    def _read(self, mdata: MuData, *, one_is_enough: bool = False) -> Cells:
        counts = [name for name, transform in self._transforms.items() if transform.needs_counts]
        return self._schema.read(mdata, counts=counts, one_is_enough=one_is_enough)

    def _cells_of(self, mdata: MuData | None, *, one_is_enough: bool = False) -> Cells:
        """Cells of a MuData, by default those of training."""
        if mdata is None and self._cells is None:
            raise RuntimeError("expected a MuData, got none from a model loaded without data; pass mdata.")
        if mdata is None:
            return self._unchanged_cells()
        known = self._cells if mdata is self._mdata else None
        if known is not None and known.is_unchanged(mdata):
            return known
        cells = self._read(mdata, one_is_enough=one_is_enough)
        if known is not None:
            if known.same_values(cells) and known.same_covariates(cells):
                return cells
            logger.warning(
                "the MuData of the model has changed since the model was made: what follows is of its cells and values "
                "as they are now."
            )
        return cells

    def _check_modality(self, modality: str, argument: str = "modality") -> None:
        if modality not in self.modalities:
            raise KeyError(f"expected {argument} to be one of {list(self.modalities)}, got {modality!r}; use its name.")

    # The trained state

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
    def module(self) -> Pipeline:
        """Networks and fitted transforms; RuntimeError before training."""
        return self.fitted.pipeline

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

    @property
    def device(self) -> torch.device:
        """Device of the networks; RuntimeError before training."""
        return self.module.device

    def to_device(self, device: str | torch.device) -> None:
        """Move transforms and networks.

        Parameters
        ----------
        device
            As torch names it, such as ``"cpu"`` or ``"cuda:0"``.

        Raises
        ------
        RuntimeError
            Before training, or if there is no such device.
        """
        module = self.module
        try:
            module.to(torch.device(device))
        except (RuntimeError, TypeError, AssertionError) as error:
            raise RuntimeError(
                f"expected a device that this machine has, got {device!r} ({str(error).splitlines()[0]}); for example "
                "'cpu'."
            ) from error

    @plain_torch()
    def train(
        self,
        max_epochs: int | Mapping[str, int] | None = None,
        *,
        batch_size: int | Mapping[str, int] | None = None,
        lr: float | Mapping[str, float] | None = None,
        weight_decay: float | Mapping[str, float] | None = None,
        early_stopping: bool | Mapping[str, bool] = True,
        patience: int | Mapping[str, int] | None = None,
        train_size: float | None = None,
        validation_size: float | None = None,
        external_indexing: Sequence[ArrayLike] | None = None,
        split_by: str | None = None,
        accelerator: str = "auto",
        devices: int | Sequence[int] = 1,
        num_nodes: int = 1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        keep_checkpoint: bool = False,
        write_latents: bool = True,
        show_progress: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train all stages, one after the other.

        The cells are split once into training, validation and test cells; test cells are touched by no
        fit, no early stopping and no transform. A second call continues from the weights that are there.
        Ctrl-C ends the stage that runs and keeps its weights: the best ones where the stage stops early.

        Of `max_epochs`, `batch_size`, `lr`, `weight_decay`, `early_stopping` and `patience`, one value is for every
        stage, and a dict gives values to some by name; the names of the stages and their defaults stand on the model's
        page.

        Parameters
        ----------
        max_epochs
            Most epochs. By default as many as a stage's number of steps takes.
        batch_size
            Cells in a step. InfoNCE cannot show more than ``log(batch_size)`` nats.
        lr, weight_decay
            Learning rate and decoupled weight decay of AdamW.
        early_stopping
            Whether a stage stops when its held-out loss has not fallen for `patience` epochs. Without it
            contrastive learning memorises the training pairs. True is for all stages that stop early by default; a
            stage that ends when its learning rate does is made to stop early by name only.
        patience
            See `early_stopping`; by default 10 epochs, and at least 200 steps of the flow on top of ``"closed-form"``.
        train_size, validation_size
            Fractions of the cells; the rest are test cells. By default a tenth for validation, and for testing a tenth,
            or 1,500 where these are at most a quarter of the cells: fewer seldom allow a verdict.
        external_indexing
            Positions of training, validation and (optionally) test cells, instead of a random split.
        split_by
            Column of ``.obs``, such as the donor, whose groups the split keeps whole: the certificate is then of donors
            that no fit has seen. The parts are as near to their sizes as whole groups come, and every batch keeps
            training cells.
        accelerator
            ``"auto"``, ``"cpu"``, ``"gpu"``, ``"mps"``, as Lightning names them.
        devices, num_nodes
            Number of devices of each machine, or the number of each, such as ``[1]`` for the second; and number of
            machines. Each device has a process of its own, which takes its
            share of every batch; `batch_size` counts the cells of all of them.
        seed
            Seed of split, weights and batches. The same seed on the same machine gives the same latents.
            Global random states are left alone.
        checkpoint_dir
            Where the state is kept after every epoch. The same call in a new process, after the first one was
            killed, goes on from there to the same result. The state is deleted when training is complete.
        keep_checkpoint
            Whether it stays: then the same call gives the trained model again, at once, until you delete
            ``checkpoint.pt``. For what is killed between training and :meth:`save`.
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
        KeyError
            If a stage is unknown.
        ValueError
            If an argument is out of range, a later call asks for another split, `checkpoint_dir` holds the state of
            another fit or is in use by one, or the processes do not have the same cells.
        FloatingPointError
            If a loss is not finite; the model is then as it was before the call.
        MemoryError
            If a step, or the features of the cells, do not fit into memory; likewise. Names a batch size to try, or
            what else would help. Where only the codes that are written at the end do not fit, the training is kept.
        """
        split = self._split_options(train_size, validation_size, external_indexing, split_by)
        flags = {"keep_checkpoint": keep_checkpoint, "write_latents": write_latents, "show_progress": show_progress}
        check_flags(flags)
        self._check_split(split, seed)
        make_views, cells = self._make_views, self._unchanged_cells()
        if cells.labels is not None:
            self._check_labels(cells, split, seed)
        stages = self._stages()
        settings = settings_of(
            stages,
            split.n_train(len(cells.names), seed),
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            early_stopping=early_stopping,
            patience=patience,
        )
        plan = Plan(
            settings=settings,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            seed=seed,
            trainer_kwargs=trainer_kwargs,
        )
        new = partial(Fitted.new, cells, self._transforms, stages, split, seed)
        self._fitted = fit_pipeline(
            cells,
            plan,
            # A copy of the present state, so that a failure leaves that as it is.
            new if self._fitted is None else partial(copy.deepcopy, self._fitted),
            restored=lambda saved: self._restored(saved, self._own_transforms()),
            make_views=make_views,
            checkpoint_dir=checkpoint_dir,
            keep_checkpoint=keep_checkpoint,
            record=lambda: self._record() | {"split": split.digest()},
            show_progress=show_progress,
        )
        if write_latents:
            self.write_latents()

    def _split_options(
        self,
        train_size: float | None,
        validation_size: float | None,
        external_indexing: Sequence[ArrayLike] | None,
        split_by: str | None,
    ) -> SplitOptions:
        """What the user asks of the split; KeyError, TypeError and ValueError as for a covariate."""
        return SplitOptions(
            train_size=train_size,
            validation_size=validation_size,
            external_indexing=external_indexing,
            groups=None if split_by is None else self._groups(split_by),
            paired=None if self._cells is None or self._cells.presence is None else self._cells.is_paired,
        )

    def _groups(self, split_by: str) -> Groups:
        """Cells of training by a column of ``.obs``, in groups that a split keeps whole."""
        if not isinstance(split_by, str):
            raise TypeError(
                f"expected split_by to be the name of a column of .obs, got {split_by!r}; for example 'donor'."
            )
        cells = self._training_cells()
        column = self._columns(cast(MuData, self._mdata), [split_by])[split_by]
        categorical = [cells.covariates[key] for key in self._schema.setup.categorical]
        return Groups(split_by, pd.factorize(column)[0], tuple(categorical))

    def _columns(self, mdata: MuData, keys: Sequence[str]) -> pd.DataFrame:
        """Columns of ``.obs`` by name, ``(n_cells, n_keys)``, none of them with missing values."""
        named = Setup(modalities=self.modalities, layers={}, categorical_covariate_keys=tuple(keys))
        return covariate_columns(mdata, named)

    def _check_split(self, wanted: SplitOptions, seed: int) -> None:
        """Raise if the options were chosen, or a model was trained, with another split."""
        if self._fitted is None and self._chosen_on is None:
            return
        record = wanted.record()
        if self._fitted is None:
            if self._chosen_on != record | {"seed": seed}:
                raise ValueError(
                    f"expected the split on which the model was tuned, {self._chosen_on}, got "
                    f"{record | {'seed': seed}}; other test cells would be cells that the choice has seen."
                )
            return
        if self._fitted.split is None:
            raise RuntimeError(
                "expected the cells that the model was trained on, got others; "
                "load the model with its own MuData to train it further."
            )
        # What train() takes when the user says nothing keeps the split that there is.
        if record not in (self._fitted.split_options, SplitOptions().record()):
            raise ValueError(
                f"expected the split of the first training, {self._fitted.split_options}, got {record}; "
                "a test cell must stay one: leave these arguments out or make a new model."
            )

    def _check_labels(self, cells: Cells, split: SplitOptions, seed: int) -> None:
        """Raise ValueError if a label that is to be learned has no training cell."""
        if cells.labels is None:
            return
        known = None if self._fitted is None else self._fitted.split
        train = split.split(len(cells), seed).train if known is None else known.train
        key = str(cells.schema.setup.labels_key)
        check_labels_of_training(cells.labels, cells.schema.labels, key, train[cells.is_paired[train]])

    def _restored(self, saved: dict[str, Any], own: Mapping[str, type[Transform]]) -> Fitted:
        """State that :meth:`Fitted.payload` has written down; nothing is fitted."""
        transforms = empty_transforms(saved["transforms"], self._schema.features, own)
        stages = self._stages()
        if "n_train" not in saved:
            # Files of before it mattered have as many axes as the features.
            stages = [replace(stage, most_cells=None) for stage in stages]
        n_train = saved.get("n_train", sys.maxsize)
        pipeline = Pipeline(transforms, stages, self._schema.n_categories, n_train, seed=0)
        return Fitted.from_payload(saved, pipeline)

    def _own_transforms(self) -> dict[str, type[Transform]]:
        return {transform.name: type(transform) for transform in self._transforms.values()}

    def _record(self) -> dict[str, Any]:
        """Plain values that tell this model and its cells from others."""
        features = self._schema.features
        return {
            "version": version("indiseek"),
            "model": type(self).__name__,
            "options": self._options.record(),
            "setup": self._schema.setup.record(),
            "transforms": {name: {"name": t.name, "config": t.config()} for name, t in self._transforms.items()},
            "var_names": {name: digest_of_names(pd.Index(names)) for name, names in features.items()},
            "obs_names": self._training_cells().digest,
            "labels": self._training_cells().digest_of_labels(),
        }

    # The spaces

    @plain_torch()
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
            Modality whose code is wanted. None gives the joint code of all modalities, which the first kind and
            ``"everything"`` have; of shared codes that is the mean of the modalities' unit codes, brought back to unit
            length.
        kind
            Stage whose codes are wanted, by default the first: ``"shared"``, ``"specific"``, of IndiSeekModel also
            ``"everything"`` for what is known of a cell in all, ``"components"`` for what the specific codes are made
            of, and with ``specific="flow"`` ``"context"`` for the wide codes that are its condition; of CoMMModel
            ``"fused"``.
        indices
            Positions of the cells wanted, or a boolean mask; by default all, in order.
        batch_size
            Cells in a step; changes memory, not values.

        Returns
        -------
        ``(n_cells, n_latent)``; of NaN for a cell that lacks the modality, where some do (:doc:`/mosaic`).

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
        kinds, default = list(self.module.stages), self.module.default
        kind = default if kind is None else kind
        if kind not in kinds:
            raise ValueError(f"expected kind to be one of {kinds}, got {kind!r}; choose one of them.")
        self._check_stage(kind)
        if modality is None and self.module.stages[kind].space.joint is None:
            raise ValueError(f"expected a modality for kind={kind!r}, got None; choose one of {list(self.modalities)}.")
        if modality is not None:
            self._check_modality(modality)
        if batch_size is not None:
            check_number("batch_size", batch_size, low=1, whole=True)
        cells = self._cells_of(mdata, one_is_enough=True)
        if cells.only is not None and modality not in (None, cells.only):
            raise KeyError(f"expected modality {cells.only!r}, the only one that these cells have, got {modality!r}.")
        if cells.only is not None and modality is None and kind != default:
            raise ValueError(
                f"expected cells with all of {list(self.modalities)} for kind={kind!r}, got cells with only "
                f"{cells.only!r}; name the modality, or ask for kind={default!r}."
            )
        if cells.only is not None:
            self._note_predicted(kind, cells.only)
        size = INFERENCE_BATCH if batch_size is None else batch_size
        rows = None if indices is None else positions("indices", indices, len(cells), low=-len(cells))
        return self._code_at(cells, rows, kind, modality, size)

    def _code_at(
        self, cells: Cells, rows: NDArray[np.intp] | None, kind: str, modality: str | None, batch_size: int
    ) -> NDArray[np.float32]:
        """One code of all cells or those at `rows`."""
        tensors = self._tensors(cells, rows)
        with self._explained(tensors.n_cells, f"{FEWER_CELLS}, or a batch_size below {batch_size}"):
            if modality is None:
                return self.module.joint(kind, tensors, batch_size).cpu().numpy()
            return self.module.codes(kind, tensors, batch_size)[modality].cpu().numpy()

    def _note_predicted(self, kind: str, only: str) -> None:
        """Say where the codes of a stage are made of predictions, because cells have one modality only."""
        if self.module.objective(kind).sees_others:
            logger.warning(
                f"the cells have no modality but {only!r}: what their specific code should be independent of is "
                f"predicted from {only!r} itself."
            )

    @plain_torch()
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
        cells = self._cells_of(mdata)
        position = self.modalities.index(modality)
        if cells.presence is None:
            return self._tensors(cells, indices).features[position].cpu().numpy()
        rows = np.arange(len(cells))
        rows = rows if indices is None else rows[positions("indices", indices, len(cells), low=-len(cells))]
        found = np.full((len(rows), self.fitted.transforms[modality].n_output), np.nan, dtype=np.float32)
        has = cells.presence.has[modality][rows]
        with self._explained(len(rows), FEWER_CELLS):
            values, transform = cells.values[modality], self.fitted.transforms[modality]
            found[has] = transform.apply_to(values, cells.at(modality, rows)).cpu().numpy()
        return found

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
        return self.fitted.transforms[modality].output_names(self._schema.features[modality])

    def _check_stage(self, stage: str) -> None:
        if stage not in self.fitted.trained_stages:
            raise RuntimeError(f"expected a finished stage {stage!r}, got an interrupted training; call train() again.")

    def _tensors(self, cells: Cells, indices: ArrayLike | None = None, *, advice: str = FEWER_CELLS) -> CellTensors:
        rows = None if indices is None else positions("indices", indices, len(cells), low=-len(cells))
        with self._explained(len(cells) if rows is None else len(rows), advice):
            return self.module.tensors(cells, rows)

    def _explained(self, n_cells: int, advice: str) -> AbstractContextManager[None]:
        """Block whose memory may run out for so many cells, and what to do then."""
        n_features = sum(transform.n_output for transform in self.fitted.transforms.values())
        return memory_explained(
            f"features and codes of {amount_of(n_cells, n_features)}",
            self.module.device,
            advice,
            on_cpu="move the model by to_device('cpu')",
            left="The model keeps its training, and no codes are written.",
        )

    @plain_torch()
    def write_latents(self, mdata: MuData | None = None) -> None:
        """Write the codes into ``.obsm`` for scanpy.

        For a model of modalities rna and prot, ``mdata.obsm`` gets the joint shared code and each
        modality's specific one (for IndiSeekModel ``X_indiseek_shared``, ``X_indiseek_rna``,
        ``X_indiseek_prot``), and for IndiSeekModel all that is known of a cell (``X_indiseek``); each modality's
        own ``.obsm`` gets the joint codes and its specific code (``X_indiseek_specific``). CoMMModel gives the
        fused code (``X_comm``) and each modality's projection (``X_comm_rna``, ``X_comm_prot``, in the modality
        ``X_comm_projection``). Nothing else changes. Where cells lack a modality, their rows of its code are NaN in
        ``mdata.obsm``; the modality's own ``.obsm`` has its own cells (:doc:`/mosaic`).

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
        cells = self._cells_of(mdata)
        target = cast(MuData, self._mdata if mdata is None else mdata)
        self._put(target, *self._codes_at(cells))

    def _codes_at(
        self, cells: Cells, rows: NDArray[np.intp] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]:
        """As :meth:`_obsm`, of all cells or those at `rows`."""
        tensors = self._tensors(cells, rows, advice=_BY_CHUNK)
        with self._explained(tensors.n_cells, _BY_CHUNK):
            return self._obsm(tensors)

    @staticmethod
    def _put(mdata: MuData, whole: Mapping[str, NDArray[Any]], parts: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Write codes into ``.obsm``: those of the MuData, and those of each modality."""
        with mudata.set_options(pull_on_update=False):
            for key, code in whole.items():
                mdata.obsm[key] = code
            for name, codes in parts.items():
                own = mdata.mod[name].obs_names
                # A modality may hold some of the cells, in an order of its own.
                rows = None if own.equals(mdata.obs_names) else mdata.obs_names.get_indexer(own)
                for key, code in codes.items():
                    mdata.mod[name].obsm[key] = code if rows is None else code[rows]

    def _obsm(self, cells: CellTensors) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]:
        """Codes of all trained stages by key: those of the MuData, and those of each modality."""
        whole: dict[str, NDArray[Any]] = {}
        parts: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in self.modalities}
        for stage in self.fitted.trained_stages:
            space = self.module.stages[stage].space
            if space.joint is not None:
                whole[space.joint] = self.module.joint(stage, cells).cpu().numpy()
                for codes in parts.values():
                    codes[space.joint] = whole[space.joint].copy()
            if space.each is None and space.own is None:
                continue
            for name, code in self._by_name(self.module.codes(stage, cells)).items():
                if space.each is not None:
                    whole[space.each.format(modality=name)] = code
                if space.own is not None:
                    parts[name][space.own] = code.copy()
        return whole, parts

    @plain_torch()
    def certify(
        self,
        mdata: MuData | None = None,
        *,
        obs: Sequence[str] = (),
        n_permutations: int = 99,
        seed: int = 0,
        thresholds: Thresholds | None = None,
        cross_fit: int | None = None,
        train_kwargs: Mapping[str, Any] | None = None,
        show_progress: bool = True,
    ) -> Certificate:
        """Measure on held-out cells whether the specific spaces are independent and complete, the shared ones shared.

        Uses the test cells, and nothing of the model but its codes: see :func:`indiseek.metrics.certify`. What one
        modality knows of another is fitted on the training cells' features. The counts of the test cells,
        thinned into halves, give the counting noise where the transform takes counts. Of more than 10,000 test cells so
        many are drawn. Of a model without specific
        codes (CoMMModel) the projections are judged as shared codes, and the fused code, which is meant to hold what
        only one modality knows, as the joint one.

        Parameters
        ----------
        mdata
            Other held-out cells, instead of the test cells; those that lack a modality are left out.
        obs
            Columns of ``.obs`` that may be in the codes, such as donor or lane, beside the depth of each modality,
            what was set up as batch or covariate, and the column by which ``train(split_by=...)`` has split.
        n_permutations
            Permutations of the scan for dependence of other forms; 0 leaves it out.
        seed
            Seed of probes, critics, permutations and thinning.
        thresholds
            Limits of the verdicts.
        cross_fit
            Number of folds. Models with the same options are then trained from the start, as many as there are folds,
            each without one fold of the cells, and certified on that fold, so that every cell is a test cell once: for
            sets of which a tenth or a quarter is too few for a verdict. It takes as many times as long and judges the
            method on these cells, not this very fit. The table ``features`` is left out. None certifies this fit.
        train_kwargs
            Arguments of :meth:`train` for these models where you train with other than its defaults.
        show_progress
            Whether a progress bar is shown where it takes seconds.

        Returns
        -------
        The certificate: print it, or read its ``verdicts`` and ``tables``.

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the specific stage.
        KeyError
            If there is no such column in ``.obs``.
        ValueError
            If there are fewer than 100 cells to measure on, in a fold too, or `cross_fit` and `mdata` are both given.
        """
        check_seed("seed", seed)
        check_number("n_permutations", n_permutations, low=0, whole=True)
        check_flags({"show_progress": show_progress})
        obs = check_strings("obs", obs)
        self._check_stage(list(self.module.stages)[-1])
        training = self._unchanged_cells()
        if cross_fit is not None or train_kwargs is not None:
            wanted = {"obs": obs, "n_permutations": n_permutations, "seed": seed, "thresholds": thresholds}
            return cross_fitted(self, mdata, cross_fit, train_kwargs, wanted, show_progress=show_progress)
        split = self.fitted.split
        cells, rows = self._held_out(mdata)
        split_by = self.fitted.split_options.get("split_by")
        if mdata is None and split_by is not None:
            column = self._columns(cast(MuData, self._mdata), [split_by])[split_by]
            # Of one donor alone there is nothing to tell.
            obs = tuple(dict.fromkeys((*obs, *[split_by] * (column.iloc[rows].nunique() > 1))))
        columns = self._columns(cast(MuData, self._mdata if mdata is None else mdata), obs)
        known = None
        if split is not None:
            known = self.module.tensors(training, split.train[training.is_paired[split.train]]).features
        reference = None if known is None else self._by_name(dict(zip(self.modalities, known, strict=True)))
        return certificate(
            self.module,
            cells,
            rows,
            reference,
            obs={str(key): column.to_numpy() for key, column in columns.items()},
            feature_names={name: self.feature_names(name) for name in self.modalities},
            new_groups=split_by if mdata is None else None,
            n_permutations=n_permutations,
            seed=seed,
            thresholds=thresholds,
            show_progress=show_progress,
        )

    def _features_for_report(self, certificate: Certificate) -> pd.DataFrame | None:
        """Who knows what of each feature: what the certificate has of it, None where it has nothing."""
        return from_certificate(certificate.features) if "features" in certificate.tables else None

    def _held_out(self, mdata: MuData | None) -> tuple[Cells, NDArray[np.intp]]:
        """Cells, and which of them no fit has seen: the test cells, or all of those that a user holds to be such."""
        split = self.fitted.split
        if mdata is None and split is None:
            raise RuntimeError("expected the cells of training, got others; pass held-out cells as mdata.")
        cells = self._unchanged_cells() if mdata is None else self._cells_of(mdata)
        rows = cast(Split, split).test if mdata is None else np.flatnonzero(cells.is_paired)
        if len(rows) < MIN_HELD_OUT_CELLS:
            raise ValueError(
                f"expected at least {MIN_HELD_OUT_CELLS} held-out cells, got {len(rows)}; train with smaller "
                "train_size and validation_size, or pass other cells as mdata."
            )
        return cells, rows

    @plain_torch()
    def report(
        self,
        path: str | Path,
        *,
        certificate: Certificate | None = None,
        effects: Effects | None = None,
        title: str | None = None,
        obs: Sequence[str] | None = None,
        color: str | None = None,
        coordinates: Mapping[str, NDArray[Any]] | None = None,
        max_cells: int = 20_000,
        seed: int = 0,
    ) -> None:
        """Write one HTML page of what was run and found, which can be forwarded and needs no network.

        Maps of all spaces with one selection, a table of features, the certificate in words, batches and conditions,
        training curves, versions, and code that gives the same again: :doc:`/report` shows one. Nothing of the MuData
        changes. The names of cells, features and columns, and the values that maps can be coloured by, are in the file.

        Parameters
        ----------
        path
            File to write, ``.html``, in a folder that is there. Only a page that this package has written is replaced.
        certificate
            What :meth:`certify` has returned; by default one is made, which takes about a minute.
        effects
            What :meth:`indiseek.IndiSeekModel.compare` has returned, to be shown too.
        title
            Headline; by default one that names the modalities and the number of cells.
        obs
            Columns of ``.obs`` that are in the file; by default all, but those with more than 200 different words.
        color
            Column of ``.obs`` or feature that colours the maps at first; by default a column that looks like types of
            cells, else the feature of which one modality alone knows most. ``"rna:CD4"`` names that of one modality.
        coordinates
            Maps by key, ``(n_cells, 2)`` each, such as :func:`indiseek.pl.umap_coordinates` returns them; UMAPs of the
            others are computed.
        max_cells
            Most cells on the maps. Of more, so many are drawn at random, and the page says so.
        seed
            Seed of that draw, of the UMAPs, and of a certificate that is made.

        Raises
        ------
        RuntimeError
            Before training, or if the model has not the cells that it was trained on.
        FileNotFoundError
            If there is no such folder.
        FileExistsError
            If something else than a page of this package is at `path`.
        TypeError
            If `certificate` or `effects` is something else.
        KeyError
            If a column, feature or space is unknown.
        ValueError
            If `path` is no name of a page, or an argument is out of range.
        """
        write_report(
            self,
            path,
            certificate=certificate,
            effects=effects,
            title=title,
            obs=obs,
            color=color,
            coordinates=coordinates,
            max_cells=max_cells,
            seed=seed,
            least_held_out=MIN_HELD_OUT_CELLS,
        )

    @staticmethod
    def _by_name(tensors: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    # On disk

    @plain_torch()
    def save(
        self,
        dir_path: str | Path,
        *,
        overwrite: bool = False,
        save_mdata: bool = False,
        save_anndata: bool = False,
    ) -> None:
        """Save the model; never its code. Of several processes that train together, the first one writes.

        What was saved before stays until all is written, and stays if anything fails.

        Parameters
        ----------
        dir_path
            Directory; made if it does not exist.
        overwrite
            Whether a model that is there is replaced. A file that this package has not written never is.
        save_mdata
            Whether the MuData is written beside it as ``mdata.h5mu``.
        save_anndata
            The name of `save_mdata` in scvi-tools; the same.

        Raises
        ------
        RuntimeError
            Before training, or if there is no MuData to save.
        ValueError
            If the MuData is to be saved and is not what the model was made with any more.
        FileExistsError
            If the directory holds anything and `overwrite` is False, a file in the place of one of the two is not ours,
            or another process saves there.
        ValueError
            If a weight is not finite.
        OSError
            If the disk is full.
        """
        fitted = self.fitted
        if rank() > 0:
            return
        check_flags({"overwrite": overwrite, "save_mdata": save_mdata, "save_anndata": save_anndata})
        save_mdata = save_mdata or save_anndata
        if save_mdata and self._mdata is None:
            raise RuntimeError("expected a model with data, got one loaded without; leave save_mdata out.")
        if save_mdata:
            self._check_mdata_to_save()
        directory = check_path("dir_path", dir_path)
        settle(directory)
        # One that is empty may be what a process has left that was killed just then.
        if directory.exists() and not overwrite and (not directory.is_dir() or any(directory.iterdir())):
            raise FileExistsError(f"expected a new directory, got {directory}, which exists; pass overwrite=True.")
        make_folder(directory)
        own = {"model": type(self).__name__, "options": self._options.record()}
        payload = {**own, **fitted.payload()}
        read_from = set() if self._mdata is None else files_of(self._mdata)
        write_saved(payload, self._schema, directory, self._mdata if save_mdata else None, read_from=read_from)
        if save_mdata and cast(MuData, self._mdata).isbacked:
            # What is open may be the file that has just been replaced; changes to it would be lost.
            if reopened(cast(MuData, self._mdata), directory):
                self._cells = self._read(cast(MuData, self._mdata))

    @classmethod
    @plain_torch()
    def load(
        cls,
        dir_path: str | Path,
        mdata: MuData | None = None,
        *,
        accelerator: str = "auto",
        own_code: Iterable[Any] = (),
    ) -> Self:
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
        own_code
            Your own classes of transforms, and classes or functions of encoders, that the model was made with: a file
            knows them by name and never carries code.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If a file is damaged or has changed since, carries code, has weights that are not finite, needs `own_code`,
            or the features are not the model's.
        """
        directory = check_path("dir_path", dir_path)
        if isinstance(own_code, str) or not isinstance(own_code, Iterable):
            raise TypeError(f"expected own_code to be a list of classes and functions, got {own_code!r}; give a list.")
        saved = read_saved(directory, cls.__name__)
        mdata = read_beside(directory, saved) if mdata is None else mdata
        own = list(own_code)
        model = cls.__new__(cls)
        with malformed_named(directory):
            model._options = cls._options_class.from_record(saved["options"], own)
            model._schema = saved["schema"]
            transforms = [each for each in own if isinstance(each, type) and issubclass(each, Transform)]
            own_transforms = {each.name: each for each in transforms}
            model._transforms = empty_transforms(saved["transforms"], model._schema.features, own_transforms)
            model._fitted = model._restored(saved, own_transforms)
        model._fitted.pipeline.to(resolve_device(accelerator))
        if mdata is not None:
            model._mdata, model._cells = mdata, model._read(mdata)
            if model._fitted.cells != model._cells.digest:
                model._fitted.split = None
        return model
