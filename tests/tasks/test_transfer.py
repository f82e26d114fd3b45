"""SVMs on the vectors of a frozen network: what they learn from, and what is measured."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from sklearn.metrics import precision_recall_curve
from sklearn.svm import LinearSVC

from sppnet.data.targets import TargetImages, TargetSplit
from sppnet.errors import ConfigError, DataError
from sppnet.estimators.linear_svm import LinearSvm
from sppnet.features.feature_batches import FeatureDataModule
from sppnet.features.shards import Features
from sppnet.tasks.transfer import TransferTask, normalise

MACHINE = {
    "loss": "squared_hinge",
    "bias_multiplier": 1.0,
    "positive_weight": 1.0,
    "tolerance": 1e-10,
}


def on_disk(vectors: torch.Tensor, folder: Path) -> Features:
    """Vectors as the cache keeps them, in one shard."""
    file = folder / "vectors.f32"
    file.write_bytes(vectors.numpy().astype("<f4").tobytes())
    return Features(
        paths=[file],
        num_rows=len(vectors),
        shard_rows=len(vectors),
        row_length=vectors.shape[1],
        columns=slice(0, vectors.shape[1]),
        hold=file.open("rb"),
    )


def one_hot(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    return torch.where(labels[:, None] == torch.arange(num_classes), 1, -1).to(torch.int8)


class Problem:
    """Vectors, presence, and who trains, chooses and tests: the first, the next and the last rows."""

    def __init__(self, vectors, presence, num_train: int, num_val: int, folder: Path) -> None:
        rows = torch.arange(len(vectors))
        self.vectors, self.presence = vectors, presence
        self.split = TargetSplit(
            rows[:num_train], rows[num_train : num_train + num_val], rows[num_train + num_val :]
        )
        self.classes = tuple("abcdefgh"[: presence.shape[1]])
        paths = tuple(Path(f"{i}.jpg") for i in range(len(vectors)))
        target = TargetImages(paths, presence, self.classes, None, is_upright=True)
        self.data = FeatureDataModule(features=on_disk(vectors, folder), target=target, split=self.split)

    def task(self, **replaced) -> TransferTask:
        machine = LinearSvm(**{name: replaced.pop(name, value) for name, value in MACHINE.items()})
        arguments = {
            "measure": "average_precision",
            "svm_c": [1.0],
            "patience": 9,
            "machine": machine,
            "callbacks": {},
        }
        return TransferTask(
            classes=self.classes, num_features=self.vectors.shape[1], **{**arguments, **replaced}
        )

    def run(self, **replaced) -> tuple[TransferTask, dict[str, float]]:
        """Fit and test a new task; what it is then and everything it logged."""
        task, trainer = self.task(**replaced), a_trainer()
        trainer.fit(task, datamodule=self.data)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return task, {**metrics, **trainer.test(task, datamodule=self.data, verbose=False)[0]}

    @property
    def training(self) -> torch.Tensor:
        return torch.cat([self.split.train, self.split.val])


def a_trainer() -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def unit(vectors: torch.Tensor) -> np.ndarray:
    rows = vectors.numpy().astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sklearn_scores(train, presence, test, svm_c: float) -> np.ndarray:
    """Scores of liblinear's one-vs-rest machines; rows of presence 0 are nobody's."""
    scores = []
    for signs in presence.T.numpy():
        machine = LinearSVC(C=svm_c, tol=1e-9, max_iter=100_000, dual=True, random_state=0)
        scores.append(machine.fit(train[signs != 0], signs[signs != 0]).decision_function(test))
    return np.stack(scores, axis=1)


def eleven_points(scores: np.ndarray, signs: np.ndarray) -> float:
    """VOC's 11-point AP by scikit-learn's curve."""
    precision, recall, _ = precision_recall_curve(signs[signs != 0] > 0, scores[signs != 0])
    return float(np.mean([precision[recall >= point / 10 - 1e-12].max() for point in range(11)]))


def nearness(num_rows: int, svm_c: float) -> float:
    """How far a score of ours can be from the optimum's.

    Half the squared distance of the weights is at most the gap, which is `tolerance` of an objective below
    that of zero weights: C a row. Vectors of length 1 with their constant have a length of 2 ** 0.5.
    """
    return float((2 * 2 * MACHINE["tolerance"] * svm_c * num_rows) ** 0.5)


def accuracy(scores: np.ndarray, presence: torch.Tensor) -> float:
    """Mean over classes."""
    labels = presence.argmax(dim=1).numpy()
    is_right = scores.argmax(axis=1) == labels
    return float(np.mean([is_right[labels == label].mean() for label in set(labels)]))


def draw_overlapping(seed: int, folder: Path) -> Problem:
    """Three classes that cannot be told apart without mistakes; vectors of very different lengths."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (150,), generator=generator)
    centres = torch.randn(3, 12, generator=generator)
    vectors = 0.4 * centres[labels] + torch.randn(150, 12, generator=generator)
    lengths = torch.rand(150, 1, generator=generator) * 100 + 0.01
    return Problem(vectors * lengths, one_hot(labels, 3), 50, 30, folder)


@pytest.fixture
def overlapping(tmp_path: Path) -> Problem:
    return draw_overlapping(4, tmp_path)


def accuracies(problem: Problem, part: torch.Tensor) -> list[float]:
    """Accuracy on some rows for every candidate, by liblinear on the rows that are not held out."""
    train, rows = problem.split.train, unit(problem.vectors)
    found = []
    for svm_c in CANDIDATES:
        scores = sklearn_scores(rows[train], problem.presence[train], rows[part], svm_c)
        second, first = np.sort(scores, axis=1)[:, -2:].T
        assert (first - second).min() > 2 * nearness(len(train), svm_c)  # or it would be a matter of luck
        found.append(accuracy(scores, problem.presence[part]))
    return found


CANDIDATES = [0.01, 0.1, 1.0, 10.0, 100.0]


def test_c_is_chosen_on_held_out_images_where_the_test_images_would_choose_another(overlapping: Problem):
    by_val, by_test = (accuracies(overlapping, part) for part in overlapping.split[1:])
    assert CANDIDATES[int(np.argmax(by_val))] == 0.1
    assert CANDIDATES[int(np.argmax(by_test))] == 100.0
    task, metrics = overlapping.run(measure="accuracy", svm_c=CANDIDATES)
    assert float(task.chosen_c) == pytest.approx(0.1)
    assert metrics["val/score"] == pytest.approx(max(by_val))


def test_of_several_equally_good_values_of_c_the_smallest_is_chosen(tmp_path: Path):
    problem = draw_overlapping(0, tmp_path)
    assert len(set(accuracies(problem, problem.split.val)[2:])) == 1  # 1, 10 and 100 are equally good
    assert problem.run(measure="accuracy", svm_c=CANDIDATES)[0].chosen_c == 1.0


@pytest.mark.parametrize(("patience", "chosen"), [(1, 0.1), (2, 0.1), (3, 100.0)])
def test_rising_c_is_given_up_after_so_many_values_without_gain(tmp_path: Path, patience, chosen):
    problem = draw_overlapping(7, tmp_path)
    scores = accuracies(problem, problem.split.val)
    assert scores[0] < scores[1] < scores[4]  # the best but for two values that are worse than 0.1's
    assert max(scores[2:4]) < scores[1]
    task, _ = problem.run(measure="accuracy", svm_c=CANDIDATES, patience=patience)
    assert float(task.chosen_c) == pytest.approx(chosen)


def test_test_images_have_no_say_in_the_machines(overlapping: Problem, tmp_path: Path):
    task, _ = overlapping.run(svm_c=CANDIDATES)
    vectors, presence = overlapping.vectors.clone(), overlapping.presence.clone()
    vectors[overlapping.split.test] *= -3
    presence[overlapping.split.test] *= -1
    other = Problem(vectors, presence, 50, 30, tmp_path)
    changed, _ = other.run(svm_c=CANDIDATES)
    assert all(torch.equal(value, changed.state_dict()[key]) for key, value in task.state_dict().items())


def test_the_order_in_which_values_of_c_are_given_does_not_matter(overlapping: Problem):
    rising, falling = (overlapping.run(svm_c=values)[0] for values in (CANDIDATES, CANDIDATES[::-1]))
    assert torch.equal(rising.coef, falling.coef)
    assert rising.chosen_c == falling.chosen_c


def test_the_final_machine_is_fitted_to_all_training_images_held_out_ones_included(overlapping: Problem):
    task, _ = overlapping.run(svm_c=CANDIDATES)
    train, rows = overlapping.training, unit(overlapping.vectors)
    expected = sklearn_scores(
        rows[train], overlapping.presence[train], rows[overlapping.split.test], float(task.chosen_c)
    )
    ours = rows[overlapping.split.test] @ task.coef.double().numpy().T + task.intercept.double().numpy()
    assert np.abs(ours - expected).max() < nearness(len(train), float(task.chosen_c)) + 1e-5
    without = sklearn_scores(
        rows[overlapping.split.train],
        overlapping.presence[overlapping.split.train],
        rows[overlapping.split.test],
        float(task.chosen_c),
    )
    assert np.abs(ours - without).max() > 1e-2


def test_it_is_the_estimators_machine_on_normalised_vectors_and_its_scores(overlapping: Problem):
    task, metrics = overlapping.run(svm_c=[2.0], positive_weight=3.0, bias_multiplier=2.0, loss="hinge")
    settings = {**MACHINE, "positive_weight": 3.0, "bias_multiplier": 2.0, "loss": "hinge"}
    rows = normalise(overlapping.vectors)
    machine = LinearSvm(svm_c=2.0, **settings).fit(
        rows[overlapping.training], overlapping.presence[overlapping.training]
    )
    assert torch.equal(task.coef, machine.coef_)
    assert torch.equal(task.intercept, machine.intercept_)
    test = overlapping.split.test
    scores = machine.decision_function(rows[test]).numpy()
    for name, column, signs in zip("abc", scores.T, overlapping.presence[test].T.numpy(), strict=True):
        assert metrics[f"test/ap/{name}"] == pytest.approx(eleven_points(column, signs), abs=1e-6)


def test_mean_ap_agrees_with_liblinear_and_scikit_learns_curve(overlapping: Problem):
    _, metrics = overlapping.run(svm_c=[1.0])
    train, test, rows = overlapping.training, overlapping.split.test, unit(overlapping.vectors)
    scores = sklearn_scores(rows[train], overlapping.presence[train], rows[test], 1.0)
    ap = [eleven_points(scores[:, k], overlapping.presence[test][:, k].numpy()) for k in range(3)]
    for column, signs in zip(scores.T, overlapping.presence[test].T.numpy(), strict=True):
        apart = np.abs(column[signs > 0][:, None] - column[signs < 0]).min()
        assert apart > 2 * nearness(len(train), 1.0)  # or their order would be a matter of luck
    assert metrics["test/score"] == pytest.approx(np.mean(ap), abs=1e-6)
    assert metrics["test/num_classes"] == 3


def test_an_image_of_difficult_objects_only_neither_trains_nor_counts_for_that_class(tmp_path: Path):
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels = (vectors[:, 0] > 0).long()
    presence = one_hot(labels, 2)
    plain = Problem(vectors, presence.clone(), 20, 0, tmp_path).run()
    presence[[3, 7, 25, 31], 0] = 0
    task, metrics = Problem(vectors, presence, 20, 0, tmp_path).run()
    assert not torch.equal(task.coef[0], plain[0].coef[0])
    assert torch.allclose(task.coef[1], plain[0].coef[1], atol=1e-5)  # the other class keeps these images
    kept = [row for row in range(20) if row not in (3, 7)]
    machine = LinearSvm(svm_c=1.0, **MACHINE).fit(normalise(vectors[kept]), presence[kept])
    assert torch.allclose(task.coef[0], machine.coef_[0], atol=1e-4)
    # Whatever the labels of left-out test images were, the AP is that of the others.
    tested = [row for row in range(20, 40) if row not in (25, 31)]
    scores = (normalise(vectors[tested]) @ task.coef.T + task.intercept).numpy()
    expected = eleven_points(scores[:, 0], presence[tested, 0].numpy())
    assert metrics["test/ap/a"] == pytest.approx(expected, abs=1e-6)


def test_a_class_nobody_shows_is_reported_and_left_out_of_the_mean(overlapping: Problem, tmp_path, caplog):
    presence = torch.cat([overlapping.presence, torch.full((150, 1), -1, dtype=torch.int8)], dim=1)
    with caplog.at_level(logging.WARNING, "sppnet.estimators.linear_svm"):
        task, metrics = Problem(overlapping.vectors, presence, 50, 30, tmp_path).run(svm_c=CANDIDATES)
    assert "class 3, svm_c=1: no positives" in caplog.text
    assert task.status == ["converged"] * 3 + ["no positives"]
    assert (task.coef[3] == 0).all()
    _, three = overlapping.run(svm_c=CANDIDATES)
    assert metrics["test/num_classes"] == 3
    assert metrics["test/score"] == three["test/score"]
    assert "test/ap/d" not in metrics


def test_a_class_shown_by_all_training_images_is_reported_and_still_tested(tmp_path: Path):
    vectors = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    presence = one_hot((vectors[:, 0] > 0).long(), 2)
    presence[:20, 1] = 1
    task, metrics = Problem(vectors, presence, 20, 0, tmp_path).run()
    assert task.status == ["converged", "no negatives"]
    assert metrics["test/num_classes"] == 2


def test_a_vector_of_zeros_stays_zero_and_others_get_length_one():
    rows = normalise(torch.tensor([[3.0, 4.0], [0.0, 0.0], [-1e-3, 0.0]]))
    assert torch.allclose(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))


def test_vectors_of_zeros_train_and_test_without_nan(overlapping: Problem, tmp_path: Path):
    vectors = overlapping.vectors.clone()
    vectors[[0, 60, 149]] = 0.0  # one that fits, one that chooses, one that tests
    task, metrics = Problem(vectors, overlapping.presence, 50, 30, tmp_path).run(svm_c=CANDIDATES)
    assert task.coef.isfinite().all()
    assert np.isfinite(list(metrics.values())).all()


def test_the_length_of_a_vector_does_not_matter(overlapping: Problem, tmp_path: Path):
    _, metrics = overlapping.run()
    _, longer = Problem(4 * overlapping.vectors, overlapping.presence, 50, 30, tmp_path).run()
    assert longer == metrics


def test_accuracy_is_the_mean_over_classes_and_overall_that_over_images(tmp_path: Path):
    """Class a: 3 of 4 test images right; class b: 1 of 1; class c: 0 of 1."""
    corners = torch.eye(3)
    shown = torch.tensor([0, 0, 0, 1, 1, 0])  # what the test vectors look like
    labels = torch.tensor([0, 0, 0, 0, 1, 2])  # what they are
    train = torch.arange(3).repeat(4)
    vectors = torch.cat([corners[train], corners[shown]])
    presence = one_hot(torch.cat([train, labels]), 3)
    _, metrics = Problem(vectors, presence, 12, 0, tmp_path).run(measure="accuracy")
    assert metrics["test/class_accuracy/a"] == pytest.approx(3 / 4)
    assert metrics["test/class_accuracy/b"] == 1.0
    assert metrics["test/class_accuracy/c"] == 0.0
    assert metrics["test/score"] == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert metrics["test/overall"] == pytest.approx(4 / 6)


def test_a_class_without_test_images_is_left_out_of_the_mean_accuracy(tmp_path: Path):
    corners, train, test = torch.eye(3), torch.arange(3).repeat(4), torch.tensor([0, 0, 1])
    vectors = torch.cat([corners[train], corners[torch.tensor([0, 2, 1])]])
    _, metrics = Problem(vectors, one_hot(torch.cat([train, test]), 3), 12, 0, tmp_path).run(
        measure="accuracy"
    )
    assert metrics["test/score"] == pytest.approx((1 / 2 + 1) / 2)
    assert metrics["test/num_classes"] == 2


def test_accuracy_of_images_of_several_classes_is_refused(tmp_path: Path):
    vectors = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    presence = one_hot(torch.arange(20) % 2, 2)
    presence[15] = 1
    with pytest.raises(DataError, match=r"transfer\.measure=average_precision"):
        Problem(vectors, presence, 10, 0, tmp_path).run(measure="accuracy")


def test_the_state_is_the_whole_machine(overlapping: Problem):
    task, metrics = overlapping.run(svm_c=CANDIDATES)
    restored = overlapping.task(svm_c=CANDIDATES)
    restored.load_state_dict(task.state_dict())
    (again,) = a_trainer().test(restored, datamodule=overlapping.data, verbose=False)
    assert again == {key: value for key, value in metrics.items() if key.startswith("test/")}
    assert again["test/score"] > 0.4  # that of a machine, not of zeros
    assert restored.chosen_c == task.chosen_c


def test_two_runs_are_bitwise_alike(overlapping: Problem):
    (first, one), (second, other) = (overlapping.run(svm_c=CANDIDATES) for _ in range(2))
    assert one == other
    assert all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def test_without_held_out_images_there_is_nothing_to_choose_c_with(overlapping: Problem, tmp_path: Path):
    problem = Problem(overlapping.vectors, overlapping.presence, 80, 0, tmp_path)
    with pytest.raises(ConfigError, match=r"transfer\.val_fraction or transfer\.per_class"):
        problem.run(svm_c=CANDIDATES)
    task, metrics = problem.run(svm_c=[0.5])
    assert task.chosen_c == 0.5
    assert "val/score" not in metrics


def test_held_out_images_that_show_nothing_cannot_choose_c(tmp_path: Path):
    vectors = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    presence = one_hot(torch.arange(20) % 2, 2)
    presence[10:14] = -1
    with pytest.raises(DataError, match="held-out"):
        Problem(vectors, presence, 10, 4, tmp_path).run(svm_c=CANDIDATES)


def test_no_value_of_c_and_an_unknown_measure_are_refused(overlapping: Problem):
    with pytest.raises(ConfigError, match=r"transfer\.svm_c is empty"):
        overlapping.task(svm_c=[])
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="svm_c"):
            overlapping.run(svm_c=[value])
