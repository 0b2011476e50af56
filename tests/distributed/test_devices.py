"""Levels on devices of their own, in one process, give the numbers of one device.

Two devices of which one is a GPU: --device cuda. On the host alone the two are one, under two names
between which copies are made all the same.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact
from distributed.devices import across, computed, engine_on
from distributed.laws import same_bits
from distributed.rank_graphs import CASES, METHODS
from small import F64
from torch import Tensor, nn

import mlopt

#: By graph, the variables that live on the second device.
AWAY = {
    "lfm-cw": {"w1", "h", "w2"},
    "sgl": {"v1", "w0", "w2"},
    "nested": {"w"},
    "game": {"q"},
    "stack": {"v1", "w0", "w2"},
    "played": {"q"},
}
FEW = ("exact", "central", "implicit", "unrolled", "alternating")
#: Players in equilibrium are solved together, and live together.
TOGETHER = {("game", m) for g, m in CASES if isinstance(METHODS[m], mlopt.Implicit)}


@pytest.fixture
def two_devices(device: torch.device) -> tuple[str, str]:
    return (
        ("cpu", "cpu:0")
        if device.type == "cpu"
        else ("cpu", str(torch.empty(0, device=device).device))
    )


def law(graph: str, method: str, devices: tuple[str, str], **options: Any) -> None:
    """Two devices compute what one does; to rounding, which kernels of others do otherwise."""
    expected = computed(graph, method, None, (), **options)
    found = computed(graph, method, devices, AWAY[graph], **options)
    bound, what = 1e-12, f"{graph}, {method}"
    if not devices[1].startswith("cpu"):  # there a bias before a batch norm is another zero
        bound, found, expected = 1e-9, *map(in_one, (found, expected))
    exact(found, expected, bound, what=what)


def in_one(found: list[Any]) -> list[Tensor]:
    """The tensors of each dict as one vector."""
    return [
        torch.cat([torch.as_tensor(t, dtype=F64).flatten() for t in part.values()])
        if isinstance(part, dict)
        else part
        for part in found
    ]


@pytest.mark.parametrize("graph", [graph for graph in AWAY if graph != "stack"])
def test_each_variable_on_a_device_of_its_own(graph, two_devices):
    few = FEW[:2] if graph == "sgl" else FEW  # which takes long, with its seven problems
    for method in (m for g, m in CASES if g == graph and m in few and (g, m) not in TOGETHER):
        law(graph, method, two_devices)


@pytest.mark.slow
@pytest.mark.parametrize("graph", AWAY)
def test_every_method_on_two_devices(graph, two_devices):
    for method in (m for g, m in CASES if g == graph and (g, m) not in TOGETHER):
        law(graph, method, two_devices)


@pytest.mark.parametrize("graph", ["lfm-cw", "nested", "played"])
def test_nothing_is_computed_across_devices(graph):
    few = ("exact", "central", "unrolled", "alternating")
    for method in (m for g, m in CASES if g == graph and m in few):
        across(graph, method, AWAY[graph])


@pytest.mark.slow
@pytest.mark.parametrize("graph", AWAY)
def test_nothing_is_computed_across_devices_by_any_method(graph):
    for method in (m for g, m in CASES if g == graph and (g, m) not in TOGETHER):
        across(graph, method, AWAY[graph])


def test_in_parts_and_with_schedules(two_devices):
    law("lfm-cw", "central", two_devices, parts=3)
    law("lfm-cw", "frozen", two_devices, schedule=mlopt.Sequential())
    law("sgl", "exact", two_devices, schedule=mlopt.UpperFirst())


def readers(devices: tuple[str, str] | None, method: Any = None) -> mlopt.Engine:
    """A level of two tensors that two signals and a problem read elsewhere, and a batch of two."""
    W = mlopt.Variable(nn.Linear(2, 1, dtype=F64), "w")
    A = mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), "a")
    data = [torch.arange(6, dtype=F64).reshape(3, 2)]

    @mlopt.problem(over=W, given=[A], data=data, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def low(w, a, batch):
        return (w(batch).tanh() - a).square().mean()

    def signal(k: int) -> Any:
        @mlopt.signal(given=[A, W], data=data, name=f"signal{k}")
        def rows(a, w, batch):
            return w(batch) * k + a

        return rows

    one, two = signal(1), signal(2)

    @mlopt.problem(
        over=A, given=[W, one, two], data=data, optimizer=torch.optim.SGD(A.parameters(), lr=0.1)
    )
    def high(a, w, one, two, batch):
        return (w(batch) * one * two * a).mean()

    return engine_on([low, one, two, high], devices, {"w"}, hypergrad=method or mlopt.OneStep())


@pytest.mark.parametrize("method", [mlopt.OneStep(), mlopt.OneStep(product=mlopt.Central())])
def test_what_travels_is_what_the_plan_says_each_once(method, two_devices):
    torch.manual_seed(0)
    engine = readers(two_devices, method)
    engine.step()
    plan, before = engine.plan(), dict(engine.traffic)
    engine.step()
    counted = {
        k: (n - before[k][0], size - before[k][1]) for k, (n, size) in engine.traffic.items()
    }
    assert plan.traffic.per_purpose == counted
    assert "between devices" in str(plan)
    # The solution's weight and bias to three readers, and the standing value of a to one; of the
    # three one sum comes back, and of the one what its product gives, also by differences.
    assert counted["values"] == counted["cotangents"] == (3, 8 * (2 + 1 + 1))
    assert "signals" not in counted, "they live where their readers do"


def test_a_run_goes_on_elsewhere(two_devices, tmp_path):
    def run(devices: tuple[str, str] | None, steps: int, folder: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        engine, kept = readers(devices), mlopt.Checkpoint(folder)
        engine.run(steps=steps, progress=False, resume=folder, callbacks=[kept])
        return [p.detach().cpu() for v in engine.graph.variables for p in v.parameters()]

    whole = run(None, 4, str(tmp_path / "whole"))
    run(two_devices, 2, str(tmp_path / "a"))
    exact(run(None, 4, str(tmp_path / "a")), whole, 1e-12, what="to one device")
    run(None, 2, str(tmp_path / "b"))
    exact(run(two_devices, 4, str(tmp_path / "b")), whole, 1e-12, what="to two devices")


def test_the_same_bits_where_nothing_lives_elsewhere(device):
    here = (str(device), str(device))
    same_bits(computed("lfm-cw", "exact", here, ()), computed("lfm-cw", "exact", here, ()), "again")


def test_places_that_are_no_devices_are_refused(two_devices):
    W, V = (mlopt.Variable(nn.Parameter(torch.ones(2)), n) for n in "wv")
    meta = mlopt.Variable(nn.Linear(1, 1), "m")

    def engine(over: Any, places: Any) -> None:
        held = [p for v in over for p in v.parameters()]
        problem = mlopt.problem(over=over, optimizer=torch.optim.SGD(held, lr=0.1))
        mlopt.Engine([problem(lambda held: 0)], places=places)

    for over, places, words in [
        ([W, V], {W: "cpu", V: "cpu:0"}, "in several places: w on cpu, v on cpu:0"),
        ([W, V], {W: "cpu", V: 0}, "names ranks and devices"),
        ([W], {W: "nowhere"}, "cannot be used"),
        ([W], {W: "cuda:9"}, "cannot be used"),
        ([meta], {meta: "meta"}, "it lives on cpu. Move it there"),
    ]:
        with pytest.raises(mlopt.GraphError, match=words):
            engine(over, places)


@pytest.mark.parametrize("method", ["implicit", "implicit, central", "neumann"])
def test_players_in_equilibrium_live_together(method, two_devices):
    with pytest.raises(mlopt.GraphError, match="the equilibrium of its game"):
        computed("game", method, two_devices, AWAY["game"])
