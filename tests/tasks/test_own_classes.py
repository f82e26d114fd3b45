"""A user's own task, optimiser, schedule, augmentation and callback, from outside the package."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from sppnet.models.weights import read_tensors

# Its average of all weights so far is what is left at the end, and so is part of the run's state. It falls
# once, where a file says so.
PACKAGE = """
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule

from mine.rates import RATE


class SignDescent(torch.optim.Optimizer):
    def __init__(self, params, lr, pull):
        super().__init__(params, {"lr": lr, "pull": pull})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["pull"]).sub_(group["lr"] * RATE * parameter.grad.sign())
        return loss


class Noise:
    def __call__(self, batch):
        images = batch.images.float()
        return images + torch.randn_like(images)


class Task(LightningModule):
    def __init__(self, *, net, optimizer, augmentation, callbacks):
        super().__init__()
        self.net, self.optimizer, self.augmentation, self.callbacks = net, optimizer, augmentation, callbacks

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(self.augmentation(batch)), batch.labels)

    def configure_optimizers(self):
        return self.optimizer(self.net.parameters(), lr=0.001)

    def configure_callbacks(self):
        return list(self.callbacks.values())


class Average(Callback):
    def __init__(self, first_step):
        self.first_step, self.count, self.mean = first_step, 0, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step < self.first_step:
            return
        weights = [weight.detach().clone() for weight in pl_module.net.parameters()]
        self.count += 1
        means = weights if self.mean is None else self.mean
        self.mean = [mean + (one - mean) / self.count for mean, one in zip(means, weights)]
        if (fall := Path(os.environ["FALL"])).exists() and trainer.global_step == 5:
            fall.unlink()
            raise RuntimeError("killed")

    def on_train_end(self, trainer, pl_module):
        with torch.no_grad():
            for weight, mean in zip(pl_module.net.parameters(), self.mean):
                weight.copy_(mean)

    def state_dict(self):
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state_dict):
        self.count, self.mean = state_dict["count"], state_dict["mean"]
"""
NAMES = ("Task", "SignDescent", "Noise", "Average")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: a package, and a configuration that chooses what is in it."""
    (tmp_path / "code" / "mine").mkdir(parents=True)
    (tmp_path / "code" / "mine" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "code" / "mine" / "rates.py").write_text("RATE = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    task = {
        "_target_": "mine.Task",
        "optimizer": {"_target_": "mine.SignDescent", "_partial_": True, "pull": 0.001},
        "augmentation": {"_target_": "mine.Noise"},
        "callbacks": {"average": {"_target_": "mine.Average", "first_step": 2}},
        "allow_targets": [f"mine.{name}" for name in NAMES],
    }
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "mine.yaml").write_text(yaml.safe_dump(task))
    monkeypatch.setenv("SPPNET_CONF", str(tmp_path / "conf"))
    monkeypatch.setenv("FALL", str(tmp_path / "fall"))
    return tmp_path


def network(folder: Path) -> Path:
    (run,) = (folder / "runs" / "networks").iterdir()
    return run


def test_a_users_classes_train_a_network_and_a_killed_run_ends_with_the_same_weights(
    sppnet, capfd, tiny, mine: Path
):
    given = (*tiny, "task=mine", "trainer.checkpoint_minutes=0", "trainer.every_steps=1")
    assert sppnet(*given) == 0
    whole = network(mine)
    weights, lines = (whole / "model.safetensors").read_bytes(), (whole / "metrics.jsonl").read_text()
    assert len(read_tensors(whole / "model.safetensors")) > 10
    provenance = json.loads((whole / "provenance.json").read_text())
    assert {"mine", "mine.rates"} <= provenance["code"].keys()
    shutil.rmtree(mine / "runs")

    (mine / "fall").touch()
    assert sppnet(*given) != 0
    assert not (mine / "fall").exists()
    assert sppnet(*given) == 0
    assert "going on from checkpoint-" in (network(mine) / "run.log").read_text()
    assert (network(mine) / "model.safetensors").read_bytes() == weights
    assert (network(mine) / "metrics.jsonl").read_text() == lines

    (mine / "code" / "mine" / "rates.py").write_text("RATE = 2.0\n")
    capfd.readouterr()
    assert sppnet("why", str(network(mine))) == 0
    assert "mine.rates" in capfd.readouterr().out  # has changed since
    assert sppnet(*given, "task.optimizer.pull=0.1") == 0
    assert len(list((mine / "runs" / "networks").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"_target_": "mine.SignDescent", "_partial_": True, "momentum": 0.9}}, "momentum"),
        (
            {"_target_": "mine.Noise", "optimizer": None, "augmentation": None, "callbacks": None},
            "mine.Noise",
        ),
        ({"_target_": "mine.Missing"}, "mine.Missing"),
    ],
)
def test_what_a_users_class_does_not_take_is_said(sppnet, capfd, tiny, mine: Path, change, message: str):
    file = mine / "conf" / "task" / "mine.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    assert sppnet(*tiny, "task=mine") in (2, 7)
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "choice",
    ["task/optimizer=adamw", pytest.param("schedule=cosine", marks=pytest.mark.slow)],
)
def test_what_is_beside_the_papers_trains_as_well(sppnet, tiny, mine: Path, choice: str):
    assert sppnet(*tiny, choice, "training.learning_rate=0.001", "training.epochs=1") == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transfer", "finetuning"])
def test_a_users_callback_and_task_stand_in_for_those_of_svms_and_of_windows(
    sppnet, tiny, mine: Path, kind: str
):
    (mine / "code" / "others.py").write_text(
        "from pathlib import Path\n"
        "from pytorch_lightning import Callback\n"
        "from sppnet.tasks.finetuning import WindowFineTuningTask as Finetuning\n"
        "from sppnet.tasks.transfer import TransferTask as Transfer\n"
        "class Note(Callback):\n"
        "    def on_fit_end(self, trainer, task):\n"
        "        Path('noted').write_text(type(task).__name__)\n"
    )
    task = {
        "defaults": [kind],
        "_target_": f"others.{kind.capitalize()}",
        "callbacks": {"note": {"_target_": "others.Note"}},
        "allow_targets": ["others.Transfer", "others.Finetuning", "others.Note"],
    }
    (mine / "conf" / "task" / "other.yaml").write_text(yaml.safe_dump(task))
    given = {
        "transfer": ("transfer=svm", "target=shapes", "transfer.svm_c=[1.0]", "trained=false"),
        "finetuning": (
            "target=shapes_voc",
            "detection=ftfc7",
            "protocol.one_scale=[160]",
            "finetuning.num_steps=4",
        ),
    }
    assert sppnet(*tiny, *given[kind], f"task@{kind}.task=other") == 0
    assert (mine / "noted").read_text() in ("TransferTask", "WindowFineTuningTask")
