"""Which checks of a GPU there are, in which order, and how long each may take; standard library only."""

from __future__ import annotations

from typing import NamedTuple


class Check(NamedTuple):
    """One check.

    Attributes
    ----------
    question
        What it answers, for the table.
    seconds
        Most seconds on a GPU.
    quick_seconds
        Most seconds with ``--quick``.
    plain
        Whether it needs nothing but torch and Lightning: neither mudata nor scvi-tools.
    """

    question: str
    seconds: float
    quick_seconds: float = 60.0
    plain: bool = False


# Most telling first: a run that is cut off has said what matters. What takes longest comes late.
CHECKS = {
    "train": Check("does IndiSeekModel(mdata).train() run there, and are its codes finite?", 70),
    "codes": Check("are the codes of a saved model the same on the CPU and there?", 20),
    "save_load": Check("saved there, loaded on the CPU, saved, loaded there: the same weights and codes?", 20),
    "speed": Check("how many training cells a second, by stage, cells and batch?", 60, plain=True),
    "ratio": Check("how many CPU cores is that?", 40, plain=True),
    "profile": Check("where does a step go: kernels, launches, copies from the host?", 30, plain=True),
    "synchronisations": Check("where does the host wait for the device?", 20, plain=True),
    "graphs": Check("do CUDA graphs pay, and do they compute the same?", 30, plain=True),
    "resume": Check("does a fit that was stopped go on to the same result?", 30),
    "interrupt": Check("does Ctrl-C keep the weights?", 20),
    "same_seed": Check("do two trainings with one seed give the same codes?", 30),
    "device_index": Check("can a device be named by its index?", 20),
    "disentangled_ssl": Check("does DisentangledSSLModel train, and save to the CPU?", 30),
    "comm": Check("does CoMMModel train, and save to the CPU?", 30),
    "suspects": Check("eigh, solve_triangular, autocast, index_add, permutation, memory of wide flows", 30, plain=True),
    "tests": Check("do the tests of devices pass?", 60, 150),
    "whole_fit": Check("how long does a whole fit of counts take, transforms included?", 170),
    "low_precision": Check("what do bf16 and TF32 gain in speed?", 80, plain=True),
    "certificate": Check("do the certificates of both devices and all precisions agree?", 90, 90),
    "zarr": Check("how long do as many cells take to write to zarr and to read?", 150),
    "compile": Check("does torch.compile pay?", 120, plain=True),
}

# All of them together.
LIMIT, QUICK_LIMIT = 470.0, 175.0
