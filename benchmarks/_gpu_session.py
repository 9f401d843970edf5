"""What the checks of one process share: the device, the cells, the trained model, and work in the background."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

Figures = dict[str, float]
# One core each, and nothing on the device that is measured.
_BACKGROUND = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


class Session:
    """See the attributes.

    Attributes
    ----------
    device
        Where to train.
    quick
        Whether sizes are small.
    scratch
        Directory for models, which outlives the process.
    missing
        Packages that could not be imported, with the reason.
    """

    def __init__(self, device: torch.device, scratch: Path, missing: dict[str, str], *, quick: bool) -> None:
        self.device, self.scratch, self.missing, self.quick = device, scratch, missing, quick
        self.values: dict[str, Any] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._jobs: dict[str, Future[Figures]] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one."""
        return self.device.type == "cuda"

    @property
    def accelerator(self) -> str:
        """As Lightning names it."""
        return accelerator(self.device)

    @property
    def n_features(self) -> tuple[int, int]:
        """Features of both modalities of plain cells."""
        sizes: tuple[int, int] = self.size((50, 50), (14, 10))
        return sizes

    def size(self, full: Any, quick: Any) -> Any:
        """The one or the other."""
        return quick if self.quick else full

    def sample(self) -> Any:
        """A fresh MuData of the shipped cells; few of them and of their genes where sizes are small."""
        return sample(self.quick)

    def new(self, mdata: Any, kind: str = "IndiSeekModel") -> Any:
        """Untrained model of these cells."""
        return new_model(mdata, self.quick, kind)

    def train_options(self, **more: Any) -> dict[str, Any]:
        """Arguments of ``train`` on the device."""
        return train_options(self.quick, self.accelerator) | more

    def trained(self) -> tuple[Any, Any]:
        """The default model of seed 0, trained on the device and saved in `scratch`, and its cells; leave both."""
        if "trained" not in self.values:
            mdata, directory = self.sample(), self.scratch / "device"
            if directory.exists():
                model = type(self.new(mdata)).load(directory, mdata, accelerator=self.accelerator)
            else:
                model = self.new(mdata)
                model.train(seed=0, **self.train_options())
                model.save(directory)
            self.values["trained"] = model, mdata
        model, mdata = self.values["trained"]
        return model, mdata

    def in_background(self, job: str, directory: Path | None, precision: str) -> None:
        """Begin a certificate in another process, on one core: of a saved model, or of one trained there on the CPU."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.size(4, 1), mp_context=context)
        # A process begins at most at a submission, with the environment of that moment.
        before = {name: os.environ.get(name) for name in _BACKGROUND}
        os.environ.update(_BACKGROUND)
        try:
            path = self.scratch / f"{job}.json"
            self._jobs[job] = self._pool.submit(certified, path, directory, precision, self.quick)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value

    def began(self, job: str) -> bool:
        """Whether a job was begun here, or has left its result."""
        return job in self._jobs or (self.scratch / f"{job}.json").exists()

    def result(self, job: str, seconds: float) -> Figures | None:
        """What a job in the background has found, waiting at most so long; None if it was never begun."""
        path = self.scratch / f"{job}.json"
        if path.exists():
            found: Figures = json.loads(path.read_text())
            return found
        return self._jobs[job].result(max(0.0, seconds)) if job in self._jobs else None

    def close(self) -> None:
        """Forget what has not begun; what runs is ended with the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerator(device: torch.device) -> str:
    """As Lightning names it."""
    return "gpu" if device.type == "cuda" else device.type


def sample(quick: bool) -> Any:
    """A fresh MuData of the shipped cells."""
    import mudata

    from indiseek import datasets

    full = datasets.pbmc10k_cite()
    if not quick:
        return full
    rows = np.sort(np.random.default_rng(0).choice(full.n_obs, 450, replace=False))
    genes = np.sort(np.argsort(-full["rna"].X[rows].getnnz(axis=0), kind="stable")[:150])
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData({"rna": full["rna"][rows][:, genes].copy(), "prot": full["prot"][rows].copy()})


def new_model(mdata: Any, quick: bool, kind: str = "IndiSeekModel") -> Any:
    """Untrained model of these cells, with its defaults; narrow where sizes are small."""
    import indiseek

    small: dict[str, Any] = {"encoder": indiseek.Encoder(hidden=(32,))} if quick else {}
    if quick and kind == "IndiSeekModel":
        small["specific"] = indiseek.ClosedForm(n_landmarks=40)
    return getattr(indiseek, kind)(mdata, **small)


def train_options(quick: bool, where: str) -> dict[str, Any]:
    """Arguments of ``train``."""
    small = {"max_epochs": 2, "batch_size": 64, "train_size": 0.5, "validation_size": 0.2} if quick else {}
    return {"accelerator": where, "show_progress": False, **small}


def certified(path: Path, directory: Path | None, precision: str, quick: bool) -> Figures:
    """In a process of its own: the certificate's figures, by the CPU in single precision, also written to `path`."""
    torch.set_num_threads(1)
    from _gpu_parts import import_package

    import_package(path.parent)
    from _certified import figures

    mdata = sample(quick)
    model = new_model(mdata, quick)
    if directory is None:
        model.train(seed=0, precision=precision, **train_options(quick, "cpu"))
    else:
        model = type(model).load(directory, mdata, accelerator="cpu")
    found = figures(model, 0)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(found))
    temporary.replace(path)
    return found
