"""One modality predicted from another, with intervals."""

from indiseek.prediction._predictor import Predicted, Predictor, folds_of
from indiseek.prediction._tables import (
    Measured,
    Prediction,
    Recalibration,
    as_of_batch,
    check_batch,
    check_batches_known,
    measured,
    predictability_table,
    prediction,
    recalibration,
)
from indiseek.prediction._units import Units, units_of

__all__ = [
    "Measured",
    "Predicted",
    "Prediction",
    "Predictor",
    "Recalibration",
    "Units",
    "as_of_batch",
    "check_batch",
    "check_batches_known",
    "folds_of",
    "measured",
    "predictability_table",
    "prediction",
    "recalibration",
    "units_of",
]
