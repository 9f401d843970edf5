"""The closed form as the start of a flow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from invertible import check_features_given_back

from indiseek.data import CellTensors
from indiseek.objectives import ClosedFormFlowObjective

N_CELLS = 300


@pytest.fixture
def cells() -> CellTensors:
    generator = torch.Generator().manual_seed(0)
    code = torch.randn(N_CELLS, 3, generator=generator)
    batch = torch.randint(2, (N_CELLS,), generator=generator)
    features = tuple(
        5
        + code @ torch.randn(3, n, generator=generator)
        + torch.randn(N_CELLS, n, generator=generator)
        + (batch == 0)[:, None]
        for n in (6, 4)
    )
    shared = tuple(torch.cat([x, code], dim=1) for x in features)
    return CellTensors(features, shared, covariates=(batch,))


def _objective(n_rna: int = 4, n_prot: int = 2) -> ClosedFormFlowObjective:
    torch.manual_seed(1)
    features, condition = {"rna": 6, "prot": 4}, {"rna": 9, "prot": 7}
    return ClosedFormFlowObjective(
        features, features, condition, 3, {"rna": n_rna, "prot": n_prot}, n_categories=[2], n_hidden=16
    ).eval()


@pytest.fixture
def started(cells) -> ClosedFormFlowObjective:
    objective = _objective()
    objective.start(cells)
    return objective


@torch.no_grad()
def test_an_untrained_objective_is_the_closed_form(started, cells):
    for i in range(2):
        closed = started.closed_code(i, cells)
        code = started.full_code(i, cells)
        torch.testing.assert_close(code, closed, rtol=0, atol=1e-2)


def _told_by_three(n: int, share: float) -> CellTensors:
    """Of a share of the cells the sign of a product of three dimensions is what the other modality knows."""
    generator = torch.Generator().manual_seed(2)
    own = torch.randn(n, 3, generator=generator)
    known = torch.sign(torch.randn(n, generator=generator))
    told = torch.rand(n, generator=generator) < share
    turned = told & (own.prod(dim=1).sign() != known)
    own[turned, 0] *= -1
    noise = torch.randn(2, n, generator=generator)
    other = torch.stack([known + 0.1 * noise[0], noise[1]], dim=1)
    features = (own, other)
    code = F.normalize(torch.stack([known, torch.ones(n)], dim=1), dim=1)
    return CellTensors(features, (torch.cat([own, code], dim=1), torch.cat([other, code], dim=1)))


@pytest.mark.parametrize(("share", "needed"), [(0.0, False), (0.15, False), (0.6, True), (1.0, True)])
def test_steps_are_needed_where_dimensions_together_tell_what_mean_and_covariance_do_not(share, needed):
    cells = _told_by_three(2000, share)
    features, condition = {"rna": 3, "prot": 2}, {"rna": 5, "prot": 4}
    objective = ClosedFormFlowObjective(features, features, condition, 2, features, n_hidden=16).eval()
    train, held_out = cells.take(torch.arange(1500)), cells.take(torch.arange(1500, 2000))
    objective.start(train)
    state = torch.random.get_rng_state()
    assert objective.needs_steps(train, held_out) is needed
    assert torch.equal(torch.random.get_rng_state(), state)


@torch.no_grad()
def test_inverse_with_a_covariate(started, cells):
    for i, x in enumerate(cells.features):
        code = started.full_code(i, cells)
        torch.testing.assert_close(started.inverse(i, code, cells), x, rtol=0, atol=1e-4)


def test_all_dimensions_give_back_the_features_and_fewer_a_part(started, cells):
    started.finish(cells)
    for i in range(2):
        order = started.get_buffer(f"order_{i}")
        order.copy_(order.flip(0))
    every = _objective(6, 4)
    every.load_state_dict(started.state_dict())
    check_features_given_back(every, started, cells)


@torch.no_grad()
def test_dimensions_are_ordered_by_the_variance_of_the_residual_that_they_carry(started, cells):
    for i in range(2):
        order = started.get_buffer(f"order_{i}")
        order.copy_(order.flip(0))
    started.finish(cells)
    for i in range(2):
        z, residual = (part - part.mean(dim=0) for part in started._code_and_residual(i, cells))
        carried = [
            float(((z[:, [d]] * residual).mean(dim=0) ** 2).sum() / z[:, d].square().mean()) for d in range(z.shape[1])
        ]
        in_order = [carried[d] for d in started.get_buffer(f"order_{i}").tolist()]
        assert in_order == sorted(carried, reverse=True)


@torch.no_grad()
def test_prepared_cells_have_the_same_loss(started, cells, monkeypatch):
    monkeypatch.setattr(ClosedFormFlowObjective, "_piece_cells", 64)
    rows = torch.tensor([3, 1, 50, 299])
    prepared = started.prepared(cells)
    torch.testing.assert_close(started.loss(prepared.take(rows)).loss, started.loss(cells.take(rows)).loss)
    assert started.validate(prepared).keys() == {"nll", "nll_rna", "nll_prot"}


def test_training_moves_the_flow_and_leaves_the_closed_form(started, cells):
    prepared = started.prepared(cells)
    before = {key: value.clone() for key, value in started.state_dict().items()}
    optimizer = torch.optim.AdamW(started.encoder_parameters(), lr=5e-3)
    start = started.loss(prepared).loss.item()
    for _ in range(20):
        optimizer.zero_grad()
        loss = started.loss(prepared).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < start - 0.01
    for key, value in started.state_dict().items():
        if key.startswith(("gaussians", "quantiles")):
            torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    with torch.no_grad():
        started.eval().finish(cells)
        for i in range(2):
            closed, code = started.closed_code(i, cells), started.full_code(i, cells)
            assert (code - closed).abs().max() > 0.01
            torch.testing.assert_close(torch.cov(code.T), torch.cov(closed.T), rtol=0, atol=1e-3)


@torch.no_grad()
def test_state_of_another_size_is_taken_up_and_the_covariate_matters(started, cells):
    started.finish(cells)
    other = _objective()
    other.load_state_dict(started.state_dict())
    swapped = cells._replace(covariates=(1 - cells.covariates[0],))
    for i in range(2):
        code = started.encode(i, cells)
        torch.testing.assert_close(other.encode(i, cells), code, rtol=0, atol=0)
        assert (other.encode(i, swapped) - code).abs().max() > 0.1


@torch.no_grad()
def test_codes_are_independent_of_a_covariate_of_numbers(cells):
    """One that moves RNA alone, so that protein does not know it: told from the code unless it is a covariate."""
    age = 50.0 + 10.0 * torch.randn(N_CELLS, generator=torch.Generator().manual_seed(2))
    moved = (cells.features[0] + 0.2 * (age - 50.0)[:, None] * torch.tensor([1.0, -1, 0, 0, 1, 0]), cells.features[1])
    condition = (torch.cat([moved[0], cells.condition[0][:, -3:]], dim=1), cells.condition[1])
    cells = CellTensors(moved, condition, covariates=(cells.covariates[0], age))
    told = {}
    for n_categories in ([2], [2, 0]):
        seen = cells._replace(covariates=cells.covariates[: len(n_categories)])
        torch.manual_seed(1)
        widths = {"rna": 6, "prot": 4}
        objective = ClosedFormFlowObjective(
            widths, widths, {"rna": 9, "prot": 7}, 3, widths, n_categories=n_categories, n_hidden=16
        ).eval()
        objective.start(seen)
        code = objective.full_code(0, seen)
        told[len(n_categories)] = torch.corrcoef(torch.cat([code, age[:, None]], dim=1).T)[-1, :-1].abs().max()
        torch.testing.assert_close(objective.inverse(0, code, seen), moved[0], rtol=0, atol=1e-3)
    assert told[1] > 0.5 and told[2] < 0.2
    again = ClosedFormFlowObjective(
        widths, widths, {"rna": 9, "prot": 7}, 3, widths, n_categories=[2, 0], n_hidden=16
    ).eval()
    again.load_state_dict(objective.state_dict())
    torch.testing.assert_close(again.full_code(0, seen), code, rtol=0, atol=0)
