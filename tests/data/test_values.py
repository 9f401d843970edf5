from __future__ import annotations

import re

import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from indiseek.data import CLR, Cells, LogNormalizePCA, Scale, Setup, make_setup
from indiseek.data._reading import Read, read_to_train
from indiseek.data._values import (
    canonical_values,
    check_counts,
    check_finite,
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


def _read(x: np.ndarray, make=np.asarray, name: str = "rna", transform=None, **more) -> Read:
    cells, genes = [f"cell{i}" for i in range(len(x))], [f"gene{j}" for j in range(x.shape[1])]
    adata = AnnData(make(x), obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes), **more)
    return read_to_train(adata, None, name, transform)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_cells_without_counts_are_named(make):
    x = _counts(0.5)
    _read(x, make)
    x[[3, 8]] = 0
    with pytest.raises(ValueError, match="only zeros in modality 'rna' in 'cell3', 'cell8'; filter these cells out"):
        _read(x, make)
    assert _read(x, make, transform=Scale()).dropped == []


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("density", DENSITIES)
def test_features_that_do_not_vary_are_left_out_with_one_warning(make, density, log):
    x = _counts(DENSITIES[density])
    x[:, 0] += x.sum(1) == 0
    whole = _read(x, make)
    assert not log.records and whole.dropped == []
    padded = np.insert(x, [0, 4, 4, 15], 0, axis=1)
    read = _read(padded, make)
    (record,) = log.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "'rna': left out of 19 features 4 with 0 in every cell ('gene0', 'gene5', 'gene6', 'gene18')."
    )
    assert read.dropped == ["gene0", "gene5", "gene6", "gene18"] and len(read.features) == 15
    _same(read.values, whole.values)
    padded[:, 6] = 7
    read = _read(padded, make)
    assert (
        "3 with 0 in every cell ('gene0', 'gene5', 'gene18') and 1 with one value in every cell ('gene6')" in log.text
    )
    np.testing.assert_array_equal(read.values.toarray() if sparse.issparse(read.values) else read.values, x)
    with pytest.raises(ValueError, match="expected features that vary in modality 'rna', got the same value in every"):
        _read(np.full((40, 3), 2.0, dtype=np.float32), make)


def test_sparse_values_are_shared_where_empty_features_are_left_out():
    x = sparse.csr_matrix(np.insert(_counts(0.2), 3, 0, axis=1))
    read = read_to_train(AnnData(x, obs=pd.DataFrame(index=[f"c{i}" for i in range(40)])), None, "atac", Scale())
    assert np.shares_memory(read.values.data, x.data)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
def test_what_is_nearly_counts_is_taken_for_counts(make, log):
    x = _counts(0.5, (40, 30)) * np.float32(37)
    x[:, 0] += 1
    once_logged = np.expm1(np.log1p(x))
    assert not np.array_equal(once_logged, x)
    read = _read(once_logged, make)
    assert not log.records and read.transform.name == "log-normalize-pca"
    _same(read.values, _read(x, make).values)
    # Within the tolerance that is stated, and beyond it.
    for distance, name in ((0.9e-3, "log-normalize-pca"), (3e-2, "scale")):
        near = x.copy()
        near[0, 0] += distance
        assert _read(near, make).transform.name == name


CALL = r"call setup_mudata\(mdata, layers=\{'rna': 'counts'\}\) of the model's class"


def test_values_that_are_no_counts_are_scaled_with_a_warning_that_says_what_to_call(log):
    x = _counts(0.5)
    x[:, 0] += 1
    logged = np.log1p(x / x.sum(1, keepdims=True) * 1e4)
    assert _read(logged).transform.name == "scale"
    assert "Put raw counts into mdata['rna'].X" in log.records[-1].getMessage()
    assert log.records[-1].levelname == "WARNING"
    assert _read(logged, layers={"norm": logged, "counts": sparse.csc_matrix(x)}).transform.name == "scale"
    assert re.search(f"Layer 'counts' holds counts: {CALL}", log.records[-1].getMessage())
    raw = AnnData(logged, var=pd.DataFrame(index=[f"gene{j}" for j in range(15)]))
    raw.raw = AnnData(x, var=raw.var)
    read_to_train(raw, None, "rna", None)
    said = log.records[-1].getMessage()
    assert "mdata['rna'].layers['counts'] = mdata['rna'].raw[:, mdata['rna'].var_names].X" in said
    assert re.search(CALL, said)
    for make, whole in ((np.asarray, r"numpy.rint\(mdata\['rna'\].X\)"), (sparse.csr_matrix, r"\['rna'\].X.rint\(\)")):
        _read(x * 10 * np.float32(0.95), make)
        assert re.search(f"like counts with fractions.*{whole} and {CALL}", log.records[-1].getMessage())
    for n_features, name, kept in ((50, "scale", "Scale"), (51, "scale-pca", "ScalePCA")):
        assert _read(np.log1p(_counts(0.5, (60, n_features)))).transform.name == name
        assert log.records[-1].getMessage().endswith(f"pass transforms={{'rna': indiseek.data.{kept}()}}.")
    n_said = len(log.records)
    # Said to be meant, or of a modality that has no counts.
    _read(logged, transform=Scale())
    _read(logged, name="methylation")
    assert len(log.records) == n_said


def test_one_feature_is_scaled_and_what_leaves_no_dimension_is_refused(log):
    x = 1 + _counts(0.5, (40, 1))
    assert _read(x, name="prot").transform.name == "scale"
    assert "'prot' has one feature, 'gene0': its counts are scaled" in log.records[-1].getMessage()
    message = "expected modality 'prot' to differ between cells after its transform, got nothing .* by {}.*Scale"
    for given in (CLR(), LogNormalizePCA()):
        with pytest.raises(ValueError, match=message.format(type(given).__name__)):
            _read(x, name="prot", transform=given)
    # Two columns that are one: all of their shares are a half.
    twins = np.repeat(x, 2, axis=1)
    with pytest.raises(ValueError, match=message.format("CLR")):
        _read(twins, name="prot")
    assert _read(twins, name="prot", transform=Scale()).transform.name == "scale"


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
    with pytest.raises(ValueError, match="got in 'prot' the same cells in another order; put them in order"):
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
