"""What is left after kills, on full disks and of damaged files: ``python benchmarks/faults.py``.

1. Kills (SIGKILL) at random moments of training with ``checkpoint_dir``, saving a model with its cells, converting,
   embedding, and the writing of ``indiseek train``. What is found then must be what was there before or the new
   result, whole, and the same call again must give the new result and leave nothing else lying about.
2. Full disks of several sizes: a small file system in memory, filled but for a part of what is needed (this needs the
   right to mount; without it the part is left out, and the page says so).
3. Single flipped bits of a saved model and of the cells beside it: either the codes are the same to the last bit, or
   there is one error that names the file.
"""

from __future__ import annotations

import argparse
import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from _faults import TASKS, child, codes, leftovers, make_inputs, names, quiet, right, same
from _table import RESULTS, markdown, write_text

from indiseek.models import load_model

CONTEXT = multiprocessing.get_context("forkserver")
DISK = 256 * 2**20


def start(task: str, given: Path, out: Path) -> tuple[Any, Any]:
    """Start a task, and wait until the moment of the fault may come."""
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=child, args=(task, given, out, ready))
    process.start()
    while not ready.wait(0.5) and process.is_alive():
        pass
    return process, time.perf_counter()


def finished(task: str, given: Path, out: Path) -> tuple[int, float]:
    """Exit status and time of a task that nothing disturbs."""
    process, begun = start(task, given, out)
    process.join()
    return process.exitcode, time.perf_counter() - begun


def state_of(task: str, given: Path, out: Path) -> str:
    """What a task has left: "old", "new", or whatever else it is."""
    try:
        return TASKS[task].left(given, out)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is written down)
        return f"{type(error).__name__}: {error}"


def problems_after(task: str, given: Path, out: Path) -> list[str]:
    """What is wrong once the same call has been made again."""
    status, _ = finished(task, given, out)
    found = [] if status == 0 else [f"second try: exit status {status}"]
    state = state_of(task, given, out)
    found += [] if state == "new" else [f"second try: {state}"]
    found += [] if names(out) == TASKS[task].names else [f"second try: {names(out)}"]
    return found + [f"second try: {name}" for name in leftovers(out)]


def kill(task: str, given: Path, work: Path, n_kills: int, rng: np.random.Generator) -> dict[str, Any]:
    """Kill a task at random moments."""
    out = work / "out"
    out.mkdir()
    TASKS[task].prepare(given, out)
    _, seconds = finished(task, given, out)
    states, problems, shortest = Counter(), [], seconds
    # Where the machine is faster than before, a kill may come too late; such a try is left out of the count.
    while states["killed"] < n_kills and states.total() < 20 * n_kills:
        shutil.rmtree(out)
        out.mkdir()
        TASKS[task].prepare(given, out)
        process, begun = start(task, given, out)
        moment = rng.uniform(0, shortest)
        time.sleep(max(0.0, begun + moment - time.perf_counter()))
        process.kill()
        process.join()
        if process.exitcode == 0:
            states["came too late"] += 1
            shortest = max(0.5 * shortest, shortest - 0.1 * seconds)
            continue
        states["killed"] += 1
        states["half a copy was there"] += bool([name for name in leftovers(out) if name.endswith(".tmp")])
        state = state_of(task, given, out)
        states[state] += 1
        # The zarr of an earlier run may be aside for a moment; the next command puts it or the new one there.
        problems += [] if state in ("old", "new") else [f"after {moment:.3f} s: {state}"]
        problems += [f"after {moment:.3f} s: {problem}" for problem in problems_after(task, given, out)]
    return {"seconds": seconds, "n": states["killed"], "states": dict(states), "problems": problems}


def fill(task: str, given: Path, work: Path, n_sizes: int) -> dict[str, Any] | None:
    """Let a task run on disks that are too small; None where none may be mounted."""
    disk = work / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk], check=False).returncode:
        return None
    states, problems = Counter(), []
    try:
        out = disk / "out"
        out.mkdir()
        TASKS[task].prepare(given, out)
        before = shutil.disk_usage(disk).used
        finished(task, given, out)
        # An earlier copy stays until the new one is whole.
        need = max(shutil.disk_usage(disk).used, before, 2 * before if before > 2**16 else 0) - before
        need = need or before
        for number in range(n_sizes):
            shutil.rmtree(out)
            out.mkdir()
            TASKS[task].prepare(given, out)
            room = int(need * (number + 0.5) / n_sizes)
            with (disk / "filling").open("wb") as file:
                file.truncate(0)
                free = shutil.disk_usage(disk).free - room
                for _ in range(free // 2**16):
                    file.write(bytes(2**16))
            status, error = 0, ""
            try:
                TASKS[task].act(given, out, lambda: None)
            except OSError as caught:
                status, error = caught.errno or -1, str(caught)
            where = f"with {room / 1024:.0f} KiB"
            states["done" if not status else "said: disk full" if status == errno.ENOSPC else "other error"] += 1
            if status and not (status == errno.ENOSPC and "disk" in error):
                problems.append(f"{where}: {error}")
            state = state_of(task, given, out)
            states[state] += 1
            problems += [] if state in ("old", "new") else [f"{where}: {state}"]
            problems += [f"{where}: left {name}" for name in leftovers(out) if status]
            (disk / "filling").unlink()
            problems += [f"{where}: {problem}" for problem in problems_after(task, given, out)]
    finally:
        subprocess.run(["umount", disk], check=True)
    return {"room needed, KiB": need // 1024, "n": n_sizes, "states": dict(states), "problems": problems}


def flip(given: Path, work: Path, name: str, n_flips: int, rng: np.random.Generator) -> dict[str, Any]:
    """Flip single bits of one file of a saved model."""
    folder = work / "model"
    shutil.copytree(given / "model1", folder)
    path, expected = folder / name, right(given, 1)
    good = path.read_bytes()
    states, problems = Counter(), []
    for _ in range(n_flips):
        bit = int(rng.integers(8 * len(good)))
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = codes(load_model(folder, accelerator="cpu"))
        except (ValueError, OSError) as error:
            clear = str(error).startswith("expected") and name in str(error) and "\n" not in str(error)
            state = "one clear error" if clear else f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 (likewise)
            state = f"{type(error).__name__}: {error}"
        else:
            state = "the same codes" if same(found, expected) else "OTHER CODES"
        states[state] += 1
        problems += [] if state in ("one clear error", "the same codes") else [f"bit {bit}: {state}"]
    return {"n": n_flips, "bytes": len(good), "states": dict(states), "problems": problems}


def page(results: dict[str, dict[str, Any]]) -> str:
    """The tables."""
    rows = []
    for task, found in results["kills"].items():
        states = found["states"]
        rows.append(
            [
                task,
                f"{found['seconds']:.2f}",
                found["n"],
                states.get("half a copy was there", 0),
                states.get("old", 0),
                states.get("new", 0),
                len(found["problems"]),
            ]
        )
    columns = ["killed in", "it takes, s", "kills", "half a copy lay there", "earlier state", "new state", "problems"]
    text = f"## Killed\n\n{markdown(pd.DataFrame(rows, columns=columns))}\n\n## Full disks\n\n"
    rows = [
        [
            task,
            found["room needed, KiB"],
            found["n"],
            found["states"].get("said: disk full", 0),
            found["states"].get("done", 0),
            found["states"].get("old", 0),
            found["states"].get("new", 0),
            len(found["problems"]),
        ]
        for task, found in results["full disks"].items()
        if found is not None
    ]
    columns = [
        "full in",
        "room needed, KiB",
        "sizes",
        "said so",
        "done",
        "earlier state",
        "new state",
        "problems",
    ]
    full = markdown(pd.DataFrame(rows, columns=columns)) if rows else "Left out: no file system may be mounted here."
    text += f"{full}\n\n## Flipped bits\n\n"
    rows = [
        [
            name,
            found["bytes"],
            found["n"],
            found["states"].get("one clear error", 0),
            found["states"].get("the same codes", 0),
            len(found["problems"]),
        ]
        for name, found in results["flips"].items()
    ]
    columns = ["file", "bytes", "flips", "one clear error", "the same codes", "problems"]
    return text + markdown(pd.DataFrame(rows, columns=columns))


def main() -> None:
    """Run, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40, help="kills of each task")
    parser.add_argument("--sizes", type=int, default=10, help="sizes of disk for each task")
    parser.add_argument("--flips", type=int, default=200, help="flipped bits, a quarter of them in the cells")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(TASKS),
        default=list(TASKS),
        help="tasks; the page keeps what there is of others",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few of each, and nothing is written")
    options = parser.parse_args()
    n_kills, n_sizes, n_flips = (2, 2, 8) if options.quick else (options.kills, options.sizes, options.flips)
    # Else every child would import all anew, which takes longer than what it does.
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    CONTEXT.set_forkserver_preload(["_faults"])
    quiet()
    rng = np.random.default_rng(options.seed)
    results: dict[str, dict[str, Any]] = {"kills": {}, "full disks": {}, "flips": {}}
    if set(options.only) < set(TASKS) and not options.quick and (RESULTS / "faults.json").exists():
        # The other tasks keep what an earlier run has found.
        results |= json.loads((RESULTS / "faults.json").read_text())["results"]
    with TemporaryDirectory() as directory:
        given = Path(directory) / "given"
        given.mkdir()
        make_inputs(given)
        for task in options.only:
            for kind, run in (
                ("kills", lambda work, task=task: kill(task, given, work, n_kills, rng)),
                ("full disks", lambda work, task=task: fill(task, given, work, n_sizes)),
            ):
                work = Path(directory) / f"{task} {kind}"
                work.mkdir()
                results[kind][task] = run(work)
                print(task, kind, results[kind][task], flush=True)
        for name, n in (("model.pt", n_flips - n_flips // 4), ("mdata.h5mu", n_flips // 4)):
            work = Path(directory) / name
            work.mkdir()
            results["flips"][name] = flip(given, work, name, n, rng)
            print(name, results["flips"][name], flush=True)
    n_problems = sum(len(found["problems"]) for kind in results.values() for found in kind.values() if found)
    if not options.quick:
        notes = (
            "A problem is a state that is neither the earlier nor the new one, a second try that fails or gives "
            "another result, a half file or lock that it leaves, codes that differ without an error, or one that does "
            "not name the file. Full disks are a file system in memory that is filled but for 5 % to 95 % of the room "
            "needed. A kill that came after the end is not counted. Of the command line, several results follow one "
            'another, each whole: "earlier" there is where not all are new yet. '
            "400 real cells, 200 genes, 14 proteins; one thread."
        )
        write_text("faults", "Kills, full disks, flipped bits", page(results), {"results": results}, notes)
    else:
        print(page(results))
    raise SystemExit(int(n_problems > 0))


if __name__ == "__main__":
    main()
