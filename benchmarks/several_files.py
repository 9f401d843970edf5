"""A study of 30 files, one for each donor, against one file with all its cells: ``python benchmarks/several_files.py``.

Both are fitted from disk with the file as batch, in processes of their own; the codes must be the same to the last bit.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mudata
import numpy as np
import pandas as pd
from _table import write

from indiseek import IndiSeekModel
from indiseek.data import open_mudata

_FILE, _DONOR = "covid_cite_donors.h5mu", "Donor"


def _split(shared: Path, directory: Path) -> list[Path]:
    """One file for each donor, and all cells in their order."""
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.read_h5mu(shared / _FILE)
        donors = mdata.obs[_DONOR].astype(str)
        rows = {name: np.flatnonzero(donors == name) for name in sorted(donors.unique())}
        paths = []
        for name, positions in rows.items():
            paths.append(directory / f"{name}.h5mu")
            mdata[positions].copy().write(paths[-1])
        whole = mdata[np.concatenate(list(rows.values()))].copy()
        whole.obs["file"] = pd.Categorical(whole.obs[_DONOR].astype(str))
        whole.write(directory / "whole.h5mu")
    return paths


def _fit(paths: list[Path], out: Path) -> dict[str, float]:
    """Default fit from disk; the codes go to `out`."""
    began = time.perf_counter()
    with mudata.set_options(pull_on_update=False):
        mdata = open_mudata(paths if len(paths) > 1 else paths[0])
        opened = time.perf_counter()
        IndiSeekModel.setup_mudata(mdata, batch_key="file")
        model = IndiSeekModel(mdata)
        model.train(show_progress=False, accelerator="cpu")
    np.savez(out, **{key: mdata.obsm[key] for key in mdata.obsm if key.startswith("X_indiseek")})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"open, s": opened - began, "check and fit, s": time.perf_counter() - opened, "peak RSS, GiB": peak}


def _spawn(paths: list[Path], out: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--fit", *map(str, paths), "--out", str(out)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    """Run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, help=f"folder with {_FILE}")
    parser.add_argument("--fit", type=Path, nargs="+", help="fit these alone, in this process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.fit:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        print(json.dumps(_fit(options.fit, options.out)))
        return
    if options.shared is None:
        parser.error(f"expected --shared, the folder with {_FILE}")
    with TemporaryDirectory() as temporary:
        directory = Path(temporary)
        paths = _split(options.shared, directory)
        cases = {f"{len(paths)} files": paths, "one file": [directory / "whole.h5mu"]}
        found = {name: _spawn(each, directory / f"{i}.npz") for i, (name, each) in enumerate(cases.items())}
        codes = [np.load(directory / f"{i}.npz") for i in range(2)]
        largest = {key: float(np.abs(codes[0][key] - codes[1][key]).max()) for key in codes[1]}
    columns = ("open, s", "check and fit, s", "peak RSS, GiB")
    rows = [[name, *(f"{each[key]:,.1f}" for key in columns)] for name, each in found.items()]
    notes = (
        f"`{_FILE}` by `{_DONOR}`, the file as batch, default fit from disk. Largest difference of any code of the two "
        f"fits, over {len(largest)} codes: {max(largest.values()):g}."
    )
    table = pd.DataFrame(rows, columns=["cells from", *columns])
    write("several_files", "Many files as one", table, found | {"largest difference": largest}, notes)


if __name__ == "__main__":
    main()
