"""What gives the same again: code, versions, and what to cite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

_PACKAGES = ("indiseek", "torch", "scvi-tools", "mudata", "anndata", "scanpy", "umap-learn", "numpy", "scikit-learn")
CITATION = (
    "Yu Gui, Cong Ma, Zongming Ma. IndiSeek learns information-guided disentangled representations. 2025.",
    "https://arxiv.org/abs/2509.21584",
)
"""The paper of the method, and its address."""


def versions() -> list[tuple[str, str]]:
    """Python and the packages on which results depend."""
    found = [("Python", python_version())]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def code_of(
    model: str,
    setup: Mapping[str, Any],
    given: Sequence[str],
    *,
    split_by: str | None,
    certified: tuple[int, int] | None,
) -> str:
    """Lines that make the same model and page again, as far as a model remembers how it was made.

    Parameters
    ----------
    model
        Name of its class.
    setup
        Arguments of ``setup_mudata``.
    given
        Arguments of the constructor, written out.
    split_by
        Column by which the split was made; None for none.
    certified
        Seed and permutations of the certificate; None without one.
    """
    wanted = ", ".join(f"{key}={value!r}" for key, value in setup.items())
    split = "" if split_by is None else f"split_by={split_by!r}"
    lines = [
        "import indiseek",
        "import mudata",
        "",
        'mdata = mudata.read_h5mu("your_file.h5mu")',
        f"indiseek.{model}.setup_mudata(mdata, {wanted})",
        f"model = indiseek.{model}({', '.join(['mdata', *given])})",
        f"model.train({split})  # and the seed and other arguments that you gave: a model does not keep them",
    ]
    if certified is None:
        return "\n".join([*lines, 'model.report("report.html")'])
    seed, n_permutations = certified
    lines.append(f"certificate = model.certify(seed={seed}, n_permutations={n_permutations})")
    return "\n".join([*lines, 'model.report("report.html", certificate=certificate)'])
