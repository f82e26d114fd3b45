"""The verbs that look: at data, at kernels."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of five images each."""
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.jpg")
    return tmp_path / "images"


def test_data_show_counts_classes_and_images(sppnet, capfd, folder: Path):
    assert sppnet("data", "show", "data=folder", f"data.root={folder}", "data.per_class=3") == 0
    assert "2 classes; 4 train, 2 held out, 4 test images" in capfd.readouterr().out


def test_data_verify_names_every_bad_file_and_what_is_wrong(sppnet, capfd, folder: Path):
    whole = (folder / "cat" / "0.jpg").read_bytes()
    (folder / "cat" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "3.jpg").write_bytes(b"")
    assert sppnet("data", "verify", "data=folder", f"data.root={folder}", "data.per_class=3") == 3
    said = capfd.readouterr().err
    assert str(folder / "cat" / "0.jpg") in said
    assert str(folder / "dog" / "3.jpg") in said
    assert "Traceback" not in said


def test_data_takes_the_same_overrides_and_explains_the_same_mistakes(sppnet, capfd):
    assert sppnet("data", "show", "data=foldr") == 2
    assert "did you mean folder" in capfd.readouterr().err
    assert sppnet("data", "show", "data=folder") == 2
    assert "data.root" in capfd.readouterr().err


def test_bench_prints_both_sides(sppnet, capfd):
    assert sppnet("bench", "pyramid", "--json") == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert row["ours_ms"] > 0
    assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])


def test_bench_knows_its_rows(sppnet, capfd):
    with pytest.raises(SystemExit) as stop:
        sppnet("bench", "warp-drive")
    assert stop.value.code == 2
    assert "warp-drive" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        (">&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        ("> /dev/full", 6, "standard output, or the current folder: No space left on device"),
        ("> /dev/full 2>&1", 6, ""),
        ("| head -c 1; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_a_stream_that_is_closed_or_full_is_no_traceback(tmp_path: Path, streams: str, code: int, said: str):
    command = f"{sys.executable} -m sppnet.cli.main --help {streams}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_files_do_not_get_the_numbers_of_streams_that_were_closed(tmp_path: Path):
    code = (
        "import os, sppnet.cli.main as m; m._open_streams(); "
        "print(os.open('/dev/null', 0), file=open('n', 'w'))"
    )
    subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" >&- 2>&- <&-'], cwd=tmp_path, check=True)
    assert int((tmp_path / "n").read_text()) > 2
