"""What validation cells say about the codes of a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indiseek.data import CellTensors
from indiseek.metrics import conditional_mean, foscttm, leakages, probe_r2
from indiseek.objectives import CLIPObjective, joint_code

Array = NDArray[Any]

# As in a certificate: probes on more cells take longer and say no more.
MAX_CELLS = 5000
_N_NULLS = 2
# Folds and landmarks are drawn anew this often for content and excess: one draw alone moves an R2 by up to 0.03.
_N_DRAWS = 3
# InfoNCE is at most the logarithm of the cells that compete; their logits are a square.
_INFONCE_CELLS = 1024


class Parts(NamedTuple):
    """A modality of the validation cells, split by what the others know of it."""

    predictable: Array
    private: Array


class HeldOut:
    """Measures codes on validation cells; what the modalities know of each other is fitted on training cells, once.

    Parameters
    ----------
    names
        Names of the modalities.
    train, validation
        Transformed features. At most 5,000 validation cells, drawn at random, are measured.
    seed
        Seed of the draw, of probes and permutations.
    """

    def __init__(self, names: Sequence[str], train: CellTensors, validation: CellTensors, seed: int) -> None:
        self._names = tuple(names)
        self._seed = seed
        order = np.random.default_rng([seed, 7]).permutation(validation.n_cells)[:MAX_CELLS]
        self.rows = torch.as_tensor(order, device=validation.features[0].device)
        self._reference = [x.cpu().numpy() for x in train.features]
        self._features = [x.cpu().numpy() for x in validation.take(self.rows).features]

    @property
    def n_cells(self) -> int:
        """Number of cells measured."""
        return len(self.rows)

    @cached_property
    def _parts(self) -> list[Parts]:
        parts = []
        for i, x in enumerate(self._features):
            reference = self._reference[i], _beside(self._reference, i)
            mean = conditional_mean(x, _beside(self._features, i), reference=reference, seed=self._seed)
            parts.append(Parts(mean, x - mean))
        return parts

    def shared(self, objective: CLIPObjective, validation: CellTensors) -> dict[str, float]:
        """InfoNCE with its standard error, FOSCTTM, and content and excess of the joint code for each modality.

        Parameters
        ----------
        objective
            Stage 1 of a candidate.
        validation
            All validation cells.
        """
        cells = validation.take(self.rows)
        n_blocks = -(-self.n_cells // _INFONCE_CELLS)
        blocks = torch.arange(self.n_cells, device=self.rows.device).tensor_split(n_blocks)
        with torch.no_grad():
            losses = torch.cat([objective.infonce_of_cells(cells.take(block)) for block in blocks]).double()
            codes = objective.latents(cells)
        pairs = combinations([code.cpu().numpy() for code in codes], 2)
        joint = joint_code(codes).cpu().numpy()
        found = {
            "infonce": float(losses.mean()),
            "infonce_se": float(losses.std() / self.n_cells**0.5),
            "foscttm": float(np.mean([foscttm(a, b) for a, b in pairs])),
        }
        private = {name: parts.private for name, parts in zip(self._names, self._parts, strict=True)}
        draws = range(self._seed, self._seed + _N_DRAWS)
        for name, parts in zip(self._names, self._parts, strict=True):
            found[f"content_{name}"] = float(np.mean([_r2(joint, parts.predictable, seed) for seed in draws]))
        excess = [_above_null(joint, private, seed) for seed in draws]
        for name in self._names:
            found[f"excess_{name}"] = float(np.mean([draw[name] for draw in excess]))
        return found

    def leakage(self, shared: Sequence[Tensor], specific: Sequence[Tensor]) -> float:
        """Worst R2 above its null from a specific code to what it should not hold.

        For each modality these are the others' shared codes, the others' features, and what the others know of it.

        Parameters
        ----------
        shared, specific
            Codes of all validation cells by modality, each ``(n_cells, n_latent)``.
        """
        known = [self._measured(code) for code in shared]
        found: list[float] = []
        for i, code in enumerate(self._measured(code) for code in specific):
            targets = {
                "shared": _beside(known, i),
                "features": _beside(self._features, i),
                "predictable": self._parts[i].predictable,
            }
            found += _above_null(code, targets, self._seed).values()
        return max(found)

    def carried(self, specific: Sequence[Tensor]) -> dict[str, list[float]]:
        """R2 to what only a modality knows, from the first 1, 2, ... dimensions of its specific code, by modality.

        Parameters
        ----------
        specific
            Codes of all validation cells by modality, each ``(n_cells, n_latent)``.
        """
        found = {}
        for name, code, parts in zip(self._names, specific, self._parts, strict=True):
            z = self._measured(code)
            found[name] = [
                probe_r2(z[:, :n], parts.private, probe="ridge", seed=self._seed) for n in range(1, z.shape[1] + 1)
            ]
        return found

    def _measured(self, code: Tensor) -> Array:
        return code.index_select(0, self.rows).cpu().numpy()


def _beside(arrays: Sequence[Array], own: int) -> Array:
    """All arrays but one, side by side."""
    return np.hstack([array for i, array in enumerate(arrays) if i != own])


def _r2(code: Array, target: Array, seed: int) -> float:
    # Modalities that know nothing of each other have a constant conditional mean: there is nothing to hold.
    return probe_r2(code, target, probe="nonlinear", seed=seed) if np.ptp(target, axis=0).any() else 0.0


def _above_null(code: Array, targets: Mapping[str, Array], seed: int) -> dict[str, float]:
    varying = {name: target for name, target in targets.items() if np.ptp(target, axis=0).any()}
    if not varying:
        return dict.fromkeys(targets, 0.0)
    found = leakages(code, varying, n_permutations=_N_NULLS, seed=seed)
    return {name: found[name].above_null if name in found else 0.0 for name in targets}
