"""One HTML page of what was found, which needs no network: tables and arrays in, text out."""

from indiseek.report._code import CITATION, code_of, versions
from indiseek.report._colours import Colours, FeatureValues, colours_of, first_colour
from indiseek.report._curves import curves
from indiseek.report._effects import effect_rows
from indiseek.report._features import feature_rows, from_certificate
from indiseek.report._groups import group_tables
from indiseek.report._names import counted, in_words, sentence_case, spoken
from indiseek.report._page import Page, render
from indiseek.report._spaces import Space, maps_of
from indiseek.report._verdicts import findings
from indiseek.report._words import FEATURES_NOTE, certificate_note, certificate_sentence, feature_sentences

__all__ = [
    "CITATION",
    "FEATURES_NOTE",
    "Colours",
    "FeatureValues",
    "Page",
    "Space",
    "certificate_note",
    "certificate_sentence",
    "code_of",
    "colours_of",
    "counted",
    "curves",
    "effect_rows",
    "feature_rows",
    "feature_sentences",
    "findings",
    "first_colour",
    "from_certificate",
    "group_tables",
    "in_words",
    "maps_of",
    "render",
    "sentence_case",
    "spoken",
    "versions",
]
