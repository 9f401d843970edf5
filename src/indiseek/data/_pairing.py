"""Whether modalities hold the same cells, and what would help where they do not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pandas as pd
from mudata import MuData

# What tools add to barcodes: the number of a lane at the end, a sample before them.
_SUFFIX, _PREFIX = re.compile(r"[-_.]\d+$"), re.compile(r"^.*[_:#|]")


# What to write where cells that have one modality only are wanted.
KEEP = "IndiSeekModel.setup_mudata(mdata, unpaired='keep')"
_PAIRED = f"keep the paired cells with muon.pp.intersect_obs(mdata), or train with all of them: {KEEP}"


def check_unique(mdata: MuData, modalities: Sequence[str]) -> None:
    """Raise ValueError if names of cells or features are not unique within a modality."""
    for name in modalities:
        cells, features = mdata.mod[name].obs_names, mdata.mod[name].var_names
        if not cells.is_unique:
            raise ValueError(
                f"expected unique cell names in modality {name!r}, got duplicates such as "
                f"{cells[cells.duplicated()][0]!r}; call .obs_names_make_unique() on every modality."
            )
        if not features.is_unique:
            raise ValueError(
                f"expected unique feature names in modality {name!r}, got duplicates such as "
                f"{features[features.duplicated()][0]!r}; call mdata[{name!r}].var_names_make_unique()."
            )


def check_names(mdata: MuData, modalities: Sequence[str], *, otherwise: str = _PAIRED) -> None:
    """Raise ValueError if names of cells or features are not unique, or modalities do not hold the same cells in order.

    Parameters
    ----------
    mdata
        The cells.
    modalities
        Names of the modalities that are used.
    otherwise
        What to do where some cells are in both and others in one.
    """
    check_unique(mdata, modalities)
    first = modalities[0]
    cells = mdata.mod[first].obs_names
    for name in modalities[1:]:
        if not mdata.mod[name].obs_names.equals(cells):
            found, advice = _difference(first, cells, name, mdata.mod[name].obs_names, otherwise)
            raise ValueError(_unpaired(name, found, advice))
    if cells.equals(mdata.obs_names):
        return
    n_missing = len(mdata.obs_names.difference(cells))
    if cells.isin(mdata.obs_names).all() and n_missing and any(name not in modalities for name in mdata.mod):
        found, advice = f"{n_missing} cells without it", "keep the paired cells with muon.pp.intersect_obs(mdata)"
    else:
        found, advice = "other cells, or another order, than in .obs of the MuData", "call mdata.update()"
        if n_missing == 0 and len(cells) == mdata.n_obs:
            advice = f"build the MuData again from its modalities: {_rebuilt(modalities)}"
    raise ValueError(_unpaired(first, found, advice))


def refuse_other_names(mdata: MuData, modalities: Sequence[str], *, need_pairs: bool = True) -> None:
    """Raise ValueError where cells that are kept although unpaired would be so by their names alone.

    Parameters
    ----------
    mdata
        The cells, each in some of the modalities.
    modalities
        Names of the modalities that are used.
    need_pairs
        Whether some cells must be in all of them.
    """
    first, *others = modalities
    cells = mdata.mod[first].obs_names
    for name in others:
        theirs = mdata.mod[name].obs_names
        n_common = len(cells.intersection(theirs))
        if (need_pairs and not n_common) or _same_names(cells, theirs, n_common) is not None:
            found, advice = _difference(first, cells, name, theirs, "")
            raise ValueError(
                f"expected cells with all of {list(modalities)}, by which modalities are compared, got in {name!r} "
                f"{found}; {advice}."
            )
    for name in modalities:
        if not mdata.mod[name].obs_names.isin(mdata.obs_names).all():
            raise ValueError(_unpaired(name, "other cells than in .obs of the MuData", "call mdata.update()"))


def _unpaired(name: str, found: str, advice: str) -> str:
    return (
        "expected paired cells, every cell of the MuData in every modality in the same order, got in "
        f"{name!r} {found}; {advice}."
    )


def _difference(first: str, a: pd.Index, second: str, b: pd.Index, otherwise: str) -> tuple[str, str]:
    """What is different in the second modality's names, and what to do."""
    n_common = len(a.intersection(b))
    if n_common == len(a) == len(b):
        order = f"{_variable(second)} = mdata[{second!r}][mdata[{first!r}].obs_names].copy()"
        return "the same cells in another order", (
            f"put them in order and build the MuData again: {_rebuilt((first, second), {second: order})}"
        )
    n_missing = len(a.difference(b)) or len(b.difference(a))
    found = f"{n_missing} cells without it" if len(a.difference(b)) else f"{n_missing} cells more than in {first!r}"
    trick = _same_names(a, b, n_common)
    if trick is not None:
        what, function = trick
        example = next(name for name in a if function(name) in set(b.map(function)))
        other = b[list(b.map(function)).index(function(example))]
        return (
            f"{found}: names differ by {what}, as {example!r} in {first!r} and {other!r} in {second!r}",
            _renamed(first, a, second, b, what),
        )
    if n_common:
        return found, otherwise
    return (
        f"{found}: no name is in both, as {a[0]!r} in {first!r} and {b[0]!r} in {second!r}",
        f"give the same cells the same obs_names in both and build the MuData again: {_rebuilt((first, second))}",
    )


def _same_names(a: pd.Index, b: pd.Index, n_common: int) -> tuple[str, Callable[[str], str]] | None:
    """A way to read the names by which far more are the same; None where there is none."""
    for what, function in _WAYS.items():
        x, y = a.map(function), b.map(function)
        if x.is_unique and y.is_unique and len(x.intersection(y)) > max(2 * n_common, 0.1 * min(len(a), len(b))):
            return what, function
    return None


def _without_suffix(name: str) -> str:
    return _SUFFIX.sub("", name)


def _without_prefix(name: str) -> str:
    return _PREFIX.sub("", name)


_WAYS: dict[str, Callable[[str], str]] = {
    "a suffix": _without_suffix,
    "a prefix": _without_prefix,
    "upper and lower case": str.lower,
    "spaces around them": str.strip,
    "a prefix and a suffix": lambda name: _without_suffix(_without_prefix(name)),
}


def _renamed(first: str, a: pd.Index, second: str, b: pd.Index, what: str) -> str:
    """The line that gives both modalities the same names."""
    suffixes = (
        {name.removeprefix(_without_suffix(name)) for name in a},
        {name.removeprefix(_without_suffix(name)) for name in b},
    )
    lengthened = [
        (name, next(iter(own)))
        for name, own, other in ((second, *suffixes), (first, *suffixes[::-1]))
        if len(own) == 1 and other == {""}
    ]
    if what == "a suffix" and lengthened:
        # One side has none, the other the same everywhere.
        name, suffix = lengthened[0]
        return f"add it: {_rebuilt((first, second), {name: _with_names(name, f' + {suffix!r}')})}"
    change = {
        "a suffix": f".str.replace({_SUFFIX.pattern!r}, '', regex=True)",
        "a prefix": f".str.replace({_PREFIX.pattern!r}, '', regex=True)",
        "upper and lower case": ".str.lower()",
        "spaces around them": ".str.strip()",
        "a prefix and a suffix": f".str.replace({f'{_PREFIX.pattern}|{_SUFFIX.pattern}'!r}, '', regex=True)",
    }[what]
    return f"take it away: {_rebuilt((first, second), {name: _with_names(name, change) for name in (first, second)})}"


def _variable(name: str) -> str:
    return name if name.isidentifier() else "part"


def _with_names(name: str, change: str) -> str:
    """Line that makes a variable of a modality with changed names of its cells."""
    variable = _variable(name)
    return f"{variable} = mdata[{name!r}].copy(); {variable}.obs_names = {variable}.obs_names{change}"


def _rebuilt(modalities: Sequence[str], before: dict[str, str] | None = None) -> str:
    """Code that builds a MuData of the modalities, after lines that make variables of some of them."""
    lines = before or {}
    parts = ", ".join(f"{name!r}: {_variable(name) if name in lines else f'mdata[{name!r}]'}" for name in modalities)
    return "; ".join([*lines.values(), f"mdata = mudata.MuData({{{parts}}})"])
