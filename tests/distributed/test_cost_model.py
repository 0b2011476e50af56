"""The formulas of docs/scaling.md give what `engine.plan(ranks=)` counts, to the byte."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from distributed.rank_graphs import GRAPHS, LAYERS

import mlopt
from mlopt.distributed import sums

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scaling_graphs  # noqa: E402
import scaling_model  # noqa: E402

METHODS: dict[str, Any] = {
    "first order": mlopt.Frozen(),
    "stopped": mlopt.StopGradient(mlopt.OneStep()),
    "exact": mlopt.OneStep(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "one-sided": mlopt.OneStep(product=mlopt.OneSided()),
    "Sama": mlopt.Sama(),
    "implicit": mlopt.Implicit(mlopt.CG(max_steps=2, tol=0)),
    "implicit, central": mlopt.Implicit(mlopt.CG(max_steps=3, tol=0), mlopt.Central()),
    "unrolled": mlopt.Unrolled(2),
    "longer": mlopt.Unrolled(4),
    "zeroth order": mlopt.ZerothOrder(samples=3),
}


def counted(nodes: Any, ranks: int = 8, **options: Any) -> tuple[Any, dict[str, Any]]:
    """An engine, and what its plan counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        engine = mlopt.Engine(nodes, **options)
        return engine, engine.plan(ranks=ranks).traffic.per_purpose


def sizes_of(engine: Any) -> dict[str, tuple[int, ...]]:
    """The bytes of each parameter, by variable."""
    return {
        v.name: tuple(p.numel() * p.element_size() for p in v.parameters())
        for v in engine.graph.variables
    }


def formula(graph: str, engine: Any, method: Any, sequential: bool = False) -> dict[str, Any]:
    sizes = sizes_of(engine)
    if graph == "lfm-cw":
        levels = scaling_graphs.lfm_cw(sizes, method, classes=3, item=8, metrics=1, whole=False)
    else:
        levels = scaling_graphs.sgl(sizes, method)
    return scaling_model.staged(levels, 8, sequential).all


def without(traffic: dict[str, Any], what: str) -> dict[str, Any]:
    return {k: v for k, v in traffic.items() if k != what}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("graph", ["lfm-cw", "sgl"])
def test_formulas_give_what_is_counted(graph: str, method: str) -> None:
    engine, found = counted(GRAPHS[graph](METHODS[method], lambda b: b, LAYERS["plain"]))
    expected = formula(graph, engine, METHODS[method])
    if isinstance(METHODS[method], mlopt.Unrolled):  # hosts speak of every inner batch
        found, expected = without(found, "agreement"), without(expected, "agreement")
    assert found == expected


@pytest.mark.parametrize("graph", ["lfm-cw", "sgl"])
def test_one_level_after_the_other(graph: str) -> None:
    nodes = GRAPHS[graph](mlopt.Frozen(), lambda b: b, LAYERS["plain"])
    engine, found = counted(nodes, schedule=mlopt.Sequential())
    assert found == formula(graph, engine, mlopt.Frozen(), sequential=True)


@pytest.mark.parametrize(("worth", "bucket"), [(1, 100), (400, 100), (200, 300), (700, 10**6)])
@pytest.mark.parametrize("method", ["first order", "exact", "central", "one-sided", "implicit"])
def test_large_gradients_go_in_several(
    method: str, worth: int, bucket: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, prefix in ((sums, "_"), (scaling_model, "")):
        monkeypatch.setattr(module, f"{prefix}WORTH", worth)
        monkeypatch.setattr(module, f"{prefix}BUCKET", bucket)
    engine, found = counted(GRAPHS["lfm-cw"](METHODS[method], lambda b: b, LAYERS["plain"]))
    expected = formula("lfm-cw", engine, METHODS[method])
    keep = ("gradients", "products", "cotangents")  # the others are far from the limits
    assert {k: found.get(k) for k in keep} == {k: expected.get(k) for k in keep}


def test_limits_are_those_of_the_sums() -> None:
    assert (scaling_model.WORTH, scaling_model.BUCKET) == (sums._WORTH, sums._BUCKET)


@pytest.mark.parametrize("method", ["central", "unrolled"])
def test_neither_ranks_nor_parts_change_what_a_rank_gives(method: str) -> None:
    def nodes() -> Any:
        return GRAPHS["lfm-cw"](METHODS[method], lambda b: b, LAYERS["plain"])

    _, eight = counted(nodes())
    assert counted(nodes(), ranks=64)[1] == eight
    assert counted(nodes(), parts=2)[1] == eight


def test_buffers_go_with_the_decision() -> None:
    method = METHODS["central"]
    engine, found = counted(GRAPHS["lfm-cw"](method, lambda b: b, LAYERS["batch norm"]))
    one = (4 + 4, 1, False)  # mean and variance of four features, and a count of batches
    held = dict.fromkeys(("w1", "w2", "h"), one)
    sizes = sizes_of(engine)
    levels = scaling_graphs.lfm_cw(
        sizes, method, classes=3, item=8, metrics=1, whole=False, buffers=held
    )
    assert found == scaling_model.staged(levels, 8).all


def test_a_ring() -> None:
    link = scaling_model.Link("x", 100.0, 0.5)
    assert scaling_model.ring(200, 3, 4, link) == 2 * 3 / 4 * 2 + 1.5
    assert scaling_model.ring(200, 0, 1, link) == 0
