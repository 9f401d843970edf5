"""Search of the shared space and of what the specific stage needs, on real cells."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from indiseek import metrics
from indiseek.data import CellTensors
from indiseek.models import Flow, IndiSeekModel, NCEClub
from indiseek.nn import Encoder
from indiseek.objectives import CLIPObjective, clip_loss
from indiseek.tuning import FILE_NAME, Tuning, choose_lam, choose_shared
from indiseek.tuning import _measures as measures_module
from indiseek.tuning import _search as search_module

N_CELLS = 300
SPLIT = {"train_size": 0.5, "validation_size": 0.4}
QUICK = SPLIT | {"max_epochs": 2, "accelerator": "cpu", "show_progress": False, "seed": 3}
SMALL_GRID = {"n_shared": (3, 4), "alignment": (0.0, 5.0)}
NCE = {"specific": NCEClub(critic_hidden=(16,)), "n_specific": 3, "encoder": Encoder(hidden=(16,))}
FLOW = {"specific": Flow(n_context=5), "encoder": Encoder(hidden=(16,))}


@pytest.fixture
def short(monkeypatch):
    """What the modalities know of each other by a ridge, which is quick: for tests of the search, not its measures."""

    def conditional_mean(features, given, *, reference, seed):
        target, design = reference
        gram = design.T @ design + np.eye(design.shape[1])
        return given @ np.linalg.solve(gram, design.T @ target)

    monkeypatch.setattr(measures_module, "conditional_mean", conditional_mean)


@pytest.fixture(scope="module")
def tuned(make_mdata):
    """A tuned NCE-CLUB model. Not to be changed."""
    model = IndiSeekModel(make_mdata(N_CELLS), **NCE)
    return model, model.tune(**SMALL_GRID, lam=(1.0, 10.0), **QUICK)


@pytest.fixture(scope="module")
def trained_as_chosen(tuned, make_mdata):
    """A model trained with what was chosen. Not to be changed."""
    chosen = dict(tuned[1].chosen)
    club = dataclasses.replace(NCE["specific"], lam=chosen.pop("lam"))
    model = IndiSeekModel(make_mdata(N_CELLS), **NCE | chosen | {"specific": club})
    model.train(write_latents=False, **QUICK)
    return model


@pytest.fixture(scope="module")
def tuned_flow(make_mdata):
    """A tuned flow model. Not to be changed."""
    model = IndiSeekModel(make_mdata(N_CELLS), **FLOW)
    return model, model.tune(n_shared=[3], alignment=[5.0], **QUICK)


def measured(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds")


def test_every_pair_is_tried_and_then_every_lam_on_the_chosen_pair(tuned):
    _, tuning = tuned
    shared = tuning.table[tuning.table["stage"] == "shared"]
    pairs = list(zip(shared["n_shared"], shared["alignment"], strict=True))
    assert pairs == [(3, 0.0), (3, 5.0), (4, 0.0), (4, 5.0)]
    specific = tuning.table[tuning.table["stage"] == "specific"]
    assert specific["lam"].tolist() == [1.0, 10.0]
    assert set(specific["n_shared"]) == {tuning.chosen["n_shared"]}
    assert tuning.table["chosen"].sum() == 2
    assert tuning.n_cells == 120
    assert tuning.dimensions.empty and tuning.n_specific == {}


def test_the_choice_follows_the_rules(tuned):
    _, tuning = tuned
    shared = tuning.table[tuning.table["stage"] == "shared"]
    choice = choose_shared(shared)
    specific = tuning.table[tuning.table["stage"] == "specific"].reset_index(drop=True)
    lam = choose_lam(specific)
    assert tuning.chosen == {**shared.loc[choice.row, ["n_shared", "alignment"]], "lam": specific["lam"][lam.row]}
    assert tuning.passed == (choice.passed and lam.passed)
    assert choice.why in tuning.reasons[0] and lam.why in tuning.reasons[1]


def test_the_model_takes_the_choice_and_nothing_else_changes(tuned, make_mdata):
    model, tuning = tuned
    before = IndiSeekModel(make_mdata(N_CELLS), **NCE)._options
    chosen = dict(tuning.chosen)
    specific = dataclasses.replace(before.specific, lam=chosen.pop("lam"))
    assert model._options == dataclasses.replace(before, **chosen, specific=specific)
    assert not model.is_trained


def test_training_gives_the_shared_codes_that_were_measured(tuned, trained_as_chosen):
    (_, tuning), model = tuned, trained_as_chosen
    rows = model.validation_indices
    codes = [model.get_latent_representation(modality=name, indices=rows) for name in model.modalities]
    row = tuning.table[(tuning.table["stage"] == "shared") & tuning.table["chosen"]].iloc[0]
    assert row["foscttm"] == pytest.approx(metrics.foscttm(*codes), abs=1e-6)
    scale = model.module.objective("shared").log_scale.exp().item()
    loss = clip_loss(*(torch.as_tensor(code) for code in codes), scale)
    assert row["infonce"] == pytest.approx(loss.item(), abs=1e-4)


@pytest.mark.parametrize("other", [{"seed": 4}, {"train_size": 0.6}])
def test_training_on_another_split_than_that_of_tuning_is_refused(tuned, other):
    model, _ = tuned
    with pytest.raises(ValueError, match="expected the split on which the model was tuned, .* cells that the choice"):
        model.train(**QUICK | other)
    assert not model.is_trained


@pytest.mark.usefixtures("short")
def test_a_split_given_as_arrays_is_recognised_in_training(make_mdata):
    model = IndiSeekModel(make_mdata(N_CELLS), **NCE)
    parts = [np.arange(160), np.arange(160, 280)]
    options = {"external_indexing": parts, "max_epochs": 1, "accelerator": "cpu", "show_progress": False}
    model.tune(n_shared=[3], alignment=[5.0], lam=[1.0], **options)
    with pytest.raises(ValueError, match="expected the split on which the model was tuned"):
        model.train(**options | {"external_indexing": [parts[0][1:], parts[1]]})
    model.train(**options | {"external_indexing": [part.copy() for part in parts]})
    assert np.array_equal(model.train_indices, parts[0])


def test_content_and_excess_are_what_the_metrics_say_of_the_joint_code(tuned, trained_as_chosen):
    (_, tuning), model = tuned, trained_as_chosen
    row = tuning.table[(tuning.table["stage"] == "shared") & tuning.table["chosen"]].iloc[0]
    x = {name: model.get_features(modality=name, indices=model.validation_indices) for name in model.modalities}
    seen = {name: model.get_features(modality=name, indices=model.train_indices) for name in model.modalities}
    joint = model.get_latent_representation(indices=model.validation_indices)
    for name, other in (("rna", "prot"), ("prot", "rna")):
        mean = metrics.conditional_mean(x[name], x[other], reference=(seen[name], seen[other]))
        # Folds are drawn otherwise.
        assert row[f"content_{name}"] == pytest.approx(metrics.probe_r2(joint, mean, probe="nonlinear"), abs=0.1)
        assert row[f"excess_{name}"] == pytest.approx(metrics.leakage(joint, x[name] - mean).above_null, abs=0.1)


@pytest.mark.usefixtures("short")
def test_values_of_test_cells_change_nothing(make_mdata):
    parts = [np.arange(150), np.arange(150, 270), np.arange(270, N_CELLS)]
    options = {key: value for key, value in QUICK.items() if key not in SPLIT}

    def table(first: int | None, last: int | None) -> pd.DataFrame:
        mdata = make_mdata(N_CELLS)
        rows = np.arange(N_CELLS)
        rows[first:last] = rows[first:last][::-1]
        mdata["rna"].X = mdata["rna"].X[rows]
        mdata["prot"].X[first:last] += 3
        model = IndiSeekModel(mdata, **NCE)
        return measured(model.tune(n_shared=[3], alignment=[5.0], lam=[1.0], external_indexing=parts, **options).table)

    untouched = table(0, 0)
    # Single precision depends on where arrays begin in memory.
    pd.testing.assert_frame_equal(table(270, None), untouched, rtol=1e-3)
    of_validation = table(150, 270)
    assert abs(of_validation["infonce"][0] - untouched["infonce"][0]) > 0.1


def test_a_flow_reports_how_many_dimensions_carry_the_private_signal(tuned_flow):
    model, tuning = tuned_flow
    assert tuning.chosen == {"n_shared": 3, "alignment": 5.0}
    assert model._options.n_specific is None
    assert set(tuning.n_specific) == {"rna", "prot"}
    for name, part in tuning.dimensions.groupby("modality"):
        assert part["n_specific"].tolist() == list(range(1, len(part) + 1))
        needed = tuning.n_specific[name]
        most = part["private"].max()
        assert (part["private"].iloc[: needed - 1] < 0.95 * most).all()
        assert part["private"].iloc[needed - 1] >= 0.95 * most
    assert np.isfinite(tuning.table["leakage"].iloc[-1])
    assert "all are kept unless choose_n_specific=True" in tuning.reasons[1]


@pytest.mark.usefixtures("short")
def test_the_number_of_the_flows_dimensions_is_set_if_asked_for(make_mdata, tmp_path):
    options = {"n_shared": [3], "alignment": [5.0], "directory": tmp_path, **QUICK}
    suggested = IndiSeekModel(make_mdata(N_CELLS), **FLOW).tune(**options)
    # The number that the user had is no part of the question, and so the results are found again.
    model = IndiSeekModel(make_mdata(N_CELLS), **FLOW, n_specific=2)
    tuning = model.tune(choose_n_specific=True, **options)
    assert tuning.chosen["n_specific"] == suggested.n_specific == model._options.n_specific
    pd.testing.assert_frame_equal(tuning.table, suggested.table)
    model.train(write_latents=False, **QUICK)
    for name, n in tuning.n_specific.items():
        assert model.get_latent_representation(modality=name, kind="specific").shape == (N_CELLS, n)


@pytest.mark.usefixtures("short")
def test_a_flow_on_the_shared_codes_themselves(make_mdata):
    model = IndiSeekModel(make_mdata(N_CELLS), **FLOW | {"specific": Flow(n_context=0)})
    tuning = model.tune(n_shared=[3], alignment=[5.0], **QUICK)
    assert len(tuning.table) == 2


@pytest.mark.usefixtures("short")
def test_a_second_call_skips_what_is_there_and_a_wider_grid_adds_to_it(make_mdata, tmp_path, monkeypatch):
    fits = []
    fit = search_module.fit_stage
    monkeypatch.setattr(search_module, "fit_stage", lambda *a, **k: (fits.append(k["name"]), fit(*a, **k))[1])
    options = {"alignment": [5.0], "lam": [1.0], "directory": tmp_path, **QUICK}
    first = IndiSeekModel(make_mdata(N_CELLS), **NCE).tune(n_shared=[3], **options)
    assert fits == ["shared", "specific"]
    again = IndiSeekModel(make_mdata(N_CELLS), **NCE).tune(n_shared=[3], **options)
    assert fits == ["shared", "specific"]
    pd.testing.assert_frame_equal(again.table, first.table)
    wider = IndiSeekModel(make_mdata(N_CELLS), **NCE).tune(n_shared=[3], **options | {"lam": [1.0, 10.0]})
    # The chosen shared codes are trained again for the new lam, as they were.
    assert fits == ["shared", "specific", "shared", "specific"]
    pd.testing.assert_frame_equal(wider.table.iloc[:1], first.table.iloc[:1])
    fresh = IndiSeekModel(make_mdata(N_CELLS), **NCE).tune(n_shared=[3], **options | {"lam": [10.0], "directory": None})
    row = ["reconstruction", "leakage"]
    pd.testing.assert_series_equal(wider.table[row].iloc[-1], fresh.table[row].iloc[-1], check_names=False)


@pytest.mark.usefixtures("short")
def test_results_of_other_settings_are_refused(make_mdata, tmp_path):
    grid = {"n_shared": [3], "alignment": [0.0], "lam": [1.0], "directory": tmp_path, **QUICK}
    IndiSeekModel(make_mdata(N_CELLS), **NCE).tune(**grid)
    found = (tmp_path / FILE_NAME).read_bytes()
    for arguments, options, differing in (
        ({}, {"seed": 4}, "'seed', 'split', 'values'"),
        ({"encoder": Encoder(hidden=(17,))}, {}, "'options'"),
        ({}, {"max_epochs": 3}, "'settings'"),
    ):
        model = IndiSeekModel(make_mdata(N_CELLS), **NCE | arguments)
        before = model._options
        with pytest.raises(ValueError, match=rf"others that differ in \[{differing}\]; give another directory"):
            model.tune(**grid | options)
        assert model._options == before
        assert (tmp_path / FILE_NAME).read_bytes() == found


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_stopped_or_failed_the_model_is_as_it_was_and_finished_candidates_are_kept(
    make_mdata, tmp_path, monkeypatch, error
):
    fit = search_module.fit_stage
    fits = []

    def stopped(*args, **options):
        fits.append(1)
        if len(fits) < 3:
            return fit(*args, **options)
        if error is FloatingPointError:
            raise error
        # What Lightning makes of Ctrl-C.
        return dataclasses.replace(fit(*args, **options), interrupted=True)

    monkeypatch.setattr(search_module, "fit_stage", stopped)
    model = IndiSeekModel(make_mdata(N_CELLS), **NCE)
    before = model._options
    with pytest.raises(error):
        model.tune(**SMALL_GRID, directory=tmp_path, **QUICK)
    assert model._options == before
    assert not model.is_trained
    assert len((tmp_path / FILE_NAME).read_text().splitlines()) == 1 + 2


@pytest.mark.usefixtures("short")
def test_the_closed_form_is_tuned_and_goes_on_from_its_file(make_mdata, tmp_path):
    options = {"specific": "closed-form", "encoder": Encoder(hidden=(16,))}
    grid = {"n_shared": [3, 4], "alignment": [5.0], "directory": tmp_path}
    tables = [IndiSeekModel(make_mdata(N_CELLS), **options).tune(**grid, **QUICK).table for _ in range(2)]
    assert (tables[0]["stage"] == "shared").sum() == 2
    # With the seconds: nothing was measured a second time.
    pd.testing.assert_frame_equal(tables[0], tables[1])


@pytest.mark.usefixtures("short")
def test_one_line_says_what_was_chosen_and_why(make_mdata, log):
    tuning = IndiSeekModel(make_mdata(N_CELLS), **NCE).tune(n_shared=[3], alignment=[5.0], lam=[1.0], **QUICK)
    (message,) = [record.message for record in log.records if "Chosen" in record.message]
    assert message.startswith("Chosen on 120 validation cells: n_shared=3, alignment=5, lam=1")
    assert all(reason in message for reason in tuning.reasons)
    assert message.endswith("train() uses it, with the same split and seed.")
    assert "\n" not in message


def test_summary_and_html_hold_choice_and_reasons(tuned):
    _, tuning = tuned
    lines = tuning.summary().splitlines()
    assert lines[0].startswith("Chosen on 120 validation cells: n_shared=")
    assert [line.strip(" .") for line in lines[1:]] == [reason.strip(".") for reason in tuning.reasons]
    page = tuning._repr_html_()
    assert "<table" in page and "infonce_se" in page and page.count("<li>") == 2


def test_a_choice_outside_the_limits_is_called_so():
    tuning = Tuning(
        pd.DataFrame(), {"n_shared": 4, "n_specific": {"a<b": 2}}, False, ("x < y",), {}, pd.DataFrame(), 10
    )
    headline = "Chosen on 10 validation cells: n_shared=4, n_specific={'a<b': 2}; NOT within the limits"
    assert tuning.summary() == f"{headline}\n  x < y."
    assert "a&lt;b" in tuning._repr_html_() and "x &lt; y" in tuning._repr_html_()
    with pytest.raises(dataclasses.FrozenInstanceError):
        tuning.passed = True


@pytest.mark.usefixtures("short")
def test_a_progress_bar_over_the_candidates(make_mdata, capsys):
    model = IndiSeekModel(make_mdata(N_CELLS), **NCE)
    model.tune(n_shared=[3], alignment=[0.0, 5.0], lam=[1.0], **QUICK | {"show_progress": True})
    shown = capsys.readouterr().err
    assert "tune" in shown and "3/3" in shown and "epoch" not in shown


def test_a_trained_model_is_refused(trained):
    with pytest.raises(RuntimeError, match="expected an untrained model, got a trained one; make a new model"):
        trained[0].tune(**QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_shared": []}, "expected at least one value of n_shared to try, got none"),
        ({"n_shared": [1]}, "expected n_shared to be a .*number of at least 2.*, got 1"),
        ({"n_shared": [4.5]}, "expected whole numbers for n_shared, got 4.5; round them"),
        ({"n_shared": [4, 51]}, "expected n_shared of at most 50"),
        ({"alignment": [-1.0]}, "expected alignment to be a .*number of at least 0.*, got -1"),
        ({"lam": [float("nan")]}, "expected lam to be a .*number of at least 0.*, got nan"),
        ({"validation_size": 0.2}, "expected at least 100 validation cells, got 60; give a larger validation_size"),
        ({"max_epochs": 0}, "expected max_epochs to be a .*number of at least 1.*, got 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(make_mdata, options, message):
    model = IndiSeekModel(make_mdata(N_CELLS), **NCE)
    with pytest.raises(ValueError, match=message):
        model.tune(**QUICK | options)


def test_infonce_of_cells_has_the_losss_mean_and_is_each_cells_own():
    objective = CLIPObjective({"a": 4, "b": 3, "c": 2}, 5, encoder=Encoder(hidden=(8,)))
    generator = torch.Generator().manual_seed(0)
    batch = CellTensors(tuple(torch.randn(7, n, generator=generator) for n in (4, 3, 2)))
    with torch.no_grad():
        found = objective.infonce_of_cells(batch)
        codes = objective.latents(batch)
        assert float(found.mean()) == pytest.approx(float(objective.loss(batch).terms["infonce"]), abs=1e-6)
        scale = objective.log_scale.exp().item()
    expected = np.zeros(7)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for a, b in ((codes[i], codes[j]), (codes[j], codes[i])):
            for n in range(7):
                scores = [scale * float(a[n] @ b[k]) for k in range(7)]
                expected[n] += (np.logaddexp.reduce(scores) - scores[n]) / 6
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
