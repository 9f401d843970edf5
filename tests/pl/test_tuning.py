from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from indiseek import pl


@pytest.fixture
def result() -> SimpleNamespace:
    shared = pd.DataFrame(
        {
            "stage": "shared",
            "n_shared": [8, 4, 4, 8],
            "alignment": [0.0, 0.0, 10.0, 10.0],
            "infonce": [4.2, 4.3, 4.4, 4.35],
            "infonce_se": [0.04, 0.03, 0.02, 0.01],
            "content_rna": [0.8, 0.7, 0.6, 0.9],
            "content_prot": [0.9, 0.9, 0.8, 0.7],
            "excess_rna": [0.0, 0.01, 0.02, 0.01],
            "excess_prot": [0.3, 0.2, 0.01, 0.05],
        }
    )
    specific = pd.DataFrame(
        {"stage": "specific", "n_shared": 4, "alignment": 10.0, "lam": [10.0, 1.0], "leakage": [0.2, 0.02],
         "reconstruction": [0.3, 0.6]}
    )  # fmt: skip
    table = pd.concat([shared, specific], ignore_index=True)
    return SimpleNamespace(table=table, chosen={"n_shared": 4, "alignment": 10.0, "lam": 1.0})


def lines(ax) -> dict[str, np.ndarray]:
    return {container.get_label(): container.lines[0].get_xydata() for container in ax.containers}


def marked(ax) -> list[list[float]]:
    (points,) = [points for points in ax.collections if points.get_gid() == "chosen"]
    return points.get_offsets().tolist()


def test_content_and_infonce_over_the_worst_excess_a_line_for_each_alignment(result):
    content, infonce, _ = pl.tuning(result).axes
    assert list(lines(content)) == ["0", "10"]
    np.testing.assert_allclose(lines(content)["0"], [[0.2, 0.8], [0.3, 0.85]])
    np.testing.assert_allclose(lines(content)["10"], [[0.02, 0.7], [0.05, 0.8]])
    np.testing.assert_allclose(lines(infonce)["0"], [[0.2, 4.3], [0.3, 4.2]])
    np.testing.assert_allclose(lines(infonce)["10"], [[0.02, 4.4], [0.05, 4.35]])
    assert [text.get_text() for text in content.texts] == ["8", "4", "4", "8"]
    bars = infonce.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[0][:, 1], [4.27, 4.33])


def test_the_chosen_one_is_marked_in_each_panel(result):
    content, infonce, lam = pl.tuning(result).axes
    np.testing.assert_allclose(marked(content), [[0.02, 0.7]])
    np.testing.assert_allclose(marked(infonce), [[0.02, 4.4]])
    np.testing.assert_allclose(marked(lam), [[0.02, 0.6]])
    np.testing.assert_allclose(lam.lines[0].get_xydata(), [[0.02, 0.6], [0.2, 0.3]])


def test_no_third_panel_without_lam(result):
    flow = result.table.drop(columns="lam").iloc[:5]
    figure = pl.tuning(SimpleNamespace(table=flow, chosen={"n_shared": 4, "alignment": 10.0}))
    assert len(figure.axes) == 2
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_small_differences_of_content_do_not_fill_the_panel(result):
    result.table.loc[:3, ["content_rna", "content_prot"]] = [[0.9, 0.9], [0.9, 0.91], [0.91, 0.9], [0.9, 0.9]]
    low, high = pl.tuning(result).axes[0].get_ylim()
    assert high - low == pytest.approx(0.1)
    assert low < 0.9 < 0.905 < high


def test_the_table_is_not_changed(result):
    before = result.table.copy()
    pl.tuning(result)
    pd.testing.assert_frame_equal(result.table, before)


@pytest.mark.parametrize("table", [pd.DataFrame(), pd.DataFrame({"stage": ["specific"]})])
def test_nothing_to_draw_is_an_error(table):
    with pytest.raises(ValueError, match="expected candidates of stage 'shared' in the table, got .*model.tune"):
        pl.tuning(SimpleNamespace(table=table, chosen={}))
