"""Makes checks one after the other and tells of each in lines of JSON: started by ``gpu.py``."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import platform
import signal
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import _gpu_contract as contract
import _gpu_graphs as graphs
import _gpu_parts as parts
import _gpu_speed as speed
import _gpu_whole as whole
import torch
from _gpu_plan import CHECKS
from _gpu_run import Event, OutOfTime, Report, Skipped, run
from _gpu_session import Session, n_cores

FUNCTIONS = {
    "train": contract.train,
    "codes": contract.codes_on_both,
    "save_load": contract.save_load,
    "speed": speed.speed,
    "ratio": speed.ratio,
    "profile": speed.profile,
    "synchronisations": speed.synchronisations,
    "graphs": graphs.graphs,
    "resume": contract.resume,
    "interrupt": contract.interrupt,
    "same_seed": contract.same_seed,
    "device_index": contract.device_index,
    "disentangled_ssl": contract.disentangled_ssl,
    "comm": contract.comm,
    "whole_fit": whole.whole_fit,
    "low_precision": speed.low_precision,
    "suspects": speed.suspects,
    "compile": graphs.compile_,
    "certificate": contract.certificate,
    "tests": whole.tests,
    "zarr": whole.zarr,
}
# Seconds over its time after which a check is taken to hang; less than the grace of `gpu.py`.
_HANGS = 4.0
_PACKAGES = ("indiseek", "torch", "lightning", "numpy", "anndata", "mudata", "scanpy", "scvi-tools", "scikit-learn")


def header(device: torch.device, missing: dict[str, str], *, quick: bool) -> Event:
    """What is there: device, driver, versions."""
    found: Event = {"kind": device.type, "quick": quick}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory, GiB": round(properties.total_memory / 2**30, 1),
            "driver": _driver(),
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
        }
    else:
        found["device"] = f"CPU ({platform.machine()})"
    found |= {"cores": n_cores(), "threads": torch.get_num_threads()}
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return found | {"versions": versions, "missing": missing}


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"


def lost(device: torch.device) -> bool:
    """Whether the device answers no more in this process."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        return float(torch.ones(1, device=device)) != 1.0
    except RuntimeError:
        return True


def main() -> None:
    """Make the checks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=list(CHECKS))
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--fault", action="append", default=[])
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    faulthandler.enable()
    # A process that is started in the background ignores Ctrl-C, and one of the checks is about it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Events go where standard output went; whatever else is printed goes to standard error.
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def send(event: Event) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    missing = parts.import_package(options.scratch)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    # Full sizes would take a CPU hours.
    quick = options.quick or not on_gpu
    send({"event": "header", **header(device, missing, quick=quick)})
    faults = dict(fault.partition(":")[::2] for fault in options.fault)
    session = Session(device, options.scratch, missing, quick=quick)
    for name in options.names:
        check = CHECKS[name]
        seconds = min(check.quick_seconds if quick else check.seconds, end - time.monotonic())
        fault = faults.get(name, faults.get("all"))
        # Targets are for a GPU at full size.
        report = Report(send, seconds, judged=on_gpu and not quick, fault=None if fault is None else fault or "raise")

        def make(report: Report, name: str = name, plain: bool = check.plain) -> None:
            if report.left < 0:
                raise OutOfTime("the whole run's time was over before it began.")
            if missing and not plain:
                raise Skipped(f"packages are missing: {', '.join(missing)}")
            FUNCTIONS[name](session, report)

        # Where it hangs, before it is killed.
        faulthandler.dump_traceback_later(max(0.0, seconds) + _HANGS)
        error = run(name, make, send, report, max(0.0, seconds))
        faulthandler.cancel_dump_traceback_later()
        if error is not None and lost(device):
            # Nothing more can be learned in this process; the next one makes the others.
            break
        del error
    session.close()
    events.close()
    # What runs in the background, and threads of libraries, must not hold up the others.
    os._exit(0)


if __name__ == "__main__":
    main()
