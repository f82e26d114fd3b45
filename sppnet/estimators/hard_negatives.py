"""Linear SVMs that see far more negatives than memory holds: hard negative mining (paper §4.1).

One pass over the images, as R-CNN's rcnn_train.m does it: of each image, a class keeps the negatives that
its weights of the moment do not score low enough; when enough have come, it is trained again and gives up
those that have become easy.

Solved in the dual, one coordinate at a time, from the last solution (dual_kernels.py). A Gram matrix of all
classes would be n^2 d operations and n^2 numbers, against some 30 readings of a class's rows a training;
sparse rows take longer to read than all, with 18 % of the numbers not 0.

Axes: n rows, d features, k classes.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sppnet.errors import ArtifactError, ConfigError
from sppnet.estimators.arrays import read_features
from sppnet.estimators.linear_svm import Status
from sppnet.estimators.margin_loss import check_parameters
from sppnet.estimators.row_cache import RowCache
from sppnet.estimators.solve import Loss
from sppnet.ops.boxes import require_tensors, whole

_MAX_PASSES = 5000  # of a training over a class's rows; a hundred are usual for a gap of 1e-4
_STAGES = ("positives", "mining", "finished")

_log = logging.getLogger(__name__)


@final
class HardNegativeSvm:
    """One-vs-rest linear SVMs over a cache of positives and hard negatives.

    First `add_positives`, any number of times; then `see` for one image after the other; then `finish`. A
    class minimises `LinearSvm`'s objective over the rows it holds. A class without positives holds none.

    Memory holds `max_rows` rows of float32, and little else. When they do not suffice, the negatives that
    score lowest (by the highest of the scores of the classes that hold them) are given up, as if
    `evict_below` had been higher: a run of hours ends with slightly other weights instead of an error, and
    `num_dropped` says so. Positives are never dropped.

    Results do not depend on the number of threads, nor on having been stopped and restored.

    Args:
        num_classes: k.
        num_features: d.
        svm_c: Weight of the losses against the norm (R-CNN: 1e-3).
        loss: "hinge", R-CNN's, or "squared_hinge".
        bias_multiplier: The constant feature of every row (R-CNN: 10). 0: no bias.
        positive_weight: Weight of positive rows (R-CNN: 2).
        tolerance: Duality gap to reach, relative to the objective.
        hard_above: A negative is kept if it scores more (R-CNN: -1.0001).
        evict_below: After a training, negatives that score less are given up (R-CNN: -1.2).
        retrain_after: A class is trained when it has taken in more negatives than these since it last was
            (R-CNN: 2000).
        max_rows: Rows in memory; each takes 4 d bytes.
        workers: Classes that are solved at a time.

    Attributes:
        coef: `k d` weights; zeros for a class not trained.
        intercept: k biases; a class not trained has -1 without positives, +1 with.
        gap: k, relative duality gap that the last training reached; 0 for a class not trained.
        num_dropped: Rows given up for want of memory.

    Raises:
        ConfigError: A hyperparameter is out of range.
        ResourceError: `max_rows` is beyond the machine.
    """

    def __init__(  # noqa: PLR0913 - each is one key of conf
        self,
        *,
        num_classes: int,
        num_features: int,
        svm_c: float,
        loss: Loss,
        bias_multiplier: float,
        positive_weight: float,
        tolerance: float,
        hard_above: float,
        evict_below: float,
        retrain_after: int,
        max_rows: int,
        workers: int = 1,
    ) -> None:
        sizes = {"num_classes": num_classes, "num_features": num_features, "max_rows": max_rows}
        if wrong := [f"{name}={value}" for name, value in sizes.items() if value < 1]:
            raise ConfigError(f"{wrong[0]} must be positive")
        if not evict_below < hard_above:
            raise ConfigError(
                f"evict_below={evict_below} must be under hard_above={hard_above}: what was just taken in "
                f"would be given up"
            )
        if min(retrain_after, workers - 1) < 0:
            raise ConfigError(f"retrain_after={retrain_after} must be 0 or more, workers={workers} 1 or more")
        self.svm_c, self.loss, self.tolerance = svm_c, loss, tolerance
        self.bias_multiplier, self.positive_weight = bias_multiplier, positive_weight
        check_parameters(vars(self))
        self.hard_above, self.evict_below, self.retrain_after = hard_above, evict_below, retrain_after
        self._cache = RowCache(max_rows=max_rows, num_features=num_features, num_classes=num_classes)
        self.coef = torch.zeros(num_classes, num_features)
        self.intercept = torch.full((num_classes,), -1.0)
        self.gap = torch.zeros(num_classes, dtype=torch.float64)
        self.num_dropped = 0
        self._workers = workers
        self._num_added = np.zeros(num_classes, dtype=np.int64)  # since the last training
        self._is_trained = np.zeros(num_classes, dtype=np.bool_)
        self._stage = "positives"

    @property
    def status(self) -> list[Status]:
        """Per class "converged", "not converged", "no positives" or "no negatives"."""
        untrained: dict[bool, Status] = {True: "no negatives", False: "no positives"}
        trained: dict[bool, Status] = {True: "converged", False: "not converged"}
        is_good = self.gap <= self.tolerance
        each = zip(self._is_trained, is_good.tolist(), self._cache.has(+1).tolist(), strict=True)
        return [trained[good] if done else untrained[has] for done, good, has in each]

    def add_positives(
        self, rows: Float[Tensor, "n d"], labels: Int[Tensor, " n"], ids: Int[Tensor, " n"]
    ) -> None:
        """Take in ground truth.

        Args:
            rows: Features of ground-truth windows.
            labels: Their classes, from 0.
            ids: Their names, the same in `see`; any numbers, such as image * 2^20 + window.

        Raises:
            ConfigError: An image was seen before.
            ValueError: Shapes or labels do not fit, or a name is given twice.
            NonFiniteError: A row holds NaN or infinity.
            ResourceError: All positives do not fit into `max_rows`.
        """
        self._require_stage("add_positives", "positives")
        names = self._require_rows(rows, ids, labels)
        if not len(rows):
            return
        num_classes = len(self.coef)
        if not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
            found = f"{int(labels.min())} to {int(labels.max())}"
            raise ValueError(f"labels {found}: expected 0 to {num_classes - 1}")
        if (self._cache.find(names) >= 0).any():
            raise ValueError("ids were given as positives before: name every window once")
        self._cache.make_room(names, self._scores)
        positions = whole(labels, torch.int64, "labels").cpu().numpy()
        signs = (positions[:, None] == np.arange(num_classes)).astype(np.int8)
        self._cache.hold(read_features(rows.float(), None), names, signs)
        self.intercept[positions] = 1.0

    def see(self, rows: Float[Tensor, "n d"], signs: Int[Tensor, "n k"], ids: Int[Tensor, " n"]) -> None:
        """Take in the hard negatives of an image, and train the classes that have taken in enough.

        Of the first image that has negatives for a class, the class takes all, and is trained.

        Args:
            rows: Features of windows of one image, of any device: they are scored there.
            signs: -1 where a window is a possible negative of the class, 0 or 1 where not.
            ids: Names of the windows. A class does not take in what it holds already.

        Raises:
            ConfigError: `finish` was called before.
            ValueError: Shapes do not fit, or a name is given twice.
            NonFiniteError: A row holds NaN or infinity.
            ResourceError: `max_rows` has no room for the positives and this image.
        """
        self._require_stage("see", "positives", "mining")
        names = self._require_rows(rows, ids, signs)
        fits = signs.shape[1:] == self.intercept.shape and signs.dtype not in (torch.bool, torch.uint8)
        if not fits or not torch.isin(signs, torch.tensor([-1, 0, 1], device=signs.device)).all():
            raise ValueError(
                f"signs {tuple(signs.shape)} of type {signs.dtype}: expected a column for each of "
                f"{len(self.intercept)} classes, with -1 where a window is a possible negative, else 0 or 1"
            )
        if not len(rows):
            return
        rows = read_features(rows.float(), None)
        self._stage = "mining"
        scores = self._scores(rows)
        slots = self._cache.find(names)
        is_held = (self._cache.signs[slots] != 0) & (slots >= 0)[:, None]
        is_hard = ~self._is_trained | (scores > self.hard_above)
        wanted = (signs.cpu().numpy() < 0) & is_hard & ~is_held & self._cache.has(+1)
        taken = np.flatnonzero(wanted.any(axis=1))
        self.num_dropped += self._cache.make_room(names[taken], self._scores)
        chosen = rows[torch.from_numpy(taken).to(rows.device)]
        self._cache.hold(chosen, names[taken], -wanted[taken].astype(np.int8))
        self._num_added += wanted.sum(axis=0)
        due = np.where(self._is_trained, self._num_added > self.retrain_after, self._num_added > 0)
        for label, (slots, scored) in self._train(np.flatnonzero(due)).items():
            is_easy = (self._cache.signs[slots, label] < 0) & (scored < self.evict_below)
            self._cache.give_up(slots[is_easy], label)

    def finish(self) -> None:
        """Train every class for the last time, on what it holds; it gives up nothing more.

        Raises:
            ConfigError: It was called before.
        """
        self._require_stage("finish", "positives", "mining")
        self._stage = "finished"
        self._train(np.flatnonzero(self._cache.has(+1) & self._cache.has(-1)))
        for label, status in enumerate(self.status):
            if status == "not converged":
                _log.warning("class %d: relative gap %.0e above %g", label, self.gap[label], self.tolerance)

    def state(self) -> dict[str, Tensor]:
        """Everything but the rows, as tensors that go into a file: 9 k + 8 bytes a row, and the weights."""
        return self._cache.state() | {
            "coef": self.coef.clone(),
            "intercept": self.intercept.clone(),
            "gap": self.gap.clone(),
            "num_added": torch.from_numpy(self._num_added.copy()),
            "is_trained": torch.from_numpy(self._is_trained.copy()),
            "num_dropped": torch.tensor(self.num_dropped),
            "stage": torch.tensor(_STAGES.index(self._stage)),
        }

    def restore(
        self, state: dict[str, Tensor], rows_of: Callable[[Int[Tensor, " n"]], Float[Tensor, "n d"]]
    ) -> None:
        """Go on where `state` was taken, with the same hyperparameters; only `max_rows` may be another.

        Args:
            state: What `state` returned.
            rows_of: Makes the rows of names again, bit for bit; is called with ascending names, so that an
                image's come together, some 1,000 at a time.

        Raises:
            ArtifactError: The state is of other classes or features.
            ResourceError: It holds more rows than `max_rows`.
            NonFiniteError: A row made again holds NaN or infinity.
        """
        if state["coef"].shape != self.coef.shape:
            raise ArtifactError(
                f"state of {tuple(state['coef'].shape)} weights, expected {tuple(self.coef.shape)}: other "
                f"features or classes; mine anew"
            )
        self._cache.restore(state, rows_of)
        for name in ("coef", "intercept", "gap"):
            getattr(self, name).copy_(state[name])
        self._num_added[:] = state["num_added"].cpu().numpy()
        self._is_trained[:] = state["is_trained"].cpu().numpy()
        self.num_dropped, self._stage = int(state["num_dropped"]), _STAGES[int(state["stage"])]

    def _train(self, labels: NDArray[np.int64]) -> dict[int, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Solve these classes; the slots of each one's rows, and their new scores."""
        with ThreadPoolExecutor(max(1, min(self._workers, len(labels)))) as pool:
            return dict(zip(labels.tolist(), pool.map(self._train_class, labels.tolist()), strict=True))

    def _train_class(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        from sppnet.estimators.dual_kernels import solve_dual  # numba, half a second

        cache = self._cache
        slots = np.flatnonzero(cache.signs[: cache.size, label])
        signs, duals = cache.signs[slots, label].astype(np.float64), cache.duals[slots, label]
        costs = self.svm_c * np.where(signs > 0, self.positive_weight, 1.0)
        limits = costs, np.zeros_like(costs)
        if self.loss == "squared_hinge":
            limits = np.full_like(costs, np.inf), 0.5 / costs
        bias, tolerance = float(self.bias_multiplier), float(self.tolerance)
        weights, scores, gap = solve_dual(
            cache.rows, slots, signs, duals, limits, bias, tolerance, _MAX_PASSES
        )
        cache.duals[slots, label] = duals
        self.coef[label] = torch.from_numpy(weights[:-1])
        self.intercept[label], self.gap[label] = bias**2 * weights[-1], gap
        self._num_added[label], self._is_trained[label] = 0, True
        return slots, scores

    def _scores(self, rows: Float[Tensor, "n d"]) -> NDArray[np.floating]:
        return np.asarray(torch.addmm(self.intercept.to(rows), rows, self.coef.to(rows).T).cpu())

    def _require_rows(self, rows: Tensor, ids: Tensor, others: Tensor) -> NDArray[np.int64]:
        require_tensors(rows, ids, others)
        names: NDArray[np.int64] = whole(ids, torch.int64, "ids").cpu().numpy()
        wanted = (len(names), self.coef.shape[1])
        if tuple(rows.shape) != wanted or others.shape[:1] + others.shape[2:] != ids.shape:
            raise ValueError(
                f"rows of shape {tuple(rows.shape)} and {tuple(others.shape)} labels or signs for "
                f"{len(names)} ids; expected {wanted[0]} x {wanted[1]} and {wanted[0]}"
            )
        if len(np.unique(names)) != len(names):
            raise ValueError("an id is given twice: name every window once")
        return names

    def _require_stage(self, call: str, *stages: str) -> None:
        if self._stage not in stages:
            raise ConfigError(
                f"{call} while {self._stage!r}: first add_positives, then see for every image, then finish"
            )
