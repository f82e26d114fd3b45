import json

import pytest

from sppnet.run.progress import how_it_ended


def _written(directory, rows):
    (directory / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    return how_it_ended(directory)


def _epochs(losses):
    return [{"end_of_epoch": 1, "train/loss": loss, "val/top1_error": loss / 10} for loss in losses]


def test_the_end_of_a_training_is_its_last_tenth_against_the_tenth_before(tmp_path):
    rows = [{"train/loss": 99.0}, *_epochs([9.0] * 16 + [2.0, 2.0, 1.5, 1.3])]
    ended = _written(tmp_path, rows)
    assert ended == pytest.approx({"final_loss": 1.4, "late_fall": 0.3, "val/top1_error": 0.13})


def test_a_loss_that_stands_still_or_rises_does_not_fall(tmp_path):
    assert _written(tmp_path, _epochs([2.0] * 10))["late_fall"] == 0
    assert _written(tmp_path, _epochs([2.0] * 8 + [2.2] * 2))["late_fall"] == pytest.approx(-0.1)


def test_both_sizes_of_a_multi_size_training_are_in_both_parts(tmp_path):
    assert _written(tmp_path, _epochs([2.0, 1.0] * 15))["late_fall"] == 0


def test_few_epochs_are_seen_by_their_steps(tmp_path):
    steps = [{"train/loss": loss} for loss in (4.0, 4.0, 3.0, 1.0)]
    assert _written(tmp_path, [*steps, *_epochs([3.0])])["late_fall"] == pytest.approx(0.5)
