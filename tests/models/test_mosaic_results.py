"""What cells that lack a modality are worth: models with them beside models of the paired half alone, on test cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mosaic import COLUMNS, masked
from mudata import MuData
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from small import pair

from indiseek.datasets import gate_pbmc, pbmc10k_cite
from indiseek.metrics import certify, foscttm, probe_r2
from indiseek.metrics.checks import Content, Independence
from indiseek.models import IndiSeekModel
from indiseek.simulation import simulate_factors

TRAIN: dict[str, Any] = {"accelerator": "cpu", "show_progress": False, "write_latents": False}
N_VALIDATION, N_TEST = 150, 500


def _both(whole: MuData) -> tuple[IndiSeekModel, IndiSeekModel, list[NDArray[np.intp]]]:
    """A model with the unpaired half of the training cells, one without, and the parts: a kind of cell each.

    A quarter of the training cells keep one modality, and a quarter the other.
    """
    n_train = whole.n_obs - N_VALIDATION - N_TEST
    order, n = np.random.default_rng(0).permutation(whole.n_obs), n_train // 4
    mdata = masked(whole, n)
    parts = np.split(order, np.cumsum([n, n, n_train - 2 * n, N_VALIDATION]))
    models = []
    for present, train in ((COLUMNS, order[:n_train]), (None, parts[2])):
        IndiSeekModel.setup_mudata(mdata, present=present)
        model = IndiSeekModel(mdata)
        model.train(**TRAIN, external_indexing=[train, parts[3], parts[4]])
        models.append(model)
    return models[0], models[1], parts


def _retrieval(model: IndiSeekModel, test: NDArray[np.intp]) -> float:
    return float(foscttm(*(model.get_latent_representation(modality=name, indices=test) for name in ("rna", "prot"))))


def test_where_the_truth_is_known_they_do_no_harm():
    truth = simulate_factors(2250, 3, (3, 3), (40, 30), seed=0)
    some, pairs, parts = _both(truth.to_mudata())
    test = parts[4]
    assert _retrieval(some, test) < _retrieval(pairs, test) + 0.01
    for name in ("rna", "prot"):
        codes = [m.get_latent_representation(modality=name, kind="specific", indices=test) for m in (some, pairs)]
        leak, leak_of_pairs = (probe_r2(code, truth.shared[test], probe="nonlinear") for code in codes)
        private, private_of_pairs = (probe_r2(code, truth.specific[name][test], probe="nonlinear") for code in codes)
        assert leak < leak_of_pairs + 0.03 and leak < 0.2
        assert private > private_of_pairs - 0.03 and private > 0.5
    # Shared codes of cells that never had a pair hold what is shared as those of test cells do.
    for name, rows in (("rna", parts[0]), ("prot", parts[1])):
        code = some.get_latent_representation(modality=name)
        found, of_test = (probe_r2(code[each], truth.shared[each], probe="nonlinear") for each in (rows, test))
        assert found > of_test - 0.05


@pytest.fixture(scope="module")
def blood() -> MuData:
    whole = pbmc10k_cite()
    rows = np.sort(np.random.default_rng(1).permutation(whole.n_obs)[:1850])
    return pair(**{name: adata[rows].copy() for name, adata in whole.mod.items()})


def test_of_blood_cells_they_do_no_harm_and_rna_alone_tells_types(blood):
    some, pairs, parts = _both(blood)
    test = parts[4]
    assert _retrieval(some, test) < _retrieval(pairs, test) + 0.01
    types = gate_pbmc(blood).astype(str).to_numpy()
    figures = {}
    features = {name: some.get_features(modality=name) for name in ("rna", "prot")}
    for model in (some, pairs):
        certificate = certify(
            {name: x[test] for name, x in features.items()},
            {name: model.get_latent_representation(modality=name, indices=test) for name in features},
            {name: model.get_latent_representation(modality=name, kind="specific", indices=test) for name in features},
            reference={name: x[parts[2]] for name, x in features.items()},
            checks=(Independence(), Content()),
        )
        content = certificate.content.set_index(["modality", "code"])
        figures[model] = {
            name: (
                certificate.table("independence").query("modality == @name")["total"].max(),
                content.loc[(name, "specific"), "private"],
            )
            for name in ("rna", "prot")
        }
    for name in ("rna", "prot"):
        (leak, private), (leak_of_pairs, private_of_pairs) = figures[some][name], figures[pairs][name]
        assert leak < leak_of_pairs + 0.04
        assert private > private_of_pairs - 0.05
    code, joint = some.get_latent_representation(modality="rna"), some.get_latent_representation()
    known = KNeighborsClassifier(15).fit(joint[parts[2]], types[parts[2]])
    alone, of_pairs = (f1_score(types[rows], known.predict(code[rows]), average="macro") for rows in (parts[0], test))
    # 300 and 500 cells: two standard errors of the difference are .06.
    assert alone > of_pairs - 0.02 - 0.06
