"""The transforms that a saved model finds by name, and a user's own beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from indiseek.data._components import CLRPCA, LogNormalizePCA, ScalePCA
from indiseek.data._transforms import CLR, Scale, Transform

TRANSFORMS: dict[str, type[Transform]] = {cls.name: cls for cls in (Scale, ScalePCA, CLR, CLRPCA, LogNormalizePCA)}


def check_transforms(transforms: Mapping[str, Transform], modalities: Sequence[str]) -> None:
    """Raise if a user's transforms by modality cannot be used.

    Raises
    ------
    KeyError
        If a modality is unknown.
    TypeError
        If one is no transform.
    ValueError
        If one of the user's own has the name of one of these.
    """
    unknown = sorted(set(transforms) - set(modalities), key=str)
    if unknown:
        raise KeyError(f"expected transforms for the modalities {list(modalities)}, got {unknown}; use their names.")
    for name, transform in transforms.items():
        if not isinstance(transform, Transform):
            raise TypeError(
                f"expected a transform for {name!r}, got {type(transform).__name__}; take one of "
                f"{sorted(c.__name__ for c in TRANSFORMS.values())} or derive your own from indiseek.data.Transform."
            )
        if TRANSFORMS.get(transform.name, type(transform)) is not type(transform):
            raise ValueError(
                f"expected a transform with a name of its own for {name!r}, got {type(transform).__qualname__} with "
                f"name={transform.name!r}, which is taken; give the class another name."
            )
