from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from indiseek.simulation import simulate_trifeature


def _states(codes: np.ndarray, n_states: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The states u and a and the bit, out of their one-hot codes."""
    parts = np.split(codes, [n_states, 2 * n_states], axis=1)
    for part in parts:
        assert (np.sort(part, axis=1)[:, -1] == 1).all() and (part.sum(axis=1) == 1).all()
    return tuple(part.argmax(axis=1) for part in parts)


def test_sizes_are_those_asked_for():
    s = simulate_trifeature(301, {"rna": 11, "adt": 7}, n_states=4)
    assert {name: x.shape for name, x in s.features.items()} == {"rna": (301, 11), "adt": (301, 7)}
    assert all(x.dtype == np.float32 for x in s.features.values())
    assert s.shared.shape == (301, 4)
    assert {name: z.shape for name, z in s.specific.items()} == {"rna": (301, 10), "adt": (301, 10)}
    assert set(s.labels) == {"redundant", "unique_rna", "unique_adt", "synergy", "xor"}
    assert s.labels["unique_adt"].max() == 3


def test_labels_are_what_the_latents_say():
    s = simulate_trifeature(5000)
    (u_1, _, b_1), (u_2, a_2, b_2) = (_states(s.specific[name]) for name in ("rna", "prot"))
    np.testing.assert_array_equal(s.labels["redundant"], s.shared.argmax(axis=1))
    np.testing.assert_array_equal(s.labels["unique_rna"], u_1)
    np.testing.assert_array_equal(s.labels["unique_prot"], u_2)
    np.testing.assert_array_equal(s.labels["xor"], b_1 ^ b_2)
    obeys = s.labels["synergy"] == 1
    pairs = set(zip(u_1[obeys], a_2[obeys], strict=True))
    # A bijection: six pairs, in which every state stands once on either side.
    assert len(pairs) == len({u for u, _ in pairs}) == len({a for _, a in pairs}) == 6
    assert pairs.isdisjoint(zip(u_1[~obeys], a_2[~obeys], strict=True))
    assert obeys.mean() == pytest.approx(1 / 6, abs=0.02)


@pytest.mark.parametrize("matched", [None, 0.0, 0.5, 1.0])
def test_no_state_alone_tells_of_the_synergy(matched):
    s = simulate_trifeature(30_000, matched=matched)
    share = 1 / 6 if matched is None else matched
    if matched is not None:
        assert s.labels["synergy"].sum() == round(matched * 30_000)
    for name in ("rna", "prot"):
        for state in _states(s.specific[name]):
            counts = np.bincount(state)
            assert counts == pytest.approx(np.full(len(counts), 30_000 / len(counts)), rel=0.06)
            for value in range(len(counts)):
                assert s.labels["synergy"][state == value].mean() == pytest.approx(share, abs=0.03)
                assert s.labels["xor"][state == value].mean() == pytest.approx(0.5, abs=0.03)


def test_draws_are_new_cells_of_the_same_maps():
    # Without noise, features are a function of the states.
    first, second = (simulate_trifeature(400, n_states=2, noise=0.0, draw=draw) for draw in (0, 1))
    assert not np.array_equal(first.shared, second.shared)
    seen = {}
    for s in (first, second):
        for state, x in zip(np.hstack([s.shared, s.specific["prot"]]), s.features["prot"], strict=True):
            np.testing.assert_allclose(seen.setdefault(tuple(state), x), x, atol=1e-6)
    assert len(seen) == 16
    other = simulate_trifeature(400, n_states=2, noise=0.0, seed=1)
    assert not np.allclose(other.features["prot"][0], seen[(*other.shared[0], *other.specific["prot"][0])])


def test_one_seed_and_draw_give_the_same_cells():
    for name, x in simulate_trifeature(50, seed=3, draw=2).features.items():
        np.testing.assert_array_equal(simulate_trifeature(50, seed=3, draw=2).features[name], x)


def test_features_hold_their_own_states_and_not_the_others():
    s = simulate_trifeature(3000)
    train, test = slice(0, 2000), slice(2000, None)

    def accuracy(x: np.ndarray, label: str) -> float:
        probe = LogisticRegression(max_iter=300).fit(x[train], s.labels[label][train])
        return balanced_accuracy_score(s.labels[label][test], probe.predict(x[test]))

    for name, other in (("rna", "prot"), ("prot", "rna")):
        x = s.features[name]
        assert accuracy(x, "redundant") > 0.9 and accuracy(x, f"unique_{name}") > 0.9
        assert accuracy(x, f"unique_{other}") < 0.25
    both = np.hstack(list(s.features.values()))
    # A sum over modalities cannot say whether two states belong together.
    assert accuracy(both, "xor") < 0.56 and accuracy(both, "synergy") < 0.56


def test_labels_go_into_the_mudata():
    s = simulate_trifeature(40)
    mdata = s.to_mudata()
    np.testing.assert_array_equal(mdata.obs["true_xor"].astype(str).astype(int), s.labels["xor"])
    assert mdata.obs["true_redundant"].dtype == "category"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_features": {"a": 3, "b": 4, "c": 5}}, r"expected exactly two modalities, got \['a', 'b', 'c'\]"),
        ({"n_states": 1}, "expected n_states to be an integer >= 2, got 1"),
        ({"matched": 1.5}, r"expected matched in \[0, 1\] or None, got 1.5"),
        ({"noise": -1.0}, "expected noise to be a finite number >= 0, got -1.0"),
        ({"draw": -1}, "expected draw to be an integer >= 0, got -1"),
    ],
)
def test_wrong_arguments_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        simulate_trifeature(10, **options)
