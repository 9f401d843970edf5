"""Covariates from the MuData to an objective: registered, split, saved, loaded, refused where they cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from model_contract import FAST, assert_content, content, copy_of
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from indiseek.models import ClosedForm, IndiSeekModel, MultimodalModel, Options
from indiseek.objectives import Objective, ObjectiveOutput
from indiseek.train import Schedule, Space, Stage

KEYS = {
    "batch_key": "lane",
    "categorical_covariate_keys": ["donor"],
    "continuous_covariate_keys": ["age"],
}


class BatchMeans(Objective):
    """Codes that are the features less a mean for each batch, which it learns, plus what the other covariates say."""

    seen: list[tuple[torch.Tensor, ...]] = []

    def __init__(self, n_features: dict[str, int], n_batches: int) -> None:
        super().__init__()
        self.means = nn.ParameterList(torch.zeros(n_batches, n) for n in n_features.values())

    def encode(self, modality, cells):
        lane, donor, age = cells.covariates
        return cells.features[modality] - self.means[modality][lane] + 0.0 * (donor + age)[:, None]

    def loss(self, cells):
        self.seen.append(cells.covariates)
        return ObjectiveOutput(sum(code.square().mean() for code in self.latents(cells)), {})


@dataclass(frozen=True, kw_only=True)
class CentredOptions(Options):
    """None."""


class CentredModel(MultimodalModel):
    """Toy that uses covariates."""

    _options_class = CentredOptions

    def __init__(self, mdata, *, transforms=None):
        super().__init__(mdata, CentredOptions(), transforms)

    def _stages(self):
        return [
            Stage(
                name="centred",
                objective=lambda shapes: BatchMeans(shapes.n_features, shapes.n_categories["lane"]),
                schedule=Schedule(n_steps=150, lr=0.05, batch_size=40),
                space=Space(each="X_centred_{modality}"),
                uses_covariates=True,
            )
        ]


@pytest.fixture
def cells(mdata):
    rng = np.random.default_rng(0)
    mdata.obs["lane"] = pd.Categorical(rng.choice(["b", "a", "c"], 150))
    mdata.obs["age"] = rng.integers(20, 80, 150)
    mdata["rna"].obs["donor"] = rng.choice([7, 3], 150)
    return mdata


def test_covariates_reach_an_objective_and_come_back_after_loading(cells, tmp_path, log):
    before = content(cells)
    CentredModel.setup_mudata(cells, **KEYS)
    assert_content(
        {k: v for k, v in content(cells).items() if k != "/uns"}, {k: before[k] for k in before if k != "/uns"}
    )
    model = CentredModel(cells)
    assert not any("not corrected" in message for message in log.messages)
    BatchMeans.seen.clear()
    model.train(accelerator="cpu", show_progress=False, early_stopping=False)
    lane, donor, age = (torch.cat(parts) for parts in zip(*BatchMeans.seen, strict=True))
    assert (lane.dtype, donor.dtype, age.dtype) == (torch.int64, torch.int64, torch.float32)
    assert lane.unique().tolist() == [0, 1, 2] and donor.unique().tolist() == [0, 1]
    assert 20 <= age.min() and age.max() < 80
    codes = cells.obsm["X_centred_prot"]
    # The cells of each batch are centred, by the codes of the categories in their order.
    train = model.train_indices
    for name in ("a", "b", "c"):
        rows = train[(cells.obs["lane"] == name).to_numpy()[train]]
        np.testing.assert_allclose(codes[rows].mean(axis=0), 0, atol=0.15)
    model.save(tmp_path / "model")
    for data, given in ((cells, None), (None, cells)):
        loaded = CentredModel.load(tmp_path / "model", data, accelerator="cpu")
        again = loaded.get_latent_representation(given, modality="prot", kind="centred")
        np.testing.assert_array_equal(again, codes)


def test_new_cells_have_the_codes_of_the_categories_of_training(cells):
    CentredModel.setup_mudata(cells, **KEYS)
    model = CentredModel(cells)
    model.train(**FAST)
    rows = np.flatnonzero(cells.obs["lane"] == "c")
    some = copy_of(cells[rows])
    some.obs = cells.obs.iloc[rows].astype({"lane": str})
    np.testing.assert_allclose(
        model.get_latent_representation(some, modality="rna", kind="centred"),
        cells.obsm["X_centred_rna"][rows],
        atol=1e-5,
    )
    unknown = copy_of(some)
    unknown.obs = some.obs.assign(lane="d")
    with pytest.raises(
        ValueError, match=r"expected in 'lane' categories .* \['a', 'b', 'c'\], got \['d'\]; leave these"
    ):
        model.get_latent_representation(unknown, modality="rna", kind="centred")
    del some.obs["lane"]
    with pytest.raises(KeyError, match="expected a column 'lane' in .obs"):
        model.get_latent_representation(some, modality="rna", kind="centred")


def test_a_batch_that_shifts_proteins_leaves_the_space_of_everything(make_mdata, tmp_path):
    """A lane in which half of the proteins are doubled is told from held-out cells' codes, unless it is set up."""
    told = {}
    for batch_key in (None, "lane"):
        mdata = make_mdata()
        lane = np.random.default_rng(0).integers(2, size=600)
        mdata.obs["lane"] = np.where(lane, "a", "b")
        x = mdata["prot"].X.toarray() if hasattr(mdata["prot"].X, "toarray") else np.array(mdata["prot"].X)
        x[lane == 1, ::2] *= 2
        mdata["prot"].X = x.astype(np.float32)
        IndiSeekModel.setup_mudata(mdata, batch_key=batch_key)
        model = IndiSeekModel(mdata, n_shared=4, specific=ClosedForm(n_landmarks=60, refine=False))
        model.train({"shared": 40}, batch_size=128, accelerator="cpu", show_progress=False)
        train, test = model.train_indices, model.test_indices
        near = KNeighborsClassifier(15).fit(mdata.obsm["X_indiseek"][train], lane[train])
        told[batch_key] = near.score(mdata.obsm["X_indiseek"][test], lane[test])
    print(told)
    assert told[None] > 0.75 and told["lane"] < 0.65
    model.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", mdata, accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation(kind="everything"), mdata.obsm["X_indiseek"])


def test_a_model_that_does_not_use_them_says_so(cells, log):
    IndiSeekModel.setup_mudata(cells, categorical_covariate_keys=["lane"])
    IndiSeekModel(cells)
    assert not any("not corrected" in message for message in log.messages)
    IndiSeekModel(cells, specific="nce-club")
    assert "['lane'] are stored with the model" in log.messages[-1] and "not corrected for them" in log.messages[-1]


def _set(key, value):
    def change(cells):
        cells.obs[key] = value

    return change


BAD = [
    ({"batch_key": "plate"}, None, KeyError, "expected a column 'plate' in .obs"),
    (
        {"batch_key": "lane"},
        _set("lane", [None, *["a", "b"] * 74, "a"]),
        ValueError,
        "'lane' for every cell, got 1 cells",
    ),
    (
        {"continuous_covariate_keys": ["lane"]},
        None,
        ValueError,
        "expected finite numbers in 'lane', got category values",
    ),
    ({"continuous_covariate_keys": ["age"]}, _set("age", np.inf), ValueError, "expected finite numbers in 'age'"),
    (
        {"categorical_covariate_keys": "donor"},
        None,
        TypeError,
        r"a list of columns of .obs, got 'donor'; write \['donor'\]",
    ),
    ({"batch_key": "lane", "categorical_covariate_keys": ["lane"]}, None, ValueError, "expected each covariate once"),
]


@pytest.mark.parametrize(("keys", "change", "error", "message"), BAD)
def test_covariates_that_cannot_be_used_are_refused_at_set_up(cells, keys, change, error, message):
    if change:
        change(cells)
    before = content(cells)
    with pytest.raises(error, match=message):
        IndiSeekModel.setup_mudata(cells, **keys)
    assert_content(content(cells), before)


def test_a_covariate_with_one_value_is_refused_before_training(cells):
    cells.obs["lane"] = "a"
    IndiSeekModel.setup_mudata(cells, batch_key="lane")
    with pytest.raises(ValueError, match="expected 'lane' to differ between cells, got 'a' in all"):
        IndiSeekModel(cells)


def _one_cell_alone(cells):
    cells.obs["lane"] = ["b", *["a", "c"] * 74, "a"]


def _twice(cells):
    cells.obs["plate"] = cells.obs["lane"].map({"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_one_cell_alone, r"at least 10 cells, got 1 with fewer \('b' with 1\); join them to others, or leave these"),
        (_twice, "expected covariates that differ, got 'lane' and 'plate', which part the cells in the same way; name"),
    ],
)
def test_covariates_that_cannot_be_corrected_for_are_refused_before_training(cells, change, message):
    cells.obs["plate"] = np.random.default_rng(1).choice(["x", "y"], 150)
    change(cells)
    IndiSeekModel.setup_mudata(cells, batch_key="lane", categorical_covariate_keys=["plate"])
    before = content(cells)
    with pytest.raises(ValueError, match=message):
        IndiSeekModel(cells)
    assert_content(content(cells), before)


def test_what_cannot_be_told_from_the_batch_is_named(cells, log):
    lane = cells.obs["lane"].astype(str)
    cells.obs["condition"] = lane.map({"a": "ill", "b": "ill", "c": "well"})
    cells.obs["site"] = "here"
    cells.obs["kind"] = np.random.default_rng(1).choice(["T", "B"], 150)
    cells["rna"].obs["machine"] = pd.Categorical(lane.map({"a": "x", "b": "y", "c": "x"}).to_numpy())
    IndiSeekModel.setup_mudata(cells, batch_key="lane")
    IndiSeekModel(cells)
    (said,) = [message for message in log.messages if "corrected away" in message]
    assert (
        said.startswith("['condition', 'machine'] of .obs are the same for all cells of a batch")
    )
    log.clear()
    IndiSeekModel.setup_mudata(cells)
    IndiSeekModel(cells)
    assert not any("corrected away" in message for message in log.messages)
