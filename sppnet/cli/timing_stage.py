"""Measure what a network costs an image, as Tables 9 and 10 do (paper §4.3)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppnet.cli.detection_inputs import device_of, threads_of
from sppnet.cli.stage import Stage
from sppnet.cli.trained import load_network

if TYPE_CHECKING:  # import torch
    from sppnet.data.window_labels import DetectionImage
    from sppnet.models.sppnet import SppNet
    from sppnet.tasks.timing import Method


def measure(stage: Stage, images: "Sequence[DetectionImage]") -> dict[str, float]:
    """Seconds an image, medians of wall-clock time: to pooled windows, and from there to fc7.

    On the CPU torch has all the threads of the trainer, for SPP-net as for R-CNN.
    """
    import torch

    from sppnet.artifacts import stable_seed
    from sppnet.run.allocator import keep_freed_memory
    from sppnet.run.progress import Step
    from sppnet.tasks.timing import time_detection

    settings = stage.settings
    stage.report(Step("measuring seconds", 0, 1, ""))
    if settings["trainer"]["keep_memory"]:
        keep_freed_memory()
    torch.set_num_threads(threads_of(stage))
    net, _ = load_network(stage.config, Path(settings["cell"]["network"]), classes=None)
    wanted = settings["timing"]
    generator = torch.Generator().manual_seed(stable_seed(settings["seed"], "timing"))
    usable = [image for image in images if len(image.proposals)]
    chosen = torch.randperm(len(usable), generator=generator)[: wanted["num_images"]].tolist()
    seconds = time_detection(
        _method(settings, net.to(device_of(settings))),
        [(usable[number].image.path, usable[number].proposals) for number in chosen],
        num_warmup=wanted["num_warmup"],
        max_pixels=settings["data_loading"]["max_pixels"],
    )
    wall, cpu = seconds.median("wall"), seconds.median("cpu")
    return {
        "timing/conv_seconds": wall.to_pooled,
        "timing/fc_seconds": wall.fc,
        "timing/total_seconds": wall.total,
        "timing/conv_cpu_seconds": cpu.to_pooled,
        "timing/fc_cpu_seconds": cpu.fc,
        "timing/total_cpu_seconds": cpu.total,
        "timing/mean_total_seconds": seconds.mean("wall").total,
        "timing/decode_seconds": wall.decode,
        "timing/num_images": len(chosen),
        "timing/num_windows": sum(seconds.num_windows) / len(chosen),
        "timing/num_computed": sum(seconds.num_computed) / len(chosen),
        "timing/num_threads": seconds.num_threads,
    }


def _method(settings: Any, net: "SppNet") -> "Method":
    from sppnet.tasks.timed_methods import RcnnMethod, SppMethod

    windows = settings["windows"]
    if windows["method"] == "rcnn":
        return RcnnMethod(
            net=net,
            size=windows["size"],
            context=windows["context"],
            batch_size=windows["batch_size"],
            max_windows=settings["timing"]["max_windows"],
        )
    return SppMethod(
        net=net,
        scales=windows["scales"],
        mapping=windows["mapping"],
        scale_target=windows["scale_target"],
        side=windows["side"],
    )
