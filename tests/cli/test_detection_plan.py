"""Which runs a cell of detection builds on, what makes them run again, and what is refused."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from scipy.io import savemat

from sppnet.errors import ConfigError, DataError
from sppnet.experiment.compose import plain_of
from sppnet.experiment.contents import Contents
from sppnet.experiment.guarded_hydra import register
from sppnet.experiment.installation import conf_dir
from sppnet.experiment.layout import Cell
from sppnet.experiment.plan import Planner, built_on

FULL = ("experiment=table9", "detection=ftfc7_bb", "windows=spp_one", "preset=mini")


def composed(overrides: list[str] | tuple[str, ...]) -> DictConfig:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def plan(*overrides: str) -> dict[str, set[str]]:
    """The directories of a cell and of all it builds on, by stage."""
    planner = Planner(composed, "seed", Contents(Path()))
    cell = planner.cell(Cell(list(overrides), "r", "c", 0), labels={})
    found: dict[str, set[str]] = {}
    for run in (cell, *built_on([cell])):
        found.setdefault(run.plan.stage, set()).add(run.directory.path.name)
    return found


@pytest.fixture(scope="module")
def full() -> dict[str, set[str]]:
    return plan(*FULL)


def changed(before: dict[str, set[str]], after: dict[str, set[str]]) -> set[str]:
    return {stage for stage in before if before[stage] != after.get(stage)}


def test_a_full_cell_builds_on_every_stage(full):
    assert {stage: len(runs) for stage, runs in full.items()} == {
        "network": 1,
        "proposals": 2,  # trainval, test
        "maps": 2,
        "finetuning": 1,
        "machines": 1,
        "regressors": 1,
        "detection": 1,
    }


CELL = {"detection"}
ALL_BUT_NETWORK = {"proposals", "maps", "finetuning", "machines", "regressors", "detection"}
SWITCHES: list[tuple[list[str], set[str]]] = [
    (["mining.svm_c=0.01"], {"machines", *CELL}),
    (["mining.negative_overlap=0.2"], {"machines", *CELL}),
    (["mining.norm_images=100"], {"finetuning", "machines", "regressors", *CELL}),
    (["boxes.ridge=4000"], {"regressors", *CELL}),
    (["boxes.min_overlap=0.6"], {"regressors", *CELL}),
    (["suppression.max_overlap=0.4"], CELL),
    (["suppression.score_above=-2"], CELL),
    (["suppression.max_per_image=50"], CELL),
    (["finetuning.num_steps=7"], {"finetuning", "machines", *CELL}),
    (["head.dropout=0.2"], {"network", *ALL_BUT_NETWORK} - {"proposals"}),
    (["training.epochs=7"], {"network", *ALL_BUT_NETWORK} - {"proposals"}),
    (["proposals=edge_boxes"], ALL_BUT_NETWORK - {"maps"}),
    (["proposals.max_proposals=100"], ALL_BUT_NETWORK - {"maps"}),
    (["+proposals@test_proposals=edge_boxes"], {"proposals", *CELL}),
    (["target.num_images=20"], ALL_BUT_NETWORK),
    (["windows.mapping=release"], {"finetuning", "machines", "regressors", *CELL}),
    (["timing.num_images=7", "view.size=96", "preset=mini", "split=3", "data.test_per_class=7"], set()),
    (["data_loading.max_pixels=1000000", "trainer.threads=2", "logger=none", "jobs=1"], set()),
]


@pytest.mark.parametrize(("switches", "stages"), SWITCHES, ids=lambda value: " ".join(sorted(value)) or "-")
def test_a_switch_makes_run_again_what_it_matters_to_and_nothing_else(full, switches, stages):
    assert changed(full, plan(*FULL, *switches)) == stages


def test_one_proposals_run_of_two_is_new_where_testing_has_its_own(full):
    both = plan(*FULL, "+proposals@test_proposals=edge_boxes")
    assert len(full["proposals"] & both["proposals"]) == 1


def test_fine_tuning_with_mirrored_images_wants_their_maps(full):
    flipped = plan(*FULL, "finetuning.flip=true")
    assert changed(full, flipped) == {"maps", "finetuning", "machines", *CELL}
    assert full["maps"] < flipped["maps"]
    assert len(flipped["maps"]) == 3


def test_five_scales_take_the_maps_of_one_from_where_they_are():
    sides = "protocol.scales=[308,370,442,556,772]"
    one, five = (plan(*FULL, f"windows={name}", sides) for name in ("spp_one", "spp_five"))
    assert one["maps"] < five["maps"]
    assert len(five["maps"]) == 2 * 5
    assert changed(one, five) == {"maps", "finetuning", "machines", "regressors", *CELL}


def test_pooled_windows_need_no_fine_tuning_and_r_cnn_no_maps():
    pooled = plan(*FULL, "detection=pool")
    assert pooled.keys() == {"network", "proposals", "maps", "machines", "detection"}
    rcnn = plan(*FULL, "experiment=table10", "windows=rcnn")
    assert rcnn.keys() == {"network", "proposals", "finetuning", "machines", "regressors", "detection"}
    seconds = plan(*FULL, "detection=time")
    assert {stage: len(runs) for stage, runs in seconds.items()} == {
        "network": 1,
        "proposals": 1,
        "timing": 1,
    }


def test_regressors_see_the_pool_which_fine_tuning_leaves_alone_but_r_cnns_does_not(full):
    more = "finetuning.num_steps=7"
    rcnn = (*FULL, "experiment=table10", "windows=rcnn")
    assert "regressors" not in changed(full, plan(*FULL, more))
    assert "regressors" in changed(plan(*rcnn), plan(*rcnn, more))


def test_detection_leaves_the_networks_of_classification_where_they_are(full):
    table2 = ("experiment=table2", "setting=spp_single", "backbone=zf5", "preset=mini")
    assert plan(*table2)["network"] == full["network"]


def leaves(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        return {k: v for key, value in node.items() for k, v in leaves(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): node}


RELEASE = {
    "protocol.name": "release",
    "protocol.scales": [480, 576, 688, 874, 1200],  # the fourth
    "protocol.mapping": "release",  # offsets 21 and 6.5
    "protocol.scale_target": "release",  # side 208
    "mining.duplicate_overlap": 1.0,
    "mining.duplicate_cells": True,  # identical rectangles of the map are merged
    "boxes.ridge": 4000.0,
    "finetuning.num_steps": 200000,
    "finetuning.learning_rate": 0.001,
    "finetuning.drop_at": [0.15, 0.3],
    "finetuning.flip": True,
    "finetuning.random_scale": True,
}


@pytest.mark.parametrize("experiment", ["table9", "edge_boxes"])
def test_the_release_differs_from_the_paper_where_it_is_said_to(experiment: str):
    paper, release = (
        leaves(plain_of(composed([f"experiment={experiment}", "windows=spp_five", f"protocol={name}"])))
        for name in ("paper", "release")
    )
    differing = {key: value for key, value in release.items() if paper[key] != value}
    windows = {f"windows.{key}": RELEASE[f"protocol.{key}"] for key in ("scales", "mapping", "scale_target")}
    # The task is told what stands there.
    told = ("reduced", "finetuning.task.")
    shown = {key: value for key, value in differing.items() if not key.startswith(told)}
    assert paper.keys() == release.keys()
    assert shown == {**RELEASE, **windows}
    assert paper["protocol.scales"] == [480, 576, 688, 864, 1200]


TABLE9 = "experiment=table9"
ONE = (TABLE9, "detection=pool", "windows=spp_one")
RCNN = ("target=shapes_voc", "detection=ftfc7", "windows=rcnn")
REFUSED = [
    (["target=caltech101", "paths.data=."], "detection needs a target with boxes"),
    (["target=shapes"], "detection needs a target with boxes"),
    (["target=voc2007"], "paths.data is missing: give the folder that holds VOC 2007"),
    (["target=voc2007", "paths.data=nowhere"], "paths.data=nowhere: no such directory"),
    (["target=det"], "paths.det is missing: give the folder that holds ILSVRC DET"),
    (["windows.scales=[160,160]"], "windows.scales=[160, 160]: must be different short sides"),
    (["windows.mapping=closest"], "windows.mapping=closest: must be centre_inside, paper or"),
    (["boxes.ridge=-1"], "boxes.ridge=-1.0: must be a positive number"),
    (["suppression.max_overlap=1.5"], "suppression.max_overlap=1.5: must be an intersection"),
    (["finetuning.background_overlap=0.5"], "must be below finetuning.positive_overlap"),
    (["pyramid=none"], "pyramid=none cannot pool windows"),
    (["detection=ftfc7", "trained=false"], "are not fine-tuned from small rates"),
    (["mining.evict_below=-1"], "mining.evict_below=-1.0 must be below mining.hard_above=-1.0001"),
    (["finetuning.drop_at=[0.5,0.2]"], "finetuning.drop_at=[0.5, 0.2]: must be fractions that rise"),
    (["finetuning.positive_share=0.001"], "is not one window"),
    (["finetuning.trains=all"], "does not go with windows of spp"),
    ([*RCNN, "finetuning.random_scale=true"], "R-CNN's windows have one size"),
    (["detection=fc7", "trained=false"], "fc7 of a network that was never trained"),
    (["detection=time", "ensemble=[[],[]]"], "detection=time finds nothing"),
    (["proposals=mat", "proposals.paths=[no.mat]"], "proposals.paths: no.mat: no such file"),
    ([*RCNN, "windows.context=80"], "windows.context=80: twice as much does not fit"),
    (["experiment=table13"], "paths.det"),
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_a_detector_cannot_be_is_refused_before_anything_runs(overrides: list[str], said: str):
    with pytest.raises((ConfigError, DataError), match=re.escape(said)):
        plan(*ONE, "preset=mini", *overrides)


MISTAKES = [
    (2, ["detection=pool"], "detection needs a target with boxes: target=voc2007"),
    (2, [*ONE, "windows.scales=[]"], "windows.scales=[]: must be different short sides"),
    (2, [TABLE9, "mining.svm_c=0"], "mining.svm_c=0.0: must be a positive number"),
    (2, [TABLE9, "windows=rcnn"], "the table has none of the cells"),
    (2, [*ONE, "proposals=mat"], "proposals.paths: missing; give it, proposals.paths=[FILE,...]"),
    (2, ["experiment=pretraining"], "data.root is missing"),
    (2, ["experiment=pretraining", "setting=pretrained_det"], "data.root is missing"),
    (
        3,
        ["experiment=table9_squeezenet", "paths.data=.", "paths.weights=nofile.safetensors"],
        "paths.weights=nofile.safetensors: no such file",
    ),
]


@pytest.mark.parametrize(("code", "arguments", "said"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_one_line_and_nothing_is_written(sppnet, capfd, tmp_path: Path, code, arguments, said):
    preset = [] if "squeezenet" in arguments[0] else ["preset=mini"]
    assert sppnet(*arguments, *preset, "logger=none") == code
    message = capfd.readouterr().err.strip()
    assert said in message
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_proposals_file_that_lacks_an_image_is_named_with_it(
    sppnet, capfd, detectors: Path, tiny_detection
):
    boxes, ids = np.empty((1, 1), dtype=object), np.empty((1, 1), dtype=object)
    boxes[0, 0], ids[0, 0] = np.array([[1, 1, 9, 9]], dtype=np.uint16), "000000"
    savemat(detectors.parent / "one.mat", {"images": ids, "boxes": boxes})
    given = ("proposals=mat", "proposals.paths=[one.mat]", "proposals.max_proposals=60")
    assert sppnet(*ONE, *tiny_detection, *given) == 3
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert "sppnet: one.mat: no proposals of 6 of 6 images (" in message
    assert "it has 1 others (such as 000000): give the file of this image set" in message
