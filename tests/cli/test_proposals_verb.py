"""`sppnet proposals`: what a source covers of an image set, kept on disk."""

from pathlib import Path

import pytest

from sppnet.data.shapes import build_shapes


@pytest.fixture
def scenes(shapes_root: Path) -> Path:
    return build_shapes(shapes_root, per_class=1, test_per_class=1, detection_images=4, seed=2)


def test_proposals_are_computed_once_and_their_recall_is_printed(sppnet, capfd, tmp_path: Path, scenes):
    arguments = ("proposals", "test", "proposals=edge_boxes", f"paths.data={scenes}", "--jobs", "1")
    assert sppnet(*arguments) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("test: 2 images, ")
    assert said[1].startswith("recall at IoU 0.5: ")
    inodes = {path: path.stat().st_ino for path in (tmp_path / "runs/.cache").glob("*/*.boxes")}
    assert len(inodes) == 2
    assert sppnet(*arguments) == 0
    assert capfd.readouterr().out.splitlines()[:4] == said[:4]
    assert {path: path.stat().st_ino for path in (tmp_path / "runs/.cache").glob("*/*.boxes")} == inodes


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["test"], 2, "paths.data is missing"),
        (["test", "paths.data=nowhere"], 3, "paths.data=nowhere"),
        (["test", "proposals=edgeboxes", "paths.data=."], 2, "did you mean edge_boxes"),
        (["test", "proposals=mat", "paths.data=."], 2, "proposals.paths"),
        (["test", "paths.data=.", "--first", "0"], 2, "--first=0: must be 1 or more"),
    ],
)
def test_mistakes_are_one_line(sppnet, capfd, tmp_path: Path, arguments, code, said):
    assert sppnet("proposals", *arguments) == code
    message = capfd.readouterr().err.strip()
    assert said in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
