"""Signals that ask a run to stop: it keeps what it has and ends with 128 + the signal's number.

They are Ctrl-C, SIGTERM, the hang-up of a terminal that closes, and what a cluster sends before it takes a
machine away (USR1, USR2). A stage stops wherever it is: whatever it has finished is on disk. What has to be
saved first, a network or a detector under training, stops behind its batch or image. A second Ctrl-C or
SIGTERM ends the process at once.
"""

import contextlib
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_URGENT: Final = (signal.SIGINT, signal.SIGTERM)  # a terminal that closes may hang up twice
_HELPERS_SECONDS, _RUN_SECONDS = 15.0, 45.0  # to stop in, before processes that do not move are ended


@final
class Interrupted(BaseException):
    """The run was asked to stop and saved what it had; not an error, so not an Exception.

    Attributes:
        exit_code: 128 + the signal's number: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


def _end_loaders() -> None:
    for process in multiprocessing.active_children():
        process.kill()


@final
class Interruption:
    """What the signal handlers heard.

    Args:
        end_helpers: Ends the processes that work for this one, where they do not stop by themselves.
    """

    def __init__(self, end_helpers: Callable[[], None] = _end_loaders) -> None:
        self.signal_number: int | None = None
        self.is_deferred = True  # until `raise_if_requested`; otherwise a signal raises wherever it comes
        self._end_helpers = end_helpers
        self._process = os.getpid()
        self._before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}
        self._is_heard, self._is_over = threading.Event(), threading.Event()

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
    def heard_at_once(self) -> Iterator[None]:
        """While the block runs, signals raise wherever they come, unless it sets `is_deferred`.

        Raises:
            Interrupted: A signal was received, or had been before the block.
        """
        self.is_deferred = False
        try:
            self.raise_if_requested()
            yield
        finally:
            self.is_deferred = True

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Handle the signals while the block runs, then put the old handlers back.

        A hang-up stays ignored under nohup, and signals that a launcher handles stay the launcher's.
        """
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {
            number: handler
            for number, handler in handlers.items()
            if number in _URGENT or handler is signal.SIG_DFL
        }
        # Not in the handler, which may come while a lock of `threading` is held.
        threading.Thread(target=self._watch, daemon=True).start()
        self.take_over()
        try:
            yield
        finally:
            self._is_over.set()
            self._is_heard.set()
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Be the handler of the signals, whoever was since `listen`."""
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process that loads images ends when this one does
            return
        if self.requested:
            if number in _URGENT:
                # Not sys.exit: a second Ctrl-C must end even a process that swallows exceptions.
                self._end_helpers()
                os._exit(128 + number)
            return
        self.signal_number = number
        self._is_heard.set()
        if number == signal.SIGHUP:
            _leave_terminal()
        with contextlib.suppress(OSError):  # not print: the signal may have come in the middle of one
            os.write(2, b"\nstopping, keeping what is done (again to stop at once) ...\n")
        if not self.is_deferred:
            raise Interrupted(number)

    def _watch(self) -> None:
        """Behind a signal, end what does not move: processes that were halted, and then this one."""
        self._is_heard.wait()
        if not self._is_over.wait(_HELPERS_SECONDS):
            self._end_helpers()
        if not self._is_over.wait(_RUN_SECONDS):
            os._exit(128 + (self.signal_number or 0))


def _leave_terminal() -> None:
    """Write to nowhere what would go to a terminal that is gone: writing there fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
