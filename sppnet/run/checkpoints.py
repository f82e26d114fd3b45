"""Checkpoints that are whole or absent, named by their step and content.

A file is `checkpoint-<step>-<16 hex>.ckpt`; the two newest are kept, so that a damaged newest one
costs a minute of training and not the run. Files are read with weights_only=True: nothing in them runs.
"""

import logging
import time
from pathlib import Path
from typing import Any, final

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO

from sppnet.artifacts import write_named_by_digest
from sppnet.damage import digest_matches
from sppnet.errors import ArtifactError
from sppnet.run.interrupts import Interruption

_KEPT = 2
log = logging.getLogger(__name__)


def newest_checkpoint(directory: Path) -> Path | None:
    """The newest undamaged checkpoint of a run, None for a run that has none yet.

    Raises:
        ArtifactError: There are checkpoints, and every one is damaged.
    """
    found = _checkpoints(directory)
    for path in found:
        if digest_matches(path):
            return path
        log.warning("%s: damaged (content does not match its name); trying the one before", path)
    if found:
        raise ArtifactError(
            f"{directory}: all {len(found)} checkpoints are damaged "
            f"({', '.join(path.name for path in found)}); remove them to train anew"
        )
    return None


def _checkpoints(directory: Path) -> list[Path]:
    """Checkpoints of a directory, newest first (names carry the step in eight digits)."""
    return sorted(directory.glob("checkpoint-*.ckpt"), reverse=True)


@final
class DigestCheckpointIO(CheckpointIO):
    """Lightning's checkpoint files, written through the project's one writer."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write `<path>-<digest>.ckpt` and remove all but the two newest."""
        path = Path(path)
        write_named_by_digest(path.parent, path.stem, ".ckpt", lambda stream: torch.save(checkpoint, stream))
        for old in _checkpoints(path.parent)[_KEPT:]:
            old.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read tensors and plain containers only, onto the CPU unless told otherwise.

        Raises:
            ArtifactError: It holds something else, or is no checkpoint of a training.
        """
        del weights_only  # there is one safe way
        location = "cpu" if map_location is None else map_location
        try:
            checkpoint = torch.load(path, map_location=location, weights_only=True)
            if not {"state_dict", "loops", "callbacks"} <= set(checkpoint):
                raise TypeError("no state of a training in it")
        except Exception as error:  # whatever an unpickler stumbles over
            found = " ".join(str(error).split())[:200]
            raise ArtifactError(
                f"{path}: no checkpoint of ours ({found}); remove it and run again"
            ) from error
        return dict(checkpoint)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove one file."""
        Path(path).unlink(missing_ok=True)


@final
class RunCheckpoint(Checkpoint):
    """Saves every `minutes` of training, when training ends, and at an interruption.

    As one of Lightning's `Checkpoint`s it comes behind all other callbacks, a task's own included: what is
    saved of them is what the batch made of it.

    Args:
        directory: The run's directory.
        minutes: Longest training time a kill may cost.
        interruption: Where the signal handlers leave their word.
    """

    def __init__(self, *, directory: Path, minutes: float, interruption: Interruption) -> None:
        self.directory = directory
        self.seconds = 60 * minutes
        self.interruption = interruption
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.interruption.is_deferred = True  # what was learned is saved first
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time or when somebody asked to stop.

        Not after an epoch's last batch: Lightning resumes behind it without ending the epoch (no epoch's
        metrics, no step of a plateau schedule). The next epoch's first batch does it instead.
        """
        if batch_idx + 1 >= trainer.num_training_batches > 1:
            return
        if self.interruption.requested or time.monotonic() - self._saved_at >= self.seconds:
            self._save(trainer)
        self.interruption.raise_if_requested()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the trained network, so that a kill while testing costs the test only."""
        self._save(trainer)
        self.interruption.is_deferred = False
        self.interruption.raise_if_requested()

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.directory / f"checkpoint-{trainer.global_step:08d}")
        self._saved_at = time.monotonic()
