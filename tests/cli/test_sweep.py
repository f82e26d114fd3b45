"""A table end to end on generated images, so small that it is a matter of seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import Command

TABLE = ("experiment=table2", "backbone=zf5,overfeat5", "setting=no_spp,spp_multi", "jobs=1")


def runs(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "runs" / "table2").iterdir() if path.is_dir())


def metrics(tmp_path: Path) -> dict[str, dict[str, float]]:
    return {
        run.name: {
            key: value
            for key, value in json.loads((run / "metrics.json").read_text()).items()
            if not key.endswith("seconds")
        }
        for run in runs(tmp_path)
    }


def weights(tmp_path: Path) -> dict[str, bytes]:
    networks = (tmp_path / "runs" / "networks").iterdir()
    return {run.name: (run / "model.safetensors").read_bytes() for run in networks}


def report(sppnet, capfd, tmp_path: Path) -> dict:
    capfd.readouterr()
    assert sppnet("report", str(tmp_path / "runs" / "table2"), "--format", "json") == 0
    return json.loads(capfd.readouterr().out)


def test_a_sweep_ends_in_a_table_and_a_second_one_has_nothing_to_do(sppnet, capfd, tmp_path: Path, tiny):
    assert sppnet(*TABLE, *tiny) == 0
    printed = capfd.readouterr().out
    assert "Table 2" in printed
    assert "mini: not the paper's scale" in " ".join(printed.split())
    table = report(sppnet, capfd, tmp_path)
    done = {(cell["row"], cell["column"]) for cell in table["cells"] if cell["status"] == "complete"}
    assert done == {(row, column) for row in ("no_spp", "spp_multi") for column in ("zf5", "overfeat5")}
    assert len(table["cells"]) == 12
    first = metrics(tmp_path)
    marks = {run: (run / "COMPLETE").stat().st_mtime_ns for run in runs(tmp_path)}

    assert sppnet(*TABLE, *tiny) == 0
    assert "4 of 4 cells are complete" in capfd.readouterr().out
    assert {run: (run / "COMPLETE").stat().st_mtime_ns for run in runs(tmp_path)} == marks
    assert metrics(tmp_path) == first


def test_a_plan_fits_a_screen(sppnet, capfd, tmp_path: Path, tiny):
    many = ("seed=range(0,11)", "plan=true")
    assert sppnet(*tiny, *many) == 0
    first, second, last = capfd.readouterr().out.splitlines()
    assert first.split() == ["wave", "1", "network", "11", "to", "run"]
    assert second.split() == ["wave", "2", "evaluation", "11", "to", "run"]
    assert last.startswith("11 cells; 22 of 22 runs to make, in 2 waves")
    assert sppnet(*tiny, *many, "plan=names") == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 23
    assert lines[-2].split() == ["to", "run", "evaluation", "run,", "seed", "10"]
    assert not (tmp_path / "runs").exists()


def test_finding_out_that_all_is_done_imports_no_torch(sppnet, tmp_path: Path, tiny):
    arguments = ["backbone=zf5", *tiny]
    assert sppnet(*arguments) == 0
    code = (
        "import sys; from sppnet.cli.main import run; code = run(sys.argv[1:]);"
        "sys.exit(code or ('torch' in sys.modules) * 99)"
    )
    again = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "1 of 1 cells are complete" in again.stdout


def test_seeds_are_an_axis_with_mean_and_deviation(sppnet, capfd, tmp_path: Path, tiny):
    assert sppnet("experiment=table2", "backbone=zf5", "setting=spp_single", "seed=0,1", "jobs=1", *tiny) == 0
    values = [run["test/top1_error"] for run in metrics(tmp_path).values()]
    (cell,) = [cell for cell in report(sppnet, capfd, tmp_path)["cells"] if cell["n"]]
    assert cell["n"] == 2
    assert cell["ours"] == pytest.approx(100 * sum(values) / 2)
    assert cell["std"] == pytest.approx(100 * abs(values[0] - values[1]) / 2**0.5)
    assert cell["paper"] == 34.98


def test_a_failing_cell_is_told_at_once_and_the_same_command_tries_it_again(
    sppnet, capfd, tmp_path: Path, tiny
):
    # A learning rate at which the first loss is finite and the next is not.
    arguments = ["backbone=zf5", "training.learning_rate=0.001,1e30", "jobs=1", *tiny]
    assert sppnet(*arguments) == 7
    said = capfd.readouterr().err
    assert "FAILED" in said
    assert "NonFiniteError" in said
    (failed,) = [
        run for run in (tmp_path / "runs" / "single").iterdir() if "1e-30" in run.name or "1e30" in run.name
    ]
    status = json.loads((failed / "status.json").read_text())
    assert status["state"] == "failed"
    assert "NonFiniteError" in status["error"]
    assert "Traceback" in (tmp_path / "runs" / "networks" / status["network"] / "run.log").read_text()
    assert sppnet(*arguments) == 7
    assert "1 of 2 cells are complete, 1 to run" in capfd.readouterr().out


def test_a_damaged_configuration_of_an_unfinished_run_is_written_anew(sppnet, tmp_path: Path, tiny):
    arguments = ["backbone=zf5", "training.learning_rate=0.001,0.002", "jobs=1", *tiny]
    assert sppnet(*arguments) == 0
    damaged, other = sorted(path.parent for path in (tmp_path / "runs" / "single").glob("*/COMPLETE"))
    for run in (damaged, other):
        (run / "COMPLETE").unlink()
    (damaged / "config.yaml").write_text("run: [")
    assert sppnet(*arguments) == 0
    assert (other / "COMPLETE").exists()
    assert (damaged / "COMPLETE").exists()


def test_a_single_failing_run_exits_with_its_own_code(sppnet, tiny):
    assert sppnet("training.learning_rate=1e30", *tiny) == 5


def test_side_by_side_cells_give_the_same_weights_as_one_after_the_other(tmp_path: Path, tiny, sppnet):
    arguments = ["experiment=table2", "backbone=zf5", "setting=no_spp,spp_multi", *tiny]
    assert sppnet(*arguments, "jobs=1") == 0
    alone = weights(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "alone")
    assert sppnet(*arguments, "jobs=2") == 0
    assert weights(tmp_path) == alone


def workers_of(process: Command) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
def test_a_killed_worker_costs_its_cell_and_no_other(tmp_path: Path, tiny, sppnet, start):
    arguments = [*TABLE[:3], *tiny, "training.epochs=6"]
    process = start(*arguments, "jobs=2")
    folder = tmp_path / "runs"
    while not list(folder.glob("networks/*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    assert process.wait(timeout=120) == 7
    said = process.said()
    assert "FAILED" in said
    assert "ended by signal 9" in said
    assert len(list(folder.glob("table2/*/COMPLETE"))) == 3
    assert sppnet(*arguments, "jobs=1") == 0
    assert len(list(folder.glob("table2/*/COMPLETE"))) == 4


def test_a_network_too_large_for_the_regions_is_a_mistake_in_the_configuration(sppnet, capfd, tiny):
    assert sppnet(*tiny, "backbone=resnet18", "pyramid.levels=[6,1]") == 2
    assert "ResNet-18 with pyramid.levels=[6, 1] needs >= 161" in capfd.readouterr().err


def interrupt_when(process: Command, condition, number: int) -> int:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.said()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    return process.wait(timeout=60)


LONGER = (*TABLE[:3], "training.epochs=8")


@pytest.fixture
def undisturbed(sppnet, tmp_path: Path, tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs/ hold `LONGER`, one cell after the other; computed once, and only looked at."""
    kept = tmp_path_factory.getbasetemp() / "undisturbed-table2"
    if not kept.exists():
        assert sppnet(*tiny, *LONGER, "jobs=1") == 0
        kept.mkdir()
        (tmp_path / "runs").rename(kept / "runs")
    return kept


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_in_a_sweep_and_again_gives_the_undisturbed_table(
    tmp_path: Path, tiny, sppnet, start, undisturbed: Path, jobs: int
):
    arguments = [*tiny, *LONGER, f"jobs={jobs}"]
    process = start(*arguments)

    def third_cell_trains() -> bool:
        folder = tmp_path / "runs" / "networks"
        complete = len(list(folder.glob("*/COMPLETE")))
        begun = [run for run in folder.glob("*/metrics.jsonl") if not (run.parent / "COMPLETE").exists()]
        return complete >= 2 and any(run.stat().st_size for run in begun)

    assert interrupt_when(process, third_cell_trains, signal.SIGINT) == 130
    marks = {run.parent.name: run.stat().st_mtime_ns for run in (tmp_path / "runs").rglob("COMPLETE")}
    assert 2 <= len(marks) < 8  # four networks and four cells in all
    assert sppnet(*arguments) == 0
    after = {run.parent.name: run.stat().st_mtime_ns for run in (tmp_path / "runs").rglob("COMPLETE")}
    assert {name: after[name] for name in marks} == marks
    assert weights(tmp_path) == weights(undisturbed)
    assert metrics(tmp_path) == metrics(undisturbed)


def test_sliding_windows_that_are_not_the_bins_are_refused_before_training(sppnet, capfd, tiny):
    # 128 pixels make a map of 7 cells: windows of 2 at stride 1 would give 6 outputs instead of 4.
    overrides = ("pyramid.pooling=sliding", "image.size=128", "image.short_side=128", "pyramid.levels=[4,2]")
    assert sppnet(*tiny, *overrides) == 2
    assert "pyramid.pooling=sliding with regions of 128 pixels" in capfd.readouterr().err


def flip(file: Path) -> None:
    """Change bits in the last part of a file, and neither its size nor its name."""
    content = bytearray(file.read_bytes())
    for place in range(int(0.6 * len(content)), len(content), max(4, len(content) // 200)):
        content[place] ^= 64
    file.write_bytes(content)


@pytest.mark.slow
def test_a_network_damaged_behind_a_complete_cell_is_named_and_made_again(
    sppnet, capfd, tmp_path: Path, tiny
):
    arguments = ["backbone=zf5", *tiny]
    assert sppnet(*arguments) == 0
    (network,) = (tmp_path / "runs" / "networks").iterdir()
    (cell,) = [path for path in (tmp_path / "runs" / "single").iterdir() if path.is_dir()]
    before = (network / "model.safetensors").read_bytes(), (cell / "scores.safetensors").read_bytes()
    flip(network / "model.safetensors")
    capfd.readouterr()
    assert sppnet("status", str(tmp_path / "runs" / "single")) == 0
    assert "damaged" in capfd.readouterr().out
    assert sppnet(*arguments) == 0
    assert f"damaged: {Path('runs') / 'networks' / network.name}" in capfd.readouterr().err.replace(
        f"{tmp_path}/", ""
    )
    assert (network / "model.safetensors").read_bytes() == before[0]
    flip(cell / "scores.safetensors")
    assert sppnet("ensemble", str(cell)) == 4
    assert sppnet(*arguments) == 0
    assert (cell / "scores.safetensors").read_bytes() == before[1]


def test_scores_that_are_nan_are_no_result(sppnet, capfd, tmp_path: Path, tiny):
    # The only step makes the weights so large that activations overflow; the weights are finite.
    overrides = ("training.epochs=1", "training.batch_size=30", "training.learning_rate=1e30")
    assert sppnet("backbone=zf5", *tiny, *overrides) == 5
    assert "not measured" not in capfd.readouterr().err
    assert not list((tmp_path / "runs" / "single").glob("*/metrics.json"))
