"""What a model knows of its cells: which modalities, and how their values are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast
from weakref import WeakKeyDictionary

from anndata import AnnData
from mudata import MuData
from scvi.model.base import BaseModelClass

from indiseek.data import (
    TRANSFORMS,
    Registration,
    Transform,
    Values,
    checked_values,
    is_sparse,
    make_registration,
    read_modality,
    register,
)

logger = logging.getLogger(__name__)


class RegisteredModel(BaseModelClass):
    """Model of a MuData's modalities. :class:`MultimodalModel` has the parameters."""

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

    def _describe(self) -> str:
        if self._adata is None:
            return f"{type(self).__name__} without data"
        parts = []
        for name in self.modalities:
            layer = self._registration.layers[name]
            where = f"layer {layer!r} of " if layer else ""
            parts.append(f"{where}{name!r} ({len(self._var_names[name])} features, {self._transforms[name].name})")
        return f"{type(self).__name__}: {self._adata.n_obs} cells, {' and '.join(parts)}"

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

    def _values(self, name: str) -> Values:
        return self._matrices[name]

    def _check_modality(self, modality: str) -> None:
        if modality not in self.modalities:
            raise KeyError(f"expected modality to be one of {list(self.modalities)}, got {modality!r}; use its name.")

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
