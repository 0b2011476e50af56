"""Functions in autocast and nothing else; what differences are taken of in float32."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from compare import kills, near
from evaluation.low_precision import World, net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import mlopt
from mlopt import Central, Exact, Frozen, Implicit, OneSided, OneStep, Unrolled, ZerothOrder

BF16, F32 = torch.bfloat16, torch.float32
F64 = torch.float64
ROUNDED = "roundings of bfloat16, half of 2^-8 each, of which some dozen come together"
DIFFERENCES = {
    "central": OneStep(product=Central()),
    "one-sided": OneStep(product=OneSided()),
    "sama": mlopt.Sama(),
    "implicit, central": Implicit(product=Central(), damping=1.0),
    "zeroth order": ZerothOrder(OneStep(lr=0.1), samples=2, radius=1e-2),
}


def plain(out: Any = F32, **options: Any) -> tuple[Any, Any, Tensor, Tensor]:
    """One level: a network under a loss, and its data."""
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(12, 6, generator=g), torch.randint(0, 3, (12,), generator=g)
    W = mlopt.Variable(net(4), "w")
    optimizer = torch.optim.SGD(W.parameters(), lr=0.1)

    @mlopt.problem(over=W, optimizer=optimizer, **options)
    def fit(w: Any) -> Any:
        return (w(x) - y[:, None]).square().mean().to(out)

    return W, fit, x, y


@pytest.mark.parametrize(("name", "dtype"), [("bf16", BF16), ("fp16", torch.float16)])
@pytest.mark.parametrize("own", [False, True], ids=["engine", "problem"])
def test_a_step_is_that_of_a_loop_under_autocast(name: Any, dtype: torch.dtype, own: bool) -> None:
    W, fit, x, y = plain(**({"precision": name} if own else {}))
    other = net(4)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    engine = mlopt.Engine([fit], precision=None if own else name)
    scaler = torch.amp.GradScaler("cpu", enabled=name == "fp16")
    for _ in range(6):
        with torch.autocast("cpu", dtype):
            loss = (other(x) - y[:, None]).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss.float()).backward()
        scaler.step(optimizer)
        scaler.update()
        metrics = engine.step()
        assert metrics["fit/loss"].dtype == F32
        assert torch.equal(metrics["fit/loss"], loss.detach().float())
        assert engine.loss_scale == (scaler.get_scale() if name == "fp16" else None)
    for a, b in zip(W.value.parameters(), other.parameters(), strict=True):
        assert a.dtype == F32
        assert torch.equal(a, b)
    assert not torch.is_autocast_enabled("cpu")


def test_a_value_that_is_narrow_leaves_as_float32() -> None:
    _, fit, *_ = plain(BF16)
    metrics = mlopt.Engine([fit], precision="bf16").step()
    assert metrics["fit/loss"].dtype == F32


def test_nodes_may_have_a_precision_of_their_own() -> None:
    world = World(low={"precision": "float32"}, signal={"precision": "fp16"})
    engine = world.engine("bf16")
    engine.step()
    world.calls.clear()
    metrics = engine.step()
    assert set(world.calls) == {
        ("train", False, F32),
        ("answers", True, torch.float16),
        ("judge", True, BF16),
    }
    assert engine.signals["answers"].dtype == F32
    assert {t.dtype for t in metrics.values()} == {F32}
    world = World()
    world.engine().step()
    assert {narrow for _, narrow, _ in world.calls} == {False}


def test_a_function_that_is_called_without_gradient_first_keeps_its_gradient() -> None:
    """Autocast's cache would hand out the weights that were cast without gradient."""
    W, _, x, _ = plain()

    @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def again(w: Any) -> Tensor:
        with torch.no_grad():
            before = w(x)
        return (w(x) - 2 * before).square().mean()

    found = mlopt.Engine([again], precision="bf16").hypergradient(again)[W]
    other = net(4)
    with torch.autocast("cpu", BF16):
        constant = other(x).detach()
    with torch.autocast("cpu", BF16):
        loss = (other(x) - 2 * constant).square().mean()
    loss.backward()
    for name, p in other.named_parameters():
        assert torch.equal(found[name], p.grad)


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


@pytest.mark.parametrize("method", [OneStep(), OneStep(product=Central()), Unrolled(2)], ids=str)
def test_what_is_computed_again_is_computed_in_the_same_precision(method: Any) -> None:
    stored, again = World(method), World(method)
    again.W.value[2] = Checkpointed(again.W.value[2])
    again.nodes[0].optimizer.param_groups[0]["params"] = list(again.W.parameters())
    assert torch.equal(again.hypergradient("bf16"), stored.hypergradient("bf16"))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_taken_of_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = DIFFERENCES[name]
    world = World(method)
    engine = world.engine("bf16")
    engine.step()
    world.calls.clear()
    engine.step()
    narrow = [on for called, on, _ in world.calls if called == "train"]
    base = name != "one-sided"  # the base evaluation is one side of its difference
    assert narrow[0] is base
    assert not any(narrow[1:])
    assert len(narrow) > 1
    # no evaluation more than without it
    other = World(method)
    plainly = other.engine()
    plainly.step()
    other.calls.clear()
    plainly.step()
    assert [c for c, *_ in world.calls] == [c for c, *_ in other.calls]
    expected = World(method, F64).hypergradient()
    near(World(method).hypergradient("bf16").double(), expected, 0.01, why=ROUNDED)
    monkeypatch.setattr(type(engine._evaluator.precision), "widens", lambda *_, **__: False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kills(World(method).hypergradient("bf16").double(), expected, 0.01)


@pytest.mark.parametrize("lower", [OneStep(), Implicit(damping=1.0), Unrolled(2)], ids=str)
@pytest.mark.parametrize("product", [Central(), OneSided()], ids=str)
def test_what_follows_a_displacement_is_computed_in_float32(lower: Any, product: Any) -> None:
    """A middle problem is displaced with all that is below it."""
    method = OneStep(product=product)
    expected = World(lower, F64, method).hypergradient()
    world = World(lower, middle=method)
    near(world.hypergradient("bf16").double(), expected, 0.03, why=ROUNDED)
    rule = world.engine("bf16")._evaluator.precision
    assert rule.widens(world.nodes[2], further=True)
    assert rule.widens(world.nodes[2]) is isinstance(product, OneSided)
    assert rule.widens(world.train) is isinstance(lower, Implicit)


def adapted(method: Any, cast: bool) -> World:
    """A frozen network in bfloat16 with an adapter in float32."""

    class Lora(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base = base.to(BF16).requires_grad_(requires_grad=False)
            g = torch.Generator().manual_seed(7)
            self.a = nn.Parameter(torch.randn(2, base.in_features, generator=g) / 4)
            self.b = nn.Parameter(torch.randn(base.out_features, 2, generator=g) / 4)

        def forward(self, x: Tensor) -> Tensor:
            weight, bias = self.base.weight, self.base.bias
            if cast:
                weight, bias = weight.to(self.a.dtype), bias.to(self.a.dtype)
            return nn.functional.linear(x, weight, bias) + x @ self.a.mT @ self.b.mT

    world = World(method)
    for i in (0, 2, 4):
        world.W.value[i] = Lora(world.W.value[i])
    trained = [p for p in world.W.parameters() if p.requires_grad]
    world.nodes[0].optimizer.param_groups[0]["params"] = trained
    return world


def widened(world: World) -> World:
    for v in (world.W, world.R):
        for p in v.parameters():
            p.data = p.data.double()
    return world


def test_adapters_of_float32_on_a_network_in_bfloat16() -> None:
    """The product is exact, or the weights are cast where differences are taken."""
    rows = [(OneStep(), False), (OneStep(), True), (Implicit(damping=1.0), False)]
    rows += [(OneStep(product=Central()), True)]
    for method, cast in rows:
        world = adapted(method, cast)
        found = world.hypergradient("bf16")
        assert {p.dtype for p in world.W.parameters() if p.requires_grad} == {F32}
        expected = wide(adapted(method, cast=True))
        near(found.double(), expected, 0.03, why=ROUNDED)


def wide(world: World) -> Tensor:
    """The hypergradient of the same numbers in float64, data included."""
    other = World(world.method, F64)
    for i in (0, 2, 4):
        other.W.value[i] = world.W.value[i].double()
    trained = [p for p in other.W.parameters() if p.requires_grad]
    other.nodes[0].optimizer.param_groups[0]["params"] = trained
    return other.hypergradient()


def test_differences_that_cannot_be_taken_in_float32_are_refused() -> None:
    world = adapted(OneStep(product=Central()), cast=False)
    with pytest.raises(mlopt.GraphError, match=r"^train: the differences of train are taken in f"):
        world.hypergradient("bf16")


def test_autocast_of_the_users_own_is_warned_of_as_ever() -> None:
    world = World(OneStep(product=Central()))
    inner = world.W.value[2].forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast("cpu", BF16):
            return inner(x).to(x.dtype)

    world.W.value[2].forward = forward
    with pytest.warns(mlopt.CapabilityWarning, match=r"^train: .*it computes in bfloat16"):
        world.hypergradient("bf16")


def test_the_plan_says_what_is_computed_in_which_precision() -> None:
    world = World(OneStep(product=Central()), signal={"precision": "float32"})
    said = str(world.engine("bf16").plan())
    assert "\ncomputed in bfloat16, in float32 where its method takes differences: train\n" in said
    assert "\ncomputed in bfloat16: judge\n" in said
    assert "answers" not in said.split("computed in bfloat16", 1)[1]
    said = str(World(OneStep(product=OneSided())).engine("bf16").plan())
    assert "\ncomputed in float32, of which its method takes differences: train\n" in said
    assert "bfloat16" not in str(World().engine().plan())


def test_a_precision_of_which_nothing_comes_is_said() -> None:
    """Betty computes float32 where bfloat16 was asked for, without a word."""
    world = World(dtype=F64)
    engine = world.engine("bf16")
    with pytest.warns(mlopt.CapabilityWarning, match=r"train, answers, judge would be computed"):
        engine.step()
    assert "computed as it is, since nothing in it is cast to bfloat16" in str(engine.plan())
    assert torch.equal(world.R.value, stepped(World(dtype=F64)))


def stepped(world: World) -> Tensor:
    world.engine().step()
    return world.R.value


def test_compiled_functions_compute_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, other = World(OneStep(product=Central())), World(OneStep(product=Central()))
    engine = world.engine("bf16", compile={"backend": "eager"})
    plainly = other.engine("bf16")
    for _ in range(3):
        engine.step(), plainly.step()
    assert engine.compiled is not None
    assert engine.compiled.nodes["train"].graphs > 0
    near(world.R.value, other.R.value, 1e-6, why="the eager backend calls the same kernels")


def stack(precisions: tuple[Any, Any], stacked: bool, default: Any = None) -> mlopt.Engine:
    g = torch.Generator().manual_seed(9)
    x, y = torch.randn(12, 6, generator=g), torch.randint(0, 3, (12,), generator=g)
    R = mlopt.Variable(nn.Parameter(torch.zeros(3)), "r")

    def learner(j: int) -> Any:
        W = mlopt.Variable(net(j), f"w{j}")

        @mlopt.problem(
            over=W, given=[R], optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
            precision=precisions[j], name=f"learner{j}",
        )  # fmt: skip
        def learner(w: Any, r: Tensor) -> Tensor:
            return (cross_entropy(w(x), y, reduction="none") * r.exp()[y]).mean()

        return W, learner

    pairs = [learner(j) for j in range(2)]

    @mlopt.problem(over=R, given=[[W for W, _ in pairs]], optimizer=torch.optim.SGD([R.value], 0.1))
    def judge(r: Tensor, nets: Any) -> Tensor:
        return sum(cross_entropy(w(x), 2 - y) for w in nets) + r.square().sum()

    members = [p for _, p in pairs]
    first = [mlopt.Stack(members)] if stacked else members
    return mlopt.Engine([*first, judge], precision=default, hypergrad=OneStep(product=Central()))


def test_a_stack_computes_in_it() -> None:
    as_one, alone = (stack((None, None), stacked, "bf16") for stacked in (True, False))
    problem = as_one.graph.problems[-1]
    found = as_one.hypergradient(problem)[problem.over[0]][""]
    assert "evaluated as one: learner0, learner1" in str(as_one.plan())
    other = alone.graph.problems[-1]
    expected = alone.hypergradient(other)[other.over[0]][""]
    near(found, expected, 0.03, why=ROUNDED)


def test_members_of_a_stack_have_one_precision() -> None:
    with pytest.raises(mlopt.GraphError, match=r"learner1 differ in precision: bf16 and None"):
        stack(("bf16", None), stacked=True)


def test_a_precision_cannot_be_given_anew() -> None:
    world = World()
    with pytest.raises(mlopt.GraphError, match="precision= cannot be given anew"):
        world.train.precision = "bf16"


@pytest.mark.parametrize("wrong", ["bfloat16", BF16, 16, True])
def test_other_precisions_are_refused(wrong: Any) -> None:
    with pytest.raises(mlopt.GraphError, match="precision"):
        World().engine(wrong)
    with pytest.raises(mlopt.GraphError, match="precision"):
        World(low={"precision": wrong})
    with pytest.raises(mlopt.GraphError, match="precision"):
        World(signal={"precision": wrong}, method=Frozen())
    with pytest.raises(mlopt.GraphError, match="precision"):
        mlopt.Engine([World(OneStep(product=Exact())).train], precision=wrong)
