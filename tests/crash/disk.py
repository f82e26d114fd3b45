"""What a crash may leave of what a command asked of the kernel.

A command is run under strace. Its calls are played on a model of POSIX: what is written to a file is sure
to survive a crash only once the file was synchronised (fsync), a name that was made, replaced or removed
only once its directory was. Before that each of them may be there or not, and what was written may be
there in part. The kernel keeps the order of one directory's names, except where `any_order`.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,fsync,"
    "fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat,"
    "sendfile,copy_file_range"
)
_HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
_CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?(?: .*)?$", re.DOTALL)


class Op(NamedTuple):
    """One call that changed what is on the disk, or made it sure.

    Attributes:
        call: open, write, truncate, sync, rename, unlink or mkdir.
        path: Of the file or directory.
        data: Bytes written; of a rename the new path.
        at: Where they were written; of truncate the new size.
    """

    call: str
    path: str
    data: bytes = b""
    at: int = 0


def record(command: Sequence[str], folder: Path, trace: Path) -> list[Op]:
    """Run a command in a folder; list what it did to the files below.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    strace = ["strace", "-f", "--seccomp-bpf", "-y", "-xx", "-s", "1000000000", "-o", str(trace)]
    subprocess.run([*strace, "-e", f"trace={CALLS}", *command], cwd=folder, check=True, capture_output=True)
    with trace.open() as stream:
        reader = _Reader(str(folder.resolve()))
        return [op for line in _whole_lines(stream) if (op := reader.read(line))]


def _whole_lines(lines: Iterator[str]) -> Iterator[str]:
    """Put calls together that another thread's cut in two."""
    begun: dict[str, str] = {}
    for line in lines:
        process = line.partition(" ")[0]
        if line.rstrip().endswith("<unfinished ...>"):
            begun[process] = line.rstrip().removesuffix("<unfinished ...>")
        elif " resumed>" in line[:60]:
            yield begun.pop(process) + line.partition(" resumed>")[2]
        else:
            yield line


def _bytes(text: str) -> bytes:
    return b"".join(bytes.fromhex(run.replace("\\x", "")) for run in _HEX.findall(text))


class _Reader:
    """Turns strace's lines into what they did to the files below a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        # Where files under way are written next, -1 at the end: one process writes each, by one stream.
        self.offsets: dict[str, int] = {}

    def read(self, line: str) -> Op | None:
        if (found := _CALL.match(line)) is None or int(found[4]) < 0:
            return None
        _, call, arguments, result, made = found.groups()
        places = [_bytes(text).decode() for text in re.findall(r"<([^>]*)>", arguments)]
        strings = [_bytes(text) for text in re.findall(r'"([^"]*)"', arguments)]
        if call in ("open", "openat", "creat"):
            return self._open(_bytes(made or "").decode(), arguments)
        if call.startswith(("rename", "unlink", "rmdir", "mkdir")):
            base = Path(places[0] if arguments.startswith("AT_FDCWD") else self.folder)
            path, *other = [str(base / text.decode(errors="surrogateescape")) for text in strings]
            kind = "unlink" if call == "rmdir" else call.removesuffix("2").removesuffix("at")
            return Op(kind, path, *(one.encode() for one in other)) if self._is_below(path) else None
        if not places or not self._is_below(places[0]):
            return None
        return self._change(call, places[0], arguments, strings, int(result))

    def _is_below(self, path: str) -> bool:
        return path.startswith(self.folder)

    def _open(self, path: str, arguments: str) -> Op | None:
        if not self._is_below(path):
            return None
        self.offsets[path] = -1 if "O_APPEND" in arguments else 0
        if "O_CREAT" not in arguments and "O_TRUNC" not in arguments:
            return None
        return Op("open", path, at=int("O_TRUNC" in arguments))

    def _change(self, call: str, path: str, arguments: str, strings: list[bytes], result: int) -> Op | None:
        offset = self.offsets.get(path, -1)
        if call in ("fsync", "fdatasync"):
            return Op("sync", path)
        if call == "lseek":
            self.offsets[path] = result if offset >= 0 else -1
            return None
        if call == "write":
            self.offsets[path] = offset + result if offset >= 0 else -1
            return Op("write", path, strings[0][:result], offset)
        last = arguments.rpartition(",")[2]
        if call == "pwrite64":
            return Op("write", path, strings[0][:result], int(last))
        if call == "ftruncate":
            return Op("truncate", path, at=int(last))
        raise NotImplementedError(f"{call} of {path}: not in the model")


@dataclass
class _Inode:
    """A file: what is sure, and what was written since."""

    sure: bytes = b""
    since: list[Op] = field(default_factory=list)

    def content(self, calls: int | None = None) -> bytes:
        """After so many of the calls since; all of them by default."""
        content = bytearray(self.sure)
        for op in self.since[:calls]:
            if op.call == "truncate":
                content = content[: op.at].ljust(op.at, b"\0")
            else:
                at = len(content) if op.at < 0 else op.at
                content[at : at + len(op.data)] = op.data
        return bytes(content)

    def contents(self) -> list[bytes]:
        """All that a crash may leave: the whole; no last call, half of it, zeros for it; what is sure."""
        if not self.since:
            return [self.sure]
        whole, before = self.content(), self.content(-1)
        half = whole[: len(before) + (len(whole) - len(before)) // 2]
        zeros = whole[: len(before)].ljust(len(whole), b"\0")
        return list(dict.fromkeys([whole, before, half, zeros, self.sure]))


@dataclass
class _Folder:
    """A directory: names that are sure, and what was done to them since."""

    sure: dict[str, _Inode] = field(default_factory=dict)
    since: list[tuple[str, str, _Inode | None]] = field(default_factory=list)  # call, name, what it is then

    def names(self, kept: Sequence[int] | None = None) -> dict[str, _Inode]:
        """After the calls since, or only those of these numbers."""
        names = dict(self.sure)
        for number, (call, name, inode) in enumerate(self.since):
            if kept is not None and number not in kept:
                continue
            old, _, new = name.partition("\0")
            names.pop(old, None)
            if call != "unlink" and inode is not None:
                names[new or old] = inode
        return names


class State(NamedTuple):
    """What a crash left of one directory.

    Attributes:
        folder: Which.
        files: Contents by name.
        after: Number of calls that came before the crash.
    """

    folder: str
    files: Mapping[str, bytes]
    after: int


class Disk:
    """The files below a folder while a command's calls are played.

    Args:
        folder: Is there at first, and sure.
        any_order: A crash may keep a later change of a directory's names and lose an earlier one.
    """

    def __init__(self, folder: str, *, any_order: bool = True) -> None:
        self.folders = {folder: _Folder()}
        self.any_order = any_order
        self.unsure_folders: dict[str, str] = {}  # made, by the directory whose sync makes them sure

    def play(self, op: Op) -> list[str]:
        """Play a call; return the directories whose possible states it changed."""
        path, parent = op.path, str(Path(op.path).parent)
        name = Path(path).name
        if op.call == "mkdir":
            self.folders[path] = _Folder()
            self.unsure_folders[path] = parent
            return [path]
        if op.call == "sync":
            if (folder := self.folders.get(path)) is not None:
                folder.sure, folder.since = folder.names(), []
                self.unsure_folders = {one: at for one, at in self.unsure_folders.items() if at != path}
                return [path]
            inode = self.folders[parent].names()[name]
            inode.sure, inode.since = inode.content(), []
            return [parent]
        folder = self.folders[parent]
        if op.call == "open":
            if name not in folder.names():
                folder.since.append(("open", name, _Inode()))
            elif op.at:
                folder.names()[name].since.append(Op("truncate", path, at=0))
        elif op.call in ("write", "truncate"):
            folder.names()[name].since.append(op)
        elif op.call == "unlink":
            if path in self.folders:
                del self.folders[path]
                self.unsure_folders.pop(path, None)
            else:
                folder.since.append(("unlink", name, None))
        elif op.call == "rename":
            self._rename(op, folder, name)
        return [parent]

    def _rename(self, op: Op, folder: _Folder, name: str) -> None:
        target = Path(op.data.decode())
        if op.path in self.folders:  # a directory that was made aside
            for old in [one for one in self.folders if one == op.path or one.startswith(f"{op.path}/")]:
                new = str(target) + old.removeprefix(op.path)
                self.folders[new] = self.folders.pop(old)
                self.unsure_folders[new] = str(Path(new).parent)
                self.unsure_folders.pop(old, None)
            return
        inode = folder.names()[name]
        if str(target.parent) == str(Path(op.path).parent):
            folder.since.append(("rename", f"{name}\0{target.name}", inode))
        else:
            raise NotImplementedError(f"{op.path} to {target}: not in the model")

    def contents(self, folder: str) -> dict[str, bytes]:
        """What is there while nothing crashes."""
        return {name: inode.content() for name, inode in self.folders[folder].names().items()}

    def states(self, folder: str, after: int) -> Iterator[State]:
        """Every state that a crash may leave of a directory now."""
        one = self.folders[folder]
        count = len(one.since)
        kept: list[Sequence[int]] = [range(first) for first in range(count + 1)]
        if self.any_order:
            kept += [[n for n in range(count) if n != lost] for lost in range(count - 1)]
        for numbers in kept:
            names = one.names(numbers)
            # Files that are written at the same time are rare: each is tried with all the others whole.
            unsure = [name for name, inode in names.items() if inode.since]
            whole = {name: inode.content() for name, inode in names.items()}
            yield State(folder, whole, after)
            for name in unsure:
                for content in names[name].contents()[1:]:
                    yield State(folder, {**whole, name: content}, after)
            if len(unsure) > 1:
                yield State(folder, {name: inode.sure for name, inode in names.items()}, after)

    def what_is_sure(self) -> dict[str, bytes]:
        """The files that no crash can take away, by path."""
        lost = set(self.unsure_folders)
        return {
            f"{folder}/{name}": inode.sure
            for folder, one in self.folders.items()
            if not any(part in lost for part in (folder, *map(str, Path(folder).parents)))
            for name, inode in one.sure.items()
        }

    def unsure(self) -> list[str]:
        """Names and contents that a crash could still take away; a removed name may come back."""
        pending = [f"{folder}/{name}" for folder, one in self.folders.items() for name in _unsure_names(one)]
        return sorted([*pending, *self.unsure_folders])


def _unsure_names(folder: _Folder) -> set[str]:
    names = {name.rpartition("\0")[2] for call, name, _ in folder.since if call != "unlink"}
    return names & set(folder.names()) | {name for name, inode in folder.names().items() if inode.since}
