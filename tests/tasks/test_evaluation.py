"""The score of an image, and of several networks."""

import json
from pathlib import Path

import pytest
import torch

from sppnet.data.records import ViewBatch
from sppnet.errors import ConfigError
from sppnet.tasks.evaluation import EvaluationTask, Scores, average_scores, error_rates, read_scores


class GivenScores:
    """A view that says what it was told to: two views of each image."""

    short_sides = (1,)
    num_views = 2
    is_square = True

    def __init__(self, scores):
        self.scores = scores

    def cut(self, image):
        return image[None]

    def softmax(self, net, images):
        return self.scores[images[0][:, 0, 0, 0, 0].long()]


def test_the_score_of_an_image_is_the_mean_of_its_views_softmax(small_net):
    scores = torch.tensor([[[0.9, 0.1, 0.0], [0.1, 0.7, 0.2]], [[0.6, 0.3, 0.1], [0.1, 0.8, 0.1]]])
    task = EvaluationTask(net=small_net, view=GivenScores(scores))
    for index in (1, 0):  # out of order, as stacks of like images come
        images = (torch.full((1, 1, 3, 1, 1), index, dtype=torch.uint8),)
        task.test_step(ViewBatch(images, torch.tensor([index]), torch.tensor([index])), 0)
    mean, labels = task.scores()
    assert torch.allclose(mean, torch.tensor([[0.5, 0.4, 0.1], [0.35, 0.55, 0.1]]))
    assert labels.tolist() == [0, 1]
    # The argmax of either view alone would be wrong once: the mean is right twice.
    assert error_rates(Scores(mean, labels))["top1_error"] == 0.0


def test_an_ensemble_of_a_network_with_itself_changes_nothing():
    tested = Scores(torch.tensor([[0.2, 0.8], [0.6, 0.4]]), torch.tensor([1, 1]))
    assert torch.equal(average_scores([tested, tested, tested]).scores, tested.scores)


def test_an_ensemble_can_be_right_where_its_members_are_wrong():
    labels = torch.tensor([2])
    members = [
        Scores(torch.tensor([[0.5, 0.0, 0.4]]), labels),
        Scores(torch.tensor([[0.0, 0.5, 0.4]]), labels),
    ]
    assert [error_rates(member)["top1_error"] for member in members] == [1.0, 1.0]
    assert error_rates(average_scores(members))["top1_error"] == 0.0


def test_members_tested_on_other_images_are_refused():
    first = Scores(torch.rand(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="member 2 was tested on"):
        average_scores([first, Scores(torch.rand(2, 3), torch.tensor([1, 0]))])
    with pytest.raises(ConfigError, match="needs one network or more"):
        average_scores([])


def cells(tmp_path: Path, table: str) -> dict[str, dict]:
    return {
        path.parent.name.rpartition("-seed")[0]: json.loads(path.read_text())
        for path in (tmp_path / "runs" / table).glob("*/metrics.json")
    }


def networks(tmp_path: Path) -> dict[str, int]:
    return {
        path.parent.name: path.stat().st_mtime_ns
        for path in (tmp_path / "runs" / "networks").glob("*/COMPLETE")
    }


def test_tables_3_and_4_look_at_table_2s_networks_and_train_none(sppnet, tmp_path: Path, tiny):
    assert sppnet("experiment=table2", "backbone=overfeat7", "setting=spp_multi", "jobs=1", *tiny) == 0
    before = networks(tmp_path)
    assert sppnet("experiment=table3", "backbone=overfeat7", "train_sizes=multi", "jobs=1", *tiny) == 0
    assert sppnet("experiment=table4", "jobs=1", *tiny) == 0
    assert networks(tmp_path) == before
    assert {name: metrics["test/num_views"] for name, metrics in cells(tmp_path, "table4").items()} == {
        "full-result": 1,
        "ten_crop-result": 10,
        "ten_map-result": 10,
        "windows_only-result": 2 * 18 + 6,
        "many_views-result": 2 * 18 + 6 + 2,
    }
    ten = cells(tmp_path, "table2")["spp_multi-overfeat7"]
    assert cells(tmp_path, "table4")["ten_crop-result"]["test/top1_error"] == ten["test/top1_error"]


def test_a_view_too_small_for_the_network_names_the_smallest_side(sppnet, capfd, tiny):
    assert sppnet("view=full", "view.short_side=40", *tiny) == 2
    said = capfd.readouterr().err
    assert "images of 40 pixels are too small: ZF-5 with pyramid.levels=[6, 3, 2, 1] needs >= 111" in said


def test_the_ensemble_of_table_5_is_the_mean_of_its_members(sppnet, capfd, tmp_path: Path, tiny):
    members = "ensemble=[['backbone=zf5'],['backbone=zf5','seed=5']]"
    assert sppnet("view=full", "table.name=both", members, "jobs=1", *tiny) == 0
    (ensemble,) = [path for path in (tmp_path / "runs" / "both").iterdir() if path.is_dir()]
    runs = sorted((tmp_path / "runs" / "evaluations").iterdir())
    assert len(runs) == 2
    expected = average_scores([read_scores(run) for run in runs])
    assert torch.equal(read_scores(ensemble).scores, expected.scores)
    metrics = json.loads((ensemble / "metrics.json").read_text())
    assert metrics["test/top1_error"] == pytest.approx(error_rates(expected)["top1_error"])

    capfd.readouterr()
    assert sppnet("ensemble", *map(str, runs), "--json") == 0
    said = json.loads(capfd.readouterr().out)
    assert said["ensemble"]["top1_error"] == pytest.approx(metrics["test/top1_error"])
    assert len(said["members"]) == 2
    assert sppnet("ensemble", str(tmp_path / "nowhere")) == 3
    assert sppnet("ensemble", str(tmp_path / "runs")) == 4
