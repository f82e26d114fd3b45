"""Networks: trained, or kept as they begin; tested in a view; averaged (paper §3.1)."""

import functools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppnet.experiment.installation import require_shared_memory
from sppnet.experiment.making import make
from sppnet.experiment.network import (
    begin_network,
    how_members_learned,
    load_network,
    require_classes,
    require_visible,
    save_network,
)
from sppnet.experiment.take import Outcome, Take

if TYPE_CHECKING:  # imports torch and Lightning
    from sppnet.data.datamodule import ImageDataModule
    from sppnet.models.sppnet import SppNet
    from sppnet.windows.image_batches import PooledDataModule

_NUM_TO_CHECK = 1000  # training images that a trained network is asked about: what it gets wrong is +-1.5 %
log = logging.getLogger(__name__)


def train(take: Take) -> Outcome:
    """Train a network from the newest checkpoint, if there is one."""
    from sppnet.experiment.trainer import make_task, run_trainer
    from sppnet.run.checkpoints import newest_checkpoint
    from sppnet.run.progress import how_it_ended
    from sppnet.tasks.classification import training_error

    checkpoint = newest_checkpoint(take.path)
    images = _training_data(take)
    net = begin_network(take.conf, images, is_new=checkpoint is None)
    data = images if take.conf.training.trains == "all" else _pooled(take, images, net)
    task = make_task(take.conf.task, net=net)
    with run_trainer(take, epochs=take.conf.training.epochs) as trainer:
        if checkpoint is not None:
            log.info("going on from %s", checkpoint.name)
        began = time.perf_counter()
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        seconds = time.perf_counter() - began
        device = trainer.strategy.root_device
        error = training_error(net, data.train_dataloader(), most=_NUM_TO_CHECK, device=device)
    metrics = {
        "train/num_images": len(images.splits.train.paths),
        "train/seconds": round(seconds, 3),
        "train/steps": trainer.global_step,
        "train/error": error,
        **{f"train/{key}": value for key, value in how_it_ended(take.path).items()},
    }
    return _kept(take, net, images, metrics)


def _pooled(take: Take, images: "ImageDataModule", net: "SppNet") -> "PooledDataModule":
    """The same images as pooled maps of a trunk that stays as it is: computed now, or by an earlier run."""
    import torch

    from sppnet.store.feature_cache import FeatureCache
    from sppnet.windows.image_batches import PooledDataModule

    log.info("maps are computed once: colours of training images are not altered")
    net.to(take.conf.trainer.accelerator)
    data = PooledDataModule(images=images, net=net, cache=FeatureCache(Path(take.conf.paths.cache)))
    data.fill(
        workers=max(1, take.workers // torch.get_num_threads()),
        report=functools.partial(take.progress, "computing maps", detail="maps"),
    )
    return data


def begin(take: Take) -> Outcome:
    """Keep a network as it begins: random, or with the weights its backbone comes with."""
    data = _training_data(take)
    return _kept(take, begin_network(take.conf, data, is_new=True), data, {})


def _kept(take: Take, net: "SppNet", data: "ImageDataModule", measured: dict[str, float]) -> Outcome:
    metrics = {
        "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
        **measured,
    }
    return Outcome(metrics, save_network(net, data.classes, take.path))


def evaluate(take: Take) -> Outcome:
    """Test a trained network in the configuration's view."""
    from sppnet.experiment.trainer import run_trainer
    from sppnet.metrics.replicates import IMAGES, image_names, image_weights, write_images
    from sppnet.models.weights import save_tensors
    from sppnet.store.feature_cache import FeatureCache
    from sppnet.tasks.evaluation import EvaluationTask, of_images
    from sppnet.windows.image_batches import KeptTrunk

    data = _data(take)
    network = take.one_below("network")
    trained = load_network(network)
    require_classes(trained, data.classes, network)
    task = EvaluationTask(net=trained.net, view=make(take.conf.view))
    require_visible(trained.net, task.view)
    # Networks that share a trunk share its maps; of ten crops of every image they would fill the disk.
    is_one_image = len(task.view.short_sides) == 1 and (task.view.num_views == 1 or not task.view.is_square)
    if trained.trains == "head" and is_one_image:
        trained.net.backbone = KeptTrunk(trained.net, FeatureCache(Path(take.conf.paths.cache)))
    with run_trainer(take) as trainer:
        began = time.perf_counter()
        tested = trainer.test(task, dataloaders=data.view_loader(task.view), verbose=False)[0]
        seconds = time.perf_counter() - began
    scores = task.scores()
    save_tensors(scores._asdict(), take.path / "scores.safetensors")
    names = image_names(data.splits.test.paths)
    write_images(take.path, names, *of_images(scores, image_weights(names)))
    metrics = {
        **trained.metrics,
        **{key: float(value) for key, value in tested.items()},
        "test/num_images": len(data.splits.test.paths),
        "test/num_classes": len(data.classes),
        "test/num_views": task.view.num_views,
        "test/seconds": round(seconds, 3),
    }
    return Outcome(metrics, ("scores.safetensors", IMAGES))


def average(take: Take) -> Outcome:
    """Average the scores of an ensemble's members, which are runs before this one (§3.1.6)."""
    from sppnet.metrics.replicates import image_weights, read_names, write_images
    from sppnet.models.weights import save_tensors
    from sppnet.tasks.evaluation import average_scores, error_rates, of_images, read_scores

    members = [read_scores(member) for member in take.below("members")]
    averaged = average_scores(members)
    save_tensors(averaged._asdict(), take.path / "scores.safetensors")
    names = read_names(take.below("members")[0])
    files = ["scores.safetensors"]
    if names is not None:
        files.append(write_images(take.path, names, *of_images(averaged, image_weights(names))))
    metrics = {
        **how_members_learned(take.below("members")),
        **{f"test/{key}": value for key, value in error_rates(averaged).items()},
        "test/num_images": len(averaged.labels),
        "test/num_classes": averaged.scores.shape[1],
        "ensemble/num_members": len(members),
    }
    return Outcome(metrics, tuple(files))


def _training_data(take: Take) -> "ImageDataModule":
    """The images to train on; how many are tested does not matter to them, and is not known here: a few."""
    is_pooled = "training" in vars(take.conf) and take.conf.training.trains == "head"
    # Of what is pooled from maps hardly a pixel is asked for, and none by workers.
    return _data(take, test_per_class=1, **({"cache_gb": 0.0, "workers": 0} if is_pooled else {}))


def _data(take: Take, **later: Any) -> "ImageDataModule":
    from pytorch_lightning import seed_everything

    take.progress("reading images")
    seed_everything(take.conf.seed, verbose=False)
    data: ImageDataModule = make(take.conf.data, **later)
    # Two batches of RGB bytes wait in each process.
    require_shared_memory(data.workers * 2 * data.batch_size * 3 * data.short_side**2, data.workers)
    data.prepare_data()
    data.setup("fit")
    return data
