"""Buffers, states and batches of every layout: kept, undone, and tested for what is not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine.layouts import INF, LAYOUTS, NAN, Layout, V, by_channel, joined, scale, spoiling, write
from small import F64
from torch import Tensor, nn

import mlopt
from mlopt import GraphError, NonFiniteError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(beta state|prototype|quantiz|deprecated|invariant checks|experimental).*"
)


class Network(nn.Module):
    """One whose buffer doubles in each evaluation, in place or by a new one; and a plain buffer."""

    def __init__(self, layout: Layout, in_place: bool) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, dtype=F64))
        self.register_buffer("first", torch.ones(2, dtype=F64))
        self.register_buffer("odd", layout.make(V))
        self.layout, self.in_place, self.factor = layout, in_place, 2.0

    @torch.no_grad()
    def move(self) -> None:
        self.first.add_(1)
        value = scale(self.layout, self.odd, self.factor)
        if self.in_place:
            with torch.inference_mode(self.odd.is_inference()):
                write(self.odd, value)
        else:
            self.odd = value

    def forward(self) -> Tensor:
        self.move()
        return self.w.square().sum()


METHODS: dict[str, Any] = {
    "one step": mlopt.OneStep(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "unrolled": mlopt.Unrolled(1),
    "recomputed": mlopt.Unrolled(1, recompute=True),
    "implicit": mlopt.Implicit(mlopt.CG(3), damping=9.0),
}


def engine_of(network: Network, place: str, factor: list[float]) -> mlopt.Engine:
    U = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "u")
    sgd = torch.optim.SGD(U.parameters(), lr=0.01)
    if place == "state":
        network.w.requires_grad_(False)

        @mlopt.signal(given=[U], state=network)
        def seen(u):
            return network() * u

        @mlopt.problem(over=U, given=[seen], optimizer=sgd)
        def judge(u, seen):
            return ((u - seen) ** 2).sum() * factor[0]

        return mlopt.Engine([seen, judge])
    W = mlopt.Variable(network, "w")

    @mlopt.problem(
        over=W,
        given=[U],
        optimizer=torch.optim.SGD(W.parameters(), lr=0.01),
        hypergrad=METHODS[place],
    )
    def fit(w, u):
        return w() + ((w.w - u) ** 2).sum()

    @mlopt.problem(over=U, given=[W], optimizer=sgd)
    def top(u, w):
        return (w() + (u**2).sum()) * factor[0]

    return mlopt.Engine([fit, top])


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "anew"])
@pytest.mark.parametrize("place", ["state", *METHODS])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_buffer_of_any_layout(name: str, place: str, in_place: bool) -> None:
    layout, factor = LAYOUTS[name], [1.0]
    network = Network(layout, in_place)
    engine = engine_of(network, place, factor)
    for steps in (1, 2):
        engine.step()
        assert torch.equal(layout.read(network.odd), V * 2**steps)
        assert torch.equal(network.first, torch.full((2,), 1.0 + steps, dtype=F64))
    stands, factor[0] = network.odd, INF
    with pytest.raises(NonFiniteError, match="the loss"):
        engine.step()
    factor[0] = 1.0
    for number in spoiling(layout):
        network.factor = number
        with pytest.raises(NonFiniteError, match="update .* of (seen|fit) is not finite"):
            engine.step()
    assert network.odd is stands
    assert torch.equal(layout.read(network.odd), V * 4)
    network.factor = 2.0
    engine.step()
    assert torch.equal(layout.read(network.odd), V * 8)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_state_of_an_optimizer_of_any_layout(name: str) -> None:
    layout = LAYOUTS[name]

    class Doubles(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            held = self.state["odd"]["held"]
            with torch.inference_mode(held.is_inference()):
                write(held, scale(layout, held, self.factor))
            if self.breaks:
                raise ValueError("broken")
            return super().step(closure)

    W = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "w")
    sgd = Doubles(W.parameters(), lr=0.01)
    sgd.state["odd"]["held"] = held = layout.make(V)
    sgd.factor, sgd.breaks = 2.0, False

    @mlopt.problem(over=W, optimizer=sgd)
    def fit(w):
        return (w**2).sum()

    engine = mlopt.Engine([fit])
    engine.step()
    sgd.breaks = True
    with pytest.raises(ValueError, match="broken"):
        engine.step()
    sgd.breaks = False
    for number in spoiling(layout):
        sgd.factor = number
        with pytest.raises(NonFiniteError, match="the update"):
            engine.step()
    assert sgd.state["odd"]["held"] is held
    assert torch.equal(layout.read(held), V * 2)


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_buffer_of_any_layout_in_two_variables(name: str, writes: bool) -> None:
    layout = LAYOUTS[name]
    networks = [Network(layout, in_place=True) for _ in range(2)]
    networks[1].odd = networks[0].odd
    W, U = (mlopt.Variable(n, label) for n, label in zip(networks, "wu", strict=True))

    @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.01))
    def fit(w):
        return w() if writes else w.w.square().sum()

    @mlopt.problem(over=U, given=[W], optimizer=torch.optim.SGD(U.parameters(), lr=0.01))
    def judge(u, w):
        return (u.w**2).sum() + w.w.sum()

    engine = mlopt.Engine([fit, judge], hypergrad=mlopt.OneStep())
    if writes:
        with pytest.raises(GraphError, match="fit writes the buffer odd of w"):
            engine.step()
    else:
        engine.step()
    assert torch.equal(layout.read(networks[0].odd), V)


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_batch_of_any_layout(name: str, writes: bool) -> None:
    layout = LAYOUTS[name]
    W = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "w")
    batch = layout.make(V)

    @mlopt.problem(over=W, data=[(batch,)], optimizer=torch.optim.SGD(W.parameters(), lr=0.01))
    def fit(w, batch):
        (odd,) = batch
        if writes:
            with torch.inference_mode(odd.is_inference()):
                write(odd, scale(layout, odd, 2.0))
        return (w**2).sum()

    engine = mlopt.Engine([fit])
    if writes:
        with pytest.raises(GraphError, match="writes"):
            engine.step()
    else:
        engine.step()
    assert torch.equal(layout.read(batch), V)


@pytest.mark.parametrize("name", ["coo", "csr", "csc", "bsr", "bsc", "nested", "jagged"])
def test_a_buffer_that_comes_to_hold_more_numbers(name: str) -> None:
    layout, more = LAYOUTS[name], torch.arange(1.0, 17, dtype=F64).reshape(4, 4)
    network = Network(layout, in_place=False)
    like = network.odd.layout
    made = torch.nested.nested_tensor([*more], layout=like) if network.odd.is_nested else (
        more.to_sparse(layout=like, **({"blocksize": (2, 2)} if name[0] == "b" else {}))
    )  # fmt: skip
    factor = [1.0]
    engine = engine_of(network, "one step", factor)
    engine.step()
    network.register_forward_hook(lambda module, *_: setattr(module, "odd", made.clone()))
    stands, factor[0] = network.odd, NAN
    with pytest.raises(NonFiniteError):
        engine.step()
    assert network.odd is stands
    assert torch.equal(layout.read(network.odd), V * 2)
    factor[0] = 1.0
    engine.step()
    found = network.odd if made.is_nested else network.odd.to_dense()
    assert torch.equal(joined(found), more.ravel())


def uncopied(v: Tensor) -> Tensor:
    """Quantised as embeddings are, of which torch has no copies."""
    return by_channel(v, torch.zeros(6), torch.quint8)


@pytest.mark.parametrize("place", ["state", "one step"])
def test_a_buffer_that_cannot_be_copied_is_refused_by_name(place: str) -> None:
    network = Network(LAYOUTS["plain"], in_place=True)
    network.register_buffer("table", uncopied(V))
    engine = engine_of(network, place, [1.0])
    with pytest.raises(GraphError, match=r"the buffer table of (seen|w) cannot be copied.*quint8"):
        engine.step()
    assert torch.equal(network.odd, V)
    del network.table
    engine_of(network, place, [1.0]).step()


def test_a_state_of_an_optimizer_that_cannot_be_copied_is_refused() -> None:
    W = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "w")
    sgd = torch.optim.SGD(W.parameters(), lr=0.01)
    sgd.state["table"]["held"] = uncopied(V)

    @mlopt.problem(over=W, optimizer=sgd)
    def fit(w):
        return (w**2).sum()

    with pytest.raises(GraphError, match=r"cannot be copied.*quint8"):
        mlopt.Engine([fit]).step()
    assert torch.equal(W.value, torch.ones(3, dtype=F64))


def test_buffers_made_in_inference_share_memory_as_before() -> None:
    layout = LAYOUTS["made in inference"]
    network = Network(layout, in_place=True)
    with torch.inference_mode():
        network.register_buffer("part", network.odd[1:3])
    engine = engine_of(network, "one step", [1.0])
    engine.step()
    assert torch.equal(network.part, V[1:3] * 2)
    assert network.part.untyped_storage().data_ptr() == network.odd.untyped_storage().data_ptr()


def test_the_bytes_of_sparse_buffers_are_of_what_they_store() -> None:
    def copied(name: str) -> int:
        engine = engine_of(Network(LAYOUTS[name], in_place=False), "one step", [1.0])
        engine.step()
        return engine.plan().copies

    indices, rows = 6 * 8, 5 * 8
    assert copied("coo") - copied("plain") == 2 * indices
    assert copied("csr") - copied("plain") == indices + rows
    assert copied("nested") == copied("plain")
    assert copied("plain") - copied("quantised") == 6 * 8 - 6
