"""What all solvers have in common: keys, shapes, zero, refusals, gradient mode, Hessians."""

from __future__ import annotations

import dataclasses
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from compare import exact, kills, rounding
from hypothesis import given, settings
from hypothesis import strategies as st
from solvers.systems import F64, Matrix, symmetric, vector

from mlopt._errors import GraphError, NonFiniteError
from mlopt.solvers import CG, GMRES, AbstractSolver, Dense, Neumann, Nystrom, Solution

SOLVERS = [
    CG(),
    GMRES(),
    Neumann(steps=7, scale=0.3),
    Neumann(steps=7),
    Nystrom(rank=12, damping=0.1),
    Nystrom(rank=3, damping=0.1),
    Dense(),
]
FIXED = [s for s in SOLVERS if s != Nystrom(rank=3, damping=0.1)]  # draws by position
every = pytest.mark.parametrize("solver", SOLVERS, ids=repr)

A = symmetric(np.linspace(1, 4, 12), seed=4)
#: Twelve products and sums of twelve terms each; eigenvalues of 1 to 4, beside a damping of 0.1.
ANY_ORDER = rounding(4 * 12 * 12, condition=40)
B = vector(12, seed=5)


@every
def test_zero_gives_exactly_zero_without_a_product(solver: AbstractSolver, device) -> None:
    operator = Matrix(A, device, {"p": (3, 2), ("q", ""): (6,)})
    solution = solver.solve(operator, operator.cut(np.zeros(12)))
    assert list(solution.value) == ["p", ("q", "")]
    assert all(not t.any() for t in solution.value.values())
    assert [t.shape for t in solution.value.values()] == [(3, 2), (6,)]
    assert (solution.products, operator.calls) == (0, 0)
    assert (solution.residual, solution.converged) == (0.0, True)


@every
def test_no_keys_and_no_numbers(solver: AbstractSolver) -> None:
    def never(v):
        raise AssertionError

    assert solver.solve(never, {}) == Solution({}, 0, 0.0, True)
    assert solver.solve(never, {"x": torch.zeros(0, 3)}).value["x"].shape == (0, 3)


@pytest.mark.parametrize("solver", FIXED, ids=repr)
@given(
    cuts=st.lists(st.integers(0, 12), max_size=4).map(sorted),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_splitting_over_keys_and_their_order_do_not_matter(solver, cuts, seed) -> None:
    whole = Matrix(A)
    expected = solver.solve(whole, whole.cut(B))
    edges = [0, *cuts, 12]
    operator = Matrix(A, shapes={i: (e - s,) for i, (s, e) in enumerate(pairwise(edges))})
    parts = list(operator.cut(B).items())
    order = np.random.default_rng(seed).permutation(len(parts))
    b = dict(parts[i] for i in order)
    found = solver.solve(operator, b)
    assert list(found.value) == list(b)  # the keys of b, in their order
    assert sorted(operator.seen) == sorted(b)
    joined = operator.join(found.value)
    exact(joined, expected.value["x"], ANY_ORDER)
    assert (found.products, found.converged) == (expected.products, expected.converged)
    exact(found.residual, expected.residual, ANY_ORDER, scale=1.0)


@every
@given(factor=st.floats(1e-6, 1e6), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_linear_in_b(solver, factor, seed) -> None:
    operator = Matrix(A)
    b = vector(12, seed)
    first = solver.solve(operator, operator.cut(b)).value["x"]
    second = solver.solve(operator, operator.cut(-factor * b)).value["x"]
    exact(second, -factor * first, ANY_ORDER)


@every
def test_absent_keys_are_zero(solver: AbstractSolver) -> None:
    operator = Matrix(np.diag([1.0, 2, 3, 4]), shapes={"u": (2,), "v": (2,)})

    def leaves_out(v):
        return {k: t for k, t in operator(v).items() if t.any()}

    b = {"u": torch.tensor([1.0, 3.0], dtype=F64), "v": torch.zeros(2, dtype=F64)}
    found = solver.solve(leaves_out, b).value
    expected = solver.solve(operator, b).value
    assert set(found) == {"u", "v"}
    assert all(torch.equal(found[k], expected[k]) for k in found)
    assert found["u"].any()
    if solver in FIXED:  # random directions that are too few mix the parts
        exact(found["v"], torch.zeros(2), ANY_ORDER, scale=1.0)


@every
def test_wrong_shape_and_unknown_key(solver: AbstractSolver) -> None:
    b = {("W", "weight"): torch.ones(2, 3), ("W", "bias"): torch.ones(3)}
    with pytest.raises(GraphError, match=r"lower: .*\(3, 2\) for \('W', 'weight'\).*\(2, 3\)"):
        solver.solve(lambda v: {**v, ("W", "weight"): v["W", "weight"].T}, b, "lower")
    with pytest.raises(GraphError, match=r"lower: .*'other', of shape \(4,\), which b lacks"):
        solver.solve(lambda v: {**v, "other": torch.ones(4)}, b, "lower")


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(solver: AbstractSolver, bad: float) -> None:
    b = {"u": torch.ones(2), "v": torch.ones(3)}
    with pytest.raises(NonFiniteError, match=r"lower: product 1 .* at \['v'\]") as caught:
        solver.solve(lambda v: {**v, "v": v["v"] + torch.tensor([0, bad, 0])}, b, "lower")
    assert caught.value.problem == "lower"
    b["v"][0] = bad
    with pytest.raises(NonFiniteError, match=r"lower: the right-hand side .* at \['v'\]") as caught:
        solver.solve(lambda v: v, b, "lower")
    assert caught.value.problem == "lower"


@every
def test_nothing_is_decided_by_what_overflowed(solver: AbstractSolver) -> None:
    """The products are finite, their squares are not: no curvature is called none, or negative."""
    diagonal = torch.tensor([1e25, 2e25, 3e25])

    def solve() -> Solution:
        return solver.solve(lambda v: {"u": diagonal * v["u"]}, {"u": torch.ones(3)}, "lower")

    if isinstance(solver, Dense):  # it takes no squares
        exact(solve().value["u"], 1 / diagonal, rounding(50, 3, torch.float32))
        return
    with pytest.raises(NonFiniteError, match="lower: what a solver makes of product .* overflow"):
        solve()


@every
def test_only_floating_point_numbers(solver: AbstractSolver) -> None:
    with pytest.raises(GraphError, match="'x'; solvers take floating-point"):
        solver.solve(lambda v: v, {"x": torch.ones(2, dtype=torch.int64)})


@pytest.mark.parametrize("solver", FIXED, ids=repr)
def test_complex_numbers_are_pairs(solver: AbstractSolver) -> None:
    """A product that is linear in real factors alone: with the conjugate in it."""
    matrix, b = torch.from_numpy(A), torch.from_numpy(B).view(6, 2)

    def product(v):
        return (matrix @ v.reshape(12)).view(6, 2)

    found = solver.solve(
        lambda v: {"x": torch.view_as_complex(product(torch.view_as_real(v["x"])))},
        {"x": torch.view_as_complex(torch.stack([b[:, 0], -b[:, 1]], 1)).conj()},
    )
    expected = solver.solve(lambda v: {"x": product(v["x"])}, {"x": b})
    assert found.value["x"].dtype is torch.complex128
    exact(torch.view_as_real(found.value["x"]), expected.value["x"], ANY_ORDER)


@every
def test_a_complex_number_after_an_odd_number_of_real_ones(solver: AbstractSolver) -> None:
    b = {"x": torch.ones(3, dtype=F64), "z": torch.tensor([1 + 2j], dtype=torch.complex128)}
    pairs = {"x": b["x"], "z": torch.view_as_real(b["z"])}
    found = solver.solve(lambda v: {k: 2 * t for k, t in v.items()}, b).value
    expected = solver.solve(lambda v: {k: 2 * t for k, t in v.items()}, pairs).value
    exact({**found, "z": torch.view_as_real(found["z"])}, expected, ANY_ORDER)


@every
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_a_hessian_by_autograd_under_any_gradient_mode(solver, mode, device) -> None:
    """(F''(w)) x = b for a function whose Hessian is A; nothing handed in or out is shared."""
    shapes = {"p": (3, 2), "q": (6,)}
    reference = Matrix(A, device, shapes)
    w = {k: torch.randn(s, dtype=F64, device=device, requires_grad=True) for k, s in shapes.items()}
    b = {k: t.clone().requires_grad_() for k, t in reference.cut(B).items()}

    def operator(v):
        assert not torch.is_grad_enabled()
        with torch.enable_grad():
            flat = reference.join(w)
            value = flat @ reference.matrix @ flat / 2
            grads = torch.autograd.grad(value, list(w.values()), create_graph=True)
            out = torch.autograd.grad(grads, list(w.values()), [v[k] for k in w])
        return dict(zip(w, out, strict=True))

    with mode():
        found = solver.solve(operator, b)
    expected = solver.solve(reference, {k: t.detach() for k, t in b.items()})
    exact(reference.join(found.value), reference.join(expected.value), ANY_ORDER)
    memory = {t.untyped_storage().data_ptr() for t in [*found.value.values(), *b.values()]}
    assert len(memory) == 4
    for key, t in found.value.items():
        assert not t.requires_grad
        assert (t.shape, t.dtype, t.device) == (b[key].shape, F64, b[key].device)
        assert torch.equal(b[key], reference.cut(B)[key])


@every
def test_other_dtypes(solver: AbstractSolver, device) -> None:
    """float32, bfloat16 computed on in float32, and both at once."""
    if isinstance(solver, Nystrom):  # a damping of 0.1 would enlarge rounding fortyfold
        solver = Nystrom(rank=12, damping=1.0)
    matrix = torch.tensor(A, device=device, dtype=torch.float32)
    double = Matrix(A, device)
    expected = solver.solve(double, double.cut(B)).value["x"].cpu()
    for dtypes in ([torch.float32] * 2, [torch.bfloat16] * 2, [torch.float32, torch.bfloat16]):
        b = {
            i: torch.tensor(part, dtype=d, device=device)
            for i, (part, d) in enumerate(zip((B[:5], B[5:]), dtypes, strict=True))
        }

        def operator(v, b=b):
            assert [v[k].dtype for k in b] == [b[k].dtype for k in b]
            product = matrix @ torch.cat([v[0].float(), v[1].float()])
            return {0: product[:5].to(b[0].dtype), 1: product[5:].to(b[1].dtype)}

        solution = solver.solve(operator, b)
        value = solution.value
        assert [value[k].dtype for k in b] == dtypes
        joined = torch.cat([value[0].double(), value[1].double()]).cpu()
        bound = rounding(12 * 12, condition=4, dtype=torch.float32)
        if torch.bfloat16 in dtypes:  # half an epsilon for each product, and for b
            roundings, condition = (solution.products + 1) / 2, 4
            if isinstance(solver, Nystrom):  # each product stands in 3 factors
                roundings, condition = (3 + 1) / 2, 5
            bound += rounding(roundings, condition, torch.bfloat16)
        kills(2 * expected, expected, bound)
        exact(joined, expected, bound)


@every
def test_frozen_and_comparable(solver: AbstractSolver) -> None:
    assert solver == dataclasses.replace(solver)
    with pytest.raises(dataclasses.FrozenInstanceError):
        solver.seed = 3  # type: ignore[attr-defined]
    solution = solver.solve(Matrix(np.eye(12)), {"x": torch.ones(12, dtype=F64)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        solution.products = 0  # type: ignore[misc]


@every
def test_products_are_bounded_by_most_products(solver: AbstractSolver) -> None:
    for size in (1, 2, 5, 30):
        operator = Matrix(symmetric(np.linspace(1, 3, size)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            solution = solver.solve(operator, operator.cut(vector(size)))
        assert solution.products == operator.calls <= solver.most_products(size)
