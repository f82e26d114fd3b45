"""A damaged file of ours is told in one line, whatever is in it: exit 4, or what it says is left out."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sppnet.data.targets import ShapesVocTarget
from sppnet.run.directory import sealed


def spoils(data: bytes) -> Iterator[bytes]:
    """What may be found in place of a file."""
    yield from (b"", b"{}", b"null", b"[]", b"\xff\xfe" + data, data[: len(data) // 2], bytes(len(data)))
    yield bytes(byte ^ 0x40 if number % 97 == 5 else byte for number, byte in enumerate(data))
    if data.startswith(b"{"):
        content = json.loads(data)
        yield from (
            json.dumps(dict.fromkeys(content, value)).encode() for value in (None, [], "x", -1, 1e999)
        )


LOOKED_AT = ("provenance.json", "config.yaml", "metrics.json", "COMPLETE")


@pytest.mark.parametrize(
    "name",
    [
        "table-*.json",
        *(pytest.param(f"pool-*/{name}", marks=pytest.mark.slow) for name in ("status.json", *LOOKED_AT)),
    ],
)
def test_the_verbs_that_look_tell_of_a_damaged_file(sppnet, capfd, detectors: Path, name: str):
    (file,) = (detectors / "table9").glob(name)
    data = file.read_bytes()
    for spoiled in spoils(data):
        file.write_bytes(spoiled)
        codes = [sppnet("status", "runs/table9"), sppnet("report", "runs/table9")]
        if file.parent.name != "table9":
            codes.append(sppnet("why", str(file.parent)))
        assert set(codes) <= {0, 4}
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        assert "nan" not in said.out.lower().split()


PARTS = (
    *(
        "detectors/*boxes*/boxes.safetensors",
        "detectors/*fc7*/svm.safetensors",
        "detectors/*fc7*/classes.json",
    ),
    *(
        "networks/*finetuned*/model.safetensors",
        "networks/*finetuned*/config.yaml",
        "networks/*/classes.json",
    ),
    *("table9/ftfc7*/config.yaml", "table9/ftfc7*/COMPLETE", "detectors/*fc7*/COMPLETE"),
)


@pytest.mark.parametrize(
    "name", [PARTS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in PARTS[1:])]
)
def test_a_detector_with_a_damaged_file_finds_nothing(
    sppnet, capfd, detectors: Path, tmp_path: Path, name: str
):
    (_, tested) = ShapesVocTarget("", str(tmp_path / "shapes"), num_images=2, seed=1).read_boxes()
    shutil.copy(tested.images[0].path, "photo.jpg")
    (run,) = (detectors / "table9").glob("ftfc7*")
    file = sorted(detectors.glob(name))[-1]
    for spoiled in list(spoils(file.read_bytes()))[:8]:
        file.write_bytes(spoiled)
        assert sppnet("detect", "photo.jpg", "--detector", str(run), "--no-pictures") == 4
        assert "Traceback" not in capfd.readouterr().err


def test_what_stands_on_a_run_that_cannot_begin_fails_for_its_reason(sppnet, capfd, tmp_path: Path, tiny):
    assert sppnet(*tiny, "training.epochs=1") == 0
    for marker in (tmp_path / "runs").glob("*/*/COMPLETE"):
        marker.unlink()
    (network,) = (tmp_path / "runs" / "networks").iterdir()
    (network / "provenance.json").unlink()
    (network / "config.yaml").write_text(sealed({"run": {"key": "0" * 64}}))
    capfd.readouterr()
    assert sppnet(*tiny, "training.epochs=1") == 4
    said = capfd.readouterr().err
    assert f"{network.name}/config.yaml: holds another configuration" in said
    assert "no trained network there" not in said
