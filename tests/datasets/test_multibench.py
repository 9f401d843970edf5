from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

import indiseek
from indiseek.datasets import multibench_affect
from indiseek.nn import SequenceTransformer

WIDTHS = {"vision": 6, "audio": 4, "text": 5}
N_STEPS = 8


def _part(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Samples whose class text and vision both tell, in sequences that stand at the end as MultiBench's do."""
    scores = rng.uniform(0.5, 3, n) * rng.choice([-1, 1], n)
    # One length for all modalities of a sample: they are aligned.
    starts = rng.integers(1, N_STEPS - 2, n)
    part: dict[str, np.ndarray] = {}
    for name, width in WIDTHS.items():
        x = rng.normal(size=(n, N_STEPS, width)) + 1.5 * np.sign(scores)[:, None, None] * (name != "audio")
        x[np.arange(N_STEPS) < starts[:, None]] = 0
        part[name] = x.astype(np.float32)
    return part | {"labels": scores.reshape(n, 1, 1), "id": np.array([f"clip[{i}]" for i in range(n)])}


@pytest.fixture
def made(tmp_path):
    rng = np.random.default_rng(0)
    data = {split: _part(n, rng) for split, n in (("train", 90), ("valid", 30), ("test", 40))}
    data["train"]["audio"][0, -1, 0] = -np.inf
    data["test"]["text"][3] = 0
    path = tmp_path / "mosi_data.pkl"
    path.write_bytes(pickle.dumps(data))
    return path, data


def test_sequences_begin_at_the_first_step_with_text_and_are_filled_behind(made):
    path, data = made
    mdata = multibench_affect(path, modalities=("text", "vision", "audio"), n_steps=N_STEPS)
    assert list(mdata.mod) == ["text", "vision", "audio"]
    # One sample without text is left out.
    assert mdata.n_obs == 159
    assert mdata.obs["split"].value_counts().to_dict() == {"train": 90, "validation": 30, "test": 39}
    raw = data["train"]
    for i in range(5):
        start = int((raw["text"][i] != 0).any(axis=1).argmax())
        for name, width in WIDTHS.items():
            x = mdata[name].X[i].reshape(N_STEPS, width)
            expected = np.where(np.isfinite(raw[name][i]), raw[name][i], 0)[start:]
            np.testing.assert_array_equal(x[: N_STEPS - start], expected)
            assert not x[N_STEPS - start :].any() and start > 0
    assert mdata["text"].X.dtype == np.float32
    scores = np.concatenate([data["train"]["labels"].ravel(), data["valid"]["labels"].ravel()])
    np.testing.assert_array_equal(mdata.obs["label"].astype(str)[:120], (scores > 0).astype(int).astype(str))
    kept = multibench_affect(path, labels="scores", n_steps=N_STEPS).obs["label"].to_numpy()
    np.testing.assert_allclose(kept[:120], scores)


def test_sequences_are_cut_lengthened_or_start_on_their_own(made):
    path, data = made
    rng = np.random.default_rng(1)
    data["train"]["vision"][0, :4] = rng.normal(size=(4, 6))
    data["train"]["text"][0, :4] = 0
    path.write_bytes(pickle.dumps(data))
    for n_steps in (3, 12):
        for aligned, start in ((True, int((data["train"]["text"][0] != 0).any(axis=1).argmax())), (False, 0)):
            mdata = multibench_affect(path, n_steps=n_steps, aligned=aligned)
            x = mdata["vision"].X[0].reshape(n_steps, 6)
            expected = data["train"]["vision"][0][start : start + n_steps]
            np.testing.assert_array_equal(x[: len(expected)], expected)
            assert not x[len(expected) :].any()


@pytest.mark.parametrize("protocol", range(6))
def test_files_of_every_protocol_are_read(made, protocol):
    path, data = made
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    assert multibench_affect(path, n_steps=N_STEPS).n_obs == 159


class _Evil:
    def __init__(self, called) -> None:
        self.called = called

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (lambda mark: _Evil((os.system, (f"touch {mark}",))), "system"),
        (lambda mark: _Evil((eval, (f"open({str(mark)!r}, 'w')",))), "eval"),
        (lambda mark: _Evil((__import__("codecs").encode, ("x", "rot13"))), "rot13"),
        (lambda mark: np.array([_Evil((os.mkdir, (str(mark),)))], dtype=object), "mkdir"),
    ],
)
def test_a_file_that_asks_for_more_than_arrays_is_refused_before_it_is_run(made, tmp_path, what, named):
    path, data = made
    mark = tmp_path / "was_run"
    data["train"]["extra"] = what(mark)
    path.write_bytes(pickle.dumps(data, protocol=2))
    with pytest.raises(ValueError, match=f"expected a pickle of arrays, .*{named}, which was not run; MultiBench"):
        multibench_affect(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.pop("valid"),
            r"expected mosi_data.pkl to be a dict of \['train', 'valid', 'test'\], got .*'train', 'test'",
        ),
        (lambda d: d["test"].pop("audio"), r"expected mosi_data.pkl\['test'\] to be a dict of .*'audio'"),
        (
            lambda d: d["train"].update(text=np.zeros((4, 5))),
            r"expected mosi_data.pkl\['train'\]\['text'\] with three axes",
        ),
        (lambda d: d["train"].update(text=np.array([["a"]])), r"\['text'\] to be an array of numbers"),
        (
            lambda d: d["train"].update(vision=d["train"]["vision"][:5]),
            "expected as many samples and steps in all modalities",
        ),
    ],
)
def test_errors_say_what_was_expected_of_a_file(made, change, message):
    path, data = made
    change(data)
    path.write_bytes(pickle.dumps(data))
    with pytest.raises(ValueError, match=message):
        multibench_affect(path, n_steps=N_STEPS)


def test_errors_say_where_the_file_is_had(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="expected a file with the samples, got .*MultiBench .https://github.com"
    ):
        multibench_affect(tmp_path / "none.pkl")
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"train": [1, 2, 3]})[:-5])
    with pytest.raises(ValueError, match="expected a (whole )?pickle"):
        multibench_affect(tmp_path / "cut.pkl")
    with pytest.raises(ValueError, match="expected modalities out of .*each once, got 'text'"):
        multibench_affect(tmp_path / "cut.pkl", modalities="text")
    with pytest.raises(ValueError, match="expected labels to be one of"):
        multibench_affect(tmp_path / "cut.pkl", labels="both")


def test_comm_with_the_published_encoder_is_trained_on_sequences(made):
    path, _ = made
    mdata = multibench_affect(path, n_steps=N_STEPS)

    # No sequence is as long as all steps, and models leave out what is 0 in every sample.
    assert not all(adata.var["varies"].all() for adata in mdata.mod.values())

    def sequence(name: str):
        varies = mdata[name].var["varies"].to_numpy()
        return lambda n_in, n_out: SequenceTransformer(
            n_in, n_out, n_steps=N_STEPS, n_layers=1, n_heads=2, n_hidden=16, varies=varies
        )

    model = indiseek.CoMMModel(
        mdata,
        n_latent=8,
        n_tokens=N_STEPS,
        n_heads=2,
        form="code",
        negatives="both",
        encoder=indiseek.Encoder(own={name: sequence(name) for name in mdata.mod}),
        transforms={name: indiseek.data.Scale() for name in mdata.mod},
    )
    model.train(max_epochs=2, show_progress=False)
    assert mdata.obsm["X_comm"].shape == (159, 8)
    assert np.isfinite(mdata.obsm["X_comm"]).all()
