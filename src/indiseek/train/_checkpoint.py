"""State of an unfinished fit in a directory, from which a later process goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from indiseek.data import FileLock, make_folder, settle
from indiseek.train._archive import is_intact, read_archive, to_plain, write_archive

logger = logging.getLogger(__name__)

CHECKPOINT_NAME = "checkpoint.pt"
LOCK_NAME = "checkpoint.lock"


class Checkpoint:
    """Where one fit keeps its state; as a context it keeps other fits out.

    Parameters
    ----------
    directory
        Made if it does not exist; None to keep nothing.
    settings
        Plain values on which the result depends.
    writes
        Whether this process writes, the first of those that train together.
    """

    def __init__(self, directory: str | Path | None, settings: dict[str, Any], *, writes: bool) -> None:
        self.directory = None if directory is None else Path(directory)
        self.settings: dict[str, Any] = _flat(to_plain(settings))
        self.writes = writes
        self._lock: FileLock | None = None

    def __enter__(self) -> Self:
        """Lock the directory.

        Raises
        ------
        ValueError
            If another fit has locked it.
        """
        if self.directory is not None and self.writes:
            make_folder(self.directory)
            # The file stays when the fit is over, for all to see that this directory is one of checkpoints.
            lock = FileLock(self.directory / LOCK_NAME, keep=True)
            try:
                holder = lock.acquire()
            except BlockingIOError as error:
                raise ValueError(
                    f"expected a checkpoint_dir that no other fit uses, got {self.directory}, in use by {error}; wait "
                    "for it, end it, or give another directory."
                ) from error
            if not lock.sure:
                logger.warning(f"{lock.path} cannot be locked: see to it that no other fit uses this directory.")
            if holder:
                logger.warning(f"{holder} did not finish its fit in {self.directory}; this one takes over.")
            self._lock = lock
            settle(self.directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unlock it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def read(self) -> dict[str, Any] | None:
        """What :meth:`write` wrote last; None where there is nothing.

        Raises
        ------
        ValueError
            If it belongs to a fit with other settings, or is damaged.
        """
        if self.directory is None or not (path := self.directory / CHECKPOINT_NAME).is_file():
            return None
        payload = _load(path)
        saved = payload["settings"]
        names = [name for name in {**saved, **self.settings} if saved.get(name) != self.settings.get(name)]
        if names:
            changes = ", ".join(f"{name}={_short(self.settings.get(name))}" for name in names)
            before = ", ".join(f"{name}={_short(saved.get(name))}" for name in names)
            raise ValueError(
                f"expected the data and arguments of the fit that {path} belongs to, {before}, got {changes}; "
                "repeat that call to go on with it, or delete the file to train from the start."
            )
        logger.info(f"going on from {path}, written in stage {payload['stage']!r}.")
        return payload

    def write(self, payload: dict[str, Any]) -> None:
        """Replace what there is, at once, so that a process killed half way leaves the earlier state."""
        if self.directory is not None:
            write_archive(to_plain({"settings": self.settings, **payload}), self.directory / CHECKPOINT_NAME)

    def remove(self) -> None:
        """Delete the state of a fit that is complete."""
        if self.directory is not None and self.writes:
            (self.directory / CHECKPOINT_NAME).unlink(missing_ok=True)


def _load(path: Path) -> dict[str, Any]:
    damage = (
        f"expected a complete checkpoint at {path}, got a damaged one or something else; delete it to train from the "
        "start."
    )
    payload = read_archive(path, damaged=damage, code=damage)
    if not isinstance(payload, dict) or "settings" not in payload or not is_intact(payload):
        raise ValueError(damage)
    return payload


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
