"""Lightning's trainer with its guards, and the dashboards, for a take."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, WandbLogger

from sppnet.errors import ConfigError
from sppnet.experiment.making import make
from sppnet.experiment.take import Take
from sppnet.run.checkpoints import DigestCheckpointIO, RunCheckpoint
from sppnet.run.guards import StepSeed, StopBetweenBatches
from sppnet.run.progress import BatchProgress, MetricsFile

log = logging.getLogger(__name__)


def make_task(part: Mapping[str, Any], **later: Any) -> LightningModule:
    """Make what learns in a stage.

    Args:
        part: Of conf/task, or the user's own.
        **later: What the stage has for it, a network or the names of classes.

    Raises:
        ConfigError: It is no LightningModule, or does not take what is there.
    """
    task = make(part, **later)
    if not isinstance(task, LightningModule):
        raise ConfigError(f"{part['_target_']}: a task is a LightningModule, this is {type(task).__name__}")
    return task


@contextmanager
def run_trainer(take: Take, *, epochs: int = 1, saves: bool = True) -> Iterator[Trainer]:
    """A trainer with one way to save, to seed, to report and to stop, and the run's dashboard.

    Args:
        take: Whose.
        epochs: To train for.
        saves: False of SVMs: one epoch collects the vectors, and nothing is saved in between.
    """
    chosen = take.conf.trainer
    callbacks: list[Callback] = [StopBetweenBatches(take.interruption), BatchProgress(take.report)]
    if saves:
        callbacks += [
            StepSeed(seed=take.conf.seed),
            MetricsFile(directory=take.path, every_steps=chosen.every_steps),
            RunCheckpoint(
                directory=take.path, minutes=chosen.checkpoint_minutes, interruption=take.interruption
            ),
        ]
    _quieten()
    with _dashboard(take) as active:
        yield Trainer(
            accelerator=chosen.accelerator,
            devices=chosen.devices,
            precision=chosen.precision,
            max_epochs=epochs,
            default_root_dir=take.path,
            callbacks=callbacks,
            # A run is one process on one device, whatever a cluster's job says of tasks.
            plugins=[DigestCheckpointIO(), LightningEnvironment()],
            logger=active or False,
            log_every_n_steps=chosen.every_steps,
            enable_checkpointing=saves,  # by RunCheckpoint
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the sampler knows its rank
        )


@contextmanager
def _dashboard(take: Take) -> Iterator[Logger | None]:
    """The dashboard of a run, finished whatever happens; one that cannot start is left out."""
    if not take.conf.logger:
        yield None
        return
    try:
        active = _start(take)
    except Exception as error:  # a mirror that cannot be set up must not cost the run
        said = (str(error).splitlines() or [""])[0]
        log.warning(
            "dashboard left out: %s: %s; is its extra installed, sppnet[tensorboard] for logger=tensorboard?",
            type(error).__name__,
            said,
        )
        yield None
        return
    cut_off_when_broken(active)
    status = "failed"
    try:
        yield active
        status = "success"
    finally:
        active.finalize(status)
        if isinstance(active, WandbLogger):
            import wandb

            # Otherwise the next run of this process would go on in this one.
            try:
                wandb.finish(exit_code=int(status != "success"))
            except (
                Exception
            ):  # its process has died: the next run gets a new one, and its last words are heard
                with contextlib.suppress(Exception, SystemExit):
                    wandb.teardown()


def cut_off_when_broken(logger: Logger) -> None:
    """Let a dashboard that dies in mid-run, or whose disk is full, cost nothing but itself."""
    is_broken = False

    def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
        def call_unless_broken(*arguments: Any, **named: Any) -> Any:
            nonlocal is_broken
            if is_broken:
                return None
            try:
                return call(*arguments, **named)
            except Exception as error:
                is_broken = True
                said = (str(error).splitlines() or [""])[0]
                log.warning("dashboard left: %s: %s; the run goes on without", type(error).__name__, said)
                return None

        return call_unless_broken

    for name in ("log_metrics", "log_hyperparams", "save", "finalize"):
        setattr(logger, name, guarded(getattr(logger, name)))


def _start(take: Take) -> Logger:
    """Start it in the run's directory, under a name that is the same whenever the run is resumed."""
    chosen = take.conf.logger
    named = {}
    if chosen.get("facts", {}).get("takes_id"):
        import os

        os.environ.setdefault("WANDB_SILENT", "true")
        if take.plan.is_waited_for:  # an agent's id is that of a cell, once, and of no network
            os.environ.pop("WANDB_RUN_ID", None)
            os.environ.pop("WANDB_SWEEP_ID", None)
        named = {"id": take.plan.key[:8], "name": take.plan.label or take.path.name}
    logger: Logger = make(chosen, save_dir=str(take.path), **named)
    getattr(logger, "_wandb_init", {}).pop("anonymous", None)  # which W&B warns of, though it is not set
    # What decides its result, with content in place of places: dashboards may be elsewhere.
    logger.log_hyperparams({"label": take.plan.label, **take.directory.read_config()["identity"]})
    return logger


def _quieten() -> None:
    """Silence what Lightning says in every run and nobody can act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # Our data is read in the training process on purpose when it fits into memory.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*configure_optimizers.*returned.*None.*")  # SVMs are solved
    # Ours writes checkpoints of its own into this directory.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory.*")
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    # A fixed trunk stays in evaluation mode while the fc layers learn.
    warnings.filterwarnings("ignore", message=".*eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*set_vital.*")  # inside torchdata 0.11 on torch 2.15
    # Raised inside Lightning 2.6 by torch 2.15's pytree.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
