"""Active learning of potentials: which configurations to label, where to trust what was learned, the rounds."""

from particlegen.learning.learner import Learner, LearningRound
from particlegen.learning.selection import LabelRequest, requests_for, select, sorted_inverse_distances
from particlegen.learning.settings import LabelSettings
from particlegen.learning.trust import Trusted

__all__ = [
    "LabelRequest",
    "LabelSettings",
    "Learner",
    "LearningRound",
    "Trusted",
    "requests_for",
    "select",
    "sorted_inverse_distances",
]
