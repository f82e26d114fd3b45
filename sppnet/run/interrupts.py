"""Ctrl-C and SIGTERM: at the first a run saves after its batch and stops; at the second it stops at once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@final
class Interrupted(BaseException):
    """The run was asked to stop and saved what it had; not an error, so not an Exception.

    Attributes:
        exit_code: 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


@final
class Interruption:
    """What the signal handlers heard."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @property
    def requested(self) -> bool:
        """Whether somebody asked the run to stop."""
        return self.signal_number is not None

    def raise_if_requested(self) -> None:
        """Stop here.

        Raises:
            Interrupted: A signal was received.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle the signals while the block runs, then put the old handlers back."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.take_over()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Be the handler of the signals, whoever was before."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            # Not sys.exit: a second Ctrl-C must end even a process that swallows exceptions.
            os._exit(128 + number)
        self.signal_number = number
        print("\nstopping after this batch (again to stop at once) ...", file=sys.stderr, flush=True)
