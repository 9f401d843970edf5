"""The affect sets of MultiBench, of files that the user has."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from indiseek._checks import check_choice, check_flag, check_number

_TO_HAVE = (
    "MultiBench (https://github.com/pliang279/MultiBench, section Affective Computing) links the folder with the "
    "processed files, such as mosi_data.pkl, humor.pkl (UR-FUNNY) and sarcasm.pkl (MUsTARD)"
)
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}
_MODALITIES = ("vision", "audio", "text")
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy", "str_"),
    *(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
}


def multibench_affect(
    path: str | Path,
    *,
    modalities: Sequence[str] = ("vision", "text"),
    n_steps: int = 50,
    aligned: bool = True,
    labels: Literal["classes", "scores"] = "classes",
) -> MuData:
    """One affect set of MultiBench: short videos as sequences of vision, audio and text features.

    The sets do not come with this package, and nothing is downloaded. MultiBench [1]_ links processed files of CMU-MOSI
    (2,199 samples), UR-FUNNY (about 16,500), MUsTARD (690) and CMU-MOSEI on its page
    https://github.com/pliang279/MultiBench.

    .. warning::
        The files are pickles, and to unpickle is to run what the file says. Only arrays, dictionaries, lists, numbers
        and strings are read here, and a file that asks for anything else is refused before it is called. Do not open
        it by other means to see whether it is safe, and take files from those whom you trust: a file may still be made
        to fill the memory.

    Parameters
    ----------
    path
        The pickle: a dict of ``train``, ``valid`` and ``test``, each a dict of ``vision``, ``audio`` and ``text``,
        ``(n, n_steps, n_features)``, and ``labels``.
    modalities
        Which, in order. The published comparison takes vision and text.
    n_steps
        Steps of a sequence: longer ones are cut at their end, shorter ones filled with zeros.
    aligned
        Sequences of all modalities begin where the text does, else each at its own first step that is not all zero.
        What stands before is left out, and the place filled with zeros at the end.
    labels
        ``"classes"``: 1 where the label is above 0, else 0; or ``"scores"``, the labels of the file.

    Returns
    -------
    mudata.MuData
        The samples of all splits. For each modality ``.X`` has shape ``(n_samples, n_steps * n_features)``, float32, a
        sequence step after step; :class:`indiseek.nn.SequenceTransformer` reads it. ``.var["varies"]`` tells which of
        them differ between samples: models leave the others out. ``.obs`` has ``label`` and
        ``split``, which is train, validation or test. Samples without text are left out, values that are not finite
        are 0.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a file, or an argument is none of those above.

    References
    ----------
    .. [1] Liang et al. (2021), "MultiBench: multiscale benchmarks for multimodal representation learning", arXiv
       2107.07502.

    Examples
    --------
    >>> mdata = indiseek.datasets.multibench_affect("mosi_data.pkl")
    >>> train = mdata[mdata.obs["split"] == "train"]
    """
    chosen = tuple(modalities)
    if isinstance(modalities, str) or not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= {*_MODALITIES}:
        raise ValueError(f"expected modalities out of {list(_MODALITIES)}, each once, got {modalities!r}; name them.")
    check_number("n_steps", n_steps, low=1, whole=True)
    check_flag("aligned", aligned)
    check_choice("labels", labels, ("classes", "scores"))
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with the samples, got {str(path)!r}, which is none; {_TO_HAVE}.")
    with path.open("rb") as file:
        found = _load(file, path)
    _check_keys(found, tuple(_SPLITS), path.name)

    sequences: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    answers, splits = [], []
    for key, split in _SPLITS.items():
        part = found[key]
        _check_keys(part, (*_MODALITIES, "labels"), f"{path.name}[{key!r}]")
        raw = {name: _three_axes(part[name], f"{path.name}[{key!r}][{name!r}]") for name in _MODALITIES}
        values = np.asarray(part["labels"], dtype=np.float64).reshape(len(raw["text"]), -1)[:, 0]
        lengths = {name: x.shape[:2] for name, x in raw.items()}
        if len(set(lengths.values())) > 1 and (aligned or len({n for n, _ in lengths.values()}) > 1):
            raise ValueError(
                f"expected as many samples and steps in all modalities of {key!r}, got {lengths}; {_TO_HAVE}."
            )
        has_text = (raw["text"] != 0).any(axis=(1, 2))
        starts = _starts(raw["text"])
        for name in chosen:
            x = raw[name]
            moved = _moved(x, starts if aligned else _starts(x), n_steps)
            sequences[name].append(moved[has_text])
        answers.append(values[has_text])
        splits += [split] * int(has_text.sum())
    label = np.concatenate(answers)
    names = pd.Index([f"sample_{i}" for i in range(len(label))])
    parts = {
        name: AnnData(np.concatenate(x).reshape(len(label), -1), obs=pd.DataFrame(index=names))
        for name, x in sequences.items()
    }
    for name, adata in parts.items():
        adata.var_names = [f"{name}_{j}" for j in range(adata.n_vars)]
        adata.var["varies"] = np.asarray(adata.X).max(axis=0) > np.asarray(adata.X).min(axis=0)
    with mudata.set_options(pull_on_update=False):
        mdata = MuData(parts)
        is_class = labels == "classes"
        mdata.obs["label"] = pd.Categorical((label > 0).astype(int).astype(str)) if is_class else label
        mdata.obs["split"] = pd.Categorical(splits)
    return mdata


class _Arrays(pickle.Unpickler):
    """Reads arrays, dictionaries, lists, numbers and strings, and nothing that could be called to do more."""

    def find_class(self, module: str, name: str) -> Any:
        """The few names that arrays need."""
        if (module, name) == ("_codecs", "encode"):
            return _latin
        if (module, name) in _ALLOWED or (module == "numpy.dtypes" and name.endswith("DType")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def _latin(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 writes bytes; no other codec is looked up."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {encoding}")
    return text.encode("latin1")


def _load(file: Any, path: Path) -> Any:
    with warnings.catch_warnings():
        # Files of older numpy.
        warnings.simplefilter("ignore")
        try:
            return _Arrays(file).load()
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"expected a pickle of arrays, dictionaries, lists, numbers and strings, got {path.name!r} with "
                f"{error}, which was not run; {_TO_HAVE}."
            ) from error
        except (EOFError, AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"expected a whole pickle, got {path.name!r} ({error}); {_TO_HAVE}.") from error


def _check_keys(found: object, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(found, dict) or not set(keys) <= set(found):
        got = list(found) if isinstance(found, dict) else type(found).__name__
        raise ValueError(f"expected {where} to be a dict of {list(keys)}, got {got}; {_TO_HAVE}.")


def _three_axes(values: object, where: str) -> np.ndarray:
    try:
        x = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected {where} to be an array of numbers, got {error}; {_TO_HAVE}.") from error
    if x.ndim != 3:
        raise ValueError(f"expected {where} with three axes (samples, steps, features), got {x.shape}; {_TO_HAVE}.")
    return np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)


def _starts(x: np.ndarray) -> np.ndarray:
    """First step that is not all zero; 0 where there is none."""
    return np.asarray((x != 0).any(axis=2).argmax(axis=1))


def _moved(x: np.ndarray, starts: np.ndarray, n_steps: int) -> np.ndarray:
    """Sequences from their starts on, ``(n, n_steps, n_features)``, zeros behind them."""
    steps = starts[:, None] + np.arange(n_steps)
    inside = steps < x.shape[1]
    taken = np.take_along_axis(x, np.minimum(steps, x.shape[1] - 1)[:, :, None], axis=1)
    return np.asarray(taken * inside[:, :, None], dtype=np.float32)
