"""The trainer with its guards, and the dashboards, from a configuration."""

import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, WandbLogger

from sppnet.models.initialise import Init
from sppnet.models.sppnet import SppNet
from sppnet.run.allocator import keep_freed_memory
from sppnet.run.checkpoints import DigestCheckpointIO, RunCheckpoint
from sppnet.run.guards import StepSeed, StopBetweenBatches
from sppnet.run.interrupts import Interruption
from sppnet.run.metrics_file import MetricsFile
from sppnet.run.progress import BatchProgress, CellProgress, Report

log = logging.getLogger(__name__)


def build_net(config: DictConfig, *, init: Init, num_classes: int) -> SppNet:
    """Put backbone, pyramid and head together: YAML picks and sizes them, Python wires."""
    backbone = instantiate(config.backbone)
    input_norm = instantiate(config.input_norm)
    if isinstance(input_norm, functools.partial):
        input_norm = input_norm(backbone)
    return SppNet(
        backbone=backbone,
        input_norm=input_norm,
        levels=list(config.pyramid.levels),
        pooling=config.pyramid.pooling,
        head_width=config.head.width,
        dropout=config.head.dropout,
        num_classes=num_classes,
        init=init,
    )


def build_trainer(
    settings: Mapping[str, Any],
    directory: Path,
    interruption: Interruption,
    active: list[Logger],
    report: Report,
    *,
    epochs: int,
) -> Trainer:
    """Lightning's trainer with one way to save, to seed, to report and to stop."""
    trainer = settings["trainer"]
    callbacks: list[Callback] = [
        StepSeed(seed=settings["seed"]),
        MetricsFile(directory=directory, every_steps=trainer["every_steps"]),
        RunCheckpoint(directory=directory, minutes=trainer["checkpoint_minutes"], interruption=interruption),
        CellProgress(report),
    ]
    return _trainer(settings, directory, active, callbacks, epochs=epochs)


def build_transfer_trainer(
    settings: Mapping[str, Any],
    directory: Path,
    interruption: Interruption,
    active: list[Logger],
    report: Report,
) -> Trainer:
    """The same for SVMs: one epoch collects the vectors, and nothing is saved in between."""
    callbacks: list[Callback] = [StopBetweenBatches(interruption), BatchProgress(report)]
    return _trainer(settings, directory, active, callbacks, epochs=1)


def _trainer(
    settings: Mapping[str, Any],
    directory: Path,
    active: list[Logger],
    callbacks: list[Callback],
    *,
    epochs: int,
) -> Trainer:
    trainer = settings["trainer"]
    if trainer["keep_memory"]:
        keep_freed_memory()
    if trainer["threads"] is not None:
        torch.set_num_threads(trainer["threads"])
    _quieten()
    return Trainer(
        accelerator=trainer["accelerator"],
        devices=trainer["devices"],
        precision=trainer["precision"],
        max_epochs=epochs,
        default_root_dir=directory,
        callbacks=callbacks,
        plugins=[DigestCheckpointIO()],
        logger=active or False,
        log_every_n_steps=trainer["every_steps"],
        enable_checkpointing=False,  # Lightning's own: ours is RunCheckpoint
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the sampler knows its rank
    )


@contextmanager
def loggers(config: DictConfig, directory: Path, *, run_id: str) -> Iterator[list[Logger]]:
    """The dashboard of a run, finished whatever happens; one that cannot start is left out.

    Args:
        config: `logger` names the class, or is empty.
        directory: The run's directory: dashboards keep their files there.
        run_id: Stable over resumes.
    """
    chosen = config.logger
    if not chosen:
        yield []
        return
    try:
        active = _start(config, directory, run_id)
    except Exception as error:  # a mirror that cannot be set up must not cost the run
        log.warning("dashboard left out: %s: %s", type(error).__name__, error)
        yield []
        return
    status = "failed"
    try:
        yield [active]
        status = "success"
    finally:
        try:
            active.finalize(status)
        finally:
            if isinstance(active, WandbLogger):
                import wandb

                # Otherwise the next run of this process would go on in this one.
                wandb.finish(exit_code=int(status != "success"))


def _start(config: DictConfig, directory: Path, run_id: str) -> Logger:
    if config.logger["_target_"].endswith("WandbLogger"):
        import os

        os.environ.setdefault("WANDB_SILENT", "true")
        name = config.cell.label or directory.name
        logger: Logger = instantiate(config.logger, save_dir=str(directory), id=run_id, name=name)
    else:
        logger = instantiate(config.logger, save_dir=str(directory))
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    logger.log_hyperparams(plain)  # type: ignore[arg-type]
    return logger


def _quieten() -> None:
    """Silence what Lightning says in every run and nobody can act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Our data is read in the training process on purpose when it fits into memory.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*configure_optimizers.*returned.*None.*")  # SVMs are solved
    # Ours writes checkpoints of its own into this directory.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    # A fixed trunk stays in evaluation mode while the fc layers learn.
    warnings.filterwarnings("ignore", message=".*eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*set_vital.*")  # inside torchdata 0.11 on torch 2.15
    # Raised inside Lightning 2.6 by torch 2.15's pytree.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
