"""Seconds a detector takes for an image, and how much is convolved for it (paper §4.3)."""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sppnet.experiment.detection_inputs import annotated, frozen_network, proposed, windows_of
from sppnet.experiment.making import make
from sppnet.experiment.take import Outcome, Take

if TYPE_CHECKING:  # import torch
    from sppnet.data.window_labels import DetectionImage
    from sppnet.experiment.schema import Conf

_STAGES: Final = ("conv", "fc", "total")  # whose intervals tables show


def measure_seconds(take: Take) -> Outcome:
    """Seconds an image, stage by stage, medians of wall-clock time; and how much is convolved (§4.3).

    On the CPU torch has all the threads of the trainer, for SPP-net as for R-CNN.
    """
    import numpy as np
    import torch

    from sppnet.artifacts import stable_seed
    from sppnet.metrics.replicates import image_draws, image_names, write_images
    from sppnet.tasks.timing import over_images, time_detection

    take.progress("measuring seconds")
    images = proposed(take, annotated(take, "test"))
    wanted = take.conf.timing
    generator = torch.Generator().manual_seed(stable_seed(take.conf.seed, "timing"))
    usable = [image for image in images if len(image.proposals)]
    order = torch.randperm(len(usable), generator=generator)[: wanted.num_images].tolist()
    chosen = [usable[number] for number in order]
    net = frozen_network(take).net
    watches = time_detection(
        windows_of(take.conf, net, "fc7", max_windows=wanted.max_windows),
        [(image.image.path, image.proposals) for image in chosen],
        device=net.device,
        num_warmup=wanted.num_warmup,
    )
    wall = over_images(statistics.median, [watch.wall for watch in watches])
    names = image_names(image.image.path for image in chosen)
    drawn = [
        over_images(statistics.median, [watches[number].wall for number in draw])
        for draw in image_draws(names)
    ]
    replicates = {
        f"timing/{stage}_seconds": np.array([getattr(one, stage) for one in drawn]) for stage in _STAGES
    }
    left = write_images(take.path, names, replicates)
    # The fairer ones on a machine shared with others.
    cpu = over_images(statistics.median, [watch.cpu for watch in watches])
    return Outcome(
        {
            "timing/prepare_seconds": wall.prepare,
            "timing/conv_seconds": wall.conv,
            "timing/pooling_seconds": wall.pooling,
            "timing/fc_seconds": wall.fc,
            "timing/total_seconds": wall.total,
            "timing/prepare_cpu_seconds": cpu.prepare,
            "timing/conv_cpu_seconds": cpu.conv,
            "timing/pooling_cpu_seconds": cpu.pooling,
            "timing/fc_cpu_seconds": cpu.fc,
            "timing/total_cpu_seconds": cpu.total,
            "timing/mean_total_seconds": over_images(
                statistics.fmean, [watch.wall for watch in watches]
            ).total,
            "timing/decode_seconds": wall.decode,
            **_seconds_with_proposals(take, chosen, wall.decode + wall.total),
            "timing/conv_pixels": statistics.fmean(_num_convolved(take.conf, image) for image in chosen),
            "timing/num_images": len(chosen),
            "timing/num_windows": sum(len(image.proposals) for image in chosen) / len(chosen),
            "timing/num_computed": sum(watch.num_computed for watch in watches) / len(chosen),
            "timing/num_threads": torch.get_num_threads(),
        },
        (left,),
    )


def _num_convolved(conf: "Conf", image: "DetectionImage") -> float:
    """Pixels that convolutions see: of the image at all scales, r s^2 each, or of n warped windows (§4.3)."""
    windows, sides = conf.windows, (image.image.width, image.image.height)
    if windows.method == "rcnn":
        return len(image.proposals) * windows.size**2
    return sum(scale**2 for scale in windows.scales) * max(sides) / min(sides)


def _seconds_with_proposals(
    take: Take, images: "Sequence[DetectionImage]", seconds: float
) -> dict[str, float]:
    """Seconds of proposals, and with them from the file to fc7; nothing where they come from files."""
    from sppnet.data.images import read_image
    from sppnet.data.proposals import SetSource

    source = make(take.conf.proposals)
    if isinstance(source, SetSource) and not source.is_computed:
        return {}
    watched = []
    for image in images:
        pixels = read_image(image.image.path, upright=False, max_pixels=take.conf.data_loading.max_pixels)
        began = time.perf_counter()
        source.propose(pixels)
        watched.append(time.perf_counter() - began)
    proposing = statistics.median(watched)
    return {"timing/proposal_seconds": proposing, "timing/end_to_end_seconds": proposing + seconds}
