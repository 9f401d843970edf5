"""Search of the shared space and of what the specific stage needs, without labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from indiseek._checks import check_number
from indiseek.data import CellTensors, progress
from indiseek.objectives import CLIPObjective, Objective
from indiseek.train import Pipeline, StageSettings, fit_in_closed_form, fit_stage
from indiseek.tuning._measures import HeldOut
from indiseek.tuning._record import Record
from indiseek.tuning._result import Tuning
from indiseek.tuning._rules import SHARE, choose_lam, choose_n_specific, choose_shared

Candidate = dict[str, Any]


def candidates(name: str, values: ArrayLike, *, low: float, whole: bool = False) -> tuple[Any, ...]:
    """Values to try, each once, in the order given.

    Parameters
    ----------
    name
        Name of the argument, for messages.
    values
        One number or several.
    low
        Least that is allowed.
    whole
        Whether they must be whole numbers.

    Raises
    ------
    ValueError
        If there is none, or one is too small or not whole.
    """
    numbers = np.atleast_1d(values).ravel()
    if numbers.size == 0:
        raise ValueError(f"expected at least one value of {name} to try, got none; give a list of numbers.")
    for number in numbers:
        check_number(name, float(number), low=low)
        if whole and number != round(number):
            raise ValueError(f"expected whole numbers for {name}, got {number}; round them.")
    return tuple(dict.fromkeys((numbers.astype(int) if whole else numbers.astype(float)).tolist()))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Values to try; without any `lam` the specific stage is the flow."""

    n_shared: Sequence[int]
    alignment: Sequence[float]
    lam: Sequence[float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Trials:
    """What all candidates have in common.

    Attributes
    ----------
    new_pipeline
        Fresh networks for changed options of the model, the same for the same options, on the device.
    names
        Names of the modalities.
    train, validation
        Transformed features of the two parts, on the device.
    settings
        How each stage is trained.
    accelerator
        As Lightning names it.
    seed
        Seed of every candidate, so that candidates differ by their arguments only.
    """

    new_pipeline: Callable[[Mapping[str, Any]], Pipeline]
    names: Sequence[str]
    train: CellTensors
    validation: CellTensors
    settings: Mapping[str, StageSettings | None]
    accelerator: str
    seed: int

    def fit(self, pipeline: Pipeline, stage: str) -> None:
        """Train one stage of a candidate as the model itself would.

        Raises
        ------
        KeyboardInterrupt
            If the user stopped it.
        """
        settings = self.settings[stage]
        if settings is None:
            fit_in_closed_form(pipeline.begin(stage), pipeline.to_learn_from(stage, self.train))
            return
        result = fit_stage(
            pipeline.begin(stage),
            (pipeline.to_learn_from(stage, self.train), pipeline.to_learn_from(stage, self.validation)),
            settings,
            name=stage,
            accelerator=self.accelerator,
            seed=self.seed + list(pipeline.stages).index(stage),
            show_progress=False,
        )
        if result.interrupted:
            raise KeyboardInterrupt


def search(trials: Trials, grid: Grid, record: Record, *, choose_dimensions: bool, show_progress: bool) -> Tuning:
    """Try all candidates that the record does not hold, and choose.

    Parameters
    ----------
    trials
        What all candidates have in common.
    grid
        Values to try.
    record
        What was found before, and where what is found now is kept.
    choose_dimensions
        Whether the number of the flow's dimensions is part of the choice.
    show_progress
        Whether a progress bar is shown.
    """
    total = len(grid.n_shared) * len(grid.alignment) + max(1, len(grid.lam))
    with progress(total=total, desc="tune", unit="fit", disable=not show_progress) as bar:
        return _Search(trials, record, bar).run(grid, choose_dimensions)


class _Search:
    def __init__(self, trials: Trials, record: Record, bar: tqdm) -> None:
        self.trials = trials
        self.record = record
        self.bar = bar
        self.held_out = HeldOut(trials.names, trials.train, trials.validation, trials.seed)
        self.objectives: dict[tuple[int, float], dict[str, Objective]] = {}

    def run(self, grid: Grid, choose_dimensions: bool) -> Tuning:
        candidates: list[Candidate] = [
            {"n_shared": n, "alignment": a} for n, a in product(grid.n_shared, grid.alignment)
        ]
        table = pd.DataFrame([self._tried("shared", candidate, self._shared) for candidate in candidates])
        shared = choose_shared(table)
        chosen = candidates[shared.row]
        reasons = [f"shared space of {chosen['n_shared']} dimensions, alignment {chosen['alignment']:g}: {shared.why}"]
        table["chosen"] = table.index == shared.row
        passed = shared.passed
        n_specific: dict[str, int] = {}
        dimensions = pd.DataFrame(columns=["modality", "n_specific", "private"])
        if grid.lam:
            candidates = [chosen | {"lam": lam} for lam in grid.lam]
            specific = pd.DataFrame([self._tried("specific", candidate, self._nce_club) for candidate in candidates])
            lam = choose_lam(specific)
            chosen = candidates[lam.row]
            reasons.append(f"lam {chosen['lam']:g}: {lam.why}")
            passed = passed and lam.passed
            specific["chosen"] = specific.index == lam.row
        else:
            row = self._tried("specific", chosen, self._flow)
            carried: dict[str, list[float]] = row.pop("carried")
            n_specific = {name: choose_n_specific(values) for name, values in carried.items()}
            dimensions = pd.DataFrame(
                [(name, n, r2) for name, values in carried.items() for n, r2 in enumerate(values, start=1)],
                columns=dimensions.columns,
            )
            reasons.append(_dimensions_in_words(n_specific, carried, choose_dimensions))
            if choose_dimensions:
                chosen = chosen | {"n_specific": n_specific}
            specific = pd.DataFrame([row | {"chosen": True}])
        return Tuning(
            table=pd.concat([table, specific], ignore_index=True),
            chosen=chosen,
            passed=passed,
            reasons=tuple(reasons),
            n_specific=n_specific,
            dimensions=dimensions,
            n_cells=self.held_out.n_cells,
        )

    def _tried(self, stage: str, candidate: Candidate, measure: Callable[[Candidate], dict[str, Any]]) -> Candidate:
        """Row of a candidate, from the record or measured now."""
        key = {"stage": stage, **candidate}
        found = self.record.get(key)
        if found is None:
            self.bar.set_postfix_str(", ".join(f"{name} {value:g}" for name, value in candidate.items()))
            started = time.perf_counter()
            found = measure(candidate)
            found["seconds"] = time.perf_counter() - started
            self.record.add(key, found)
        self.bar.update()
        return key | found

    def _shared(self, candidate: Candidate) -> dict[str, Any]:
        pipeline = self._trained_shared(candidate)
        stages = _up_to_shared(pipeline)
        self.objectives[candidate["n_shared"], candidate["alignment"]] = {n: pipeline.objective(n) for n in stages}
        objective = cast(CLIPObjective, pipeline.objective("shared"))
        return dict(self.held_out.shared(objective, pipeline.inputs("shared", self.trials.validation)))

    def _trained_shared(self, candidate: Candidate) -> Pipeline:
        pipeline = self.trials.new_pipeline(candidate)
        for stage in _up_to_shared(pipeline):
            self.trials.fit(pipeline, stage)
        return pipeline

    def _on_shared(self, candidate: Candidate) -> Pipeline:
        """Networks of a candidate with its stage 1 trained."""
        key = candidate["n_shared"], candidate["alignment"]
        if key not in self.objectives:
            return self._trained_shared(candidate)
        pipeline = self.trials.new_pipeline(candidate)
        # Those of later stages are drawn after its own.
        pipeline.begin("shared")
        for stage, objective in self.objectives[key].items():
            pipeline.objectives[stage] = objective
        return pipeline

    def _nce_club(self, candidate: Candidate) -> dict[str, Any]:
        pipeline = self._on_shared(candidate)
        self.trials.fit(pipeline, "specific")
        shared, specific = self._codes(pipeline)
        objective = pipeline.objective("specific")
        seen = pipeline.inputs("specific", self.trials.validation)
        with torch.no_grad():
            reconstruction = float(objective.validate(seen)["reconstruction"])
        return {
            "reconstruction": reconstruction,
            "leakage": self.held_out.leakage(shared, specific),
        }

    def _flow(self, candidate: Candidate) -> dict[str, Any]:
        # All dimensions, in their order; how many of them are needed is the question.
        pipeline = self._on_shared(candidate | {"n_specific": None})
        for stage in pipeline.stages:
            if stage not in _up_to_shared(pipeline):
                self.trials.fit(pipeline, stage)
        shared, specific = self._codes(pipeline)
        return {"leakage": self.held_out.leakage(shared, specific), "carried": self.held_out.carried(specific)}

    def _codes(self, pipeline: Pipeline) -> list[list[Tensor]]:
        """Shared and specific codes of the validation cells, each by modality."""
        return [list(pipeline.codes(stage, self.trials.validation).values()) for stage in ("shared", "specific")]


def _up_to_shared(pipeline: Pipeline) -> list[str]:
    stages = list(pipeline.stages)
    return stages[: stages.index("shared") + 1]


def _dimensions_in_words(n_specific: dict[str, int], carried: Mapping[str, Sequence[float]], chosen: bool) -> str:
    parts = [f"{n_specific[name]} of {len(values)} for {name}" for name, values in carried.items()]
    outcome = "kept" if chosen else "all are kept unless choose_n_specific=True"
    return (
        f"specific dimensions that carry {SHARE:.0%} of what only their modality knows: {', '.join(parts)}; {outcome}"
    )
