"""Every configuration composes, binds to its classes, and says what it means."""

import inspect
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from sppnet.experiment import layout
from sppnet.experiment.contents import Contents
from sppnet.experiment.guarded_hydra import register
from sppnet.experiment.installation import conf_dir
from sppnet.experiment.layout import Cell, column_ids, lay_out, row_ids
from sppnet.experiment.plan import Planner, built_on

EXPERIMENTS = sorted(file.stem for file in (conf_dir() / "experiment").glob("*.yaml"))
# A table for real weights names its preset itself; every other is run in these.
PRESETS = ["mini", pytest.param("paper", marks=pytest.mark.slow)]
OWN_PRESET = {"heads", "heads_rates", "table6_squeezenet", "table7_squeezenet", "table9_squeezenet"}
USUAL = [
    pytest.param(name, marks=pytest.mark.slow) if name in OWN_PRESET | {"short_side", "test_sizes"} else name
    for name in EXPERIMENTS
]
# What the command line gives: folders, and a file of weights that nobody opens here.
GIVEN = ("data.root=.", "paths.data=.", "paths.det=.", "paths.cls=.", "paths.weights=x")
# Given by the code that puts the parts together, not by YAML.
GIVEN_LATER = {"net", "backbone", "fc6_rate", "classes", "num_features"}
# Rows a user may add to a table.
ADDED_BY_USERS = {"buckets", "best_of_shapes", "best_of_shapes_voc"}
# Options that are made for a part, and that part.
MADE_FOR = {
    "layer=random_pool_squeezenet": "backbone=squeezenet1_1_imagenet",
    "task=transfer": "transfer=svm",
}


def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=[*GIVEN, *overrides], return_hydra_config=True)


def plain(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def cells(experiment: str, preset: str) -> list[list[str]]:
    """Overrides of every cell, of several repeats the first."""
    given = [f"experiment={experiment}", "data.val_fraction=0.1"]
    if experiment not in OWN_PRESET:
        given.append(f"preset={preset}")
    table = plain(composed(*given))["table"]
    repeats = table["axes"].get(table["repeats"], [])
    laid = lay_out(table, [f"{table['repeats']}={value}" for value in repeats[:1]])
    return [[*given, *cell.overrides] for cell in layout.cells(laid, default_repeat=0)]


def targets(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("experiment", USUAL)
def test_all_cells_of_a_table_are_valid_and_differ(experiment: str, preset: str):
    planner = Planner(lambda overrides: composed(*overrides), "seed", Contents(Path()))
    found = cells(experiment, preset)
    # Planning a cell checks it.
    planned = [planner.cell(Cell(overrides, "r", "c", 0), labels={}) for overrides in found]
    assert len({cell.plan.key for cell in planned}) == len(found) > 1


@pytest.mark.parametrize("experiment", ["table7", "table7_squeezenet", "table8", "warp", "lowshot"])
def test_ten_random_splits_are_ten_runs_with_one_network_and_one_extraction(experiment: str):
    planner = Planner(
        lambda overrides: composed(f"experiment={experiment}", *overrides), "split", Contents(Path())
    )
    given = ["setting=best_of_caltech101"] if experiment == "table8" else []
    planned = [planner.cell(Cell([*given, f"split={split}"], "r", "c", split), labels={}) for split in (0, 1)]
    network = "network" if "squeezenet" not in experiment else "untrained"
    counts = Counter(run.plan.stage for run in [*built_on(planned), *planned])
    assert counts == {"transfer": 2, "features": 1, network: 1}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_papers_numbers_have_the_tables_rows_and_columns(experiment: str):
    table = plain(composed(f"experiment={experiment}"))["table"]
    layout = lay_out(table, [])
    rows, columns = row_ids(layout), column_ids(layout)
    metrics = {metric["key"] for metric in table["metrics"] or table["measures"]["evaluation"]}
    for metric, numbers in table["paper"].items():
        assert metric in metrics
        assert set(numbers) <= set(rows)
        assert {column for row in numbers.values() for column in row} <= set(columns)
    for numbers in table["paper_per_class"].get("cells", {}).values():
        assert set(numbers) <= set(columns)
    for other in table["others"]:
        assert set(other) - {"label"} <= metrics
        assert {column for metric in metrics & set(other) for column in other[metric]} <= set(columns)
    assert set(table["labels"]) <= {*rows, *columns, *ADDED_BY_USERS}
    for claim in table["claims"]:
        assert claim["section"]
        assert claim["quote"]
        sides = [claim.get(side, []) for side in ("better", "worse", "order", "only", "at")]
        named = {one for side in sides for one in (side if isinstance(side, list) else [side])}
        assert named <= {*rows, *columns}
        if claim["kind"] not in ("untested", "complexity", "fewer"):
            assert claim["metric"] in metrics or "unit" in claim
            bound = {"similar": "within", "not_worse": "by", "classes": "more_than"}
            assert claim[bound.get(claim["kind"], "smallest")] > 0


def test_every_quotation_is_the_papers():
    """The paper's text is not ours to keep: give it as SPPNET_PAPER, in Markdown."""
    file = os.environ.get("SPPNET_PAPER")
    if file is None:
        pytest.skip("SPPNET_PAPER names no file")
    paper = _letters(Path(file).read_text(encoding="utf-8"))
    quotes = [
        claim["quote"]
        for name in EXPERIMENTS
        for claim in plain(composed(f"experiment={name}"))["table"]["claims"]
    ]
    for conf in conf_dir().rglob("*.yaml"):
        comments = [line.partition("#")[2] for line in conf.read_text(encoding="utf-8").splitlines()]
        # Three words or more: less is a value, or a name.
        quotes += [quote for line in comments for quote in re.findall(r'"(\S+(?: \S+){2,})"', line)]
    assert [quote for quote in quotes if _letters(quote) not in paper] == []


def _letters(text: str) -> str:
    """Text without Markdown's and LaTeX's marks, blanks and typographic quotes."""
    text = re.sub(r"</?su[bp]>", "", text).replace("\\times", "x").replace("×", "x").replace("’", "'")
    return re.sub(r"[*$\\{}\s]", "", text)


@pytest.mark.parametrize(("experiment", "num_rows"), [("table11", 10), ("table12", 3)])
def test_the_papers_numbers_of_classes_have_its_means(experiment: str, num_rows: int):
    table = plain(composed(f"experiment={experiment}"))["table"]
    (means,) = table["paper"].values()
    means = means | {other["label"]: other["test/map"] for other in table["others"]}
    known = table["paper_per_class"]
    assert len(known["classes"]) == len(set(known["classes"])) == 20
    found = {(row, column): one for row, columns in known["cells"].items() for column, one in columns.items()}
    assert found.keys() == {(row, column) for row, columns in means.items() for column in columns}
    assert len(found) == num_rows
    for (row, column), numbers in found.items():
        assert len(numbers) == 20
        # Selective search's are told as 33.8 and have a mean of 33.72.
        assert abs(sum(numbers) / 20 - means[row][column]) <= (0.081 if "selective" in row else 0.051)


def test_voc_2007_is_tested_once_and_caltech_101_on_ten_splits_in_table_8():
    table = plain(composed("experiment=table8"))["table"]
    laid = lay_out(table, [])
    counts = Counter(cell.column for cell in layout.cells(laid, default_repeat=0))
    assert counts == {"best_of_voc2007": 1, "best_of_caltech101": 10}
    lacking = Counter((row, column) for row, column, _ in layout.skipped_repeats(laid))
    assert lacking == {("overfeat7", "best_of_voc2007"): 9}
    assert layout.skipped_places(laid) == []


def test_what_a_setting_asks_for_is_what_runs():
    for setting, levels, sizes in [
        ("no_spp", [6], [224]),
        ("spp_single", [6, 3, 2, 1], [224]),
        ("spp_multi", [6, 3, 2, 1], [224, 180]),
    ]:
        config = composed("experiment=table2", f"setting={setting}")
        assert list(config.pyramid.levels) == levels
        assert list(config.train_sizes.sizes) == sizes


def test_the_paper_trains_zf5_for_70_epochs_and_the_others_for_90():
    found = {overrides[-1]: overrides for overrides in cells("table2", "paper")}
    epochs = {choice: composed(*overrides).training.epochs for choice, overrides in found.items()}
    assert epochs == {
        "backbone=zf5": 70,
        "backbone=convnet5": 90,
        "backbone=overfeat5": 90,
        "backbone=overfeat7": 90,
    }


def every_option() -> list[str]:
    groups = [folder for folder in conf_dir().iterdir() if folder.is_dir() and folder.name != "hydra"]
    return [
        f"{folder.name}={file.stem}"
        for folder in sorted(groups)
        for file in sorted(folder.glob("*.yaml"))
        if not file.stem.startswith("_")
    ]


@pytest.mark.parametrize("option", every_option())
def test_every_option_binds_to_the_classes_it_names_and_no_class_has_a_value_of_its_own(option: str):
    config = plain(composed(option, *([MADE_FOR[option]] if option in MADE_FOR else [])))
    for target in targets(config):
        constructor = get_object(target["_target_"])
        if not target["_target_"].startswith("sppnet."):
            continue
        signature = inspect.signature(constructor)
        given = {key for key in target if not key.startswith("_") and key != "facts"}  # see making.py
        expected = set(signature.parameters)
        assert given <= expected, f"{target['_target_']} takes no {given - expected}"
        assert expected - given <= GIVEN_LATER | {"device"}, f"{target['_target_']} lacks {expected - given}"
        for parameter in signature.parameters.values():
            if target["_target_"].startswith("sppnet.estimators."):  # scikit-learn's interface has defaults
                continue
            assert parameter.default is inspect.Parameter.empty, f"{target['_target_']}: {parameter}"


def test_no_configuration_names_anything_outside_the_project_but_optimisers_and_dashboards():
    for file in conf_dir().rglob("*.yaml"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if "_target_:" in line:
                name = line.partition("_target_:")[2].strip().partition(",")[0].rstrip("}")
                assert name.startswith(("sppnet.", "torch.optim.", "pytorch_lightning.loggers.")), (
                    f"{file}: {name}"
                )
