"""Which source a piece of code runs, found by following its imports, and whether it has changed since.

A list of file names kept by hand goes wrong at the first file that moves; imports cannot: what is not
imported does not run. Files are read as text and nothing is imported, so asking costs no torch.

Imports are followed inside `sppnet` and inside the packages of the entries themselves: what a user wrote
beside a class of theirs counts, installed libraries do not (provenance holds their versions). A module counts
whole, but for the package that an entry of the form `module:function` stands in: its modules serve several
such entries, and only the definitions that this one uses count.
"""

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from sppnet.artifacts import file_digest

_OURS: Final = "sppnet"
_PACKAGE: Final = Path(__file__).parent


class _Module(NamedTuple):
    """A parsed source file."""

    name: str
    text: str
    tree: ast.Module
    is_package: bool


def code_of(entries: Iterable[str], *, package: Path = _PACKAGE) -> dict[str, str]:
    """SHA-256 of all that entries run, by what it is of: a module, or a function with what it uses there.

    Args:
        entries: Modules ("sppnet.ops.pyramid"), or definitions in them ("sppnet.ops.pyramid:num_bins").
        package: Where `sppnet` lies.

    Returns:
        Names, sorted, and digests. Of an entry that has no source file (a built-in) there is none.
    """
    found: dict[str, str] = {}
    waiting = list(dict.fromkeys(entries))
    tops = {_OURS, *(_top(entry) for entry in waiting)}
    # Packages whose modules are taken apart.
    shared = {entry.partition(":")[0].rpartition(".")[0] for entry in waiting if ":" in entry}
    while waiting:
        entry = waiting.pop()
        if entry in found:
            continue
        module_name, _, definition = entry.partition(":")
        file = _file_of(module_name, package)
        if file is None:
            continue
        found[entry] = _digest_now(entry, package) or ""
        for home, name in _imports_of(_parsed(module_name, file), definition):
            if _top(home) not in tops:
                continue
            part = f"{home}.{name}" if name else home
            if _file_of(part, package) is not None:  # a module, of a package or by its whole name
                waiting.append(part)
            elif home != _OURS:  # the root names what is public, and runs nothing
                waiting.append(f"{home}:{name}" if home.rpartition(".")[0] in shared else home)
    return dict(sorted(found.items()))


def module_of(name: str, *, package: Path = _PACKAGE) -> str:
    """The module of a class or function that is called by its whole name: "sppnet.ops.pyramid.num_bins"."""
    module = name.rpartition(".")[0]
    while module and _file_of(module, package) is None:
        module = module.rpartition(".")[0]
    return module or name


def changed_since(recorded: Mapping[str, str], *, package: Path = _PACKAGE) -> list[str]:
    """Name what is not as `code_of` found it: it was edited, moved or removed.

    What is new is seen by the edit that imports it.
    """
    return [entry for entry, digest in recorded.items() if _digest_now(entry, package) != digest]


def _digest_now(entry: str, package: Path) -> str | None:
    module_name, _, definition = entry.partition(":")
    file = _file_of(module_name, package)
    if file is None:
        return None
    if not definition:
        stat = file.stat()
        return _file_digest(file, stat.st_size, stat.st_mtime_ns)
    return _digest(_parsed(module_name, file), definition)


@functools.cache
def _file_digest(file: Path, _size: int, _changed: int) -> str:
    return file_digest(file)


def _top(entry: str) -> str:
    return entry.partition(":")[0].partition(".")[0]


def _file_of(name: str, package: Path) -> Path | None:
    """The source file of a module; imports nothing: names may come from a file that came from anywhere."""
    top, *rest = name.split(".")
    if not all(part.isidentifier() for part in (top, *rest)):
        return None
    roots: Sequence[str | Path] = [package]
    if top != _OURS:
        found = getattr(sys.modules.get(name), "__file__", None)
        if found is None:
            try:
                spec = importlib.util.find_spec(top)
            except (ImportError, ValueError, AttributeError):
                return None
            found = spec.origin if spec is not None and not rest else None
            roots = (spec.submodule_search_locations or ()) if spec is not None and rest else ()
        if found is not None:
            return Path(found) if found.endswith(".py") and Path(found).is_file() else None
    places = [Path(root, *rest) for root in roots]
    files = (file for place in places for file in (place.with_suffix(".py"), place / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def _parsed(name: str, file: Path) -> _Module:
    stat = file.stat()
    return _parse(name, file, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _parse(name: str, file: Path, _size: int, _changed: int) -> _Module:
    text = file.read_text(encoding="utf-8")
    return _Module(name, text, ast.parse(text), file.name == "__init__.py")


@functools.cache
def _used_by(module: _Module, definition: str) -> list[ast.stmt]:
    """The statements of a module that one of its definitions needs, in their order."""
    homes: dict[str, ast.stmt] = {}
    always = []
    for node in module.tree.body:
        names = list(_names_bound(node))
        homes |= dict.fromkeys(names, node)
        if not names and not _is_for_types(node) and not _is_text(node):
            always.append(node)
    needed: dict[int, ast.stmt] = {}
    waiting = [*always, *([homes[definition]] if definition in homes else [])]
    while waiting:
        node = waiting.pop()
        if id(node) in needed:
            continue
        needed[id(node)] = node
        waiting += [homes[name] for name in _names_in([node]) if name in homes]
    return [node for node in module.tree.body if id(node) in needed]


def _names_in(nodes: Iterable[ast.stmt]) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _names_bound(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        yield from (
            part.id
            for part in ast.walk(node)
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
        )


@functools.cache
def _digest(module: _Module, definition: str) -> str:
    """SHA-256 of the statements of a module that one of its definitions needs, as they are written."""
    lines = module.text.splitlines()
    parts = []
    for node in _used_by(module, definition):
        if isinstance(node, ast.Import | ast.ImportFrom):  # what is imported counts itself
            continue
        decorators = getattr(node, "decorator_list", [])
        first = min(part.lineno for part in (node, *decorators))
        parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _imports_of(module: _Module, definition: str) -> tuple[tuple[str, str], ...]:
    """What a module imports, or one of its definitions."""
    if not definition:
        return tuple(_imported(module, module.tree.body, only=None))
    nodes = _used_by(module, definition)
    return tuple(_imported(module, nodes, only=_names_in(nodes)))


def _imported(
    module: _Module, nodes: Iterable[ast.AST], *, only: set[str] | None
) -> Iterator[tuple[str, str]]:
    """What statements import, at once or when they run: a module, and a name of it or nothing.

    What only a type checker sees does not run. Of imports at the top of a module, only the names in `only`.
    """
    for node in nodes:
        if _is_for_types(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (alias for alias in node.names if only is None or (alias.asname or alias.name) in only)
            yield from ((_absolute(module, node), alias.name) for alias in names)
        else:
            yield from _imported(module, ast.iter_child_nodes(node), only=None)


def _absolute(module: _Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
