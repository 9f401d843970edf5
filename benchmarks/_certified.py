"""Numbers of the certificate of a model trained on the sample, and their table."""

from __future__ import annotations

from typing import Any

import pandas as pd
from _table import markdown, spread

from indiseek.metrics import Certificate
from indiseek.models import MultimodalModel

Figures = dict[str, float]


def certified(model: MultimodalModel, seed: int, train: dict[str, Any]) -> Figures:
    """Train a model, and the numbers of its certificate on its test cells.

    Parameters
    ----------
    model
        Untrained.
    seed
        Of split, weights, batches and probes.
    train
        Further arguments of its ``train``.
    """
    model.train(seed=seed, accelerator="cpu", write_latents=False, show_progress=False, **train)
    return figures(model, seed)


def figures(model: MultimodalModel, seed: int) -> Figures:
    """The numbers of a trained model's certificate on its test cells.

    Parameters
    ----------
    model
        Trained.
    seed
        Of the probes.
    """
    certificate = model.certify(n_permutations=0, seed=seed)
    content = certificate.content.set_index(["modality", "code"])
    excess = certificate.table("excess").set_index(["modality", "code"])
    in_codes = certificate.table("completeness").set_index("modality")["in_codes"]
    found: Figures = {}
    for name in model.modalities:
        found[f"leak of Z_{name}"] = worst_leak(certificate, name)
        found[f"probes on Z_{name}"] = certificate.table("probes").query("modality == @name")["r2"].max()
        own, joint = content.loc[(name, "specific")], content.loc[(name, "joint")]
        found[f"private of {name} in Z_{name}"] = own["private"]
        found[f"private of {name} in C"] = excess.loc[(name, "joint"), "total"]
        found[f"private of {name} in {name} itself"] = own["private_ceiling"]
        found[f"predictable of {name} in C"] = joint["predictable"]
        found[f"predictable of {name} in {name} itself"] = joint["predictable_ceiling"]
        found[f"X_{name} from C, Z"] = in_codes[name]
    found["FOSCTTM"] = certificate.table("retrieval")["foscttm"].item()
    found["s"] = sum(model.stage_seconds.values())
    return {name: float(value) for name, value in found.items()}


def worst_leak(certificate: Certificate, modality: str) -> float:
    """What a specific code explains of the worst target; large shares are overstated, and end at 1 here."""
    rows = certificate.table("independence").query("modality == @modality")
    return min(1.0, float(rows["total"].max()))


def tall(found: dict[str, list[Figures]]) -> str:
    """Markdown with a column for each entry, because there are more figures than entries."""
    rows = pd.DataFrame([table_row(label, values) for label, values in found.items()])
    return markdown(rows.set_index("codes").T.reset_index(names=""))


def table_row(label: str, values: list[Figures]) -> dict[str, str]:
    """Row of a table: mean, lowest and highest of each figure over seeds."""
    return {"codes": label} | {
        name: spread([found[name] for found in values], 0 if name == "s" else 3) for name in values[0]
    }
