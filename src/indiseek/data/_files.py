"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import mudata
from mudata import MuData


def replace_files(directory: Path, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Write files, and only when all are written put them in the place of earlier ones.

    Parameters
    ----------
    directory
        Existing directory.
    writers
        By name of a file: what writes it at the path that it is given.

    Raises
    ------
    OSError
        If the disk is full; what was there before stays.
    """
    # Not tempfile, whose files only their owner may read.
    temporaries = {name: directory / f"{name}.{os.getpid()}.tmp" for name in writers}
    try:
        for name, write in writers.items():
            write(temporaries[name])
            # Else a machine that goes down may keep the new name and lose what it stands for.
            with temporaries[name].open("rb+") as file:
                os.fsync(file.fileno())
        for name, temporary in temporaries.items():
            temporary.replace(directory / name)
    except BaseException as error:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        # On a full disk h5py and torch raise RuntimeError, and say nothing of it.
        if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ENOSPC:
            raise OSError(
                errno.ENOSPC,
                f"expected to write {', '.join(writers)} to {directory}, got {error}; what was there before stays: see "
                "whether the disk is full, make room or give another directory.",
            ) from error
        raise


def write_mudata(mdata: MuData, path: Path) -> None:
    """Write an h5mu file so that an earlier one survives a failure half way.

    Parameters
    ----------
    mdata
        Cells. Backed ones stay backed by their own file.
    path
        File in an existing directory.
    """
    replace_files(path.parent, {path.name: mudata_writer(mdata)})


def mudata_writer(mdata: MuData) -> Callable[[Path], None]:
    """What writes `mdata` at a path, for :func:`replace_files`."""
    return partial(_write_h5mu, mdata)


def _write_h5mu(mdata: MuData, path: Path) -> None:
    # Not MuData.write, after which a backed one would go by this temporary name.
    with mudata.set_options(pull_on_update=False):
        mudata.write_h5mu(path, mdata)
