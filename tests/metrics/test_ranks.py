"""Two processes that share the images find what one finds, whatever each of them has seen."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from sppnet.data.window_labels import GroundTruth
from sppnet.metrics.average_precision import AveragePrecision
from sppnet.metrics.detection_ap import Detections, VocDetectionAP

NUM_IMAGES, NUM_CLASSES = 7, 3


def image(number):
    """Detections and objects of an image, many of them alike."""
    generator = torch.Generator().manual_seed(number)
    n = 4 + number

    def boxes(count):
        corners = torch.randint(3, (count, 2), generator=generator).float()
        return torch.cat([corners, corners + 5], dim=1)

    def labels(count):
        return torch.randint(NUM_CLASSES, (count,), generator=generator)

    scores = torch.randint(3, (n,), generator=generator).float()
    return Detections(boxes(n), scores, labels(n)), GroundTruth(
        boxes(3), labels(3), torch.tensor([False, False, True])
    )


def measure(numbers):
    """Both metrics of the images with these numbers (of those of all ranks, where there are several)."""
    of_boxes = VocDetectionAP(num_classes=NUM_CLASSES, min_overlap=0.5, interpolation="11point")
    of_images = AveragePrecision(num_classes=NUM_CLASSES)
    for number in numbers:
        detections, truth = image(number)
        of_boxes.update(number, detections, truth)
        scores, labels = detections.scores[None, :3], truth.labels[None] - 1
        of_images.update(scores, labels, ids=torch.tensor([number]))
    return torch.stack([of_boxes.compute(), of_images.compute()])


def run_rank(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    # Every second image, 6 a second time as samplers do to give all ranks equally many; then rank 1 idles.
    shared = measure(([0, 2, 4, 6], [1, 3, 5, 6])[rank])
    alone = measure((range(NUM_IMAGES), [])[rank])
    torch.save({"shared": shared, "alone": alone}, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow  # each of the processes imports torch and torchmetrics
def test_two_ranks_agree_with_one(tmp_path):
    multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)
    expected = measure(range(NUM_IMAGES))
    assert expected.min() < expected.max()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(found["shared"], expected)
        assert torch.equal(found["alone"], expected)
