"""A user's mistake is one line, exit code 2 or 3, and nothing written."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

MISTAKES = [
    (["lrr=0.1"], "lrr"),
    (["trained=false"], "transfer=svm target=folder"),
    (["training.learning_rat=0.1"], "did you mean training.learning_rate"),
    (["trainin.epochs=3"], "did you mean training"),
    (["epochs=3"], "did you mean training.epochs"),
    (["backbone=zf6"], "did you mean zf5"),
    (["experiment=tabel2"], "did you mean table2"),
    (["preset=mni"], "did you mean mini"),
    (["backbon=zf5"], "did you mean backbone"),
    (["experiment=table2", "backbone=zf5,zf6"], "did you mean zf5"),
    (["training.learning_rate=abc"], "training.learning_rate"),
    (["training.learning_rate="], "training.learning_rate"),
    (["training.learning_rate=-1"], "training.learning_rate=-1.0: must be a positive number"),
    (["training.epochs=-5"], "training.epochs=-5: must be 1 or more"),
    (["training.epochs=1.5"], "training.epochs"),
    (["seed=abc"], "seed"),
    (["seed=-1"], "seed=-1: must be a whole number of 0 or more"),
    (["pyramid.levels=[0]"], "pyramid.levels=[0]"),
    (["pyramid.levels=[6,6]"], "pyramid.levels=[6, 6]"),
    (["pyramid.levels=[]"], "pyramid.levels=[]"),
    (["image.size=300"], "image.size=300 does not fit"),
    (["image.small_size=230"], "image.small_size=230"),
    (["data.per_class=abc"], "data.per_class=abc"),
    (["data.per_class=0"], "data.per_class=0"),
    (["data.val_fraction=1.5"], "data.val_fraction=1.5"),
    (["head.dropout=1"], "head.dropout=1.0"),
    (["pyramid=none", "train_sizes=multi"], "train_sizes=single"),
    (["schedule=plateau", "data.val_fraction=0"], "data.val_fraction=0.05"),
    (["seed=range(1"], "seed=range(1"),
    (["data=folder"], "data.root"),
    (["data=caltech101"], "data.root"),
    (["training.learning_rate=interval(0,1)"], "only lists of values"),
    (["--no-such-option"], "no such option"),
    (["preset=mini", "--epochs", "5"], "did you mean training.epochs?"),
    (["train"], "did you mean experiment=table2 preset=mini"),
    (["Table2"], "did you mean experiment=table2?"),
    (["experiment", "table2"], "did you mean experiment=table2?"),
    (["preset"], "write preset=NAME; there are heads, mini, paper, pretrained"),
    (["seed=0", "training.epochs", "5"], "did you mean training.epochs=5?"),
    (["preset=Mini"], "did you mean mini?; there are heads, mini, paper, pretrained"),
    (["experiment=table1"], "table9_squeezenet, table10, table11"),
    (["data=folder", "preset=mini"], "data.root: missing; give it, data.root=DIR"),
    (["seed=abc,1"], "seed=abc: must be a whole number"),
    (["+foo=1"], "foo: no such key"),
    (["+training.foo=1"], "training.foo: no such key"),
    (["trainer.accelerator=gpux"], "trainer.accelerator=gpux: must be auto, cpu"),
    (["trainer.precision=17"], "trainer.precision=17: must be 32-true"),
    (["data.colour=non"], "data/colour=none"),
    (["data.train_crop=fiv"], "data.train_crop=fiv: must be random or five"),
    (["view=crp"], "did you mean crop"),
    (["view.short_side=0"], "view.short_side=0: must be from 1 to 4000 pixels"),
    (["view=many_views", "view.test_sides=[144,144]"], "view.test_sides=[144, 144]: must be different"),
    (["view=many_views", "view.test_sides=[100,144]"], "does not fit into view.short_side=100"),
    (["view=full", "view.flip=maybe"], "view.flip=maybe: must be true or false"),
    (["view=ten_map", "view.mapping=closest"], "view.mapping=closest: must be centre_inside"),
    (["pyramid=none", "view=full"], "a network without SPP sees crops only"),
    (["pyramid=none", "train_sizes=buckets"], "train_sizes=single"),
    (["train_sizes=buckets", "pyramid.pooling=sliding"], "use pyramid.pooling=bins"),
    (["pyramid.pooling=slding"], "pyramid.pooling=slding: must be bins or sliding"),
    (["schedule.fractions=[0.9,0.1]"], "must be fractions that rise"),
    (["image.short_side=2000000000"], "must be from 1 to 4000 pixels"),
    (["data=folder", "data.root=null"], "data.root is missing"),
    (["seed=0.5"], "seed: Value '0.5' of type 'float' could not be converted"),
    (["init.std=3"], "init.std: not a key of the init that is chosen"),
    (["experiment=table2", "pyramid=bins30"], "pyramid is what setting=no_spp chooses"),
    (["experiment=table2", "train_sizes=single,multi"], "train_sizes is what setting="),
    (["backbone=zf5,zf5"], "is asked for twice"),
    (["backbone=glob(nothing*)"], "backbone=glob(nothing*): no value fits"),
    (["seed=4294967296"], "seed=4294967296: must be a whole number of 0 or more, up to"),
    (["data_loading.workers=1000"], "data_loading.workers=1000: must be from 0 (none) to 256"),
    (["finetuning.task.optimizer.momentum=2"], "optimizer.momentum=2: must be at least 0 and below 1"),
    (["finetuning.task.optimizer.weight_decay=-1"], "optimizer.weight_decay=-1: must be 0 or more"),
    (["finetuning.bias_rate=-1"], "finetuning.bias_rate=-1.0: must be 0 or more"),
    (["finetuning.fc8_rate=-1"], "finetuning.fc8_rate=-1.0: must be 0 or more"),
    (["finetuning.chunk_gb=-1"], "finetuning.chunk_gb=-1.0: must be a positive number"),
    (["training.learning_rate=nan"], "training.learning_rate=nan: must be a positive number"),
    (["task.optimizer.weight_decay=nan"], "task.optimizer.weight_decay=nan: must be 0 or more"),
    (
        ["task/optimizer=adamw", "task.optimizer.betas=[0.9,1]"],
        "task.optimizer.betas=[0.9, 1]: must be a list",
    ),
    (["trainer.devices=2"], "trainer.devices=2: must be 1"),
    (["stale=always"], "stale=always: must be keep or rerun"),
    (["backbone=zf5,overfeat5", "trainig.epochs=1"], "did you mean training.epochs"),
    (["experiment=table2", "seed=0,1,2", "training.epochs=abc"], "training.epochs: Value 'abc'"),
    (["hydra.sweep.dir=elsewhere"], "results go to paths.runs/table.name"),
    (["hydra.job.chdir=true"], "sppnet sets this itself"),
    (["hydra.mode=RUN"], "sppnet sets this itself"),
    (["--run"], "every command is a sweep"),
    (["--cfg", "hydra", "--resolve"], "--resolve goes with --cfg job"),
    (["--cfg", "job", "--info"], "one at a time"),
    (["--info", "nonsense"], "--info: say what to show behind it: all, config"),
    (["--cfg", "job", "--package", "nope"], "--package nope: no such key"),
    (["--package", "training"], "--package goes with --cfg"),
    (["-sc"], "install=SHELL"),
    (["-sc", "install=nope"], "install=SHELL"),
    (["hydra.launcher=null"], "hydra.launcher=None: choose one by its name"),
    (["hydra.launcher=3"], "hydra.launcher=3: choose one by its name"),
    (["hydra.launcher.n_jobs=3"], "choose one with hydra/launcher="),
    (["hydra/launcher=joblib"], "it comes with the extra joblib"),
    (["hydra.searchpath=[file:///nowhere/at/all]"], "is not available"),
    (["trainer=gpu"], "torch finds no such device here"),
    (["--config-dir"], "a value is missing behind it"),
    (["experiment=table2,table4"], "holds for a whole table and cannot be swept"),
    (["table.name=a,b"], "holds for a whole table and cannot be swept"),
    (["paths.runs=a,b"], "holds for a whole table and cannot be swept"),
    (["table.name=../../evil"], "table.name=../../evil: must be"),
    (["table.name=networks"], "table.name=networks: must be"),
    (["paths.runs="], "paths.runs='': no path"),
    (["data=folder", "data.root="], "data.root='': no path"),
    (["data=folder", "data.root=[x]"], "one path is wanted, not a list"),
    (["table.title=a(b)"], "goes between quotes: 'table.title="),
    (["++table.axes.backbone=zf5"], "must be axes with a list of values each"),
    (["table.skip=[zf5]"], "must be a list such as"),
    (
        ["experiment=table2", "table.skip=[{backbones:[zf5]}]"],
        "backbones is not an axis of this sweep; did you mean backbone?; there are setting, backbone",
    ),
    (["table.repeats=nothing"], "table.repeats=nothing: must be seed or split"),
    (["backbone=zf5,overfeat5", "table.curve=x"], "a curve needs columns that are numbers"),
    (["lr=0.1"], "did you mean training.learning_rate"),
    (["batch_size=8"], "did you mean training.batch_size"),
    (["nope=1"], "nope: no such group or key; sppnet --help"),
    (["train_sizes.sizes=[0]"], "train_sizes.sizes=[0]: must be"),
    (["train_sizes.sizes=[]"], "train_sizes.sizes=[]: must be"),
    (["train_sizes.sizes=120"], "train_sizes.sizes=120: must be"),
    (["pyramid.levels=[20]"], "are too small"),
    (["schedule.fractions=abc"], "must be fractions that rise"),
    (["schedule.fractions=[a,b]"], "must be fractions that rise"),
    (["schedule.fractions=0.5"], "must be fractions that rise"),
    (["width=1e-9"], "width=1e-09: must be from 0.01"),
    (["training.batch_size=100000000"], "must be from 1 to 65536"),
    (["backbone=null"], "backbone"),
    (["view=null"], "view"),
    (["data=null"], "data"),
    (["pyramid=null"], "pyramid"),
    (["schedule=null"], "schedule"),
    (["trainer=null"], "trainer"),
    (["init=null"], "init"),
    (["task=null"], "task"),
    (["input_norm=null"], "input_norm"),
    (["data.reader=null"], "data.reader"),
    ([f"seed={'9' * 5000}"], "4300 digits"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value) or "-")
def test_a_mistake_is_one_line_and_nothing_is_written(sppnet, capfd, tmp_path: Path, arguments, said):
    defaults = ["preset=mini", "logger=none"]
    if not any(argument.startswith("preset") for argument in arguments):
        arguments = [*defaults, *arguments]
    try:
        code = sppnet(*arguments)
    except SystemExit as stop:  # argparse's own usage errors
        code = stop.code
    message = capfd.readouterr().err.strip()
    assert code == 2
    assert said in message
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


BOMB = "".join(f"a{number + 1}: &a{number + 1} [{','.join([f'*a{number}'] * 10)}]\n" for number in range(8))
SPOILED = {
    "bomb": f"a0: &a0 [x]\n{BOMB}",
    "holds-itself": "a: &a [*a]\n",
    "digits": f"seed: {'9' * 5000}\n",
    "base-sixty": f"seed: {':'.join(['59'] * 3000)}\n",
    "deep": f"a: {'[' * 100_000}\n",
    "large": "#" * 1_000_001,
    "latin-1": "a: \udce9\n",
    "number": "5\n",
}


@pytest.mark.parametrize("name", SPOILED)
def test_yaml_that_blows_up_is_one_line(sppnet, capfd, tmp_path: Path, name: str):
    file = tmp_path / "preset" / f"{name}.yaml"
    file.parent.mkdir()
    file.write_text(f"# @package _global_\n{SPOILED[name]}", errors="surrogateescape")
    assert sppnet("--config-dir", str(tmp_path), "--cfg", "job", f"preset={name}") == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert str(file) in message or "4300 digits" in message


def test_an_anchor_in_yaml_is_taken(sppnet, capfd, tmp_path: Path):
    (tmp_path / "preset").mkdir()
    text = "# @package _global_\ntraining: {epochs: &four 4, batch_size: *four}\n"
    (tmp_path / "preset" / "mine.yaml").write_text(text)
    assert sppnet("--config-dir", str(tmp_path), "--cfg", "job", "preset=mine", "--package", "training") == 0
    assert "batch_size: 4" in capfd.readouterr().out


def test_a_folder_that_is_not_there_is_named_before_anything_starts(sppnet, capfd, tmp_path: Path):
    assert sppnet("preset=mini", "data=caltech101", "data.root=nowhere") == 3
    assert "data.root=nowhere" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_verbs_and_the_groups(sppnet, capfd):
    assert sppnet("--help") == 0
    text = capfd.readouterr().out
    assert "sppnet report" in text
    assert "backbone: alexnet convnet5" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--info", "searchpath"], "| main     | file://"),
        (["--info", "plugins"], "TableSweeper"),
        (["--info", "defaults"], "| backbone/zf5 "),
        (["--hydra-help"], "== Flags =="),
        (["-sc", "query=bash"], "backbone="),
    ],
)
def test_what_hydra_can_show_is_shown_once(sppnet, capfd, monkeypatch, arguments, said):
    monkeypatch.delenv("COMP_LINE", raising=False)
    try:
        code = sppnet(*arguments)
    except SystemExit as stop:  # Hydra's own help
        code = stop.code
    out, err = capfd.readouterr()
    assert code == 0
    assert out.count(said) == 1
    assert err == ""


def test_what_is_missing_in_the_images_is_found_before_anything_runs(sppnet, capfd, caplog, tmp_path: Path):
    pictures = tmp_path / "pictures"
    for number in range(4):
        folder = pictures / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 200), (60 * number, 0, 0)).save(folder / f"{number}.png")
    own, transferred = ("data=folder", f"data.root={pictures}"), ("target=folder", f"paths.data={pictures}")
    assert sppnet("preset=mini", *own, "plan=true") == 2
    assert "data.per_class is needed" in capfd.readouterr().err
    assert sppnet("preset=mini", *own, "data.per_class=2", "plan=true") == 0
    assert "1 cell; 2 of 2 runs to make; plan=true starts none" in capfd.readouterr().out
    assert caplog.text.count("too few images") == 1
    shutil.rmtree(pictures / "b")
    # The network below is of generated images: it would be trained for nothing.
    assert sppnet("preset=mini", "transfer=svm", *transferred) == 3
    assert "only one class, a" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == [pictures]
