"""Labels of what turns said: found by versioned detectors, kept beside the log, never hashed, and made again whenever a detector changes.

Labels judge a run from outside. No scene sees them, and no event says them: what a scene itself makes of a reply is a flaw
(`matrix_py.scene.flaws`).
"""

from matrix_py.labels.detector import Detector, Subject
from matrix_py.labels.labelling import DETECTORS, DetectorRates, KindRates, Labelling, label_run, read_labels, subjects

__all__ = ["DETECTORS", "Detector", "DetectorRates", "KindRates", "Labelling", "Subject", "label_run", "read_labels", "subjects"]
