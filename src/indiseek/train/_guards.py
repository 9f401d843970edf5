"""What surrounds a block of work: seeds that leave the user's alone, and messages where memory runs out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from indiseek._streams import one_stream

# Parts of the messages for which torch has no class of error: of the allocator of the CPU, of MPS and of a CUDA device
# that others fill, and of cuBLAS and its like.
_SIGNS = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED")
_FEWER_FEATURES = "take fewer features, for counts by transforms={...: indiseek.data.LogNormalizePCA(n_components=...)}"


# Blocks of plain_torch that run, in all threads, and what was set before the first of them.
_PLAIN_LOCK = threading.Lock()
_plain: dict[str, Any] = {"n": 0, "dtype": torch.float32}


@contextmanager
def plain_torch() -> Iterator[None]:
    """Run a block with torch's own defaults, float32 on the CPU, whatever others have set, and give theirs back.

    Another library or another cell of a notebook may have set float64 or a device, for all tensors that are made
    without saying of what; and a block of the user's may cast by itself, or keep no graph.
    """
    with _PLAIN_LOCK:
        if not _plain["n"]:
            _plain["dtype"] = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)
        _plain["n"] += 1
    try:
        # Only where needed, because inside it every call of torch takes a little longer.
        device = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
        with device, torch.inference_mode(mode=False), _no_autocast():
            yield
    finally:
        with _PLAIN_LOCK:
            _plain["n"] -= 1
            if not _plain["n"]:
                torch.set_default_dtype(_plain["dtype"])


@contextmanager
def _no_autocast() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with torch seeded, on the CPU and every CUDA device, and give the old state back.

    What draws in the block holds ``one_stream``, for other threads may do so meanwhile.

    Parameters
    ----------
    seed
        Seed inside the block.
    """
    with ExitStack() as stack:
        with one_stream:
            stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
            torch.manual_seed(seed)
        try:
            yield
        finally:
            with one_stream:
                stack.close()


@contextmanager
def drawn_from(state: Tensor) -> Iterator[None]:
    """Run a block that draws from torch on the CPU on from `state`, which is then that after the block.

    Parameters
    ----------
    state
        Random state of torch on the CPU; changed in place.
    """
    with one_stream, torch.random.fork_rng(devices=[]):
        torch.set_rng_state(state)
        yield
        state.copy_(torch.get_rng_state())


def random_states(device: torch.device) -> list[Tensor]:
    """Random states of torch on the CPU and, where it is a GPU, on `device`."""
    with one_stream:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Take up what :func:`random_states` gave, inside :func:`seeded`."""
    on_cpu, *on_gpu = states
    with one_stream:
        torch.set_rng_state(on_cpu)
        if device.type == "cuda":
            for state in on_gpu:
                torch.cuda.set_rng_state(state, device)


@contextmanager
def interrupts_held() -> Iterator[list[int]]:
    """Run a short block to its end although the user stops it (Ctrl-C): what it yields is then not empty.

    A second Ctrl-C is not waited with.
    """
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield seen
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if seen:
            before(number, frame)
        seen.append(number)

    signal.signal(signal.SIGINT, handle)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def memory_explained(
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


def memory_of_all_explained(
    what: str,
    n_cells: int,
    n_features: int,
    device: torch.device,
    advice: str = _FEWER_FEATURES,
) -> AbstractContextManager[None]:
    """:func:`memory_explained` in training, for what is held of all cells at once.

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
    amount = amount_of(n_cells, n_features)
    return memory_explained(f"{what}, {amount},", device, f"a smaller batch would not help: {advice}")


def amount_of(n_cells: int, n_features: int) -> str:
    """Cells, features, and the memory that one copy of them takes."""
    return f"{n_cells} cells x {n_features} features ({4 * n_cells * n_features / 2**30:.2f} GiB a copy)"


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in _SIGNS)
