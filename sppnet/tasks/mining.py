"""Train a detector's SVMs: positives first, then one pass over the images for hard negatives (paper §4.1).

Axes: n windows, d numbers a vector, k classes.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sppnet.artifacts import stable_seed
from sppnet.data.window_labels import DetectionImage, label_for_svm, windows_of_image
from sppnet.errors import ConfigError, DataError
from sppnet.estimators.hard_negatives import HardNegativeSvm
from sppnet.tasks.detector import Machines
from sppnet.windows.source import WindowSource, rows_ahead

_ROW_BITS: Final = 20  # of a row's id: which window of the image; above them the image


@final
class Labelling(NamedTuple):
    """What a window is to an SVM (§4.1)."""

    negative_overlap: float
    duplicate_overlap: float
    difficult_positives: bool
    duplicate_cells: bool  # whether the later of two negatives pooled from the same cells is left out


def random_rows(
    images: Sequence[DetectionImage],
    source: WindowSource,
    *,
    num_images: int,
    num_windows: int,
    generator: torch.Generator,
) -> Iterator[Float[Tensor, "n d"]]:
    """Yield the vectors of so many random windows of each of so many random images."""
    for index in torch.randperm(len(images), generator=generator)[:num_images].tolist():
        windows = windows_of_image(images[index].proposals, images[index].truth)
        some = torch.randperm(len(windows), generator=generator)[:num_windows]
        yield source.rows(images[index].image.path, windows[some])


def feature_scale(
    images: Sequence[DetectionImage],
    source: WindowSource,
    *,
    mean_norm: float,
    norm_images: int,
    norm_windows: int,
    seed: int,
) -> Float[Tensor, ""]:
    """What vectors are multiplied by so that random ones have this mean norm (R-CNN, rcnn_feature_stats.m).

    Raises:
        DataError: There is no window, or all vectors are zero.
    """
    generator = torch.Generator().manual_seed(stable_seed(seed, "norm"))
    some = random_rows(images, source, num_images=norm_images, num_windows=norm_windows, generator=generator)
    norms = [rows.double().norm(dim=1) for rows in some]
    mean = torch.cat(norms).mean() if norms else torch.tensor(torch.nan)
    if not mean > 0:
        raise DataError(
            f"the features of {sum(map(len, norms))} windows of {len(norms)} images have a mean norm of "
            f"{float(mean):g}; check the proposals and the network's weights"
        )
    return (mean_norm / mean).float()


@final
class Miner:
    """Takes a machine through the images; may be stopped after any of them.

    Args:
        images: To train on.
        source: Of their windows' vectors.
        labelling: Which windows are negatives.
        scale: What vectors are multiplied by.
        machine: Fresh.
        num_classes: k.
        workers: Images whose vectors are computed at a time.

    Raises:
        ConfigError: `duplicate_cells` of windows that are not pooled from maps.
    """

    def __init__(
        self,
        images: Sequence[DetectionImage],
        source: WindowSource,
        *,
        labelling: Labelling,
        scale: Float[Tensor, ""],
        machine: HardNegativeSvm,
        num_classes: int,
        workers: int,
    ) -> None:
        if labelling.duplicate_cells and source.places is None:
            raise ConfigError(
                "mining.duplicate_cells=true: warped windows cover no cells of a map; set it to false"
            )
        self.images = images
        self.source = source
        self.labelling = labelling
        self.scale = scale
        self.machine = machine
        self.num_classes = num_classes
        self.workers = workers
        self.num_seen = 0

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on where a state was taken; rows are computed again."""
        state = dict(state)
        self.num_seen = int(state.pop("num_seen"))
        self.machine.restore(state, self._rows_of)

    def state(self) -> dict[str, Tensor]:
        """Everything but the rows."""
        return {**self.machine.state(), "num_seen": torch.tensor(self.num_seen)}

    def run(self, report: Callable[[int], None]) -> Machines:
        """Train.

        Args:
            report: Told how many images were seen, after every one; may take the state, or raise to stop.
        """
        if self.num_seen == 0:
            self._add_positives()
        requests = (self._negatives(index) for index in range(self.num_seen, len(self.images)))
        for request, rows in rows_ahead(self.source, requests, workers=self.workers):
            self.machine.see(rows.mul_(self.scale), request.labels, request.ids)
            self.num_seen = request.index + 1
            report(self.num_seen)
        self.machine.finish()
        # A class that nothing was learned of is never found.
        is_known = torch.tensor([not status.startswith("no ") for status in self.machine.status])
        intercept = self.machine.intercept.masked_fill(~is_known, -torch.inf)
        return Machines(self.machine.coef, intercept, self.scale)

    def _add_positives(self) -> None:
        requests = (self._positives(index) for index in range(len(self.images)))
        some = (request for request in requests if len(request.windows))
        for request, rows in rows_ahead(self.source, some, workers=self.workers):
            self.machine.add_positives(rows.mul_(self.scale), request.labels, request.ids)

    def _positives(self, index: int) -> "_Request":
        """The windows of an image that are positives, and of which class: objects stand first."""
        truth = self.images[index].truth
        rows = (~truth.is_difficult | self.labelling.difficult_positives).nonzero()[:, 0]
        return self._request(index, rows, truth.labels[rows], is_positive=True)

    def _negatives(self, index: int) -> "_Request":
        """The windows of an image that are negatives of a class, and of which."""
        image, rules = self.images[index], self.labelling
        windows, signs = label_for_svm(
            image.proposals,
            image.truth,
            num_classes=self.num_classes,
            negative_overlap=rules.negative_overlap,
            duplicate_overlap=rules.duplicate_overlap,
            difficult_positives=rules.difficult_positives,
        )
        if rules.duplicate_cells:
            assert self.source.places is not None, "others were refused"
            signs = _leave_out_repeated(signs, self.source.places(image.image.path, windows))
        rows = (signs < 0).any(dim=1).nonzero()[:, 0]
        return self._request(index, rows, signs[rows], is_positive=False)

    def _request(self, index: int, rows: Tensor, labels: Tensor, *, is_positive: bool) -> "_Request":
        image = self.images[index]
        windows = windows_of_image(image.proposals, image.truth)[rows]
        ids = ((2 * index + int(is_positive)) << _ROW_BITS) + rows
        return _Request(index, image.image.path, windows, labels, ids)

    def _rows_of(self, ids: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Compute rows again: with all that were computed together, because rounding may depend on it."""
        out = torch.empty(len(ids), self.source.dim)
        places = ids >> _ROW_BITS
        wanted = sorted(set(places.tolist()))
        requests = (
            self._positives(place // 2) if place % 2 else self._negatives(place // 2) for place in wanted
        )
        ahead = rows_ahead(self.source, requests, workers=self.workers)
        for place, (request, rows) in zip(wanted, ahead, strict=True):
            chosen = (places == place).nonzero()[:, 0]
            position = torch.searchsorted(request.ids, ids[chosen])
            out[chosen] = rows.mul_(self.scale)[position]
        return out


@final
class _Request(NamedTuple):
    """Windows of one image that an SVM is shown."""

    index: int  # type: ignore[assignment]  # of the image; hides tuple.index, which nobody needs
    image: Path
    windows: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"] | Int[Tensor, "n k"]  # of positives their class, of negatives -1 for each
    ids: Int[Tensor, " n"]  # rising


def _leave_out_repeated(signs: Int[Tensor, "n k"], places: Int[Tensor, "n 5"]) -> Int[Tensor, "n k"]:
    """Of a class's negatives at one place, only the first stays (the authors' code merges them)."""
    different, place = torch.unique(places, dim=0, return_inverse=True)
    number, place = torch.arange(len(signs))[:, None], place[:, None].expand_as(signs)
    of_negatives = torch.where(signs < 0, number, len(signs))
    first = torch.full((len(different), signs.shape[1]), len(signs))
    first.scatter_reduce_(0, place, of_negatives, "amin")
    return torch.where((signs < 0) & (first.gather(0, place) < number), 0, signs)
