"""Proof: every state in which a crash can leave the disk opens as the old or the new content.

    make crash-states

Real commands run under strace; every state that POSIX allows after a crash at each of their calls
(disk.py) is opened with the program's own readers. What must hold in each of them:

- a file that is written whole has one of the contents that were given its name: never a part, never zeros;
- a COMPLETE marker stands only beside all that it vouches for, with the bytes it vouches for;
- a run that is sure to survive stands on runs that are sure to survive;
- our readers take it, or name what is damaged; nothing else ever happens;
- once the command has ended, a crash takes nothing away.

From a sample of the states the same command is run again: it ends with the bytes of the undisturbed run.
"""

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from crash.disk import Disk, Op, State, record

from sppnet.errors import SppnetError
from sppnet.run.directory import RunDirectory
from sppnet.tables.runs import read_run

TINY = (
    *("preset=mini", "logger=none", "trainer=cpu", "trainer.threads=1", "progress=false", "jobs=1"),
    *("image.short_side=124", "image.size=120", "image.small_size=112", "image.test_sides=[120,124,140]"),
    *("image.curve_sides=[112,124]", "width=0.05", "head.width=16", "training.epochs=2"),
    *("training.batch_size=8", "data.per_class=3", "data.test_per_class=2"),
    *("paths.runs=runs", "paths.cache=cache", "trainer.checkpoint_minutes=0"),
)
COMMANDS = {
    "transfer": ("experiment=table7", "setting=spp_crop", "layer=pool", "split=0"),
    "detection": (
        *("experiment=table9", "detection=ftfc7_bb", "windows=spp_one", "target.num_images=12"),
        *("proposals.max_proposals=60", "finetuning.num_steps=4"),
    ),
}
# Lines are added at their ends; a crash may cut the last ones.
_OF_THE_TAKE = re.compile("seconds|shards_computed|shards_reused")
GROWING = ("run.log", "metrics.jsonl")


class Bad(NamedTuple):
    """A state that must not be."""

    after: int
    path: str
    why: str


class Proof:
    """Plays the calls of a command and looks at every state a crash may leave."""

    def __init__(self, ops: Sequence[Op], folder: Path, scratch: Path) -> None:
        self.ops = ops
        self.folder = str(folder.resolve())
        self.scratch = scratch
        self.num_states = 0
        self.bad: list[Bad] = []
        self._named: dict[str, set[bytes]] = {}  # contents that were given a name, by path
        self._seen: set[str] = set()
        self._stood: set[str] = set()  # complete runs whose lower runs were looked at

    def run(self) -> "Proof":
        disk = Disk(self.folder)
        for after, op in enumerate(self.ops, start=1):
            if op.call == "rename" and op.path not in disk.folders:
                source = Path(op.path)
                content = disk.contents(str(source.parent))[source.name]
                self._named.setdefault(op.data.decode(), set()).add(_digest(content))
            for folder in disk.play(op):
                if folder in disk.folders:
                    for state in disk.states(folder, after):
                        self._look_at(state)
            if op.call == "sync":
                self._look_at_what_is_sure(disk.what_is_sure(), after)
        for path in disk.unsure():
            if not _is_passing(Path(path).name) and not _is_aside(path):
                self.bad.append(Bad(len(self.ops), path, "a crash after the command's end may take it away"))
        return self

    def _look_at(self, state: State) -> None:
        files = {name: data for name, data in state.files.items() if not _is_temporary(name)}
        identity = _digest(repr([state.folder, sorted((n, _digest(d)) for n, d in files.items())]).encode())
        if identity in self._seen or _is_aside(state.folder):
            return
        self._seen.add(identity)
        self.num_states += 1
        for name, data in files.items():
            path = f"{state.folder}/{name}"
            if not _is_passing(name) and _digest(data) not in self._named.get(path, ()):
                self.bad.append(Bad(state.after, path, f"{len(data)} bytes that it was never given whole"))
        if _digest(files.get("COMPLETE", b"")) in self._named.get(f"{state.folder}/COMPLETE", ()):
            self._look_at_marker(state, files)
        if "config.yaml" in files or "status.json" in files:
            self._open(state)

    def _look_at_marker(self, state: State, files: Mapping[str, bytes]) -> None:
        for name, entry in json.loads(files["COMPLETE"])["files"].items():
            if "/" not in name and _digest(files.get(name, b"")) != entry["sha256"]:
                self.bad.append(Bad(state.after, f"{state.folder}/{name}", "not as the marker vouches for"))

    def _open(self, state: State) -> None:
        """Open it with the program's readers: they take it or name what is damaged."""
        directory = Path(tempfile.mkdtemp(dir=self.scratch)) / "runs" / "table" / "run"
        directory.mkdir(parents=True)
        for name, data in state.files.items():
            (directory / name).write_bytes(data)
        run = RunDirectory(directory)
        readers = (lambda: run.is_complete, run.read_config, lambda: read_run(directory))
        for read in readers:
            try:
                read()
            except SppnetError:
                pass  # named, with what to do
            except Exception as error:
                self.bad.append(Bad(state.after, state.folder, f"{type(error).__name__}: {error}"))

    def _look_at_what_is_sure(self, files: Mapping[str, bytes], after: int) -> None:
        """A run that is sure to survive stands on runs that are sure to survive."""
        complete = {str(Path(path).parent) for path in files if path.endswith("/COMPLETE")}
        for directory in complete - self._stood:
            self._stood.add(directory)
            config = yaml.safe_load(files.get(f"{directory}/config.yaml", b""))
            if config is None:
                self.bad.append(Bad(after, directory, "complete before it is sure what it is"))
                continue
            below = [name for names in config["run"]["below"].values() for name in names]
            for name in below:
                if f"{self.folder}/runs/{name}" not in complete:
                    self.bad.append(Bad(after, directory, f"complete before it is sure that {name} is"))


def left_by_crash(ops: Sequence[Op], folder: Path, after: int, draw: random.Random, into: Path) -> None:
    """Lay out one state of the whole disk after a crash: of every directory a possible one."""
    disk = Disk(str(folder.resolve()))
    for op in ops[:after]:
        disk.play(op)
    is_lost = set(disk.unsure_folders) if draw.random() < 0.5 else set()  # noqa: PLR2004
    for one in disk.folders:
        if any(part in is_lost for part in (one, *map(str, Path(one).parents))):
            continue
        state = draw.choice(list(disk.states(one, after)))
        place = into / Path(one).relative_to(folder.resolve())
        place.mkdir(parents=True, exist_ok=True)
        for name, data in state.files.items():
            (place / name).write_bytes(data)


def products(folder: Path) -> dict[str, object]:
    """All that the runs of a folder vouch for, but when, where and in how many seconds it was made."""
    found: dict[str, object] = {}
    for marker in sorted(folder.glob("runs/*/*/COMPLETE")):
        files = json.loads(marker.read_text())["files"]
        run = marker.parent.relative_to(folder)
        found |= {f"{run}/{name}": entry["sha256"] for name, entry in files.items()}
        del found[f"{run}/provenance.json"]
        metrics = json.loads((marker.parent / "metrics.json").read_text())
        found[f"{run}/metrics.json"] = {key: metrics[key] for key in metrics if not _OF_THE_TAKE.search(key)}
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_temporary(name: str) -> bool:
    return name.endswith(".tmp")


def _is_passing(name: str) -> bool:
    return _is_temporary(name) or name.endswith(".lock") or name in GROWING


def _is_aside(path: str) -> bool:
    """In a directory that is made aside, and named when it is whole."""
    return any(_is_temporary(part) for part in Path(path).parts)


def arguments_of(name: str, data: Path) -> tuple[str, ...]:
    """A command whole, with its pictures in a folder of their own."""
    return (sys.executable, "-m", "sppnet.cli.main", *COMMANDS[name], *TINY, f"data.root={data}")


def prove(name: str, sample: int, seed: int, scratch: Path) -> bool:
    """Prove it of one command; print the counts and what was bad. Returns whether all was well."""
    command = (
        sys.executable,
        "-m",
        "sppnet.cli.main",
        *COMMANDS[name],
        *TINY,
        f"data.root={scratch / 'data'}",
    )
    print(f"{name}: sppnet {' '.join(COMMANDS[name])} ...", flush=True)
    before, whole = scratch / f"{name}-before", scratch / f"{name}-whole"
    for folder in (before, whole):
        folder.mkdir()
    first = subprocess.run(command, cwd=before, capture_output=True, text=True, check=False)
    if first.returncode:  # it makes the pictures, too
        sys.exit(f"{name}: exit code {first.returncode}: {first.stderr}")
    ops = record(command, whole, scratch / f"{name}.trace")
    proof = Proof(ops, whole, scratch).run()
    print(f"{name}: {len(ops)} calls, {proof.num_states} states, {len(proof.bad)} bad", flush=True)
    for bad in proof.bad[:20]:
        print(f"  after call {bad.after}: {bad.path}: {bad.why}")
    expected, draw, num_other = products(before), random.Random(seed), 0
    if expected != products(whole):
        print(f"{name}: two undisturbed runs differ; nothing can be said of those that were disturbed")
        num_other += 1
    for number in range(sample):
        after = draw.randrange(1, len(ops))
        folder = scratch / f"{name}-{number}"
        folder.mkdir()
        left_by_crash(ops, whole, after, draw, folder)
        again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = products(folder)
        other = [path for path in expected | found if expected.get(path) != found.get(path)]
        if again.returncode or other:
            num_other += 1
            print(f"  crash after call {after}, run again: exit code {again.returncode}; other: {other}")
            print("   ", again.stderr.strip()[-500:])
    print(f"{name}: {sample} of the states run again, {num_other} with another end", flush=True)
    return not proof.bad and not num_other


def prove_all(prove: Callable[[str, int, int, Path], bool], about: str, *, sample: int, of: str) -> None:
    """Prove it of the commands that were typed, or of all; end with 0 if it held of each, else with 1."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=list(COMMANDS), help=f"of {', '.join(COMMANDS)}")
    parser.add_argument("--sample", type=int, default=sample, help=of)
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        held = [prove(name, arguments.sample, arguments.seed, Path(scratch)) for name in arguments.commands]
    sys.exit(0 if all(held) else 1)


if __name__ == "__main__":
    prove_all(prove, str(__doc__), sample=10, of="states from which the command is run again")
