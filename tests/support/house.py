"""How long the ways through the house are: ``python tests/support/house.py``.

Prints the files of the package that are entered, and the changes from one file to another, between ``train()`` and the
first gradient step, and from there to the codes in ``.obsm``; the size of ``models/``; the base classes of the models;
and what has to be touched for something new, each with the test that does it. Exits with 1 if a limit is exceeded, or
if a way passes no file of a layer that it cannot do without. What counts is each call of a function of the package; a
generator counts when it begins.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from small import cells

import indiseek
from indiseek.models import CoMMModel, DisentangledSSLModel, IndiSeekModel

PACKAGE = Path(indiseek.__file__).parent
# Limits of files entered, and of changes between them, up to the first gradient step; two of the files and 23 of the
# changes find the number of components in the cells.
MOST_FILES, MOST_CHANGES = 18, 88
MOST_MODEL_FILES, MOST_MODEL_LINES = 17, 5500
# Layers that no way can leave out, before the first gradient step and after it: where one is not seen, it is not the
# way that is short, it is the counting that is broken.
LAYERS = ({"models", "data", "train", "objectives", "nn"}, {"train", "objectives", "models"})
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
        (self.after if self._began else self.before).append(Path(code.co_filename).relative_to(PACKAGE).as_posix())


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
    bases, classes = {}, (IndiSeekModel, DisentangledSSLModel, CoMMModel)
    for cls in classes:
        bases[cls.__name__] = [base.__name__ for base in cls.__mro__[1:] if base.__module__.startswith("indiseek")]
        print(f"{cls.__name__}: bases of ours {bases[cls.__name__]}")
    print("places to change for something new:")
    for what, (places, test) in PLACES.items():
        print(f"  {what}: {places} ({test})")
    seen = [{path.split("/")[0] for path in files} for files in (way.before, way.after)]
    missing = [layer for layers, found in zip(LAYERS, seen, strict=True) for layer in sorted(layers - found)]
    missing += [cls.__name__ for cls in classes if Path(inspect.getfile(cls)) not in models]
    if missing:
        print(f"NOT SEEN: {', '.join(missing)}")
    kept = (
        not missing
        and n_files <= MOST_FILES
        and n_files - 1 <= n_changes <= MOST_CHANGES
        and len(models) <= MOST_MODEL_FILES
        and len(models) < n_lines <= MOST_MODEL_LINES
        and all(found == ["MultimodalModel"] for found in bases.values())
    )
    print("all limits are kept" if kept else "a limit is EXCEEDED, or the counting is broken")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
