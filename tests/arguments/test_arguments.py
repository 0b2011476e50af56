"""Every parameter of every public callable refuses what it cannot use, in words, at once."""

from __future__ import annotations

import inspect
import re
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from arguments import core, data, engine, files, generators, nas
from arguments.example import Example, call
from arguments.walk import hints_of, names, public_callables
from arguments.wrong import wrong_values

import mlopt.nas
from mlopt import MloptError, loggers, report

CALLABLES = public_callables()
EXAMPLES: dict[str, Example] = {
    name: example
    for table in (core, engine, data, files, generators, nas)
    for name, example in table.EXAMPLES.items()
}
PARAMETERS = [(name, parameter) for name, c in CALLABLES.items() for parameter in names(c)]

#: Who else may speak in an error: what is made in the call, or a file of it.
SPEAKERS = {
    "mlopt.generators.make_gan": ("DCGANGenerator",),
    "mlopt.nas.ClassLosses.forward": ("mean_per_class",),
    "mlopt.nas.ClassLosses.of_sums": ("ClassLosses",),
    "mlopt.nas.Supernet.features": ("Supernet",),
    **{f"mlopt.nas.{kind.__name__}.supernet": ("Supernet",) for kind in mlopt.nas.SPACES.values()},
    "mlopt.nas.retrain": ("checkpoint of a training",),
    "mlopt.nas.Genotype.from_json": ("from_json",),
    # A problem is told by the name of its function, a list by what it holds.
    **dict.fromkeys(("mlopt.Problem", "mlopt.Signal"), ("square", "function")),
    **dict.fromkeys(("mlopt.problem", "mlopt.signal"), ("square",)),
    **dict.fromkeys(("mlopt.Engine", "mlopt.Game", "mlopt.Graph", "mlopt.Stack"), ("list",)),
    "mlopt.Alternate": ("Alternate",),
    "mlopt.Loops": ("Loops",),
}
FILES = ("run folder", "file", "JSON", "metrics.jsonl")

MOST_SECONDS = 120  # one example starts a process, beside whatever else this machine does


class Endless(BaseException):
    """A call that did not come back."""


@contextmanager
def at_once() -> Iterator[None]:
    """Nothing runs for ever: not even a call that swallows every exception."""

    def late(*_: object) -> None:
        raise Endless

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def target(name: str, example: Example) -> Any:
    """What is called: the public name, or the method of an object made for it."""
    if example.on is None:
        return CALLABLES[name]
    made = example.on()
    return made if inspect.isfunction(made) else getattr(made, name.rpartition(".")[2])


def outcome(name: str, example: Example, changed: dict[str, Any]) -> str:
    """Empty if the call went through, `refused` if it was refused as it should be, else a fault."""
    arguments, parameter = {**example.arguments(), **changed}, next(iter(changed), "")
    function = target(name, example)
    try:
        with at_once():
            close(call(function, arguments))
    except MloptError as error:
        text = str(error)
        if parameter and not _tells(text, name, parameter, arguments):
            return f"an error that does not say where: {text}"
        return "refused"
    except Endless:
        return "an endless run"
    except Exception as error:
        return f"a raw {type(error).__name__}: {error}"
    finally:
        close(getattr(function, "__self__", None))
    return ""


def close(thing: Any) -> None:
    """Close what has a file."""
    if isinstance(thing, (loggers.JsonlLogger, loggers.TensorBoard, report.RunFolder)):
        thing.close()


def _tells(text: str, name: str, parameter: str, arguments: dict[str, Any]) -> bool:
    """Whether an error names the callable, or the label it was given, and the parameter."""
    *_, owner, last = name.split(".")
    more = FILES if name.startswith(("mlopt.loggers", "mlopt.report")) else SPEAKERS.get(name, ())
    where = {owner, last, str(arguments.get("name", last)), *more}
    what = {parameter, str(arguments[parameter]), repr(arguments[parameter]), *more}

    def said(words: Iterable[str]) -> bool:
        return any(re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text) for w in words if w)

    return said(where) and said(what)


def faults(name: str, parameter: str) -> Iterator[str]:
    """What is wrong with the answers to wrong values of one parameter."""
    example, function = EXAMPLES[name], CALLABLES[name]
    spec = inspect.signature(function).parameters[parameter]
    valid = example.arguments().get(parameter, spec.default)
    values = wrong_values(hints_of(function).get(parameter, Any), valid)
    if spec.kind is spec.VAR_POSITIONAL:
        values = {label: (value,) for label, value in values.items()}
    values |= {f"{v!r:.40}".split("\n")[0]: v for v in example.wrong.get(parameter, ())}
    legal = {label.strip() for label in example.legal.get(parameter, "").split(",")} - {""}
    if not values and legal != {"anything"}:
        yield f"{parameter}: say in the table of examples what is wrong, or legal='anything'"
        return
    for label in sorted(legal - values.keys() - {"anything"}):
        yield f"{parameter}: {label!r} is no value of these: {', '.join(values)}"
    for label, value in values.items():
        found = outcome(name, example, {parameter: value})
        if label in legal and found:
            yield f"{parameter}={label}: legal, and met with {found}"
        elif label not in legal and found != "refused":
            yield f"{parameter}={label}: met with {found or 'silence'}"


def test_every_public_callable_has_its_example() -> None:
    assert CALLABLES.keys() == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_wrong_values_are_refused_in_words(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a name of a file may be legal
    assert outcome(name, EXAMPLES[name], {}) == "", "the example itself is wrong"
    found = [fault for p in names(CALLABLES[name]) for fault in faults(name, p)]
    assert not found, "\n".join(["", *found])


def test_the_number_of_parameters_walked() -> None:
    """Not fewer than there were: nobody takes one off the walk without seeing it here."""
    print(f"walked {len(PARAMETERS)} parameters of {len(CALLABLES)} callables")
    assert len(PARAMETERS) >= 526
