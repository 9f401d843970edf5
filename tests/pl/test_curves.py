from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from indiseek import pl


def _table(values) -> pd.DataFrame:
    return pd.DataFrame({"value": values}, index=pd.Index(range(len(values)), name="epoch"))


@pytest.fixture
def history() -> dict[str, pd.DataFrame]:
    return {
        "shared/train_loss": _table([3.0, 2.0, 1.0, 0.5]),
        "shared/validation_loss": _table([3.0, 2.5, 2.0, 2.6]),
        "specific/train_reconstruction_prot": _table([0.9, 0.8, 0.7]),
        "specific/train_loss": _table([5.0, 4.0, 3.0]),
        "specific/validation_reconstruction_prot": _table([0.9, 0.6, 0.85]),
        "learning_rate": _table([1e-3]),
    }


def _best(ax) -> list[float]:
    return [float(line.get_xdata()[0]) for line in ax.lines if str(line.get_label()).startswith("best epoch")]


def test_one_panel_for_each_stage_and_quantity(history):
    figure = pl.training_curves(history)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Shared: loss",
        "Specific: loss",
        "Specific: reconstruction prot",
    ]
    shared = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(shared) == {"train", "validation", "best epoch (2)"}
    np.testing.assert_array_equal(shared["train"].get_ydata(), [3.0, 2.0, 1.0, 0.5])
    np.testing.assert_array_equal(shared["validation"].get_ydata(), [3.0, 2.5, 2.0, 2.6])
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_best_epoch_is_that_of_the_stages_validation_loss(history):
    shared, loss, reconstruction = pl.training_curves(history).axes
    assert _best(shared) == [2]
    # Without a validation loss nothing was early-stopped, whatever a term of it does.
    assert _best(loss) == _best(reconstruction) == []
    history["specific/validation_loss"] = _table([4.0, 5.0, 6.0])
    _, loss, reconstruction = pl.training_curves(history).axes
    assert _best(loss) == _best(reconstruction) == [0]


def test_best_epoch_is_read_from_the_index_and_gaps_are_left_out():
    curve = pd.DataFrame({"value": [3.0, np.nan, 1.0, 2.0]}, index=pd.Index([10, 20, 30, 40], name="epoch"))
    (ax,) = pl.training_curves({"validation_loss": curve}).axes
    assert _best(ax) == [30]
    (line,) = [line for line in ax.lines if line.get_label() == "validation"]
    assert line.get_xdata().tolist() == [10, 30, 40]
    assert ax.get_title(loc="left") == "loss"


def test_the_history_is_not_changed(history):
    before = {name: table.copy() for name, table in history.items()}
    pl.training_curves(history)
    for name, table in before.items():
        pd.testing.assert_frame_equal(history[name], table)


@pytest.mark.parametrize("history", [{}, {"learning_rate": _table([1.0])}, {"shared/train_loss": _table([])}])
def test_no_curves_is_an_error(history):
    with pytest.raises(ValueError, match="expected names such as 'shared/train_loss' in history.*call model.train"):
        pl.training_curves(history)


def test_terms_are_named_in_words_and_every_stage_fills_its_row():
    names = ("shared/train_infonce", "shared/train_misalignment", "shared/train_loss", "specific/validation_nll_prot")
    figure = pl.training_curves({name: _table([2.0, 1.0]) for name in names})
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Shared: loss",
        "Shared: InfoNCE, nats",
        "Shared: 1 - cosine of a cell's codes",
        "Specific: prot, -log p per axis, nats",
    ]
    figure.draw_without_rendering()
    first, *_, last_of_shared, alone = [ax.get_position() for ax in figure.axes]
    assert alone.width > 2.5 * first.width and abs(alone.x1 - last_of_shared.x1) < 0.02
