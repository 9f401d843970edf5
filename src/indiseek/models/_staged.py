"""The networks of a model and what training left of them: built, copied, saved, loaded."""

from __future__ import annotations

import copy
from abc import abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import mudata
import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from indiseek.data import Registration, Transform, given_split, random_split, register
from indiseek.models._fitted import Fitted, cells_digest, empty_transforms
from indiseek.models._io import FORMAT, MDATA_NAME, plain, read_payload, write_payload
from indiseek.models._module import StagedModule
from indiseek.models._registered import RegisteredModel
from indiseek.objectives import Objective, rank
from indiseek.train import resolve_device, seeded

# What train() takes when the user says nothing: a later call then keeps the split that there is.
_DEFAULT_SPLIT = {"train_size": 0.8, "validation_size": 0.1, "external_indexing": None}


class StagedModel(RegisteredModel):
    """Model of networks that are trained stage by stage, in one state that a failure leaves as it was."""

    _fitted: Fitted | None = None
    # Plain values that build this model again on the same data; without transforms.
    _arguments: dict[str, Any]

    @abstractmethod
    def _n_condition(self) -> int:
        """Dimension of the frozen codes that later stages see."""

    @abstractmethod
    def _make_objectives(self, n_features: dict[str, int], ranks: dict[str, int]) -> dict[str, Objective]:
        """New objectives by stage, in the order of training, for features of these numbers and ranks."""

    def __repr__(self) -> str:
        stages = [] if self._fitted is None else self._fitted.trained_stages
        return f"{self._describe()}; trained stages: {', '.join(stages) or 'none'}"

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

    def _check_split(self, wanted: dict[str, Any]) -> None:
        """Raise if a model that is trained already cannot be trained further with this split."""
        if self._fitted is None:
            return
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

    def _to_fit(self, wanted: dict[str, Any], seed: int) -> Fitted:
        """State to train: a copy of the present one, or a new one with split, fitted transforms and networks."""
        if self._fitted is not None:
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

    def _restored(self, payload: dict[str, Any], transforms: dict[str, Transform]) -> Fitted:
        """State that :meth:`Fitted.payload` has written down, in empty transforms; nothing is fitted."""
        return Fitted.from_payload(payload, self._new_module(transforms, seed=0), transforms)

    def _new_module(self, transforms: dict[str, Transform], seed: int) -> StagedModule:
        n_features = {name: transforms[name].n_output for name in self.modalities}
        ranks = {name: transforms[name].rank for name in self.modalities}
        with seeded(seed):
            objectives = self._make_objectives(n_features, ranks)
        return StagedModule([transforms[name] for name in self.modalities], objectives, self._n_condition())

    def save(self, dir_path: str | Path, *, overwrite: bool = False, save_mdata: bool = False) -> None:
        """Save the model; never its code. Of several processes that train together, the first one writes.

        What was saved before stays until all is written, and stays if anything fails.

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
            "init": self._arguments,
            "registry": self.registry_,
            "modalities": self.modalities,
            "layers": self._registration.layers,
            "var_names": self._var_names,
            "sparse": self._sparse,
            **fitted.payload(),
        }
        write_payload(plain(payload), directory, mdata=self._adata if save_mdata else None)
        if not save_mdata:
            # load() must not take an earlier model's cells for this one's.
            (directory / MDATA_NAME).unlink(missing_ok=True)
        elif self._adata.isbacked and Path(self._adata.filename).resolve() == (directory / MDATA_NAME).resolve():
            # What is open is the file that has just been replaced; changes to it would be lost.
            self._adata.file.open(self._adata.filename)
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
        model._transforms = empty_transforms(payload["transforms"], model._var_names)
        model._fitted = model._restored(payload, model._transforms)
        model._fitted.module.to(resolve_device(accelerator))
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
