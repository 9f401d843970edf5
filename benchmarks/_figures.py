"""Figures of the quality table, each from the codes of test cells alone, and the bars beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from _cells import Array, Cells
from _certified import worst_leak
from _peers import Codes
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, r2_score
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPRegressor

from indiseek import metrics

_ISOFORMS = ("CD45RA_TotalSeqB", "CD45RO_TotalSeqB")
# The table shows no p value.
_N_PERMUTATIONS = 0

# By data and figure: whether to stay at most or at least at a bound.
BARS = {
    "pbmc": {
        "leak of Z_prot": ("<=", 0.03),
        "leak of Z_rna": ("<=", 0.05),
        "private in Z_prot": (">=", 0.62),
        "private in Z_rna": (">=", 0.65),
        "X_prot from Z_prot, C_rna": (">=", 0.97),
        "X_rna from Z_rna, C_prot": (">=", 0.97),
        "X_prot by inverse": (">=", 0.97),
        "X_rna by inverse": (">=", 0.97),
        "excess of prot in C": ("<=", 0.05),
        "C to E[X_prot given rna]": (">=", 0.85),
        "C to E[X_rna given prot]": (">=", 0.90),
        "FOSCTTM": ("<=", 0.058),
        "CD45RA, CD45RO": ("<=", -0.6),
        "CD45RA, CD45RO from Z_prot": ("<=", -0.6),
    },
    "clusters": {
        "leak of Z": ("<=", 0.03),
        "private in Z": (">=", 0.95),
        "kNN of private state": (">=", 0.98),
        "k-means ARI": (">=", 0.95),
    },
    "factors": {"shared in Z": ("<=", 0.02), "private in Z": (">=", 0.95)},
}


def mlp_r2(codes: NDArray[np.float32], targets: NDArray[np.float64], seed: int) -> float:
    """R2 of a fresh multilayer perceptron, fitted on half of the held-out cells and scored on the other half."""
    half = len(codes) // 2
    codes = (codes - codes[:half].mean(axis=0)) / (codes[:half].std(axis=0) + 1e-9)
    probe = MLPRegressor(
        hidden_layer_sizes=(128,), early_stopping=True, max_iter=300, learning_rate_init=3e-3, random_state=seed
    )
    probe.fit(codes[:half], targets[:half])
    return float(r2_score(targets[half:], probe.predict(codes[half:]), multioutput="variance_weighted"))


def figures(data: str, cells: Cells, codes: Codes, seed: int) -> dict[str, float]:
    """Everything that the table says of one method on one data set; a figure that does not apply is left out."""
    if data == "clusters":
        return _private_states(cells, codes, seed)
    if data == "factors":
        return _known_factors(cells, codes, seed)
    found = _certified(cells, codes, seed)
    if data == "pbmc":
        found |= _isoforms(cells, codes, seed)
    return found


def _certified(cells: Cells, codes: Codes, seed: int) -> dict[str, float]:
    test = cells.take(cells.test)
    # The certificate wants every code; what a method does not have stands in as a constant and is not reported.
    blank = np.zeros((len(cells.test), 1))
    joint = blank if codes.joint is None else codes.joint
    shared = {name: codes.shared.get(name, joint) for name in test}
    certificate = metrics.certify(
        test,
        shared,
        {name: codes.specific.get(name, blank) for name in test},
        joint=codes.joint,
        reference=cells.take(cells.train),
        n_permutations=_N_PERMUTATIONS,
        seed=seed,
    )
    content = certificate.content.set_index(["modality", "code"])
    found: dict[str, float] = {}
    for name, other in zip(test, reversed(test), strict=True):
        if name in codes.specific:
            found[f"leak of Z_{name}"] = worst_leak(certificate, name)
            found[f"private in Z_{name}"] = content.loc[(name, "specific"), "private"]
            given = codes.condition.get(other, shared[other])
            found[f"X_{name} from Z_{name}, C_{other}"] = _explained(
                np.hstack([codes.specific[name], given]), test[name], seed
            )
            found[f"X_{name} from Z_{name}, C_{name}"] = _explained(
                np.hstack([codes.specific[name], shared[name]]), test[name], seed
            )
        if name in codes.inverse:
            found[f"X_{name} by inverse"] = _r2(test[name], codes.inverse[name])
        if codes.joint is not None:
            excess = certificate.table("excess").set_index(["modality", "code"])
            found[f"excess of {name} in C"] = excess.loc[(name, "joint"), "total"]
            found[f"C to E[X_{name} given {other}]"] = content.loc[(name, "joint"), "predictable"]
    if codes.shared and "retrieval" in certificate.tables:
        found["FOSCTTM"] = certificate.table("retrieval")["foscttm"].item()
    return {name: float(value) for name, value in found.items()}


def _explained(codes: Array, x: Array, seed: int) -> float:
    r2 = metrics.feature_r2(codes, x, probe="nonlinear", seed=seed)
    return float(np.average(r2, weights=x.var(axis=0)))


def _r2(x: Array, estimate: Array) -> float:
    return float(r2_score(x, estimate, multioutput="variance_weighted"))


def _isoforms(cells: Cells, codes: Codes, seed: int) -> dict[str, float]:
    """Correlation of two isoforms in what protein says beyond RNA, and in what the specific code says of that."""
    train, test = cells.take(cells.train), cells.take(cells.test)
    private = test["prot"] - metrics.conditional_mean(
        test["prot"], test["rna"], reference=(train["prot"], train["rna"]), seed=seed
    )
    columns = [cells.mdata["prot"].var_names.get_loc(name) for name in _ISOFORMS]
    found = {"CD45RA, CD45RO": float(np.corrcoef(private[:, columns].T)[0, 1])}
    if "prot" in codes.specific:
        from_z = metrics.conditional_mean(private, codes.specific["prot"], seed=seed)
        # On the scale of what there was to explain: of a code without signal the correlation itself would be noise.
        covariance = np.cov(from_z[:, columns].T)[0, 1]
        found["CD45RA, CD45RO from Z_prot"] = float(covariance / private[:, columns].std(axis=0, ddof=1).prod())
    return found


def _mean(per_modality: list[dict[str, float]]) -> dict[str, float]:
    return pd.DataFrame(per_modality).mean().to_dict() if per_modality else {}


def _private_states(cells: Cells, codes: Codes, seed: int) -> dict[str, float]:
    """Means over the modalities."""
    truth, rows, found = cells.truth, cells.test, []
    for name, z in codes.specific.items():
        state = truth.clusters[name][rows]
        neighbours = KNeighborsClassifier(15)
        groups = KMeans(3, n_init=10, random_state=seed).fit_predict(z)
        found.append(
            {
                "leak of Z": mlp_r2(z, truth.shared[rows], seed),
                "private in Z": mlp_r2(z, truth.specific[name][rows], seed),
                "kNN of private state": float(cross_val_score(neighbours, z, state, cv=5).mean()),
                "k-means ARI": float(adjusted_rand_score(state, groups)),
            }
        )
    return _mean(found) | _shared_in_c(cells, codes, seed)


def _known_factors(cells: Cells, codes: Codes, seed: int) -> dict[str, float]:
    """Means over the modalities."""
    truth, rows = cells.truth, cells.test
    found = [
        {
            "shared in Z": mlp_r2(z, truth.shared[rows], seed),
            "private in Z": mlp_r2(z, truth.specific[name][rows], seed),
        }
        for name, z in codes.specific.items()
    ]
    return _mean(found) | _shared_in_c(cells, codes, seed)


def _shared_in_c(cells: Cells, codes: Codes, seed: int) -> dict[str, float]:
    if codes.joint is None:
        return {}
    private = np.hstack([private[cells.test] for private in cells.truth.specific.values()])
    return {
        "shared in C": mlp_r2(codes.joint, cells.truth.shared[cells.test], seed),
        "private in C": mlp_r2(codes.joint, private, seed),
    }
