"""CoMM on images of Trifeature: networks, augmentations and training of Dufumier et al. (2025), arXiv 2409.07402.

Sizes and settings are those of the authors' repository on GitHub, Duplums/CoMM; docs/models/comm.md has the table of
what differs. Images are augmented on the device, a batch at a time.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor, nn

from indiseek import Encoder
from indiseek.data import CellTensors
from indiseek.objectives import CLIPObjective, CoMMObjective, Objective
from indiseek.simulation import TrifeatureImages, TrifeaturePairs

NAMES = ("first", "second")
QUESTIONS = {"R": "redundant", "U of first": "unique_first", "U of second": "unique_second", "S": "synergy"}
COLUMNS = (*QUESTIONS, "S, weighted")
_MEAN, _SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Size:
    """Images, networks and training of one size."""

    n_values: int
    n_renderings: int
    held_out: float
    size: int
    n_pairs: int
    n_test: int
    epochs: int
    batch: int
    learning_rate: float
    n_latent: int
    n_heads: int
    head: tuple[int, int]
    # Published: crops from 8 per cent, colours, blur and flips. The small size keeps colours, which are the answer.
    smallest_crop: float
    colours: bool
    alexnet: bool


PAPER = Size(10, 3, 0.2, 224, 10_000, 4096, 100, 64, 3e-4, 512, 8, (512, 256), 0.08, colours=True, alexnet=True)
SMALL = Size(5, 6, 0.4, 48, 2000, 2000, 12, 64, 1e-3, 64, 4, (128, 64), 0.15, colours=False, alexnet=False)
SMOKE = Size(4, 1, 0.4, 32, 64, 64, 1, 32, 1e-3, 16, 4, (16, 8), 0.5, colours=False, alexnet=False)


def alexnet() -> nn.Sequential:
    """Convolutions of AlexNet in the form for one device (Krizhevsky 2014): 256 maps of 6 x 6 from 224 x 224."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
    )


def small_network() -> nn.Sequential:
    """A few convolutions: 64 maps of 3 x 3 from 48 x 48."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(48, 64, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(4),
    )


class ImageTokens(nn.Module):
    """Tokens of an image: one for each place of the last maps, with its place added as sines and cosines.

    Parameters
    ----------
    convolutions
        From ``(n, 3, size, size)`` to maps.
    size
        Height and width of the images.
    n_latent
        Dimension of a token; a multiple of 4.
    """

    def __init__(self, convolutions: nn.Module, size: int, n_latent: int) -> None:
        super().__init__()
        self.size, self.convolutions = size, convolutions
        with torch.no_grad():
            _, n_maps, self.side, _ = convolutions(torch.zeros(1, 3, size, size)).shape
        self.project = nn.Conv2d(n_maps, n_latent, 1)
        rates = 1e4 ** (-torch.arange(n_latent // 4) / (n_latent / 4))
        angles = torch.arange(self.side)[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        across = waves[None].expand(self.side, -1, -1)
        down = waves[:, None].expand(-1, self.side, -1)
        self.register_buffer("places", torch.cat([across, down], dim=2).flatten(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(n_cells, side * side * n_latent)`` of flattened images."""
        maps = self.project(self.convolutions(x.unflatten(1, (3, self.size, self.size))))
        return (maps.flatten(2).transpose(1, 2) + self.places).flatten(1)


class Pooled(nn.Module):
    """One code of an image, for CLIP: a linear map of the mean over places."""

    def __init__(self, convolutions: nn.Module, size: int, n_latent: int) -> None:
        super().__init__()
        self.size, self.convolutions = size, convolutions
        with torch.no_grad():
            n_maps = convolutions(torch.zeros(1, 3, size, size)).shape[1]
        self.out = nn.Linear(n_maps, n_latent, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(n_cells, n_latent)`` of flattened images."""
        return self.out(self.convolutions(x.unflatten(1, (3, self.size, self.size))).mean(dim=(2, 3)))


def _uniform(n: int, low: float, high: float, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return low + (high - low) * torch.rand(n, device=like.device, generator=generator)


def crop(images: Tensor, smallest: float, generator: torch.Generator | None, *, flip: bool = False) -> Tensor:
    """A part of each image, brought back to its size: area from `smallest` to 1, sides as 3:4 to 4:3."""
    n = len(images)
    area = _uniform(n, smallest, 1.0, images, generator)
    ratio = _uniform(n, math.log(3 / 4), math.log(4 / 3), images, generator).exp()
    width, height = (area * ratio).sqrt().clamp(max=1.0), (area / ratio).sqrt().clamp(max=1.0)
    left, top = ((2 * _uniform(n, 0.0, 1.0, images, generator) - 1) * (1 - side) for side in (width, height))
    zero = torch.zeros_like(left)
    if flip:
        width = torch.where(_uniform(n, 0.0, 1.0, images, generator) < 0.5, -width, width)
    where = torch.stack([torch.stack([width, zero, left], 1), torch.stack([zero, height, top], 1)], dim=1)
    grid = F.affine_grid(where, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def jitter(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Brightness, contrast and saturation by up to 40 per cent, hue by a tenth of a turn, of 80 in 100; greys of 20."""
    n = len(images)
    luma = torch.tensor(_LUMA, device=images.device)[None, :, None, None]
    bright, contrast, saturation = (_uniform(n, 0.6, 1.4, images, generator)[:, None, None, None] for _ in range(3))
    turn = 2 * math.pi * _uniform(n, -0.1, 0.1, images, generator)[:, None, None, None]
    changed = (images * bright).clamp(0, 1)
    mean = (changed * luma).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
    changed = (mean + contrast * (changed - mean)).clamp(0, 1)
    grey = (changed * luma).sum(dim=1, keepdim=True)
    chroma = saturation * (changed - grey)
    # A turn of the colour about the grey axis.
    u, v = chroma[:, 2:] / 1.78, chroma[:, :1] / 1.40
    u, v = u * turn.cos() - v * turn.sin(), u * turn.sin() + v * turn.cos()
    red, blue = 1.40 * v, 1.78 * u
    green = -(luma[:, :1] * red + luma[:, 2:] * blue) / luma[:, 1:2]
    changed = (grey + torch.cat([red, green, blue], dim=1)).clamp(0, 1)
    kept = _uniform(n, 0.0, 1.0, images, generator)[:, None, None, None] < 0.8
    changed = torch.where(kept, changed, images)
    greyed = _uniform(n, 0.0, 1.0, images, generator)[:, None, None, None] < 0.2
    return torch.where(greyed, (changed * luma).sum(dim=1, keepdim=True).expand_as(changed), changed)


def blur(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Gaussian blur of one image in two, of a width of 0.1 to 2 pixels of 224."""
    n, channels, size, _ = images.shape
    width = _uniform(n, 0.1, 2.0, images, generator) * size / 224
    offsets = torch.arange(-6, 7, device=images.device)
    weights = torch.exp(-0.5 * (offsets / width[:, None]).square())
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    stacked = F.pad(images.reshape(1, n * channels, size, size), (6, 6, 6, 6), mode="replicate")
    stacked = F.conv2d(stacked, weights[:, None, :, None], groups=n * channels)
    stacked = F.conv2d(stacked, weights[:, None, None, :], groups=n * channels)
    blurred = _uniform(n, 0.0, 1.0, images, generator)[:, None, None, None] < 0.5
    return torch.where(blurred, stacked.reshape(images.shape), images)


def normalised(images: Tensor) -> Tensor:
    """Flattened images in the units of the networks."""
    mean, sd = (torch.tensor(v, device=images.device)[None, :, None, None] for v in (_MEAN, _SD))
    return ((images - mean) / sd).flatten(1)


def augmentation(size: Size) -> Callable[[Tensor, torch.Generator | None], Tensor]:
    """Two of these are the views that CoMM compares."""

    def augment(x: Tensor, generator: torch.Generator | None) -> Tensor:
        images = crop(x.unflatten(1, (3, size.size, size.size)), size.smallest_crop, generator, flip=size.colours)
        if size.colours:
            images = blur(jitter(images, generator), generator)
        return normalised(images)

    return augment


def comm(size: Size) -> CoMMObjective:
    """The published form: 36 tokens of each image, one attention block, a head with batch normalisation."""
    convolutions = alexnet if size.alexnet else small_network
    hidden, n_head = size.head

    def tokens(n_features: int, n_out: int) -> nn.Module:
        return ImageTokens(convolutions(), size.size, size.n_latent)

    side = ImageTokens(convolutions(), size.size, size.n_latent).side
    head: list[nn.Module] = []
    for n_from in (size.n_latent, hidden):
        head += [nn.Linear(n_from, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
    return CoMMObjective(
        dict.fromkeys(NAMES, 3 * size.size**2),
        size.n_latent,
        n_tokens=side**2,
        n_heads=size.n_heads,
        form="code",
        negatives="both",
        temperature=0.1,
        encoder=Encoder(own=dict.fromkeys(NAMES, tokens)),
        augment=dict.fromkeys(NAMES, augmentation(size)),
        head=nn.Sequential(*head, nn.Linear(hidden, n_head)),
    )


def clip(size: Size) -> CLIPObjective:
    """Two towers with one code for each image."""
    convolutions = alexnet if size.alexnet else small_network

    def pooled(n_features: int, n_out: int) -> nn.Module:
        return Pooled(convolutions(), size.size, n_out)

    encoder = Encoder(own=dict.fromkeys(NAMES, pooled))
    return CLIPObjective(dict.fromkeys(NAMES, 3 * size.size**2), size.n_latent, encoder=encoder)


METHODS: dict[str, Callable[[Size], Objective]] = {"CLIP": clip, "CoMM": comm}


class Images:
    """Images on a device, and batches of pairs of them."""

    def __init__(self, made: TrifeatureImages, device: str) -> None:
        self.banks = {split: torch.from_numpy(images).to(device) for split, images in made.images.items()}

    def batch(self, split: str, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """First and second images, from 0 to 1."""
        bank = self.banks[split]
        first, second = (bank[torch.from_numpy(column).to(bank.device)].float() / 255 for column in rows.T)
        return first, second


def train(objective: Objective, images: Images, rows: np.ndarray, size: Size, seed: int) -> float:
    """AdamW at a constant rate; the last loss."""
    wide = [p for p in objective.parameters() if p.requires_grad and p.ndim > 1]
    thin = [p for p in objective.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": wide, "weight_decay": 1e-4}, {"params": thin, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=size.learning_rate)
    rng, loss = np.random.default_rng(seed), torch.tensor(math.nan)
    objective.train()
    for _ in range(size.epochs):
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), size.batch):
            pair = images.batch("train", rows[order[start : start + size.batch]])
            if not isinstance(objective, CoMMObjective):
                # Two towers see a crop of the image, and no second view of it.
                pair = tuple(normalised(crop(x, 0.5, None)).unflatten(1, (3, size.size, size.size)) for x in pair)
            loss = objective.loss(CellTensors(tuple(x.flatten(1) for x in pair))).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def codes(objective: Objective, images: Images, split: str, rows: np.ndarray) -> np.ndarray:
    """Fused codes, or those of two towers side by side, of crops of the images."""
    objective.eval()
    device = images.banks[split].device
    generator = torch.Generator(device).manual_seed(0)
    found = []
    for start in range(0, len(rows), 256):
        pair = images.batch(split, rows[start : start + 256])
        cells = CellTensors(tuple(normalised(crop(x, 0.5, generator)) for x in pair))
        if isinstance(objective, CoMMObjective):
            found.append(objective.joint(cells))
        else:
            found.append(torch.cat(objective.latents(cells), dim=1))
    return torch.cat(found).cpu().numpy()


def probe(
    fit: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], class_weight: str | None = None
) -> float:
    """Balanced accuracy, per cent, of a logistic regression whose strength is chosen by five folds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        classifier = LogisticRegressionCV(Cs=5, scoring="balanced_accuracy", class_weight=class_weight).fit(*fit)
    return 100.0 * float(classifier.score(*test))


def run(method: str, size: Size, seed: int, device: str, *, matched: bool) -> dict[str, float]:
    """Train on pairs of one kind, probe on independent pairs."""
    made = TrifeatureImages(
        n_values=size.n_values, n_renderings=size.n_renderings, held_out=size.held_out, size=size.size, seed=seed
    )
    images = Images(made, device)
    pairs = made.pairs("train", size.n_pairs, matched=matched)
    parts: list[tuple[str, TrifeaturePairs]] = [
        ("train", made.pairs("train", size.n_pairs, draw=1)),
        ("test", made.pairs("test", size.n_test)),
    ]
    torch.manual_seed(seed)
    started = time.perf_counter()
    objective = METHODS[method](size).to(device)
    loss = train(objective, images, pairs.rows, size, seed)
    seconds = time.perf_counter() - started
    (z_fit, z_test) = (codes(objective, images, split, part.rows) for split, part in parts)
    asked = ("S",) if matched else tuple(name for name in QUESTIONS if name != "S")
    found = {}
    for name in asked:
        y_fit, y_test = (part.labels[QUESTIONS[name]] for _, part in parts)
        found[name] = probe((z_fit, y_fit), (z_test, y_test))
        if name == "S":
            # One pair in ten obeys; a probe that weighs both classes alike need not say no to all.
            found["S, weighted"] = probe((z_fit, y_fit), (z_test, y_test), "balanced")
    kind = "matched" if matched else "independent"
    return found | {f"loss, {kind}": loss, f"seconds, {kind}": seconds}
