"""Which command, of which version of the code."""

import shlex
import subprocess
import sys
from pathlib import Path


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["sppnet", *sys.argv[1:]])


def commit() -> str | None:
    """Short hash of the checkout this code runs from ("+" when it has changes); None outside of one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    return done.stdout.strip()
