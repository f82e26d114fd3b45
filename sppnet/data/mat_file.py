"""Cells of matrices and strings in MATLAB files of version 5 to 7 ("MAT-File Format", The MathWorks).

Why not SciPy's reader: a few changed bytes make it write where it must not and crash the process. This one
looks at bytes only through checked slices, follows no nesting, and knows no type that could hold code.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Shaped

from sppnet.artifacts import regular

Cell = Shaped[np.ndarray, "rows columns"] | str

_HEADER_BYTES: Final = 128
_ORDERS: Final = {b"IM": "<", b"MI": ">"}
_ENDINGS: Final = {"<": "-le", ">": "-be"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _CHARACTERS = 1, 4
_NUMBERS = range(6, 16)  # classes double to uint64
_NUMBER_TYPES = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
_TEXT_TYPES = {1: "ascii", 2: "ascii", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
# Published files hold a variable in a quarter of its bytes; a bomb inflates to a thousand times its own.
_MOST_INFLATED: Final = 30
_SMALL: Final = 64 << 20  # bytes, however well they are packed
_MOST_PARTS: Final = 1_000_000  # entries of a cell; all of ILSVRC has half of it


class _Element(NamedTuple):
    kind: int
    body: memoryview


class _Array(NamedTuple):
    kind: int  # MATLAB's class
    sizes: tuple[int, ...]
    name: str
    parts: tuple[_Element, ...]  # a cell's entries, or the numbers or characters


def read_cells(path: Path, names: Sequence[str]) -> dict[str, list[Cell]]:
    """Read those of the named variables that are in a file; all must be cells.

    Returns:
        Their entries, column by column: matrices as stored, and strings.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is damaged, or a variable is or holds something else.
    """
    data = regular(path).read_bytes()
    order = _ORDERS.get(data[_HEADER_BYTES - 2 : _HEADER_BYTES])
    if order is None:
        raise ValueError("no byte order in its header")
    found: dict[str, list[Cell]] = {}
    for element in _elements(memoryview(data)[_HEADER_BYTES:], order):
        array = _to_array(_inflate(element, order), order)
        if array.name in names:
            if array.kind != _CELL:
                raise ValueError(f"{array.name} is of class {array.kind}; expected a cell, 1")
            if len(array.parts) != math.prod(array.sizes):
                raise ValueError(f"{array.name} has {len(array.parts)} entries, its sizes are {array.sizes}")
            found[array.name] = [_to_value(_to_array(part, order), order) for part in array.parts]
    return found


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """Take bytes apart at their tags: type and size, then the body."""
    position = 0
    while position < len(data):
        if position + 8 > len(data):
            raise ValueError("it ends inside a tag")
        kind, size = struct.unpack_from(f"{order}II", data, position)
        start = position + 8
        if kind >> 16:  # a body of up to 4 bytes shares the 8 of its tag
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
            size_limit = 4
        else:
            size_limit = len(data) - start
        if size > size_limit:
            raise ValueError(f"an element of {size} bytes where {size_limit} are left")
        yield _Element(kind, data[start : start + size])
        position = start + size
        if kind != _COMPRESSED:
            position += -position % 8


def _inflate(element: _Element, order: str) -> _Element:
    """Undo the compression of a variable."""
    if element.kind != _COMPRESSED:
        return element
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(element.body, max(_MOST_INFLATED * len(element.body), _SMALL))
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError(
            f"a compressed variable without its end, or {_MOST_INFLATED} times larger than in the file"
        )
    return next(_elements(memoryview(data), order), _Element(0, memoryview(b"")))


def _to_array(element: _Element, order: str) -> _Array:
    """Read the head of an array; its parts are left as they are."""
    if element.kind != _MATRIX:
        raise ValueError(f"type {element.kind} where an array, {_MATRIX}, belongs")
    if not element.body:  # MATLAB's []
        return _Array(_NUMBERS[0], (0, 0), "", (_Element(9, element.body),))
    parts = _elements(element.body, order)
    head = [part.body for part in islice(parts, 3)]
    if len(head) < 3 or len(head[0]) != 8 or len(head[1]) % 4:
        raise ValueError("an array without flags, sizes and name")
    flags = struct.unpack_from(f"{order}I", head[0])[0]
    sizes = struct.unpack(f"{order}{len(head[1]) // 4}i", head[1])
    entries = tuple(islice(parts, _MOST_PARTS + 1))
    if len(entries) > _MOST_PARTS:
        raise ValueError(f"an array of more than {_MOST_PARTS} entries")
    return _Array(flags & 0xFF, sizes, bytes(head[2]).decode("latin-1"), entries)


def _to_value(array: _Array, order: str) -> Cell:
    """Read an entry of a cell."""
    is_text = array.kind == _CHARACTERS
    # Complex numbers have a second part.
    if len(array.parts) != 1 or len(array.sizes) != 2 or not (is_text or array.kind in _NUMBERS):
        raise ValueError(f"an entry of class {array.kind} and sizes {array.sizes}; expected matrix or string")
    kind, body = array.parts[0]
    if kind not in (_TEXT_TYPES if is_text else _NUMBER_TYPES):
        raise ValueError(f"an entry whose values are of type {kind}")
    if is_text:
        encoding = _TEXT_TYPES[kind]
        return str(body, encoding + _ENDINGS[order] if encoding == "utf-16" else encoding)
    values: np.ndarray[Any, Any] = np.frombuffer(body, f"{order}{_NUMBER_TYPES[kind]}")
    if min(array.sizes) < 0 or len(values) != math.prod(array.sizes):
        raise ValueError(f"{len(values)} numbers, but sizes {array.sizes}")
    return values.reshape(array.sizes, order="F")
