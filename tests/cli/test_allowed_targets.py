"""A configuration from anywhere runs nothing but what conf/, or the user's own configuration, names."""

import shutil
from pathlib import Path

import pytest
import yaml

from sppnet.run.directory import sealed

RUN = "torch.utils.collect_env.run"  # runs its argument in a shell


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of YAML files that somebody handed on."""
    monkeypatch.setenv("SPPNET_CONF", str(tmp_path / "conf"))
    return tmp_path / "conf"


def write(folder: Path, name: str, content: dict, package: str = "_global_") -> None:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"# @package {package}\n{yaml.safe_dump(content)}")


def evil(canary: Path, **more) -> dict:
    return {"_target_": RUN, "_args_": [f"touch {canary}"], **more}


NODES = {
    "a backbone": lambda node: {"backbone": node},
    "in a list of a part": lambda node: {"data": {"reader": {"parts": [1, [node]]}}},
    "a partial one": lambda node: {"init": {**node, "_partial_": True}},
    "an argument": lambda node: {"view": {"size": node}},
    "text that becomes one": lambda node: {"init": {"std": f"${{oc.create:{str(node)!r}}}"}},
    "behind an interpolation": lambda node: {"init": {"std": "${table.labels}"}, "table": {"labels": node}},
    "a callback of Hydra": lambda node: {"hydra": {"callbacks": {"mine": node}}},
    "an argument of a launcher": lambda node: {"hydra": {"launcher": {"setup": node}}},
    "a launcher": lambda node: {"hydra": {"launcher": node}},
    "a sweeper": lambda node: {"hydra": {"sweeper": node}},
    "a log's handler": lambda node: {
        "hydra": {"job_logging": {"version": 1, "root": {"handlers": ["x"]}, "handlers": {"x": {"()": RUN}}}}
    },
    "Hydra's log": lambda node: {
        "hydra": {
            "hydra_logging": {"version": 1, "root": {"handlers": ["x"]}, "handlers": {"x": {"()": RUN}}}
        }
    },
}


@pytest.mark.parametrize("where", NODES)
def test_a_configuration_that_names_what_is_not_listed_is_refused_before_anything_runs(
    sppnet, capfd, tiny, tmp_path: Path, folder: Path, canary: Path, where: str
):
    write(folder, "local/default.yaml", NODES[where](evil(canary)))
    assert sppnet(*tiny) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert not canary.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "target",
    [
        *("os.system", "builtins.eval", "hydra.utils.get_method", "hydra.utils.instantiate", "torch.load"),
        *("sppnet.experiment.making.make", "sppnet.artifacts.os.system", "sppnet.artifacts.write_text"),
        *("torchvision.models.resnet.partial", "torchvision.models", "sppnet.data.folder.FolderReader.read"),
        *("pytorch_lightning.loggers.wandb.os.system", "", None, 3, ["os.system"], {"a": 1}),
        *("sppnet.data.folder.FolderReader ", "SPPNET.data.folder.FolderReader", "antigravity.geohash"),
    ],
    ids=str,
)
def test_a_name_is_listed_or_not_whatever_it_begins_with(sppnet, capfd, tiny, folder: Path, target):
    write(folder, "local/default.yaml", {"data": {"reader": {"_target_": target}}})
    assert sppnet(*tiny) == 2
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("package", ["_global_", "data"])
def test_what_the_users_own_folder_names_explicitly_is_made(
    sppnet, tiny, tmp_path: Path, folder: Path, monkeypatch, package: str
):
    (tmp_path / "reader_of_test.py").write_text("from sppnet.data.shapes import ShapesReader as Mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reader = {"reader": {"_target_": "reader_of_test.Mine"}}
    said = {"allow_targets": ["reader_of_test.Mine"]}
    if package == "_global_":
        write(folder, "local/default.yaml", {**said, "data": reader})
        write(folder, "data/mine.yaml", {"defaults": ["shapes"]}, "data")
    else:
        write(folder, "data/mine.yaml", {"defaults": ["shapes"], **said, **reader}, "data")
    two = ("experiment=table2", "setting=spp_single", "backbone=zf5,overfeat5", "jobs=2")
    more = two if package == "_global_" else ()  # workers know it as well
    assert sppnet(*tiny, "data=mine", "training.epochs=1", *more) == 0
    monkeypatch.delenv("SPPNET_ALLOW_TARGETS")
    (folder / "local" / "default.yaml").unlink(missing_ok=True)
    write(folder, "data/mine.yaml", {"defaults": ["shapes"], "reader": reader["reader"]}, "data")
    assert sppnet(*tiny, "data=mine", "training.epochs=1") == 2


CONFIGS = {
    "proposals": lambda config, node: config | {"proposals": node},
    "text": lambda config, node: (
        config | dict.fromkeys(("proposals", "backbone", "init"), f"${{oc.create:{str(node)!r}}}")
    ),
    "what it allows itself": lambda config, node: config | {"proposals": node, "allow_targets": [RUN]},
    "the key's settings": lambda config, node: config | {"identity": {"settings": {"x._target_": RUN}}},
}


@pytest.mark.parametrize(
    "change", ["proposals", *(pytest.param(name, marks=pytest.mark.slow) for name in [*CONFIGS][1:])]
)
@pytest.mark.parametrize(
    "run",
    [
        "table9/pool-*",
        pytest.param("networks/*finetuned*", marks=pytest.mark.slow),
        pytest.param("networks/*-seed0-????????", marks=pytest.mark.slow),
    ],
)
def test_a_detector_from_anywhere_runs_nothing(
    sppnet, capfd, detectors: Path, tmp_path: Path, canary: Path, change: str, run: str
):
    (picture,) = list((detectors / "table9").glob("pool-*/detections.jpg"))
    shutil.copy(picture, tmp_path / "photo.jpg")
    for file in detectors.glob(f"{run}/config.yaml"):
        config = yaml.safe_load(file.read_text())
        config.pop("sha256")
        file.write_text(sealed(CONFIGS[change](config, evil(canary))))
    detector = next((detectors / "table9").glob("pool-*" if "finetuned" not in run else "ftfc7_bb*"))
    code = sppnet("detect", "photo.jpg", "--detector", str(detector), "--no-pictures")
    assert not canary.exists()
    assert "Traceback" not in capfd.readouterr().err
    assert code == 4


@pytest.mark.slow
def test_a_changed_configuration_of_a_run_is_damaged(sppnet, capfd, detectors: Path, tmp_path: Path):
    (run,) = (detectors / "table9").glob("pool-*")
    shutil.copy(run / "detections.jpg", tmp_path / "photo.jpg")
    file = run / "config.yaml"
    file.write_text(file.read_text().replace("max_overlap: 0.3", "max_overlap: 0.9"))
    assert sppnet("detect", "photo.jpg", "--detector", str(run)) == 4
    assert "config.yaml: not readable (it is not what its last line vouches for)" in capfd.readouterr().err


SECRETS = {
    "a title": "table.title=by-${oc.env:SECRET}",
    "a dashboard's project": "+logger.project=${oc.env:SECRET}",
    "a data set's name": "data.name=${oc.env:SECRET,nobody}",
    "behind another resolver": "table.title=${oc.decode:${oc.env:SECRET}}",
    "a preset": "preset='${oc.env:SECRET}'",
}


@pytest.mark.parametrize("what", SECRETS)
def test_a_value_from_the_environment_is_written_nowhere(
    sppnet, capfd, tiny, tmp_path: Path, monkeypatch, what: str
):
    monkeypatch.setenv("SECRET", "hunter2")
    given = [value for value in tiny if not value.startswith(("preset", "logger"))]
    assert sppnet("preset=mini", "logger=jsonl", *given, SECRETS[what]) == 2
    said = capfd.readouterr()
    assert "SECRET" in said.err
    assert "hunter2" not in said.out + said.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "name", ["../../escape", "/tmp/escape", ".cache", "..", "a/b", "x" * 300, "", "a\\b"]
)
def test_a_tables_name_is_a_folder_in_the_folder_of_runs(sppnet, capfd, tiny, tmp_path: Path, name: str):
    assert sppnet(*tiny, f"table.name='{name}'") == 2
    assert "table.name" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
