"""Mean and covariance given a condition: against loops from the equations, known answers, and back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from indiseek.nn import (
    ConditionalGaussian,
    NormalMixture,
    NystromRidge,
    _conditional_gaussian,
    _nystrom_ridge,
    whitenable_axes,
)

N_CELLS = 600


def _cells(n: int = N_CELLS, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (5) whose mean and covariance depend on a condition (3), and two batches that shift and scale them."""
    generator = torch.Generator().manual_seed(seed)
    c = torch.randn(n, 3, generator=generator)
    batch = torch.nn.functional.one_hot(torch.randint(2, (n,), generator=generator), 2).float()
    mixing = torch.randn(3, 5, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(n, 5, generator=generator) * (1.0 + 0.8 * torch.tanh(c[:, :1])) * (1.0 + batch[:, :1])
    noise[:, 1] = noise[:, 1] + torch.tanh(c[:, 0]) * noise[:, 0]
    return c @ mixing + noise + 3.0 * batch[:, 1:], c, batch


def _fitted(n_covariate: int = 0, n_axes: int = 5) -> tuple[ConditionalGaussian, tuple[torch.Tensor, ...]]:
    x, c, batch = _cells()
    gaussian = ConditionalGaussian(5, n_axes, 3, n_state=2, n_covariate=n_covariate)
    given = (x, c, batch) if n_covariate else (x, c)
    gaussian.fit(*given, n_landmarks=60)
    return gaussian, given


@pytest.mark.parametrize("n_covariate", [0, 2])
def test_inverse_gives_the_features_back(n_covariate):
    gaussian, (x, *given) = _fitted(n_covariate)
    torch.testing.assert_close(gaussian.inverse(gaussian(x, *given), *given), x, rtol=0, atol=1e-5)


def test_fewer_axes_give_back_what_lies_on_them():
    gaussian, (x, c) = _fitted(n_axes=3)
    z = gaussian(x, c)
    assert z.shape == (N_CELLS, 3)
    torch.testing.assert_close(gaussian(gaussian.inverse(z, c), c), z, rtol=0, atol=1e-4)


def test_fewer_axes_are_those_of_what_the_condition_does_not_tell():
    generator = torch.Generator().manual_seed(0)
    c, private = torch.randn(2000, 2, generator=generator), torch.randn(2000, 2, generator=generator)
    directions = torch.linalg.qr(torch.randn(5, 5, generator=generator))[0]
    noise = 0.1 * torch.randn(2000, 5, generator=generator)
    # What the condition tells has 25 times the variance of what it does not.
    x = 3.0 + 5.0 * c @ directions[:2] + private @ directions[2:4] + noise
    gaussian = ConditionalGaussian(5, 2, 2)
    gaussian.fit(x, c, n_landmarks=100)
    torch.testing.assert_close((gaussian.axes.T @ directions[2:4].T).norm(dim=0), torch.ones(2), rtol=0, atol=0.01)
    back = gaussian.inverse(gaussian(x, c), c)
    assert float((x - back).square().mean()) < 0.03
    assert float((gaussian.inverse(torch.zeros(2000, 2), c) - x).square().mean()) == pytest.approx(0.4, abs=0.04)


def test_code_and_density_are_those_of_a_loop_over_cells_and_states():
    gaussian, (x, c, batch) = _fitted(2)
    batch = batch.clone()
    batch[3] = 0.0
    z, log_prob = gaussian(x, c, batch), gaussian.log_prob(x, c, batch)
    wide = gaussian.double()
    weights = wide.states.weights_of(((c.double() - wide.condition_center) / wide.condition_scale)[:, 1:])
    mean = wide.mean((c.double() - wide.condition_center) / wide.condition_scale, batch.double())
    for i in (0, 3, 8):
        residual = (x[i].double() - wide.center - mean[i]) @ wide.axes
        category = None if i == 3 else int(batch[i].argmax())
        roots = wide.roots if category is None else wide.covariate_roots[category]
        matrix = sum(w * root for w, root in zip(weights[i], roots, strict=True))
        matrix = matrix if category is None else matrix @ wide.levels[category]
        torch.testing.assert_close(z[i].double(), matrix @ residual, rtol=0, atol=1e-4)
        covariance = torch.linalg.inv(matrix.T @ matrix).numpy()
        expected = multivariate_normal(np.zeros(5), (covariance + covariance.T) / 2).logpdf(residual.numpy())
        assert float(log_prob[i]) == pytest.approx(expected, abs=1e-3)


def test_log_determinant_is_that_of_the_jacobian():
    gaussian, (x, c) = _fitted()
    gaussian = gaussian.double()
    x, c = x.double(), c.double()
    for i in (0, 5):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: gaussian(v[None], c[i : i + 1])[0], x[i])
        log_det = gaussian.transform(x[i : i + 1], c[i : i + 1])[1]
        # In the basis of the axes the map is the matrix of the cell.
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[0])


def test_new_cells_of_a_linear_gaussian_become_white_and_independent():
    generator = torch.Generator().manual_seed(1)
    c = torch.randn(6000, 2, generator=generator)
    root = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.3, -0.5, 0.4]])
    x = c @ torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 1.0]]) + torch.randn(6000, 3, generator=generator) @ root.T
    gaussian = ConditionalGaussian(3, 3, 2)
    gaussian.fit(x[:4000], c[:4000], n_landmarks=100)
    z = gaussian(x[4000:], c[4000:])
    torch.testing.assert_close(torch.cov(z.T), torch.eye(3), rtol=0, atol=0.12)
    assert torch.corrcoef(torch.cat([z, c[4000:]], dim=1).T)[:3, 3:].abs().max() < 0.08
    # The likelihood of new cells is that of the truth, up to what 4,000 cells cannot tell.
    truth = multivariate_normal(np.zeros(3), (root @ root.T).numpy())
    best = truth.logpdf((x - c @ torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 1.0]]))[4000:].numpy()).mean()
    assert best - 0.06 < float(gaussian.log_prob(x[4000:], c[4000:]).mean()) < best + 0.02


def test_a_covariance_that_depends_on_the_condition_is_found():
    x, c, batch = _cells(4000)
    new, condition, new_batch = _cells(3000, seed=1)
    blind = ConditionalGaussian(5, 5, 3)
    blind.fit(x, c, n_landmarks=100)
    seeing = ConditionalGaussian(5, 5, 3, n_state=3, n_covariate=2)
    seeing.fit(x, c, batch, n_landmarks=100)
    z, without = seeing(new, condition, new_batch), blind(new, condition)
    # Averaged within states where the scale still varies, a little less than 1.
    assert 0.8 < float(z.square().mean()) < 1.1
    high, first = condition[:, 0] > 0, new_batch[:, 0] > 0

    def ratio(values: torch.Tensor, part: torch.Tensor) -> float:
        return float(values[part].square().mean() / values[~part].square().mean())

    # The scale goes with the condition from .2 to 1.8, and is twice as large in the first batch.
    residual = seeing.code_and_residual(new, condition, new_batch)[1]
    assert ratio(residual, high) > 4.0 and ratio(z, high) < 2.2
    assert ratio(without, first) > 2.0 and 0.9 < ratio(z, first) < 1.15
    assert z[first].mean(dim=0).abs().max() < 0.1


def test_the_same_seed_gives_the_same_and_pieces_do_not_matter(monkeypatch):
    x, c, batch = _cells()
    first, second = (ConditionalGaussian(5, 5, 3, n_covariate=2) for _ in range(2))
    left_out = first.fit(x, c, batch, n_landmarks=50, seed=3)
    state = torch.random.get_rng_state()
    monkeypatch.setattr(_conditional_gaussian, "_PIECE_CELLS", 64)
    monkeypatch.setattr(_nystrom_ridge, "_PIECE_CELLS", 64)
    torch.testing.assert_close(second.fit(x, c, batch, n_landmarks=50, seed=3), left_out, rtol=0, atol=1e-3)
    torch.testing.assert_close(second(x, c, batch), first(x, c, batch), rtol=0, atol=1e-3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_new_module_takes_up_the_state_of_a_fitted_one():
    gaussian, (x, c, batch) = _fitted(2)
    other = ConditionalGaussian(5, 5, 3, n_state=2, n_covariate=2)
    other.load_state_dict(gaussian.state_dict())
    torch.testing.assert_close(other(x, c, batch), gaussian(x, c, batch), rtol=0, atol=0)


@pytest.mark.parametrize("to_choose", [10**6, 150])
def test_residuals_are_those_of_fits_without_the_fold(monkeypatch, to_choose):
    # Where few cells choose the width, all of them are fitted to all the same.
    monkeypatch.setattr(_nystrom_ridge, "_MAX_TO_CHOOSE", to_choose)
    x, c, batch = _cells()
    folds = torch.arange(N_CELLS) % 5
    ridge = NystromRidge(3, 2, 5)
    residual = ridge.fit(x, c, batch, folds, n_landmarks=40, seed=0).double()
    features = ridge._features(*(t.double() for t in (c, batch, ridge.landmarks, ridge.rate)))
    n = len(ridge.landmarks)
    phi = torch.cat([features[:, :n] @ ridge.root.double(), features[:, n:]], dim=1)
    target = (x - ridge.offset).double()
    penalties = _nystrom_ridge._PENALTIES

    def solved(rows: torch.Tensor, penalty: float) -> torch.Tensor:
        gram = phi[rows].T @ phi[rows] + penalty * torch.eye(phi.shape[1], dtype=torch.double)
        return torch.linalg.solve(gram, phi[rows].T @ target[rows])

    everything = torch.arange(N_CELLS)
    distances = [float((solved(everything, p) - ridge.weight.double()).abs().max()) for p in penalties]
    penalty = penalties[int(np.argmin(distances))]
    assert min(distances) < 1e-4
    for k in range(5):
        own = folds == k
        expected = target[own] - phi[own] @ solved(torch.where(~own)[0], penalty)
        torch.testing.assert_close(residual[own], expected, rtol=0, atol=1e-3)


def test_density_of_the_mixture_is_that_of_its_components():
    z = torch.cat([torch.randn(200, 2, generator=torch.Generator().manual_seed(i)) + 7 * i for i in range(2)])
    mixture = NormalMixture(1, 2).double()
    mixture.fit(z.double(), n_components=2, seed=0)
    covariances = torch.linalg.inv(mixture.root @ mixture.root.mT)
    weights = mixture.logit.softmax(dim=0)
    density = sum(
        float(w) * multivariate_normal(m.numpy(), s.numpy()).pdf(z.numpy())
        for w, m, s in zip(weights, mixture.mean, covariances, strict=True)
    )
    np.testing.assert_allclose(mixture.log_prob(z.double()).numpy(), np.log(density), rtol=1e-6)
    posterior = mixture.weights_of(z.double())
    np.testing.assert_allclose(posterior.sum(dim=1).numpy(), 1.0)
    assert posterior[:200].argmax(dim=1).float().mean() in (0.0, 1.0)


def test_cells_bound_the_axes_that_can_be_made_independent():
    assert [whitenable_axes(n) for n in (50, 400, 4500, 20_000)] == [2, 2, 8, 17]
