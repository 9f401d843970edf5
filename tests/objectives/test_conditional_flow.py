"""What the flow's objective finds on all training cells at once, it finds in pieces."""

from __future__ import annotations

import pytest
import torch

from indiseek.data import CellTensors
from indiseek.nn import _flow
from indiseek.objectives import ConditionalFlowObjective

N_CELLS = 130


@pytest.fixture
def cells() -> CellTensors:
    generator = torch.Generator().manual_seed(0)
    shared = tuple(torch.randn(N_CELLS, 3, generator=generator) for _ in range(2))
    features = tuple(
        5 + code @ torch.randn(3, n, generator=generator) + torch.randn(N_CELLS, n, generator=generator)
        for code, n in zip(shared, (6, 4), strict=True)
    )
    return CellTensors(features, shared)


def _objective() -> ConditionalFlowObjective:
    torch.manual_seed(1)
    objective = ConditionalFlowObjective({"rna": 6, "prot": 4}, {"rna": 6, "prot": 4}, 3, {"rna": 2, "prot": 2})
    # A new flow is close to the identity, in which the axes already are in order.
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return objective.eval()


@torch.no_grad()
def test_pieces_give_the_axes_and_the_order_of_all_cells(cells, monkeypatch):
    whole, pieces = _objective(), _objective()
    whole.start(cells)
    whole.finish(cells)
    monkeypatch.setattr(_flow, "_PIECE_CELLS", 32)
    monkeypatch.setattr(ConditionalFlowObjective, "_piece_cells", 32)
    pieces.start(cells)
    pieces.finish(cells)
    assert whole.state_dict().keys() == pieces.state_dict().keys()
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(pieces.state_dict()[key], value, rtol=0, atol=1e-5)
    for i in range(2):
        flow = pieces.flows[i]
        z, _, residual = flow.transform(cells.features[i], cells.condition[1 - i])
        z, residual = z - z.mean(dim=0), residual - residual.mean(dim=0)
        carried = [sum(float(a @ b) ** 2 for b in residual.T) / float(a @ a) for a in z.T]
        order = getattr(pieces, f"order_{i}").tolist()
        assert order == sorted(range(len(carried)), key=lambda axis: -carried[axis])
        assert order != sorted(order)
