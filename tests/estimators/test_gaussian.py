from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from indiseek.estimators import gaussian_mutual_information, gaussian_nce_club


@pytest.mark.parametrize(("rho", "information", "club"), [(0.9, 0.83, 4.26), (0.99, 1.96, 49.3), (0.0, 0.0, 0.0)])
def test_values_known_from_the_literature(rho, information, club):
    assert gaussian_mutual_information(rho) == pytest.approx(information, abs=0.005)
    assert gaussian_nce_club(rho) == pytest.approx(club, abs=0.05)


@pytest.mark.parametrize("rho", [-0.7, 0.2, 0.9])
@pytest.mark.parametrize("n_dims", [1, 3])
def test_equal_the_divergences_between_joint_and_product(rho, n_dims):
    eye = torch.eye(n_dims, dtype=torch.double)
    joint = torch.cat([torch.cat([eye, rho * eye], 1), torch.cat([rho * eye, eye], 1)])
    zero = torch.zeros(2 * n_dims, dtype=torch.double)
    p = MultivariateNormal(zero, joint)
    q = MultivariateNormal(zero, torch.eye(2 * n_dims, dtype=torch.double))
    forward, backward = kl_divergence(p, q).item(), kl_divergence(q, p).item()
    assert gaussian_mutual_information(rho, n_dims) == pytest.approx(forward)
    assert gaussian_nce_club(rho, n_dims) == pytest.approx(forward + backward)


@pytest.mark.parametrize("function", [gaussian_mutual_information, gaussian_nce_club])
def test_errors_say_what_was_expected(function):
    for rho in (1.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"expected a correlation rho with \|rho\| < 1, got"):
            function(rho)
    with pytest.raises(ValueError, match="expected n_dims of at least 1, got 0"):
        function(0.5, 0)
