"""Active learning of potentials: which configurations to label, where to trust what was learned, the rounds."""

from particlegen.learning.learner import Learner, LearningRound, check_failures
from particlegen.learning.selection import LabelRequest, requests_for, select, sorted_inverse_distances
from particlegen.learning.settings import LabelSettings
from particlegen.learning.trust import TrustRegion

__all__ = [
    "LabelRequest",
    "LabelSettings",
    "Learner",
    "LearningRound",
    "TrustRegion",
    "check_failures",
    "requests_for",
    "select",
    "sorted_inverse_distances",
]
