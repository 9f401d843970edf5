"""IndiSeek: shared codes by CLIP, then specific codes independent of them and complete with them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast, final

import numpy as np
import pandas as pd
import torch
from mudata import MuData
from numpy.typing import ArrayLike, NDArray

from indiseek._checks import by_name, check_choice, check_flag, check_number, check_seed, check_strings
from indiseek.attribution import ROTATIONS, Axes
from indiseek.data import Cells, ComponentTransform, Split, Transform, positions
from indiseek.effects import Effects
from indiseek.metrics import Certificate
from indiseek.models._base import FEWER_CELLS, MultimodalModel
from indiseek.models._certificate import MIN_HELD_OUT_CELLS, MOST_HELD_OUT_CELLS
from indiseek.models._compare import compared
from indiseek.models._features import (
    Seen,
    axes_of,
    drawn,
    located,
    private_parts,
    seen,
    shares,
    table_of_axes,
    table_of_direction,
    table_of_groups,
)
from indiseek.models._labels import comparable, labelled, table_of_labels, transferred
from indiseek.models._mosaic import Placements, code_of_some, codes_of_some
from indiseek.models._options import (
    ClosedForm,
    Flow,
    NCEClub,
    Options,
    check_dimension,
    check_encoder,
    check_supervision,
)
from indiseek.models._query import QuerySummary, codes_of, needed, read_query, reference_of
from indiseek.nn import Encoder, whitenable_axes
from indiseek.objectives import (
    BatchCorrectedObjective,
    CLIPObjective,
    ClosedFormFlowObjective,
    ComponentsObjective,
    ConditionalFlowObjective,
    EverythingObjective,
    InvertibleObjective,
    NCEClubObjective,
    Objective,
)
from indiseek.prediction import (
    Prediction,
    Predictor,
    as_of_batch,
    check_batch,
    check_batches_known,
    predictability_table,
    prediction,
    recalibration,
    units_of,
)
from indiseek.train import (
    Fitted,
    Pipeline,
    Schedule,
    Shapes,
    Space,
    Stage,
    one_at_a_time,
    plain_torch,
    resolve_device,
    settings_of,
)
from indiseek.tuning import Grid, Record, Trials, Tuning, candidates, fingerprint_of_data, search

logger = logging.getLogger(__name__)

_WORDS: dict[str, type[Flow] | type[ClosedForm] | type[NCEClub]] = {
    "flow": Flow,
    "closed-form": ClosedForm,
    "nce-club": NCEClub,
}
_N_SHARED, _N_SPECIFIC_NCE_CLUB = 6, 8
# A regression of more cells errs no less, but takes minutes.
_MOST_FOR_PREDICTION = 50_000

# What is whitened errs by d^2 / n: of so many cells 50 dimensions, the most by default, by half of what is allowed.
_MOST_FOR_SPECIFIC = 200_000
# It usually stops earlier.
_SHARED = Schedule(n_steps=4000)
# The flow leaks more where it is stopped, or taken from an earlier epoch, while its learning rate is still high; weight
# decay keeps it from memorising instead.
_FLOW = Schedule(
    n_steps=600, stops_early=False, lr=2e-2, weight_decay=1.0, cosine=True, max_gradient_norm=5.0, critic_lr=2e-3
)
_COMPONENTS = Stage(name="components", objective=lambda shapes: ComponentsObjective(), schedule=None)
_REFINED = Schedule(n_steps=2000, lr=2e-3, weight_decay=1.0, max_gradient_norm=5.0, patience_steps=100)
# Held-out reconstruction gets better for as long as independence gets worse.
_NCE_CLUB = Schedule(n_steps=2000, stops_early=False)


@dataclass(frozen=True, kw_only=True)
class IndiSeekOptions(Options):
    """Options of :class:`IndiSeekModel`, which documents them."""

    n_shared: int | None
    n_specific: int | Mapping[str, int] | None
    alignment: float
    specific: Flow | ClosedForm | NCEClub
    encoder: Encoder

    def __post_init__(self) -> None:
        """Check them."""
        if self.n_shared is not None:
            check_dimension("n_shared", self.n_shared, low=2)
        if self.n_specific is not None:
            check_dimension("n_specific", self.n_specific, low=1)
        check_number("alignment", self.alignment, low=0)
        if not isinstance(self.specific, Flow | ClosedForm | NCEClub):
            check_choice("specific", self.specific, tuple(_WORDS))
        check_encoder(self.encoder)

    def dimension(self, ranks: Mapping[str, int]) -> int:
        """Dimension of the shared codes of modalities whose features lie in spaces of so many dimensions."""
        # Nothing that both know has more dimensions than the poorer has; the sphere adds one.
        return min(_N_SHARED, 1 + min(ranks.values())) if self.n_shared is None else self.n_shared


@final
class IndiSeekModel(MultimodalModel):
    r"""Shared and modality-specific latent spaces of paired cells.

    Stage 1 learns for each modality a shared code :math:`C_i = f_i(X_i)` by contrastive learning across
    modalities (CLIP) and freezes it. Stage 2 makes for each modality a specific code :math:`Z_i` that is
    independent of what the other modality knows and complete with it: an invertible map of the modality given
    the other's components and shared code, :math:`Z_i = T_i(X_i; X_j, C_j)`. With ``"closed-form"`` its mean,
    covariance and distributions are computed, and a short flow on top is trained where the likelihood of held-out
    cells asks for it. ``"flow"`` trains such a map from scratch, given shared and wide codes, by maximum likelihood.
    ``"nce-club"`` is the paper's second stage, :math:`Z_i = h_i(X_i)` with

    .. math::
        \min_{h_i, g_i} I_{NCE-CLUB}(Z_i; C_j)
        + \frac{\lambda}{2 E\lVert X_i \rVert^2} E \lVert g_i(Z_i, C_i) - X_i \rVert^2

    Beside them stands a space that holds everything (``X_indiseek``): the features of all modalities and the joint
    shared code on scales at which cells can be compared, for clustering and annotation.

    :meth:`train` knows the stages ``"shared"`` (at most 4,000 steps, until held-out InfoNCE stops falling) and
    ``"specific"`` (of the closed form at most 2,000 steps of the flow, until held-out likelihood hardly rises; of
    ``"flow"`` 600 steps from learning rate 2e-2 with weight decay 1, after ``"context"``, the wide codes of stage 1; of
    ``"nce-club"`` 2,000), each of 512 cells a step and, where nothing else is said, with learning rate 1e-3. Further
    stages take no steps.

    Parameters
    ----------
    mdata
        Paired cells with two or more modalities. Set up with the modalities that are found, unless
        :meth:`setup_mudata` was called on it, which also takes cells of which some lack one (``unpaired="keep"``).
    n_shared
        Dimension of the shared codes. They lie on the unit sphere and so have one degree of freedom less. By default 6,
        or one more than the modality with the fewest has components that hold signal, where that is less: with more,
        what only the other modality knows comes into the joint code.
    n_specific
        Dimension of the specific codes; one number, or one for each modality. By default 8 for ``"nce-club"``, all for
        ``"flow"``, and for the closed form as many as the training cells can make independent,
        :func:`indiseek.nn.whitenable_axes`. Of a map's dimensions those that carry most of what the others do not tell
        are kept.
    alignment
        Weight of ``1 - cos(c_1, c_2)`` in stage 1; removes from the shared codes what the other modality
        cannot know. 0 is the paper's stage 1. The wide codes of a flow are never penalised.
    specific
        ``"closed-form"``, ``"flow"`` or ``"nce-club"``, or with options of their own :class:`indiseek.ClosedForm`,
        :class:`indiseek.Flow` or :class:`indiseek.NCEClub`.
    encoder
        Form of the encoders, and of the decoders and critics of ``"nce-club"``; networks of your own.
    transforms
        Transform by modality, out of :mod:`indiseek.data` or derived from :class:`indiseek.data.Transform`; by default
        raw RNA counts get ``LogNormalizePCA``, raw protein counts ``CLR``, and values that are not counts ``Scale``; of
        more than 50 proteins or values ``CLRPCA`` and ``ScalePCA``. Principal components are as many as hold signal.
    n_components
        Number of principal components of those default transforms, instead of as many as hold signal; so many proteins
        or values then stay as they are. Fewer where there are fewer features, and a message says so.

    Raises
    ------
    TypeError
        If `mdata` is not a MuData, or an option or transform of the wrong type.
    KeyError
        If `n_specific` or `transforms` names an unknown modality.
    ValueError
        If cells are not paired or fewer than 100, names are duplicated, values are NaN or infinite, counts
        negative, a cell or a feature is empty, a feature constant, or an option out of range.

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

    _options_class: ClassVar[type[Options]] = IndiSeekOptions
    _takes_unpaired: ClassVar[bool] = True
    _takes_labels: ClassVar[bool] = True
    _placed: tuple[int, torch.device, Placements] | None = None
    # What was last read of each space, with the state, the cells and the seed that it is of.
    _known: Mapping[str, tuple[Fitted, Cells, int, Seen]] = MappingProxyType({})

    def __init__(
        self,
        mdata: MuData,
        *,
        n_shared: int | None = None,
        n_specific: int | Mapping[str, int] | None = None,
        alignment: float = 10.0,
        specific: Literal["closed-form", "flow", "nce-club"] | ClosedForm | Flow | NCEClub = "closed-form",
        encoder: Encoder = Encoder(),  # noqa: B008 (frozen)
        transforms: Mapping[str, Transform] | None = None,
        n_components: int | None = None,
    ) -> None:
        if n_components is not None:
            check_dimension("n_components", n_components, low=2)
        options = IndiSeekOptions(
            n_shared=n_shared,
            n_specific=n_specific,
            alignment=alignment,
            specific=_WORDS[specific]() if isinstance(specific, str) and specific in _WORDS else cast(Flow, specific),
            encoder=encoder,
        )
        super().__init__(mdata, options, transforms, n_components=n_components)
        self._transforms = {name: self._wide_enough(name, each) for name, each in self._transforms.items()}

    def _codes_at(
        self, cells: Cells, rows: NDArray[np.intp] | None = None
    ) -> tuple[dict[str, NDArray[Any]], dict[str, dict[str, NDArray[Any]]]]:
        if cells.presence is None:
            return super()._codes_at(cells, rows)
        return codes_of_some(self, cells, rows, self._placements)

    def _code_at(
        self, cells: Cells, rows: NDArray[np.intp] | None, kind: str, modality: str | None, batch_size: int
    ) -> NDArray[np.float32]:
        if cells.presence is None:
            return super()._code_at(cells, rows, kind, modality, batch_size)
        return code_of_some(self, cells, rows, kind, modality, batch_size, self._placements)

    @property
    def _placements(self) -> Placements:
        """What places cells with one modality, kept while the trained state and its device are the same."""
        if self._placed is None or self._placed[:2] != (id(self._fitted), self.device):
            self._placed = (id(self._fitted), self.device, Placements(self))
        return self._placed[2]

    def _wide_enough(self, modality: str, transform: Transform) -> Transform:
        """Transform whose components, where their number is found, are as many as the codes wanted of them."""
        options: IndiSeekOptions = self._options
        if options.n_specific is None or isinstance(options.specific, NCEClub):
            return transform
        return (
            transform.with_at_least(self._n_specific({})[modality])
            if isinstance(transform, ComponentTransform)
            else transform
        )

    def _stages(self) -> list[Stage]:
        # What makes the networks holds no model, so that a trained state holds no cells.
        options: IndiSeekOptions = self._options
        method = options.specific
        wanted = None if options.n_specific is None else self._n_specific({})

        # Covariates are in the set-up's order, of which the batch is the first.
        batch = None if self._schema.setup.batch_key is None else 0

        def context(shapes: Shapes) -> Objective:
            return CLIPObjective(shapes.n_features, cast(Flow, method).n_context, encoder=options.encoder, batch=batch)

        def flow(shapes: Shapes) -> Objective:
            n_condition = options.dimension(shapes.ranks) + cast(Flow, method).n_context
            return ConditionalFlowObjective(shapes.n_features, shapes.ranks, n_condition, wanted or shapes.ranks)

        shared = Stage(
            name="shared",
            objective=lambda shapes: CLIPObjective(
                shapes.n_features,
                options.dimension(shapes.ranks),
                alignment=options.alignment,
                encoder=options.encoder,
                batch=batch,
                of_condition=batch is not None,
            ),
            schedule=_SHARED,
            given=() if batch is None else ("corrected",),
            uses_covariates=batch is not None,
            space=Space(joint="X_indiseek_shared"),
        )
        before = [] if batch is None else self._correction()
        specific = Stage(
            name="specific",
            objective=flow,
            schedule=_FLOW,
            given=("shared",),
            space=Space(each="X_indiseek_{modality}", own="X_indiseek_specific"),
            most_cells=_MOST_FOR_SPECIFIC,
        )
        everything = Stage(
            name="everything",
            objective=lambda shapes: EverythingObjective(
                shapes.n_features,
                options.dimension(shapes.ranks),
                n_batches=0 if batch is None else next(iter(shapes.n_categories.values())),
            ),
            schedule=None,
            # Codes of corrected features have merged types of cells that are to stay apart here.
            given=("shared",) if batch is None else ("states",),
            uses_covariates=batch is not None,
            space=Space(joint="X_indiseek"),
        )
        if isinstance(method, NCEClub):
            return [*before, shared, everything, self._nce_club(specific, method)]
        if isinstance(method, ClosedForm):
            return [*before, shared, everything, _COMPONENTS, self._closed_form(specific, method)]
        if not method.n_context:
            return [*before, shared, everything, specific]
        return [
            *before,
            shared,
            everything,
            Stage(name="context", objective=context, schedule=_SHARED),
            replace(specific, given=("shared", "context")),
        ]

    def _correction(self) -> list[Stage]:
        """Stages by which features are corrected for the batch: codes that make the states, and the correction."""
        options: IndiSeekOptions = self._options
        states = Stage(
            name="states",
            objective=lambda shapes: CLIPObjective(
                shapes.n_features,
                options.dimension(shapes.ranks),
                alignment=options.alignment,
                encoder=options.encoder,
                batch=0,
            ),
            schedule=_SHARED,
            uses_covariates=True,
        )
        corrected = Stage(
            name="corrected",
            objective=lambda shapes: BatchCorrectedObjective(
                shapes.n_features, options.dimension(shapes.ranks), next(iter(shapes.n_categories.values()))
            ),
            schedule=None,
            given=("states",),
            uses_covariates=True,
        )
        return [states, corrected]

    def _closed_form(self, specific: Stage, method: ClosedForm) -> Stage:
        """The specific stage in closed form, given components and shared codes."""
        options: IndiSeekOptions = self._options
        # Nothing where the user says nothing.
        wanted = self._n_specific({})

        def objective(shapes: Shapes) -> Objective:
            n_shared = options.dimension(shapes.ranks)
            most = whitenable_axes(shapes.n_train)
            axes = {name: min(n, max(most, wanted.get(name, 0))) for name, n in shapes.ranks.items()}
            return ClosedFormFlowObjective(
                shapes.n_features,
                axes,
                {name: n + n_shared for name, n in shapes.n_features.items()},
                n_shared,
                wanted or axes,
                n_categories=list(shapes.n_categories.values()),
                n_landmarks=method.n_landmarks,
                # Out of the stream from which all weights come.
                seed=int(torch.randint(2**31 - 1, ())),
            )

        schedule = _REFINED if method.refine else None
        given = ("components", "shared")
        return replace(specific, objective=objective, schedule=schedule, given=given, uses_covariates=True)

    def _nce_club(self, specific: Stage, method: NCEClub) -> Stage:
        """The specific stage by the paper's method."""
        options: IndiSeekOptions = self._options
        n_specific = self._n_specific(self._most_specific())
        settings = {
            key: getattr(method, key)
            for key in (
                "lam",
                "independence",
                "independent_of",
                "independence_weight",
                "critic",
                "critic_hidden",
                "batch_norm",
            )
        }

        supervision = self._supervision(method)
        # Without a head nothing of it is drawn or saved.
        n_labels = len(self._schema.labels) if supervision else 0

        def objective(shapes: Shapes) -> Objective:
            return NCEClubObjective(
                shapes.n_features,
                options.dimension(shapes.ranks),
                n_specific,
                encoder=options.encoder,
                n_labels=n_labels,
                supervision=supervision,
                **settings,
            )

        n_critic_steps = method.n_critic_steps if method.independence_weight > 0 else 0
        schedule = replace(
            _NCE_CLUB,
            critic_lr=method.critic_lr,
            n_critic_steps=n_critic_steps,
            cosine=method.lr_schedule == "cosine",
            # Of what was written: 0.025 of 40 epochs is one, whatever its nearest binary fraction is.
            warmup=Fraction(str(method.warmup)),
            ramp=Fraction(str(method.ramp)),
        )
        return replace(specific, objective=objective, schedule=schedule, most_cells=None)

    def _supervision(self, method: NCEClub) -> float:
        """Weight of the labels: by default 1 where there are any."""
        return float(bool(self._schema.labels)) if method.supervision is None else method.supervision

    def _n_specific(self, limits: Mapping[str, int]) -> dict[str, int]:
        """Dimensions of the specific codes by modality, where they can have as many as `limits`."""
        wanted = self._options.n_specific
        if wanted is not None:
            return by_name("n_specific", wanted, self.modalities, what="modalities")
        if not isinstance(self._options.specific, NCEClub):
            return dict(limits)
        return {name: min(_N_SPECIFIC_NCE_CLUB, limit) for name, limit in limits.items()}

    def _most_features(self) -> dict[str, int]:
        return {
            name: transform.max_output(len(self._schema.features[name])) for name, transform in self._transforms.items()
        }

    def _most_specific(self) -> dict[str, int]:
        """A code cannot have more dimensions than the space in which the features lie."""
        limits = self._most_features()
        return {name: limit - self._transforms[name].n_constraints for name, limit in limits.items()}

    def _check_options(self) -> None:
        check_supervision(self._options.specific, self._schema.setup.labels_key)
        limits = self._most_specific()
        most = max(self._most_features().values())
        if isinstance(self._options.specific, NCEClub) and self._options.specific.overcomplete:
            for name, n_specific in self._n_specific(limits).items():
                if n_specific > limits[name]:
                    logger.info(
                        f"{name!r}: {n_specific} dimensions of the specific code, of {limits[name]} of features."
                    )
            if self._options.n_shared is not None and self._options.n_shared > most:
                logger.info(f"{self._options.n_shared} dimensions of the shared codes, of {most} of features.")
            return
        for name, n_specific in self._n_specific(limits).items():
            if n_specific > limits[name]:
                raise ValueError(
                    f"expected n_specific of at most {limits[name]}, the rank of {name!r} after its transform, got "
                    f"{n_specific}; choose a smaller one."
                )
        if self._options.n_shared is not None and self._options.n_shared > most:
            raise ValueError(
                f"expected n_shared of at most {most}, the most features of a modality after its "
                f"transform, got {self._options.n_shared}; choose a smaller one."
            )

    @plain_torch()
    def tune(
        self,
        *,
        n_shared: Sequence[int] = (4, 6, 8, 12),
        alignment: Sequence[float] = (0.0, 5.0, 10.0),
        lam: Sequence[float] = (0.1, 1.0, 10.0),
        choose_n_specific: bool = False,
        directory: str | Path | None = None,
        max_epochs: int | Mapping[str, int] | None = None,
        train_size: float | None = None,
        validation_size: float | None = None,
        external_indexing: Sequence[ArrayLike] | None = None,
        split_by: str | None = None,
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
        leakage passes. Otherwise one map is fitted, and the number of its dimensions that carry 95 % of what only their
        modality knows is reported.

        Parameters
        ----------
        n_shared, alignment
            Values to try, every pair of them.
        lam
            Values to try with ``specific="nce-club"``; the others have no such weight.
        choose_n_specific
            Whether the map's number of dimensions is set too, instead of suggested only.
        directory
            Where finished candidates are kept, so that an interrupted or wider search goes on from them.
        max_epochs
            As in :meth:`train`.
        train_size, validation_size, external_indexing, split_by
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
        check_seed("seed", seed)
        check_flag("show_progress", show_progress)
        check_flag("choose_n_specific", choose_n_specific)
        cells = self._unchanged_cells()
        options = self._split_options(train_size, validation_size, external_indexing, split_by)
        is_map = not isinstance(self._options.specific, NCEClub)
        grid = Grid(
            n_shared=candidates("n_shared", n_shared, low=2, whole=True),
            alignment=candidates("alignment", alignment, low=0),
            lam=() if is_map else candidates("lam", lam, low=0),
        )
        self._with({"n_shared": max(grid.n_shared)})._check_options()
        self._check_labels(cells, options, seed)
        settings = settings_of(
            self._stages(),
            options.n_train(len(cells), seed),
            max_epochs=max_epochs,
            batch_size=None,
            lr=None,
            weight_decay=None,
            early_stopping=True,
            patience=None,
        )
        device = resolve_device(accelerator)
        fitted = Fitted.new(cells, self._transforms, self._stages(), options, seed)
        split = cast(Split, fitted.split)
        if cells.presence is not None:
            # Candidates are compared on pairs.
            split, cells = Split(*map(cells.among_paired, split)), cells.paired()
        if len(split.validation) < MIN_HELD_OUT_CELLS:
            raise ValueError(
                f"expected at least {MIN_HELD_OUT_CELLS} validation cells, got {len(split.validation)}; "
                "give a larger validation_size."
            )
        pipeline = fitted.pipeline.to(device)
        # What is searched is no part of what the results depend on.
        fixed = self._with({"n_shared": 2, "alignment": 0.0} | ({"n_specific": None} if is_map else {"lam": 1.0}))
        fingerprint: dict[str, Any] = {}
        if directory is not None:
            fingerprint = fingerprint_of_data(cells.values, self._schema.features, split) | {
                "package": version("indiseek"),
                "seed": seed,
                "transforms": {name: [t.name, t.config()] for name, t in self._transforms.items()},
                "options": fixed._options.record(),
                "settings": {name: None if each is None else asdict(each) for name, each in settings.items()},
            }
        with one_at_a_time:
            tuning = search(
                Trials(
                    new_pipeline=lambda changes: Pipeline(
                        fitted.transforms,
                        self._with(changes)._stages(),
                        cells.schema.n_categories,
                        len(split.train),
                        seed,
                    ).to(device),
                    names=self.modalities,
                    train=pipeline.tensors(cells, split.train),
                    validation=pipeline.tensors(cells, split.validation),
                    settings=settings,
                    accelerator=accelerator,
                    seed=seed,
                ),
                grid,
                Record(directory, fingerprint),
                choose_dimensions=choose_n_specific,
                show_progress=show_progress,
            )
        self._options = self._with(tuning.chosen)._options
        self._chosen_on = options.record() | {"seed": seed}
        logger.info(f"{tuning.headline}: {'; '.join(tuning.reasons)}. train() uses it, with the same split and seed.")
        return tuning

    def _with(self, changes: Mapping[str, Any]) -> IndiSeekModel:
        """Untrained model of the same cells with other options; `lam` is one of ``NCEClub``."""
        other = copy.copy(self)
        own = dict(changes)
        if "lam" in own:
            own["specific"] = replace(cast(NCEClub, self._options.specific), lam=own.pop("lam"))
        other._options = replace(self._options, **own)
        return other

    @plain_torch()
    def map_query(
        self, mdata: MuData, *, batch: Any = None, fit_batch: bool = False, min_overlap: float = 0.5
    ) -> QuerySummary:
        """Write the codes of new cells into their ``.obsm``, as :meth:`write_latents` does it; nothing is retrained.

        The cells may have all modalities or one of them, and their features any order and further ones. Names that
        differ in case or separators are matched, and of antibodies those with another prefix or suffix (``p_``,
        ``_TotalSeqB``, ``-1``). What features that are missing would say is estimated by least squares from those that
        are there, and where cells with one modality lie in ``X_indiseek`` likewise; both need the cells of training.

        Parameters
        ----------
        mdata
            New cells.
        batch
            Batch of the model as whose cells those of batches that it does not know are read. By default the one whose
            training cells lie nearest in the mean of the features.
        fit_batch
            Whether the features of cells of new batches are moved to those of that batch, state by state
            (:class:`indiseek.nn.BatchDisplacement`), before codes are made of them; of a model without ``batch_key``
            those of all cells, to the training cells. Needs the cells of training, and 100 cells of each new batch
            that are of types which the reference has.
        min_overlap
            Least fraction of a modality's features that must be there.

        Returns
        -------
        What was matched, missing and extra by modality, and as what batch cells were read.

        Raises
        ------
        RuntimeError
            Before training, or if something has to be estimated and the model was loaded without the cells of training.
        KeyError
            If no modality, or a covariate other than the batch, is there.
        ValueError
            If too few features are there, `batch` or a category of another covariate is unknown, there is no new batch
            to fit or it has too few cells, or values are not finite or no counts.
        MemoryError
            If features and codes of so many cells do not fit into memory.
        """
        _check_query(batch, fit_batch, min_overlap)
        query = read_query(self, mdata, batch=batch, fit_batch=fit_batch, min_overlap=min_overlap)
        with self._explained(query.tensors.n_cells, FEWER_CELLS):
            codes = codes_of(self, query)
        self._put(mdata, *codes)
        return query.summary

    @plain_torch()
    def transfer_labels(
        self,
        mdata: MuData,
        labels: str,
        *,
        n_neighbors: int = 15,
        batch: Any = None,
        fit_batch: bool = False,
        min_overlap: float = 0.5,
    ) -> pd.DataFrame:
        """Label new cells as their neighbours among the training cells are labelled.

        Neighbours are found in the features and the shared code of the modalities that the new cells have, on the
        scales of ``X_indiseek``; the training cells are read in the same way, without what the new ones miss. Test
        cells with a label, or where there are fewer than 100 all held-out ones, tell how often a vote is right and how
        far cells lie from their neighbours: where whole donors were held out, cells of new donors.

        Parameters
        ----------
        mdata
            New cells, as in :meth:`map_query`. Nothing is written.
        labels
            Column of ``.obs`` of the cells of training, of the MuData or else of a modality. Cells without a label are
            left out, with a warning.
        n_neighbors
            Number of neighbours, whose votes are weighted by the inverse of their distance.
        batch, fit_batch, min_overlap
            As in :meth:`map_query`.

        Returns
        -------
        By cell the ``label``; its ``probability``, the fraction of held-out cells with such a share of the votes whose
        label was right; and ``unlike_reference``, whether the cell lies farther from its neighbours, divided by the
        root of how far these lie from theirs, than 95 % of the held-out cells.

        Raises
        ------
        RuntimeError
            Before training, or if the model was loaded without the cells of training.
        KeyError
            If there is no such column, or as in :meth:`map_query`.
        ValueError
            If the column has one label or fractions, fewer than 100 held-out cells have a label, or as in
            :meth:`map_query`.
        MemoryError
            If features and codes of so many cells do not fit into memory.
        """
        _check_query(batch, fit_batch, min_overlap)
        check_number("n_neighbors", n_neighbors, low=1, whole=True)
        if not isinstance(labels, str):
            raise TypeError(f"expected labels to be the name of a column of .obs, got {labels!r}; give a string.")
        reference = needed(reference_of(self), "transfer_labels")
        known = labelled(cast(MuData, self._mdata), labels, reference, int(n_neighbors))
        query = read_query(self, mdata, batch=batch, fit_batch=fit_batch, min_overlap=min_overlap)
        with self._explained(query.tensors.n_cells + len(known.train) + len(known.held_out), FEWER_CELLS):
            space = comparable(self.module, query, reference, known)
        return transferred(space, known, int(n_neighbors)).set_index(mdata.obs_names)

    @plain_torch()
    def predict_labels(
        self, mdata: MuData | None = None, *, soft: bool = False, indices: ArrayLike | None = None
    ) -> pd.DataFrame:
        """Labels of cells by the head that was trained with the specific codes on the labelled training cells.

        Of a model with ``setup_mudata(labels_key=...)`` and ``specific=NCEClub()``. For labels of other columns, and
        of cells unlike those of training, see :meth:`transfer_labels`.

        Parameters
        ----------
        mdata
            Cells with all modalities; by default those of training. Their own labels are not looked at.
        soft
            Whether the probability of each label is wanted.
        indices
            Positions of the cells wanted, or a boolean mask; by default all, in order.

        Returns
        -------
        By cell its ``label`` and the ``probability`` of that; or with `soft` one column for each label,
        ``(n_cells, n_labels)``. Missing for a cell that lacks a modality. Probabilities are the head's own and tend to
        be too sure.

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the specific stage.
        ValueError
            If the model has learned no labels, or the features are not the model's.
        MemoryError
            If features and codes of so many cells do not fit into memory.
        """
        check_flag("soft", soft)
        method, names = self._options.specific, self._schema.labels
        if not isinstance(method, NCEClub) or not self._supervision(method):
            raise ValueError(
                "expected a model that has learned labels, got one without; set up with labels_key= and make it with "
                "specific=indiseek.NCEClub(), or call transfer_labels."
            )
        self._check_stage("specific")
        cells = self._cells_of(mdata)
        rows = np.arange(len(cells))
        rows = rows if indices is None else rows[positions("indices", indices, len(cells), low=-len(cells))]
        has = cells.is_paired[rows]
        scores = np.full((len(rows), len(names)), np.nan)
        if has.any():
            with self._explained(int(has.sum()), FEWER_CELLS):
                known = self.module.label_scores("specific", self.module.tensors(cells, rows[has]))
                scores[has] = known.double().softmax(dim=-1).cpu().numpy()
        return table_of_labels(scores, names, cells.names[rows], soft=soft)

    @plain_torch()
    def compare(
        self,
        *,
        groupby: str,
        replicate: str,
        within: str | None = None,
        groups: Sequence[Any] | None = None,
        min_cells: int = 10,
        n_permutations: int = 999,
        alpha: float = 0.05,
        thin_depth: bool = False,
        seed: int = 0,
        show_progress: bool = True,
    ) -> Effects:
        """Tell whether a condition acts on what both modalities share, or on one of them alone, or makes a new state.

        Replicates, such as donors, are compared, never cells: means over the cells of a replicate, of logarithms of the
        counts, in each group of cells. Labels are permuted within the batch that was set up. Of the model only the
        components are used. :doc:`/effects` has what it finds, how often it is right, and what it cannot tell.

        Parameters
        ----------
        groupby, replicate, within
            Columns of ``.obs``: the condition; the replicate, of which each has one condition; and the groups of cells,
            such as cell types, that are compared one by one, by default all cells as one.
        groups
            Two values of the condition, needed where it has more. Effects are of the second against the first; by
            default in the order of their names.
        min_cells
            Fewest cells that a replicate must have in a group of cells.
        n_permutations
            Most labellings beside the one observed; where fewer are possible, all are used.
        alpha
            Limit of the q values.
        thin_depth
            Whether all is done again with counts of the first modality thinned, so that the replicates of a group of
            cells have one mean depth.
        seed
            Seed of permutations and thinning.
        show_progress
            Whether a progress bar is shown where it takes seconds.

        Returns
        -------
        The tables ``effects`` and ``features``: print their ``summary()``.

        Raises
        ------
        RuntimeError
            Before training, or if the model was loaded without data.
        KeyError
            If there is no such column in ``.obs``.
        TypeError
            If an argument is of the wrong type.
        ValueError
            If the model has more than two modalities or values that are not counts, a number is out of range, there are
            not two groups, a replicate is in both, fewer than 3 replicates of either are left in every group of cells,
            or no batch has both.
        """
        check_flag("thin_depth", thin_depth)
        check_flag("show_progress", show_progress)
        keys = check_strings("groupby, replicate and within", [groupby, replicate, *([within] if within else [])])
        pipeline, cells = self.module, self._unchanged_cells()
        batch_key = cells.schema.setup.batch_key
        wanted = list(dict.fromkeys([*keys, *([] if batch_key is None else [batch_key])]))
        return compared(
            pipeline,
            cells.paired(),
            self._columns(cast(MuData, self._mdata), wanted).loc[cells.is_paired],
            groupby=groupby,
            replicate=replicate,
            within=within,
            groups=groups,
            min_cells=min_cells,
            n_permutations=n_permutations,
            alpha=alpha,
            thin_depth=thin_depth,
            seed=seed,
            show_progress=show_progress,
        )

    @plain_torch()
    def counterfactual(
        self, *, modality: str, indices: ArrayLike, donors: ArrayLike, mdata: MuData | None = None
    ) -> NDArray[np.float32]:
        r"""What a modality would look like in cells with their own specific state and donors' shared state.

        With the exact inverse of the specific stage: :math:`T_i^{-1}(Z_i, C_j')`, where :math:`Z_i` is the specific
        code of a cell and :math:`C_j'` the other modality's code of its donor. A cell that is its own donor gives back
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
            If the model's specific stage is NCE-CLUB, or there are not as many donors as cells.
        KeyError
            If `modality` is unknown.
        MemoryError
            If features and codes of so many cells do not fit into memory.
        """
        self._check_modality(modality)
        objective = self.module.objective("specific")
        if not isinstance(objective, InvertibleObjective):
            raise ValueError(
                'expected a model with specific="flow" or "closed-form", got "nce-club", whose codes have no inverse.'
            )
        self._check_stage("specific")
        cells = self._cells_of(mdata)
        for argument, given in (("indices", indices), ("donors", donors)):
            lacking = ~cells.is_paired[positions(argument, given, len(cells), low=-len(cells))]
            if lacking.any():
                raise ValueError(
                    f"expected in {argument} cells that have all of {list(self.modalities)}, got {int(lacking.sum())} "
                    "that lack one; leave them out."
                )
        own, other = self._tensors(cells, indices), self._tensors(cells, donors)
        if own.n_cells != other.n_cells:
            raise ValueError(
                f"expected one donor for each cell, got {other.n_cells} donors for {own.n_cells} cells; give as many."
            )
        position = self.modalities.index(modality)
        with torch.no_grad(), self._explained(own.n_cells, FEWER_CELLS):
            own, other = (self.module.inputs("specific", part) for part in (own, other))
            code = objective.full_code(position, own)
            # What the others do not tell and lies beyond the axes of the code stays what it is.
            rest = own.features[position] - objective.inverse(position, code, own)
            return (objective.inverse(position, code, other) + rest).cpu().numpy()

    @plain_torch()
    def predict(
        self,
        mdata: MuData | None = None,
        modality: str = "prot",
        given: str = "rna",
        *,
        scale: Literal["log", "clr", "counts"] | None = None,
        interval: float | None = None,
        transform_batch: Any = None,
        recalibrate: MuData | None = None,
    ) -> pd.DataFrame | Prediction:
        """Predict one modality from another, on the scale of its values and not as codes.

        The first call for a pair of modalities fits :class:`indiseek.prediction.Predictor` to the training cells, of
        more than 50,000 to so many, which takes seconds to a minute; it is saved with the model.

        Parameters
        ----------
        mdata
            Cells; by default those of training, of which the prediction has seen the training part. The modality
            `given` is enough.
        modality
            Modality that is predicted.
        given
            Modality from which it is predicted, with the batch where the model has one.
        scale
            ``"log"``, the default for counts: of a panel (what the model reads by CLR) ``log1p`` less the cell's mean,
            of genes (LogNormalizePCA) ``log1p`` of normalised counts. ``"clr"``: of a panel, the same under its other
            name. ``"counts"``: the counts that have such logarithms in a cell of the training cells' median depth;
            they are nearer to a median than to a mean. Values that are no counts are predicted as they are, with None.
        interval
            Share of cells, such as 0.9, whose measured value is to lie between two bounds; None for none. It holds on
            average over cells like those of training, for each feature; of donors that no fit has seen if the split was
            by donor (``train(split_by=)``).
        transform_batch
            Batch as of which all cells are predicted; None for their own. For cells of a batch that the model was not
            trained with, which it cannot know, it has to be said.
        recalibrate
            Cells like those of `mdata`, such as some of the same new batch, with both modalities; at least 100. Each
            feature is moved by the median of what was measured in them less what is predicted, and its interval made as
            wide as they ask for. The order of cells stays as it is.

        Returns
        -------
        Table ``(n_cells, n_features)`` by the names of cells and features, or with `interval` three such tables
        ``value``, ``lower`` and ``upper``. Rows of cells without the modality `given` are NaN.

        Raises
        ------
        RuntimeError
            Before training, or if this pair was not predicted before and the cells of training are not there.
        KeyError
            If a modality is unknown, or not in `mdata`, or there is no column with the batch.
        ValueError
            If both modalities are one, `scale` does not apply, `interval` is not between 0 and 1, a batch is unknown,
            the features are not the model's, or there are fewer than 100 cells to recalibrate with.
        MemoryError
            If the predictions of so many cells do not fit into memory.
        """
        self._check_pair(given, modality)
        units_of(self.fitted.transforms[modality]).check(modality, scale)
        if interval is not None:
            check_number("interval", interval, above=0, below=1)
        if transform_batch is not None:
            check_batch(self._schema, transform_batch)
        if isinstance(mdata, MuData) and mdata is not self._mdata:
            if given not in mdata.mod:
                raise KeyError(f"expected cells with modality {given!r}, got {list(mdata.mod)}; predict from another.")
            if transform_batch is None:
                check_batches_known(mdata, self._schema)
            else:
                mdata = as_of_batch(mdata, [given], self._schema, transform_batch)
        if recalibrate is not None:
            if not isinstance(recalibrate, MuData):
                raise TypeError(
                    f"expected recalibrate to be a MuData of cells with both modalities, got "
                    f"{type(recalibrate).__name__}; give some cells whose {modality!r} was measured."
                )
            if transform_batch is None:
                check_batches_known(recalibrate, self._schema)
            elif missing := [name for name in (given, modality) if name not in recalibrate.mod]:
                raise KeyError(f"expected recalibrate with {given!r} and {modality!r}, got it without {missing}.")
            else:
                recalibrate = as_of_batch(recalibrate, [given, modality], self._schema, transform_batch)
        cells = self._cells_of(mdata, one_is_enough=True)
        known = None if recalibrate is None else self._read(recalibrate).paired()
        predictor = self._predictor(given, modality)
        with self._explained(len(cells), FEWER_CELLS):
            moved = None if known is None else recalibration(predictor, known, given, modality, interval=interval)
            return prediction(
                predictor,
                cells,
                given,
                modality,
                scale=scale,
                interval=interval,
                batch=transform_batch,
                recalibrated=moved,
            )

    @plain_torch()
    def predictability(
        self,
        mdata: MuData | None = None,
        modality: str = "prot",
        given: str = "rna",
        *,
        groupby: str | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """How well :meth:`predict` knows each feature of the test cells, and how well anything could.

        Read ``of_ceiling`` beside ``r``: a feature with a low ceiling is counting noise, one that stays below its
        ceiling is private to its modality, and one whose ``r_within_groups`` is small is told by the cell's type alone.

        Parameters
        ----------
        mdata
            Other held-out cells with both modalities, instead of the test cells. At most 10,000 are read.
        modality, given
            As in :meth:`predict`.
        groupby
            Column of ``.obs`` with types of cells, within which r is measured too.
        seed
            Seed of the thinning of the counts, which gives the ceiling, and of the draw.

        Returns
        -------
        One row for each feature with the columns of :func:`indiseek.metrics.predictability`; without the ceiling where
        the values are no counts.

        Raises
        ------
        RuntimeError
            As :meth:`predict`, or if there are no test cells.
        KeyError
            If a modality or column is unknown.
        ValueError
            If both modalities are one, or there are fewer than 100 cells to measure on.
        """
        self._check_pair(given, modality)
        check_seed("seed", seed)
        cells, rows = self._held_out(mdata)
        rows = drawn(rows, MOST_HELD_OUT_CELLS, seed)
        groups = None
        if groupby is not None:
            columns = self._columns(cast(MuData, self._mdata if mdata is None else mdata), [groupby])
            groups = columns[groupby].to_numpy()[rows]
        predictor = self._predictor(given, modality)
        cells, rows = cells.paired(), cells.among_paired(rows)
        with self._explained(len(rows), FEWER_CELLS):
            return predictability_table(predictor, cells, rows, given, modality, groups=groups, seed=seed)

    @plain_torch()
    def feature_table(self, mdata: MuData | None = None, *, n_bootstrap: int = 200, seed: int = 0) -> pd.DataFrame:
        """What of each gene and protein the other modality tells, what is its own, and what is counting noise.

        Shares of the variance of the features on the scale of :meth:`predict`, in test cells, within batches. *Shared*
        is what the prediction from the other modality explains, *noise* what another count of the same cells would not
        repeat, and *specific* the rest: reproducible, and not told by the other modality. Sort by ``specific_low`` for
        what a modality surely knows alone; :func:`indiseek.pl.features` draws it. :doc:`/features` has how right it is.

        Parameters
        ----------
        mdata
            Other held-out cells with all modalities, instead of the test cells. At most 5,000 are read.
        n_bootstrap
            Draws of the cells for the intervals.
        seed
            Seed of thinning and draws.

        Returns
        -------
        One row for each feature of each modality:

        ``modality``, ``feature``
            its names
        ``shared``, ``specific``, ``noise``
            shares, which add up to 1, with 95 % intervals ``shared_low``, ``shared_high`` and so on
        ``in_code``, ``left_out``
            the part of ``specific`` that the modality's specific code holds, and the rest, which is in no code
        ``detected``, ``n_cells``
            number of cells that have the feature, and of all; with fewer than 10 of the former the shares are NaN
        ``given``
            the modality that tells ``shared``; of several others the one that tells most
        ``is_control``
            whether a protein is an isotype control by its name

        Where values are no counts, ``noise`` is NaN, and ``specific`` holds it; a warning says so.

        Raises
        ------
        RuntimeError
            As :meth:`predict`, or if training was interrupted before the specific stage, or there are no test cells.
        ValueError
            If there are fewer than 100 cells to measure on.
        """
        check_seed("seed", seed)
        check_number("n_bootstrap", n_bootstrap, low=20, whole=True)
        self._check_stage("specific")
        cells, rows = self._held_out(mdata)
        predictors = {pair: self._predictor(*pair) for pair in permutations(self.modalities, 2)}
        cells, rows = cells.paired(), cells.among_paired(rows)
        with self._explained(len(rows), FEWER_CELLS):
            return shares(self.module, predictors, cells, rows, n_bootstrap=int(n_bootstrap), seed=int(seed))

    def _features_for_report(self, certificate: Certificate) -> pd.DataFrame | None:
        split, stages = self.fitted.split, self.fitted.trained_stages
        if "specific" not in stages or split is None or len(split.test) < MIN_HELD_OUT_CELLS:
            return super()._features_for_report(certificate)
        logger.info("report: who knows what of each feature, up to a minute")
        table = self.feature_table()
        # What a reader of the page needs; the rest is in the table itself.
        left_out = [name for name in table if name.startswith(("shared_", "noise_"))]
        return table.drop(columns=[*left_out, "detected", "n_cells", "given"], errors="ignore")

    @plain_torch()
    def attribution(
        self,
        space: str,
        mdata: MuData | None = None,
        *,
        rotation: Literal["varimax", "none"] = "varimax",
        direction: ArrayLike | None = None,
        groupby: str | None = None,
        group: Any = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Genes and proteins behind the axes of a space, behind a direction in it, or behind groups of cells.

        By default of the axes of :meth:`axes`; with `direction` of one direction; with `groupby` of what the space
        knows of how a group of cells differs from all others. All within batches. To hand one axis to gseapy, and all
        of them to decoupler::

            ranked = table.query("dimension == 1 and modality == 'rna'").set_index("feature")["loading"]
            matrix = table.query("modality == 'rna'").pivot(index="name", columns="feature", values="loading")

        Parameters
        ----------
        space
            ``"shared"``, a modality for its specific space, or ``"everything"``.
        mdata
            Cells with all modalities; by default those of training. At most 10,000 are read.
        rotation
            As in :meth:`axes`; ``"none"`` for the dimensions as they are in ``.obsm``.
        direction
            Direction in the space, ``(n_dims,)``, in the dimensions of ``.obsm``.
        groupby, group
            Column of ``.obs``, and the group wanted; by default each that has 10 cells.
        seed
            Seed of thinning and halves.

        Returns
        -------
        One row for each axis, direction or group, and feature:

        ``dimension`` and ``name``, or ``group``
            axis from 1 with its name, and in ``is_noise`` whether it is noise; or the group
        ``modality``, ``feature``
            the feature
        ``loading``
            correlation of feature and axis; of a group the difference between its mean and that of all others, in
            standard deviations of the feature, of what linear regression on the code tells of the feature
        ``stability``
            how far two halves of the cells, each with another half of the counts, agree on the loading: 1 fully, 0 not
        ``rank``
            1 for the largest loading of its modality, whatever its sign

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the stage.
        KeyError
            If there is no such column in ``.obs``.
        ValueError
            If there is no such space, rotation or group, the direction has another shape, a group or all cells are too
            few, or both a direction and groups are asked for.
        """
        if direction is not None and groupby is not None:
            raise ValueError(
                f"expected a direction or groups, got direction and groupby={groupby!r}; leave one of them out."
            )
        if group is not None and groupby is None:
            raise ValueError(f"expected groupby beside group={group!r}, got None; name the column of .obs.")
        part = self._seen(space, mdata, rotation, seed)
        if groupby is not None:
            (key,) = check_strings("groupby", [groupby])
            column = self._columns(cast(MuData, self._mdata if mdata is None else mdata), [key])[key]
            return table_of_groups(part, column, key, group, int(seed))
        if direction is not None:
            return table_of_direction(part, np.asarray(direction, dtype=np.float64), int(seed))
        return table_of_axes(part, axes_of(part, space, rotation, int(seed)), int(seed))

    @plain_torch()
    def axes(
        self,
        space: str,
        mdata: MuData | None = None,
        *,
        rotation: Literal["varimax", "none"] = "varimax",
        seed: int = 0,
    ) -> Axes:
        """Axes of a space that can be read: an order, a rotation and names, and which of them are noise.

        The codes in ``.obsm`` stay as they are; :meth:`write_axes` writes those on the axes beside them.

        Parameters
        ----------
        space, mdata, seed
            As in :meth:`attribution`.
        rotation
            ``"varimax"`` turns what is reproducible so that few features carry an axis; ``"none"`` tells of the
            dimensions as they are.

        Returns
        -------
        Axes, with their ``table`` and ``rotation``. A rotation keeps what a code is independent of, and can be undone.

        Raises
        ------
        RuntimeError
            Before training, or if training was interrupted before the stage.
        ValueError
            If there is no such space or rotation, or there are fewer than 100 cells.
        """
        return axes_of(self._seen(space, mdata, rotation, seed), space, rotation, int(seed))

    @plain_torch()
    def write_axes(self, mdata: MuData | None = None, *, with_noise: bool = False, seed: int = 0) -> dict[str, Axes]:
        """Write the specific codes on their axes into ``.obsm``, for maps: ``X_indiseek_prot_axes`` and so on.

        Axes are found in the cells of training, in the order of :meth:`axes`; those of noise are left out. A space of
        noise alone is not written, and a warning says so.

        Parameters
        ----------
        mdata
            Cells; by default those of training.
        with_noise
            Whether axes of noise are written too.
        seed
            As in :meth:`attribution`.

        Returns
        -------
        The axes by modality.

        Raises
        ------
        RuntimeError
            Before training, if training was interrupted before the stage, or if the model was loaded without data.
        """
        check_flag("with_noise", with_noise)
        target = cast(MuData, self._mdata if mdata is None else mdata)
        found = {name: self.axes(name, seed=seed) for name in self.modalities}
        whole = {}
        for name, axes in found.items():
            if not (axes.n_axes or with_noise):
                logger.warning(f"the {name!r}-specific space holds nothing reproducible: its axes are not written.")
                continue
            codes = self.get_latent_representation(mdata, modality=name, kind="specific")
            whole[f"X_indiseek_{name}_axes"] = axes.coordinates(codes, with_noise=with_noise).astype(np.float32)
        self._put(target, whole, {})
        return found

    @plain_torch()
    def private_parts(self, features: Sequence[str], mdata: MuData | None = None) -> pd.DataFrame:
        """What of features the other modality does not tell: measured less predicted, in each cell.

        Within batches, and with counting noise in it. Training cells, which the prediction has seen, keep a little less
        than others.

        Parameters
        ----------
        features
            Names of genes or proteins; ``"rna:CD4"`` where two modalities have the name. A kit's tag that all proteins
            end with, such as ``_TotalSeqB``, may be left out.
        mdata
            Cells with all modalities; by default those of training.

        Returns
        -------
        ``(n_cells, n_features)``, by the names that were given. :func:`indiseek.pl.private` draws it on a map.

        Raises
        ------
        RuntimeError
            As :meth:`predict`.
        KeyError
            If a feature is unknown.
        ValueError
            If two modalities have the name.
        """
        names = check_strings("features", features)
        _ = self.fitted
        wanted = [(name, *located(self._schema.features, name)) for name in dict.fromkeys(names)]
        others = {name: next(other for other in self.modalities if other != name) for _, name, _ in wanted}
        predictors = {(others[name], name): self._predictor(others[name], name) for name in others}
        cells = self._cells_of(mdata)
        with self._explained(len(cells), FEWER_CELLS):
            # NaN for cells that lack a modality.
            return private_parts(predictors, cells.paired(), wanted).reindex(cells.names)

    def _seen(self, space: str, mdata: MuData | None, rotation: str, seed: int) -> Seen:
        """Codes of a space and how the features go with them."""
        check_choice("rotation", rotation, ROTATIONS)
        check_seed("seed", seed)
        stages = {"shared": "shared", "everything": "everything"} | dict.fromkeys(self.modalities, "specific")
        check_choice("space", space, list(stages))
        self._check_stage(stages[space])
        cells = self._cells_of(mdata)
        paired = np.flatnonzero(cells.is_paired)
        if len(paired) < MIN_HELD_OUT_CELLS:
            raise ValueError(f"expected at least {MIN_HELD_OUT_CELLS} cells, got {len(paired)}; give more.")
        known = self._known.get(space)
        # Axes, tables and the codes on the axes are asked for one after the other.
        if known is not None and known[0] is self._fitted and known[1] is cells and known[2] == seed:
            return known[3]
        with self._explained(len(cells), FEWER_CELLS):
            part = seen(self.module, cells.paired(), np.arange(len(paired)), space, int(seed))
        part = part._replace(rows=paired[part.rows])
        self._known = {**self._known, space: (self.fitted, cells, int(seed), part)}
        return part

    def _check_pair(self, given: str, modality: str) -> None:
        """Raise unless the model is trained and one modality can be predicted from the other."""
        _ = self.fitted
        self._check_modality(modality)
        self._check_modality(given, "given")
        if given == modality:
            others = [name for name in self.modalities if name != modality]
            raise ValueError(
                f"expected given to be another modality than {modality!r}, got {given!r}; choose one of {others}."
            )

    def _predictor(self, given: str, modality: str) -> Predictor:
        """The fitted predictor of a pair, fitted now if it is not there yet."""
        known = self.module.predictor(given, modality)
        if known is not None:
            return known
        split = self.fitted.split
        if split is None or self._cells is None:
            raise RuntimeError(
                f"expected the cells that the model was trained on, to learn {modality!r} from {given!r}, got "
                f"{'none' if self._cells is None else 'others'}; load the model with its own MuData, or save it after "
                "a first prediction."
            )
        cells, transforms = self._unchanged_cells(), self.fitted.transforms
        batch_key, split_by = cells.schema.setup.batch_key, self.fitted.split_options.get("split_by")
        rows = split.train[cells.is_paired[split.train]]
        groups = None
        if split_by is not None:
            column = self._columns(cast(MuData, self._mdata), [split_by])[split_by]
            groups = pd.factorize(column.to_numpy()[rows])[0]
        cells, rows = cells.paired(), cells.among_paired(rows)
        kept = drawn(np.arange(len(rows)), _MOST_FOR_PREDICTION, seed=0)
        rows, groups = rows[kept], None if groups is None else groups[kept]
        n_batches = 0 if batch_key is None else cells.schema.n_categories[batch_key]
        found = Predictor(transforms[given], transforms[modality], n_batches).to(self.device)
        found.fit(
            cells.values[given],
            cells.values[modality],
            rows,
            None if batch_key is None else torch.as_tensor(cells.covariates[batch_key][rows], device=self.device),
            groups,
        )
        self.module.keep_predictor(given, modality, found)
        logger.info(f"prediction of {modality!r} from {given!r}: fitted to {len(rows)} training cells")
        return found


def _check_query(batch: Any, fit_batch: bool, min_overlap: float) -> None:
    check_flag("fit_batch", fit_batch)
    check_number("min_overlap", min_overlap, low=0, high=1)
    if isinstance(batch, Sequence | Mapping) and not isinstance(batch, str):
        raise TypeError(f"expected batch to be the name of one batch, got {batch!r}; name the one to read cells as.")
