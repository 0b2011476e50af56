"""`verify_resume`: shows that a run which is saved and resumed is the run that was not."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._arguments import checked, from_one, from_zero
from .._errors import SettingsError
from .._evaluation.layouts import copy
from .._graph.portable import portable
from .checkpoint_files import newest, write_checkpoint
from .engine import Engine
from .generators import generators, set_generators
from .state import save_state

__all__ = ["Resumption", "verify_resume"]

#: Sums by what they are of.
Sums = dict[str, str]


@dataclass(frozen=True)
class Resumption:
    """What `verify_resume` has found.

    Attributes:
        steps: how many there were.
        at: after how many the state was saved.
        difference: where the first difference is; empty if there is none.
    """

    steps: int
    at: int
    difference: str

    @property
    def same(self) -> bool:
        """Whether there is no difference, in a single bit."""
        return not self.difference

    def __str__(self) -> str:
        how = f"{self.steps} steps in one go, and saved after {self.at} and resumed"
        return f"{how}: {self.difference or 'the same to the bit'}"


@checked(SettingsError, steps=from_one, at=from_zero)
def verify_resume(make_engine: Callable[[], Engine], steps: int = 10, at: int = 5) -> Resumption:
    """Take steps in one go; and some of them, a save, a new process, a load, and the others.

    Compared are, bit by bit and after each of these steps: the batches, the metrics, the gradients
    that the optimizers got, the whole state (values, buffers, optimizers, schedulers, loaders,
    random numbers), and at the end each problem's hypergradient. So what `state_dict()` does not
    know of is found where it first shows.

    The new process imports the module that `make_engine` is of: it has to be a function of a
    module, and a script needs `if __name__ == "__main__":`. On a device whose kernels give other
    bits from run to run, a difference is no fault of the state: turn on deterministic algorithms.

    Args:
        make_engine: makes the engine, its variables, optimizers and loaders, anew, each time alike;
            the global generators stand at the same place each time.
        steps: in all.
        at: after how many it is saved.

    Returns:
        What was found; print it.

    Raises:
        SettingsError: `at` is not before `steps`, the function cannot be sent to another process,
            it gives the same variables twice, or that process has failed.
    """
    if at >= steps:
        raise SettingsError(f"verify_resume: at={at} must be before steps={steps}.")
    try:
        pickle.dumps(make_engine)
    except Exception as error:
        raise SettingsError(
            f"verify_resume: make_engine={make_engine!r} cannot be sent to another process "
            f"({error}). Give a function that stands in a module."
        ) from error
    cuda = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    numbers = generators(cuda)
    first = _made(make_engine, numbers)
    trained = [weakref.ref(p) for variable in first.graph.variables for p in variable.parameters()]
    whole = list(_trace(first, steps))[at:]
    del first
    begun = _made(make_engine, numbers)
    for variable in begun.graph.variables:
        if any(found() is p for found in trained for p in variable.parameters()):
            raise SettingsError(
                f"verify_resume: make_engine() gave an engine of {variable.name!r} again, which "
                "the one before has trained. Make variables, optimizers and loaders inside of it."
            )
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(at):
            begun.step()
        write_checkpoint(Path(folder), at, {"engine": save_state(begun)})
        del begun
        ask, answer = multiprocessing.get_context("spawn").Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_resumed, args=(make_engine, numbers, folder, steps - at, answer)
        )
        process.start()
        answer.close()
        try:
            found = ask.recv()
        except EOFError:
            found = None
        process.join()
    if found is None:
        raise SettingsError(
            f"verify_resume: the process that resumes has failed, with status {process.exitcode}; "
            "it says why above."
        )
    return Resumption(steps, at, _difference(whole, found, at))


def _made(make_engine: Callable[[], Any], numbers: Mapping[str, Any]) -> Engine:
    """From the same random numbers each time: what it draws itself is then alike."""
    set_generators(range(len(numbers["cuda"])), numbers)
    engine = make_engine()
    if not isinstance(engine, Engine):
        raise SettingsError(
            f"verify_resume: make_engine() gave a {type(engine).__name__}; it makes an Engine."
        )
    if engine._sharded is not None:
        raise SettingsError(
            "verify_resume: variables are sharded over ranks, and the process that goes on would "
            "be by itself. Verify an engine of the same graph whose modules are not sharded."
        )
    return engine


def _resumed(
    make_engine: Callable[[], Engine],
    numbers: Mapping[str, Any],
    folder: str,
    steps: int,
    answer: Any,
) -> None:
    """What the new process does."""
    engine, found = _made(make_engine, numbers), newest(Path(folder))
    assert found is not None
    engine.load_state_dict(found[1]["engine"])
    answer.send(list(_trace(engine, steps)))
    answer.close()


def _trace(engine: Engine, steps: int) -> Iterator[Sums]:
    """After each step, sums of all that it was and has left; at last those of hypergradients."""
    batches: list[tuple[int, int, Any]] = []
    with _listening(engine, batches):
        for _ in range(steps):
            batches.clear()
            metrics = engine.step()
            yield dict(_sums(engine, metrics, batches))
    for problem in engine.graph.problems:
        gradient = engine.hypergradient(problem)
        label = engine.graph.labels[problem]
        yield {f"the hypergradient of {label}": _sum({v.name: g for v, g in gradient.items()})}


@contextmanager
def _listening(engine: Engine, batches: list[tuple[int, int, Any]]) -> Iterator[None]:
    """Note what is drawn in a block: from which loader, as which batch of it, and what."""
    sources = list(engine._feed.sources.values())

    def listen(number: int, draw: Callable[[int], tuple[Any, int]]) -> Any:
        def noted(index: int) -> tuple[Any, int]:
            batch, in_pass = draw(index)
            batches.append((number, index, batch))
            return batch, in_pass

        return noted

    for number, source in enumerate(sources):
        source.draw = listen(number, source.draw)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for source in sources:
            del source.draw  # that of its class is there again


def _sums(
    engine: Engine, metrics: Any, batches: list[tuple[int, int, Any]]
) -> Iterator[tuple[str, str]]:
    for number, index, batch in batches:
        yield f"batch {index} of loader {number + 1}", _sum(batch)
    for name, value in metrics.items():
        yield f"the metric {name}", _sum(value)
    for variable in engine.graph.variables:
        for name, p in variable.named_parameters().items():
            yield f"the gradient of {variable.name}.{name}", _sum(p.grad)
    with torch.no_grad():
        yield from _flat("", save_state(engine))


def _flat(path: str, held: Any) -> Iterator[tuple[str, str]]:
    """The parts of a state, by the way to each."""
    if isinstance(held, dict) and held:
        for key, value in held.items():
            yield from _flat(f"{path}[{key!r}]", value)
    elif isinstance(held, list) and held:
        for i, value in enumerate(held):
            yield from _flat(f"{path}[{i}]", value)
    elif "measurement" not in path:  # a time
        yield f"state_dict(){path}", _sum(held)


def _sum(held: Any) -> str:
    """A sum of all bits of a value."""
    found = hashlib.blake2b(digest_size=16)
    for text in _bytes(held):
        found.update(text)
    return found.hexdigest()


def _bytes(held: Any) -> Iterator[bytes]:
    if isinstance(held, Tensor):
        t = copy(held.detach()).cpu()
        t = t.to_dense() if t.layout is not torch.strided else t
        yield f"{t.dtype} {tuple(t.shape)}".encode()
        yield t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(held, Mapping):
        for key, value in held.items():
            yield repr(key).encode()
            yield from _bytes(value)
    elif isinstance(held, list | tuple):
        yield f"{len(held)}".encode()
        for value in held:
            yield from _bytes(value)
    else:
        try:
            plain = portable(held, "a part")
        except SettingsError:  # of a batch: the same class is all that can be said
            yield type(held).__name__.encode()
            return
        if isinstance(plain, Tensor):
            yield from _bytes(plain)
        else:
            yield repr(plain).encode()


def _difference(whole: list[Sums], found: list[Sums], at: int) -> str:
    """Where they first differ."""
    for i, (one, other) in enumerate(zip(whole, found, strict=True)):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            where = "" if names[0].startswith("the hyper") else f"step {at + i}: "
            return f"{where}{names[0]} differs{more}"
    return ""
