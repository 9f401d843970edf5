"""What every objective must do for the training loop. A new one adds a line to the list."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from indiseek.data import CellTensors
from indiseek.nn import Encoder
from indiseek.objectives import (
    CLIPObjective,
    ClosedFormFlowObjective,
    CoMMObjective,
    ConditionalFlowObjective,
    DisentangledSharedObjective,
    DisentangledSpecificObjective,
    DistanceInfoNCEObjective,
    NCEClubObjective,
    Objective,
)

# Different sizes everywhere, so that exchanged dimensions cannot pass.
FEATURES = {"rna": 9, "prot": 4, "atac": 6}
SPECIFIC = {"rna": 3, "prot": 2, "atac": 5}
N_SHARED = 7
N_CELLS = 24

Build = Callable[[dict[str, int]], Objective]


def _clip(features: dict[str, int], **options) -> Objective:
    return CLIPObjective(features, N_SHARED, encoder=Encoder(hidden=(8,)), **options)


def _distance(features: dict[str, int], **options) -> Objective:
    return DistanceInfoNCEObjective(features, N_SHARED, encoder=Encoder(hidden=(8,)), **options)


def _nce_club(features: dict[str, int], **options) -> Objective:
    specific = {name: SPECIFIC[name] for name in features}
    return NCEClubObjective(features, N_SHARED, specific, encoder=Encoder(hidden=(8,)), critic_hidden=(6,), **options)


def _flow(features: dict[str, int], **options) -> Objective:
    specific = {name: SPECIFIC[name] for name in features}
    axes = {name: n - 1 if name == "rna" else n for name, n in features.items()}
    specific["prot"] = features["prot"]
    return ConditionalFlowObjective(features, axes, N_SHARED, specific, n_hidden=16, **options)


def _closed_form(features: dict[str, int], n_components: int = 2) -> Objective:
    specific = {name: SPECIFIC[name] for name in features}
    axes = {name: n - 1 if name == "rna" else n for name, n in features.items()}
    condition = dict.fromkeys(features, N_SHARED)
    return ClosedFormFlowObjective(features, axes, condition, N_SHARED - n_components, specific, n_hidden=16)


def _bottleneck(features: dict[str, int], **options) -> Objective:
    return DisentangledSharedObjective(features, N_SHARED, encoder=Encoder(hidden=(8,)), **options)


def _views(features: dict[str, int], **options) -> Objective:
    specific = {name: SPECIFIC[name] for name in features}
    return DisentangledSpecificObjective(features, N_SHARED, specific, encoder=Encoder(hidden=(8,)), **options)


def _comm(features: dict[str, int], **options) -> Objective:
    return CoMMObjective(features, 8, encoder=Encoder(hidden=(8,)), head_hidden=(6,), **options)


OBJECTIVES = [
    pytest.param(_clip, id="clip"),
    pytest.param(partial(_clip, alignment=1.0), id="clip-aligned"),
    pytest.param(partial(_distance, temperature=5.0), id="distance"),
    pytest.param(_nce_club, id="nce-club"),
    pytest.param(partial(_nce_club, independence="vclub"), id="vclub"),
    pytest.param(partial(_nce_club, independent_of="own"), id="indiseek0"),
    pytest.param(partial(_nce_club, independence_weight=0.0), id="reconstruction-only"),
    pytest.param(partial(_nce_club, n_labels=3), id="nce-club-supervised"),
    pytest.param(_bottleneck, id="disentangled-shared"),
    pytest.param(
        partial(_bottleneck, beta=2.0, bottleneck="cosine", kappa=5.0, augment=True), id="disentangled-shared-published"
    ),
    pytest.param(_views, id="disentangled-specific"),
    pytest.param(partial(_views, orthogonality="published"), id="disentangled-specific-published"),
    pytest.param(partial(_views, form="code"), id="disentangled-specific-code"),
    pytest.param(partial(_views, form="fixed"), id="disentangled-specific-fixed"),
    pytest.param(_comm, id="comm"),
    pytest.param(partial(_comm, form="code", negatives="both", n_layers=2, n_tokens=3), id="comm-code"),
    pytest.param(partial(_comm, unimodal_weight=0.0), id="comm-joint"),
    pytest.param(_closed_form, id="closed-form"),
    pytest.param(partial(_closed_form, n_components=0), id="closed-form-codes-only"),
    pytest.param(_flow, id="flow"),
    pytest.param(partial(_flow, transport=0.0, n_layers=1), id="flow-plain"),
]

pytestmark = [pytest.mark.parametrize("build", OBJECTIVES), pytest.mark.parametrize("k", [2, 3])]


@pytest.fixture
def batch(k: int) -> CellTensors:
    generator = torch.Generator().manual_seed(0)
    features = tuple(torch.randn(N_CELLS, n, generator=generator) for n in list(FEATURES.values())[:k])
    shared = tuple(F.normalize(torch.randn(N_CELLS, N_SHARED, generator=generator), dim=-1) for _ in range(k))
    labels = torch.randint(-1, 3, (N_CELLS,), generator=generator)
    return CellTensors(features, shared, labels=(labels,))


@pytest.fixture
def objective(build: Build, k: int, batch: CellTensors) -> Objective:
    torch.manual_seed(0)
    objective = build(dict(list(FEATURES.items())[:k]))
    with torch.no_grad():
        objective.eval().start(batch)
        # One pass in training, so that running statistics are not at their start.
        objective.train().latents(batch)
    return objective


def test_latents_are_one_matrix_of_finite_codes_for_each_modality(objective, batch, k):
    codes = objective.latents(batch)
    assert isinstance(codes, tuple) and len(codes) == k
    assert all(code.ndim == 2 and len(code) == N_CELLS and code.isfinite().all() for code in codes)


def test_a_code_does_not_depend_on_the_other_cells_in_inference(objective, batch):
    objective.eval()
    rows = torch.tensor([5, 2, 11])
    for codes, some in zip(objective.latents(batch), objective.latents(batch.take(rows)), strict=True):
        torch.testing.assert_close(some, codes[rows])


def test_loss_is_a_finite_scalar_with_detached_terms(objective, batch):
    output = objective.loss(batch)
    assert output.loss.shape == () and output.loss.isfinite() and output.loss.requires_grad
    assert output.terms
    for term in output.terms.values():
        assert term.shape == () and term.isfinite() and not term.requires_grad


def test_the_order_of_the_cells_does_not_matter(objective, batch):
    objective.eval()
    order = torch.randperm(N_CELLS, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(objective.loss(batch.take(order)).loss, objective.loss(batch).loss)
    critic, permuted = objective.critic_loss(batch), objective.critic_loss(batch.take(order))
    assert (critic is None) is (permuted is None)
    if critic is not None:
        torch.testing.assert_close(permuted, critic)


def test_critics_and_encoders_have_parameters_and_gradients_of_their_own(objective, batch):
    critics, encoders = list(objective.critic_parameters()), list(objective.encoder_parameters())
    assert not {*map(id, critics)} & {*map(id, encoders)}
    trained = (parameter for parameter in objective.parameters() if parameter.requires_grad)
    assert {*map(id, critics), *map(id, encoders)} == {*map(id, trained)}
    loss = objective.critic_loss(batch)
    if loss is not None:
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in critics if p.ndim == 2)
        assert all(p.grad is None for p in encoders)


def test_loss_reaches_every_encoder_matrix(objective, batch):
    objective.loss(batch).loss.backward()
    for parameter in objective.encoder_parameters():
        if parameter.ndim == 2:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0


def test_ramp_is_full_by_default_and_zero_is_allowed(objective, batch):
    objective.eval()
    assert objective.ramp == 1.0
    objective.ramp = 0.0
    assert objective.loss(batch).loss.isfinite()


def test_validation_gives_the_monitored_term_and_leaves_no_trace(objective, batch):
    objective.eval()
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    with torch.no_grad():
        terms = objective.validate(batch)
        again = objective.validate(batch)
    assert objective.monitor in terms
    for name, term in terms.items():
        assert term.shape == () and term.isfinite()
        torch.testing.assert_close(again[name], term, rtol=0, atol=0)
    for key, value in objective.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_state_carries_everything_that_inference_needs(objective, batch, build, k):
    torch.manual_seed(1)
    other = build(dict(list(FEATURES.items())[:k])).eval()
    other.load_state_dict(objective.eval().state_dict())
    for ours, theirs in zip(objective.latents(batch), other.latents(batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_double_precision_works_throughout(objective, batch):
    wide = CellTensors(tuple(x.double() for x in batch.features), tuple(c.double() for c in batch.condition))
    objective.double().eval()
    assert objective.loss(wide).loss.isfinite()
    assert all(code.dtype == torch.double for code in objective.latents(wide))


def test_start_and_finish_change_no_parameter_and_can_be_repeated(objective, batch):
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    objective.eval()
    with torch.no_grad():
        objective.finish(batch)
        codes = objective.latents(batch)
        objective.start(batch)
        objective.finish(batch)
        again = objective.latents(batch)
    for parameter, old in zip(objective.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old, rtol=0, atol=0)
    torch.testing.assert_close(again, codes)


def test_gradient_of_the_loss_is_that_of_finite_differences(objective, batch):
    # A handful of weights of the first encoder, in double precision; running means stand still.
    objective.double().eval()
    wide = CellTensors(tuple(x.double() for x in batch.features), tuple(c.double() for c in batch.condition))
    weight = next(p for p in objective.encoder_parameters() if p.ndim == 2 and min(p.shape) > 7)
    objective.loss(wide).loss.backward()
    step = 1e-6
    with torch.no_grad():
        for position in ((0, 0), (3, 1), (7, 5)):
            start = weight[position].item()
            values = []
            for sign in (1, -1):
                weight[position] = start + sign * step
                values.append(objective.loss(wide).loss.item())
            weight[position] = start
            difference = (values[0] - values[1]) / (2 * step)
            assert weight.grad[position].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)
