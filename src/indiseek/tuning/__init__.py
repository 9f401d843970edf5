"""Choice of the shared space and of what the specific stage needs, without labels."""

from indiseek.tuning._record import FILE_NAME, Record, checksum, fingerprint_of_data
from indiseek.tuning._result import Tuning
from indiseek.tuning._rules import Choice, choose_lam, choose_n_specific, choose_shared
from indiseek.tuning._search import Grid, Trials, candidates, search

__all__ = [
    "FILE_NAME",
    "Choice",
    "Grid",
    "Record",
    "Trials",
    "Tuning",
    "candidates",
    "checksum",
    "choose_lam",
    "choose_n_specific",
    "choose_shared",
    "fingerprint_of_data",
    "search",
]
