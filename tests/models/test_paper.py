"""Settings of the IndiSeek paper: what they are, what a fit with them does, and on which cells."""

from __future__ import annotations

import inspect
import logging

import lightning.pytorch as lightning
import numpy as np
import pytest
from anndata import AnnData
from model_contract import FAST, latents
from small import SMALL, pair
from torch import nn
from torch.optim import AdamW

from indiseek.data import CLR, CLRPCA, LogNormalizePCA, Scale, ScalePCA
from indiseek.models import PAPER, IndiSeekModel, NCEClub
from indiseek.nn import ConcatCritic

N_EPOCHS = 4
# More training cells than components, two steps an epoch, and cells for a certificate.
SPLIT = {"train_size": 0.6, "validation_size": 0.1}
SHORT = PAPER.train | SPLIT | {"max_epochs": N_EPOCHS, "accelerator": "cpu", "show_progress": False}


class Seen(lightning.Callback):
    """Learning rates, and weight of the terms that are phased in, of each step of each stage."""

    def __init__(self) -> None:
        self.lrs: list[list[tuple[float, ...]]] = []
        self.ramps: list[list[float]] = []

    def on_fit_start(self, *_: object) -> None:
        self.lrs.append([])
        self.ramps.append([])

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object) -> None:
        self.lrs[-1].append(tuple(each.param_groups[0]["lr"] for each in trainer.optimizers))
        self.ramps[-1].append(pl_module.objective.ramp)
        assert all(isinstance(each, AdamW) for each in trainer.optimizers)
        assert all(each.param_groups[0]["weight_decay"] == 0 for each in trainer.optimizers)


@pytest.fixture(scope="module")
def paper(make_mdata):
    """A short fit with the settings of the paper, on 14 proteins, and what its steps were."""
    model, seen = IndiSeekModel(make_mdata(), **PAPER.model), Seen()
    model.train(**SHORT, callbacks=[seen])
    return model, seen


def _kinds(module: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, kinds)]


def test_settings_are_the_figures_of_the_paper():
    for call, settings in ((IndiSeekModel.__init__, PAPER.model), (IndiSeekModel.train, PAPER.train)):
        assert set(settings) <= set(inspect.signature(call).parameters)
    model, club, encoder = PAPER.model, PAPER.model["specific"], PAPER.model["encoder"]
    assert (model["n_shared"], model["n_specific"], model["n_components"]) == (50, 50, 200)
    assert (encoder.hidden, encoder.activation, encoder.layer_norm) == ((50, 50, 50), "relu", False)
    assert (club.lam, club.n_critic_steps, club.independence, club.independent_of) == (10, 5, "nce-club", "other")
    # What the paper does not have.
    assert model["alignment"] == 0 and not club.batch_norm
    assert (club.lr_schedule, club.warmup, club.ramp) == ("constant", 0, 0)
    # What it leaves open.
    assert (club.critic, club.critic_hidden, club.critic_lr) == ("concat", (50, 50, 50), 1e-4)
    assert PAPER.train == {
        "max_epochs": 2000,
        "batch_size": 128,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "early_stopping": False,
    }
    with pytest.raises(TypeError):
        PAPER.model["specific"] = "flow"


def test_networks_are_those_of_the_paper(paper):
    module = paper[0].module
    assert list(module.objectives) == ["shared", "everything", "specific"]
    shared, specific = module.objective("shared"), module.objective("specific")
    # 200 components of 300 genes; 14 proteins as they are.
    for i, n in enumerate((200, 14)):
        nets = {shared.encoders[i]: (n, 50), specific.encoders[i]: (n, 50), specific.decoders[i]: (50 + 50, n)}
        nets[specific.critics[i].net] = (50 + 50, 1)
        for net, (n_in, n_out) in nets.items():
            sizes = [(layer.in_features, layer.out_features) for layer in _kinds(net, nn.Linear)]
            assert sizes == [(n_in, 50), (50, 50), (50, 50), (50, n_out)]
            assert len(_kinds(net, nn.ReLU)) == 3
        assert isinstance(specific.critics[i], ConcatCritic)
    kinds = (nn.LayerNorm, nn.BatchNorm1d, nn.GELU, nn.Dropout)
    assert not any(_kinds(objective, *kinds) for objective in (shared, specific))
    assert specific.lam == 10 and specific.independent_of == "other" and shared.alignment == 0


def test_a_fit_has_no_decay_no_warm_up_and_no_early_stop(paper):
    model, seen = paper
    n_steps = N_EPOCHS * (len(model.train_indices) // 128)
    assert n_steps == 8
    assert seen.lrs == [[(1e-4,)] * n_steps, [(1e-4, 1e-4)] * n_steps]
    assert seen.ramps == [[1.0] * n_steps] * 2
    # Of early stopping the best epoch would be kept.
    assert len(model.history["shared/train_loss"].dropna()) == N_EPOCHS


def test_what_is_looked_for_is_there_by_default(make_mdata):
    seen = Seen()
    model = IndiSeekModel(make_mdata(), **SMALL | {"specific": NCEClub(warmup=0.25, ramp=0.5)})
    model.train(**SHORT, callbacks=[seen])
    first, last = seen.lrs[1][0], seen.lrs[1][-1]
    assert first == pytest.approx((1e-4, 4e-3)) and last == pytest.approx(
        tuple(lr * 0.5 * (1 + np.cos(np.pi * 3 / 4)) for lr in first)
    )
    n = len(model.train_indices) // 128
    # An epoch without the term, two over which it rises, and the last one with all of it.
    assert seen.ramps[1][: n + 1] == [0.0] * (n + 1)
    assert 0 < seen.ramps[1][n + 1] < seen.ramps[1][2 * n] < 1 and seen.ramps[1][3 * n :] == [1.0] * n
    assert _kinds(model.module.objective("specific"), nn.BatchNorm1d)


@pytest.mark.parametrize(
    ("options", "epochs"), [({}, (1, 2)), ({"warmup": 0.0, "ramp": 0.0}, (0, 0)), ({"ramp": 0.3}, (1, 12))]
)
def test_fractions_of_the_epochs_are_those_written(mdata, options, epochs):
    # 0.3 times 40 is 12 and no less, though the nearest binary fraction is below 0.3.
    schedule = IndiSeekModel(mdata, specific=NCEClub(**options))._stages()[-1].schedule
    assert (int(schedule.warmup * 40), int(schedule.ramp * 40)) == epochs


def test_codes_of_few_proteins_have_as_many_dimensions_as_in_the_paper(paper):
    model = paper[0]
    codes = latents(model)
    assert codes["joint"].shape[1] == codes["specific_rna"].shape[1] == codes["specific_prot"].shape[1] == 50
    assert all(np.isfinite(code).all() for code in codes.values())
    assert model.certify().verdict


def test_what_is_cut_or_wider_than_the_features_is_said(make_mdata, log):
    mdata = make_mdata()
    with log.at_level(logging.INFO, logger="indiseek"):
        IndiSeekModel(mdata, **PAPER.model)
    assert "'prot': 14 features, as they are, not the 200 principal components asked for: it has no more" in log.text
    assert "'prot': 50 dimensions of the specific code, of 13 of features" in log.text
    assert "'rna'" not in log.text.split("IndiSeekModel:")[0]
    log.clear()
    few = pair(rna=mdata["rna"][:, :120].copy(), prot=mdata["prot"].copy())
    with log.at_level(logging.INFO, logger="indiseek"):
        model = IndiSeekModel(few, **PAPER.model)
    assert "'rna': 120 principal components, not the 200 principal components asked for" in log.text
    model.train(**SHORT | FAST, write_latents=False)
    assert model.get_features(modality="rna").shape[1] == 120
    log.clear()
    few = pair(rna=_values(20, counts=False), prot=_values(30, counts=False))
    with log.at_level(logging.INFO, logger="indiseek"):
        IndiSeekModel(few, **PAPER.model)
    assert "50 dimensions of the shared codes, of 30 of features" in log.text


def test_wider_codes_are_refused_where_nobody_asked_for_them(mdata):
    with pytest.raises(ValueError, match="expected n_specific of at most 13"):
        IndiSeekModel(mdata, specific="nce-club", n_specific=50)


def _values(n_features: int, *, counts: bool) -> AnnData:
    rng = np.random.default_rng(n_features)
    x = rng.poisson(3, (120, n_features)) if counts else rng.normal(size=(120, n_features))
    adata = AnnData(x.astype(np.float32))
    adata.obs_names = [f"cell_{i}" for i in range(120)]
    adata.var_names = [f"{n_features}_{i}" for i in range(n_features)]
    return adata


@pytest.mark.parametrize(
    ("n_components", "n_features", "counts", "transform"),
    [
        (None, 60, False, ScalePCA),
        (None, 60, True, CLRPCA),
        (60, 60, False, Scale),
        (60, 60, True, CLR),
        (59, 60, False, ScalePCA),
        (59, 60, True, CLRPCA),
    ],
)
def test_so_many_features_stay_as_they_are(n_components, n_features, counts, transform):
    mdata = pair(rna=_values(20, counts=False), prot=_values(n_features, counts=counts))
    model = IndiSeekModel(mdata, n_components=n_components)
    found = model._transforms["prot"]
    assert type(found) is transform
    assert getattr(found, "n_components", n_components) == n_components
    assert type(model._transforms["rna"]) is Scale


def test_own_transforms_go_before_a_number_of_components(mdata):
    model = IndiSeekModel(mdata, n_components=30, transforms={"rna": LogNormalizePCA(n_components=7)})
    assert model._transforms["rna"].n_components == 7 and type(model._transforms["prot"]) is CLR


def test_a_fit_comes_back_from_its_file(paper, tmp_path):
    model = paper[0]
    model.save(tmp_path / "model")
    loaded = IndiSeekModel.load(tmp_path / "model", model._mdata)
    assert loaded._options == model._options
    np.testing.assert_array_equal(latents(loaded)["specific_prot"], latents(model)["specific_prot"])
