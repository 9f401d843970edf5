"""What every model does for its user: register, train, give latents, save, load."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from indiseek.data import Split
from indiseek.models._arguments import check_processes, check_range, split_arguments
from indiseek.models._checkpoint import Checkpoint
from indiseek.models._fit import Plan, fit_stages, start_of
from indiseek.models._fitted import Fitted, cells_digest, empty_transforms
from indiseek.models._latents import LatentModel
from indiseek.models._schedules import PATIENCE
from indiseek.objectives import gather_objects
from indiseek.train import StageSettings
from indiseek.train._memory import all_must_fit

_PRECISIONS = ("32", "32-true", "bf16", "bf16-mixed")


class MultimodalModel(LatentModel):
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
        Ctrl-C ends the stage that runs and keeps its weights: the best ones where the stage stops early.

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
            If a step, or the features of the cells, do not fit into memory; likewise. Names a batch size to try, or
            what else would help. Where only the codes that are written at the end do not fit, the training is kept.
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
        _check_precision(trainer_kwargs.get("precision"))
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
        plan = Plan(
            settings=settings,
            batch_sizes=sizes,
            split=split,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            seed=seed,
            trainer_kwargs=trainer_kwargs,
        )
        self._fit(plan, checkpoint_dir, show_progress=show_progress)
        if write_latents:
            self.write_latents()

    def _n_train(self, train_size: float, external_indexing: Sequence[ArrayLike] | None) -> int:
        """Number of training cells that these arguments will give."""
        if self._adata is None:
            raise RuntimeError("expected a model with data, got one loaded without; call load(path, mdata).")
        if external_indexing is not None:
            return max(1, np.size(external_indexing[0]))
        return max(1, round(train_size * self._adata.n_obs))

    def _fit(self, plan: Plan, checkpoint_dir: str | Path | None, *, show_progress: bool) -> None:
        """Train all stages on a copy of the state, and keep the copy if nothing fails."""
        place = plan.place()
        # A checkpoint of anything else is refused.
        what = self._description() | plan.description()
        self._check_split(plan.split)
        with Checkpoint(checkpoint_dir, what, writes=place.rank == 0) as checkpoint:
            saved = checkpoint.read()
            if saved is None:
                fitted = self._to_fit(plan.split, plan.seed)
            else:
                transforms = empty_transforms(saved["fitted"]["transforms"], self._var_names)
                fitted = self._restored(saved["fitted"], transforms)
            split = cast(Split, fitted.split)
            n_cells = len(split.train) + len(split.validation)
            n_features = sum(transform.n_output for transform in fitted.transforms.values())
            with all_must_fit("the features of the training and validation cells", n_cells, n_features, place.device):
                module = fitted.module.to(place.device)
                values = [self._values(name) for name in self.modalities]
                train, validation = module.features(values, np.concatenate(split[:2])).split(len(split.train))
            start = start_of(fitted, (train, validation), saved, checkpoint)
            with all_must_fit(
                "n_views times the training and validation cells",
                n_cells,
                n_features,
                place.device,
                "make the model with a smaller n_views",
            ):
                train = train._replace(views=self._views(fitted, split.train, plan.seed))
                validation = validation._replace(views=self._views(fitted, split.validation, plan.seed + 1))
            if fit_stages(fitted, (train, validation), plan, start, checkpoint, show_progress=show_progress):
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
            "init": self._arguments,
            "modalities": self.modalities,
            "layers": self._registration.layers,
            "transforms": {name: {"name": t.name, "config": t.config()} for name, t in self._transforms.items()},
            "var_names": {name: cells_digest(pd.Index(names)) for name, names in self._var_names.items()},
            "obs_names": cells_digest(self._adata.obs_names),
        }


def _check_precision(precision: Any) -> None:
    """Raise ValueError but for single precision and bfloat16 mixed with it.

    Lightning scales float16's gradients before their norm is limited, and the cells are held in single precision.
    """
    if precision is not None and str(precision) not in _PRECISIONS:
        raise ValueError(
            f"expected precision to be one of {_PRECISIONS}, got {precision!r}; pass 'bf16-mixed' where the device has "
            "it, or leave precision out."
        )
