"""What must hold on every device: on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from indiseek.models import Flow, IndiSeekModel
from indiseek.nn import Encoder

_ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DEVICES = ["cpu", pytest.param("gpu", marks=_ON_GPU)]
SMALL = {"n_shared": 4, "specific": Flow(n_context=4), "encoder": Encoder(hidden=(32,))}
FAST = {"max_epochs": 2, "batch_size": 64, "show_progress": False}


def codes(model: IndiSeekModel) -> dict[str, np.ndarray]:
    found = {"joint": model.get_latent_representation()}
    return found | {name: model.get_latent_representation(modality=name, kind="specific") for name in model.modalities}


def random_states() -> list[torch.Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("accelerator", DEVICES)
def test_a_model_trained_there_gives_the_same_codes_on_the_cpu_and_back(make_mdata, accelerator, tmp_path):
    mdata = make_mdata(200)
    model = IndiSeekModel(mdata, **SMALL)
    model.train(**FAST, accelerator=accelerator)
    assert model.module.device.type == {"cpu": "cpu", "gpu": "cuda"}[accelerator]
    model.save(tmp_path / "there")
    on_cpu = IndiSeekModel.load(tmp_path / "there", mdata, accelerator="cpu")
    assert on_cpu.module.device.type == "cpu"
    on_cpu.save(tmp_path / "cpu")
    back = IndiSeekModel.load(tmp_path / "cpu", mdata, accelerator=accelerator)
    for other in (on_cpu, back):
        for name, code in codes(model).items():
            np.testing.assert_allclose(codes(other)[name], code, rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("accelerator", DEVICES)
def test_training_there_leaves_all_random_states_alone_and_splits_as_on_the_cpu(make_mdata, accelerator):
    mdata = make_mdata(200)
    splits = []
    for where in ("cpu", accelerator):
        model = IndiSeekModel(mdata, **SMALL)
        before = random_states()
        model.train(**FAST, accelerator=where, seed=3)
        assert all(torch.equal(a, b) for a, b in zip(before, random_states(), strict=True))
        splits.append(model.test_indices.tolist())
    assert splits[0] == splits[1]


@pytest.fixture
def little_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2e-4)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@_ON_GPU
def test_too_little_memory_there_says_what_helps_and_leaves_the_model(make_mdata, little_memory):
    model = IndiSeekModel(make_mdata(600), encoder=Encoder(hidden=(4096, 4096)))
    with pytest.raises(MemoryError, match=r"to fit into the memory of cuda:0, got out of memory.*accelerator='cpu'"):
        model.train(**FAST, accelerator="gpu")
    assert not model.is_trained
