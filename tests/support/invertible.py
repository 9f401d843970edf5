"""What holds of the features that any invertible objective gives back."""

from __future__ import annotations

import torch

from indiseek.data import CellTensors
from indiseek.objectives import ClosedFormFlowObjective, ConditionalFlowObjective

Invertible = ConditionalFlowObjective | ClosedFormFlowObjective


@torch.no_grad()
def check_features_given_back(every: Invertible, few: Invertible, cells: CellTensors) -> None:
    """All dimensions give the features; fewer, what the inverse makes of them with the others at 0, cell by cell.

    Parameters
    ----------
    every, few
        The same fitted map, which gives out all dimensions and some of them.
    cells
        Cells.
    """
    reordered = False
    for i, (name, x) in enumerate(zip(few.names, cells.features, strict=True)):
        torch.testing.assert_close(every.reconstruct(i, cells), x, rtol=0, atol=1e-3)
        order, code, back = few.get_buffer(f"order_{i}").tolist(), few.full_code(i, cells), few.reconstruct(i, cells)
        kept = order[: few.n_specific[name]]
        reordered |= set(kept) != set(range(len(kept)))
        for cell in range(0, cells.n_cells, 10):
            left = torch.zeros(1, len(order))
            for axis in kept:
                left[0, axis] = code[cell, axis]
            expected = few.inverse(i, left, cells.take(torch.tensor([cell])))
            torch.testing.assert_close(back[cell], expected[0], rtol=0, atol=1e-3)
        r2 = 1 - (x - back).square().sum() / (x - x.mean(dim=0)).square().sum()
        assert 0 < r2 < 0.98
    # Else dimensions that are kept in the order of their axes would do as well.
    assert reordered
