"""Other methods on the same cells: fitted on training cells, codes of the test cells out.

A peer that is not installed raises :class:`NotInstalledError`, one that cannot take the data
:class:`NotApplicableError`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scvi
import torch
from _cells import Array, Cells
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse
from scvi.model import TOTALVI
from sklearn.linear_model import LinearRegression

from indiseek import metrics

_N_CANONICAL = 10
_N_FACTORS = 20
# A factor belongs to one view alone if four fifths of what it explains lie there; one that explains less than a
# thousandth of either view is dropped.
_OWN_SHARE = 0.8
_LEAST_R2 = 1e-3


class NotInstalledError(Exception):
    """The peer's package is missing."""


class NotApplicableError(Exception):
    """The peer cannot take these data."""


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of the test cells.

    Attributes
    ----------
    shared
        Shared code by modality; empty for a method that has one joint code only.
    joint
        Joint shared code; None where there is none.
    specific
        Specific code by modality; empty for a method without.
    condition
        By modality the code that the others' specific codes are to be complete with, where it is not `shared`.
    inverse
        By modality its features as the exact inverse gives them.
    seconds
        Wall time of fit and encoding where it is not that of the whole call.
    """

    shared: dict[str, Array] = field(default_factory=dict)
    joint: Array | None = None
    specific: dict[str, Array] = field(default_factory=dict)
    condition: dict[str, Array] = field(default_factory=dict)
    inverse: dict[str, Array] = field(default_factory=dict)
    seconds: float | None = None


def require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise NotInstalledError(package)


def itself(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """Each modality as its own specific code: what there is to be found (ceiling)."""
    return Codes(specific=cells.take(cells.test))


def permuted(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """The same of permuted cells: what a probe finds where there is nothing (null)."""
    # Not the stream of the certificate, whose nulls would then undo the permutation.
    rng = np.random.default_rng([seed, 101])
    specific, joint = (cells.take(rng.permutation(cells.test)) for _ in range(2))
    return Codes(specific=specific, joint=np.hstack(list(joint.values())))


def cca(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """Canonical variables; specific is a modality less its linear prediction from the other's variables."""
    names = list(cells.features)
    train = cells.take(cells.train)
    n_components = min(_N_CANONICAL, *(x.shape[1] for x in train.values()))
    every = metrics.cca(*train.values(), *cells.features.values(), n_components=n_components)
    codes = dict(zip(names, every, strict=True))
    specific = {}
    for name, other in zip(names, names[::-1], strict=True):
        line = LinearRegression().fit(codes[other][cells.train], train[name])
        specific[name] = cells.features[name][cells.test] - line.predict(codes[other][cells.test])
    shared = {name: code[cells.test] for name, code in codes.items()}
    return Codes(shared=shared, joint=sum(shared.values()) / 2, specific=specific)


def mofa(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """MOFA+ (mofapy2), Gaussian views scaled to unit variance, run to slow convergence.

    The package has no encoder for new cells: theirs is the posterior mean given the fitted weights and noise.
    """
    require("mofapy2")
    names = list(cells.features)
    train = cells.take(cells.train)
    centre = {name: x.mean(axis=0) for name, x in train.items()}
    scale = {name: x.std() for name, x in train.items()}
    views = {name: (x - centre[name]) / scale[name] for name, x in cells.features.items()}
    fitted = fitted_mofa([[views[name][cells.train].copy()] for name in names], names, ["cells"], seed, epochs)
    with contextlib.redirect_stdout(io.StringIO()):
        weights = dict(zip(names, (np.asarray(w["E"]) for w in fitted["W"].getExpectations()), strict=True))
        noise = dict(zip(names, (np.asarray(t["E"])[0] for t in fitted["Tau"].getExpectations()), strict=True))
    z = _posterior_mean(views, weights, noise)
    spread = z[cells.train].var(axis=0)
    explained = np.stack(
        [np.square(weights[name]).sum(axis=0) * spread / views[name][cells.train].var(axis=0).sum() for name in names]
    )
    used = explained.max(axis=0) >= _LEAST_R2
    share = explained / np.maximum(explained.sum(axis=0), 1e-12)
    test = z[cells.test]
    own = {name: used & (share[view] >= _OWN_SHARE) for view, name in enumerate(names)}
    both = used & (share.max(axis=0) < _OWN_SHARE)
    return Codes(
        joint=test[:, both] if both.any() else None,
        specific={name: test[:, columns] for name, columns in own.items() if columns.any()},
    )


def fitted_mofa(
    views: list[list[Array]],
    names: list[str],
    groups: list[str],
    seed: int,
    epochs: int | None,
    *,
    convergence: str = "slow",
) -> dict[str, Any]:
    """Nodes of MOFA+ on centred Gaussian views, of each the cells of every group.

    It runs to convergence (``"slow"``, or the package's default ``"fast"``), or so many iterations.
    """
    require("mofapy2")
    from mofapy2.run.entry_point import entry_point

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = entry_point()
        run.set_data_options(scale_views=False)
        run.set_data_matrix(views, views_names=names, groups_names=groups)
        run.set_model_options(factors=_N_FACTORS)
        options = {} if epochs is None else {"iter": epochs}
        run.set_train_options(seed=seed, quiet=True, convergence_mode=convergence, **options)
        run.build()
        run.run()
        nodes: dict[str, Any] = run.model.getNodes()
    return nodes


def _posterior_mean(views: dict[str, Array], weights: dict[str, Array], noise: dict[str, Array]) -> Array:
    precision = np.eye(next(iter(weights.values())).shape[1])
    projected = 0.0
    for name, w in weights.items():
        weighted = w * noise[name][:, None]
        precision = precision + w.T @ weighted
        projected = projected + views[name] @ weighted
    return np.linalg.solve(precision, projected.T).T


def vcca_private(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """VCCA-private (cca-zoo) on standardised views; its shared code is inferred from the first view alone."""
    require("cca_zoo")
    from cca_zoo.deep import DVCCAPrivate, MultiviewDataset
    from lightning.pytorch import Trainer, seed_everything
    from lightning.pytorch.callbacks import EarlyStopping
    from torch import nn
    from torch.utils.data import DataLoader

    n_shared = n_private = 10
    names = list(cells.features)
    train = cells.take(cells.train)
    views = {
        name: ((x - train[name].mean(axis=0)) / train[name].std(axis=0)).astype(np.float32)
        for name, x in cells.features.items()
    }

    def network(n_in: int, n_out: int) -> nn.Module:
        return nn.Sequential(nn.Linear(n_in, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, n_out))

    def loader(rows: Array, *, shuffle: bool) -> DataLoader:
        return DataLoader(MultiviewDataset([views[name][rows] for name in names]), batch_size=128, shuffle=shuffle)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed_everything(seed, verbose=False)
        sizes = [views[name].shape[1] for name in names]
        model = DVCCAPrivate(
            n_shared,
            network(sizes[0], 2 * n_shared),
            [network(size, 2 * n_private) for size in sizes],
            [network(n_shared + n_private, size) for size in sizes],
            n_private,
        )
        trainer = Trainer(
            max_epochs=epochs or 200,
            accelerator="cpu",
            callbacks=[EarlyStopping("val/objective", patience=10)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, loader(cells.train, shuffle=True), loader(cells.validation, shuffle=False))
    model.eval()
    tensors = [torch.as_tensor(views[name][cells.test]) for name in names]
    with torch.no_grad():
        (joint,) = model(tensors)
        private = model.private_means(tensors)
    return Codes(joint=joint.numpy(), specific={name: h.numpy() for name, h in zip(names, private, strict=True)})


def totalvi(cells: Cells, seed: int, epochs: int | None) -> Codes:
    """TOTALVI with its defaults on raw counts: one joint code, nothing specific."""
    if cells.truth is not None or "prot" not in cells.mdata.mod:
        raise NotApplicableError
    seen = np.sort(np.concatenate([cells.train, cells.validation]))
    parts = [np.searchsorted(seen, rows) for rows in (cells.train, cells.validation)]
    model = fitted_totalvi(with_dense_protein(cells.mdata, seen), parts, seed, epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Codes(joint=model.get_latent_representation(with_dense_protein(cells.mdata, cells.test)))


def fitted_totalvi(
    mdata: MuData,
    parts: list[NDArray[np.intp]] | None,
    seed: int,
    epochs: int | None,
    *,
    batch_key: str | None = None,
) -> TOTALVI:
    """TOTALVI on dense proteins, trained on the first part and stopped by the second; a split of its own without.

    The batch is a column of the RNA's ``.obs``.
    """
    scvi.settings.seed = seed
    split = {} if parts is None else {"external_indexing": [*parts, np.empty(0, dtype=np.intp)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("scvi").setLevel(logging.ERROR)
        fields = {"rna_layer": "rna", "protein_layer": "prot"} | ({} if batch_key is None else {"batch_key": "rna"})
        TOTALVI.setup_mudata(mdata, batch_key=batch_key, modalities=fields)
        model = TOTALVI(mdata)
        model.train(epochs, accelerator="cpu", enable_progress_bar=False, **split)
    return model


def imputed_by_totalvi(
    rna: sparse.csr_matrix,
    prot: Array,
    batch: NDArray[np.intp] | None,
    train: NDArray[np.intp],
    test: NDArray[np.intp],
    seed: int,
) -> Array:
    """Expected protein counts of test cells, of whom TOTALVI sees the RNA alone, ``(n_test, n_proteins)``.

    As its documentation does it: the proteins of cells without any are zeros, and a batch in which all are zeros is one
    without. Background included, as in the counts that are compared.
    """
    rows = np.concatenate([train, test])
    is_test = np.arange(len(rows)) >= len(train)
    own = np.char.add("batch ", (np.zeros(len(rows), dtype=int) if batch is None else batch[rows]).astype(str))
    counts = prot[rows].copy()
    counts[is_test] = 0.0
    names = [str(row) for row in rows]
    parts = {"rna": AnnData(rna[rows]), "prot": AnnData(counts)}
    for part in parts.values():
        part.obs_names = names
    mdata = MuData(parts)
    mdata["rna"].obs["batch"] = np.where(is_test, np.char.add(own, ", RNA only"), own)
    model = fitted_totalvi(mdata, None, seed, None, batch_key="batch")
    found = np.empty((len(test), prot.shape[1]), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label in np.unique(own[is_test]):
            its = is_test & (own == label)
            found[its[is_test]] = model.get_normalized_expression(
                indices=np.flatnonzero(its),
                transform_batch=[label],
                n_samples=25,
                return_mean=True,
                include_protein_background=True,
                return_numpy=True,
            )[1]
    return found


def with_dense_protein(mdata: MuData, rows: NDArray[np.intp]) -> MuData:
    """TOTALVI fits its protein priors on a dense matrix only."""
    modalities = {name: adata[rows].copy() for name, adata in mdata.mod.items()}
    if sparse.issparse(modalities["prot"].X):
        modalities["prot"].X = modalities["prot"].X.toarray()
    return MuData(modalities)
