"""Load a saved model without knowing its class."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mudata import MuData

from indiseek._checks import check_path
from indiseek.models._base import MultimodalModel
from indiseek.models._comm import CoMMModel
from indiseek.models._disentangled_ssl import DisentangledSSLModel
from indiseek.models._indiseek import IndiSeekModel
from indiseek.train import saved_class

_MODELS: dict[str, type[MultimodalModel]] = {
    cls.__name__: cls for cls in (CoMMModel, DisentangledSSLModel, IndiSeekModel)
}


def load_model(
    dir_path: str | Path,
    mdata: MuData | None = None,
    *,
    accelerator: str = "auto",
    own_code: Iterable[Any] = (),
) -> MultimodalModel:
    """Load a saved model of whatever class it is.

    Parameters
    ----------
    dir_path
        Directory given to :meth:`MultimodalModel.save`.
    mdata, accelerator, own_code
        As in :meth:`MultimodalModel.load`.

    Returns
    -------
    A model of the class that was saved.

    Raises
    ------
    FileNotFoundError
        If there is no saved model.
    ValueError
        If the file is damaged or carries code, holds a model of an unknown class, or the features are not the model's.
    """
    name = saved_class(check_path("dir_path", dir_path))
    if name not in _MODELS:
        raise ValueError(
            f"expected a model of one of the classes {sorted(_MODELS)} in {dir_path}, got {name!r}; call load() of "
            "its own class."
        )
    return _MODELS[name].load(dir_path, mdata, accelerator=accelerator, own_code=own_code)
