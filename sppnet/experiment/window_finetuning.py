"""Fine-tune a pre-trained network on windows (paper §4.1; for R-CNN, §4.2)."""

import functools
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sppnet.experiment.detection_inputs import annotated, frozen_network, proposed, scale_of, windows_of
from sppnet.experiment.making import make_from
from sppnet.experiment.network import architecture, build_net, save_network
from sppnet.experiment.take import Outcome, Take

if TYPE_CHECKING:  # import torch
    from sppnet.data.window_labels import DetectionImage
    from sppnet.models.sppnet import SppNet
    from sppnet.windows.batches import WindowDataModule
    from sppnet.windows.source import WindowSource

_FC8_DEVIATION: Final = 0.01  # of the new layer's first weights (§4.1)
_BACKGROUND: Final = "background"
_LEARNED: Final = ("train/steps", "train/error", "train/final_loss", "train/late_fall")  # before it
log = logging.getLogger(__name__)


def finetune(take: Take) -> Outcome:
    """Train the fc layers on the windows of the training images (all layers, for R-CNN)."""
    from pytorch_lightning import seed_everything

    from sppnet.experiment.trainer import make_task, run_trainer
    from sppnet.run.checkpoints import newest_checkpoint
    from sppnet.run.progress import how_it_ended
    from sppnet.tasks.finetuning import begin_with_directions, sample_windows

    found = annotated(take, "trainval")
    images = proposed(take, found)
    chosen = take.conf.finetuning
    seed_everything(take.conf.seed, verbose=False)
    trained = frozen_network(take)
    pretrained = trained.net
    net = _with_new_output(take, pretrained, num_outputs=1 + len(found.classes))
    fc6_rate = 1.0
    if chosen.fresh:
        take.progress("scaling features")
        source = _source(take, pretrained, is_mirrored=False)
        scale = float(scale_of(take.conf, images, source, take.conf.mining.mean_norm))
        rows = sample_windows(images, source, seed=take.conf.seed)
        begin_with_directions(net.fc6, net.fc7, rows, scale=scale)
        # Weights `scale` times as large, which learn `scale` squared times as fast, change as those that
        # see scaled vectors (but hardly decay).
        fc6_rate = scale**2
    net.dropout.p = chosen.dropout
    task = make_task(chosen.task, net=net, fc6_rate=fc6_rate)
    checkpoint = newest_checkpoint(take.path)
    with run_trainer(take) as trainer:
        # Pooling runs on one thread an image; the fc layers on as many as the trainer has.
        data = _data(take, pretrained, images)
        if checkpoint is not None:
            log.info("going on from %s", checkpoint.name)
        began = time.perf_counter()
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    metrics = {
        **{key: value for key, value in trained.metrics.items() if key in _LEARNED},
        "finetuning/num_images": len(images),
        "finetuning/steps": trainer.global_step,
        "finetuning/seconds": round(time.perf_counter() - began, 3),
        **{f"finetuning/{key}": value for key, value in how_it_ended(take.path).items()},
    }
    return Outcome(metrics, save_network(net.eval(), [_BACKGROUND, *found.classes], take.path))


def _with_new_output(take: Take, pretrained: "SppNet", *, num_outputs: int) -> "SppNet":
    """The same network with another last layer: its weights are N(0, 0.01^2) (§4.1)."""
    import torch

    from sppnet.artifacts import stable_seed

    net = build_net(architecture(take.one_below("network")), num_classes=num_outputs)
    kept = {name: value for name, value in pretrained.state_dict().items() if not name.startswith("fc8.")}
    new = {name: value for name, value in net.state_dict().items() if name.startswith("fc8.")}
    net.load_state_dict({**kept, **new})
    net.input_norm.constant_mean = pretrained.input_norm.constant_mean
    generator = torch.Generator().manual_seed(stable_seed(take.conf.seed, "fc8"))
    with torch.no_grad():
        net.fc8.weight.normal_(std=_FC8_DEVIATION, generator=generator)
        net.fc8.bias.zero_()
    return net


def _data(take: Take, pretrained: "SppNet", images: "Sequence[DetectionImage]") -> "WindowDataModule":
    from sppnet.windows.batches import WindowDataModule
    from sppnet.windows.draws import WindowSampling

    chosen, windows = take.conf.finetuning, take.conf.windows
    return make_from(
        WindowDataModule,
        chosen,
        source=_source(take, pretrained, is_mirrored=False),
        flipped=_source(take, pretrained, is_mirrored=True) if chosen.flip else None,
        images=images,
        sampling=make_from(WindowSampling, chosen),
        scales=() if windows.method == "rcnn" else windows.scales,
        seed=take.conf.seed,
        workers=take.workers,
        report=functools.partial(take.progress, "pooling windows", detail="images"),
    )


def _source(take: Take, net: "SppNet", *, is_mirrored: bool) -> "WindowSource":
    """Pooled windows, where the convolutions are fixed; warped windows, where all layers learn."""
    windows = take.conf.windows
    if windows.method != "rcnn":
        return windows_of(take.conf, net, "pool", order="pyramid", is_mirrored=is_mirrored)
    from sppnet.windows.warped import WarpedSquares

    max_pixels = take.conf.data_loading.max_pixels
    return make_from(WarpedSquares, windows, net=net, is_mirrored=is_mirrored, max_pixels=max_pixels)
