"""What a transfer run does: features of a frozen network into the cache, then SVMs on them (§3.2, §3.3)."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate

from sppnet.cli.stage import Outcome, Stage
from sppnet.cli.trained import load_network

if TYPE_CHECKING:  # import torch
    from sppnet.data.targets import TargetImages
    from sppnet.features.extract import Features
    from sppnet.models.sppnet import SppNet

log = logging.getLogger(__name__)


def extract_features(stage: Stage) -> Outcome:
    """Compute, in one pass, every layer that the table's cells want of these images in this view."""
    from sppnet.features.extract import FeatureCache, FeatureSpec, extract
    from sppnet.run.progress import Step

    stage.report(Step("extracting features", 0, 1, ""))
    _set_threads(stage)
    net, _ = load_network(stage.config, Path(stage.settings["cell"]["network"]), classes=None)
    target = instantiate(stage.config.target).read()
    specs = [FeatureSpec(layer, None) for layer in stage.settings["cell"]["layers"]]
    cache = FeatureCache(Path(stage.settings["paths"]["cache"]))
    began = time.perf_counter()

    def report(done: int, total: int) -> None:
        stage.interruption.raise_if_requested()
        stage.report(Step("extracting features", done, total, "images"))

    found = extract(net, target.paths, specs, _view(stage, target), cache=cache, report=report)
    metrics = {
        "features/num_images": len(target.paths),
        "features/gigabytes": sum(len(one) * one.dim * 4 for one in found.values()) / 1e9,
        "features/shards_computed": cache.counts.computed,
        "features/shards_reused": cache.counts.reused,
        "features/seconds": round(time.perf_counter() - began, 3),
    }
    return Outcome(metrics, ())


def transfer(stage: Stage) -> Outcome:
    """Fit SVMs on the features of one layer, and test them."""
    from pytorch_lightning import seed_everything

    from sppnet.cli.parts import build_transfer_trainer, loggers
    from sppnet.data.targets import draw_split
    from sppnet.features.feature_batches import FeatureDataModule
    from sppnet.models.weights import save_tensors
    from sppnet.run.directory import identity_key
    from sppnet.run.progress import Step
    from sppnet.tasks.transfer import TransferTask

    stage.report(Step("reading features", 0, 1, ""))
    settings, path = stage.settings, stage.directory.path
    protocol = settings["transfer"]
    seed_everything(settings["seed"], verbose=False)
    _set_threads(stage)
    target = instantiate(stage.config.target).read()
    net, trained = load_network(stage.config, Path(settings["cell"]["network"]), classes=None)
    features = _features_of(stage, net, target)
    split = draw_split(
        target,
        per_class=protocol["per_class"],
        test_per_class=protocol["test_per_class"],
        val_fraction=protocol["val_fraction"],
        split=settings["split"],
    )
    names = ("measure", "svm_c", "patience", "loss", "bias_multiplier", "positive_weight", "tolerance")
    task = TransferTask(
        classes=target.classes, num_features=features.dim, **{name: protocol[name] for name in names}
    )
    data = FeatureDataModule(features=features, target=target, split=split)
    with loggers(stage.config, path, run_id=identity_key(settings)) as active:
        trainer = build_transfer_trainer(settings, path, stage.interruption, active, stage.report)
        began = time.perf_counter()
        trainer.fit(task, datamodule=data, weights_only=True)
        fitted = time.perf_counter()
        chosen = {key: float(value) for key, value in trainer.callback_metrics.items()}  # testing clears them
        tested = trainer.test(task, datamodule=data, verbose=False)[0]
    save_tensors(task.state_dict(), path / "svm.safetensors")
    metrics = {
        **trained,
        **{key: float(value) for key, value in tested.items()},
        **chosen,
        "svm_c": float(task.chosen_c),
        "test/num_images": len(split.test),
        "test/all_classes": len(target.classes),
        "transfer/num_training_images": len(split.train) + len(split.val),
        "transfer/num_features": features.dim,
        "transfer/fit_seconds": round(fitted - began, 3),
    }
    return Outcome(metrics, ("svm.safetensors",))


def _features_of(stage: Stage, net: "SppNet", target: "TargetImages") -> "Features":
    """The cell's layer, out of the cache; or, for a pyramid's level, the part of the whole pyramid."""
    from sppnet.features.extract import FeatureCache, FeatureSpec, extract, level_columns

    layer, level = stage.settings["transfer"]["layer"], stage.settings["transfer"]["level"]
    spec = FeatureSpec(layer, None)
    cache = FeatureCache(Path(stage.settings["paths"]["cache"]))
    found = extract(net, target.paths, [spec], _view(stage, target), cache=cache)[spec.name]
    if level is None:
        return found
    return found.only(level_columns(net.backbone.out_channels, net.levels, level))


def _view(stage: Stage, target: "TargetImages") -> Any:
    from sppnet.features.extract import ExtractView

    features = stage.settings["features"]
    return ExtractView(
        kind=features["view"],
        short_side=features["short_side"],
        crop=features["crop"],
        upright=target.is_upright,
        max_pixels=stage.settings["data_loading"]["max_pixels"],
    )


def _set_threads(stage: Stage) -> None:
    import torch

    if (threads := stage.settings["trainer"]["threads"]) is not None:
        torch.set_num_threads(threads)
