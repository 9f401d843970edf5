"""Options of the models as frozen objects: documented and checked in one place, written down as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal, NamedTuple

from indiseek._checks import check_choice, check_flag, check_number, check_widths
from indiseek.nn import Critic, Encoder
from indiseek.objectives import Independence, IndependentOf


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Specific codes of :class:`IndiSeekModel` by a conditional flow from scratch: what ``"flow"`` stands for.

    The method of the first version. It leaks more than :class:`ClosedForm` where dimensions are many for the cells.

    Attributes
    ----------
    n_context
        Dimension of the wide codes of stage 1 that, beside the shared ones, are the condition of the flow; 0 for none.

    Raises
    ------
    TypeError, ValueError
        If it is no whole number from 0 to 4096.
    """

    n_context: int = 16

    def __post_init__(self) -> None:
        """Check the options."""
        check_number("n_context", self.n_context, low=0, high=_MOST_DIMENSIONS, whole=True)


@dataclass(frozen=True, kw_only=True)
class ClosedForm:
    r"""Specific codes of :class:`IndiSeekModel` in closed form, the default: what ``"closed-form"`` stands for.

    Mean, covariance and distribution of a modality given the other's components and shared code are computed, not
    trained: an exactly invertible map, fitted in seconds. A categorical covariate of the set-up is part of all three,
    and the codes are independent of it by construction.

    Attributes
    ----------
    n_landmarks
        Landmarks of the conditional mean (Nystrom ridge): what takes the time.
    refine
        Whether a flow may be trained on top, from the identity, for as long as the likelihood of validation cells
        rises, and kept if that has gained 0.04 nats per dimension. That is done where a probe, on validation cells,
        predicts more than 5 % of the other modality's shared code from the specific code: where a modality mixes
        strongly what it knows, seldom on blood cells.

    Raises
    ------
    TypeError, ValueError
        If an option is of the wrong type or out of range.
    """

    n_landmarks: int = 600
    refine: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_number("n_landmarks", self.n_landmarks, low=10, high=10_000, whole=True)
        check_flag("refine", self.refine)


@dataclass(frozen=True, kw_only=True)
class NCEClub:
    r"""Specific codes of :class:`IndiSeekModel` by the paper's second stage: what ``"nce-club"`` stands for.

    Attributes
    ----------
    lam
        Weight :math:`\lambda` of the reconstruction. Small values favour independence, large ones
        completeness; the paper recommends 0.1 to 10.
    independence
        ``"nce-club"`` or ``"vclub"``.
    independent_of
        ``"other"``, or ``"own"`` for the ablation that the paper calls IndiSeek0.
    independence_weight
        Factor on the independence term; 0 switches it off.
    critic
        Of ``"nce-club"``: ``"separable"``, the inner product of two networks, one for each code; or ``"concat"``, one
        network on the concatenated pair, which takes ten times as long.
    critic_hidden
        Widths of the hidden layers of the critics.
    critic_lr
        Learning rate of the critics (AdamW).
    n_critic_steps
        Critic steps before each encoder step; the paper takes 5.
    batch_norm
        Whether the specific codes are standardised over the batch, before critic and decoder see them.
    lr_schedule
        ``"cosine"``, by which both learning rates fall to 0 over the epochs along a half cosine, or ``"constant"``.
    warmup
        Fraction of the epochs, at the beginning, in which only the critics learn of independence: its term is off.
    ramp
        Fraction of the epochs over which the term then rises to full weight; 0 for at once.
    overcomplete
        Whether codes may have more dimensions than the features of their modality have, as the paper's 50 of 25
        proteins. Else such a number is refused, as it is with the other specific stages.
    supervision
        Weight of the cross-entropy of a head that tells the labels from all shared and specific codes and is trained
        with them (ours, not the paper's), so that the specific codes keep what the labels need. Labels are those of
        ``setup_mudata(labels_key=...)``; of cells without one nothing is asked. None is 1 where there are labels and
        no head where there are none; 0 is no head. The codes then depend on the labels: never test on them whether
        cells differ by these.

    Raises
    ------
    TypeError, ValueError
        If an option is not one of the words above, not finite, or out of range.

    References
    ----------
    Gui et al. (2025), arXiv 2509.21584, stage 2.
    """

    lam: float = 10.0
    independence: Independence = "nce-club"
    independent_of: IndependentOf = "other"
    independence_weight: float = 1.0
    critic: Critic = "separable"
    critic_hidden: Sequence[int] = (256,)
    critic_lr: float = 4e-3
    n_critic_steps: int = 2
    batch_norm: bool = True
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.025
    ramp: float = 0.05
    overcomplete: bool = False
    supervision: float | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        check_number("lam", self.lam, low=0)
        check_choice("independence", self.independence, ("nce-club", "vclub"))
        check_choice("independent_of", self.independent_of, ("other", "own"))
        check_number("independence_weight", self.independence_weight, low=0)
        object.__setattr__(self, "critic_hidden", check_widths("critic_hidden", self.critic_hidden))
        check_number("critic_lr", self.critic_lr, above=0)
        check_number("n_critic_steps", self.n_critic_steps, low=1, whole=True)
        check_choice("critic", self.critic, ("separable", "concat"))
        check_choice("lr_schedule", self.lr_schedule, ("cosine", "constant"))
        check_number("warmup", self.warmup, low=0, high=1)
        check_number("ramp", self.ramp, low=0, high=1)
        check_flag("batch_norm", self.batch_norm)
        check_flag("overcomplete", self.overcomplete)
        if self.supervision is not None:
            check_number("supervision", self.supervision, low=0)


def check_supervision(specific: Flow | ClosedForm | NCEClub, labels_key: str | None) -> None:
    """Raise ValueError if labels cannot be learned by this specific stage, or are to be and there are none.

    Parameters
    ----------
    specific
        The specific stage.
    labels_key
        Column with labels, of the set-up; None without.
    """
    if labels_key is not None and not isinstance(specific, NCEClub):
        raise ValueError(
            f"expected specific=indiseek.NCEClub() with labels_key={labels_key!r}, got {type(specific).__name__}, of "
            "which no label is learned; choose the former, or leave labels_key out of setup_mudata: transfer_labels "
            "takes any column."
        )
    if labels_key is None and isinstance(specific, NCEClub) and specific.supervision:
        raise ValueError(
            f"expected labels for supervision={specific.supervision:g}, got a set-up without; call "
            "IndiSeekModel.setup_mudata(mdata, labels_key=...) first, or leave supervision out."
        )


_MOST_DIMENSIONS: Final = 4096


def check_encoder(encoder: object) -> None:
    """Raise TypeError if it is none."""
    if not isinstance(encoder, Encoder):
        raise TypeError(
            f"expected encoder to be an indiseek.Encoder, got {type(encoder).__name__}; for example "
            "indiseek.Encoder(hidden=(128,))."
        )


def check_dimension(name: str, value: object, *, low: int) -> None:
    """Raise if `value` is no whole number of dimensions; one number, or one for each modality."""
    for number in value.values() if isinstance(value, Mapping) else [value]:
        check_number(name, number, low=low, high=_MOST_DIMENSIONS, whole=True)


class _PaperSettings(NamedTuple):
    """Arguments by receiver."""

    model: MappingProxyType[str, Any]
    train: MappingProxyType[str, Any]


PAPER: Final = _PaperSettings(
    model=MappingProxyType(
        {
            "n_shared": 50,
            "n_specific": 50,
            "n_components": 200,
            "alignment": 0.0,
            "encoder": Encoder(hidden=(50, 50, 50), activation="relu", layer_norm=False),
            "specific": NCEClub(
                lam=10.0,
                critic="concat",
                critic_hidden=(50, 50, 50),
                critic_lr=1e-4,
                n_critic_steps=5,
                batch_norm=False,
                lr_schedule="constant",
                warmup=0.0,
                ramp=0.0,
                overcomplete=True,
            ),
        }
    ),
    train=MappingProxyType(
        {"max_epochs": 2000, "batch_size": 128, "lr": 1e-4, "weight_decay": 0.0, "early_stopping": False}
    ),
)
"""Settings of the paper: ``IndiSeekModel(mdata, **PAPER.model)`` and ``model.train(**PAPER.train)``.

What the paper says of CITE-seq: 200 principal components of RNA and log-ratios of the proteins, codes of 50 dimensions,
multilayer perceptrons of four linear maps with 50 hidden units and ReLU, batches of 128 cells, Adam with a constant
learning rate of 1e-4, 2,000 epochs of each stage, 5 critic steps before each encoder step, and 10 for the weight of
reconstruction. No batch normalisation, no warm-up, no decay, no early stopping. Where there are fewer features than
200, there are as many components, and a message says so; codes keep their 50 dimensions. What the paper leaves open
(the form of the critic and its learning rate above all) stands with what was chosen in ``docs/models/indiseek.md``.
"""


class Options:
    """Base of the frozen options of a model, which are written down and read again by the names of their classes."""

    parts: ClassVar[tuple[type, ...]] = (Encoder, Flow, ClosedForm, NCEClub)

    def record(self) -> dict[str, Any]:
        """The options as plain values."""
        found: dict[str, Any] = _record(self)
        return found

    @classmethod
    def from_record(cls, record: Mapping[str, Any], own_code: Iterable[Any] = ()) -> Any:
        """Rebuild from :meth:`record`.

        Parameters
        ----------
        record
            What :meth:`record` gave.
        own_code
            Classes and functions of the user that the options name.

        Raises
        ------
        ValueError
            If the options name one that is not among them.
        """
        known = {name_of(each): each for each in own_code}
        return _rebuilt(record, {part.__name__: part for part in (cls, *cls.parts)}, known)


def name_of(code: Any) -> str:
    """Name by which a saved model knows a class or function of its user."""
    return str(getattr(code, "__qualname__", type(code).__qualname__))


def _record(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _record(getattr(value, field.name)) for field in fields(value)}
        return {"options": type(value).__name__} | parts
    if isinstance(value, Mapping):
        return {key: _record(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_record(each) for each in value]
    return {"own_code": name_of(value)} if callable(value) else value


def _rebuilt(value: Any, classes: Mapping[str, type], own: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return tuple(_rebuilt(each, classes, own) for each in value)
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"own_code"}:
        if value["own_code"] not in own:
            raise ValueError(
                f"expected the class or function {value['own_code']!r} that the model was made with, got "
                f"{sorted(own) or 'none'}; pass it to load in own_code: a file never carries code."
            )
        return own[value["own_code"]]
    parts = {key: _rebuilt(each, classes, own) for key, each in value.items() if key != "options"}
    return classes[value["options"]](**parts) if "options" in value else parts
