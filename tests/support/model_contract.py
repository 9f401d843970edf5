"""The models under contract, and what their tests have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from small import SIZES, SMALL, pair

from indiseek.data import LogNormalizePCA
from indiseek.models import ClosedForm, CoMMModel, DisentangledSSLModel, IndiSeekModel, MultimodalModel
from indiseek.nn import Encoder


class Case(NamedTuple):
    """A model, arguments that make it small, and what it then gives."""

    model: type[MultimodalModel]
    arguments: dict[str, Any]
    # Dimension of the codes of each stage, in the order of training, or that of each modality's.
    widths: dict[str, int | dict[str, int]]
    # Stages that take gradient steps, and those whose codes are unit vectors.
    trained: tuple[str, ...]
    on_sphere: tuple[str, ...]
    # Keys in .obsm of the joint code of the first stage, and of each modality's code of the last in its own .obsm.
    joint_key: str
    own_key: str
    # Key of the joint code of a later stage, by stage.
    more_keys: dict[str, str]
    # Arguments that may differ by modality, and the dimensions of the last stage's codes with them.
    by_modality: dict[str, dict[str, Any]]
    own_widths: dict[str, int]
    # Arguments as numpy makes them.
    from_numpy: dict[str, Any]

    @property
    def first(self) -> str:
        return next(iter(self.widths))

    @property
    def last(self) -> str:
        return list(self.widths)[-1]

    def width(self, stage: str, modality: str) -> int:
        width = self.widths[stage]
        return width[modality] if isinstance(width, dict) else width

    def key(self, modality: str) -> str:
        """Key in the MuData's .obsm of a modality's code of the last stage."""
        return f"{self.joint_key.removesuffix('_shared')}_{modality}"

    def new(self, mdata: MuData, **more: Any) -> Any:
        return self.model(mdata, **self.arguments | more)


_SPECIFIC = {
    "by_modality": {"n_specific": {"prot": 2, "rna": 6}},
    "own_widths": {"prot": 2, "rna": 6},
    "from_numpy": {
        "n_shared": np.int64(4),
        "n_specific": {"rna": np.int32(3), "prot": np.int64(2)},
        "encoder": Encoder(hidden=np.array([16, 8])),
    },
}
_FEATURES = {"rna": 7, "prot": 14}
_TRANSFORMS = {"transforms": {"rna": LogNormalizePCA(n_components=7)}}
_EVERYTHING = {name: n + 4 for name, n in _FEATURES.items()}
_NCE_CLUB = Case(
    IndiSeekModel,
    SMALL | _TRANSFORMS,
    widths={"shared": 4, "everything": _EVERYTHING, "specific": 3},
    trained=("shared", "specific"),
    on_sphere=("shared",),
    joint_key="X_indiseek_shared",
    own_key="X_indiseek_specific",
    more_keys={"everything": "X_indiseek"},
    **_SPECIFIC,
)
_CLOSED_FORM = _NCE_CLUB._replace(
    arguments=SIZES | _TRANSFORMS | {"specific": ClosedForm(n_landmarks=40, refine=True)},
    widths={"shared": 4, "everything": _EVERYTHING, "components": _FEATURES, "specific": 3},
)
_DISENTANGLED_SSL = _NCE_CLUB._replace(
    model=DisentangledSSLModel,
    arguments=SIZES,
    widths={"shared": 4, "specific": 3},
    on_sphere=("shared", "specific"),
    joint_key="X_disentangledssl_shared",
    own_key="X_disentangledssl_specific",
    more_keys={},
)
_COMM = Case(
    CoMMModel,
    {"n_latent": 8, "encoder": Encoder(hidden=(32,)), "n_views": 2},
    widths={"fused": 8},
    trained=("fused",),
    on_sphere=(),
    joint_key="X_comm",
    own_key="X_comm_projection",
    more_keys={},
    by_modality={"noise": {"prot": 0.1, "rna": 0.3}},
    own_widths={"prot": 8, "rna": 8},
    from_numpy={
        "n_latent": np.int64(8),
        "feature_dropout": {"rna": np.float32(0.2), "prot": np.float64(0.1)},
        "encoder": Encoder(hidden=np.array([16, 8])),
    },
)
MODELS = [
    pytest.param(_NCE_CLUB, id="nce"),
    pytest.param(_CLOSED_FORM, id="closed-form"),
    pytest.param(_DISENTANGLED_SSL, id="disentangledssl"),
    pytest.param(_COMM, id="comm"),
]
# For what does not depend on the model: the same lines serve all of them.
once = pytest.mark.parametrize("case", MODELS[:1], indirect=True)
FAST = {"max_epochs": 1, "batch_size": 50, "accelerator": "cpu", "show_progress": False}


def copy_of(mdata: MuData, change: Mapping[str, Callable[[AnnData], AnnData]] | None = None) -> MuData:
    change = change or {}
    return pair(**{name: change.get(name, lambda a: a)(adata.copy()) for name, adata in mdata.mod.items()})


def latents(model: Any, mdata: MuData | None = None, **options: Any) -> dict[str, np.ndarray]:
    codes = {"joint": model.get_latent_representation(mdata, **options)}
    for kind in model.module.objectives:
        for name in model.modalities:
            codes[f"{kind}_{name}"] = model.get_latent_representation(mdata, modality=name, kind=kind, **options)
    return codes


def assert_same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def assert_close(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], atol: float = 2e-4) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], rtol=0, atol=atol, err_msg=key)


def weights(model: Any) -> dict[str, np.ndarray]:
    return {key: value.cpu().numpy().copy() for key, value in model.module.state_dict().items()}


def content(mdata: MuData) -> dict[str, Any]:
    """Everything of a MuData, copied."""
    found: dict[str, Any] = {"mod": list(mdata.mod), "shape": mdata.shape}
    for name, part in {"": mdata, **mdata.mod}.items():
        found[f"{name}/obs"], found[f"{name}/var"] = part.obs.copy(), part.var.copy()
        found[f"{name}/uns"] = dict(part.uns)
        for slot in ("obsm", "varm", "obsp", "varp"):
            for key, value in getattr(part, slot).items():
                found[f"{name}/{slot}/{key}"] = value.copy()
        if name:
            for key, value in {"X": part.X, **part.layers}.items():
                found[f"{name}/{key}"] = value.toarray() if sparse.issparse(value) else np.array(value)
                found[f"{name}/{key}/type"] = (type(value), value.dtype)
    return found


def assert_content(now: Mapping[str, Any], before: Mapping[str, Any], added: set[str] = frozenset()) -> None:
    assert now.keys() - before.keys() == added
    assert before.keys() <= now.keys()
    for key, value in before.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(now[key], value)
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(now[key], value)
        else:
            assert now[key] == value


class At(lightning.Callback):
    """Do something after a step of one stage."""

    def __init__(self, stage: int, action: Callable[[lightning.LightningModule], None], *, epoch: int = 0) -> None:
        self.stage, self.action, self.epoch = stage, action, epoch
        self.n_fits = 0

    def on_fit_start(self, *_: Any) -> None:
        self.n_fits += 1

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        if self.n_fits - 1 == self.stage and trainer.current_epoch == self.epoch:
            self.action(pl_module)


def interrupt(_: lightning.LightningModule) -> None:
    raise KeyboardInterrupt


def diverge(pl_module: lightning.LightningModule) -> None:
    with torch.no_grad():
        next(pl_module.objective.encoder_parameters()).fill_(float("nan"))


class Modes(lightning.Callback):
    """Whether every training step of every stage ran in train mode, but for networks that are frozen."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        modules = list(pl_module.objective.modules())
        frozen = {id(part) for module in modules if _is_frozen(module) for part in module.modules()}
        self.seen += [module.training for module in modules if id(module) not in frozen]


def _is_frozen(module: torch.nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


class FirstRows(lightning.Callback):
    """Positions, among the training cells, of the cells of the first step of every stage."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0 and batch_idx == 0:
            self.seen.append(batch[0].tolist())


def with_value(adata: AnnData, row: Any, column: Any, value: float) -> AnnData:
    x = adata.X.toarray() if sparse.issparse(adata.X) else adata.X.copy()
    x[row, column] = value
    return AnnData(x, obs=adata.obs, var=adata.var)
