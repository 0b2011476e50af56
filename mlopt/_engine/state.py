"""The state of an engine: all that its next steps depend on, as tensors and plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .._errors import SettingsError, exhausted
from .._evaluation.layouts import copy, copy_into, form
from .._graph.portable import portable
from .._graph.problem import PerStep, Problem
from .._variable import Variable
from .generators import generators, set_generators
from .measure import Measurement
from .sharded_state import given, taken, whole
from .stepper import Stepper
from .transaction import Transaction

__all__ = ["give_state", "load_state", "save_state"]

FORMAT = 1
_KEYS = (
    "steps", "epoch", "epoch_stream", "failures", "loss_scale", "signals", "measurement", "care",
    "variables", "optimizers", "schedulers", "clock", "streams", "generators",
)  # fmt: skip


def save_state(engine: Stepper) -> dict[str, Any]:
    """What `load_state` takes; see `Engine.state_dict`."""
    sharded = engine._sharded
    if sharded is None:
        return _saved(engine)
    with sharded.standing():
        return given(sharded, engine.graph, dict(_sources(engine)), _saved(engine))


def _saved(engine: Stepper) -> dict[str, Any]:
    graph, care = engine.graph, engine._care
    with torch.no_grad():
        return {
            "format": FORMAT,
            "steps": engine.steps,
            "epoch": engine.epoch,
            "epoch_stream": _place(engine),
            "failures": engine._failures.row,
            "loss_scale": [engine._failures.size, engine._failures.good],
            "signals": portable(engine.signals, "a signal", copy),
            "measurement": None if engine.measurement is None else vars(engine.measurement).copy(),
            "care": {
                "norms": care.norms,
                "masks": care.masks,
                "unsolved": [graph.labels[node] for node in care.unsolved],
            },
            "variables": {name: _tensors(engine, source) for name, source in _sources(engine)},
            "optimizers": {
                graph.labels[p]: _state(p.optimizer, f"{p.name}.optimizer")
                for p in graph.problems
                if p.optimizer is not None
            },
            "schedulers": {
                graph.labels[p]: _state(_scheduler(p), f"{p.name}.scheduler")
                for p in graph.problems
                if p.scheduler is not None
            },
            "clock": portable(engine.clock.state, "a mean", copy),
            "streams": engine._feed.save(),
            "generators": generators(engine._evaluator.cuda),
        }


def load_state(engine: Stepper, state: Mapping[str, Any]) -> None:
    """Let an engine go on where another one stood; see `Engine.load_state_dict`.

    Raises:
        SettingsError: it is no state, or that of another graph; nothing has changed then.
    """
    engine._check()  # functions may make parts of modules when they are first called
    compare(engine, state := _as_held(engine, state))
    block = Transaction(engine._evaluator, engine._interrupts, engine._holdings)
    numbers = generators(engine._evaluator.cuda)
    try:
        with block as transaction, torch.no_grad():
            _keep(engine, transaction)
            engine._interrupts.begin()
            try:
                _take(engine, state)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise SettingsError(_no_state(error)) from error
            engine._ownership.check()
            with engine._interrupts.lifted():
                engine._feed.load(state["streams"])  # which may take long, and is whole by itself
    except BaseException:
        set_generators(engine._evaluator.cuda, numbers)
        raise


def _as_held(engine: Stepper, state: Any) -> Any:
    """A state as an engine holds tensors: whole, or rows of what is sharded."""
    if not (isinstance(state, Mapping) and {"variables", "optimizers"} <= state.keys()):
        return state  # which is refused
    if engine._sharded is None:
        return whole(dict(state))
    return taken(engine._sharded, engine.graph, dict(_sources(engine)), dict(state))


def _take(engine: Stepper, state: Mapping[str, Any]) -> None:
    """All of it but for the loaders."""
    for name, source in _sources(engine):
        _write(engine, source, state["variables"][name])
    for problem in engine.graph.problems:
        label = engine.graph.labels[problem]
        if problem.optimizer is not None:
            _load_optimizer(problem, state["optimizers"][label])
        if problem.scheduler is not None:
            where = f"load_state_dict: {problem.name}.scheduler"
            give_state(_scheduler(problem), state["schedulers"][label], where)
    engine.clock.state = portable(state["clock"], "a mean", copy)
    engine.steps, engine.epoch = state["steps"], state["epoch"]
    at = state["epoch_stream"]
    engine._epoch_stream = None if at is None else engine._feed.streams[at]
    engine._failures.row, engine.skipped = state["failures"], None
    if engine._failures.size is not None and state["loss_scale"][0] is not None:
        engine._failures.size, engine._failures.good = state["loss_scale"]
    engine.signals = portable(state["signals"], "a signal", copy)
    measured = state["measurement"]
    engine.measurement = None if measured is None else Measurement(**measured)
    engine._care.norms, engine._care.masks = state["care"]["norms"], state["care"]["masks"]
    nodes = {label: node for node, label in engine.graph.labels.items()}
    engine._care.unsolved = {nodes[label] for label in state["care"]["unsolved"]}
    set_generators(engine._evaluator.cuda, state["generators"])


def _no_state(error: Exception) -> str:
    return (
        f"load_state_dict: this is no whole state of an engine ({type(error).__name__}: {error}). "
        "Give what state_dict() has given."
    )


def compare(engine: Stepper, state: Mapping[str, Any]) -> None:
    """Refuse a state that is not of an engine's graph, with all that differs."""
    if not isinstance(state, Mapping) or "format" not in state:
        raise SettingsError(
            f"load_state_dict: this is no state of an engine, but {_brief(state)}. Give what "
            "state_dict() has given."
        )
    if state["format"] != FORMAT:
        raise SettingsError(
            f"load_state_dict: its format is {state['format']}, and this mlopt reads {FORMAT}. "
            "Load it with the version that has written it."
        )
    try:
        if missing := [key for key in _KEYS if key not in state]:
            raise KeyError(", ".join(missing))
        other = [*_differences(engine, state)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(_no_state(error)) from error
    if other:
        more = f"; and {len(other) - 5} more" if len(other) > 5 else ""
        raise SettingsError(
            f"load_state_dict: this is the state of another graph: {'; '.join(other[:5])}{more}. "
            "Make the engine as the one that was saved."
        )


def _differences(engine: Stepper, state: Mapping[str, Any]) -> Iterator[str]:
    graph = engine.graph
    optimized = [p for p in graph.problems if p.optimizer is not None]
    scheduled = [p for p in graph.problems if p.scheduler is not None]
    here: dict[str, list[str]] = {
        "variables": [name for name, _ in _sources(engine)],
        "optimizers": [graph.labels[p] for p in optimized],
        "schedulers": [graph.labels[p] for p in scheduled],
    }
    for kind, names in here.items():
        there = list(state[kind])
        if there != names:
            yield f"its {kind} are {', '.join(there) or 'none'}, not {', '.join(names) or 'none'}"
            return
    for name, source in _sources(engine):
        now, then = _tensors(engine, source, copied=False), state["variables"][name]
        for key in {**now["parameters"], **then["parameters"]}:
            yield from _other(
                f"{name}.{key}", now["parameters"].get(key), then["parameters"].get(key)
            )
        if len(now["buffers"]) != len(then["buffers"]):
            yield f"{name} has {len(then['buffers'])} buffers in it, not {len(now['buffers'])}"
        if len(now["modes"]) != len(then["modes"]):
            yield f"{name} has {len(then['modes'])} parts in it, not {len(now['modes'])}"
    if len(state["streams"]) != len(engine._feed.streams):
        yield f"it reads {len(state['streams'])} loaders, not {len(engine._feed.streams)}"
    for i, (stream, saved) in enumerate(zip(engine._feed.streams, state["streams"], strict=False)):
        if why := engine._feed.differs(stream, saved):
            yield f"loader {i + 1} {why}"


def _other(name: str, now: Tensor | None, then: Tensor | None) -> Iterator[str]:
    if now is None or then is None:
        yield f"{name} is {'not ' if then is None else ''}in it"
    elif form(now) != form(then) or now.dtype != then.dtype:
        yield f"{name} is of {_kind(then)} in it, not {_kind(now)}"


def _kind(tensor: Tensor) -> str:
    shape = "nested" if tensor.is_nested else tuple(tensor.shape)
    return f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def _brief(held: object) -> str:
    keys = ", ".join(map(repr, list(held)[:3])) if isinstance(held, Mapping) else ""
    return f"a {type(held).__name__}" + (f" with {keys}" if keys else "")


def _sources(engine: Stepper) -> Iterator[tuple[str, Any]]:
    """The variables, and the signals that have a memory, by names of which each is one's alone."""
    graph, seen = engine.graph, set[str]()
    remembering = [s for s in graph.signals if s in engine._evaluator.bindings]
    for source in (*graph.variables, *remembering):
        name, n = source.name, 1
        while name in seen:
            name, n = f"{source.name}_{n + 1}", n + 1
        seen.add(name)
        yield name, source


def _parameters(engine: Stepper, source: Any) -> dict[str, Tensor]:
    if isinstance(source, Variable):
        return engine._evaluator.parameters(source)
    return dict(source.state.named_parameters())


def _tensors(engine: Stepper, source: Any, copied: bool = True) -> dict[str, Any]:
    """Parameters and buffers, which parameters learn, and which parts are in training mode."""
    binding, found = engine._evaluator.bindings.get(source), _parameters(engine, source)
    buffers = [] if binding is None else binding.held()
    kept = copy if copied else Tensor.detach
    return {
        "parameters": {n: kept(p.detach()) for n, p in found.items()},
        "learn": {n: p.requires_grad for n, p in found.items()},
        "buffers": [None if b is None else kept(b.detach()) for b in buffers],
        "modes": [] if binding is None else binding.modes(),
    }


def _write(engine: Stepper, source: Any, saved: Mapping[str, Any]) -> None:
    binding, found = engine._evaluator.bindings.get(source), _parameters(engine, source)
    for name, parameter in found.items():
        copy_into(parameter, saved["parameters"][name])
        parameter.requires_grad_(saved["learn"][name])
    if binding is None:
        return
    if binding.buffers:
        device = {i: b.device for i, b in enumerate(binding.held()) if b is not None}
        first = next((p.device for p in found.values()), torch.device("cpu"))
        buffers = enumerate(saved["buffers"])
        binding.write([None if b is None else b.to(device.get(i, first)) for i, b in buffers])
    binding.set_modes(saved["modes"])


def _keep(engine: Stepper, transaction: Transaction) -> None:
    """Remember all that a load changes."""
    graph, memory = engine.graph, transaction.memory
    bindings = engine._evaluator.bindings
    nodes = [p for p in graph.problems if p.optimizer is not None]
    transaction.keep(*nodes, *(s for s in graph.signals if s in bindings))
    for problem in graph.problems:
        if problem.scheduler is not None:
            memory.keep((problem, _scheduler(problem), "scheduler"))
    sources = [source for _, source in _sources(engine)]
    memory.keep(tensors=[(s, p) for s in sources for p in _parameters(engine, s).values()])
    for source in sources:
        for part in bindings[source].module.modules() if source in bindings else ():
            memory.keep_attributes(part, "training")
    names = (
        "steps", "epoch", "_epoch_stream", "signals", "skipped", "measurement"
    )  # fmt: skip
    memory.keep_attributes(engine, *names)
    memory.keep_attributes(engine._failures, *vars(engine._failures))
    memory.keep_attributes(engine.clock, *vars(engine.clock))
    memory.keep_attributes(engine._care, "norms", "masks", "unsolved")
    engine._feed.keep(memory.keep_attributes)


def _scheduler(problem: Problem) -> Any:
    held = problem.scheduler
    return held.scheduler if isinstance(held, PerStep) else held


def _state(held: Any, name: str) -> Any:
    if not callable(getattr(held, "state_dict", None)):
        raise SettingsError(
            f"{name} is a {type(held).__name__} without state_dict(): what it holds cannot be "
            "saved. Give it state_dict() and load_state_dict()."
        )
    return portable(held.state_dict(), f"{name}.state_dict()", copy)


def give_state(held: Any, state: Any, where: str) -> None:
    """Let an object take its state.

    Args:
        held: has `load_state_dict`; it gets a copy.
        state: what its `state_dict` gave.
        where: whose it is, for the error.

    Raises:
        SettingsError: it does not take it.
    """
    try:
        held.load_state_dict(portable(state, where, copy))
    except Exception as error:  # of whoever has written it
        if exhausted(error):
            raise
        raise SettingsError(
            f"{where} does not take its state: {type(error).__name__}: {error}"
        ) from error


def _load_optimizer(problem: Problem, state: Any) -> None:
    optimizer = problem.optimizer
    give_state(optimizer, state, f"load_state_dict: {problem.name}.optimizer")
    if not isinstance(optimizer, torch.optim.Optimizer) or "param_groups" not in state:
        return
    # torch casts floating state to the dtype of its parameter, whatever it was.
    held = [p for group in optimizer.param_groups for p in group["params"]]
    ids = [i for group in state["param_groups"] for i in group["params"]]
    for parameter, i in zip(held, ids, strict=True):
        now, saved = optimizer.state.get(parameter, {}), state["state"].get(i, {})
        for key, value in saved.items():
            both = isinstance(value, Tensor) and isinstance(now.get(key), Tensor)
            if both and now[key].dtype != value.dtype:
                now[key] = copy(value).to(now[key].device)


def _place(engine: Stepper) -> int | None:
    """Which stream counts epochs."""
    stream = engine._epoch_stream
    return None if stream is None else engine._feed.streams.index(stream)
