"""Fine-tuning on windows (§4.1): what learns, how fast, and that a killed run ends with the same weights."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from sppnet.data.voc2007 import AnnotatedImage
from sppnet.data.window_labels import DetectionImage
from sppnet.errors import ConfigError, NonFiniteError
from sppnet.models.backbones import LayeredBackbone
from sppnet.models.initialise import GaussianInit
from sppnet.models.normalise import InputNorm
from sppnet.models.sppnet import SppNet
from sppnet.run.guards import StepSeed
from sppnet.tasks.finetuning import WindowFineTuningTask
from sppnet.tasks.schedules import PlateauSchedule, StepSchedule
from sppnet.windows.batches import WindowBatch, WindowDataModule
from sppnet.windows.draws import WindowSampling
from sppnet.windows.source import WindowSource

NUM_CLASSES = 2
TASK = {
    "learning_rate": 0.01,
    "optimizer": functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=0.0005),
    "schedule": StepSchedule(factor=0.1, fractions=[5 / 6]),
    "augmentation": None,
    "callbacks": {},
    "bias_rate": 2.0,
    "fc8_rate": 1.0,
    "fc6_rate": 1.0,
    "num_steps": 12,
    "trains": "head",
}


def net_of(dropout: float) -> SppNet:
    """In evaluation mode, as a loaded net is: sources of windows need it so."""
    torch.manual_seed(0)
    layers = [{"conv": 8, "kernel": 3, "stride": 2, "padding": 1}] * 2
    return SppNet(
        backbone=LayeredBackbone(name="small", layers=layers, width=1.0, weights=None),
        input_norm=InputNorm.constant(mean=[128.0] * 3, std=[64.0] * 3),
        levels=[2, 1],
        pooling="bins",
        head_width=8,
        dropout=dropout,
        num_classes=NUM_CLASSES + 1,
        init=GaussianInit(std=0.3, conv_biases=[0.0], fc_biases=[0.0]),
    ).eval()


class Signs(WindowSource):
    """Vectors in which a window's corner and its scale show, so that there is something to learn."""

    def __init__(self, dim: int, is_mirrored: bool) -> None:
        self.dim = dim
        self.is_mirrored = is_mirrored

    def compute(self, out, image, windows, scales, watch):
        index = int(image.stem)
        waves = torch.arange(1.0, self.dim + 1)
        rows = torch.sin(windows.sum(dim=1, keepdim=True) * waves / 40)
        rows = rows + index / 10 + self.is_mirrored + (0 if scales is None else scales[:, None] / 1000)
        out.copy_(rows)


def data_of(dim: int) -> WindowDataModule:
    random = torch.Generator().manual_seed(0)
    images = []
    for index in range(6):
        first = torch.randint(0, 20, (40, 2), generator=random)
        boxes = torch.cat([first, first + torch.randint(8, 20, (40, 2), generator=random)], dim=1).float()
        labels = torch.randint(0, NUM_CLASSES, (2,), generator=random)
        annotated = AnnotatedImage(
            str(index), Path(f"{index}.jpg"), 40, 40, boxes[:2], labels, torch.zeros(2, dtype=torch.bool)
        )
        images.append(DetectionImage(annotated, boxes[2:]))
    return WindowDataModule(
        source=Signs(dim, is_mirrored=False),
        flipped=Signs(dim, is_mirrored=True),
        images=images,
        sampling=WindowSampling(
            batch_size=16,
            positive_share=0.25,
            positive_overlap=0.5,
            background_overlap=0.1,
            images_per_chunk=3,
            flip=True,
            random_scale=True,
        ),
        scales=[480, 688],
        num_steps=12,
        seed=3,
        chunk_steps=5,
        chunk_gb=1.0,
        workers=1,
    )


def trainer_of(folder: Path, *callbacks: Callback, **replaced: Any) -> Trainer:
    arguments = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "default_root_dir": folder,
        "callbacks": [StepSeed(seed=3), *callbacks],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return Trainer(**{**arguments, **replaced})


@pytest.fixture
def make_task() -> Callable[..., WindowFineTuningTask]:
    def make(*, dropout: float = 0.5, **replaced: Any) -> WindowFineTuningTask:
        return WindowFineTuningTask(net=net_of(dropout), **{**TASK, **replaced})

    return make


class KilledAfter(Callback):
    """Saves a checkpoint after so many steps, and falls."""

    def __init__(self, steps: int, path: Path) -> None:
        self.steps, self.path = steps, path

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.steps:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("killed")


class Rates(Callback):
    """Remembers the learning rate of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.seen.append(round(trainer.optimizers[0].param_groups[0]["lr"], 9))


def weights(task: LightningModule) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in task.net.state_dict().items()}


@pytest.mark.parametrize(("trains", "dim"), [("head", 40), ("all", 3 * 16 * 16)])
@pytest.mark.parametrize("steps", [5, 7])  # at a chunk's end and within one
def test_a_killed_run_ends_with_the_same_weights(
    tmp_path: Path, make_task, trains: str, dim: int, steps: int
):
    whole = make_task(trains=trains)
    rates = Rates()
    trainer_of(tmp_path, rates).fit(whole, datamodule=data_of(dim))
    assert rates.seen == [0.01] * 10 + [0.001] * 2

    checkpoint = tmp_path / "checkpoint.ckpt"
    with pytest.raises(RuntimeError, match="killed"):
        trainer_of(tmp_path, KilledAfter(steps, checkpoint)).fit(
            make_task(trains=trains), datamodule=data_of(dim)
        )
    resumed, rates = make_task(trains=trains), Rates()
    trainer_of(tmp_path, rates).fit(resumed, datamodule=data_of(dim), ckpt_path=checkpoint, weights_only=True)
    assert rates.seen == [0.01] * (10 - steps) + [0.001] * 2
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())


@pytest.mark.parametrize(("trains", "dim"), [("head", 40), ("all", 3 * 16 * 16)])
def test_the_convolutions_are_fixed_and_r_cnn_trains_them_too(
    tmp_path: Path, make_task, trains: str, dim: int
):
    task = make_task(trains=trains)
    before = weights(task)
    trainer_of(tmp_path).fit(task, datamodule=data_of(dim))
    changed = {name.split(".")[0] for name, tensor in weights(task).items() if not tensor.equal(before[name])}
    learning = {"fc6", "fc7", "fc8"} | ({"backbone"} if trains == "all" else set())
    assert changed == learning
    # Several ranks wait for the gradient of every parameter that asks for one.
    assert {name.split(".")[0] for name, p in task.net.named_parameters() if p.requires_grad} == learning


class Freezing(Signs):
    """Leaves the net in evaluation mode whenever it computes windows."""

    def __init__(self, dim: int, net: SppNet) -> None:
        super().__init__(dim, is_mirrored=False)
        self.net = net

    def compute(self, out, image, windows, scales, watch):
        self.net.eval()
        super().compute(out, image, windows, scales, watch)


class Modes(Callback):
    """Remembers who was training at every step."""

    def __init__(self) -> None:
        self.seen: set[tuple[bool, ...]] = set()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        net = pl_module.net
        self.seen.add((net.dropout.training, *(module.training for module in net.backbone.modules())))


def test_dropout_is_on_and_a_fixed_trunk_keeps_still(tmp_path: Path, make_task):
    for trains, dim in (("head", 40), ("all", 3 * 16 * 16)):
        task, data, modes = make_task(trains=trains), data_of(dim), Modes()
        data.sources = (Freezing(dim, task.net), Freezing(dim, task.net))
        trainer_of(tmp_path, modes).fit(task, datamodule=data)
        num_modules = len(list(task.net.backbone.modules()))
        assert modes.seen == {(True, *[trains == "all"] * num_modules)}


def test_the_first_step_is_softmax_regression_s_and_fc8_s_biases_have_a_rate_of_their_own(
    tmp_path: Path, make_task
):
    task = make_task(dropout=0.0, fc8_rate=10.0)
    batch = next(iter(data_of(40).train_dataloader()))
    with torch.no_grad():
        hidden = batch.inputs.double()
        for layer in (task.net.fc6, task.net.fc7):
            hidden = (hidden @ layer.weight.T.double() + layer.bias.double()).clamp(min=0)
        scores = hidden @ task.net.fc8.weight.T.double() + task.net.fc8.bias.double()
        errors = scores.softmax(dim=1) - torch.eye(3)[batch.labels]
        bias = task.net.fc8.bias - 0.01 * 2 * 10 * errors.mean(dim=0)
        decayed = errors.T @ hidden / len(errors) + 0.0005 * task.net.fc8.weight
        weight = task.net.fc8.weight - 0.01 * 10 * decayed
    trainer_of(tmp_path, max_steps=1).fit(task, datamodule=data_of(40))
    assert task.net.fc8.bias.detach().double().numpy() == pytest.approx(bias.numpy(), rel=1e-4)
    assert task.net.fc8.weight.detach().double().numpy() == pytest.approx(weight.numpy(), rel=1e-4)


def test_what_r_cnn_sees_is_the_warped_picture(make_task):
    task = make_task(trains="all")
    pictures = torch.rand(2, 3, 16, 16) * 255
    assert torch.equal(task(pictures.flatten(1)), task.net(pictures))


def test_accuracy_is_logged_for_all_windows_and_for_positives(tmp_path: Path, make_task):
    task = make_task(dropout=0.0)
    trainer = trainer_of(tmp_path, max_steps=1)
    before = net_of(0.0)
    for net in (task.net, before):  # some windows would leave all of fc7 at 0, and all classes alike
        torch.nn.init.constant_(net.fc7.bias, 1.0)
    trainer.fit(task, datamodule=data_of(40))
    batch = next(iter(data_of(40).train_dataloader()))
    scores = before.head(batch.inputs)
    second, first = scores.sort(dim=1).values[:, -2:].T
    assert (first - second).min() > 1e-4 * scores.abs().max()  # no window is between two classes
    is_right = [int(a) == int(b) for a, b in zip(scores.argmax(1), batch.labels, strict=True)]
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    assert logged["train/accuracy"] == pytest.approx(sum(is_right) / 16)
    assert logged["train/positive_accuracy"] == pytest.approx(sum(is_right[:4]) / 4)
    assert logged["train/positive_share"] == 0.25
    assert logged["train/loss"] > 0


def test_a_loss_that_is_not_a_number_names_the_images(tmp_path: Path, make_task):
    broken = WindowBatch(
        torch.full((4, 40), float("nan")), torch.tensor([1, 0, 0, 0]), torch.tensor([7, 7, 8, 9])
    )
    loader = DataLoader([broken], batch_size=None)
    with pytest.raises(NonFiniteError, match="step 0 at learning rate 0.01 .images 7, 7, 8, 9"):
        trainer_of(tmp_path).fit(make_task(), loader)


def test_a_plateau_of_held_out_images_is_refused_where_none_are_looked_at(tmp_path: Path, make_task):
    task = make_task(schedule=PlateauSchedule(factor=0.1, patience=5, drops=2))
    with pytest.raises(ConfigError, match="schedule@finetuning.task.schedule=finetuning, or cosine"):
        trainer_of(tmp_path).fit(task, datamodule=data_of(40))
