"""Two processes against one on the joined batch: losses, gradients, statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from two_processes import N_CELLS, OBJECTIVES, losses_and_gradients, work

from indiseek.objectives import across_processes, gather, gather_objects, gathered_sum, own_share, rank, world_size

# Their loss is a mean over cells, whatever the batch.
PER_CELL = {"flow"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    directory: Path = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(work, (2, str(directory)), nprocs=2)
    return [torch.load(directory / f"{number}.pt") for number in range(2)]


def _mean(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    assert parts[0].keys() == parts[1].keys()
    return {key: torch.stack([part[key].double() for part in parts]).mean(dim=0) for key in parts[0]}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_have_the_loss_and_the_gradients_of_one_on_the_joined_batch(found, name):
    whole = losses_and_gradients(name, torch.arange(N_CELLS), across=False)
    parts = [by_rank[f"{name}, True"] for by_rank in found]
    together = _mean(parts)
    assert together.keys() == whole.keys()
    assert sum(key.startswith("loss ") for key in whole) > 3
    assert ("critic_loss" in whole) is (name.startswith(("nce-club", "vclub")))
    for key, value in whole.items():
        torch.testing.assert_close(
            together[key], value.double(), rtol=1e-9, atol=1e-11, msg=lambda text, k=key: f"{k}: {text}"
        )
    if name not in PER_CELL | {"disentangled shared"}:
        torch.testing.assert_close(parts[0]["loss"], parts[1]["loss"], rtol=1e-12, atol=0)
    for key in (key for key in whole if key.startswith("buffer")):
        assert torch.equal(parts[0][key], parts[1][key]), key


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in PER_CELL])
def test_without_gathering_the_loss_is_another(found, name):
    whole = losses_and_gradients(name, torch.arange(N_CELLS), across=False)
    apart = _mean([by_rank[f"{name}, False"] for by_rank in found])
    assert abs(apart["loss"] - whole["loss"]) > 1e-3


def test_rows_sums_and_gradients_cross_processes(found):
    rows = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)[:, None].expand(4, 3)
    for number, by_rank in enumerate(found):
        assert by_rank["outside"] == [True, True, True]
        assert torch.equal(by_rank["gather"], rows)
        assert torch.equal(by_rank["sum"], torch.ones(2, 3, dtype=torch.float64))
        assert torch.equal(by_rank["share"], torch.full((2, 3), float(number), dtype=torch.float64))
        # Rows 2 * number and 2 * number + 1, weighed with 1 in the first process and 10 in the second.
        weights = 11.0 * (1 + 2 * number + torch.arange(2, dtype=torch.float64))
        assert torch.equal(by_rank["gradient"], weights[:, None].expand(2, 3))
        assert by_rank["objects"] == [{"rank": 0}, {"rank": 1}]


def test_one_process_is_left_alone():
    x = torch.randn(3, 2)
    with across_processes():
        assert gather(x) is x
        assert gathered_sum(x) is x
        assert own_share(x) is x
    assert gather_objects("value") == ["value"]
    assert (rank(), world_size()) == (0, 1)
