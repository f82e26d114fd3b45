"""What can go wrong, and the exit code the command line gives it.

A message names the file or key, what was found, what was expected, and the next step.
"""

from typing import ClassVar


class SppnetError(Exception):
    """Base of every error a user can cause or meet; shown as one line, without a traceback."""

    exit_code: ClassVar[int] = 1


class ConfigError(SppnetError, ValueError):
    """A configuration that cannot be run: unknown key, wrong type, out of range, contradictory."""

    exit_code: ClassVar[int] = 2


class DataError(SppnetError):
    """A data file that is missing, unreadable or not what its layout promises."""

    exit_code: ClassVar[int] = 3


class ArtifactError(SppnetError):
    """A file of our own that is damaged, or belongs to another configuration."""

    exit_code: ClassVar[int] = 4


class NonFiniteError(SppnetError):
    """A loss or a feature that is NaN or infinite."""

    exit_code: ClassVar[int] = 5


class ResourceError(SppnetError):
    """Not enough disk or memory, or no permission to write."""

    exit_code: ClassVar[int] = 6


class PartialSweepError(SppnetError):
    """Some cells of a sweep failed; the others are complete."""

    exit_code: ClassVar[int] = 7


def exit_code_of(error: BaseException) -> int:
    """The exit code of whatever was raised: what the system refuses (a full disk) is a resource."""
    if isinstance(error, SppnetError):
        return error.exit_code
    return ResourceError.exit_code if isinstance(error, OSError | MemoryError) else 1
