"""`Engine(compile=...)`: the way back where a function does not compile, and bad options."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact
from evaluation.compiled import CENTRAL, ROUNDING, Graph, Net, run
from torch import Tensor

from mlopt import CapabilityWarning, GraphError

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def fails_on(
    graph: Graph, steps: int, pattern: str, before: Callable[[int], None] = lambda step: None
) -> None:
    """The numbers of plain functions, one warning in all, and a line in the plan."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run(graph, steps, before)
    said = [str(w.message) for w in caught if w.category is CapabilityWarning]
    assert len(said) == 1, said
    assert pattern in said[0]
    assert said[0].startswith("train: evaluated uncompiled")
    assert "train: evaluated uncompiled" in str(graph.engine.plan())
    expected = run(Graph(), steps)
    exact(found, expected, ROUNDING / 0.01)  # by differences of that radius


def test_unsupported_construct_with_fullgraph() -> None:
    def steer() -> float:
        torch._dynamo.graph_break()
        return 1.0

    options = {"backend": "eager", "fullgraph": True}
    fails_on(Graph(CENTRAL, steer, compile=options), 4, "Unsupported")


def test_failure_after_a_part_has_run() -> None:
    """The first part has drawn a mask and written buffers when the second does not compile."""

    def backend(module: Any, inputs: Any) -> Any:
        if any("exp" in str(n.target) for n in module.graph.nodes) and not any(
            "batch_norm" in str(n.target) for n in module.graph.nodes
        ):
            raise OSError("no compiler here\nand a second line")
        return module.forward

    ran = []

    def steer() -> float:
        return 1.0

    graph = Graph(CENTRAL, steer, compile={"backend": backend})
    net = graph.net

    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            torch._dynamo.graph_break()
            ran.append(1)
            return out

    net.__class__ = Broken
    fails_on(graph, 4, "OSError: no compiler here. Mend")
    assert ran


def test_failure_in_the_backward_pass() -> None:
    """Nobody knows whose it is: no function is compiled from then on."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("a wrong kernel")

    backend = aot_autograd(
        fw_compiler=lambda module, inputs: make_boxed_func(module.forward),
        bw_compiler=lambda module, inputs: make_boxed_func(broken),
    )
    graph = Graph(compile={"backend": backend})
    with pytest.warns(CapabilityWarning, match="RuntimeError: a wrong kernel") as caught:
        found = run(graph, 3)
    assert len([w for w in caught if w.category is CapabilityWarning]) == 3
    expected = run(Graph(), 3)
    exact(found, expected, ROUNDING / 0.01)  # by differences of that radius


def test_recompilation_has_a_limit() -> None:
    """A Python value that is another in every step is compiled for each time."""
    config = torch._dynamo.config
    # another name before torch 2.7
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    phase = {"name": ""}

    def steer() -> float:
        return 2.0 if phase["name"] == "late" else 1.0

    def change(step: int) -> None:
        phase["name"] = str(step)

    with config.patch({name: 4}):
        graph = Graph(CENTRAL, steer, compile={"backend": "eager"})
        fails_on(graph, 4, "torch's limit", change)
    assert graph.engine.compiled.nodes["train"].variants == 4


def test_two_sizes_of_batches_are_two_variants() -> None:
    graph = Graph(sizes=(6, 4), compile={"backend": "eager"})
    found = run(graph, 6)
    expected = run(Graph(sizes=(6, 4)), 6)
    exact(found, expected, ROUNDING / 0.01)  # by differences of that radius
    assert graph.engine.compiled.nodes["train"].variants == 4


def test_an_error_of_the_objective_arrives_as_it_is() -> None:
    wrong = {"now": False}

    def steer() -> float:
        if wrong["now"]:
            raise ZeroDivisionError("mine")
        return 1.0

    graph = Graph(CENTRAL, steer, compile={"backend": "eager"})
    run(graph, 2)
    before = graph.state()
    wrong["now"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CapabilityWarning)
        with pytest.raises(ZeroDivisionError, match="mine"):
            graph.engine.step()
    assert torch.equal(graph.state(), before)


# Options.


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("yes", "compile='yes'"),
        (1, "compile=1"),
        ({"backend": "nope"}, "nope"),
        ({"bad": 1}, "bad"),
        ({"mode": "quick"}, "mode='quick' is none of"),
        ({"mode": "reduce-overhead"}, "CUDA graphs"),
        ({"backend": "cudagraphs"}, "CUDA graphs"),
        ({"options": {"triton.cudagraphs": True}}, "CUDA graphs"),
        ({"options": {"fallback_random": False}}, "masks"),
        ({"options": {"zzz": 1}}, "zzz"),
        ({"mode": "default", "options": {"epilogue_fusion": True}}, "mode or options"),
    ],
)
def test_bad_options(option: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Graph(compile=option)
