"""Objectives and signals through `torch.compile`, where they are differentiated once."""

from __future__ import annotations

import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from .._errors import CapabilityWarning, GraphError, exhausted
from .._graph.feed import Feed
from .._graph.graph import Graph
from .._graph.node import Node
from .._graph.signal import Signal
from ..hypergrad.curvature import _marked

__all__ = ["Compiled", "Compiler", "Counts"]

_T = TypeVar("_T")


@dataclass
class Counts:
    """What compiling one node took.

    Attributes:
        graphs: compiled graphs.
        breaks: places at which a function was split, because torch could not trace past them.
        variants: calls that compiled something: one for each kind of tensors that the node was
            called with (parameters, leaves, constants, other shapes).
        seconds: of those calls.
    """

    graphs: int = 0
    breaks: int = 0
    variants: int = 0
    seconds: float = 0.0

    @property
    def recompilations(self) -> int:
        """Variants after the first."""
        return max(self.variants - 1, 0)


@dataclass
class Compiled:
    """What compiling a graph took so far; print it for a table.

    Attributes:
        nodes: the counts of each node, by label.
    """

    nodes: dict[str, Counts] = field(default_factory=dict)

    @property
    def graphs(self) -> int:
        """Compiled graphs of all nodes."""
        return sum(c.graphs for c in self.nodes.values())

    @property
    def breaks(self) -> int:
        """Graph breaks of all nodes."""
        return sum(c.breaks for c in self.nodes.values())

    @property
    def recompilations(self) -> int:
        """Compilations of all nodes after the first of each."""
        return sum(c.recompilations for c in self.nodes.values())

    @property
    def seconds(self) -> float:
        """Seconds of all nodes' calls that compiled something."""
        return sum(c.seconds for c in self.nodes.values())

    def __str__(self) -> str:
        width = max(len(label) for label in ["total", *self.nodes])
        lines = [f"{'':{width}}  graphs  breaks  recompilations  seconds"]
        for label, c in [*self.nodes.items(), ("total", self)]:
            numbers = f"{c.graphs:6}  {c.breaks:6}  {c.recompilations:14}  {c.seconds:7.1f}"
            lines.append(f"{label:{width}}  {numbers}")
        return "\n".join(lines)


@dataclass
class _State:
    """Which node's compiled function is being called."""

    calling: Node | None = None


class Compiler:
    """Decides for each evaluation whether the compiled function is called or the plain one.

    Compiled functions have no second derivative. An evaluation whose gradient is differentiated
    again therefore calls the plain function, and both see the same random numbers.

    What fails to compile is found in the middle of a step. The step is then undone and taken again
    with the plain function: it has left no trace, since steps are atomic.

    Args:
        graph: whose notes say what was not compiled.
        option: False, True, or options of `torch.compile` by name.

    Raises:
        GraphError: an option that torch does not know, or that cannot serve here.
    """

    def __init__(self, graph: Graph, option: bool | Mapping[str, Any]) -> None:
        if not isinstance(option, bool | Mapping):
            raise GraphError(
                f"Engine: compile={option!r}: give False, True, or a dict of options of "
                "torch.compile, such as {'backend': 'aot_eager'}."
            )
        self.graph = graph
        self.compiled: Compiled | None = None
        self._functions: dict[Node, Callable[..., Any]] = {}
        self._of: dict[Node, Callable[..., Any]] = {}  # another may be given to a problem
        self._state = _State()
        self._paused = False
        if option is False:
            return
        options = _checked({} if option is True else dict(option))
        self._limit = options.get("recompile_limit") or _recompile_limit()
        self.compiled = Compiled({graph.labels[n]: Counts() for n in graph.nodes})
        for node in graph.nodes:
            try:
                function = torch.compile(_own_code(node.fn), **options)
            except (TypeError, ValueError, RuntimeError) as error:
                raise GraphError(
                    f"Engine: compile={option!r}: torch.compile refuses these options: "
                    f"{_first_line(error)}"
                ) from error
            self._functions[node], self._of[node] = self._counted(node, function), node.fn

    def choose(self, node: Node, twice: bool) -> Callable[..., Any]:
        """What is called for one evaluation.

        Args:
            node: the problem or signal.
            twice: whether the evaluation will be differentiated twice.

        Returns:
            A function of the node's arguments.
        """
        if self._paused or node not in self._functions or self._of[node] is not node.fn:
            return node.fn
        # `outputs` cuts the graph while the model's outputs are marked, for second derivatives.
        return node.fn if twice or _marked.get() is not None else self._functions[node]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Call plain functions for a block: one that watches operations, or counts by hooks."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def attempt(self, run: Callable[[], _T], feed: Feed) -> _T:
        """Run something atomic; if compiling fails, again without what failed.

        Args:
            run: what is run.
            feed: gets its batches back before the next attempt.

        Returns:
            What it returned.
        """
        while True:
            try:
                return run()
            except Exception as error:
                feed.give_back()
                if exhausted(error) or not self._gives_up(error):
                    raise
            finally:
                self._state.calling = None

    def _counted(self, node: Node, function: Callable[..., Any]) -> Callable[..., Any]:
        assert self.compiled is not None
        counts = self.compiled.nodes[self.graph.labels[node]]
        state, limit = self._state, self._limit
        compiler = weakref.ref(self)  # which holds the function that is made here
        # The sweep goes back through a signal and keeps its graph, which is then not to be re-used.
        setting = _kept_buffers if isinstance(node, Signal) else nullcontext

        def call(*arguments: Any) -> Any:
            graphs, breaks = _dynamo_counts()
            began = time.perf_counter()
            state.calling = node
            with setting():
                result = function(*arguments)
            state.calling = None
            more, broken = _dynamo_counts()
            if more > graphs:
                counts.graphs += more - graphs
                counts.breaks += broken - breaks
                counts.variants += 1
                counts.seconds += time.perf_counter() - began
                if counts.variants >= limit and (owner := compiler()) is not None:
                    owner._drop(
                        node,
                        f"it was compiled {limit} times, which is torch's limit. Something "
                        "it reads changes from call to call: a Python number, or the size of a "
                        "batch (DataLoader(drop_last=True) keeps it).",
                    )
            return result

        return call

    def _gives_up(self, error: Exception) -> bool:
        """Whether compiling was what failed; then the plain function is called from now on."""
        calling = self._state.calling
        failed = [calling] if calling else list(self._functions)
        if not failed or not (calling or _is_of_compiler(error)):
            return False
        for node in failed:
            self._drop(
                node,
                f"{_first_line(error)} Mend what this names, or leave Engine(compile=) off.",
            )
        return True

    def _drop(self, node: Node, reason: str) -> None:
        self._functions.pop(node, None)
        notes: dict[Any, str] = self.graph.notes  # type: ignore[assignment]
        said = [notes[node]] if node in notes else []
        notes[node] = "; ".join([*said, "evaluated uncompiled"])
        warnings.warn(
            f"{self.graph.labels[node]}: evaluated uncompiled from here on, because {reason}",
            CapabilityWarning,
            stacklevel=2,
        )


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options as torch is given them; those that would give wrong numbers are refused."""
    options = {"dynamic": False, **options}
    mode, inner = options.get("mode"), dict(options.get("options") or {})
    if options.get("backend", "inductor") != "inductor":
        if options["backend"] == "cudagraphs":
            raise GraphError(_NO_CUDA_GRAPHS.format("backend='cudagraphs'"))
        return options
    if mode is not None and not inner:
        modes = torch._inductor.list_mode_options()
        if mode not in modes:
            raise GraphError(f"Engine: compile: mode={mode!r} is none of {', '.join(modes)}.")
        inner = dict(modes[mode])
        options["mode"] = None
    if inner.get("triton.cudagraphs"):
        raise GraphError(_NO_CUDA_GRAPHS.format(f"mode={mode!r}" if mode else "triton.cudagraphs"))
    if not inner.get("fallback_random", True):
        raise GraphError(
            "Engine: compile: fallback_random=False would draw other dropout masks in compiled "
            "evaluations of a problem than in its plain ones. Leave it out."
        )
    # Otherwise generated code draws its own random numbers, and not those of the plain function.
    options["options"] = {**inner, "fallback_random": True}
    return options


_NO_CUDA_GRAPHS = (
    "Engine: compile: {} records CUDA graphs, which overwrite the results of an earlier call. "
    "Leave it out, or use mode='max-autotune-no-cudagraphs'."
)


def _own_code(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a code object of its own.

    Torch keeps what it compiled with the code object and counts it there. Functions that are made
    in a loop share theirs, and would use up one another's limit.

    Returns:
        The function, or what is given where it is no Python function.
    """
    if not isinstance(fn, types.FunctionType):
        return fn
    own = types.FunctionType(
        fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__
    )
    own.__kwdefaults__ = fn.__kwdefaults__
    return own


def _kept_buffers() -> AbstractContextManager[Any]:
    """Compile a backward pass that can be gone through again."""
    from torch._functorch import config

    return config.patch(donated_buffer=False)  # type: ignore[attr-defined]


def _dynamo_counts() -> tuple[int, int]:
    """Graphs compiled and graph breaks met in this process so far."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _recompile_limit() -> int:
    from torch._dynamo import config

    # the older name is that of torch 2.6
    return config.recompile_limit if hasattr(config, "recompile_limit") else config.cache_size_limit


def _is_of_compiler(error: BaseException) -> bool:
    """Whether an error of a backward pass was raised by compiled code or its compiler."""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_globals.get("__name__", "")
        if name.startswith(("torch._functorch", "torch._inductor")):
            return True
        trace = trace.tb_next
    return False


def _first_line(error: BaseException) -> str:
    """An error's type and the first line of its message; of the inner one, if it wraps one."""
    error = getattr(error, "inner_exception", error)
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return said if said.endswith(".") else said + "."
