"""Memory that is too small: errors that say what was wanted and how to want less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

# Parts of the messages for which torch has no class of error: of the allocator of the CPU, of MPS and of a CUDA device
# that others fill, and of cuBLAS and its like.
_SIGNS = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED")
_FEWER_FEATURES = "take fewer features, for counts by transforms={...: indiseek.data.LogNormalizePCA(n_components=...)}"


@contextmanager
def must_fit(
    what: str,
    device: torch.device,
    advice: str,
    *,
    on_cpu: str = "accelerator='cpu'",
    left: str = "The model is as it was.",
) -> Iterator[None]:
    """Run a block whose memory may run out.

    Parameters
    ----------
    what
        What takes the memory.
    device
        Where.
    advice
        How to want less of it.
    on_cpu
        How to take the memory of the CPU instead of that of another device.
    left
        What the failure leaves.

    Raises
    ------
    MemoryError
        For all that torch raises when memory runs out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        elsewhere = "" if device.type == "cpu" else f", or {on_cpu}"
        raise MemoryError(
            f"expected {what} to fit into the memory of {device}, got out of memory; {advice}{elsewhere}. {left}"
        ) from error


def all_must_fit(
    what: str,
    n_cells: int,
    n_features: int,
    device: torch.device,
    advice: str = _FEWER_FEATURES,
) -> AbstractContextManager[None]:
    """:func:`must_fit` in training, for what is held of all cells at once.

    Parameters
    ----------
    what
        What takes the memory.
    n_cells, n_features
        Cells, and their features in all modalities together.
    device
        Where.
    advice
        How to want less of it.
    """
    return must_fit(f"{what}, {amount(n_cells, n_features)},", device, f"a smaller batch would not help: {advice}")


def amount(n_cells: int, n_features: int) -> str:
    """Cells, features, and the memory that one copy of them takes."""
    return f"{n_cells} cells x {n_features} features ({4 * n_cells * n_features / 2**30:.2f} GiB a copy)"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in _SIGNS)
