from pathlib import Path

import numpy as np
import pytest
import torch

from sppnet.data.window_labels import GroundTruth
from sppnet.metrics.average_precision import best_first, eleven_point_ap, trace_curve
from sppnet.metrics.detection_ap import Detections, VocDetectionAP
from sppnet.metrics.replicates import (
    class_means,
    eleven_point_aps,
    image_draws,
    image_names,
    image_weights,
    means,
)

NAMES = [f"folder/{number}.jpg" for number in range(60)]


def test_an_image_counts_as_often_whoever_asks_and_wherever_it_lies():
    weights = image_weights(NAMES)
    assert (image_weights(NAMES[::-1]) == weights[:, ::-1]).all()
    assert image_names([Path("/a/b/folder/7.jpg"), Path("folder/8.jpg")]) == NAMES[7:9]
    # Poisson(1): mean and variance 1, of 24,000 numbers within 4 standard errors.
    assert weights.mean() == pytest.approx(1, abs=0.03)
    assert weights.var() == pytest.approx(1, abs=0.06)


def test_a_mean_over_draws_spreads_as_a_mean_does():
    values = np.random.default_rng(0).normal(3, 2, 60)
    drawn = means(values, image_weights(NAMES))
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.06)
    assert drawn.std() == pytest.approx(values.std() / 60**0.5, rel=0.15)


def test_images_that_count_once_give_the_measure_itself():
    once = np.ones((1, 6))
    values, labels = np.array([1.0, 1, 0, 1, 0, 0]), np.array([0, 0, 0, 1, 1, 2])
    assert means(values, once) == pytest.approx([0.5])
    assert class_means(values, labels, once) == pytest.approx([(2 / 3 + 1 / 2 + 0) / 3])
    assert class_means(values, labels, np.array([[1.0, 1, 1, 0, 0, 1]])) == pytest.approx([(2 / 3 + 0) / 2])


def test_an_ap_of_images_drawn_twice_is_that_of_a_set_with_each_of_them_twice():
    generator = np.random.default_rng(3)
    for _ in range(20):
        scores = generator.permutation(40).astype(np.float32)
        labels = generator.choice([-1, 0, 1], 40, p=[0.6, 0.1, 0.3]).astype(np.int8)
        weights = generator.poisson(1, (3, 40)).astype(float)
        order = best_first(scores)
        found = eleven_point_aps(labels[order], order, (labels > 0).astype(int), weights)
        for draw, ap in zip(weights.astype(int), found, strict=True):
            repeated = np.repeat(order, draw[order])
            curve = trace_curve(labels[repeated], scores[repeated], int(draw[labels > 0].sum()))
            # An image that counts twice is met at once, not in two steps: precision between them is not seen.
            assert ap == pytest.approx(eleven_point_ap(curve), abs=0.02)
        (whole,) = eleven_point_aps(labels[order], order, (labels > 0).astype(int), np.ones((1, 40)))
        curve = trace_curve(labels[order], scores[order], int((labels > 0).sum()))
        assert whole == pytest.approx(eleven_point_ap(curve))


def test_detections_over_images_that_count_once_have_the_measures_map():
    generator = torch.Generator().manual_seed(0)
    metric = VocDetectionAP(num_classes=2, min_overlap=0.5, interpolation="11point")
    for image in range(12):
        corner = torch.rand(3, 2, generator=generator) * 50
        boxes = torch.cat([corner, corner + 30], dim=1)
        labels = torch.randint(2, (3,), generator=generator)
        truth = GroundTruth(boxes, labels, torch.tensor([False, False, True]))
        moved = boxes + torch.randint(0, 25, (3, 1), generator=generator)
        metric.update(image, Detections(moved, torch.rand(3, generator=generator), labels), truth)
    assert metric.replicates(np.ones((2, 12))) == pytest.approx([float(metric.compute().mean())] * 2)


def test_a_draw_of_no_image_draws_all():
    draws = image_draws(NAMES[:1])
    assert set(map(tuple, draws)) >= {(0,), (0, 0)}
    assert all(draws)
