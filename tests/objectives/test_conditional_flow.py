"""What the flow's objective finds on all training cells at once, it finds in pieces, and what it gives back."""

from __future__ import annotations

import pytest
import torch
from invertible import check_features_given_back

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


def _objective(n_rna: int = 2, n_prot: int = 2, *, scale: float = 0.3) -> ConditionalFlowObjective:
    torch.manual_seed(1)
    n_axes = {"rna": 6, "prot": 4}
    objective = ConditionalFlowObjective(n_axes, n_axes, 3, {"rna": n_rna, "prot": n_prot})
    # A new flow is close to the identity, in which the axes already are in order.
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
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


def test_all_dimensions_give_back_the_features_and_fewer_a_part(cells):
    # Farther from the identity single precision would not lead back.
    every, few = _objective(6, 4, scale=0.05), _objective(4, 2, scale=0.05)
    for objective in (every, few):
        objective.start(cells)
        objective.finish(cells)
    check_features_given_back(every, few, cells)
