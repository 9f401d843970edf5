"""The benchmark of scale runs the default model, whose stages do not all have epochs."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_fit_tells_its_times(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _resampled import write_resampled
    from scale import fit

    write_resampled(tmp_path / "cells.h5mu", 400)
    figures = fit("IndiSeekModel", tmp_path / "cells.h5mu", tmp_path / "codes.zarr")
    parts = sum(figures[name] for name in ("open or read, s", "check, s", "fit, s", "latents, s"))
    assert figures["total, s"] == pytest.approx(parts)
    assert figures["training, cells/s"] > 0 and figures["cells/s"] == pytest.approx(400 / parts)
    assert (tmp_path / "codes.zarr").exists()
