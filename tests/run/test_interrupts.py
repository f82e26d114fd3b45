"""Signals stop a run where it is, or behind what it has to save; those of others stay theirs."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from sppnet.run import interrupts
from sppnet.run.interrupts import Interrupted, Interruption


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _handlers_of_others() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_raises_in_the_middle_of_a_long_piece_of_work():
    interruption = Interruption()
    began = time.monotonic()
    with interruption.listen(), pytest.raises(Interrupted) as stop, interruption.heard_at_once():
        threading.Timer(0.05, send, [signal.SIGUSR1]).start()
        time.sleep(20)
    assert stop.value.exit_code == 138
    assert time.monotonic() - began < 10


def test_what_must_be_saved_first_is_not_disturbed():
    interruption = Interruption()
    with interruption.listen(), pytest.raises(Interrupted) as stop, interruption.heard_at_once():
        interruption.is_deferred = True
        send(signal.SIGTERM)
        saved = "all of it"
        interruption.raise_if_requested()
    assert saved == "all of it"
    assert stop.value.exit_code == 143


def test_a_signal_that_came_before_the_work_stops_it_at_its_beginning():
    interruption = Interruption()
    with interruption.listen():
        send(signal.SIGHUP)
        with pytest.raises(Interrupted), interruption.heard_at_once():
            pytest.fail("the work began")


def test_a_terminal_that_hangs_up_twice_does_not_end_a_run_that_saves():
    interruption = Interruption()
    with interruption.listen():
        send(signal.SIGHUP)
        send(signal.SIGHUP)
        assert interruption.signal_number == signal.SIGHUP


def test_under_nohup_a_hang_up_is_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interruption = Interruption()
    with interruption.listen():
        send(signal.SIGHUP)
        interruption.take_over()
        send(signal.SIGHUP)
        assert not interruption.requested


def test_a_launchers_signal_stays_the_launchers():
    heard: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    interruption = Interruption()
    with interruption.listen():
        interruption.take_over()
        send(signal.SIGUSR2)
    assert heard == [signal.SIGUSR2]
    assert not interruption.requested


def test_helpers_that_do_not_move_are_ended(monkeypatch):
    monkeypatch.setattr(interrupts, "_HELPERS_SECONDS", 0.01)
    ended = threading.Event()
    with Interruption(ended.set).listen():
        send(signal.SIGINT)
        assert ended.wait(10)
