"""Proof: whichever call to the disk fails, the same command run again ends with the undisturbed run's bytes.

    make disk-faults

strace makes the k-th synchronisation, renaming or removal of a real command fail (the disk broken, or full),
or kills the process there. The exit code must be the right one: 6 with one line that names a path, the
signal's after a kill, or 0 where what failed did not matter; and from what is left the same command must end
as if nothing had happened.
"""

import random
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from crash.disk import record
from crash.states import arguments_of, products, prove_all

CALLS = {"sync": "fsync", "rename": "rename", "unlink": "unlink"}
FAULTS = ("error=EIO", "error=ENOSPC", "signal=KILL")


class Fault(NamedTuple):
    """What happens at which call."""

    call: str
    number: int
    what: str


def disturbed(command: tuple[str, ...], fault: Fault, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose k-th call of a kind fails."""
    inject = f"inject={fault.call}:{fault.what}:when={fault.number}"
    strace = ("strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={fault.call}", "-e", inject)
    return subprocess.run([*strace, *command], cwd=folder, capture_output=True, text=True, check=False)


def is_right(fault: Fault, end: subprocess.CompletedProcess[str]) -> bool:
    """Whether a command ended as it should."""
    if "Traceback" in end.stderr:
        return False
    # strace counts by thread: one that made fewer calls than that ends undisturbed.
    return end.returncode in ((0, -9, 137) if "KILL" in fault.what else (0, 6))


def prove(name: str, sample: int, seed: int, scratch: Path) -> bool:
    """Prove it of one command, at a sample of its calls; all of them with a sample of 0."""
    command = arguments_of(name, scratch / "data")
    whole = scratch / f"{name}-whole"
    whole.mkdir()
    ops = record(command, whole, scratch / f"{name}.trace")
    counts = Counter(CALLS[op.call] for op in ops if op.call in CALLS)
    every = [
        Fault(call, number, what)
        for call, count in counts.items()
        for number in range(1, count + 1)
        for what in FAULTS
    ]
    chosen = random.Random(seed).sample(every, min(sample, len(every))) if sample else every
    expected, num_bad, codes = products(whole), 0, Counter[int]()
    for number, fault in enumerate(chosen):
        folder = scratch / f"{name}-{number}"
        folder.mkdir()
        first = disturbed(command, fault, folder)
        codes[first.returncode] += 1
        again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = products(folder)
        other = [path for path in expected | found if expected.get(path) != found.get(path)]
        if not is_right(fault, first) or again.returncode or other:
            num_bad += 1
            said = " ".join(first.stderr.split())[-300:]
            print(
                f"  {fault}: exit code {first.returncode} ({said}); again {again.returncode}, other: {other}"
            )
    ends = ", ".join(f"{count} with exit code {code}" for code, count in sorted(codes.items()))
    print(f"{name}: {len(every)} faults, {len(chosen)} tried ({ends}), {num_bad} bad", flush=True)
    return not num_bad


if __name__ == "__main__":
    prove_all(prove, str(__doc__), sample=20, of="faults of each command; 0: every one")
