"""How long the ways through the house are: ``python tests/support/house.py``.

Prints the files of the package that are entered, and the changes from one file to another, between ``train()`` and the
first gradient step, and from there to the codes in ``.obsm``; the size of ``models/``; the base classes of the models;
and what has to be touched for something new, each with the test that does it. Exits with 1 if a limit is exceeded. What
counts is each call of a function of the package; a generator counts when it begins.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import mudata
import numpy as np
import torch

import indiseek
from indiseek.models import CoMMModel, DisentangledSSLModel, IndiSeekModel

PACKAGE = Path(indiseek.__file__).parent
# Limits of files entered, and of changes between them, up to the first gradient step.
MOST_FILES, MOST_CHANGES = 16, 64
MOST_MODEL_FILES, MOST_MODEL_LINES = 12, 2600
_GENERATOR = 0x20

PLACES = {
    "transform": ("1", "tests/contracts/test_model_own_code.py"),
    "objective": ("1, and a thin model", "tests/test_design.py"),
    "covariate": ("1: the objective that uses it", "tests/models/test_covariates.py"),
    "third modality": ("0", "tests/contracts/test_model_registration.py, test_other_names_work_when_...chosen"),
    "row of the certificate": ("1: a check", "tests/metrics/test_certify.py"),
}


class Way:
    """Files of the package in the order in which they are entered, before and after the first gradient step."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.after: list[str] = []
        self._began = False
        # Kept, so that no two generators have one identity.
        self._generators: dict[int, FrameType] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(PACKAGE)):
            return
        self._began = self._began or code.co_name == "training_step"
        if code.co_flags & _GENERATOR:
            if id(frame) in self._generators:
                return
            self._generators[id(frame)] = frame
        (self.after if self._began else self.before).append(str(Path(code.co_filename).relative_to(PACKAGE)))


@contextmanager
def followed() -> Iterator[Way]:
    """Follow the calls of a block."""
    way = Way()
    sys.setprofile(way)
    try:
        yield way
    finally:
        sys.setprofile(None)


def counted(files: list[str]) -> tuple[int, int]:
    """Number of files, and of changes from one to another."""
    return len(set(files)), sum(a != b for a, b in zip(files, files[1:], strict=False))


def cells() -> mudata.MuData:
    """600 cells of the sample with 300 genes."""
    full = indiseek.datasets.pbmc10k_cite()
    rows = np.sort(np.random.default_rng(0).choice(full.n_obs, 600, replace=False))
    detected = full["rna"].X[rows].getnnz(axis=0)
    genes = np.sort(np.argsort(-detected, kind="stable")[150:450])
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData({"rna": full["rna"][rows][:, genes].copy(), "prot": full["prot"][rows].copy()})


def main() -> int:
    """Print the figures."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = IndiSeekModel(cells())
    with followed() as way:
        model.train(max_epochs=1, accelerator="cpu", show_progress=False)
    (n_files, n_changes), (n_after, changes_after) = counted(way.before), counted(way.after)
    print(
        f"train() to the first gradient step: {n_files} files (limit {MOST_FILES}), {n_changes} changes "
        f"(limit {MOST_CHANGES})"
    )
    print("  " + " > ".join(dict.fromkeys(way.before)))
    print(f"from there to .obsm, one epoch of three stages: {n_after} files, {changes_after} changes")
    models = sorted((PACKAGE / "models").glob("*.py"))
    n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in models)
    print(f"models/: {len(models)} files (limit {MOST_MODEL_FILES}), {n_lines} lines (limit {MOST_MODEL_LINES})")
    bases = {}
    for cls in (IndiSeekModel, DisentangledSSLModel, CoMMModel):
        bases[cls.__name__] = [base.__name__ for base in cls.__mro__[1:] if base.__module__.startswith("indiseek")]
        print(f"{cls.__name__}: bases of ours {bases[cls.__name__]}")
    print("places to change for something new:")
    for what, (places, test) in PLACES.items():
        print(f"  {what}: {places} ({test})")
    kept = (
        n_files <= MOST_FILES
        and n_changes <= MOST_CHANGES
        and len(models) <= MOST_MODEL_FILES
        and n_lines <= MOST_MODEL_LINES
        and all(len(found) <= 1 for found in bases.values())
    )
    print("all limits are kept" if kept else "a limit is EXCEEDED")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
