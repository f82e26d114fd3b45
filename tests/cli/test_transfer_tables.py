"""Tables 6 to 8 and their kin end to end: a network, its features of the target's images, SVMs on them."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.svm import LinearSVC
from torch.nn import functional
from torchvision.models import get_model

from sppnet.data.shapes import ShapesPool
from sppnet.data.targets import PoolTarget, ShapesVocTarget, draw_split

ONE_CELL = ("experiment=table7", "split=0", "setting=spp_crop", "layer=pool")
TARGET = ("target.reader.per_class=8", "transfer.per_class=5", "transfer.test_per_class=3", "jobs=1")
SCENES = ("experiment=short_side", "layer=pool", "target.num_images=80", "jobs=1")


@pytest.fixture
def tiny(tiny: tuple[str, ...], shapes_root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Generated targets are shared by the tests, as generated training images are."""
    monkeypatch.setenv("SPPNET_DATA", str(shapes_root))
    return tiny


@pytest.fixture
def swept(sppnet, tmp_path: Path, tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tmp_path/runs with two layers, two views and two splits of Table 7; computed once, then copied."""
    kept = tmp_path_factory.getbasetemp() / "swept-table7"
    if not kept.exists():
        sweep = ("experiment=table7", "split=0,1", "setting=spp_crop,spp_full", "layer=pool6,pool")
        assert sppnet(*sweep, *TARGET, *tiny) == 0
        shutil.copytree(tmp_path / "runs", kept)
    else:
        shutil.copytree(kept, tmp_path / "runs")
    return tmp_path / "runs"


def completed(runs: Path, part: str = "*") -> dict[str, int]:
    """When each run was completed."""
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob(f"{part}/*/COMPLETE")}


def shards(runs: Path) -> dict[str, int]:
    """When each file of features was written; reading one notes its use in the same place."""
    return {file.name: file.stat().st_ino for file in (runs / ".cache").glob("*/*.f32")}


def cells(runs: Path, table: str) -> dict[str, dict[str, Any]]:
    """Metrics of every cell, by row-column-repeat; without what depends on the clock."""
    return {
        path.parent.name.rpartition("-")[0]: {
            key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("seconds")
        }
        for path in sorted((runs / table).glob("*/metrics.json"))
    }


def test_layers_and_splits_share_one_network_and_one_extraction_a_view(swept: Path):
    assert len(cells(swept, "table7")) == 2 * 2 * 2
    assert len(completed(swept, "networks")) == 1
    extractions = [json.loads(path.read_text()) for path in swept.glob("features/*/metrics.json")]
    assert [found["features/num_images"] for found in extractions] == [80, 80]
    # The 6 x 6 level is a part of the pool: each image's pool is there once a view.
    entries = [json.loads(path.read_text()) for path in swept.glob(".cache/*/entry.json")]
    assert sorted(entry["identity"]["view"]["kind"] for entry in entries) == ["crop", "full"]
    assert {entry["kind"] for entry in entries} == {"pool"}
    sizes = [file.stat().st_size for file in swept.glob(".cache/*/*.f32")]
    assert sum(sizes) == 2 * 80 * 4 * entries[0]["dim"]


def test_a_second_command_computes_nothing_and_another_protocol_no_feature(sppnet, capfd, swept: Path, tiny):
    before, kept = completed(swept), shards(swept)
    assert sppnet(*ONE_CELL, *TARGET, *tiny) == 0
    assert "1 of 1 cells are complete" in capfd.readouterr().out
    assert sppnet(*ONE_CELL, *TARGET, *tiny, "logger=jsonl") == 0
    assert completed(swept) == before  # the logger decides nothing
    assert sppnet(*ONE_CELL, *TARGET, *tiny, "transfer.svm_c=[2.0]") == 0
    assert shards(swept) == kept
    after = completed(swept)
    assert {run: after[run] for run in before} == before
    assert len(after) == len(before) + 1  # the one cell


def test_another_short_side_is_another_extraction_by_the_same_network(sppnet, swept: Path, tiny):
    networks = completed(swept, "networks")
    scenes = ("target.num_images=12", "layer=pool6,pool", "jobs=1")
    assert sppnet("experiment=short_side", *scenes, *tiny) == 0
    assert len(cells(swept, "short_side")) == 2 * 2
    assert len(completed(swept, "features")) == 2 + 2
    assert completed(swept, "networks") == networks
    for cell in cells(swept, "short_side").values():
        assert 0 <= cell["val/score"] <= 1


def test_a_split_chooses_among_the_same_images_and_a_level_is_a_part_of_the_pool(swept: Path):
    found = cells(swept, "table7")
    channels = found["pool-spp_crop-split0"]["transfer/num_features"] / (36 + 9 + 4 + 1)
    assert found["pool6-spp_crop-split0"]["transfer/num_features"] == 36 * channels
    for cell in found.values():
        assert cell["test/num_images"] == 10 * 3
        assert cell["transfer/num_training_images"] == 10 * 5
        assert cell["test/num_classes"] == cell["test/all_classes"] == 10
        # As many test images of every class: both means are one.
        assert cell["test/score"] == pytest.approx(cell["test/overall"])


def zf5_pool(weights: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """ZF-5 up to its pyramid as Table 1 and the release have it, in plain PyTorch."""
    maps = (image[None] - 128) / weights[
        "input_norm.std"
    ]  # Appendix A: not the mean image it was trained with
    for number, (stride, padding) in enumerate([(2, 1), (2, 0), (1, 1), (1, 1), (1, 1)], start=1):
        name = f"backbone.trunk.conv{number}"
        maps = functional.conv2d(
            maps, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=padding
        ).relu()
        if number <= 2:  # 3 x 3 neighbours of the same channel, then 3 x 3 maxima that round up
            squares = functional.avg_pool2d(maps**2, 3, stride=1, padding=1)
            maps = functional.max_pool2d(maps / (1 + 5e-5 * squares) ** 0.75, 3, stride=2, ceil_mode=True)
    return torch.cat([functional.adaptive_max_pool2d(maps, n).flatten() for n in (6, 3, 2, 1)])


def central_square(path: Path, side: int) -> torch.Tensor:
    """The short side becomes `side` by area average or bicubic interpolation; the middle is cut out."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = side / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    if scale < 1:
        image = image.resize((width, height), Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if scale > 1:
        pixels = functional.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True)[0]
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side].float()


def test_a_cells_score_is_that_of_plain_pytorch_and_liblinear(sppnet, swept: Path, shapes_root: Path, tiny):
    shutil.rmtree(swept / "table7")
    one_cell = ("experiment=table7", "split=1", "setting=spp_crop", "layer=pool")
    # The features are there; SVMs of the usual tolerance leave more images undecided.
    assert sppnet(*one_cell, *TARGET, *tiny, "transfer.tolerance=1e-9") == 0
    (cell,) = cells(swept, "table7").values()
    target = PoolTarget("shapes", str(shapes_root), ShapesPool(per_class=8, seed=1)).read()
    (network,) = swept.glob("networks/*/model.safetensors")
    weights = {name: value.double() for name, value in load_file(network).items()}
    vectors = torch.stack([zf5_pool(weights, central_square(path, 120).double()) for path in target.paths])
    rows = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    split = draw_split(target, per_class=5, test_per_class=3, val_fraction=0.33, split=1)
    train, labels = torch.cat([split.train, split.val]), target.presence.argmax(dim=1).numpy()
    machine = LinearSVC(C=cell["svm_c"], dual=True, tol=1e-9, max_iter=100_000, random_state=0)
    machine.fit(rows[train], labels[train])

    signs = np.where(labels[train][:, None] == np.arange(10), 1, -1)
    losses = np.maximum(0, 1 - signs * machine.decision_function(rows[train])) ** 2
    norms = (machine.coef_**2).sum(axis=1) + machine.intercept_**2
    # Half the squared distance of the weights is at most the gap, and rows of length 1 with their constant
    # have a length of 2 ** 0.5. Vectors in float32 move a score by less than a millionth.
    distance = (2e-9 * (0.5 * norms + cell["svm_c"] * losses.sum(axis=0)).max()) ** 0.5
    near = 2**0.5 * distance + 1e-6
    (file,) = swept.glob("table7/*/svm.safetensors")
    coef, intercept = (load_file(file)[name].double().numpy() for name in ("coef", "intercept"))
    expected = machine.decision_function(rows[split.test])
    assert np.abs(rows[split.test] @ coef.T + intercept - expected).max() < near < 0.01 * expected.std()
    # The vectors of a network this small put some images between two classes: the last bits choose one.
    second, first = np.sort(expected, axis=1)[:, -2:].T
    is_right, is_sure = expected.argmax(axis=1) == labels[split.test], first - second > 2 * near
    assert is_sure.sum() >= 28
    num_right = cell["test/score"] * len(is_right)
    assert (is_right & is_sure).sum() - 1e-3 < num_right < (is_right | ~is_sure).sum() + 1e-3


def test_table_6_counts_the_classes_that_its_test_images_show(sppnet, swept: Path, tiny, shapes_root: Path):
    # The untrained network is a network of its own: ours is looked at, and left as it is.
    table6 = ("experiment=table6", "setting=spp_full", "layer=pool,random_pool", "jobs=1")
    assert sppnet(*table6, "target.num_images=12", *tiny) == 0
    target = ShapesVocTarget("", str(shapes_root), num_images=12, seed=1).read()
    assert target.is_test is not None
    shown = (target.presence[target.is_test] > 0).any(dim=0)
    assert 0 < shown.sum() < len(shown)
    found = cells(swept, "table6")
    for cell in found.values():
        assert cell["test/all_classes"] == len(shown)
        assert cell["test/num_classes"] == shown.sum()
        ap = {key.rpartition("/")[2]: value for key, value in cell.items() if key.startswith("test/ap/")}
        assert list(ap) == [name for name, is_shown in zip(target.classes, shown, strict=True) if is_shown]
        assert cell["test/score"] == pytest.approx(sum(ap.values()) / len(ap))
    assert "train/steps" in found["pool-spp_full-seed0"]
    assert "train/steps" not in found["random_pool-spp_full-seed0"]
    assert len(completed(swept, "networks")) == 2


@pytest.mark.slow
def test_a_killed_extraction_keeps_its_shards_and_ends_in_the_same_metrics(sppnet, start, swept: Path, tiny):
    arguments = (*SCENES, "features.short_side=300", *tiny)
    process = start(*arguments)
    before = shards(swept)
    while shards(swept) == before:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {name: ino for name, ino in shards(swept).items() if name not in before}
    assert len(kept) == 1  # of the two that 80 images make
    assert not cells(swept, "short_side")

    assert sppnet(*arguments) == 0
    (resumed,) = cells(swept, "short_side").values()
    (extraction,) = [json.loads(path.read_text()) for path in swept.glob("features/*full300*/metrics.json")]
    assert extraction["features/shards_reused"] == extraction["features/shards_computed"] == 1
    assert shards(swept).items() >= kept.items()

    for folder in (".cache", "features", "short_side"):
        shutil.rmtree(swept / folder)
    assert sppnet(*arguments) == 0
    assert cells(swept, "short_side") == {next(iter(cells(swept, "short_side"))): resumed}


MISTAKES = [
    (
        2,
        ["experiment=table6", "layer=pool", "target=voc2007"],
        "paths.data is missing: give the folder that holds VOC",
    ),
    (3, ["experiment=table6", "target=voc2007", "paths.data=nowhere"], "paths.data=nowhere: no such dir"),
    (2, ["experiment=table7", "transfer.svm_c=[]"], "transfer.svm_c=[]: must be a list of positive numbers"),
    (2, ["experiment=table7", "transfer.svm_c=[abc]"], "transfer.svm_c=['abc']: must be a list of positive"),
    (2, ["target=shapes"], "add transfer=svm"),
    (2, ["transfer=svm"], "target=none: choose what to transfer to"),
    (2, ["experiment=table7", "transfer.svm_c=[-1]"], "transfer.svm_c=[-1]: must be a list of positive"),
    (2, ["experiment=short_side", "features.view=fall"], "features.view=fall: must be crop, full or warp"),
    (2, ["experiment=table7", "features.view=warp"], "features is what setting=no_spp_crop chooses"),
    (2, ["experiment=table7", "transfer.per_class=0"], "transfer.per_class=0"),
    (2, ["experiment=table7", "transfer.val_fraction=1"], "transfer.val_fraction=1"),
    (2, ["experiment=table7", "transfer.levl=6"], "levl"),
    (2, ["experiment=table7", "split=-1"], "split=-1"),
    (2, ["trained=false"], "its features can"),
    (
        3,
        ["experiment=table6_squeezenet", "paths.data=.", "paths.weights=nofile.safetensors"],
        "paths.weights=nofile.safetensors: no such file",
    ),
]


@pytest.mark.parametrize(("code", "arguments", "said"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_line_and_nothing_is_written(sppnet, capfd, tmp_path: Path, code, arguments, said):
    assert sppnet(*arguments, "logger=none") == code
    message = capfd.readouterr().err.strip()
    assert said in message
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []


def test_maps_of_full_images_are_refused_with_what_to_do(sppnet, capfd, swept: Path, tiny):
    assert sppnet(*SCENES, "layer=conv5", "features.short_side=124", *tiny) == 2
    message = capfd.readouterr().err
    assert "the maps of full images differ in size and cannot be flattened; use features=crop" in message
    assert "Traceback" not in message


def test_a_level_is_of_the_pool_only_and_of_this_pyramid(sppnet, capfd, swept: Path, tiny):
    side = "features.short_side=124"
    assert sppnet(*SCENES, side, "transfer.layer=fc6", "transfer.level=6", *tiny) == 2
    assert "transfer.level=6: a level is a part of transfer.layer=pool, not of fc6" in capfd.readouterr().err
    assert sppnet(*SCENES, side, "transfer.layer=pool", "transfer.level=5", *tiny) == 2
    assert "transfer.level=5: no level of pyramid.levels=[6, 3, 2, 1]" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "table", "num_cells"),
    [
        (["experiment=warp", "split=0", *TARGET], "warp", 2),
        (["experiment=lowshot", "split=0,1", "layer=pool", *TARGET, "transfer.per_class=1,2"], "lowshot", 4),
        (["experiment=table8", "split=0", "setting=best_of_shapes_voc,best_of_shapes"], "table8", 2),
        (
            ["experiment=table7", "split=0", "setting=no_spp_crop", "layer=conv4,conv5,fc6", *TARGET],
            "table7",
            3,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_the_other_transfer_tables_run(sppnet, tmp_path: Path, tiny, arguments, table: str, num_cells: int):
    assert sppnet(*arguments, "jobs=1", *tiny) == 0
    found = cells(tmp_path / "runs", table)
    assert len(found) == num_cells
    for cell in found.values():
        assert 0 <= cell["test/score"] <= 1
        assert cell["test/num_classes"] == 10


@pytest.fixture
def squeezenet_file(tmp_path: Path) -> Path:
    """Weights as torchvision's are, but random."""
    torch.manual_seed(0)
    save_file(get_model("squeezenet1_1", weights=None).state_dict(), tmp_path / "squeezenet.safetensors")
    return tmp_path / "squeezenet.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["table6_squeezenet", "table7_squeezenet"])
def test_the_tables_of_a_network_with_given_weights_train_nothing(
    sppnet, tmp_path: Path, tiny, squeezenet_file: Path, experiment: str
):
    target = (
        ("target=shapes", *TARGET, "split=0")
        if "7" in experiment
        else ("target=shapes_voc", "target.num_images=24")
    )
    axes = ("layer=conv4,pool6,pool,random_pool_squeezenet", "features=crop,full")
    given = (f"paths.weights={squeezenet_file}", "preset=pretrained", "image.transfer_side=140")
    runs = tmp_path / "runs"
    arguments = (f"experiment={experiment}", *axes, *target, "jobs=1", *tiny, *given)
    assert sppnet(*arguments) == 0
    found = cells(runs, experiment)
    assert len(found) == 2 * 2 + 1 + 1  # Fire 8 and the untrained pool have one view each
    assert not any("train/steps" in cell for cell in found.values())
    assert len(completed(runs, "networks")) == 2
    assert len(completed(runs, "features")) == 3

    # Other weights under the same name are another network.
    torch.manual_seed(1)
    save_file(get_model("squeezenet1_1", weights=None).state_dict(), squeezenet_file)
    assert sppnet(*arguments, "layer=pool", "features=crop") == 0
    assert len(completed(runs, "networks")) == 3
    assert len(completed(runs, experiment)) == len(found) + 1


def test_a_sweep_of_ones_own_shows_what_its_svms_measured(sppnet, capfd, tmp_path: Path, tiny):
    sweep = ("transfer=svm", "target=shapes", "layer=pool", "features.short_side=120,124", "table.name=own")
    assert sppnet(*sweep, *TARGET, *tiny) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "SVMs' accuracy (%)" in text
    assert "not measured" not in text
    assert "paper" not in text.partition("SVMs' accuracy")[2]
