"""One cell: put its parts together, train, test, and leave a complete run directory."""

import logging
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sppnet.cli.sweep_view import SweepView
from sppnet.errors import ConfigError, ResourceError
from sppnet.run.directory import RunDirectory, identity_key
from sppnet.run.interrupts import Interrupted, Interruption

if TYPE_CHECKING:  # import torch and Lightning
    from sppnet.models.sppnet import SppNet
    from sppnet.run.progress import Report

_NUM_TO_ADAPT = 128  # images that scale the first weights (init=data_dependent)
log = logging.getLogger(__name__)


def run_cell(config: DictConfig) -> None:
    """Run the cell whose directory Hydra has chosen, in this process; called by Hydra's launcher."""
    with SweepView(total=config.cell.total, done=config.cell.position - 1, is_shown=config.progress) as view:
        run_in(
            Path(HydraConfig.get().runtime.output_dir),
            config,
            report=lambda step: view.update(config.cell.label, *step),
        )


def run_in(path: Path, config: DictConfig, *, report: "Report") -> None:
    """Run one cell in its directory, unless it is complete or another process runs it.

    Args:
        path: The run's directory.
        config: The whole configuration.
        report: Is told how far the cell is.

    Raises:
        SppnetError: What a user can mend; the status file and run.log say it too.
        Interrupted: A signal asked to stop; the same command goes on from the checkpoint.
    """
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items()}
    directory = RunDirectory(path)
    with directory.hold(settings) as ours:
        if not ours:
            log.warning("%s: another process runs this cell; left to it", directory.path)
        elif not directory.is_complete:
            _run_held(config, settings, directory, report)


def _run_held(
    config: DictConfig, settings: Mapping[str, Any], directory: RunDirectory, report: "Report"
) -> None:
    cell = {**{key: settings["cell"][key] for key in ("group", "row", "column")}, "seed": settings["seed"]}
    started = time.time()
    interruption = Interruption()
    directory.write_status("running", cell=cell, started=started, error=None)
    try:
        with _log_to(directory.path / "run.log"), interruption.listen():
            metrics = _fit_and_test(config, settings, directory, interruption, report)
            directory.write_complete(metrics, files=("model.safetensors",))
    except Interrupted:
        directory.write_status("interrupted", cell=cell, started=started, error=None)
        raise
    except Exception as error:
        if interruption.signal_number is not None:  # what a stopping process stumbles over is not a failure
            directory.write_status("interrupted", cell=cell, started=started, error=None)
            raise Interrupted(interruption.signal_number) from error
        line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        directory.write_status("failed", cell=cell, started=started, error=line)
        if isinstance(error, MemoryError):
            raise ResourceError(f"out of memory ({line}); lower training.batch_size") from error
        raise
    directory.write_status("complete", cell=cell, started=started, error=None)
    for checkpoint in directory.path.glob("checkpoint-*.ckpt"):
        checkpoint.unlink()  # model.safetensors has the weights; the optimiser's state has served
    interruption.raise_if_requested()  # too late for this cell, in time for the next


def _fit_and_test(
    config: DictConfig,
    settings: Mapping[str, Any],
    directory: RunDirectory,
    interruption: Interruption,
    report: "Report",
) -> dict[str, float]:
    """Train from the newest checkpoint, if there is one, test, and return the metrics as fractions."""
    from hydra.utils import instantiate
    from pytorch_lightning import seed_everything

    from sppnet.cli.parts import build_net, build_trainer, loggers
    from sppnet.models.initialise import DataDependentInit
    from sppnet.models.weights import save_weights
    from sppnet.run.checkpoints import newest_checkpoint
    from sppnet.run.progress import Step

    report(Step("reading images", 0, 1, ""))
    checkpoint = newest_checkpoint(directory.path)
    seed_everything(settings["seed"], verbose=False)
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    init = instantiate(config.init)
    net = build_net(config, init=init, num_classes=data.num_classes)
    _check_sizes(net, settings)
    if checkpoint is None:
        if net.input_norm.needs_mean_image:
            net.input_norm.set_mean_image(data.mean_image(settings["image"]["size"]))
        if isinstance(init, DataDependentInit):
            init.adapt(net, data.central_regions(_NUM_TO_ADAPT).float())
    task = instantiate(config.task, net=net)
    with loggers(config, directory.path, run_id=identity_key(settings)) as active:
        trainer = build_trainer(settings, directory.path, interruption, active, report)
        if checkpoint is not None:
            log.info("going on from %s", checkpoint.name)
        began = time.perf_counter()
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        train_seconds = time.perf_counter() - began
        began = time.perf_counter()
        tested = trainer.test(task, datamodule=data, verbose=False)[0]
        save_weights(net, directory.path / "model.safetensors")
    return {
        **{key: float(value) for key, value in tested.items()},
        "test/num_images": len(data.test_set.paths),
        "test/seconds": round(time.perf_counter() - began, 3),
        "train/num_images": len(data.train_set.paths),
        "train/steps": trainer.global_step,
        "train/seconds": round(train_seconds, 3),
        "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
    }


def _check_sizes(net: "SppNet", settings: Mapping[str, Any]) -> None:
    """Refuse a pyramid that the map of a training region does not fill.

    Raises:
        ConfigError: Too few cells, or a number of cells for which sliding windows are not the bins.
    """
    import torch

    sizes = settings["train_sizes"]
    smallest = min(settings["image"]["size"], *sizes.get("sizes", [sizes.get("low")]))
    if smallest < net.min_short_side:
        raise ConfigError(
            f"regions of {smallest} pixels are too small: {net.backbone.name} with pyramid.levels="
            f"{list(net.levels)} needs >= {net.min_short_side}; raise image.size (and image.small_size) "
            f"or choose a coarser pyramid"
        )
    if net.pooling == "sliding":
        low, high = sizes.get("low"), sizes.get("high")
        for size in sizes.get("sizes") or range(low, high + 1):
            try:
                net.features(torch.zeros(1, 3, size, size), "pool")
            except ValueError as error:
                raise ConfigError(
                    f"pyramid.pooling=sliding with regions of {size} pixels: {error}"
                ) from error


@contextmanager
def _log_to(file: Path) -> Iterator[None]:
    """Send the log to the run's own file as well, with the traceback when the block raises."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception:
        # To the file only: the terminal gets one line, from the sweep.
        handler.emit(log.makeRecord(log.name, logging.ERROR, __file__, 0, traceback.format_exc(), (), None))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
