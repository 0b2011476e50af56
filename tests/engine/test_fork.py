"""A child that is forked while an engine of another thread works is not kept waiting for it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mlopt._turn import have_turn


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of threads in a process that forks
def test_a_child_takes_its_turn():
    held, done = threading.Event(), threading.Event()

    def work():
        held.set()
        done.wait(60)

    thread = threading.Thread(target=have_turn, args=("work", work))
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # ends it, should it wait
        os._exit(have_turn("a child's", int))
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    have_turn("work", int)
