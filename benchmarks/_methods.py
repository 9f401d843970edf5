"""Methods of the quality table: what this package does, and its peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import _peers
import numpy as np
from _cells import Cells
from _peers import Codes

from indiseek import IndiSeekModel, NCEClub, metrics


def _fit(cells: Cells, seed: int, epochs: int | Mapping[str, int] | None) -> Callable[..., IndiSeekModel]:
    """Function that builds and trains a model with the arguments given to it."""

    def fit(**arguments: Any) -> IndiSeekModel:
        model = IndiSeekModel(cells.mdata, **arguments)
        model.train(
            seed=seed,
            external_indexing=cells.parts,
            accelerator="cpu",
            write_latents=False,
            show_progress=False,
            **({} if epochs is None else {"max_epochs": epochs}),
        )
        return model

    return fit


def _codes(model: IndiSeekModel, cells: Cells, kind: str) -> dict[str, Any]:
    return {
        name: model.get_latent_representation(modality=name, kind=kind, indices=cells.test) for name in model.modalities
    }


def _both(model: IndiSeekModel, cells: Cells) -> dict[str, Any]:
    return {
        "shared": _codes(model, cells, "shared"),
        "joint": model.get_latent_representation(indices=cells.test),
        "specific": _codes(model, cells, "specific"),
    }


def flow(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """IndiSeek as it comes."""
    model = _fit(cells, seed, epochs)()
    started = time.perf_counter()
    codes = _both(model, cells)
    seconds = sum(model.stage_seconds.values()) + time.perf_counter() - started
    condition = codes["shared"]
    if "context" in model.stage_seconds:
        wide = _codes(model, cells, "context")
        condition = {name: np.hstack([code, wide[name]]) for name, code in condition.items()}
    inverse = {
        name: model.counterfactual(modality=name, indices=cells.test, donors=cells.test) for name in model.modalities
    }
    return Codes(**codes, condition=condition, inverse=inverse, seconds=seconds)


def nce_club(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """NCE-CLUB with our settings."""
    return Codes(**_both(_fit(cells, seed, epochs)(specific="nce-club"), cells))


def indiseek0(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """NCE-CLUB with our settings against the own shared code."""
    return Codes(**_both(_fit(cells, seed, epochs)(specific=NCEClub(independent_of="own")), cells))


def _clip(cells: Cells, seed: int, epochs: int | None) -> tuple[IndiSeekModel, dict[str, Any], dict[str, Any]]:
    """Paper's stage 1 with our networks and early stopping; the second stage is cut to nothing and not used."""
    wanted = {"specific": 1} if epochs is None else {"shared": epochs, "specific": 1}
    model = _fit(cells, seed, wanted)(
        specific="nce-club",
        alignment=0.0,
        n_shared=min(16, max(x.shape[1] for x in cells.features.values())),
    )
    reference = {name: model.get_latent_representation(modality=name, indices=cells.train) for name in model.modalities}
    return model, _codes(model, cells, "shared"), reference


def _residual(cells: Cells, seed: int, epochs: int | None, *, own: bool) -> Codes:
    model, shared, reference = _clip(cells, seed, epochs)
    started = time.perf_counter()
    train, test = cells.take(cells.train), cells.take(cells.test)
    names = list(model.modalities)
    specific = {}
    for name, other in zip(names, names if own else names[::-1], strict=True):
        known = metrics.conditional_mean(
            test[name], shared[other], reference=(train[name], reference[other]), seed=seed
        )
        specific[name] = test[name] - known
    seconds = model.stage_seconds["shared"] + time.perf_counter() - started
    joint = model.get_latent_representation(indices=cells.test)
    return Codes(shared=shared, joint=joint, specific=specific, seconds=seconds)


def clip(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """CLIP alone; specific is a modality less what its own code predicts."""
    return _residual(cells, seed, epochs, own=True)


def clip_other(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """CLIP alone; specific is a modality less what the other's code predicts."""
    return _residual(cells, seed, epochs, own=False)


class Method(NamedTuple):
    """A row of the table."""

    label: str
    encode: Callable[[Cells, int, int | None], Codes]
    package: str | None = None


METHODS = {
    "flow": Method("IndiSeek (default)", flow),
    "nce-club": Method("IndiSeek, NCE-CLUB (ours)", nce_club),
    "indiseek0": Method("IndiSeek0, NCE-CLUB against the own code", indiseek0),
    "clip": Method("CLIP, X_i - E[X_i given C_i]", clip),
    "clip-other": Method("CLIP, X_i - E[X_i given C_j]", clip_other),
    "cca": Method("CCA, X_i - linear in C_j", _peers.cca),
    "mofa": Method("MOFA+", _peers.mofa, "mofapy2"),
    "vcca": Method("VCCA-private", _peers.vcca_private, "cca_zoo"),
    "totalvi": Method("totalVI", _peers.totalvi),
    "itself": Method("X_i itself as Z_i (ceiling)", _peers.itself),
    "permuted": Method("X_i of permuted cells (null)", _peers.permuted),
}
