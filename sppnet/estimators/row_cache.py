"""The rows that mining keeps, once each however many classes hold them (`HardNegativeSvm`).

A row has a slot until the last class gives it up, and never moves; the memory of a slot is taken when it is
first written to. So what a class computes does not depend on rows that others hold.

Axes: n rows given, s slots, d features, k classes.
"""

import logging
from collections.abc import Callable
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sppnet.errors import ResourceError
from sppnet.estimators.arrays import read_features

_PORTION = 1024  # rows that are scored, or made anew, at a time
_FILL = 0.9  # share that stays filled after an overflow: making room takes a pass over all rows

_log = logging.getLogger(__name__)


@final
class RowCache:
    """Rows, and what each class takes them for.

    Args:
        max_rows: Number of slots.
        num_features: d.
        num_classes: k.

    Attributes:
        rows: s x d float32; unwritten slots hold anything.
        ids: Names of the rows in the slots.
        signs: s x k int8: +1 positive, -1 negative, 0 not held. All 0: the slot is free.
        duals: s x k: dual variables of the last training.
        size: No slot from here on was ever used.

    Raises:
        ResourceError: Not even the addresses of so much memory are to be had.
    """

    def __init__(self, *, max_rows: int, num_features: int, num_classes: int) -> None:
        try:
            # Not torch.empty: its deterministic mode fills, and so takes, all of it.
            self.rows: NDArray[np.float32] = np.empty((max_rows, num_features), dtype=np.float32)
        except MemoryError:
            raise ResourceError(
                f"max_rows={max_rows} rows of {num_features} numbers are "
                f"{max_rows * num_features * 4 / 2**30:.1f} GiB, more than there is; lower it"
            ) from None
        self.ids: NDArray[np.int64] = np.zeros(max_rows, dtype=np.int64)
        self.signs: NDArray[np.int8] = np.zeros((max_rows, num_classes), dtype=np.int8)
        self.duals: NDArray[np.float64] = np.zeros((max_rows, num_classes))
        self.size = 0
        self._was_full = False

    def held(self) -> NDArray[np.int64]:
        """Slots in use, the lowest first."""
        return np.flatnonzero(self.signs[: self.size].any(axis=1))

    def has(self, sign: int) -> NDArray[np.bool_]:
        """For every class, whether it holds rows of this sign."""
        found: NDArray[np.bool_] = (self.signs[: self.size] == sign).any(axis=0)
        return found

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of the rows of these names; -1 for those not held."""
        slots = self.held()
        slots = slots[np.argsort(self.ids[slots])]
        # Behind the last, where what is larger than all of them is looked up.
        names, slots = np.append(self.ids[slots], 0), np.append(slots, -1)
        at = np.searchsorted(names[:-1], ids)
        return np.where(names[at] == ids, slots[at], -1)

    def hold(self, rows: Float[Tensor, "n d"], ids: NDArray[np.int64], signs: NDArray[np.int8]) -> None:
        """Let classes hold rows, new ones or such as others hold already.

        Args:
            rows: Their features; there are free slots enough.
            ids: Their names, no two the same.
            signs: `n k`; 0 leaves things as they are.
        """
        slots = self.find(ids)
        new = np.flatnonzero(slots < 0)
        free = np.flatnonzero(~self.signs[: self.size].any(axis=1))
        slots[new] = np.append(free, np.arange(self.size, self.size + len(new)))[: len(new)]
        self.size = max(self.size, int(slots.max(initial=-1)) + 1)
        self.rows[slots[new]] = rows[torch.from_numpy(new).to(rows.device)].float().cpu().numpy()
        self.ids[slots] = ids
        self.signs[slots] = np.where(signs != 0, signs, self.signs[slots])

    def give_up(self, slots: NDArray[np.int64], label: int) -> None:
        """Let a class hold these rows no longer."""
        self.signs[slots, label] = 0
        self.duals[slots, label] = 0

    def make_room(
        self, ids: NDArray[np.int64], score: Callable[[Float[Tensor, "p d"]], NDArray[np.floating]]
    ) -> int:
        """Give up negatives until rows fit in, other ones than these.

        Args:
            ids: Names of the rows to come; some may be held.
            score: Scores of rows, `p k`; the highest of the classes that hold a row decides, and the
                lowest of these go.

        Returns:
            How many were given up.

        Raises:
            ResourceError: Positives and these rows together are too many.
        """
        slots, max_rows = self.held(), len(self.rows)
        num_new = int((self.find(ids) < 0).sum())
        if len(slots) + num_new <= max_rows:
            return 0
        stays = (self.signs[slots] > 0).any(axis=1) | np.isin(self.ids[slots], ids)
        num_kept = min(int(_FILL * max_rows), max_rows - num_new) - int(stays.sum())
        if max_rows - num_new < stays.sum():
            raise ResourceError(
                f"max_rows={max_rows} has no room for {stays.sum()} rows that have to stay and "
                f"{num_new} new ones; raise it: a row takes {self.rows[0].nbytes} bytes"
            )
        negatives = slots[~stays]
        highest = np.empty(len(negatives))
        for start in range(0, len(negatives), _PORTION):
            rows = negatives[start : start + _PORTION]
            scores = score(torch.from_numpy(self.rows[rows]))
            highest[start : start + _PORTION] = np.where(self.signs[rows] < 0, scores, -np.inf).max(axis=1)
        dropped = negatives[np.argsort(-highest, kind="stable")[max(0, num_kept) :]]
        self.signs[dropped], self.duals[dropped] = 0, 0
        _log.log(
            logging.DEBUG if self._was_full else logging.WARNING,  # again every few images from then on
            "max_rows=%d is full: %d negatives that score lowest are given up",
            max_rows,
            len(dropped),
        )
        self._was_full = True
        return len(dropped)

    def state(self) -> dict[str, Tensor]:
        """All but the rows."""
        parts: dict[str, NDArray[np.generic]] = {"ids": self.ids, "signs": self.signs, "duals": self.duals}
        return {name: torch.from_numpy(part[: self.size].copy()) for name, part in parts.items()}

    def restore(
        self, state: dict[str, Tensor], rows_of: Callable[[Int[Tensor, " p"]], Float[Tensor, "p d"]]
    ) -> None:
        """Undo `state`.

        Args:
            state: What it returned.
            rows_of: Makes the rows of names again; is called with ascending names, some 1,000 at a time.

        Raises:
            ResourceError: There are too few slots.
        """
        self.size = len(state["ids"])
        if self.size > len(self.rows):
            raise ResourceError(
                f"max_rows={len(self.rows)}, but the state to go on from has {self.size} rows; raise "
                f"it to that"
            )
        self.signs[:], self.duals[:] = 0, 0
        for name, part in (("ids", self.ids), ("signs", self.signs), ("duals", self.duals)):
            part[: self.size] = state[name].cpu().numpy()
        slots = self.held()
        slots = slots[np.argsort(self.ids[slots])]
        for start in range(0, len(slots), _PORTION):
            portion = slots[start : start + _PORTION]
            rows = rows_of(torch.from_numpy(self.ids[portion]))
            self.rows[portion] = read_features(rows, "cpu").float().numpy()
