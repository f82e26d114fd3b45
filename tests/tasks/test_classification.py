"""The classification task: sizes, views, schedules, and what stops it."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sppnet.data.records import ImageBatch
from sppnet.errors import ConfigError, NonFiniteError
from sppnet.run.guards import check_finite
from sppnet.tasks.classification import resize, training_error
from sppnet.tasks.evaluation import accuracies, errors
from sppnet.tasks.schedules import CosineSchedule, PlateauSchedule, StepSchedule


def test_both_training_sizes_show_the_same_content():
    ramp = torch.arange(224.0).expand(1, 3, 224, 224)
    small = resize(ramp, 180, 180)
    assert small.shape == (1, 3, 180, 180)
    # Left edge, middle and right edge of the region stay where they were.
    assert small[0, 0, 0, [0, 90, 179]] == pytest.approx([0.0, 112.0, 223.0], abs=0.8)
    assert resize(ramp, 224, 224) is ramp


def test_a_step_schedule_divides_by_ten_after_its_fractions_of_the_epochs():
    configured = StepSchedule(factor=0.1, fractions=[0.6, 0.85]).configure(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 20, "epoch"
    )
    scheduler = configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(20):
        rates.append(round(scheduler.get_last_lr()[0], 6))
        scheduler.optimizer.step()
        scheduler.step()
    assert rates == [1.0] * 12 + [0.1] * 5 + [0.01] * 3


def test_a_plateau_schedule_divides_twice_and_never_again():
    configured = PlateauSchedule(factor=0.1, patience=1, drops=2).configure(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 20, "epoch"
    )
    scheduler = configured["lr_scheduler"]["scheduler"]
    for _ in range(20):
        scheduler.step(0.5)
    assert scheduler.get_last_lr()[0] == pytest.approx(0.01)
    assert configured["lr_scheduler"]["monitor"] == "val/top1_error"


def test_half_a_cosine_ends_with_a_rate_of_nothing():
    configured = CosineSchedule().configure(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 4, "step"
    )
    scheduler = configured["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(5):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5, 0.0])


@pytest.mark.parametrize("fractions", [[0.0], [1.0], [0.8, 0.2]])
def test_fractions_that_make_no_sense_are_refused(fractions: list[float]):
    with pytest.raises(ConfigError, match=r"schedule\.fractions"):
        StepSchedule(factor=0.1, fractions=fractions)


def test_a_loss_that_is_not_a_number_names_the_step_and_the_images():
    with pytest.raises(NonFiniteError, match=r"epoch 3, step 70 at learning rate 0.01 \(images 5, 9 of"):
        check_finite(
            torch.tensor(float("nan")), epoch=3, step=70, learning_rate=0.01, ids=torch.tensor([5, 9])
        )
    check_finite(torch.tensor(1.0), epoch=0, step=0, learning_rate=0.1, ids=torch.tensor([0]))


def test_top_1_and_top_5_stay_apart_when_the_first_images_are_all_right():
    # torchmetrics merges metrics whose states are equal after the first batch, unless told not to.
    metrics = accuracies(7)
    right = torch.eye(7)
    metrics.update(right, torch.arange(7))
    metrics.update(right, torch.arange(7).roll(1))  # right label second to last, or among the first five
    rates = {name: float(value) for name, value in errors(metrics).items()}
    assert rates["top1_error"] == 0.5
    assert rates["top5_error"] < 0.5


def epochs(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "end_of_epoch" in row]


def test_training_sizes_alternate_by_epoch(sppnet, tmp_path: Path, tiny):
    assert sppnet(*tiny, "train_sizes=multi", "training.epochs=4", "trainer.every_steps=1") == 0
    (run,) = [path for path in (tmp_path / "runs" / "networks").iterdir() if path.is_dir()]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    sizes = {row["epoch"]: row["train/size"] for row in rows if "train/size" in row}
    assert sizes == {0: 120, 1: 112, 2: 120, 3: 112}


def test_plateaus_are_watched_on_held_out_training_images(sppnet, tmp_path: Path, tiny):
    overrides = ("schedule=plateau", "data.val_fraction=0.34", "training.epochs=3")
    assert sppnet(*tiny, *overrides) == 0
    (network,) = (tmp_path / "runs" / "networks").iterdir()
    assert all("val/top1_error" in row for row in epochs(network))
    (run,) = [path for path in (tmp_path / "runs" / "single").iterdir() if path.is_dir()]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["train/num_images"] == 20  # of 30, ten held out
    assert metrics["test/num_images"] == 20


@pytest.mark.parametrize("backbone", ["squeezenet1_1", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_a_torchvision_trunk_trains_with_its_own_preprocessing(sppnet, tmp_path: Path, tiny, backbone: str):
    overrides = (f"backbone={backbone}", "training.epochs=1", "pyramid.levels=[2,1]")
    assert sppnet(*tiny, *overrides) == 0
    config = next((tmp_path / "runs" / "networks").glob("*/config.yaml")).read_text()
    assert "InputNorm.of_trunk" in config


def test_training_error_is_of_the_images_as_they_are_trained_on_without_dropout():
    net = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.9)
    )  # the brightest colour's number
    net.train()
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for image, colour in enumerate([0, 1, 2, 0]):
        images[image, colour] = 100
    shift = torch.tensor([[0.0, 0, 0], [0, 0, 0], [200.0, 0, 0], [0, 0, 0]])  # altered, the third is red
    batch = ImageBatch(images, shift, torch.tensor([0, 1, 2, 1]), 4, 4, torch.arange(4))
    error = training_error(net, [batch, batch, batch], most=8, device=torch.device("cpu"))
    assert error == 0.5
    assert not net.training
