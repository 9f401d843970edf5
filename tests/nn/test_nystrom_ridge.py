"""Nystrom ridge: with a landmark on every cell it is kernel ridge regression."""

from __future__ import annotations

import copy

import pytest
import torch

from indiseek.nn import NystromRidge, _nystrom_ridge

N_CELLS = 90


def _fitted(n_landmarks: int) -> tuple[NystromRidge, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(N_CELLS, 4, generator=generator, dtype=torch.double)
    covariate = torch.nn.functional.one_hot(torch.arange(N_CELLS) % 2, 2).double()
    x = torch.stack([torch.sin(2 * c[:, 0]), c[:, 1] * c[:, 2], c[:, 3] + covariate[:, 0]], dim=1)
    x = x + 0.5 * torch.randn(N_CELLS, 3, generator=generator, dtype=torch.double)
    ridge = NystromRidge(4, 2, 3).double()
    ridge.fit(x, c, covariate, torch.arange(N_CELLS) % 5, n_landmarks=n_landmarks, seed=0)
    return ridge, x, c, covariate


def test_with_all_landmarks_it_is_kernel_ridge_regression():
    ridge, x, c, covariate = _fitted(N_CELLS)
    new = torch.randn(40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    of_new = torch.nn.functional.one_hot(torch.arange(40) % 2, 2).double()

    def kernel(a, b, u, v):
        differ = 1.0 - u @ v.T
        apart = _nystrom_ridge._APART * torch.cdist(c, c).square().median() * differ
        gaussian = torch.exp(-ridge.rate * (torch.cdist(a, b) ** 2 + apart))
        return (
            _nystrom_ridge._KERNEL**2 * gaussian
            + _nystrom_ridge._LINEAR**2 * a @ b.T
            + _nystrom_ridge._COVARIATE**2 * u @ v.T
        )

    gram, between = kernel(c, c, covariate, covariate), kernel(new, c, of_new, covariate)
    distances = []
    for penalty in _nystrom_ridge._PENALTIES:
        dual = torch.linalg.solve(gram + penalty * torch.eye(N_CELLS).double(), x - x.mean(dim=0))
        distances.append(float((between @ dual + x.mean(dim=0) - ridge(new, of_new)).abs().max()))
    # Of one penalty, the one that was chosen, and of no other.
    nearest, next_nearest = sorted(distances)[:2]
    assert nearest < 2e-3 and nearest < 0.1 * next_nearest


@pytest.mark.parametrize("n_landmarks", [30, N_CELLS])
def test_joined_products_are_those_of_the_features_one_by_one(n_landmarks):
    ridge, _, c, covariate = _fitted(n_landmarks)
    features = ridge._features(c, covariate, ridge.landmarks, ridge.rate)
    phi = torch.cat([features[:, :n_landmarks] @ ridge.root, features[:, n_landmarks:]], dim=1)
    slow = phi @ ridge.weight + ridge.offset
    torch.testing.assert_close(ridge.joined(torch.double)(c, covariate), slow, rtol=0, atol=1e-8)
    torch.testing.assert_close(ridge(c, covariate), slow, rtol=0, atol=1e-8)


def test_rounding_of_single_precision_is_not_magnified():
    # Landmarks all but on top of each other, as many cells of one type are: the inverse root is then largest.
    generator = torch.Generator().manual_seed(3)
    c = torch.randn(4, 6, generator=generator).repeat(300, 1) + 0.02 * torch.randn(1200, 6, generator=generator)
    x = torch.sin(3 * c[:, :2]) + 0.1 * torch.randn(1200, 2, generator=generator)
    none = c.new_zeros(1200, 0)
    ridge = NystromRidge(6, 0, 2)
    ridge.fit(x, c, none, torch.arange(1200) % 5, n_landmarks=400, seed=0)
    assert ridge.root.abs().max() > 100
    exact = copy.deepcopy(ridge).double()(c.double(), none.double())
    assert (ridge(c, none).double() - exact).abs().max() < 1e-6
    assert (ridge.joined(torch.float32)(c, none).double() - exact).abs().max() > 1e-5


def test_what_a_category_does_to_the_mean_may_depend_on_the_condition():
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(1200, 2, generator=generator, dtype=torch.double)
    covariate = torch.nn.functional.one_hot(torch.arange(1200) % 2, 2).double()
    sign = covariate[:, 0] - covariate[:, 1]
    x = (sign * c[:, 0])[:, None] + 0.1 * torch.randn(1200, 1, generator=generator, dtype=torch.double)
    ridge = NystromRidge(2, 2, 1).double()
    train, test = slice(0, 1000), slice(1000, None)
    ridge.fit(x[train], c[train], covariate[train], torch.arange(1000) % 5, n_landmarks=300, seed=0)
    error = (x[test] - ridge(c[test], covariate[test])).square().mean() / x[test].var()
    # An offset for each category explains nothing of it.
    assert error < 0.1
    # A cell of no known category lies between the two.
    unknown = ridge(c[test], torch.zeros(200, 2).double())
    assert unknown.abs().mean() < 0.5 * x[test].abs().mean()


def test_mean_on_axes_is_that_of_all_outputs_there():
    ridge, _, c, covariate = _fitted(40)
    assert ridge.offset.abs().max() > 0.1
    axes = torch.linalg.qr(torch.randn(3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.double))[0]
    torch.testing.assert_close(ridge(c, covariate, axes), ridge(c, covariate) @ axes)
