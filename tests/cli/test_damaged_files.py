"""A damaged file of ours is told in one line, whatever is in it: exit 4, or what it says is left out."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sppnet.artifacts import file_digest, read_json, write_json
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


FORGED = {
    "whole numbers": lambda value: value.to(torch.int8),
    "complex": lambda value: value.to(torch.complex64),
    "flat": lambda value: value.reshape(-1),
    "none": lambda value: value[:0],
    "one": lambda value: torch.tensor(1.0),
    "turned": lambda value: value.transpose(0, -1).contiguous(),
    "NaN": lambda value: torch.full_like(value, torch.nan),
    "infinite": lambda value: torch.full_like(value, torch.inf),
}


@pytest.mark.parametrize(("file", "key"), [("svm", "coef"), ("boxes", "weights")])
@pytest.mark.parametrize(
    "how", [list(FORGED)[0], *(pytest.param(how, marks=pytest.mark.slow) for how in list(FORGED)[1:])]
)
def test_a_detector_whose_marker_vouches_for_what_it_cannot_be_finds_nothing(
    sppnet, capfd, detectors: Path, tmp_path: Path, file: str, key: str, how: str
):
    (_, tested) = ShapesVocTarget("", str(tmp_path / "shapes"), num_images=2, seed=1).read_boxes()
    shutil.copy(tested.images[0].path, "photo.jpg")
    (run,) = (detectors / "table9").glob("ftfc7*")
    path = min(detectors.glob(f"detectors/*/{file}.safetensors"), key=lambda one: "finetuned" not in str(one))
    tensors = load_file(path)
    save_file({**tensors, key: FORGED[how](tensors[key])}, path)
    marker = read_json(path.parent / "COMPLETE")
    marker["files"][path.name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    write_json(path.parent / "COMPLETE", marker)
    code = sppnet("detect", "photo.jpg", "--detector", str(run), "--no-pictures")
    assert code == (5 if how == "infinite" else 4)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert how == "infinite" or str(path) in said


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


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) * 3 // 5] ^= 0x40
    file.write_bytes(data)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


SPOIL = {
    "flip": flip,
    "truncate": lambda file: os.truncate(file, file.stat().st_size // 2),
    "remove": Path.unlink,
    "folder": replace_by_folder,
}
CELL = "table9/ftfc7*"
HEALED = (
    *(f"networks/*{name}" for name in ("seed0-????????/model.safetensors", "finetuned-*/model.safetensors")),
    *("networks/*/classes.json", "networks/*/config.yaml", "networks/*/provenance.json"),
    *("detectors/*fc7*/svm.safetensors", "detectors/*boxes*/boxes.safetensors", "detectors/*/metrics.json"),
    *(f"{CELL}/detections.safetensors", f"{CELL}/results/*heart.txt", f"{CELL}/metrics.json"),
    *(f"{CELL}/config.yaml", f"{CELL}/COMPLETE", "table9/table-*.json"),
    *(f".cache/*/{name}" for name in ("*.safetensors", "*.boxes", "entry.json")),
)
FAST = (
    ("table9/table-*.json", "flip"),
    (f"{CELL}/metrics.json", "truncate"),
    (f"{CELL}/config.yaml", "folder"),
)


def results(runs: Path) -> dict[str, bytes]:
    """What a table's numbers are made of, but for times; and which files there are."""
    digests = {".safetensors", ".f32", ".boxes", ".txt"}
    found = {}
    for file in runs.rglob("*"):
        if file.is_file() and not {".locks", "digests"} & {*file.parts}:
            data = file.read_bytes() if file.suffix in digests else b""
            if file.name == "metrics.json":
                metrics = json.loads(file.read_text())
                data = json.dumps({key: one for key, one in metrics.items() if "second" not in key}).encode()
            found[str(file.relative_to(runs))] = data
    return found


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *FAST,
        *(
            pytest.param(name, how, marks=pytest.mark.slow)
            for name in HEALED
            for how in SPOIL
            if (name, how) not in FAST
        ),
    ],
)
def test_the_same_command_makes_damage_good(
    sppnet, capfd, detectors: Path, table9: tuple[str, ...], name: str, how: str
):
    before = results(detectors)
    file = max(detectors.glob(name), key=lambda one: one.stat().st_size)
    SPOIL[how](file)
    if name.startswith(".cache"):  # what is read of it is to be made again
        for folder in ("table9", "maps", "proposals", "detectors"):
            shutil.rmtree(detectors / folder)
    capfd.readouterr()
    code = sppnet(*table9)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert str(file) in said or how == "remove" or file.suffix == ".json" or file.name == "COMPLETE"
    if how == "folder":
        assert code in (6, 7)
        assert "a folder where a file belongs; move it away" in said
        file.rmdir()
        code = sppnet(*table9)
    assert code == 0
    assert results(detectors) == before


def test_a_complete_table_is_printed_though_nothing_can_be_written(
    sppnet, capfd, detectors: Path, table9: tuple[str, ...]
):
    replace_by_folder(detectors / "table9" / ".lock")
    (file,) = detectors.glob("table9/table-*.json")
    written = file.stat().st_mtime_ns
    assert sppnet(*table9) == 0
    assert "mAP (%)" in capfd.readouterr().out
    assert file.stat().st_mtime_ns == written
