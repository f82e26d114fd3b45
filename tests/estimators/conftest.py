"""Features like those of a net, small: rows of length 1, nothing negative, classes that overlap."""

from typing import NamedTuple

import numpy as np
import pytest


class Problem(NamedTuple):
    features: np.ndarray
    signs: np.ndarray


def make_problem(num_rows: int, num_features: int, num_classes: int = 3) -> Problem:
    random = np.random.default_rng(0)
    labels = random.integers(num_classes, size=num_rows)
    centres = random.standard_normal((num_classes, num_features))
    features = np.maximum(0.4 * centres[labels] + random.standard_normal((num_rows, num_features)), 0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Problem(features, np.where(labels[:, None] == np.arange(num_classes), 1, -1))


@pytest.fixture(scope="session", params=[(400, 60), (120, 300)], ids=["primal", "dual"])
def problem(request: pytest.FixtureRequest) -> Problem:
    return make_problem(*request.param)
