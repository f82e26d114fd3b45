"""What a run does: train a network, evaluate one, average what several said, transfer, detect (see there).

Stages are runs of their own, each in its directory: whatever looks at a network points to the one run that
trained it, and nothing is computed twice.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

from sppnet.cli.detection_cells import combine, find, measure_seconds
from sppnet.cli.detection_stages import compute_maps, finetune, mine, propose, regress
from sppnet.cli.stage import Outcome, Stage
from sppnet.cli.trained import build_network, load_network, require_visible, save_network
from sppnet.cli.transfer_stages import extract_features, transfer
from sppnet.run.directory import identity_key

if TYPE_CHECKING:  # imports torch and Lightning
    from sppnet.data.datamodule import ImageDataModule

log = logging.getLogger(__name__)


def train(stage: Stage) -> Outcome:
    """Train a network from the newest checkpoint, if there is one; or keep it as it begins."""
    from sppnet.cli.parts import build_trainer, loggers
    from sppnet.run.checkpoints import newest_checkpoint

    config, settings, path = stage.config, stage.settings, stage.directory.path
    checkpoint = newest_checkpoint(path)
    data = _data(stage)
    net = build_network(config, settings, data, is_new=checkpoint is None)
    metrics: dict[str, float] = {
        "train/num_images": len(data.train_set.paths),
        "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
    }
    if settings["trained"]:
        task = instantiate(config.task, net=net)
        with loggers(config, path, run_id=identity_key(settings)) as active:
            epochs = settings["training"]["epochs"]
            trainer = build_trainer(settings, path, stage.interruption, active, stage.report, epochs=epochs)
            if checkpoint is not None:
                log.info("going on from %s", checkpoint.name)
            began = time.perf_counter()
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
            metrics["train/seconds"] = round(time.perf_counter() - began, 3)
        metrics["train/steps"] = trainer.global_step
    return Outcome(metrics, save_network(net, data.classes, path))


def evaluate(stage: Stage) -> Outcome:
    """Test a trained network in the configuration's view."""
    from sppnet.cli.parts import build_trainer, loggers
    from sppnet.tasks.evaluation import EvaluationTask

    data = _data(stage)
    net, trained = load_network(stage.config, Path(stage.settings["cell"]["network"]), classes=data.classes)
    task = EvaluationTask(net=net, view=instantiate(stage.config.view))
    require_visible(net, task.view)
    path = stage.directory.path
    with loggers(stage.config, path, run_id=identity_key(stage.settings)) as active:
        trainer = build_trainer(stage.settings, path, stage.interruption, active, stage.report, epochs=1)
        began = time.perf_counter()
        tested = trainer.test(task, dataloaders=data.view_loader(task.view), verbose=False)[0]
        seconds = time.perf_counter() - began
    _write_scores(path, *task.scores())
    metrics = {
        **trained,
        **{key: float(value) for key, value in tested.items()},
        "test/num_images": len(data.test_set.paths),
        "test/num_views": task.view.num_views,
        "test/seconds": round(seconds, 3),
    }
    return Outcome(metrics, ("scores.safetensors",))


def average(stage: Stage) -> Outcome:
    """Average the scores of an ensemble's members, which are runs before this one (§3.1.6)."""
    from sppnet.tasks.mean_scores import average_scores, error_rates, read_scores

    members = [read_scores(Path(member)) for member in stage.settings["cell"]["members"]]
    averaged = average_scores(members)
    _write_scores(stage.directory.path, *averaged)
    metrics = {
        **{f"test/{key}": value for key, value in error_rates(averaged).items()},
        "test/num_images": len(averaged.labels),
        "ensemble/num_members": len(members),
    }
    return Outcome(metrics, ("scores.safetensors",))


STAGES: Mapping[str, Callable[[Stage], Outcome]] = {
    "network": train,
    "evaluation": evaluate,
    "ensemble": average,
    "features": extract_features,
    "transfer": transfer,
    "proposals": propose,
    "maps": compute_maps,
    "finetuning": finetune,
    "machines": mine,
    "regressors": regress,
    "detection": find,
    "combination": combine,
    "timing": measure_seconds,
}


def _data(stage: Stage) -> "ImageDataModule":
    from pytorch_lightning import seed_everything

    from sppnet.run.progress import Step

    stage.report(Step("reading images", 0, 1, ""))
    seed_everything(stage.settings["seed"], verbose=False)
    data: ImageDataModule = instantiate(stage.config.data)
    data.prepare_data()
    data.setup("fit")
    return data


def _write_scores(path: Path, scores: Any, labels: Any) -> None:
    from sppnet.models.weights import save_tensors

    save_tensors({"scores": scores, "labels": labels}, path / "scores.safetensors")
