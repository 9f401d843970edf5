"""What tells our files from the user's, of which none is ever replaced or deleted."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

MARK = "written by indiseek"
# The mark stands near the start of a file; of a zarr, in its small root file.
_HEAD_BYTES = 2**16


def mark() -> str:
    """Words that every file carries which this package has written."""
    return f"{MARK} {version('indiseek')}"


def is_ours(path: Path) -> bool:
    """Whether this package has written the file or the zarr at `path`."""
    if path.is_dir():
        path = path / "zarr.json"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK.encode() in file.read(_HEAD_BYTES)


def check_replaceable(paths: Iterable[Path], sources: Iterable[Path] = ()) -> None:
    """Raise FileExistsError for a target that is read from, or that is there and not ours.

    Parameters
    ----------
    paths
        Files and zarrs that are to be written.
    sources
        What is read meanwhile.
    """
    read = [source.resolve() for source in sources]
    for path in paths:
        target = path.resolve()
        for source in read:
            if target == source or target in source.parents or source in target.parents:
                raise FileExistsError(
                    f"expected another place to write than {source}, which is read from, got {path}; choose another."
                )
        if target.exists() and not is_ours(target):
            raise FileExistsError(
                f"expected nothing at {path}, or what indiseek has written, got something else; move it, or choose "
                "another place."
            )
