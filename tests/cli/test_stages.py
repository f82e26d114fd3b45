"""A stage is one row; a take sets up what its row says and puts it back; a number says what made it."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sppnet.artifacts import read_json
from sppnet.errors import ConfigError
from sppnet.experiment.execution import run_in
from sppnet.experiment.stages import STAGES, Need, Stage
from sppnet.experiment.take import Outcome, Take
from sppnet.run.directory import RunDirectory, sealed

ONE = ("backbone=zf5", "training.epochs=1", "jobs=1")


def count_images(take: Take) -> Outcome:
    """A stage of one's own."""
    from sppnet.experiment.making import make

    take.progress("counting")
    data = make(take.conf.data)
    (take.path / "counted.txt").write_text("all of them")
    return Outcome({"census/num_images": len(data.splits.train.paths)}, ("counted.txt",))


def test_a_stage_is_added_by_one_function_and_one_row(sppnet, tmp_path: Path, tiny, monkeypatch):
    census = Stage(count_images, "censuses", "{data}-census", ("data",))
    monkeypatch.setitem(STAGES, "census", census)
    before = STAGES["evaluation"].stands_on
    row = STAGES["evaluation"]._replace(stands_on=(*before, Need("census")))
    monkeypatch.setitem(STAGES, "evaluation", row)
    assert sppnet(*tiny, *ONE) == 0
    (run,) = (tmp_path / "runs" / "censuses").iterdir()
    assert run.name.startswith("shapes-census-")
    assert read_json(run / "metrics.json") == {"census/num_images": 30}
    assert set(read_json(run / "COMPLETE")["files"]) == {"metrics.json", "provenance.json", "counted.txt"}
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert set(config) == {"run", "identity", "data", "data_loading", "paths", "logger", "trainer", "sha256"}
    marked = (run / "COMPLETE").stat().st_mtime_ns
    assert sppnet(*tiny, *ONE, "training.learning_rate=0.003") == 0  # which it does not read
    assert (run / "COMPLETE").stat().st_mtime_ns == marked


def only(folder: Path) -> Path:
    (run,) = [path for path in folder.iterdir() if path.is_dir()]
    return run


def test_threads_and_randomness_of_a_stage_do_not_reach_the_next(detectors: Path, monkeypatch):
    monkeypatch.chdir(detectors.parent)
    torch.set_num_threads(2)
    seen = {}
    try:
        for stage in ("proposals", "machines", "regressors", "detection", "finetuning"):
            configs = detectors.glob("*/*/config.yaml")
            run = next(file.parent for file in configs if f"stage: {stage}\n" in file.read_text())

            def look(take: Take, stage: str = stage) -> Outcome:
                seen[stage] = torch.get_num_threads()
                return Outcome({})

            monkeypatch.setitem(STAGES, stage, STAGES[stage]._replace(does=look))
            config = RunDirectory(run).read_config()
            config["trainer"]["threads"] = None
            (run / "config.yaml").write_text(sealed(config))
            (run / "COMPLETE").unlink()
            run_in(run, report=lambda step: None)
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == {"proposals": 1, "machines": 1, "regressors": 1, "detection": 1, "finetuning": 2}


def test_every_run_says_what_made_it(sppnet, tmp_path: Path, tiny):
    assert sppnet(*tiny, *ONE) == 0
    for run in (only(tmp_path / "runs" / "networks"), only(tmp_path / "runs" / "single")):
        made = read_json(run / "provenance.json")
        (take,) = made["takes"]
        assert take["software"]["torch"] == torch.__version__.partition("+")[0]
        assert take["machine"].endswith("cores")
        assert (take["device"], take["threads"], take["precision"]) == ("cpu", 1, "32-true")
        assert take["started"] <= made["ended"]
        assert "sppnet.ops.pyramid" in made["code"]
    code = read_json(only(tmp_path / "runs" / "networks") / "provenance.json")["code"]
    assert "sppnet.tasks.classification" in code  # named by the configuration
    assert "sppnet.experiment.classification_stages:train" in code
    assert not any("transfer" in name or "detector" in name for name in code)


def spoil_code(run: Path, module: str) -> None:
    """As if the module had been another one when the run was made."""
    made = read_json(run / "provenance.json")
    assert module in made["code"]
    made["code"][module] = "0" * 64
    text = json.dumps(made, indent=1) + "\n"
    assert len(text) == (run / "provenance.json").stat().st_size
    (run / "provenance.json").write_text(text)
    files = tuple(set(read_json(run / "COMPLETE")["files"]) - {"metrics.json"})
    RunDirectory(run).write_complete(read_json(run / "metrics.json"), files=files)


def test_a_finished_run_of_other_code_is_used_marked_and_made_again_when_asked(
    sppnet, capfd, tmp_path: Path, tiny
):
    assert sppnet(*tiny, *ONE) == 0
    network, cell = only(tmp_path / "runs" / "networks"), only(tmp_path / "runs" / "single")
    spoil_code(network, "sppnet.models.backbones")
    marks = [(run / "COMPLETE").stat().st_mtime_ns for run in (network, cell)]
    capfd.readouterr()
    assert sppnet(*tiny, *ONE) == 0
    printed = capfd.readouterr().out
    assert "1 of 1 cells are complete" in printed
    said = (
        f"† 1 of the runs are of code that has changed since ({cell.name}: networks/{network.name} is stale"
    )
    assert said in " ".join(printed.split())
    assert sppnet("status", "runs/single") == 0
    assert "stale: sppnet.models.backbones has changed" in capfd.readouterr().out
    assert sppnet("why", str(network)) == 0
    assert "changed since:\n  sppnet.models.backbones has changed" in capfd.readouterr().out
    assert sppnet("report", "runs/single", "--format", "json") == 0
    assert json.loads(capfd.readouterr().out)["cells"][0]["is_stale"]
    assert [(run / "COMPLETE").stat().st_mtime_ns for run in (network, cell)] == marks

    weights = (network / "model.safetensors").read_bytes()
    assert sppnet(*tiny, *ONE, "stale=rerun") == 0
    assert (network / "COMPLETE").stat().st_mtime_ns > marks[0]
    assert (cell / "COMPLETE").stat().st_mtime_ns > marks[1]
    assert (network / "model.safetensors").read_bytes() == weights
    capfd.readouterr()
    assert sppnet("why", str(cell)) == 0
    assert "changed since: nothing" in capfd.readouterr().out


def test_why_tells_what_makes_two_runs_differ(sppnet, capfd, tmp_path: Path, tiny):
    assert sppnet(*tiny, *ONE, "training.learning_rate=0.001,0.002") == 0
    one, other = sorted(path for path in (tmp_path / "runs" / "single").iterdir() if path.is_dir())
    capfd.readouterr()
    assert sppnet("why", str(one), str(other)) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("network: networks/")
    assert lines[1].strip() in ("task.learning_rate: 0.001 | 0.002", "task.learning_rate: 0.002 | 0.001")
    assert len(lines) == 2
    assert sppnet("why", str(one), str(one)) == 0
    assert capfd.readouterr().out.startswith("the same")
    assert sppnet("why", "runs/nowhere") == 3
    assert sppnet("why", "runs") == 4


MINE = """
from sppnet.data.folder import FolderReader
from sppnet.data.targets import ShapesVocTarget


class LmdbReader:
    def read(self, root, selection):
        return FolderReader().read(root, selection)


class CocoTarget:
    def __init__(self, name, root):
        self.of_shapes = ShapesVocTarget(name, root, 12, 1)

    def read_boxes(self):
        return self.of_shapes.read_boxes()

    def read(self):
        return self.of_shapes.read()


class Plain:
    def __init__(self, name, root):
        pass

    def read(self):
        raise NotImplementedError
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own; returns its name."""
    (tmp_path / "mine_of_stages.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "mine_of_stages"
    sys.modules.pop("mine_of_stages", None)


def check_of(*overrides: str) -> None:
    from hydra import compose, initialize_config_dir

    from sppnet.experiment.checks import check
    from sppnet.experiment.compose import allowed, plain_of
    from sppnet.experiment.guarded_hydra import register
    from sppnet.experiment.installation import conf_dir
    from sppnet.experiment.reading import read_conf

    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        check(read_conf(allowed(plain_of(compose("config", overrides=["preset=mini", *overrides])))))


def test_what_a_part_is_good_for_does_not_depend_on_what_its_class_is_called(mine: str, tmp_path: Path):
    folder = f"data.root={tmp_path}"
    check_of(f"allow_targets=[{mine}.LmdbReader,{mine}.CocoTarget,{mine}.Plain]")
    reader = (f"data.reader._target_={mine}.LmdbReader", "data=folder", folder)
    check_of(*reader, "schedule=plateau", "data.val_fraction=0")
    detection = ("detection=pool", "windows=spp_one")
    check_of(*detection, "target=none", f"++target={{_target_: {mine}.CocoTarget, name: mine, root: null}}")
    with pytest.raises(ConfigError, match="needs a target with boxes"):
        check_of(*detection, "target=none", f"++target={{_target_: {mine}.Plain, name: mine, root: null}}")
    with pytest.raises(ConfigError, match="data.val_fraction is 0"):
        check_of("data=caltech101", folder, "schedule=plateau", "data.val_fraction=0")


@pytest.mark.slow
def test_a_detector_learns_from_boxes_of_a_users_own_class(sppnet, mine: str, tmp_path: Path, tiny_detection):
    own = f"++target={{_target_: {mine}.CocoTarget, name: mine, root: {tmp_path}}}"
    tiny_detection = (*tiny_detection, f"allow_targets=[{mine}.CocoTarget]")
    given = [value for value in tiny_detection if not value.startswith("target.")]
    arguments = ("experiment=table9", "detection=pool", "windows=spp_one", "target=none", own, *given)
    assert sppnet(*arguments) == 0
    (cell,) = [path for path in (tmp_path / "runs" / "table9").iterdir() if path.is_dir()]
    assert mine in read_json(cell / "provenance.json")["code"]


def test_the_wrong_folder_of_a_target_is_named_by_the_key_it_came_from(sppnet, capfd):
    transfer = ("experiment=table6", "preset=mini", "logger=none", "target=voc2007")
    assert sppnet(*transfer, "paths.data=nowhere") == 3
    assert "paths.data=nowhere: no such directory" in capfd.readouterr().err
    assert sppnet(*transfer, "paths.data=.", "target.root=nowhere") == 3
    assert "target.root=nowhere: no such directory" in capfd.readouterr().err
