"""Fine-tune a pre-trained network on windows (paper §4.1; for R-CNN, §4.2)."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from hydra.utils import instantiate

from sppnet.cli.detection_inputs import frozen_network, maps_of, norm_of, threads_of, windows_of
from sppnet.cli.stage import Stage
from sppnet.run.directory import identity_key

if TYPE_CHECKING:  # import torch
    from sppnet.data.detection_images import DetectionImage
    from sppnet.windows.batches import WindowDataModule
    from sppnet.models.sppnet import SppNet

_FC8_DEVIATION: Final = 0.01  # of the new layer's first weights (§4.1)
log = logging.getLogger(__name__)


def train_on_windows(
    stage: Stage, images: "Sequence[DetectionImage]", *, classes: Sequence[str]
) -> "tuple[SppNet, dict[str, float]]":
    """Train from the newest checkpoint, if there is one.

    Returns:
        The network, its outputs the background and the classes; and what was measured.
    """
    import torch
    from pytorch_lightning import seed_everything

    from sppnet.cli.parts import build_trainer, loggers
    from sppnet.run.checkpoints import newest_checkpoint
    from sppnet.run.progress import Step
    from sppnet.tasks.finetuning import WindowFineTuningTask
    from sppnet.tasks.first_weights import begin_with_directions, sample_windows

    settings, path = stage.settings, stage.directory.path
    chosen = settings["finetuning"]
    seed_everything(settings["seed"], verbose=False)
    pretrained, _ = frozen_network(stage)
    net = _with_new_output(stage, pretrained, num_outputs=1 + len(classes))
    fc6_rate = 1.0
    if chosen["fresh"]:
        stage.report(Step("scaling features", 0, 1, ""))
        source = _source(settings, stage, pretrained, images, is_mirrored=False)
        scale = _scale(stage, images, source)
        rows = sample_windows(images, source, seed=settings["seed"])
        begin_with_directions(net.fc6, net.fc7, rows, scale=scale)
        # Weights `scale` times as large, which learn `scale` squared times as fast, change as those that
        # see scaled vectors (but hardly decay).
        fc6_rate = scale**2
    net.dropout.p = chosen["dropout"]
    names = ("learning_rate", "momentum", "weight_decay", "bias_rate", "fc8_rate", "num_steps", "drop_at")
    task = WindowFineTuningTask(
        net=net, trains=chosen["trains"], fc6_rate=fc6_rate, **{name: chosen[name] for name in names}
    )
    checkpoint = newest_checkpoint(path)
    with loggers(stage.config, path, run_id=identity_key(settings)) as active:
        trainer = build_trainer(settings, path, stage.interruption, active, stage.report, epochs=1)
        torch.set_num_threads(
            threads_of(stage)
        )  # a stage before this one, in this process, may have left one
        # Pooling runs on one thread an image; the fc layers on as many as the trainer has.
        data = _data(stage, pretrained, images)
        if checkpoint is not None:
            log.info("going on from %s", checkpoint.name)
        began = time.perf_counter()
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    metrics = {
        "finetuning/num_images": len(images),
        "finetuning/steps": trainer.global_step,
        "finetuning/seconds": round(time.perf_counter() - began, 3),
    }
    return net.eval(), metrics


def _with_new_output(stage: Stage, pretrained: "SppNet", *, num_outputs: int) -> "SppNet":
    """The same network with another last layer: "the fc8 layer is initialised with N(0, 0.01^2)" (§4.1)."""
    import torch

    from sppnet.cli.parts import build_net
    from sppnet.data.sampling import stable_seed

    net = build_net(stage.config, init=instantiate(stage.config.init), num_classes=num_outputs)
    kept = {name: value for name, value in pretrained.state_dict().items() if not name.startswith("fc8.")}
    new = {name: value for name, value in net.state_dict().items() if name.startswith("fc8.")}
    net.load_state_dict({**kept, **new})
    generator = torch.Generator().manual_seed(stable_seed(stage.settings["seed"], "fc8"))
    with torch.no_grad():
        net.fc8.weight.normal_(std=_FC8_DEVIATION, generator=generator)
        net.fc8.bias.zero_()
    return net


def _scale(stage: Stage, images: "Sequence[DetectionImage]", source: Any) -> float:
    """What pooled vectors are multiplied by to have the mean norm that those of SVMs have."""
    from sppnet.tasks.mining import feature_scale

    norm = norm_of(stage.settings, stage.settings["mining"]["mean_norm"])
    return float(feature_scale(images, source, norm))


def _data(stage: Stage, pretrained: "SppNet", images: "Sequence[DetectionImage]") -> "WindowDataModule":
    from sppnet.windows.batches import WindowDataModule
    from sppnet.windows.draws import WindowSampling
    from sppnet.run.progress import Step

    def report(done: int, total: int) -> None:
        stage.interruption.raise_if_requested()
        stage.report(Step("pooling windows", done, total, "images"))

    settings = stage.settings
    chosen, windows = settings["finetuning"], settings["windows"]
    names = ("positive_overlap", "background_overlap", "images_per_chunk", "flip", "random_scale")
    sampling = WindowSampling(
        batch_size=chosen["batch_size"],
        positive_share=chosen["positive_share"],
        **{name: chosen[name] for name in names},
    )
    return WindowDataModule(
        source=_source(settings, stage, pretrained, images, is_mirrored=False),
        flipped=_source(settings, stage, pretrained, images, is_mirrored=True) if sampling.flip else None,
        images=images,
        sampling=sampling,
        scales=windows.get("scales", ()),
        num_steps=chosen["num_steps"],
        seed=settings["seed"],
        chunk_steps=chosen["chunk_steps"],
        chunk_gb=chosen["chunk_gb"],
        workers=threads_of(stage),
        report=report,
    )


def _source(
    settings: Mapping[str, Any],
    stage: Stage,
    net: "SppNet",
    images: "Sequence[DetectionImage]",
    *,
    is_mirrored: bool,
) -> Any:
    """Pooled windows, where the convolutions are fixed; warped windows, where all layers learn."""
    paths = [image.image.path for image in images]
    maps = maps_of(stage, net, paths, is_mirrored=is_mirrored)
    if settings["finetuning"]["trains"] == "all":
        from sppnet.windows.warped import WarpedSquares

        windows = settings["windows"]
        return WarpedSquares(
            net=net,
            paths=paths,
            size=windows["size"],
            context=windows["context"],
            is_mirrored=is_mirrored,
            max_pixels=maps.max_pixels,
        )
    return windows_of(settings, net, maps, "pool", "pyramid")
