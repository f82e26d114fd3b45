"""What is concluded: a claim with its verdict, and whether networks had learned enough for any."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sppnet.tables.statistics import Estimate

Verdict = Literal["confirmed", "refuted", "undecided", "not tested"]


class Learned(NamedTuple):
    """What a network must have come to before anything is concluded from it (conf: table.learned)."""

    error: float  # at most this share of training images wrong, in percent
    fall: float  # the training loss falls by at most this over the last tenth of the epochs, in percent


class Contrast(NamedTuple):
    """A difference between cells that a claim is of; positive speaks for the claim.

    Attributes:
        label: Where.
        estimate: Ours, over pairs: points, counts, or logarithms of ratios of seconds.
        paper: The paper's, where it has all the numbers.
        text: Ours with its interval, and the paper's, as printed.
        p_confirmed: P that it does not lie where the claim puts it, two-sided.
        p_refuted: P that it does not lie elsewhere.
        p_signs: Of the signs of the pairs alone, one-sided; None of a single pair.
    """

    label: str
    estimate: Estimate
    paper: float | None
    text: str
    p_confirmed: float
    p_refuted: float
    p_signs: float | None


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, judged by our cells.

    Attributes:
        id: Short name.
        section: Of the paper.
        quote: Its words.
        text: What is compared.
        kind: How (claims.py).
        verdict: What it comes to.
        detail: By how much in each place, beside the paper; how sure that is; what would decide it.
        contrasts: What has to hold; empty where nothing could be measured.
        p: Adjusted for the number of claims of the table.
    """

    id: str
    section: str
    quote: str
    text: str
    kind: str
    verdict: Verdict
    detail: str
    contrasts: tuple[Contrast, ...]
    p: float | None

    @property
    def sentence(self) -> str:
        """What is compared, and where the paper says it."""
        return f"{self.text} (§{self.section})" if self.section else self.text


def unlearned(metrics: Mapping[str, float], learned: Learned) -> str | None:
    """Say what a run's networks lack; what comes with weights from elsewhere is not ours to judge."""
    if "train/steps" in metrics:
        if not {"train/error", "train/late_fall"} <= metrics.keys():
            return "it is not known how well the network had learned"
        error, fall = 100 * metrics["train/error"], 100 * metrics["train/late_fall"]
        if error > learned.error:
            return f"{error:.1f} % of the training images wrong (at most {learned.error:g})"
        if fall > learned.fall:
            return f"the loss still fell by {fall:.1f} % at the end (at most {learned.fall:g})"
    if "finetuning/steps" in metrics:
        if "finetuning/late_fall" not in metrics:
            return "it is not known how well fine-tuning had learned"
        if (fall := 100 * metrics["finetuning/late_fall"]) > learned.fall:
            return f"the loss of fine-tuning still fell by {fall:.1f} % at the end (at most {learned.fall:g})"
    return None
