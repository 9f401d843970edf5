"""Stage 2 against loops written from the paper's problem."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from indiseek.data import CellTensors
from indiseek.models import PAPER
from indiseek.nn import Encoder
from indiseek.objectives import NCEClubObjective

N = 8
FEATURES = {"a": 6, "b": 4, "c": 3}
SPECIFIC = {"a": 3, "b": 2, "c": 1}
N_SHARED = 5


def _setting(independence: str, independent_of: str, lam: float, n_modalities: int, **options):
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
        **{"encoder": Encoder(hidden=(8,)), "critic_hidden": (7,)} | options,
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


def _paper():
    """Objective of the paper's settings, a batch of cells, and the terms as a differentiable loop over pairs."""
    club = PAPER.model["specific"]
    options = {name: getattr(club, name) for name in ("critic", "critic_hidden", "batch_norm")}
    objective, batch = _setting(
        club.independence, club.independent_of, club.lam, 2, encoder=PAPER.model["encoder"], **options
    )
    clubs, infos, errors = [], [], []
    for i in range(2):
        z = [objective.encoders[i](x[None])[0] for x in batch.features[i]]
        c = list(batch.condition[1 - i])
        network = torch.nn.Sequential(*objective.critics[i].net)
        f = [[network(torch.cat([z[u], c[v]])).squeeze() for v in range(N)] for u in range(N)]
        joint = sum(f[u][u] for u in range(N)) / N
        product = sum(f[u][v] for u in range(N) for v in range(N) if u != v) / (N * (N - 1))
        logs = sum(torch.stack(row).exp().mean().log() for row in f) / N
        decoded = [objective.decoders[i](torch.cat([z[u], batch.condition[i][u]])[None])[0] for u in range(N)]
        error = sum(((x - y) ** 2).sum() for x, y in zip(decoded, batch.features[i], strict=True)) / N
        clubs.append(joint - product)
        infos.append(joint - logs)
        errors.append(club.lam / (2 * (batch.features[i] ** 2).sum() / N) * error)
    return objective, batch, sum(clubs) + sum(errors), -sum(infos)


def test_losses_and_gradients_of_the_papers_settings_equal_their_loops():
    objective, batch, loss, critic_loss = _paper()
    # In training, as it is without batch normalisation, and with all terms from the first step.
    assert objective.training and objective.ramp == 1.0
    ours = objective.loss(batch).loss, objective.critic_loss(batch)
    encoders, critics = list(objective.encoder_parameters()), list(objective.critic_parameters())
    for found, wanted, parameters in ((ours[0], loss, encoders), (ours[1], critic_loss, critics)):
        torch.testing.assert_close(found, wanted)
        for a, b in zip(
            torch.autograd.grad(found, parameters),
            torch.autograd.grad(wanted, parameters, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
            assert a.ndim < 2 or a.abs().sum() > 0
