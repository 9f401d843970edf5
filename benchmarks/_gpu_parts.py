"""What the checks of a GPU take from below the models: the one place that knows these names of the package.

``import_package`` comes first. Where packages such as mudata or scvi-tools are missing it puts stand-ins in their
place, which let the modules of indiseek be imported and nothing more: objectives and training loop need none of them.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from _gpu_run import ROOT
from torch import Tensor

STAGES = ("shared", "specific")
_OPTIONAL = ("h5py", "zarr", "matplotlib", "sklearn", "anndata", "scanpy", "mudata", "scvi")
_N_SHARED, _N_CONTEXT = 6, 16


class _StandIns(MetaPathFinder, Loader):
    """Finds modules of packages that are missing; each attribute of one is an empty class."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """A module for every name below a missing package."""
        del path, target
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = type(name, (), {})
        setattr(self, name, value)
        return value


def import_package(scratch: Path) -> dict[str, str]:
    """Make ``import indiseek`` work, as far as the machine allows.

    Parameters
    ----------
    scratch
        Where the version of a checkout that is not installed may be written.

    Returns
    -------
    Why each missing package could not be imported.
    """
    missing = {}
    for name in _OPTIONAL:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001
            # A package may fail in its own way, for instance at one of its own that does not fit.
            missing[name] = f"{type(error).__name__}: {error}"
            for loaded in [key for key in sys.modules if key.split(".")[0] == name]:
                del sys.modules[loaded]
    if missing:
        sys.meta_path.insert(0, _StandIns(list(missing)))
    _say_version(scratch)
    importlib.import_module("indiseek")
    return missing


def _say_version(scratch: Path) -> None:
    """A checkout on the path that is not installed has no version, which the package asks for."""
    try:
        version("indiseek")
    except PackageNotFoundError:
        told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        record = scratch / f"indiseek-{told}.dist-info"
        record.mkdir(exist_ok=True)
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: indiseek\nVersion: {told}\n")
        sys.path.append(str(scratch))


def make_objective(stage: str, n_features: Sequence[int], seed: int = 0) -> Any:
    """Untrained objective with the default sizes of its model, for two modalities ``a`` and ``b``.

    Parameters
    ----------
    stage
        ``"shared"``, ``"specific"`` (the flow), ``"nce-club"``, ``"disentangled-shared"``,
        ``"disentangled-specific"`` or ``"fused"`` (CoMM).
    n_features
        Of each modality.
    seed
        Of its weights.
    """
    from indiseek import objectives

    names = dict(zip("ab", n_features, strict=True))
    narrow = dict.fromkeys(names, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if stage == "shared":
            return objectives.CLIPObjective(names, _N_SHARED, alignment=10.0)
        if stage == "specific":
            return objectives.ConditionalFlowObjective(names, names, _N_SHARED + _N_CONTEXT, names)
        if stage == "nce-club":
            return objectives.NCEClubObjective(names, _N_SHARED, narrow)
        if stage == "disentangled-shared":
            return objectives.DisentangledSharedObjective(names, _N_SHARED)
        if stage == "disentangled-specific":
            return objectives.DisentangledSpecificObjective(names, _N_SHARED, narrow)
        if stage == "fused":
            return objectives.CoMMObjective(names, 32)
    raise ValueError(f"expected the name of a stage, got {stage!r}; see the docstring.")


def make_cells(stage: str, n_cells: int, n_features: Sequence[int], device: torch.device, seed: int = 0) -> Any:
    """Cells of two modalities with shared factors, made on the device, and frozen codes where the stage sees them."""
    from indiseek.data import CellTensors

    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    factors = normal(n_cells, 10)
    features = tuple(factors @ normal(10, n) / 10**0.5 + normal(n_cells, n) for n in n_features)
    width = {"specific": _N_SHARED + _N_CONTEXT, "nce-club": _N_SHARED, "disentangled-specific": _N_SHARED}.get(stage)
    if width is None:
        return CellTensors(features)
    codes = tuple(torch.nn.functional.normalize(factors @ normal(10, width), dim=-1) for _ in n_features)
    return CellTensors(features, codes)


def take(cells: Any, rows: Tensor) -> Any:
    """The same rows of every tensor."""
    return cells.take(rows)


def loss_of(objective: Any, cells: Any) -> Tensor:
    """Loss of the encoders on these cells."""
    loss: Tensor = objective.loss(cells).loss
    return loss


def start(objective: Any, cells: Any) -> Any:
    """What happens before training: scales and principal axes. Returns the objective, on the device of the cells."""
    objective.to(cells.features[0].device)
    with torch.no_grad():
        objective.start(cells)
    return objective


def make_flow(n_features: int, n_condition: int) -> Any:
    """The flow of one modality, untrained."""
    from indiseek.nn import ConditionalFlow

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ConditionalFlow(n_features, n_features, n_condition)


def row_batches(n_rows: int, batch_size: int, device: torch.device) -> Any:
    """Batches of row numbers, as training draws them."""
    from indiseek.data import RowBatches

    return RowBatches(n_rows, batch_size=batch_size, seed=0, device=device)


def fit(
    stage: str,
    device: torch.device,
    *,
    n_cells: int,
    batch_size: int,
    n_steps: int,
    n_epochs: int = 2,
    n_features: Sequence[int] = (50, 50),
    callbacks: Sequence[Any] = (),
    precision: str | None = None,
) -> Any:
    """Train one stage by the package's own loop on cells made on the device; at most `n_steps` in an epoch.

    Returns
    -------
    The trained objective.
    """
    from indiseek.train import StageSettings, fit_stage

    critics = {"n_critic_steps": 2} if stage == "nce-club" else {}
    settings = StageSettings(
        max_epochs=n_epochs,
        batch_size=batch_size,
        max_gradient_norm=5.0 if stage == "specific" else None,
        **critics,
    )
    objective = make_objective(stage, n_features)
    # Few held-out cells: it is training that is timed.
    cells = (
        make_cells(stage, n_cells, n_features, device),
        make_cells(stage, min(n_cells, 1024), n_features, device, seed=1),
    )
    more: dict[str, Any] = {} if precision is None else {"precision": precision}
    fit_stage(
        objective,
        cells,
        settings,
        name=stage,
        accelerator="gpu" if device.type == "cuda" else device.type,
        seed=0,
        show_progress=False,
        trainer_kwargs={"callbacks": list(callbacks), "limit_train_batches": n_steps, **more},
    )
    return objective
