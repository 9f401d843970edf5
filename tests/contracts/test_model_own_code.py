"""A user's own transform and encoder are used, saved by name, and loaded where their code is handed in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_contract import FAST, assert_same, latents, once, weights
from torch import nn

from indiseek.data import Transform
from indiseek.models import load_model
from indiseek.nn import Encoder


class SquareRoot(Transform):
    """Centred square roots."""

    name = "square-root"
    needs_counts = True

    def config(self):
        return {}

    def max_output(self, n_input):
        return n_input

    def allocate(self, n_input, n_output):
        self.register_buffer("center", torch.zeros(n_input))

    def fit(self, values, rows):
        dense = np.sqrt(values[rows].toarray() if hasattr(values, "toarray") else values[rows])
        self.register_buffer("center", torch.as_tensor(dense.mean(axis=0), dtype=torch.float32))

    def forward(self, values):
        return (
            values.to_dense().sqrt() - self.center if values.layout == torch.sparse_csr else values.sqrt() - self.center
        )


class Taken(SquareRoot):
    """Has a name of the package's own."""

    name = "clr"


class Residual(nn.Module):
    """A linear map and a small correction."""

    def __init__(self, n_features: int, n_latent: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, n_latent)
        self.correction = nn.Sequential(nn.Linear(n_features, 8), nn.Tanh(), nn.Linear(8, n_latent))

    def forward(self, x):
        return self.linear(x) + self.correction(x)


def test_own_code_is_used_saved_and_loaded(case, mdata, tmp_path):
    encoder = Encoder(hidden=(16,), own={"prot": Residual})
    model = case.new(mdata, encoder=encoder, transforms={"rna": SquareRoot()})
    model.train(**FAST)
    kinds = {type(part).__name__ for part in model.module.modules()}
    assert {"SquareRoot", "Residual", "MLP"} <= kinds
    rna = model.get_features(modality="rna")
    counts = mdata["rna"].X.toarray()
    np.testing.assert_allclose(rna, np.sqrt(counts) - np.sqrt(counts)[model.train_indices].mean(0), atol=1e-4)
    assert "square-root" in repr(model)
    model.save(tmp_path / "model")
    for load in (case.model.load, load_model):
        loaded = load(tmp_path / "model", mdata, accelerator="cpu", own_code=[SquareRoot, Residual])
        assert_same(latents(loaded), latents(model))
        assert_same(weights(loaded), weights(model))
    for own_code, message in (
        ([SquareRoot], "expected the class or function 'Residual' that the model was made with, got .*own_code"),
        ([Residual], "expected the class of the transform 'square-root' of 'rna', got .*; pass it to load in own_code"),
    ):
        with pytest.raises(ValueError, match=message):
            case.model.load(tmp_path / "model", mdata, accelerator="cpu", own_code=own_code)


@once
def test_own_code_that_cannot_be_used_is_refused(case, mdata):
    with pytest.raises(
        ValueError, match="expected a transform with a name of its own for 'rna', got Taken with .*'clr'"
    ):
        case.new(mdata, transforms={"rna": Taken()})
    for make, error, message in (
        (lambda n_features, n_latent: object(), TypeError, "encoder of 'prot' to be a torch module, got object"),
        (
            lambda n_features, n_latent: nn.Linear(n_features, 1),
            ValueError,
            r"'prot' to map \(2, 14\) to \(2, 4\), got \(2, 1\)",
        ),
    ):
        model = case.new(mdata, encoder=Encoder(own={"prot": make}))
        with pytest.raises(error, match=message):
            model.train(**FAST)
        assert not model.is_trained
