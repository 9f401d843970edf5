"""What training leaves behind, and how it is written down."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pandas as pd
import torch

from indiseek.data import TRANSFORMS, Split, Transform
from indiseek.models._module import StagedModule
from indiseek.train import StageResult


@dataclass
class Fitted:
    """State of a trained model. Training works on a copy, so that a failure leaves the model as it was.

    Attributes
    ----------
    transforms
        Fitted transform by modality.
    module
        Transforms and networks.
    split, split_arguments
        Split of the cells of training, and what the user asked for. The split is None for a model that
        was loaded with other cells.
    cells
        Digest of the names of the cells of training: positions mean nothing in other cells.
    trained_stages
        Stages that have been trained, in order.
    stage_seconds
        Wall time by stage.
    history
        ``(n_epochs, 1)`` table by ``"stage/term"``.
    """

    transforms: dict[str, Transform]
    module: StagedModule
    split: Split | None
    split_arguments: dict[str, Any]
    cells: str
    trained_stages: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    history: dict[str, pd.DataFrame] = field(default_factory=dict)

    def record(self, stage: str, result: StageResult) -> None:
        """Add what one fit of a stage gave; epochs of a later fit go on counting."""
        for column in result.history:
            key = f"{stage}/{column}"
            new = result.history[[column]].rename(columns={column: key})
            if key in self.history:
                new.index = new.index + len(self.history[key])
                new = pd.concat([self.history[key], new]).rename_axis("epoch")
            self.history[key] = new
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + result.seconds
        if stage not in self.trained_stages:
            self.trained_stages.append(stage)

    def payload(self) -> dict[str, Any]:
        """Tensors and plain values from which :meth:`from_payload` builds the same state."""
        return {
            "transforms": {
                name: {"name": t.name, "config": t.config(), "n_output": t.n_output}
                for name, t in self.transforms.items()
            },
            "state": {key: value.cpu() for key, value in self.module.state_dict().items()},
            "split": None if self.split is None else [torch.as_tensor(part) for part in self.split],
            "split_arguments": self.split_arguments,
            "cells": self.cells,
            "trained_stages": self.trained_stages,
            "stage_seconds": self.stage_seconds,
            "history": {key: frame[key].tolist() for key, frame in self.history.items()},
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any], module: StagedModule, transforms: dict[str, Transform]) -> Self:
        """Rebuild from a payload and networks of the right shapes."""
        module.load_state_dict(payload["state"])
        module.eval()
        split = payload["split"]
        return cls(
            transforms=transforms,
            module=module,
            split=None if split is None else Split(*(part.numpy() for part in split)),
            split_arguments=payload["split_arguments"],
            cells=payload["cells"],
            trained_stages=payload["trained_stages"],
            stage_seconds=payload["stage_seconds"],
            history={
                key: pd.DataFrame({key: values}).rename_axis("epoch") for key, values in payload["history"].items()
            },
        )


def cells_digest(names: pd.Index) -> str:
    """Digest of the names of cells in their order."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()


def empty_transforms(saved: dict[str, Any], var_names: Mapping[str, Sequence[str]]) -> dict[str, Transform]:
    """Transforms of the saved kinds with buffers of the saved sizes, ready to take a saved state."""
    transforms = {}
    for name, entry in saved.items():
        transforms[name] = TRANSFORMS[entry["name"]](**entry["config"])
        transforms[name].allocate(len(var_names[name]), entry["n_output"])
    return transforms
