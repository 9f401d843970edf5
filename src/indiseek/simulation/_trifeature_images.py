from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from indiseek._checks import check_choice, check_flag

from ._arguments import check_int, is_number

SHAPES = (
    "triangle",
    "square",
    "plus",
    "circle",
    "tee",
    "rhombus",
    "pentagon",
    "star",
    "fivesquare",
    "trapezoid",
)
TEXTURES = ("solid", "stripes", "grid", "hexgrid", "dots", "noise", "triangles", "zigzags", "rain", "pluses")
COLOURS = {
    "red": (230, 0, 0),
    "green": (0, 230, 0),
    "blue": (0, 0, 240),
    "yellow": (240, 240, 0),
    "pink": (250, 100, 220),
    "cyan": (0, 235, 235),
    "purple": (85, 0, 130),
    "ocean": (20, 95, 130),
    "orange": (250, 150, 0),
    "white": (255, 255, 255),
}
SPLITS = ("train", "test")
_GREY = 128
_STEEPEST = np.pi / 4

Region = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class TrifeaturePairs:
    """Pairs of images of one shape, and the answers to what they were made for.

    Attributes
    ----------
    rows
        Numbers of the first and the second image within their split, shape ``(n_pairs, 2)``.
    labels
        Answers for every pair, shape ``(n_pairs,)`` each, integers from 0: ``redundant``, the shape of both;
        ``unique_first`` and ``unique_second``, the texture of each image; ``synergy``, 1 where the colour of the second
        image is the partner of the texture of the first.
    """

    rows: np.ndarray
    labels: Mapping[str, np.ndarray]


class TrifeatureImages:
    r"""Images of a shape with a texture and a colour, and pairs of them with redundant, unique and synergistic answers.

    Ten shapes, ten textures and ten colours on grey. Every image has a place, an angle of the shape and one of the
    texture of its own, angles up to 45 degrees. Of all combinations a share is held out: one rendering of each is the
    test images, `n_renderings` of each other one are the training images. All is computed; nothing is downloaded.

    In a pair the shape is the same and all else independent, but for ``matched=True``: there the colour of the second
    image is the partner :math:`M(\text{texture of the first})` in all pairs, with a fixed random bijection M, so that
    it can be learned. :func:`simulate_trifeature` is the same design without images.

    Parameters
    ----------
    n_values
        How many of the ten shapes, textures and colours.
    n_renderings
        Training images of each combination.
    held_out
        Share of the combinations whose images are test images.
    size
        Height and width in pixels. A shape takes four sevenths of it, textures repeat after one 22nd, but at least
        five pixels.
    seed
        Fixes which combinations are held out, M, places and angles.

    Attributes
    ----------
    images
        For ``"train"`` and ``"test"`` the images, ``(n_images, 3, size, size)``, unsigned bytes. With the defaults
        2,400 images, 361 MB, and 200.
    states
        For each split shape, texture and colour of every image, ``(n_images, 3)``, integers from 0.
    partner
        M: the colour of every texture, ``(n_values,)``.

    Raises
    ------
    ValueError
        If an argument is out of range, or a split has no image of some shape.

    References
    ----------
    Hermann and Lampinen (2020), arXiv 2006.12433; Dufumier et al. (2025), arXiv 2409.07402.

    Examples
    --------
    >>> from indiseek.simulation import TrifeatureImages
    >>> made = TrifeatureImages(n_values=4, n_renderings=1, size=48)
    >>> pairs = made.pairs("train", 500)
    >>> first, second = (made.images["train"][rows] for rows in pairs.rows.T)
    >>> first.shape
    (500, 3, 48, 48)
    """

    def __init__(
        self, *, n_values: int = 10, n_renderings: int = 3, held_out: float = 0.2, size: int = 224, seed: int = 0
    ) -> None:
        self.n_values = check_int(n_values, "n_values", 2)
        if n_values > len(SHAPES):
            raise ValueError(f"expected n_values of at most {len(SHAPES)}, got {n_values}; there are no more shapes.")
        check_int(n_renderings, "n_renderings", 1)
        if not is_number(held_out) or not 0 < held_out < 1:
            raise ValueError(f"expected held_out in (0, 1), got {held_out!r}; give a share of the combinations.")
        self.size = check_int(size, "size", 16)
        self.seed = check_int(seed, "seed", 0)
        fixed, drawn = (np.random.default_rng(child) for child in np.random.SeedSequence(self.seed).spawn(2))
        # M does not depend on whether images are rendered: the published program draws it after them.
        self.partner = fixed.permutation(self.n_values)
        combinations = np.stack(np.unravel_index(np.arange(n_values**3), (n_values,) * 3), axis=1)
        is_test = fixed.permutation(len(combinations)) < round(held_out * len(combinations))
        self.states = {
            "train": np.repeat(combinations[~is_test], n_renderings, axis=0),
            "test": combinations[is_test],
        }
        for split, states in self.states.items():
            if len(np.unique(states[:, 0])) < n_values:
                raise ValueError(
                    f"expected images of all {n_values} shapes in {split!r}, got {len(states)} images with "
                    f"{len(np.unique(states[:, 0]))}; change held_out={held_out} or take more values."
                )
        self.images = {
            split: np.stack([_render(shape, texture, colour, self.size, drawn) for shape, texture, colour in states])
            for split, states in self.states.items()
        }

    def pairs(
        self, split: str = "train", n_pairs: int = 10_000, *, matched: bool = False, draw: int = 0
    ) -> TrifeaturePairs:
        """Draw pairs of different rows out of all that there are.

        Parameters
        ----------
        split
            ``"train"`` or ``"test"``.
        n_pairs
            Number of pairs; all that there are if they are fewer.
        matched
            Only pairs that obey M.
        draw
            Number of the sample.

        Returns
        -------
        TrifeaturePairs

        Raises
        ------
        ValueError
            If an argument is out of range or no pair obeys M.
        """
        check_choice("split", split, SPLITS)
        check_int(n_pairs, "n_pairs", 1)
        check_flag("matched", matched)
        shape, texture, colour = self.states[split].T
        allowed = shape[:, None] == shape
        obeys = self.partner[texture][:, None] == colour
        if matched:
            allowed = allowed & obeys
        found = np.argwhere(allowed)
        if not len(found):
            raise ValueError(f"expected pairs that obey the bijection, got none in {split!r}; take more images.")
        key = [self.seed, SPLITS.index(split), int(matched), check_int(draw, "draw", 0)]
        rows = found[np.random.default_rng(key).permutation(len(found))[:n_pairs]]
        first, second = rows.T
        labels = {
            "redundant": shape[first],
            "unique_first": texture[first],
            "unique_second": texture[second],
            "synergy": obeys[first, second].astype(np.intp),
        }
        return TrifeaturePairs(rows=rows, labels=labels)


def _render(shape: int, texture: int, colour: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One image ``(3, size, size)``, unsigned bytes."""
    turn, weave = rng.uniform(-_STEEPEST, _STEEPEST, 2)
    radius = 2 * size / 7
    # Wide enough that the turned square around the shape is within the image.
    reach = radius * (abs(np.cos(turn)) + abs(np.sin(turn)))
    y, x = rng.uniform(reach, size - reach, 2)
    rows, columns = np.mgrid[:size, :size] + 0.5
    inside = _SHAPES[SHAPES[shape]](*_turned(columns - x, rows - y, turn, radius))
    period = max(size / 22.4, 5.0)
    u, v = _turned(columns, rows, weave, period)
    drawn = _texture(TEXTURES[texture], u + rng.uniform(), v + rng.uniform(), period, rng)
    image = np.full((3, size, size), _GREY, dtype=np.uint8)
    image[:, inside & drawn] = np.array(list(COLOURS.values())[colour], dtype=np.uint8)[:, None]
    return image


def _turned(x: np.ndarray, y: np.ndarray, angle: float, unit: float) -> tuple[np.ndarray, np.ndarray]:
    cosine, sine = np.cos(angle) / unit, np.sin(angle) / unit
    return cosine * x + sine * y, cosine * y - sine * x


def _polygon(corners: np.ndarray) -> Region:
    """Inside of a polygon by the parity of crossings of a ray to the right."""

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        odd = np.zeros(x.shape, dtype=bool)
        for (x_a, y_a), (x_b, y_b) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if y_a != y_b:
                crosses = (y_a > y) != (y_b > y)
                odd ^= crosses & (x < x_a + (y - y_a) * (x_b - x_a) / (y_b - y_a))
        return odd

    return inside


def _corners(n: int, radii: tuple[float, ...]) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n) / n - np.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.resize(radii, n)[:, None]


def _within(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((abs(x) < 1) & (abs(y) < 1))


# Within the square from -1 to 1, the second axis downwards.
_SHAPES: dict[str, Region] = {
    "triangle": _polygon(np.array([[0.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])),
    "square": _within,
    "plus": lambda x, y: _within(x, y) & ((abs(x) < 0.33) | (abs(y) < 0.33)),
    "circle": lambda x, y: x**2 + y**2 < 1,
    "tee": lambda x, y: _within(x, y) & ((abs(x) < 0.33) | (y < -0.35)),
    "rhombus": _polygon(np.array([[0.0, -1.0], [1.0, -1.0], [0.0, 1.0], [-1.0, 1.0]])),
    "pentagon": _polygon(_corners(5, (1.0,))),
    "star": _polygon(_corners(10, (1.0, 0.42))),
    "fivesquare": lambda x, y: _within(x, y) & ((abs(x) < 0.33) == (abs(y) < 0.33)),
    "trapezoid": _polygon(np.array([[-1.0, -1.0], [1.0, -1.0], [0.35, 1.0], [-0.35, 1.0]])),
}


def _texture(name: str, u: np.ndarray, v: np.ndarray, period: float, rng: np.random.Generator) -> np.ndarray:
    """Where a texture is drawn, in coordinates that count its repeats."""
    x, y = u % 1, v % 1
    if name == "noise":
        return _looked_up(rng.random((64, 64)) < 0.5, u * period / 2, v * period / 2)
    if name == "rain":
        starts = rng.random((128, 128)) < 0.05
        drops = np.any([np.roll(starts, shift, axis=0) for shift in range(6)], axis=0)
        return _looked_up(drops, u * period, v * period)
    return np.asarray(_PATTERNS[name](u, v, x, y))


def _looked_up(pattern: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    n = len(pattern)
    return np.asarray(pattern[np.floor(y).astype(int) % n, np.floor(x).astype(int) % n])


_Pattern = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
_PATTERNS: dict[str, _Pattern] = {
    "solid": lambda u, v, x, y: np.ones(u.shape, dtype=bool),
    "stripes": lambda u, v, x, y: y < 0.4,
    "grid": lambda u, v, x, y: (x < 0.3) | (y < 0.3),
    # Three families of lines, sixty degrees apart.
    "hexgrid": lambda u, v, x, y: (y < 0.22) | ((0.866 * u + v / 2) % 1 < 0.22) | ((0.866 * u - v / 2) % 1 < 0.22),
    "dots": lambda u, v, x, y: (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.16,
    "triangles": lambda u, v, x, y: 2 * abs(x - 0.5) < y,
    "zigzags": lambda u, v, x, y: (v + abs((u % 2) - 1)) % 1 < 0.45,
    "pluses": lambda u, v, x, y: (
        (abs(x - 0.5) < 0.4) & (abs(y - 0.5) < 0.4) & ((abs(x - 0.5) < 0.14) | (abs(y - 0.5) < 0.14))
    ),
}
