"""Checks of what a user relies on: training, codes, saving, going on, Ctrl-C, seeds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
from _gpu_run import Report
from _gpu_session import Session

# Most difference of a code between devices.
_CLOSE = 1e-3


class At(lightning.Callback):
    """Do something at the end of an epoch's first step, in one of the stages.

    Parameters
    ----------
    stage, epoch
        Their numbers.
    action
        What to do.
    """

    def __init__(self, stage: int, epoch: int, action: Any) -> None:
        self.stage, self.epoch, self.action, self.n_fits = stage, epoch, action, 0

    def on_fit_start(self, *_: Any) -> None:
        """Count the stages."""
        self.n_fits += 1

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """See whether it is time."""
        if self.n_fits - 1 == self.stage and trainer.current_epoch == self.epoch:
            self.action()


class Stopped(Exception):
    """What a fit is stopped by."""


class Deadline(lightning.Callback):
    """Stops a training that takes too long.

    Parameters
    ----------
    report
        Of the check.
    """

    def __init__(self, report: Report) -> None:
        self.report, self.n_fits = report, 0

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop when time is up."""
        self.report.step()


class Clocked(Deadline):
    """Tells the stages that are done, too."""

    def on_fit_end(self, *_: Any) -> None:
        """Tell it."""
        self.n_fits += 1
        self.report("stages trained", self.n_fits)


def codes(model: Any, mdata: Any = None) -> dict[str, np.ndarray]:
    """All codes of a model: the joint one, and those of each stage and modality."""
    found = {"joint": model.get_latent_representation(mdata)}
    for kind in model.module.stages:
        for name in model.modalities:
            found[f"{kind} {name}"] = model.get_latent_representation(mdata, modality=name, kind=kind)
    return found


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    """Largest difference of each code."""
    return {name: float(np.abs(code - b[name]).max()) for name, code in a.items()}


def same_weights(a: Any, b: Any) -> float:
    """Largest difference of any weight."""
    pairs = zip(a.module.state_dict().items(), b.module.state_dict().values(), strict=True)
    return max(float((x.cpu().double() - y.cpu().double()).abs().max()) for (_, x), y in pairs if x.numel())


def _finite(arrays: dict[str, np.ndarray]) -> float:
    return float(np.mean([np.isfinite(array).mean() for array in arrays.values()]))


def _written(mdata: Any) -> dict[str, np.ndarray]:
    whole = {f"mdata {key}": np.asarray(value) for key, value in mdata.obsm.items() if key.startswith("X_")}
    parts = {f"{n} {k}": np.asarray(v) for n, a in mdata.mod.items() for k, v in a.obsm.items() if k.startswith("X_")}
    return whole | parts


def _close(report: Report, what: str, a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    found = differences(a, b)
    report(f"{what}, largest difference by code", found)
    report.require(f"{what}, largest difference", max(found.values()), at_most=_CLOSE)


def train(session: Session, report: Report) -> None:
    """Train the default model on the shipped cells, and begin the certificates in the background."""
    mdata = session.sample()
    model = session.new(mdata)
    session.in_background("cpu", None, "32")
    model.train(seed=0, callbacks=[Clocked(report)], **session.train_options())
    report("cells", mdata.n_obs)
    report("training by stage, s", model.stage_seconds)
    report(
        "epochs by stage",
        {s: len(model.history[f"{s}/train_loss"]) for s in model.stage_seconds if f"{s}/train_loss" in model.history},
    )
    report.require("weights on the device", float(model.module.device.type == session.device.type), at_least=1)
    written = _written(mdata)
    report("written into .obsm", list(written))
    report.require("codes in .obsm", len(written), at_least=3)
    report.require("finite share of the codes", _finite(written), at_least=1)
    model.save(session.scratch / "device", overwrite=True)
    session.values["trained"] = model, mdata
    session.in_background("device", session.scratch / "device", "32")


def codes_on_both(session: Session, report: Report) -> None:
    """Codes of a saved model on the CPU and on the device, from the same cells."""
    model, mdata = session.trained()
    other = type(model).load(session.scratch / "device", mdata, accelerator="cpu")
    report("cells", mdata.n_obs)
    _close(report, "codes there and on the CPU", codes(model), codes(other))
    first = mdata.obsm["X_indiseek_shared"]
    report.require(
        "written code and code on demand", float(np.abs(first - codes(model)["joint"]).max()), at_most=_CLOSE
    )


def save_load(session: Session, report: Report) -> None:
    """Save there, load on the CPU, save, load there."""
    model, mdata = session.trained()
    _there_and_back(session, report, model, mdata, session.scratch / "device")


def _there_and_back(session: Session, report: Report, model: Any, mdata: Any, directory: Path) -> None:
    on_cpu = type(model).load(directory, mdata, accelerator="cpu")
    report.require("weights on the CPU", float(on_cpu.module.device.type == "cpu"), at_least=1)
    again = directory.with_name(f"{directory.name}-again")
    on_cpu.save(again, overwrite=True)
    back = type(model).load(again, mdata, accelerator=session.accelerator)
    report.require("weights back there", float(back.module.device.type == session.device.type), at_least=1)
    report.require("weights, largest difference", same_weights(model, back), at_most=0)
    _close(report, "codes before and after", codes(model), codes(back))
    _close(report, "codes there and on the CPU", codes(model), codes(on_cpu))


def _short(session: Session, report: Report, *callbacks: Any, **more: Any) -> dict[str, Any]:
    """Arguments of a short training that ends when the check's time does."""
    epochs = {"max_epochs": session.size(6, 3), "early_stopping": False}
    return session.train_options(callbacks=[*callbacks, Deadline(report)], **epochs | more)


def resume(session: Session, report: Report) -> None:
    """A fit that fails in its second stage and goes on, beside one that was not disturbed."""
    mdata = session.sample()
    whole = session.new(mdata)
    whole.train(seed=1, **_short(session, report))
    directory = session.scratch / "checkpoint"

    def stop() -> None:
        raise Stopped

    broken = session.new(mdata)
    try:
        broken.train(seed=1, checkpoint_dir=directory, **_short(session, report, At(1, 1, stop)))
    except Stopped:
        pass
    report("files that the stopped fit left", len(list(directory.iterdir())) if directory.exists() else 0)
    report.step()
    again = session.new(mdata)
    again.train(seed=1, checkpoint_dir=directory, **_short(session, report))
    trained = [stage for stage in again.stage_seconds if f"{stage}/train_loss" in again.history]
    n_epochs = {stage: len(again.history[f"{stage}/train_loss"]) for stage in trained}
    report("epochs by stage", n_epochs)
    report.require("stages with all epochs", sum(n == session.size(6, 3) for n in n_epochs.values()), at_least=2)
    found = differences(codes(whole), codes(again))
    report("codes of both fits, largest difference by code", found)
    # Where two trainings with one seed are not the same, these cannot be.
    judge = report.target if session.on_gpu else report.require
    judge("codes of both fits, largest difference", max(found.values()), at_most=_CLOSE)
    report("weights, largest difference", same_weights(whole, again))


def interrupt(session: Session, report: Report) -> None:
    """Ctrl-C in the first stage, then a training that goes on."""
    mdata = session.sample()
    model = session.new(mdata)
    model.train(**_short(session, report, At(0, 2, lambda: os.kill(os.getpid(), signal.SIGINT))))
    n_epochs = len(model.history["shared/train_loss"])
    report("epochs when it was interrupted", n_epochs)
    report.require("epochs kept", n_epochs, at_least=1, at_most=2)
    report.require("finite share of the codes", _finite({"joint": model.get_latent_representation()}), at_least=1)
    model.train(**_short(session, report))
    report.require("finite share of the codes after going on", _finite(codes(model)), at_least=1)


def same_seed(session: Session, report: Report) -> None:
    """Two trainings with one seed on this device, and one on the CPU."""
    mdata = session.sample()
    models = []
    for _ in range(2):
        models.append(session.new(mdata))
        models[-1].train(seed=0, **_short(session, report))
        report.step()
    report("weights, largest difference of two trainings", same_weights(*models))
    found = differences(codes(models[0]), codes(models[1]))
    report("codes, largest difference of two trainings", found)
    report.target("codes, largest difference of all", max(found.values()), at_most=0)
    first = models[0].history["shared/train_loss"].to_numpy() - models[1].history["shared/train_loss"].to_numpy()
    report("loss of each epoch of stage 1, largest difference", float(np.abs(first).max()))


def device_index(session: Session, report: Report) -> None:
    """Ways to name a device by its number: what is taken, and what is refused with which words."""
    model, mdata = session.trained()
    name = f"{session.device.type}:0"
    before = codes(model)
    other = type(model).load(session.scratch / "device", mdata, accelerator="cpu")
    other.to_device(name)
    there = other.module.device
    right = there.type == session.device.type and (there.index or 0) == 0
    report.require(f"to_device('{name}') puts the weights there", float(right), at_least=1)
    _close(report, f"codes after to_device('{name}')", before, codes(other))
    ways: dict[str, dict[str, Any]] = {
        f"accelerator='{session.device.type}'": {"accelerator": session.device.type},
        "devices=[0]": {"devices": [0]},
        f"accelerator='{name}'": {"accelerator": name},
    }
    for way, arguments in ways.items():
        fresh = session.new(mdata)
        try:
            fresh.train(**_short(session, report, max_epochs=1, write_latents=False) | arguments)
            report(f"train({way})", f"trains on {fresh.module.device}")
        except Exception as error:  # noqa: BLE001
            # A refusal is an answer here.
            report(f"train({way})", f"{type(error).__name__}: {error}"[:300])
        report.step()


def _other_model(session: Session, report: Report, kind: str) -> None:
    mdata = session.sample()
    model = session.new(mdata, kind)
    model.train(**_short(session, report, Clocked(report), max_epochs=session.size(10, 2)))
    report("training by stage, s", model.stage_seconds)
    written = _written(mdata)
    report.require("codes in .obsm", len(written), at_least=3)
    report.require("finite share of the codes", _finite(written), at_least=1)
    model.save(session.scratch / kind, overwrite=True)
    _there_and_back(session, report, model, mdata, session.scratch / kind)


def disentangled_ssl(session: Session, report: Report) -> None:
    """DisentangledSSLModel: train, codes, save and load."""
    _other_model(session, report, "DisentangledSSLModel")


def comm(session: Session, report: Report) -> None:
    """CoMMModel: train, codes, save and load."""
    _other_model(session, report, "CoMMModel")


def certificate(session: Session, report: Report) -> None:
    """Certificates' figures: trained there, trained on the CPU with the same seed, and trained in low precision."""
    if not session.began("device"):
        session.trained()
        session.in_background("device", session.scratch / "device", "32")
    if not session.began("cpu"):
        session.in_background("cpu", None, "32")
    found = {}
    for job in ("device", "cpu", "bf16", "tf32"):
        with report.part(f"certificate, {_JOBS[job]}"):
            figures = session.result(job, report.left - 1)
            if figures is not None:
                found[job] = figures
                report(f"certificate, {_JOBS[job]}", figures)
    for job in ("cpu", "bf16", "tf32"):
        if job in found and "device" in found:
            apart = {n: abs(found["device"][n] - found[job][n]) for n in found[job] if n != "s"}
            worst = max(apart, key=lambda name: apart[name])
            report(f"figure furthest from the device's, {_JOBS[job]}", worst)
            report.target(f"largest difference to the device's, {_JOBS[job]}", apart[worst], at_most=0.05)


_JOBS = {
    "device": "trained there",
    "cpu": "trained on the CPU, same seed",
    "bf16": "trained there in bf16-mixed",
    "tf32": "trained there with TF32",
}
