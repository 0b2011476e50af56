"""Comparisons of numbers: each notes how much of its bound it used, for `pytest --headroom`.

A bound is a relative error, and says where it comes from:

    exact(found, expected, rounding(40, condition=10))      # 40 operations in float64
    near(found, expected, 3e-3, why="central difference: radius^2 / 6 of the third derivative")

`exact` is for what rounding alone keeps apart; its tests leave nine tenths of their bound unused.
`near` is for a known bias or for statistics. Equality to the bit is `torch.equal`. Where a bound is
wide, `kills` shows that it still tells a planted fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Headroom", "agree", "exact", "kills", "near", "rounding", "used"]


@dataclass
class Headroom:
    """The greatest parts of their bounds that one test's comparisons used.

    Attributes:
        exact: where rounding alone is allowed.
        near: where there is a bias or a statistic.
        where: of the greatest exact one.
    """

    exact: float = 0.0
    near: float = 0.0
    where: str = ""


#: Of the test that runs; `conftest.py` begins anew with each.
used = [Headroom()]


def rounding(operations: int, condition: float = 1.0, dtype: torch.dtype = torch.float64) -> float:
    """The relative error that rounding may make: operations * epsilon * condition.

    Args:
        operations: roundings one after another on the longest way to the result. A sum of n terms
            counts n, which covers every order of summation.
        condition: by how much the problem enlarges a relative error of its data: the ratio of what
            is summed to the sum where terms cancel, of eigenvalues where a system is solved.
        dtype: in which it is computed.

    Returns:
        The bound.
    """
    return operations * condition * torch.finfo(dtype).eps


def exact(
    found: Any, expected: Any, bound: float, *, scale: float | None = None, what: str = ""
) -> None:
    """What rounding alone may keep apart.

    Args:
        found: a tensor, array or number, or a list or dict of them; its parts are compared one by
            one.
        expected: of the same form.
        bound: the greatest relative error in the 2-norm, by `rounding` or another argument.
        scale: what the error is relative to, by default the 2-norm of what is expected; to be
            given where that is zero or small against what was summed.
        what: for the message.
    """
    _compare(found, expected, bound, scale, what, "exact")


def near(
    found: Any, expected: Any, bound: float, *, why: str, scale: float | None = None, what: str = ""
) -> None:
    """What differs by a known bias of the method, or by chance.

    Args:
        found: as of `exact`.
        expected: as of `exact`.
        bound: the greatest relative error in the 2-norm.
        why: where the bound comes from: the bias, the number of samples.
        scale: as of `exact`.
        what: for the message.
    """
    assert why, "say where the bound comes from"
    _compare(found, expected, bound, scale, what, "near")


def agree(
    found: Any,
    expected: Any,
    bound: float,
    why: str = "",
    *,
    scale: float | None = None,
    what: str = "",
) -> None:
    """`near` where a reason is given, else `exact`: for tables in which some rows have a bias."""
    _compare(found, expected, bound, scale, what, "near" if why else "exact")


def kills(wrong: Any, expected: Any, bound: float, *, scale: float | None = None) -> None:
    """That a comparison with half of this precision still fails for what has a planted fault.

    Args:
        wrong: as `exact` would be given it: a factor of two, a term left out.
        expected: as of `exact`.
        bound: that of the comparison.
        scale: as of `exact`.
    """
    errors = [
        float((a - b).norm()) / (float(b.norm()) if scale is None else scale)
        for _, a, b in _parts(wrong, expected, "")
    ]
    assert max(errors) > 2 * bound, f"the bound {bound:.3e} hides a fault of {max(errors):.3e}"


def _compare(
    found: Any, expected: Any, bound: float, scale: float | None, what: str, kind: str
) -> None:
    for name, a, b in _parts(found, expected, what):
        assert a.shape == b.shape, f"{name}: shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        size = float(b.norm()) if scale is None else scale
        error = float((a - b).norm())
        if scale is None and size == 0:
            assert error == 0, f"{name}: {a} where zero is expected; give scale="
            continue
        share = error / (bound * size)
        noted = used[0]
        if kind == "exact" and share > noted.exact:
            noted.where = name
        setattr(noted, kind, max(getattr(noted, kind), share))
        assert share <= 1, (
            f"{name}: relative error {error / size:.3e}, allowed {bound:.3e} ({kind})\n"
            f"found    {_show(a)}\nexpected {_show(b)}"
        )


def _parts(found: Any, expected: Any, name: str) -> list[tuple[str, Tensor, Tensor]]:
    """Pairs of what is compared, in double precision, by name."""
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), f"{name}: {list(found)} is not {list(expected)}"
        pairs = [(f"{name}[{key!r}]", found[key], expected[key]) for key in expected]
        return [part for at, a, b in pairs for part in _parts(a, b, at)]
    if isinstance(expected, Sequence) and not all(isinstance(x, int | float) for x in expected):
        assert len(found) == len(expected), f"{name}: {len(found)} parts of {len(expected)}"
        pairs = [(f"{name}[{i}]", a, b) for i, (a, b) in enumerate(zip(found, expected))]  # noqa: B905
        return [part for at, a, b in pairs for part in _parts(a, b, at)]
    return [(name or "value", _double(found), _double(expected))]


def _double(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
    else:
        value = torch.as_tensor(np.asarray(value))
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _show(tensor: Tensor) -> str:
    if tensor.numel() <= 8:
        return str(tensor.tolist())
    return f"{tuple(tensor.shape)}, norm {float(tensor.norm()):.17g}"
