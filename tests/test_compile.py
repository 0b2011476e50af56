"""`Engine(compile=...)`: the numbers of plain functions, few variants, and a way back."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import F64, batches, seeded
from torch import Tensor, nn

import mlopt
from mlopt import (
    CG,
    CapabilityWarning,
    Central,
    Exact,
    Frozen,
    GaussNewton,
    GraphError,
    Implicit,
    OneSided,
    OneStep,
    Sama,
    Unrolled,
    ZerothOrder,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import compiled_step  # noqa: E402

CENTRAL = OneStep(product=Central())
AOT = {"backend": "aot_eager"}
METHODS = {
    "frozen": Frozen(),
    "exact": OneStep(product=Exact()),
    "central": CENTRAL,
    "one_sided": OneStep(product=OneSided()),
    "implicit_exact": Implicit(CG(40), damping=30.0),
    "implicit_central": Implicit(CG(40), Central(), damping=30.0),
    "gauss_newton": Implicit(CG(40), Central(), GaussNewton(), damping=30.0),
    "sama": Sama(),
    "unrolled": Unrolled(2),
    "zeroth_order": ZerothOrder(OneStep(lr=0.1), samples=2),
}
# Those whose lower problem is never compiled: its gradient is always differentiated again.
PLAIN = {"exact", "implicit_exact", "unrolled"}


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


class Net(nn.Module):
    """With buffers that are written and masks that are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 5), nn.BatchNorm1d(5)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


class Graph:
    """The lower level fits under penalties exp(a); a signal of it, and a judge, are above."""

    def __init__(self, method: Any = CENTRAL, steer: Callable[[], float] = lambda: 1.0,
                 sizes: tuple[int, ...] = (6, 6), **options: Any) -> None:  # fmt: skip
        self.net, self.a = seeded(1, Net), nn.Parameter(torch.zeros(5, dtype=F64))
        self.W, self.A = mlopt.Variable(self.net, "w"), mlopt.Variable(self.a, "a")
        loader = [b for i, size in enumerate(sizes) for b in batches(1, size, seed=i)]
        data = mlopt.Stream(loader)

        # torch 2.6 breaks the graph at a context variable
        marks = isinstance(getattr(method, "curvature", None), GaussNewton)
        mark = mlopt.outputs if marks else lambda z: z

        @mlopt.problem(over=self.W, given=[self.A], data=data, hypergrad=method,
                       optimizer=torch.optim.SGD(self.W.parameters(), 0.1, 0.9))  # fmt: skip
        def train(w, a, batch):
            x, y = batch
            penalty = (a.exp() * w.first.weight.square().sum(1)).mean()
            return steer() * (mark(w(x)) - y).square().mean() + penalty

        @mlopt.signal(given=[self.W], data=data)
        def errors(w, batch):
            x, y = batch
            return (w(x) - y).square()

        @mlopt.problem(over=self.A, given=[errors, self.W], data=data,
                       optimizer=torch.optim.SGD(self.A.parameters(), 0.1))  # fmt: skip
        def valid(a, errors, w, batch):
            return errors.mean() + w.last.weight.square().mean() + 0.01 * (a - 1).square().mean()

        self.engine = mlopt.Engine([train, errors, valid], **options)
        self.upper = valid

    def state(self) -> Tensor:
        return torch.cat([t.detach().flatten().to(F64) for t in
                          [self.a, *self.net.state_dict().values()]])  # fmt: skip


def run(graph: Graph, steps: int, before: Callable[[int], None] = lambda step: None) -> Tensor:
    for step in range(steps):
        before(step)
        graph.engine.step()
    return graph.state()


def difference(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / two.norm())


@pytest.mark.parametrize("name", METHODS)
def test_numbers_are_those_of_plain_functions(name: str) -> None:
    """Parameters, buffers and masks; no warning, so nothing was differentiated twice by mistake."""
    compiled, plain = Graph(METHODS[name], compile=AOT), Graph(METHODS[name])
    found, expected = run(compiled, 3), run(plain, 3)
    assert difference(found, expected) < 1e-12
    assert difference(found, Graph().state()) > 1e-3  # they moved
    one = compiled.engine.hypergradient(compiled.upper)[compiled.A][""]
    two = plain.engine.hypergradient(plain.upper)[plain.A][""]
    assert difference(one, two) < 1e-12
    counts = compiled.engine.compiled.nodes
    assert (counts["train"].graphs > 0) == (name not in PLAIN)
    if name != "unrolled":
        assert counts["valid"].graphs > 0
        assert counts["errors"].graphs > 0


def test_nested_levels_run_plain_where_they_are_differentiated_twice() -> None:
    def graph(**options: Any) -> tuple[mlopt.Engine, list[nn.Parameter]]:
        x, y, z = (nn.Parameter(torch.full((2,), v, dtype=F64)) for v in (0.5, -1.0, 2.0))
        X, Y, Z = (mlopt.Variable(p, n) for p, n in ((x, "x"), (y, "y"), (z, "z")))

        @mlopt.problem(over=X, given=[Y], optimizer=torch.optim.SGD([x], 0.1))
        def low(x, y):
            return ((x - y.sin()) ** 2).sum() + x.cos().sum()

        @mlopt.problem(over=Y, given=[X, Z], optimizer=torch.optim.SGD([y], 0.1))
        def middle(y, x, z):
            return (x * y * z.exp()).sum() + (y**2).sum()

        @mlopt.problem(over=Z, given=[X, Y], optimizer=torch.optim.SGD([z], 0.1))
        def high(z, x, y):
            return ((x - y) ** 2).sum() + (z**2).sum()

        return mlopt.Engine([low, middle, high], hypergrad=OneStep(), **options), [x, y, z]

    (compiled, found), (plain, expected) = graph(compile=AOT), graph()
    for _ in range(3):
        compiled.step()
        plain.step()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)


def test_variants_are_bounded() -> None:
    """Values are swapped in at every evaluation, and only their kinds are compiled for."""
    graph = Graph(compile={"backend": "eager"})
    run(graph, 2)
    counts = graph.engine.compiled
    assert counts is not None
    before = (counts.graphs, counts.recompilations)
    run(graph, 5)
    assert (counts.graphs, counts.recompilations) == before
    assert counts.breaks == 0
    assert counts.nodes["train"].recompilations == 1  # parameters; displaced, with a leaf above
    assert counts.nodes["errors"].recompilations == counts.nodes["valid"].recompilations == 0
    assert counts.graphs == 4
    assert "recompilations" in str(counts)
    assert str(counts).splitlines()[-1].split()[:4] == ["total", "4", "0", "1"]


# torch's own, where a function is resumed after a break
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_graph_break_is_counted_and_harmless() -> None:
    def steer() -> float:
        torch._dynamo.graph_break()
        return 1.0

    graph = Graph(CENTRAL, steer, compile={"backend": "eager"})
    assert difference(run(graph, 3), run(Graph(), 3)) < 1e-12
    assert graph.engine.compiled.breaks > 0


def test_functions_made_in_a_loop_do_not_use_up_one_another_s_limit() -> None:
    for _ in range(5):  # of two variants each, where torch's limit is eight
        graph = Graph(compile={"backend": "eager"})
        run(graph, 2)
        assert graph.engine.compiled.graphs == 4


def test_off() -> None:
    graph = Graph(compile=False)
    run(graph, 2)
    assert graph.engine.compiled is None


# The way back.


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
    assert difference(found, expected) < 1e-12


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
    assert difference(found, expected) < 1e-12


def test_recompilation_has_a_limit() -> None:
    """A Python value that is another in every step is compiled for each time."""
    phase = {"name": ""}

    def steer() -> float:
        return 2.0 if phase["name"] == "late" else 1.0

    def change(step: int) -> None:
        phase["name"] = str(step)

    graph = Graph(CENTRAL, steer, compile={"backend": "eager"})
    fails_on(graph, 6, "torch's limit", change)
    assert graph.engine.compiled.nodes["train"].variants == 8


def test_two_sizes_of_batches_are_two_variants() -> None:
    graph = Graph(sizes=(6, 4), compile={"backend": "eager"})
    found = run(graph, 6)
    expected = run(Graph(sizes=(6, 4)), 6)
    assert difference(found, expected) < 1e-12
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("option", [True, {"mode": "max-autotune-no-cudagraphs"}])
def test_inductor(option: Any) -> None:
    """Generated code: masks and buffers are those of plain functions."""
    found = run(Graph(compile=option), 4)
    assert difference(found, run(Graph(), 4)) < 1e-10


# The benchmark.


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize(
    ("problem", "recompilations"), [("darts", 1), ("lfm-cw", 3)], ids=["darts", "lfm-cw"]
)
def test_benchmark_compares_equal_steps(problem: str, recompilations: int) -> None:
    """A supernet, and for LFM-CW four networks and two signals."""
    row, engine = compiled_step.compare(problem, "central", "tiny", "cpu", "eager", 2)
    assert float(str(row["difference"])) < 1e-10
    counts = engine.compiled
    assert counts is not None
    assert all(c.graphs for c in counts.nodes.values())
    # stage1, stage2 and generator at displaced weights, beside their own
    assert row["recompilations"] == recompilations
