import signal
from threading import Thread

import pytest

from search.interrupts import handler_restored, interrupts_held


def test_held_interrupt_counts_once_the_context_has_ended() -> None:
    done = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done
    assert signal.getsignal(signal.SIGINT) is before


def test_handler_that_others_leave_behind_is_taken_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with handler_restored():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_interrupts_alone() -> None:
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with interrupts_held():
                pass
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=enter)
    thread.start()
    thread.join()
    assert not errors
