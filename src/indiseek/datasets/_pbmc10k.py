"""The CITE-seq sample of 6,855 blood cells that comes with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

import mudata


def pbmc10k_cite() -> mudata.MuData:
    """Paired RNA and surface protein counts of 6,855 peripheral blood cells of one healthy donor.

    "10k PBMCs from a Healthy Donor - Gene Expression with a Panel of TotalSeq-B Antibodies" by 10x Genomics, with the
    cells and genes kept in [1]_. The file is part of the package, nothing is downloaded.

    Returns
    -------
    mudata.MuData
        A fresh object at each call, with the same cells in the same order in both modalities:

        - ``rna``: ``.X`` of shape (6855, 4000), raw counts, CSR, float32;
        - ``prot``: ``.X`` of shape (6855, 14), raw counts, dense, float32; names such as ``"CD3_TotalSeqB"``.

        There are no cell labels; see :func:`gate_pbmc` for coarse ones.

    Notes
    -----
    The data are licensed CC BY 4.0; ``PBMC10K_LICENSE.md`` beside the file holds the attribution.

    References
    ----------
    .. [1] Gayoso et al., "Joint probabilistic modeling of single-cell multi-omic data with totalVI",
       Nature Methods 18, 272-282 (2021).
    """
    # mudata 0.3 warns of its coming default unless it is chosen; scoped, so that the user's own option stays.
    with as_file(files(__package__) / "pbmc10k_cite.h5mu") as path, mudata.set_options(pull_on_update=False):
        return mudata.read_h5mu(path)
