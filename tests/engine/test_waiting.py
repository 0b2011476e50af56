"""Who waits for another thread's engine does not wait in silence."""

from __future__ import annotations

import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from small import bilevel, sgd
from torch import nn

import mlopt
from mlopt import CapabilityWarning, GraphError, _turn

LONG = 60  # seconds after which a test that hangs ends


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_turn, "PATIENCE", 0)


def step(engine, raised):
    """Take a step in a thread; warnings are errors."""
    try:
        engine.step()
    except (CapabilityWarning, GraphError) as error:
        raised.append(error)


class Waits(mlopt.Callback):
    def __init__(self, wait):
        self.on_step = lambda engine, metrics: wait()


HOLDS = {
    "a step of run() and its callbacks": lambda engine, wait: engine.run(
        steps=1, callbacks=[Waits(wait)], progress=False
    ),
    "validate()": lambda engine, wait: engine.run(steps=1, validate=wait, progress=False),
}


@pytest.mark.parametrize("kind", HOLDS)
def test_who_waits_for_long_says_for_whom(kind):
    other, raised, engine = bilevel().engine(), [], bilevel(train=None, valid=None).engine()

    def wait_for_it():
        thread = threading.Thread(target=step, args=(other, raised), name="the second")
        thread.start()
        thread.join(LONG)
        assert not thread.is_alive()

    HOLDS[kind](engine, wait_for_it)
    [error] = raised
    assert isinstance(error, CapabilityWarning)
    for said in ("step(): thread 'the second' waits", "'MainThread'", kind, "wait_for_it"):
        assert said in str(error)
    other.step()  # nothing is left of it


def test_an_objective_that_waits_is_named():
    W = mlopt.Variable(nn.Parameter(torch.ones(2)), "w")
    raised, other, threads = [], bilevel().engine(), [None]

    @mlopt.problem(over=W, optimizer=sgd(W))
    def fit(w):
        if threads == [None]:
            threads[0] = threading.Thread(target=step, args=(other, raised))
            threads[0].start()
            threads[0].join(LONG)
        return w.square().sum()

    mlopt.Engine([fit]).step()
    assert "in step() since" in str(raised[0])
    assert "in fit" in str(raised[0])


@pytest.mark.parametrize("how", ["join", "executor"])
def test_two_that_wait_for_each_other_are_refused(how):
    other, raised = bilevel().engine(), []

    def wait():
        if how == "join":
            thread = threading.Thread(target=step, args=(other, raised))
            thread.start()
            thread.join()
        else:
            with ThreadPoolExecutor(1) as threads:
                threads.submit(step, other, raised)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapabilityWarning)  # said before it gets there
        bilevel().engine().run(steps=1, validate=wait, progress=False)
    assert isinstance(raised[0], GraphError)
    assert "waits for the end of this thread" in str(raised[0])
    other.step()


def test_it_is_said_once_and_the_turn_comes(monkeypatch):
    other, told, said = bilevel().engine(), threading.Event(), []

    def show(message, *where):
        said.append(str(message))
        told.set()

    thread = threading.Thread(target=other.step)

    def wait():
        thread.start()
        assert told.wait(LONG)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        bilevel().engine().run(steps=1, validate=wait, progress=False)
        thread.join()
    assert len(said) == 1
    assert other.steps == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals for threads here")
def test_an_interrupt_while_it_waits_leaves_the_turn_to_others():
    held, done = threading.Event(), threading.Event()
    main = threading.get_ident()

    def hold():
        held.set()
        signal.pthread_kill(main, signal.SIGINT)
        done.wait(LONG)

    thread = threading.Thread(target=partial(_turn.have_turn, "work", hold))

    def begin_to_wait():
        thread.start()
        held.wait(LONG)
        _turn.have_turn("mine", int)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapabilityWarning)
        with pytest.raises(KeyboardInterrupt):
            begin_to_wait()
    done.set()
    thread.join()
    with ThreadPoolExecutor(1) as threads:
        threads.submit(_turn.have_turn, "another's", int).result(LONG)
