from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from indiseek.data import Cells, Scale, Setup, make_setup
from indiseek.data._values import (
    canonical_values,
    check_counts,
    check_finite,
    check_training_values,
    n_not_finite,
    summary_of,
)

DENSITIES = {"sparse": 0.2, "dense": 0.6}


def _counts(density: float, shape: tuple[int, int] = (40, 15)) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.poisson(5.0, shape) * (rng.random(shape) < density)).astype(np.float32)


def _explicit_zeros(x: np.ndarray) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(x + 1000)
    matrix.data -= 1000
    assert matrix.nnz == x.size
    return matrix


def _unsorted(x: np.ndarray) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(x)
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        matrix.indices[start:stop] = matrix.indices[start:stop][::-1].copy()
        matrix.data[start:stop] = matrix.data[start:stop][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def _duplicates(x: np.ndarray) -> sparse.csr_matrix:
    halves = sparse.coo_matrix(np.floor(x / 2)), sparse.coo_matrix(x - np.floor(x / 2))
    row, col, data = (np.concatenate([getattr(half, key) for half in halves]) for key in ("row", "col", "data"))
    order = np.argsort(row, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(x)))])
    return sparse.csr_matrix((data[order], col[order], indptr), shape=x.shape)


FORMS = {
    "dense": lambda x: x,
    "fortran": np.asfortranarray,
    "float64": lambda x: x.astype(np.float64),
    "int32": lambda x: x.astype(np.int32),
    "uint8": lambda x: x.astype(np.uint8),
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "csr_int": lambda x: sparse.csr_matrix(x.astype(np.int64)),
    "csr_float64": lambda x: sparse.csr_matrix(x.astype(np.float64)),
    "explicit_zeros": _explicit_zeros,
    "unsorted": _unsorted,
    "duplicates": _duplicates,
}


def _same(a, b) -> None:
    assert type(a) is type(b)
    if sparse.issparse(a):
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(a, part), getattr(b, part))
            assert getattr(a, part).dtype == getattr(b, part).dtype
    else:
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_values_gives_the_same_bits(form, density):
    x = _counts(DENSITIES[density])
    values = canonical_values(AnnData(FORMS[form](x)), None, "rna")
    assert sparse.issparse(values) is (density == "sparse")
    np.testing.assert_array_equal(values.toarray() if density == "sparse" else values, x)
    _same(values, canonical_values(AnnData(x.copy()), None, "rna"))


@pytest.mark.parametrize("form", ["dense", "csr_matrix", "csc_matrix", "csr_array"])
def test_views_give_the_same_bits(form):
    x = _counts(0.2)
    adata = AnnData(FORMS[form](x))
    view = adata[5:30:2, 3:]
    assert view.is_view
    _same(canonical_values(view, None, "rna"), canonical_values(AnnData(x[5:30:2, 3:].copy()), None, "rna"))


@pytest.mark.parametrize("form", ["dense", "float64", "int32", "csr_matrix"])
def test_backed_files_give_the_same_bits(form, tmp_path):
    x = _counts(0.2)
    path = tmp_path / "pair.h5mu"
    with mudata.set_options(pull_on_update=False):
        names = pd.DataFrame(index=[f"g{j}" for j in range(x.shape[1])])
        mudata.MuData({"rna": AnnData(FORMS[form](x), var=names), "prot": AnnData(x[:, :4])}).write(path)
        backed = mudata.read_h5mu(path, backed="r")
    assert backed.isbacked
    _same(canonical_values(backed["rna"], None, "rna")[:], canonical_values(AnnData(x), None, "rna"))
    backed.file.close()


def test_layers_are_read_where_named():
    adata = AnnData(np.zeros((40, 15), dtype=np.float32), layers={"counts": sparse.csc_matrix(_counts(0.2))})
    _same(canonical_values(adata, "counts", "rna"), canonical_values(AnnData(_counts(0.2)), None, "rna"))


def test_the_form_can_be_asked_for():
    x = _counts(0.2)
    assert isinstance(canonical_values(AnnData(x), None, "rna", as_sparse=False), np.ndarray)
    assert sparse.issparse(canonical_values(AnnData(_counts(0.6)), None, "rna", as_sparse=True))


@pytest.mark.parametrize("form", FORMS)
def test_input_is_not_changed(form):
    matrix = FORMS[form](_counts(0.2))
    before = matrix.copy()
    canonical_values(AnnData(matrix), None, "rna")
    if sparse.issparse(matrix):
        assert matrix.nnz == before.nnz and matrix.dtype == before.dtype
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(matrix, part), getattr(before, part))
    else:
        np.testing.assert_array_equal(matrix, before)


def test_values_in_canonical_form_are_not_copied():
    for x in (_counts(0.6), sparse.csr_matrix(_counts(0.2))):
        values = canonical_values(AnnData(x), None, "rna")
        parts = [(values.data, x.data)] if sparse.issparse(x) else [(values, x)]
        assert all(np.shares_memory(a, b) for a, b in parts)


def test_errors_of_reading_say_what_to_do():
    adata = AnnData(_counts(0.2), layers={"norm": _counts(0.2)})
    with pytest.raises(KeyError, match=r"expected layer 'raw' in modality 'rna', got layers \['norm'\]; name one"):
        canonical_values(adata, "raw", "rna")
    empty = AnnData(obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["g"]))
    with pytest.raises(TypeError, match="expected values in modality 'rna', got X = None; name a layer"):
        canonical_values(empty, None, "rna")
    words = AnnData(_counts(0.2))
    words.layers["words"] = np.full((40, 15), "a", dtype=object)
    with pytest.raises(TypeError, match="expected a numeric matrix in modality 'rna', got ndarray of dtype object"):
        canonical_values(words, "words", "rna")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(make, bad):
    x = _counts(0.2)
    x[3, 4] = x[7, 1] = bad
    with pytest.raises(ValueError, match="expected finite values in modality 'rna', got 2 that are NaN or infinite;"):
        check_finite(n_not_finite(make(x)), "rna")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_what_is_no_count_is_refused_with_a_way_out(make):
    x = _counts(0.2)
    x[0, 0] = -3
    with pytest.raises(ValueError, match=r"counts of at least 0 in modality 'rna', got -3; .*'rna': indiseek.data.Sca"):
        check_counts(summary_of(make(x)), "rna")
    x[0, 0] = 0.5
    with pytest.raises(ValueError, match="expected whole-number counts in modality 'rna', got fractions; name the la"):
        check_counts(summary_of(make(x)), "rna")


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_empty_cells_and_features_and_constant_features_are_named(make):
    cells, genes = pd.Index([f"cell{i}" for i in range(40)]), pd.Index([f"gene{j}" for j in range(15)])

    def check(x: np.ndarray, *, counts: bool = True) -> None:
        check_training_values(summary_of(make(x)), cells, genes, "rna", counts=counts)

    good = _counts(0.5)
    check(good)
    x = good.copy()
    x[[3, 8]] = 0
    with pytest.raises(ValueError, match="only zeros in modality 'rna' in 'cell3', 'cell8'; filter these cells out"):
        check(x)
    check(x, counts=False)
    x = good.copy()
    x[:, :7] = 0
    with pytest.raises(
        ValueError, match="only zeros in 'gene0', 'gene1', 'gene2', 'gene3', 'gene4' and 2 more; .*filter_genes"
    ):
        check(x)
    x = good.copy()
    x[:, 2] = 6
    for counts in (True, False):
        with pytest.raises(ValueError, match="expected features that vary in modality 'rna', .* every cell in 'gene2'"):
            check(x, counts=counts)


def _mdata(n_cells: int = 120, names=("rna", "prot")) -> mudata.MuData:
    cells = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(
            {
                name: AnnData(
                    _counts(0.6, (n_cells, 9)),
                    obs=cells.copy(),
                    var=pd.DataFrame(index=[f"{name}{j}" for j in range(9)]),
                )
                for name in names
            }
        )


def test_fewer_than_100_cells_are_refused():
    mdata = _mdata(99)
    with pytest.raises(ValueError, match="expected at least 100 cells, got 99; a model cannot be fitted to fewer"):
        Cells.to_train_on(mdata, make_setup(mdata), {})
    mdata = _mdata(100)
    cells, transforms = Cells.to_train_on(mdata, make_setup(mdata), {})
    assert cells.values["rna"].shape == (100, 9)
    assert {name: type(t).__name__ for name, t in transforms.items()} == {"rna": "LogNormalizePCA", "prot": "CLR"}


def test_values_that_are_not_counts_are_scaled():
    mdata = _mdata()
    mdata["rna"].X = mdata["rna"].X + 0.25
    _, transforms = Cells.to_train_on(mdata, make_setup(mdata), {})
    assert {name: t.name for name, t in transforms.items()} == {"rna": "scale", "prot": "clr"}


def test_the_users_transform_decides_what_is_checked():
    mdata = _mdata()
    mdata["rna"].X[0, 0] = -1
    setup = make_setup(mdata)
    with pytest.raises(ValueError, match="expected counts of at least 0 in modality 'rna', got -1"):
        Cells.to_train_on(mdata, setup, {})
    _, transforms = Cells.to_train_on(mdata, setup, {"rna": Scale()})
    assert transforms["rna"].name == "scale"


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("rna", "prot"), ("rna", "prot")),
        (("prot", "rna"), ("rna", "prot")),
        (("adt", "gex"), ("gex", "adt")),
        (("RNA", "ADT"), ("RNA", "ADT")),
        (("Ab", "atac", "GEX"), ("GEX", "Ab")),
        (("protein", "rna", "hto"), ("rna", "protein")),
        (("methylation", "atac"), ("methylation", "atac")),
        (("atac", "rna"), ("atac", "rna")),
    ],
)
def test_modalities_are_found_by_name_else_two_in_their_order(names, found):
    assert make_setup(_mdata(names=names)) == Setup(modalities=found, layers=dict.fromkeys(found))


@pytest.mark.parametrize("names", [("a", "b", "c"), ("rna", "atac", "hto"), ("rna", "gex", "prot"), ("rna",)])
def test_modalities_that_cannot_be_told_are_asked_for(names):
    with pytest.raises(ValueError, match=r"expected two modalities.*setup_mudata\(mdata, modalities=\["):
        make_setup(_mdata(names=names))


def test_a_choice_is_checked():
    mdata = _mdata(names=("rna", "prot", "atac"))
    assert make_setup(mdata, ["atac", "rna"], {"rna": None}).modalities == ("atac", "rna")
    for wrong in (["rna"], ["rna", "rna"], "rna", []):
        with pytest.raises(ValueError, match="expected at least two different modalities, got .*; for example"):
            make_setup(mdata, wrong)
    with pytest.raises(KeyError, match=r"expected modality 'adt', got a MuData with \['rna', 'prot', 'atac'\]"):
        make_setup(mdata, ["rna", "adt"])
    with pytest.raises(KeyError, match=r"layers for the modalities \['rna', 'prot'\], got layers for \['atac'\]"):
        make_setup(mdata, None, {"atac": "counts"})
    with pytest.raises(ValueError, match="expected modality names other than 'shared', .*rename the modality"):
        make_setup(_mdata(names=("shared", "other")), None, None)
    with pytest.raises(TypeError, match="expected a MuData with two modalities, got AnnData; build one with"):
        make_setup(mdata["rna"])


def test_unpaired_cells_are_refused():
    rna, prot = (_mdata()[name].copy() for name in ("rna", "prot"))
    with mudata.set_options(pull_on_update=False):
        fewer = mudata.MuData({"rna": rna, "prot": prot[:110].copy()})
        reordered = mudata.MuData({"rna": rna, "prot": prot[::-1].copy()})
    with pytest.raises(ValueError, match="expected paired cells.* got in 'prot' 10 cells without it; .*intersect_obs"):
        make_setup(fewer)
    with pytest.raises(ValueError, match="got in 'prot' the same cells in another order"):
        make_setup(reordered)


@pytest.mark.filterwarnings("ignore:.*are not unique")
def test_duplicate_names_are_refused():
    mdata = _mdata()
    mdata["prot"].var_names = ["p1", "p2", "p2", *(f"q{j}" for j in range(6))]
    with pytest.raises(ValueError, match="unique feature names in modality 'prot', got duplicates such as 'p2'; call"):
        make_setup(mdata)
    mdata = _mdata()
    names = ["twin", "twin", *(f"c{i}" for i in range(118))]
    for adata in mdata.mod.values():
        adata.obs_names = names
    with pytest.raises(ValueError, match="unique cell names in modality 'rna', got duplicates such as 'twin'; call"):
        make_setup(mdata)
