"""Sources of vectors, and maps, of a list of images that tests call by their number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ByNumber:
    """Calls what it wraps with the path of an image instead of its number."""

    def __init__(self, wrapped: Any, paths: Sequence[Path]) -> None:
        self.wrapped, self.paths = wrapped, paths

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def size(self, number: int) -> Any:
        return self.wrapped.size(self.paths[number])

    def rows(self, number: int, *windows: Any, **named: Any) -> Any:
        return self.wrapped.rows(self.paths[number], *windows, **named)

    def places(self, number: int, windows: Any) -> Any:
        return self.wrapped.places(self.paths[number], windows)

    def at(self, number: int, scale: int) -> Any:
        return self.wrapped.at(self.paths[number], [scale])[0]

    def fill(self, scale: int, **named: Any) -> None:
        self.wrapped.fill(self.paths, scale, **named)
