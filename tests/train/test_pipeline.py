"""Stages as values: what they are given, which are fitted in closed form, and codes of absent modalities."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.models import IndiSeekModel, MultimodalModel, Options
from indiseek.nn import Encoder
from indiseek.objectives import CLIPObjective, Objective, ObjectiveOutput
from indiseek.train import Pipeline, Schedule, Space, Stage
from indiseek.train._pipeline import _Bridge


def _codes(n: int = 400, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    code = F.normalize(torch.randn(n, d, generator=generator), dim=-1)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator))[0]
    return code, code @ rotation


def test_a_rotation_between_codes_is_found():
    first, second = _codes()
    bridge = _Bridge()
    bridge.fit([[first[:300]], [second[:300]]])
    torch.testing.assert_close(bridge(0, first[300:])[1][0], second[300:], atol=1e-2, rtol=0)
    torch.testing.assert_close(bridge(1, second[300:])[0][0], first[300:], atol=1e-2, rtol=0)


def test_the_given_code_is_kept():
    first, second = _codes()
    bridge = _Bridge()
    bridge.fit([[first], [second]])
    for i, code in enumerate((first, second)):
        torch.testing.assert_close(bridge(i, code)[i][0], code, rtol=0, atol=0)


def test_a_code_that_cannot_be_predicted_is_given_its_mean():
    first, _ = _codes()
    second = F.normalize(torch.randn(400, 4, generator=torch.Generator().manual_seed(5)) + 1, dim=-1)
    bridge = _Bridge()
    bridge.fit([[first], [second]])
    torch.testing.assert_close(bridge(0, first)[1][0], second.mean(0).expand(400, 4), atol=0.2, rtol=0)


def test_the_maps_are_part_of_the_state():
    first, second = _codes()
    bridge, copy = _Bridge(), _Bridge()
    bridge.fit([[first], [second]])
    copy.allocate(bridge.state_dict(), "")
    copy.load_state_dict(bridge.state_dict())
    torch.testing.assert_close(copy(0, first)[1][0], bridge(0, first)[1][0], rtol=0, atol=0)


def test_stages_of_other_widths_in_each_modality_are_predicted_and_told_apart():
    first, second = _codes()
    wide = torch.cat([second, first @ torch.randn(4, 3, generator=torch.Generator().manual_seed(2))], dim=1)
    bridge = _Bridge()
    bridge.fit([[first[:, :1], first], [wide, second]])
    predicted = bridge(0, torch.cat([first[:, :1], first], dim=1))
    assert [[part.shape[1] for part in parts] for parts in predicted] == [[1, 4], [7, 4]]
    torch.testing.assert_close(predicted[1][0], wide, atol=3e-2, rtol=0)
    torch.testing.assert_close(predicted[1][1], second, atol=3e-2, rtol=0)


class Whitened(Objective):
    """Features less what the condition explains linearly, in closed form."""

    def __init__(self, n_features: dict[str, int], n_condition: int) -> None:
        super().__init__()
        for i, n in enumerate(n_features.values()):
            self.register_buffer(f"map_{i}", torch.zeros(n_condition + 1, n))

    def start(self, cells: CellTensors) -> None:
        for i, x in enumerate(cells.features):
            self.get_buffer(f"map_{i}").copy_(torch.linalg.lstsq(self._given(i, cells), x).solution)

    def encode(self, modality: int, cells: CellTensors) -> torch.Tensor:
        return cells.features[modality] - self._given(modality, cells) @ self.get_buffer(f"map_{modality}")

    def loss(self, cells: CellTensors) -> ObjectiveOutput:
        raise AssertionError("a stage in closed form takes no gradient step")

    @staticmethod
    def _given(modality: int, cells: CellTensors) -> torch.Tensor:
        given = cells.condition_of_others(modality)
        return torch.cat([given, torch.ones(len(given), 1)], dim=1)


@dataclass(frozen=True, kw_only=True)
class ResidualOptions(Options):
    """None."""


class ResidualModel(MultimodalModel):
    """Shared codes by gradient steps, residuals in closed form."""

    _options_class = ResidualOptions

    def __init__(self, mdata, *, transforms=None):
        super().__init__(mdata, ResidualOptions(), transforms)

    def _stages(self):
        return [
            Stage(
                name="shared",
                objective=lambda shapes: CLIPObjective(shapes.n_features, 3, encoder=Encoder(hidden=(16,))),
                schedule=Schedule(n_steps=20, batch_size=40),
                space=Space(joint="X_shared"),
            ),
            Stage(
                name="residual",
                objective=lambda shapes: Whitened(shapes.n_features, 3),
                schedule=None,
                given=("shared",),
                space=Space(each="X_residual_{modality}", own="X_residual"),
            ),
        ]


def test_a_stage_in_closed_form_is_fitted_on_training_cells_saved_and_resumed(mdata, tmp_path):
    model = ResidualModel(mdata)
    with pytest.raises(KeyError, match=r"expected lr of the stages \['shared'\], got \['residual'\]"):
        model.train(lr={"residual": 1.0}, accelerator="cpu", show_progress=False)
    model.train(accelerator="cpu", show_progress=False, checkpoint_dir=tmp_path / "fit")
    assert list(model.stage_seconds) == ["shared", "residual"]
    assert {key.split("/")[0] for key in model.history} == {"shared"}
    train = model.train_indices
    shared = model.get_latent_representation(modality="prot", indices=train)
    residual = mdata.obsm["X_residual_rna"][train]
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(residual.T @ shared / len(train), 0, atol=1e-3)
    assert np.abs(mdata.obsm["X_residual_rna"][model.test_indices].mean(axis=0)).max() > 0.01
    np.testing.assert_array_equal(mdata["prot"].obsm["X_residual"], mdata.obsm["X_residual_prot"])
    model.save(tmp_path / "model")
    loaded = ResidualModel.load(tmp_path / "model", mdata, accelerator="cpu")
    np.testing.assert_array_equal(
        loaded.get_latent_representation(modality="rna", kind="residual"), mdata.obsm["X_residual_rna"]
    )


def test_of_very_many_cells_a_stage_learns_from_some(mdata, monkeypatch):
    stages = ResidualModel._stages
    seen = {}
    start = Whitened.start

    def watched(self, cells):
        seen["cells"] = cells
        start(self, cells)

    monkeypatch.setattr(Whitened, "start", watched)
    monkeypatch.setattr(
        ResidualModel, "_stages", lambda self: [replace(stage, most_cells=60) for stage in stages(self)]
    )
    model = ResidualModel(mdata)
    state = torch.random.get_rng_state()
    model.train(accelerator="cpu", show_progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(model.train_indices) > 60
    # 20 steps of 40 cells are 13 epochs of 60.
    assert len(model.history["shared/train_loss"]) == 13
    few = seen["cells"]
    assert few.n_cells == 60 and len(few.features[0].unique(dim=0)) == 60
    # All that is known of a cell stays together.
    pipeline = model.module
    every = pipeline.inputs("residual", pipeline.tensors(model._read(mdata), model.train_indices))
    rows = (few.features[0][:, None] == every.features[0]).all(dim=2).nonzero()[:, 1]
    torch.testing.assert_close(every.condition[1][rows], few.condition[1], rtol=0, atol=1e-6)


def test_the_networks_of_a_stage_do_not_depend_on_when_it_begins(mdata):
    """One stream of random numbers, whatever else draws in between."""
    weights = []
    for draw in (False, True):
        model = IndiSeekModel(mdata, n_shared=3, encoder=Encoder(hidden=(8,)))
        stages = model._stages()
        transforms = {name: copy.deepcopy(t) for name, t in model._transforms.items()}
        for name, transform in transforms.items():
            transform.fit(model._cells.values[name], np.arange(100))
        pipeline = Pipeline(transforms, stages, {}, 100, seed=5)
        for stage in stages:
            if draw:
                torch.rand(7)
            pipeline.begin(stage.name)
        weights.append({key: value.clone() for key, value in pipeline.state_dict().items()})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
