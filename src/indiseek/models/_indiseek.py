"""IndiSeek: shared codes by CLIP, then specific codes independent of them and complete with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

from mudata import MuData
from numpy.typing import ArrayLike

from indiseek.data import Transform
from indiseek.models._base import MultimodalModel
from indiseek.objectives import (
    Activation,
    CLIPObjective,
    Independence,
    IndependentOf,
    NCEClubObjective,
    Objective,
)
from indiseek.train import StageSettings


@final
class IndiSeekModel(MultimodalModel):
    r"""Shared and modality-specific latent spaces of paired cells.

    Stage 1 learns for each modality a shared code :math:`C_i = f_i(X_i)` by contrastive learning across
    modalities (CLIP) and freezes it. Stage 2 learns a specific code :math:`Z_i = h_i(X_i)` that is
    independent of the other modality's shared code and, together with the own one, reconstructs
    the modality:

    .. math::
        \min_{h_i, g_i} I_{NCE-CLUB}(Z_i; C_j)
        + \frac{\lambda}{2 E\lVert X_i \rVert^2} E \lVert g_i(Z_i, C_i) - X_i \rVert^2

    Parameters
    ----------
    mdata
        Paired cells with two or more modalities. Registered with the modalities that are found, unless
        :meth:`setup_mudata` was called on it.
    registry
        For :meth:`load` only.
    n_shared
        Dimension of the shared codes. They lie on the unit sphere and so have one degree of freedom less.
    n_specific
        Dimension of the specific codes; one number, or one for each modality.
    lam
        Weight :math:`\lambda` of the reconstruction. Small values favour independence, large ones
        completeness; the paper recommends 0.1 to 10.
    independence
        ``"nce-club"`` or ``"vclub"``.
    independent_of
        ``"other"``, or ``"own"`` for the ablation that the paper calls IndiSeek0.
    independence_weight
        Factor on the independence term; 0 switches it off.
    alignment
        Weight of ``1 - cos(c_1, c_2)`` in stage 1; removes from the shared codes what the other modality
        cannot know.
    hidden, critic_hidden
        Widths of the hidden layers of encoders and decoders, and of critics.
    activation, layer_norm
        Form of all networks.
    dropout
        Dropout on the inputs of the shared encoders.
    transforms
        Transform by modality, out of :mod:`indiseek.data`; by default raw RNA counts get
        ``LogNormalizePCA``, raw protein counts ``CLR``, and values that are not counts ``Scale``.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData or a transform is not one of the package's.
    KeyError
        If `n_specific` or `transforms` names an unknown modality.
    ValueError
        If cells are not paired or fewer than 100, names are duplicated, values are NaN or infinite, counts
        negative, a cell or a feature is empty, a feature constant, or an argument out of range.

    Examples
    --------
    >>> import indiseek
    >>> mdata = indiseek.datasets.pbmc10k_cite()
    >>> model = indiseek.IndiSeekModel(mdata)
    >>> model.train()
    >>> mdata.obsm["X_indiseek_shared"].shape[0] == mdata.n_obs
    True

    References
    ----------
    Gui et al. (2025), arXiv 2509.21584.
    """

    _key: ClassVar[str] = "indiseek"

    def __init__(
        self,
        mdata: MuData | None = None,
        *,
        registry: dict[str, Any] | None = None,
        n_shared: int = 16,
        n_specific: int | Mapping[str, int] = 8,
        lam: float = 10.0,
        independence: Independence = "nce-club",
        independent_of: IndependentOf = "other",
        independence_weight: float = 1.0,
        alignment: float = 0.0,
        hidden: Sequence[int] = (256, 256),
        critic_hidden: Sequence[int] = (256,),
        activation: Activation = "gelu",
        layer_norm: bool = True,
        dropout: float = 0.0,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        _check_choice("independence", independence, ("nce-club", "vclub"))
        _check_choice("independent_of", independent_of, ("other", "own"))
        _check_choice("activation", activation, ("gelu", "relu"))
        _check_range("n_shared", n_shared, low=2)
        for value in n_specific.values() if isinstance(n_specific, Mapping) else [n_specific]:
            _check_range("n_specific", value, low=1)
        _check_range("lam", lam, low=0)
        _check_range("independence_weight", independence_weight, low=0)
        _check_range("alignment", alignment, low=0)
        _check_range("dropout", dropout, low=0, below=1)
        self._arguments: dict[str, Any] = {
            "n_shared": n_shared,
            "n_specific": dict(n_specific) if isinstance(n_specific, Mapping) else n_specific,
            "lam": lam,
            "independence": independence,
            "independent_of": independent_of,
            "independence_weight": independence_weight,
            "alignment": alignment,
            "hidden": list(hidden),
            "critic_hidden": list(critic_hidden),
            "activation": activation,
            "layer_norm": layer_norm,
            "dropout": dropout,
        }
        super().__init__(mdata, registry=registry, transforms=transforms)
        if mdata is not None:
            self._check_sizes()

    def train(
        self,
        max_epochs: int | Mapping[str, int] | None = None,
        *,
        batch_size: int = 512,
        lr: float = 1e-3,
        critic_lr: float = 2e-3,
        weight_decay: float = 0.0,
        n_critic_steps: int = 2,
        early_stopping: bool = True,
        patience: int = 10,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        external_indexing: Sequence[ArrayLike] | None = None,
        accelerator: str = "auto",
        devices: int = 1,
        seed: int = 0,
        write_latents: bool = True,
        show_progress: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages, stage 1 with early stopping on held-out InfoNCE.

        The cells are split once into training, validation and test cells; test cells are touched by no
        fit, no early stopping and no transform. A second call continues from the weights that are there.
        Ctrl-C ends the stage that runs and keeps its best weights.

        Parameters
        ----------
        max_epochs
            Most epochs of every stage, or of each by name (``"shared"``, ``"specific"``). By default
            enough for 4,000 steps of stage 1 and 1,500 of stage 2.
        batch_size
            Cells in a step; InfoNCE cannot show more than ``log(batch_size)`` nats.
        lr, critic_lr
            Learning rates (AdamW) of encoders and decoders, and of critics.
        weight_decay
            Decoupled weight decay of the encoders.
        n_critic_steps
            Critic steps before each encoder step of stage 2; the paper takes 5.
        early_stopping
            Whether stage 1 stops when held-out InfoNCE has not fallen for `patience` epochs. Without it,
            contrastive learning memorises the training pairs.
        patience
            See `early_stopping`.
        train_size, validation_size
            Fractions of the cells; the rest are test cells.
        external_indexing
            Positions of training, validation and (optionally) test cells, instead of a random split.
        accelerator
            ``"auto"``, ``"cpu"``, ``"gpu"``, ``"mps"``, as Lightning names them.
        devices
            Number of devices; only 1 is supported.
        seed
            Seed of split, weights and batches. The same seed on the same machine gives the same latents.
            Global random states are left alone.
        write_latents
            Whether :meth:`write_latents` is called at the end.
        show_progress
            Whether progress bars are shown.
        **trainer_kwargs
            Further arguments of :class:`lightning.pytorch.Trainer`.

        Raises
        ------
        ValueError
            If an argument is out of range, or a later call asks for another split.
        FloatingPointError
            If a loss is not finite; the model is then as it was before the call.
        """
        _check_range("batch_size", batch_size, low=2)
        _check_range("lr", lr, above=0)
        _check_range("critic_lr", critic_lr, above=0)
        _check_range("weight_decay", weight_decay, low=0)
        _check_range("n_critic_steps", n_critic_steps, low=1)
        _check_range("patience", patience, low=1)
        if devices != 1:
            raise ValueError(f"expected devices=1, got {devices!r}; training on several devices is not supported yet.")
        epochs = self._epochs(max_epochs, round(train_size * self._adata.n_obs) // batch_size)
        settings = {
            "shared": StageSettings(
                max_epochs=epochs["shared"],
                patience=patience if early_stopping else None,
                lr=lr,
                weight_decay=weight_decay,
            ),
            "specific": StageSettings(
                max_epochs=epochs["specific"],
                lr=lr,
                critic_lr=critic_lr,
                weight_decay=weight_decay,
                n_critic_steps=n_critic_steps if self._arguments["independence_weight"] > 0 else 0,
                warmup_epochs=epochs["specific"] // 20,
                ramp_epochs=epochs["specific"] // 10,
            ),
        }
        self._fit(
            settings,
            {"train_size": train_size, "validation_size": validation_size, "external_indexing": external_indexing},
            batch_size=batch_size,
            accelerator=accelerator,
            seed=seed,
            show_progress=show_progress,
            trainer_kwargs=trainer_kwargs,
        )
        if write_latents:
            self.write_latents()

    def _epochs(self, max_epochs: int | Mapping[str, int] | None, steps_per_epoch: int) -> dict[str, int]:
        epochs = {stage: max(1, round(steps / max(1, steps_per_epoch))) for stage, steps in _STEPS.items()}
        if isinstance(max_epochs, Mapping):
            unknown = sorted(set(max_epochs) - set(epochs))
            if unknown:
                raise KeyError(f"expected max_epochs of the stages {list(epochs)}, got {unknown}; use their names.")
            epochs |= max_epochs
        elif max_epochs is not None:
            epochs = dict.fromkeys(epochs, max_epochs)
        for value in epochs.values():
            _check_range("max_epochs", value, low=1)
        return epochs

    def _init_arguments(self) -> dict[str, Any]:
        return self._arguments

    def _make_objectives(self, n_features: dict[str, int]) -> dict[str, Objective]:
        form = {key: self._arguments[key] for key in ("hidden", "activation", "layer_norm")}
        shared = CLIPObjective(
            n_features,
            self._arguments["n_shared"],
            alignment=self._arguments["alignment"],
            dropout=self._arguments["dropout"],
            **form,
        )
        settings = ("lam", "independence", "independent_of", "independence_weight", "critic_hidden")
        specific = NCEClubObjective(
            n_features,
            self._arguments["n_shared"],
            self._n_specific(),
            **{key: self._arguments[key] for key in settings},
            **form,
        )
        return {"shared": shared, "specific": specific}

    def _n_specific(self) -> dict[str, int]:
        wanted = self._arguments["n_specific"]
        return dict(wanted) if isinstance(wanted, dict) else dict.fromkeys(self.modalities, wanted)

    def _check_sizes(self) -> None:
        limits = {name: self._transforms[name].max_output(len(self._var_names[name])) for name in self.modalities}
        n_specific = self._n_specific()
        if set(n_specific) != set(limits):
            raise KeyError(
                f"expected n_specific of the modalities {list(limits)}, got {list(n_specific)}; name each of them."
            )
        for name, limit in limits.items():
            if n_specific[name] > limit:
                raise ValueError(
                    f"expected n_specific of at most {limit}, the number of features of {name!r} after its transform, "
                    f"got {n_specific[name]}; choose a smaller one."
                )
        if self._arguments["n_shared"] > max(limits.values()):
            raise ValueError(
                f"expected n_shared of at most {max(limits.values())}, the most features of a modality after its "
                f"transform, got {self._arguments['n_shared']}; choose a smaller one."
            )


# Steps, not epochs, are what a fit needs: few cells take more epochs. Stage 1 usually stops earlier.
_STEPS = {"shared": 4000, "specific": 1500}


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {list(choices)}, got {value!r}; choose one of them.")


def _check_range(
    name: str, value: float, *, low: float | None = None, above: float | None = None, below: float | None = None
) -> None:
    # Written so that NaN fails too.
    if (low is not None and not value >= low) or (above is not None and not value > above):
        bound = f"of at least {low}" if low is not None else f"above {above}"
        raise ValueError(f"expected {name} {bound}, got {value}; choose a larger one.")
    if below is not None and not value < below:
        raise ValueError(f"expected {name} below {below}, got {value}; choose a smaller one.")
