"""Mutual information from the scores of a critic on all pairs of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _check_scores(scores: Tensor) -> None:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"expected scores of shape (n_cells, n_cells), got {tuple(scores.shape)}; "
            "score every z of the batch with every c of the same batch."
        )
    if scores.shape[0] < 2:
        raise ValueError(
            f"expected scores of at least 2 cells, got {scores.shape[0]}; a bound needs negatives: use a larger batch."
        )


def info_nce(scores: Tensor) -> Tensor:
    r"""InfoNCE lower bound on the mutual information.

    .. math:: I_{NCE} = \frac1N \sum_i \Big[ f(z_i, c_i) - \log \frac1N \sum_k \exp f(z_i, c_k) \Big]

    The candidates are the :math:`c_k` of one :math:`z_i`, as printed by Gui et al. The program of FactorCL has the
    :math:`z_k` of one :math:`c_i` as candidates: ``info_nce(scores.T)``. Both are lower bounds. The best critic is
    :math:`\log p(z, c) / p(z) p(c)` up to a function of `z` here, and up to one of `c` there; :func:`nce_club` sees
    neither.

    Parameters
    ----------
    scores
        ``(n_cells, n_cells)``; entry ``[i, k]`` is ``f(z_i, c_k)``, the diagonal holds the paired cells.

    Returns
    -------
    Scalar in nats. Never above ``log(n_cells)``, so a small batch cannot show strong dependence.

    Raises
    ------
    ValueError
        If `scores` is not square or has fewer than 2 cells.

    References
    ----------
    van den Oord et al. (2018), arXiv 1807.03748; equation as in Gui et al. (2025), arXiv 2509.21584.
    """
    _check_scores(scores)
    return (scores.diagonal() - torch.logsumexp(scores, dim=1)).mean() + math.log(scores.shape[0])


def nce_club(scores: Tensor) -> Tensor:
    r"""Contrastive upper bound on the mutual information with a critic trained on :func:`info_nce`.

    .. math:: I_{NCE-CLUB} = E_{p(z,c)} f^*(z, c) - E_{p(z)p(c)} f^*(z, c)

    At the optimal critic this is the Jeffreys divergence between the joint distribution and the
    product of its marginals: zero exactly at independence, and far above the mutual information
    when the dependence is strong. With a critic that is not optimal it bounds nothing.
    For the scores of a conditional density see :func:`vclub`.

    Parameters
    ----------
    scores
        ``(n_cells, n_cells)``; entry ``[i, k]`` is ``f(z_i, c_k)``. The pairs off the diagonal stand for
        the product of the marginals; the program of FactorCL takes the mean over all pairs, and its value is smaller
        by the factor ``1 - 1 / n_cells``.

    Returns
    -------
    Scalar in nats.

    Raises
    ------
    ValueError
        If `scores` is not square or has fewer than 2 cells.

    References
    ----------
    Liang et al. (2023), arXiv 2306.05268; Cheng et al. (2020), arXiv 2006.12013.
    """
    return _paired_minus_unpaired(scores)


def vclub(scores: Tensor) -> Tensor:
    r"""Variational contrastive upper bound with a density :math:`q` fitted by maximum likelihood.

    .. math:: I_{vCLUB} = E_{p(z,c)} \log q(z \mid c) - E_{p(z)p(c)} \log q(z \mid c)

    At ``q(z | c) = p(z | c)`` it is the Jeffreys divergence, as :func:`nce_club` at its optimal critic. With
    ``q(z, c) = q(z | c) p(c)`` it is an upper bound as long as ``KL(p(z, c) || q) <= KL(p(z) p(c) || q)``; a `q` of the
    wrong shape can break that, and then it bounds nothing.

    Parameters
    ----------
    scores
        ``(n_cells, n_cells)``; entry ``[i, k]`` is ``log q(z_i | c_k)`` in nats, as
        :class:`indiseek.nn.GaussianCritic` gives it. The pairs off the diagonal stand for the product of the
        marginals; the paper's mean over all pairs is smaller by the factor ``1 - 1 / n_cells``.

    Returns
    -------
    Scalar in nats.

    Raises
    ------
    ValueError
        If `scores` is not square or has fewer than 2 cells.

    References
    ----------
    Cheng et al. (2020), arXiv 2006.12013, section 3.2.
    """
    return _paired_minus_unpaired(scores)


def _paired_minus_unpaired(scores: Tensor) -> Tensor:
    _check_scores(scores)
    n = scores.shape[0]
    positives = scores.diagonal()
    return positives.mean() - (scores.sum() - positives.sum()) / (n * (n - 1))
