from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.collections import PathCollection
from matplotlib.image import imread
from scipy import sparse

from indiseek import pl


def _points(figure) -> list[PathCollection]:
    return [c for ax in figure.axes for c in ax.collections if isinstance(c, PathCollection)]


def _bars(figure) -> list:
    return [bar for ax in figure.axes for bar in ax.child_axes]


def _pixels(figure) -> np.ndarray:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    buffer.seek(0)
    return imread(buffer)


def test_rows_are_spaces_and_columns_are_colours(mdata, coordinates):
    figure = pl.spaces(mdata, color=["CD3_TotalSeqB", "MS4A1", "type", "size"], coordinates=coordinates)
    panels = [ax for ax in figure.axes if any(isinstance(c, PathCollection) for c in ax.collections)]
    assert len(panels) == 12
    # The tag that all proteins share is left out.
    assert [ax.get_title() for ax in panels if ax.get_title()] == ["CD3", "MS4A1", "type", "size"]
    assert [ax.get_ylabel() for ax in panels if ax.get_ylabel()] == ["Shared", "RNA-specific", "Protein-specific"]
    assert len({panel.get_subplotspec().rowspan.start for panel in panels}) == 3
    assert all(len(points.get_offsets()) == 120 for points in _points(figure))


def test_the_first_model_of_which_there_are_codes_is_shown(mdata, coordinates):
    rng = np.random.default_rng(2)
    for key in ("X_comm", "X_comm_rna", "X_comm_prot"):
        mdata.obsm[key] = rng.normal(size=(120, 4))
        coordinates[key] = rng.normal(size=(120, 2))
    assert _titles(pl.spaces(mdata, color="type", coordinates=coordinates))[0] == "Shared"
    del mdata.obsm["X_indiseek_shared"]
    titles = _titles(pl.spaces(mdata, color="type", coordinates=coordinates))
    assert titles == ["Fused", "RNA projected", "Protein projected"]
    named = pl.spaces(mdata, color="type", coordinates=coordinates, spaces=["X_comm_rna"])
    assert _titles(named) == ["RNA projected"]


def _titles(figure) -> list[str]:
    return [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]


def test_every_panel_shows_something(mdata, coordinates):
    figure = pl.spaces(mdata, color=["CD3_TotalSeqB", "type"], coordinates=coordinates)
    image = _pixels(figure)
    panels = [ax for ax in figure.axes if any(isinstance(c, PathCollection) for c in ax.collections)]
    height = image.shape[0]
    for ax in panels:
        box = ax.get_window_extent().transformed(mpl.transforms.Affine2D().scale(50 / figure.dpi))
        inside = image[height - int(box.y1) : height - int(box.y0), int(box.x0) : int(box.x1), :3]
        assert (inside.std(axis=2) > 0.05).mean() > 0.01


def test_one_cell_keeps_its_place_and_colour_in_every_row(mdata, coordinates):
    mdata["prot"].X[:, 1] = 0
    mdata["prot"].X[7, 1] = 50
    figure = pl.spaces(mdata, color="CD19_TotalSeqB", coordinates=coordinates)
    brightest = mpl.colormaps["viridis"](1.0)
    # One cell in 120 lies below the 99th percentile: the scale must widen, or a rare marker vanishes.
    for points, xy in zip(_points(figure), coordinates.values(), strict=True):
        bright = np.flatnonzero((points.get_facecolors() == brightest).all(axis=1))
        assert len(bright) == 1
        np.testing.assert_allclose(points.get_offsets()[bright[0]], xy[7])


def test_colour_scale_is_log_counts_clipped_at_percentiles(mdata, coordinates):
    counts = np.arange(120, dtype=np.float32)
    mdata["rna"].X[:, 2] = counts
    figure = pl.spaces(mdata, color=["LYZ", "size"], coordinates=coordinates, clip=(10, 90))
    bars = _bars(figure)
    assert [ax.get_xlabel() for ax in bars] == ["log(1 + count)", "value"]
    np.testing.assert_allclose(bars[0].get_xlim(), np.percentile(np.log1p(counts), [10, 90]), rtol=1e-6)
    np.testing.assert_allclose(bars[1].get_xlim(), np.percentile(mdata["prot"].obs["size"], [10, 90]), rtol=1e-6)


def test_points_are_drawn_in_a_random_order_fixed_by_the_seed(mdata, coordinates):
    order = [
        _points(pl.spaces(mdata, color="MS4A1", coordinates=coordinates, seed=s))[0].get_offsets() for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(order[0], order[1])
    assert not np.array_equal(order[0], order[2])
    assert not np.array_equal(order[0], coordinates["X_indiseek_shared"])


def test_unlabelled_cells_are_grey(mdata, coordinates):
    mdata.obs["type"] = mdata.obs["type"].cat.add_categories("empty")
    mdata.obs.loc[mdata.obs_names[:30], "type"] = np.nan
    figure = pl.spaces(mdata, color="type", coordinates=coordinates)
    grey = np.array(mpl.colors.to_rgba("#D0D0D0"))
    is_grey = np.isclose(_points(figure)[0].get_facecolors(), grey).all(axis=1)
    expected = mdata.obs["type"].isna() | (mdata.obs["type"] == "unassigned")
    assert is_grey.sum() == expected.sum()
    (legend,) = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["B", "T", "unassigned"]


def test_many_categories_have_different_colours(mdata, coordinates):
    mdata.obs["fine"] = pd.Categorical([f"type {i % 20}" for i in range(120)])
    figure = pl.spaces(mdata, color="fine", coordinates=coordinates)
    assert len(np.unique(_points(figure)[0].get_facecolors(), axis=0)) == 20


def test_the_same_name_in_two_modalities_needs_a_prefix(mdata, coordinates):
    mdata["prot"].var_names = ["CD4", "CD19", "CD45RA"]
    with pytest.raises(ValueError, match="got 'CD4' in .*; write 'rna:CD4' or 'prot:CD4'"):
        pl.spaces(mdata, color="CD4", coordinates=coordinates)
    colours = []
    for name in ("rna:CD4", "prot:CD4"):
        colours.append(_points(pl.spaces(mdata, color=name, coordinates=coordinates))[0].get_facecolors())
    assert not np.array_equal(*colours)


def test_cells_that_a_modality_lacks_are_grey(coordinates, mdata):
    with mudata.set_options(pull_on_update=False):
        partial = mudata.MuData({"rna": mdata["rna"].copy(), "prot": mdata["prot"][10:].copy()})
    xy = {"X": coordinates["X_indiseek_shared"]}
    partial.obsm["X"] = np.zeros((120, 3))
    figure = pl.spaces(partial, color="CD3_TotalSeqB", spaces=["X"], coordinates=xy)
    is_grey = np.isclose(_points(figure)[0].get_facecolors(), mpl.colors.to_rgba("#D0D0D0")).all(axis=1)
    assert is_grey.sum() == 10


def test_sparse_and_normalised_values(mdata, coordinates):
    dense = _points(pl.spaces(mdata, color="LYZ", coordinates=coordinates))[0].get_facecolors()
    mdata["rna"].X = sparse.csr_matrix(mdata["rna"].X)
    np.testing.assert_array_equal(
        _points(pl.spaces(mdata, color="LYZ", coordinates=coordinates))[0].get_facecolors(), dense
    )
    mdata["rna"].X = mdata["rna"].X * np.float32(0.3)
    bars = _bars(pl.spaces(mdata, color="LYZ", coordinates=coordinates))
    assert [ax.get_xlabel() for ax in bars] == ["value"]


def test_notebooks_can_show_the_figure_without_pyplot(mdata, coordinates):
    figure = pl.spaces(mdata, color="CD3_TotalSeqB", coordinates=coordinates)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert isinstance(figure, mpl.figure.Figure)


def test_drawing_opens_no_pyplot_figure(mdata, coordinates):
    parameters = dict(mpl.rcParams)
    pl.spaces(mdata, color="type", coordinates=coordinates)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == parameters


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"color": "CD45RO"}, KeyError, "got 'CD45RO'; did you mean one of .*'CD45RA_TotalSeqB'"),
        ({"color": "cd19"}, KeyError, r"did you mean one of \['CD19_TotalSeqB'"),
        ({"color": "prot:MS4A1"}, KeyError, r"expected a column of .obs or a feature of \['rna', 'prot'\]"),
        ({"color": "qqqqqq"}, KeyError, "see mdata.obs and the var_names of each modality"),
        ({"color": []}, ValueError, "expected at least one colour and one space"),
        ({"color": "type", "spaces": ["X_pca"]}, KeyError, "expected latents in .*'X_pca'.*train.*write_latents"),
        ({"color": "type", "coordinates": {}}, ValueError, "expected coordinates for 'X_indiseek_shared'"),
        ({"color": "type", "clip": (99, 1)}, ValueError, "expected clip as two increasing percentiles"),
    ],
)
def test_errors_say_what_to_do(mdata, coordinates, options, error, message):
    with pytest.raises(error, match=message):
        pl.spaces(mdata, **{"coordinates": coordinates, **options})


def test_coordinates_of_other_cells_are_refused(mdata, coordinates):
    coordinates["X_indiseek_rna"] = coordinates["X_indiseek_rna"][:-1]
    with pytest.raises(ValueError, match=r"X_indiseek_rna'\] of shape \(120, 2\), got \(119, 2\)"):
        pl.spaces(mdata, color="type", coordinates=coordinates)


@pytest.mark.filterwarnings("error")
def test_names_that_are_no_plain_words_are_drawn_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    names = [r"$\foo$", "CD3 [/foo]", "\x1b[31mred", "a$b"]
    cells = pd.DataFrame(index=[f"c{i}" for i in range(40)])
    parts = {
        name: AnnData(rng.poisson(2.0, (40, 4)).astype(np.float32), obs=cells, var=pd.DataFrame(index=found))
        for name, found in {r"$\rna$": list("abcd"), "prot": names}.items()
    }
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData(parts)
    mdata.obs["kind"] = pd.Categorical(rng.choice([r"$\type$", "_hidden", "plain"], 40))
    mdata.obsm["X_indiseek_$rna$"] = rng.normal(size=(40, 3))
    keys = {"X_indiseek_$rna$": r"$\rna$-specific"}
    points = {key: rng.normal(size=(40, 2)) for key in keys}
    figure = pl.spaces(mdata, color=[*names, "kind"], spaces=keys, coordinates=points)
    figure.savefig(tmp_path / "spaces.png")
    titles = [ax.get_title() for ax in figure.axes]
    assert {r"\$\foo\$", "CD3 [/foo]", r"\x1b[31mred", r"a\$b"} <= set(titles)
    legend = next(ax.get_legend() for ax in figure.axes if ax.get_legend() is not None)
    assert {text.get_text().strip() for text in legend.get_texts()} == {r"\$\type\$", "_hidden", "plain"}


def test_colours_can_be_checked_before_there_are_codes(real_cells):
    pl.check_colors(real_cells, real_cells["prot"].var_names[0])
    with pytest.raises(KeyError, match="expected a column of .obs or a feature of .*, got 'NOSUCH'; see mdata.obs"):
        pl.check_colors(real_cells, [real_cells["prot"].var_names[0], "NOSUCH"])
