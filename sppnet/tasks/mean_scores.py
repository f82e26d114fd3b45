"""Several networks as one: the mean of their softmax scores (paper §3.1.6, Table 5).

The paper does not say how its eleven models were joined; a plain mean is what it does with views.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.errors import ArtifactError, ConfigError
from sppnet.models.weights import read_tensors
from sppnet.run.guards import require_scores
from sppnet.tasks.evaluation import accuracies, errors


class Scores(NamedTuple):
    """What one run, or an ensemble, says of the test images.

    Attributes:
        scores: Mean softmax over the views.
        labels: True classes.
    """

    scores: Float[Tensor, "n classes"]
    labels: Int[Tensor, " n"]


def read_scores(run: Path) -> Scores:
    """Read the scores that an evaluation left in its directory.

    Raises:
        ArtifactError: There are none, or the file is damaged.
    """
    file = run / "scores.safetensors"
    tensors = read_tensors(file)
    if set(tensors) != {"scores", "labels"} or len(tensors["scores"]) != len(tensors["labels"]):
        raise ArtifactError(f"{file}: not a file of scores and labels; remove the run and run it again")
    require_scores(tensors["scores"], str(run))
    return Scores(tensors["scores"], tensors["labels"])


def average_scores(members: Sequence[Scores]) -> Scores:
    """Average the scores of networks that were tested on the same images.

    Raises:
        ConfigError: There are none, or their test images or classes differ.
    """
    if not members:
        raise ConfigError("an ensemble needs one network or more")
    first = members[0]
    for position, member in enumerate(members):
        if member.scores.shape != first.scores.shape or not torch.equal(member.labels, first.labels):
            raise ConfigError(
                f"member {position + 1} was tested on {tuple(member.scores.shape)} images and classes with "
                f"other labels than member 1 ({tuple(first.scores.shape)}): an ensemble needs runs on one "
                f"test set (same data, data.test_per_class and data.split_seed)"
            )
    mean = torch.stack([member.scores.double() for member in members]).mean(dim=0)
    return Scores(mean.float(), first.labels)


def error_rates(tested: Scores) -> dict[str, float]:
    """Top-1, top-5 and mean-per-class error, as fractions."""
    metrics = accuracies(tested.scores.shape[1])
    metrics.update(tested.scores, tested.labels)
    return {name: float(value) for name, value in errors(metrics).items()}
