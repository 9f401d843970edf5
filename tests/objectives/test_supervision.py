from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import NCEClubObjective

FEATURES = {"rna": 9, "prot": 4, "atac": 6}
SPECIFIC = {"rna": 3, "prot": 2, "atac": 5}
N_SHARED, N_LABELS, N_CELLS = 4, 5, 40


def _objective(k: int = 2, **options) -> NCEClubObjective:
    torch.manual_seed(0)
    names = list(FEATURES)[:k]
    return NCEClubObjective(
        {name: FEATURES[name] for name in names},
        N_SHARED,
        {name: SPECIFIC[name] for name in names},
        encoder=Encoder(hidden=(16,)),
        critic_hidden=(8,),
        **{"n_labels": N_LABELS, "supervision": 0.7} | options,
    )


def _batch(k: int = 2) -> CellTensors:
    generator = torch.Generator().manual_seed(1)
    features = tuple(torch.randn(N_CELLS, n, generator=generator) for n in list(FEATURES.values())[:k])
    shared = tuple(F.normalize(torch.randn(N_CELLS, N_SHARED, generator=generator), dim=-1) for _ in range(k))
    labels = torch.randint(-1, N_LABELS, (N_CELLS,), generator=generator)
    assert 0 < (labels < 0).sum() < N_CELLS
    return CellTensors(features, shared, labels=(labels,))


def _double(batch: CellTensors) -> CellTensors:
    return batch._replace(
        features=tuple(x.double() for x in batch.features), condition=tuple(c.double() for c in batch.condition)
    )


def _slow(objective: NCEClubObjective, batch: CellTensors) -> tuple[float, float]:
    """Cross-entropy and accuracy, cell by cell, from the equation: all shared codes, then all specific ones."""
    codes = [code.tolist() for code in objective.latents(batch)]
    losses, right = [], []
    for n, label in enumerate(batch.labels[0].tolist()):
        if label < 0:
            continue
        x = [v for c in batch.condition for v in c[n].tolist()] + [v for code in codes for v in code[n]]
        scores = objective.head(torch.tensor([x], dtype=torch.float64))[0].tolist()
        losses.append(math.log(sum(math.exp(s) for s in scores)) - scores[label])
        right.append(scores.index(max(scores)) == label)
    return sum(losses) / len(losses), sum(right) / len(right)


@pytest.mark.parametrize("k", [2, 3])
def test_the_term_is_the_mean_cross_entropy_of_cells_with_a_label(k):
    objective, batch = _objective(k).double().eval(), _double(_batch(k))
    output = objective.loss(batch)
    unsupervised = objective.loss(batch._replace(labels=()))
    cross_entropy, accuracy = _slow(objective, batch)
    for found in (output.terms, objective.validate(batch)):
        assert found["cross_entropy"].item() == pytest.approx(cross_entropy, rel=1e-12)
        assert found["accuracy"].item() == pytest.approx(accuracy, rel=1e-12)
    assert (output.loss - unsupervised.loss).item() == pytest.approx(0.7 * cross_entropy, rel=1e-9)
    assert "cross_entropy" not in unsupervised.terms


def test_gradients_are_those_of_finite_differences():
    objective, batch = _objective(lam=0.0, independence_weight=0.0).double().eval(), _double(_batch())

    def of(weight: torch.Tensor, bias: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        changed = {"head.0.weight": weight, "head.0.bias": bias, "encoders.0.0.weight": first}
        return torch.func.functional_call(_Loss(objective), {f"of.{key}": x for key, x in changed.items()}, (batch,))

    inputs = (objective.head[0].weight, objective.head[0].bias, objective.encoders[0][0].weight)
    assert torch.autograd.gradcheck(of, tuple(x.detach().clone().requires_grad_() for x in inputs))


class _Loss(torch.nn.Module):
    def __init__(self, of: NCEClubObjective) -> None:
        super().__init__()
        self.of = of

    def forward(self, batch: CellTensors) -> torch.Tensor:
        return self.of.loss(batch).loss


def test_cells_without_a_label_do_not_contribute():
    objective, batch = _objective(lam=0.0, independence_weight=0.0).eval(), _batch()
    (labels,) = batch.labels
    known = labels >= 0
    features = tuple(x.clone().requires_grad_() for x in batch.features)
    objective.loss(batch._replace(features=features)).loss.backward()
    for x in features:
        assert (x.grad[~known] == 0).all() and (x.grad[known] != 0).any(dim=1).all()
    some = batch.take(known.nonzero().ravel())
    torch.testing.assert_close(objective.loss(some).loss, objective.loss(batch).loss)


def test_means_over_batches_are_those_over_all_cells():
    objective, batch = _objective().eval(), _batch()
    whole, cells = objective.validate(batch), objective.prepared(batch)
    # The first without any label.
    order = batch.labels[0].argsort()
    parts = order.split([3, 10, 27])
    assert (batch.labels[0][parts[0]] < 0).all()
    for term in ("cross_entropy", "accuracy"):
        mean = sum(len(rows) * objective.validate(cells.take(rows))[term] for rows in parts) / N_CELLS
        torch.testing.assert_close(mean, whole[term])
        in_steps = sum(len(rows) * objective.loss(cells.take(rows)).terms[term] for rows in parts) / N_CELLS
        torch.testing.assert_close(in_steps, whole[term])


def test_without_labels_there_is_no_term_and_without_a_head_nothing_changes():
    objective, batch = _objective().eval(), _batch()
    none = objective.prepared(batch._replace(labels=(torch.full((N_CELLS,), -1),)))
    assert none.labels == () and "cross_entropy" not in objective.validate(none)
    plain = _objective(n_labels=0)
    assert plain.head is None and plain.label_scores(batch) is None
    assert plain.prepared(batch).labels == ()
    assert not any(key.startswith("head") for key in plain.state_dict())
    # The head is drawn last: the same seed gives the same other weights.
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(objective.state_dict()[key], value, rtol=0, atol=0)


def test_the_head_sees_all_shared_and_specific_codes_and_the_critics_nothing_of_it():
    objective, batch = _objective(3).eval(), _batch(3)
    before = objective.label_scores(batch)
    for i in range(3):
        for part in ("features", "condition"):
            changed = list(getattr(batch, part))
            changed[i] = changed[i].roll(1, 0)
            assert not torch.allclose(objective.label_scores(batch._replace(**{part: tuple(changed)})), before)
    objective.critic_loss(batch).backward()
    assert all(p.grad is None for p in objective.head.parameters())
    assert (objective.head[0].in_features, objective.head[-1].out_features) == (3 * N_SHARED + 3 + 2 + 5, N_LABELS)


@pytest.mark.parametrize("ramp", [0.0, 1.0])
def test_the_head_is_trained_from_the_first_step(ramp):
    objective, batch = _objective(lam=0.0), _batch()
    objective.ramp = ramp
    objective.loss(batch).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in objective.head.parameters())
