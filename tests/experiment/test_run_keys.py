"""A run's key: what its stage reads, and nothing else; by content, and not by place."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from sppnet.experiment.compose import plain_of
from sppnet.experiment.contents import Contents
from sppnet.experiment.guarded_hydra import register
from sppnet.experiment.installation import conf_dir
from sppnet.experiment.layout import Cell
from sppnet.experiment.plan import PlannedRun, Planner, built_on
from sppnet.experiment.reading import deciding, leaves, narrowed, read_conf
from sppnet.experiment.stages import STAGES

MINI = "preset=mini"
DETECTION = ("experiment=table9", "detection=ftfc7_bb", "windows=spp_one", MINI)
CELLS = {
    "evaluation": ("experiment=table2", "setting=spp_single", MINI),
    "transfer": ("experiment=table7", "setting=spp_full", "layer=pool", "target=shapes", MINI),
    "detection": DETECTION,
    "rcnn": ("experiment=table10", "detection=ftfc7_bb", "windows=rcnn", MINI),
    "timing": ("experiment=table9", "detection=time", "windows=spp_one", MINI),
}
# What a part says of itself for others to read.
FACTS = "facts"


def composed(overrides: list[str] | tuple[str, ...]) -> DictConfig:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def planned(*overrides: str) -> dict[str, set[str]]:
    """The keys of a cell's runs, by stage."""
    cell = Planner(composed, "seed", Contents(Path("no-cache"))).cell(
        Cell(list(overrides), "r", "c", 0), labels={}
    )
    found: dict[str, set[str]] = {}
    for run in [*built_on([cell]), cell]:
        found.setdefault(run.plan.stage, set()).add(run.plan.key)
    return found


def changed(value: Any) -> Any:
    """Another value than this one; whether it is a sensible one does not matter here."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, "more"] if isinstance(value, list) else f"another {value}"


def with_value(plain: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy in which one key has another value."""
    first, _, rest = key.partition(".")
    return {**plain, first: with_value(plain[first], rest, value) if rest else value}


def is_read(key: str, reads: tuple[str, ...]) -> bool:
    def covers(name: str) -> bool:
        return key == name or key.startswith(f"{name}.")

    is_left_out = any(covers(name[1:]) for name in reads if name.startswith("-"))
    return any(map(covers, reads)) and not is_left_out and FACTS not in key.split(".")


EASES = {
    *("data.workers", "data.cache_gb", "data.max_pixels"),
    *(
        f"trainer.{name}"
        for name in ("devices", "threads", "keep_memory", "checkpoint_minutes", "every_steps")
    ),
}


@pytest.fixture(scope="module")
def configurations() -> dict[str, dict[str, Any]]:
    return {name: plain_of(composed(overrides)) for name, overrides in CELLS.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_is_in_its_key_and_what_it_does_not_read_is_not(stage: str, configurations):
    reads = STAGES[stage].reads
    for plain in configurations.values():
        before = deciding(narrowed(plain, reads), reads)
        for key, value in leaves(plain):
            after = deciding(narrowed(with_value(plain, key, changed(value)), reads), reads)
            counts = is_read(key, reads) and (key not in EASES or key in reads)
            assert (after != before) == counts, key


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_sees_nothing_that_could_be_missing_from_its_key(stage: str, configurations):
    reads = STAGES[stage].reads
    for plain in configurations.values():
        given = narrowed(plain, reads)
        for key, _ in leaves(given):
            easing = key in EASES or key.partition(".")[0] in ("data_loading", "paths", "logger")
            assert is_read(key, reads) or easing or FACTS in key.split("."), key


def test_a_whole_part_is_given_in_whatever_order_it_is_declared(configurations):
    reads = ("mining.mean_norm", "mining", "detection.layer", "detection")
    for order in itertools.permutations(reads):
        given = narrowed(configurations["detection"], order)
        assert given["mining"] == configurations["detection"]["mining"]
        assert given["detection"] == configurations["detection"]["detection"]


def test_reading_what_was_not_declared_names_the_row_to_change(configurations):
    conf = read_conf(narrowed(configurations["detection"], STAGES["machines"].reads))
    assert conf.mining.svm_c == 0.001
    with pytest.raises(AttributeError, match=r"BoxesConf|Conf\.boxes is not among what this stage reads"):
        _ = conf.boxes
    with pytest.raises(AttributeError, match=r"DetectionConf\.moved is not among .* row \(sppnet/experiment"):
        _ = conf.detection.moved


@pytest.mark.parametrize(
    "switch",
    [
        *("timing.num_images=7", "finetuning.num_steps=7", "finetuning.chunk_gb=7", "boxes.ridge=7"),
        *("view.size=96", "training.epochs=7"),
    ],
)
def test_pooled_windows_are_not_detected_again_for_what_they_do_not_depend_on(switch: str):
    pooled = ("experiment=table9", "detection=pool", "windows=spp_one", MINI)
    before, after = planned(*pooled), planned(*pooled, switch)
    assert (before == after) == (switch != "training.epochs=7")


def test_auto_and_the_device_that_it_chose_are_one_run():
    table2 = CELLS["evaluation"]
    assert planned(*table2, "trainer.accelerator=auto") == planned(*table2, "trainer.accelerator=cpu")
    assert planned(*table2, "trainer.accelerator=gpu") != planned(*table2, "trainer.accelerator=cpu")


@pytest.mark.parametrize("cell", ["transfer", "detection", "rcnn", "timing"])
def test_the_mean_of_a_target_is_a_matter_of_all_that_sees_its_images_and_not_of_the_network(cell: str):
    """Appendix A: 128 in all experiments on VOC 2007 and Caltech-101, of networks with a mean image."""
    before, after = planned(*CELLS[cell]), planned(*CELLS[cell], "target_mean=null")
    assert planned(*CELLS[cell], "target_mean=128.0") == before
    alike = {stage for stage in before if before[stage] == after[stage]}
    assert alike == {"network", "proposals"} & before.keys()


@pytest.mark.parametrize("experiment", ["table6", "table7", "table9"])
def test_public_weights_keep_the_mean_that_they_were_trained_with(experiment: str):
    assert plain_of(composed([f"experiment={experiment}"]))["target_mean"] == 128.0
    public = [f"experiment={experiment}_squeezenet", "paths.weights=DEFAULT"]
    assert plain_of(composed(public))["target_mean"] is None


def test_the_seed_of_regressors_counts():
    """They draw windows with it; their key did not hold it where the network was not trained."""
    assert planned(*DETECTION)["regressors"] != planned(*DETECTION, "seed=1")["regressors"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def keys_of(folder: Path) -> dict[str, set[str]]:
    return planned(MINI, "data=folder", f"data.root={folder}", "data.per_class=1")


def test_a_data_set_that_moved_is_the_same_one(pictures: Path, tmp_path: Path, monkeypatch):
    before = keys_of(pictures)
    shutil.copytree(pictures, tmp_path / "copy")
    pictures.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert keys_of(tmp_path / "copy") == keys_of(tmp_path / "moved") == keys_of(Path("./moved/")) == before


def test_other_pictures_under_the_same_path_are_another_data_set(pictures: Path):
    before = keys_of(pictures)
    (pictures / "cat" / ".DS_Store").write_text("no data")
    assert keys_of(pictures) == before
    picture = pictures / "cat" / "0.png"
    content = bytearray(picture.read_bytes())
    content[-20] ^= 1  # of the same length
    picture.write_bytes(content)
    swapped = keys_of(pictures)
    assert swapped["network"] != before["network"]
    (pictures / "cat" / "1.png").rename(pictures / "cat" / "7.png")
    assert keys_of(pictures)["network"] != swapped["network"]


def test_where_generated_images_lie_is_nothing_to_their_runs(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    assert planned(MINI, "data=shapes", f"data.root={tmp_path / 'a'}") == planned(MINI, "data=shapes")


def test_digests_are_kept_and_used_again(pictures: Path, tmp_path: Path, monkeypatch):
    import os

    for picture in pictures.rglob("*.png"):
        os.utime(picture, (1, 1))  # long enough ago that it cannot change within a tick of the clock
    first = Contents(tmp_path / "cache")
    named = first.of_folder(pictures, ())
    assert named["files"] == 6
    assert named["by"] == "content"
    assert not (tmp_path / "cache").exists()  # until something is going to run
    first.keep()
    monkeypatch.setattr("sppnet.experiment.contents.file_digest", None)  # nothing is read again
    assert Contents(tmp_path / "cache").of_folder(pictures, ()) == named


def test_names_and_sizes_count_where_reading_all_would_take_long(pictures: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sppnet.experiment.contents._MOST_BYTES", 10)
    named = Contents(tmp_path).of_folder(pictures, ())
    assert named["by"] == "names and sizes"
    (pictures / "cat" / "0.png").write_bytes(b"shorter")
    assert Contents(tmp_path).of_folder(pictures, ())["sha256"] != named["sha256"]


def test_links_in_circles_come_to_an_end(pictures: Path, tmp_path: Path):
    before = Contents(tmp_path).of_folder(pictures, ())
    (pictures / "cat" / "again").symlink_to(pictures)
    assert Contents(tmp_path).of_folder(pictures, ())["files"] == before["files"]


def runs_of(*overrides: str) -> list[PlannedRun]:
    cell = Planner(composed, "seed", Contents(Path("no-cache"))).cell(
        Cell(list(overrides), "r", "c", 0), labels={}
    )
    return [*built_on([cell]), cell]


def test_every_run_is_behind_all_it_stands_on():
    for overrides in CELLS.values():
        runs = runs_of(*overrides)
        for number, run in enumerate(runs):
            assert all(runs.index(one) < number for one in run.after)
