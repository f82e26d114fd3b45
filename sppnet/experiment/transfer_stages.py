"""Transfer: features of a frozen network into the cache, then SVMs on them (paper §3.2, §3.3)."""

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sppnet.experiment.making import make, make_from
from sppnet.experiment.network import load_network
from sppnet.experiment.take import Outcome, Take

if TYPE_CHECKING:  # import torch
    from sppnet.data.targets import TargetImages
    from sppnet.features.extract_view import ExtractView
    from sppnet.features.shards import Features
    from sppnet.models.sppnet import SppNet


def extract_features(take: Take) -> Outcome:
    """Compute, in one pass, every layer that the table's cells want of these images in this view."""
    from sppnet.features.extract import extract
    from sppnet.features.specs import FeatureSpec
    from sppnet.store.feature_cache import FeatureCache

    take.progress("extracting features")
    net = load_network(take.one_below("network"), constant_mean=take.conf.target_mean).net
    target = make(take.conf.target).read()
    specs = [FeatureSpec(layer, None) for layer in take.plan.layers]
    cache = FeatureCache(Path(take.conf.paths.cache))
    began = time.perf_counter()
    report = functools.partial(take.progress, "extracting features", detail="images")
    found = extract(net, target.paths, specs, _view(take, target), cache=cache, report=report)
    metrics = {
        "features/num_images": len(target.paths),
        "features/gigabytes": sum(len(one) * one.dim * 4 for one in found.values()) / 1e9,
        "features/shards_computed": cache.counts.computed,
        "features/shards_reused": cache.counts.reused,
        "features/seconds": round(time.perf_counter() - began, 3),
    }
    return Outcome(metrics)


def transfer(take: Take) -> Outcome:
    """Fit SVMs on the features of one layer, and test them."""
    from pytorch_lightning import seed_everything

    from sppnet.data.targets import draw_split
    from sppnet.experiment.trainer import make_task, run_trainer
    from sppnet.features.feature_batches import FeatureDataModule
    from sppnet.metrics.replicates import image_names, image_weights, write_images
    from sppnet.models.weights import save_tensors
    from sppnet.tasks.transfer import TransferTask

    take.progress("reading features")
    protocol = take.conf.transfer
    assert protocol is not None and protocol.measure is not None
    seed_everything(take.conf.seed, verbose=False)
    target = make(take.conf.target).read()
    network = load_network(take.one_below("network"), constant_mean=take.conf.target_mean)
    features = _features_of(take, network.net, target)
    split = make_from(draw_split, protocol, target=target, split=take.conf.split)
    task = make_task(protocol.task, classes=target.classes, num_features=features.dim)
    data = FeatureDataModule(features=features, target=target, split=split)
    with run_trainer(take, saves=False) as trainer:
        began = time.perf_counter()
        trainer.fit(task, datamodule=data, weights_only=True)
        fitted = time.perf_counter()
        chosen = {key: float(value) for key, value in trainer.callback_metrics.items()}  # testing clears them
        tested = trainer.test(task, datamodule=data, verbose=False)[0]
    save_tensors(task.state_dict(), take.path / "svm.safetensors")
    files = ["svm.safetensors"]
    if isinstance(task, TransferTask):  # one of the user's may test in other ways
        names = image_names(target.paths[row] for row in split.test.tolist())
        files.append(write_images(take.path, names, task.replicates(image_weights(names))))
    metrics = {
        **network.metrics,
        **{key: float(value) for key, value in tested.items()},
        **chosen,
        "test/num_images": len(split.test),
        "test/all_classes": len(target.classes),
        "transfer/num_training_images": len(split.train) + len(split.val),
        "transfer/num_features": features.dim,
        "transfer/fit_seconds": round(fitted - began, 3),
    }
    return Outcome(metrics, tuple(files))


def _features_of(take: Take, net: "SppNet", target: "TargetImages") -> "Features":
    """The cell's layer, out of the cache; or, for a pyramid's level, the part of the whole pyramid."""
    from sppnet.features.extract import extract
    from sppnet.features.specs import FeatureSpec, level_columns
    from sppnet.store.feature_cache import FeatureCache

    assert take.conf.transfer is not None
    spec = FeatureSpec(take.conf.transfer.layer, None)
    cache = FeatureCache(Path(take.conf.paths.cache))
    found = extract(net, target.paths, [spec], _view(take, target), cache=cache)[spec.name]
    if take.conf.transfer.level is None:
        return found
    return found.only(level_columns(net.backbone.out_channels, net.levels, take.conf.transfer.level))


def _view(take: Take, target: "TargetImages") -> "ExtractView":
    from sppnet.features.extract_view import ExtractView

    features, max_pixels = take.conf.features, take.conf.data_loading.max_pixels
    return make_from(
        ExtractView, features, kind=features.view, upright=target.is_upright, max_pixels=max_pixels
    )
