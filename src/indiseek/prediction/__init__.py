"""One modality predicted from another, with intervals."""

from indiseek.prediction._predictor import Predictor, folds_of
from indiseek.prediction._units import Units, units_of

__all__ = ["Predictor", "Units", "folds_of", "units_of"]
