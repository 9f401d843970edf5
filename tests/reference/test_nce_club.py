"""Stage 2 against loops written from the paper's problem."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import NCEClubObjective

N = 8
FEATURES = {"a": 6, "b": 4, "c": 3}
SPECIFIC = {"a": 3, "b": 2, "c": 1}
N_SHARED = 5


def _setting(independence: str, independent_of: str, lam: float, n_modalities: int):
    torch.manual_seed(0)
    names = list(FEATURES)[:n_modalities]
    features = {name: FEATURES[name] for name in names}
    specific = {name: SPECIFIC[name] for name in names}
    objective = NCEClubObjective(
        features,
        N_SHARED,
        specific,
        lam=lam,
        independence=independence,
        independent_of=independent_of,
        encoder=Encoder(hidden=(8,)),
        critic_hidden=(7,),
    ).double()
    batch = CellTensors(
        tuple(2 + torch.randn(N, n).double() for n in features.values()),
        tuple(torch.nn.functional.normalize(torch.randn(N, N_SHARED).double(), dim=-1) for _ in names),
    )
    return objective, batch


def _score(critic, z: torch.Tensor, c: torch.Tensor) -> float:
    return critic(z[None], c[None]).item()


def _against(batch: CellTensors, i: int, cell: int, independent_of: str) -> torch.Tensor:
    if independent_of == "own":
        return batch.condition[i][cell]
    return torch.cat([batch.condition[j][cell] for j in range(len(batch.condition)) if j != i])


@torch.no_grad()
def _terms(objective, batch, independent_of):
    """Independence, InfoNCE, log-likelihood and reconstruction of each modality, pair by pair."""
    rows = []
    for i, z in enumerate(objective.latents(batch)):
        f = np.empty((N, N))
        for u in range(N):
            for v in range(N):
                f[u, v] = _score(objective.critics[i], z[u], _against(batch, i, v, independent_of))
        joint = np.mean([f[u, u] for u in range(N)])
        product = np.mean([f[u, v] for u in range(N) for v in range(N) if u != v])
        info = np.mean([f[u, u] - math.log(np.mean([math.exp(f[u, v]) for v in range(N)])) for u in range(N)])
        error = norm = 0.0
        for u in range(N):
            decoded = objective.decoders[i](torch.cat([z[u], batch.condition[i][u]])[None])[0]
            error += float(((decoded - batch.features[i][u]) ** 2).sum())
            norm += float((batch.features[i][u] ** 2).sum())
        rows.append((joint - product, info, joint, error / norm))
    return rows


@pytest.mark.parametrize("n_modalities", [2, 3])
@pytest.mark.parametrize("independent_of", ["other", "own"])
@pytest.mark.parametrize("independence", ["nce-club", "vclub"])
def test_losses_equal_their_loops(independence, independent_of, n_modalities):
    lam, ramp = 3.0, 0.4
    objective, batch = _setting(independence, independent_of, lam, n_modalities)
    # In eval mode a code does not depend on its batch, so that the loop may go cell by cell.
    objective.eval()
    rows = _terms(objective, batch, independent_of)
    objective.ramp = ramp
    output = objective.loss(batch)
    expected = sum(ramp * club + lam / 2 * reconstruction for club, _, _, reconstruction in rows)
    assert output.loss.item() == pytest.approx(expected)
    for name, (club, _, _, reconstruction) in zip(FEATURES, rows, strict=False):
        assert output.terms[f"independence_{name}"].item() == pytest.approx(club)
        assert output.terms[f"reconstruction_{name}"].item() == pytest.approx(reconstruction)
    column = 1 if independence == "nce-club" else 2
    assert objective.critic_loss(batch).item() == pytest.approx(-sum(row[column] for row in rows))
