"""IndiSeek: shared codes by CLIP, then specific codes independent of them and complete with them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, cast, final

import numpy as np
import torch
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from indiseek.data import Split, Transform
from indiseek.models._arguments import candidates, check_choice, check_range, split_arguments
from indiseek.models._base import MultimodalModel
from indiseek.models._io import plain
from indiseek.models._latents import FEWER_CELLS, MIN_HELD_OUT_CELLS
from indiseek.models._module import INFERENCE_BATCH
from indiseek.models._schedules import N_CRITIC_STEPS, PATIENCE, schedule
from indiseek.models._tuning import Grid, Trials, search
from indiseek.models._tuning_record import Record, fingerprint_of_data
from indiseek.models._tuning_result import Tuning
from indiseek.objectives import (
    Activation,
    CLIPObjective,
    ConditionalFlowObjective,
    Independence,
    IndependentOf,
    NCEClubObjective,
    Objective,
)
from indiseek.train import StageSettings, resolve_device

logger = logging.getLogger(__name__)

Specific = Literal["flow", "nce-club"]


@final
class IndiSeekModel(MultimodalModel):
    r"""Shared and modality-specific latent spaces of paired cells.

    Stage 1 learns for each modality a shared code :math:`C_i = f_i(X_i)` by contrastive learning across
    modalities (CLIP) and freezes it. Stage 2 learns for each modality a specific code :math:`Z_i` that is
    independent of the other modality's shared code and complete with it. ``specific="flow"`` takes an
    invertible map of the modality given the other's code, :math:`Z_i = T_i(X_i; C_j)`, fitted by maximum
    likelihood; ``specific="nce-club"`` is the paper's second stage, :math:`Z_i = h_i(X_i)` with

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
        Dimension of the specific codes; one number, or one for each modality. By default all dimensions of
        the flow, and 8 for ``"nce-club"``. Of a flow, the dimensions that carry most of the modality are kept.
    specific
        ``"flow"`` or ``"nce-club"``.
    n_context
        Dimension of the wide codes of stage 1 that, beside the shared ones, are the condition of the flow;
        0 for none.
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
        cannot know. 0 is the paper's stage 1. The wide codes of `n_context` are never penalised.
    hidden, critic_hidden
        Widths of the hidden layers of encoders and decoders, and of critics.
    activation, layer_norm
        Form of all networks.
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
        n_shared: int = 6,
        n_specific: int | Mapping[str, int] | None = None,
        specific: Specific = "flow",
        n_context: int = 16,
        lam: float = 10.0,
        independence: Independence = "nce-club",
        independent_of: IndependentOf = "other",
        independence_weight: float = 1.0,
        alignment: float = 10.0,
        hidden: Sequence[int] = (256, 256),
        critic_hidden: Sequence[int] = (256,),
        activation: Activation = "gelu",
        layer_norm: bool = True,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        check_choice("specific", specific, ("flow", "nce-club"))
        check_choice("independence", independence, ("nce-club", "vclub"))
        check_choice("independent_of", independent_of, ("other", "own"))
        check_choice("activation", activation, ("gelu", "relu"))
        check_range("n_shared", n_shared, low=2)
        check_range("n_context", n_context, low=0)
        for value in n_specific.values() if isinstance(n_specific, Mapping) else [n_specific]:
            if value is not None:
                check_range("n_specific", value, low=1)
        for width in (*hidden, *critic_hidden):
            check_range("widths in hidden and critic_hidden", width, low=1)
        check_range("lam", lam, low=0)
        check_range("independence_weight", independence_weight, low=0)
        check_range("alignment", alignment, low=0)
        self._arguments = {
            "n_shared": n_shared,
            "n_specific": dict(n_specific) if isinstance(n_specific, Mapping) else n_specific,
            "specific": specific,
            "n_context": n_context if specific == "flow" else 0,
            "lam": lam,
            "independence": independence,
            "independent_of": independent_of,
            "independence_weight": independence_weight,
            "alignment": alignment,
            "hidden": list(hidden),
            "critic_hidden": list(critic_hidden),
            "activation": activation,
            "layer_norm": layer_norm,
        }
        self._tuned_on: dict[str, Any] | None = None
        super().__init__(mdata, registry=registry, transforms=transforms)
        if mdata is not None:
            self._check_sizes()

    def train(
        self,
        max_epochs: int | Mapping[str, int] | None = None,
        *,
        batch_size: int | Mapping[str, int] | None = None,
        lr: float | None = None,
        critic_lr: float | None = None,
        weight_decay: float | None = None,
        n_critic_steps: int = N_CRITIC_STEPS,
        early_stopping: bool = True,
        patience: int = PATIENCE,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        external_indexing: Sequence[ArrayLike] | None = None,
        accelerator: str = "auto",
        devices: int = 1,
        num_nodes: int = 1,
        seed: int = 0,
        checkpoint_dir: str | Path | None = None,
        write_latents: bool = True,
        show_progress: bool = True,
        **trainer_kwargs: Any,
    ) -> None:
        """Train both stages, the first with early stopping on held-out cells.

        The cells are split once into training, validation and test cells; test cells are touched by no
        fit, no early stopping and no transform. A second call continues from the weights that are there.
        Ctrl-C ends the stage that runs and keeps its weights: the best ones where the stage stops early.

        Parameters
        ----------
        max_epochs
            Most epochs of every stage, or of each by name: ``"shared"``, ``"context"`` (the wide codes of
            stage 1, where there are any) and ``"specific"``. By default enough for 4,000 steps of
            stage 1, 2,000 of ``"nce-club"`` or 600 of ``"flow"``.
        batch_size
            Cells in a step, for every stage or for each by name; by default 512.
            InfoNCE cannot show more than ``log(batch_size)`` nats.
        lr, critic_lr
            Learning rates (AdamW): of encoders and decoders, by default 1e-3, and of flows 2e-2; and of
            critics, by default 4e-3.
        weight_decay
            Decoupled weight decay of the encoders; by default 0, and 1 for ``"flow"``.
        n_critic_steps
            Critic steps before each encoder step of ``"nce-club"``; the paper takes 5.
        early_stopping
            Whether stage 1 stops when held-out InfoNCE has not fallen for `patience` epochs. Without it
            contrastive learning memorises the training pairs. Stage 2 ends when its learning rate does.
        patience
            See `early_stopping`.
        train_size, validation_size
            Fractions of the cells; the rest are test cells.
        external_indexing
            Positions of training, validation and (optionally) test cells, instead of a random split.
        accelerator
            ``"auto"``, ``"cpu"``, ``"gpu"``, ``"mps"``, as Lightning names them.
        devices, num_nodes
            Number of devices of each machine, and of machines. Each device has a process of its own, which takes its
            share of every batch; `batch_size` counts the cells of all of them.
        seed
            Seed of split, weights and batches. The same seed on the same machine gives the same latents.
            Global random states are left alone.
        checkpoint_dir
            Where the state is kept after every epoch. The same call in a new process, after the first one was
            killed, goes on from there to the same result. The state is deleted when training is complete.
        write_latents
            Whether :meth:`write_latents` is called at the end.
        show_progress
            Whether progress bars are shown.
        **trainer_kwargs
            Further arguments of :class:`lightning.pytorch.Trainer`.

        Raises
        ------
        RuntimeError
            If the model was loaded without data.
        ValueError
            If an argument is out of range, a later call asks for another split, `checkpoint_dir` holds the state of
            another fit or is in use by one, or the processes do not have the same cells.
        FloatingPointError
            If a loss is not finite; the model is then as it was before the call.
        MemoryError
            If a step, or the features of the cells, do not fit into memory; likewise. Names a batch size to try, or
            what else would help. Where only the codes that are written at the end do not fit, the training is kept.
        """
        check_range("n_critic_steps", n_critic_steps, low=1)
        split = split_arguments(train_size, validation_size, external_indexing)
        if not self.is_trained and self._tuned_on not in (None, plain(split | {"seed": seed})):
            raise ValueError(
                f"expected the split on which the model was tuned, {self._tuned_on}, got {split | {'seed': seed}}; "
                "other test cells would be cells that the choice has seen."
            )
        self._train(
            {"lr": lr, "critic_lr": critic_lr, "weight_decay": weight_decay},
            max_epochs=max_epochs,
            batch_size=batch_size,
            patience=patience,
            early_stopping=early_stopping,
            split=split,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            seed=seed,
            checkpoint_dir=checkpoint_dir,
            write_latents=write_latents,
            show_progress=show_progress,
            trainer_kwargs=trainer_kwargs,
            n_critic_steps=n_critic_steps,
        )

    def tune(
        self,
        *,
        n_shared: Sequence[int] = (4, 6, 8, 12),
        alignment: Sequence[float] = (0.0, 5.0, 10.0),
        lam: Sequence[float] = (0.1, 1.0, 10.0),
        choose_n_specific: bool = False,
        directory: str | Path | None = None,
        max_epochs: int | Mapping[str, int] | None = None,
        train_size: float = 0.8,
        validation_size: float = 0.1,
        external_indexing: Sequence[ArrayLike] | None = None,
        accelerator: str = "auto",
        seed: int = 0,
        show_progress: bool = True,
    ) -> Tuning:
        """Choose the dimension and purity of the shared space, and what the specific stage needs, without labels.

        Every candidate is trained on the training cells, as :meth:`train` does it, and judged on the validation
        cells; the test cells stay untouched for :meth:`certify`. The choice becomes the arguments of this model.
        Call :meth:`train` next, with the same split arguments and seed: with others it raises, because they would
        make test cells of cells that the choice has seen.

        The shared space comes first. Of the candidates that hold all of the shared content, those are kept that
        hold next to nothing of what only one modality knows (their excess), and of these the narrowest is taken
        whose held-out InfoNCE is within one standard error of the best at its alignment. With
        ``specific="nce-club"`` the weight `lam` follows: the best held-out reconstruction among those whose
        leakage passes. With ``specific="flow"`` one flow is fitted, and the number of its dimensions that carry
        95 % of what only their modality knows is reported.

        Parameters
        ----------
        n_shared, alignment
            Values to try, every pair of them.
        lam
            Values to try with ``specific="nce-club"``; the flow has no such weight.
        choose_n_specific
            Whether the flow's number of dimensions is set too, instead of suggested only.
        directory
            Where finished candidates are kept, so that an interrupted or wider search goes on from them.
        max_epochs
            As in :meth:`train`.
        train_size, validation_size, external_indexing
            As in :meth:`train`; at least 100 validation cells.
        accelerator, seed
            As in :meth:`train`.
        show_progress
            Whether a progress bar over the candidates is shown.

        Returns
        -------
        The candidates' table, the choice and its reasons; :func:`indiseek.pl.tuning` draws them.

        Raises
        ------
        RuntimeError
            If the model is trained already or was loaded without data.
        ValueError
            If a value is out of range, there are fewer than 100 validation cells, or `directory` holds the results
            of other data or settings.
        KeyboardInterrupt
            If it was stopped. The model is then as it was before the call, as after any failure.

        References
        ----------
        Daunhawer et al. (2023), arXiv 2303.09166, theorem 1: a code of exactly the content's dimension finds it all and
        nothing else, a larger one takes in what agrees less well (``docs/dimension.md`` shows it).
        """
        if self.is_trained:
            raise RuntimeError("expected an untrained model, got a trained one; make a new model to tune it.")
        n_train = self._n_train(train_size, external_indexing)
        method = self._arguments["specific"]
        grid = Grid(
            n_shared=candidates("n_shared", n_shared, low=2, whole=True),
            alignment=candidates("alignment", alignment, low=0),
            lam=candidates("lam", lam, low=0) if method == "nce-club" else (),
        )
        self._with({"n_shared": max(grid.n_shared)})._check_sizes()
        settings, sizes = self._schedule(n_train, max_epochs=max_epochs)
        device = resolve_device(accelerator)
        wanted = split_arguments(train_size, validation_size, external_indexing)
        fitted = self._to_fit(wanted, seed)
        split = cast(Split, fitted.split)
        if len(split.validation) < MIN_HELD_OUT_CELLS:
            raise ValueError(
                f"expected at least {MIN_HELD_OUT_CELLS} validation cells, got {len(split.validation)}; "
                "give a larger validation_size."
            )
        module = fitted.module.to(device)
        values = {name: self._values(name) for name in self.modalities}
        searched = {"n_shared", "alignment", "lam"} | ({"n_specific"} if method == "flow" else set())
        fingerprint = fingerprint_of_data(values, self._var_names, split) | {
            "package": version("indiseek"),
            "seed": seed,
            "transforms": {name: [t.name, t.config()] for name, t in self._transforms.items()},
            "arguments": {name: value for name, value in self._arguments.items() if name not in searched},
            "settings": {name: asdict(value) | {"batch_size": sizes[name]} for name, value in settings.items()},
        }
        tuning = search(
            Trials(
                new_module=lambda changes: self._with(changes)._new_module(fitted.transforms, seed).to(device),
                names=self.modalities,
                train=module.features(list(values.values()), split.train),
                validation=module.features(list(values.values()), split.validation),
                settings=settings,
                batch_sizes=sizes,
                accelerator=accelerator,
                seed=seed,
            ),
            grid,
            Record(directory, fingerprint),
            choose_dimensions=choose_n_specific,
            show_progress=show_progress,
        )
        self._arguments = self._with(tuning.chosen)._arguments
        self._tuned_on = plain(wanted | {"seed": seed})
        logger.info(f"{tuning.headline}: {'; '.join(tuning.reasons)}. train() uses it, with the same split and seed.")
        return tuning

    def _with(self, changes: Mapping[str, Any]) -> Self:
        """Untrained model of the same data with other arguments; not for users."""
        other = copy.copy(self)
        other._arguments = self._arguments | dict(changes)
        return other

    def _schedule(
        self,
        n_train: int,
        *,
        max_epochs: int | Mapping[str, int] | None = None,
        batch_size: int | Mapping[str, int] | None = None,
        patience: int | None = PATIENCE,
        given: Mapping[str, Any] = MappingProxyType({}),
        n_critic_steps: int = N_CRITIC_STEPS,
    ) -> tuple[dict[str, StageSettings], dict[str, int]]:
        """Settings and batch size of each stage."""
        return schedule(
            self._arguments["specific"],
            ["shared", "context", "specific"] if self._arguments["n_context"] else ["shared", "specific"],
            n_train,
            max_epochs=max_epochs,
            batch_size=batch_size,
            patience=patience,
            n_critic_steps=n_critic_steps if self._arguments["independence_weight"] > 0 else 0,
            given=given,
        )

    def counterfactual(
        self, *, modality: str, indices: ArrayLike, donors: ArrayLike, mdata: MuData | None = None
    ) -> NDArray[np.float32]:
        r"""What a modality would look like in cells with their own specific state and donors' shared state.

        With the flow's exact inverse: :math:`T_i^{-1}(Z_i, C_j')`, where :math:`Z_i` is the specific code of a
        cell and :math:`C_j'` the other modality's code of its donor. A cell that is its own donor gives back
        its features.

        Parameters
        ----------
        modality
            Modality wanted.
        indices
            Positions of the cells whose specific state is kept, ``(n_cells,)``.
        donors
            Positions of the cells whose shared state is taken, ``(n_cells,)``.
        mdata
            Cells; by default those of training.

        Returns
        -------
        ``(n_cells, n_features)``, on the scale of :meth:`get_features`.

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the specific stage.
        ValueError
            If the model's specific stage is not the flow, or there are not as many donors as cells.
        KeyError
            If `modality` is unknown.
        MemoryError
            If features and codes of so many cells do not fit into memory.
        """
        self._check_modality(modality)
        objective = self.module.objective("specific")
        if not isinstance(objective, ConditionalFlowObjective):
            raise ValueError('expected a model with specific="flow", got "nce-club", whose codes have no inverse.')
        self._check_stage("specific")
        own, other = self._cells(mdata, indices), self._cells(mdata, donors)
        if own.n_cells != other.n_cells:
            raise ValueError(f"expected one donor for each cell, got {other.n_cells} donors for {own.n_cells} cells.")
        position = self.modalities.index(modality)
        with torch.no_grad(), self._must_fit(own.n_cells, FEWER_CELLS):
            own, other = (self.module.inputs("specific", cells, INFERENCE_BATCH) for cells in (own, other))
            code = objective.full_code(position, own.features[position], own.shared)
            return objective.inverse(position, code, other.shared).cpu().numpy()

    def _n_condition(self) -> int:
        return int(self._arguments["n_shared"] + self._arguments["n_context"])

    def _make_objectives(self, n_features: dict[str, int], ranks: dict[str, int]) -> dict[str, Objective]:
        form = {key: self._arguments[key] for key in ("hidden", "activation", "layer_norm")}
        n_shared, n_context = self._arguments["n_shared"], self._arguments["n_context"]
        stages: dict[str, Objective] = {
            "shared": CLIPObjective(n_features, n_shared, alignment=self._arguments["alignment"], **form)
        }
        if n_context:
            stages["context"] = CLIPObjective(n_features, n_context, **form)
        if self._arguments["specific"] == "flow":
            stages["specific"] = ConditionalFlowObjective(n_features, ranks, self._n_condition(), self._n_specific())
        else:
            settings = ("lam", "independence", "independent_of", "independence_weight", "critic_hidden")
            arguments = {key: self._arguments[key] for key in settings}
            stages["specific"] = NCEClubObjective(n_features, n_shared, self._n_specific(), **arguments, **form)
        return stages

    def _n_specific(self) -> dict[str, int]:
        wanted = self._arguments["n_specific"]
        if isinstance(wanted, dict):
            return dict(wanted)
        if wanted is not None:
            return dict.fromkeys(self.modalities, wanted)
        limits = self._max_specific()
        if self._arguments["specific"] == "flow":
            return limits
        return {name: min(_N_SPECIFIC_NCE_CLUB, limit) for name, limit in limits.items()}

    def _max_specific(self) -> dict[str, int]:
        """A code cannot have more dimensions than the space in which the features lie."""
        limits = self._max_features()
        return {name: limit - self._transforms[name].n_constraints for name, limit in limits.items()}

    def _max_features(self) -> dict[str, int]:
        return {name: self._transforms[name].max_output(len(self._var_names[name])) for name in self.modalities}

    def _check_sizes(self) -> None:
        limits = self._max_specific()
        n_specific = self._n_specific()
        if set(n_specific) != set(limits):
            raise KeyError(
                f"expected n_specific of the modalities {list(limits)}, got {list(n_specific)}; name each of them."
            )
        for name, limit in limits.items():
            if n_specific[name] > limit:
                raise ValueError(
                    f"expected n_specific of at most {limit}, the rank of {name!r} after its transform, got "
                    f"{n_specific[name]}; choose a smaller one."
                )
        most = max(self._max_features().values())
        if self._arguments["n_shared"] > most:
            raise ValueError(
                f"expected n_shared of at most {most}, the most features of a modality after its "
                f"transform, got {self._arguments['n_shared']}; choose a smaller one."
            )


_N_SPECIFIC_NCE_CLUB = 8
