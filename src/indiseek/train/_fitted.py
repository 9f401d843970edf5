"""What training leaves behind, and how it is written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pandas as pd
import torch

from indiseek.data import TRANSFORMS, Split, Transform
from indiseek.train._fit import StageResult
from indiseek.train._pipeline import Pipeline


@dataclass
class Fitted:
    """State of a trained model. Training works on a copy, so that a failure leaves the model as it was.

    Attributes
    ----------
    pipeline
        Transforms and networks.
    split, split_options
        Split of the cells of training, and what the user asked for, as plain values. The split is None for a model
        that was loaded with other cells.
    cells
        Digest of the names of the cells of training: positions mean nothing in other cells.
    trained_stages
        Stages that have been trained, in order.
    stage_seconds
        Wall time by stage.
    history
        ``(n_epochs, 1)`` table by ``"stage/term"``.
    """

    pipeline: Pipeline
    split: Split | None
    split_options: dict[str, Any]
    cells: str
    trained_stages: list[str] = field(default_factory=list)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    history: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def transforms(self) -> dict[str, Transform]:
        """Fitted transform by modality."""
        return {name: self.pipeline.transform(name) for name in self.pipeline.names}

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
            "state": {key: value.cpu() for key, value in self.pipeline.state_dict().items()},
            "split": None if self.split is None else [torch.as_tensor(part) for part in self.split],
            "split_options": self.split_options,
            "cells": self.cells,
            "trained_stages": self.trained_stages,
            "stage_seconds": self.stage_seconds,
            "history": {key: table[key].tolist() for key, table in self.history.items()},
        }

    @classmethod
    def from_payload(cls, payload: dict[str, Any], pipeline: Pipeline) -> Self:
        """Rebuild from a payload and networks of the right shapes."""
        pipeline.load_state(payload["state"])
        split = payload["split"]
        return cls(
            pipeline=pipeline,
            split=None if split is None else Split(*(part.numpy() for part in split)),
            split_options=payload["split_options"],
            cells=payload["cells"],
            trained_stages=payload["trained_stages"],
            stage_seconds=payload["stage_seconds"],
            history={
                key: pd.DataFrame({key: values}).rename_axis("epoch") for key, values in payload["history"].items()
            },
        )


def empty_transforms(
    saved: Mapping[str, Any], features: Mapping[str, Sequence[str]], own: Mapping[str, type[Transform]]
) -> dict[str, Transform]:
    """Transforms of the saved kinds with buffers of the saved sizes, ready to take a saved state.

    Parameters
    ----------
    saved
        By modality, as in :meth:`Fitted.payload`.
    features
        Names of the features by modality.
    own
        The user's own classes by name.

    Raises
    ------
    ValueError
        If a class is not known.
    """
    known = {**TRANSFORMS, **own}
    transforms = {}
    for name, entry in saved.items():
        if entry["name"] not in known:
            raise ValueError(
                f"expected the class of the transform {entry['name']!r} of {name!r}, got {sorted(known)}; pass it to "
                "load in own_code."
            )
        transforms[name] = known[entry["name"]](**entry["config"])
        transforms[name].allocate(len(features[name]), entry["n_output"])
    return transforms
