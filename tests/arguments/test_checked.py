"""`checked` and `check_fields`: what is taken, what is refused, and in which words."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import torch
from arguments.walk import hints_of, public_callables
from torch import Tensor

from mlopt import SettingsError
from mlopt._arguments import a_device, check_fields, checked, from_one, one_of, within
from mlopt._arguments.checked import shown
from mlopt._arguments.kinds import kind_of

CALLABLES = public_callables()


@checked(SettingsError, steps=from_one, rates=within("[0, 1)"), device=a_device)
def train(
    steps: int,
    *rest: Tensor,
    rates: tuple[float, ...] = (),
    form: Literal["a", "b"] = "a",
    device: torch.device | str | None = None,
    make: Callable[[], Any] | None = None,
    names: Sequence[str] = (),
    table: Mapping[str, float] | None = None,
    **options: int,
) -> Any:
    """Give back what arrived."""
    return steps, rest, rates, options


@dataclass(frozen=True)
class Sizes:
    sides: tuple[int, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, SettingsError, sides=from_one, scale=within("(0, 1]"))


class Base:
    @checked(SettingsError, size=from_one)
    def __init__(self, size: int) -> None:
        self.size = size

    @classmethod
    @checked(SettingsError, kind=one_of(("a", "b")))
    def of(cls, kind: str) -> str:
        return kind


class Derived(Base):
    """Checked as its base is."""


ONE = torch.ones(1)


@pytest.mark.parametrize("value", [-math.inf, -1, 0, 0.5, 1, 2, math.inf, math.nan])
def test_an_interval_is_what_its_brackets_say(value):
    inside = {
        "[0, 1]": 0 <= value <= 1,
        "(0, 1)": 0 < value < 1,
        "[0, 1)": 0 <= value < 1,
        "(0, 1]": 0 < value <= 1,
        "[0, inf)": 0 <= value < math.inf,
        "(0, inf]": value > 0,
    }
    for interval, holds in inside.items():
        assert within(interval).holds(value) == holds, interval


def test_numbers_of_numpy_become_numbers_of_python():
    steps, _, rates, options = train(np.int64(3), rates=[np.float32(0.5), 0], more=np.int32(2))
    assert (steps, rates, options) == (3, (0.5, 0), {"more": 2})
    assert [type(v) for v in (steps, *rates, options["more"])] == [int, float, int, int]


def test_a_tensor_of_one_number_is_a_number_and_stays_the_tensor_that_it_is():
    scale = torch.tensor(0.5)
    assert Sizes((1,), scale=scale).scale is scale
    for wrong in (torch.tensor(2.0), torch.tensor(math.nan), torch.tensor([0.5]), torch.tensor(1)):
        with pytest.raises(SettingsError, match=r"scale must be a number in \(0, 1\]"):
            Sizes((1,), scale=wrong)


def test_lists_become_tuples_so_that_a_record_has_a_hash():
    assert Sizes([1, np.int64(2)]) == Sizes((1, 2))
    assert hash(Sizes([1])) == hash(Sizes((1,)))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"steps": 0}, "train(steps=0): steps must be a whole number, at least 1."),
        ({"steps": True}, "train(steps=True): steps must be a whole number, at least 1."),
        ({"steps": 1.0}, "train(steps=1.0): steps must be a whole number, at least 1."),
        ({"rates": (0.5, 1)}, "rates must be a tuple, each a number in [0, 1)."),
        ({"form": "c"}, "train(form='c'): form must be a str, one of 'a', 'b'."),
        ({"device": "gpu"}, "device must be a device, a str that names a device of torch"),
        ({"make": 3}, "train(make=3): make must be a function or None."),
        ({"names": "abc"}, "names must be a list or tuple, each a str."),
        ({"table": {1: 1.0}}, "table must be a dict from a str to a number or None."),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_is_said(arguments, text):
    with pytest.raises(SettingsError) as caught:
        train(**{"steps": 1, **arguments})
    assert text in str(caught.value)


def test_a_tensor_is_shown_by_its_shape_and_every_one_of_the_rest_is_checked():
    assert train(1, ONE, ONE)[1] == (ONE, ONE)
    with pytest.raises(SettingsError, match=r"train\(rest=3\): rest must be a tensor"):
        train(1, ONE, 3)
    with pytest.raises(SettingsError, match="options must be a whole number"):
        train(1, more="x")
    with pytest.raises(SettingsError, match=r"steps=<tensor of shape \(1,\), torch.float32>"):
        train(ONE)


def test_a_class_in_the_place_of_an_object_is_told_to_be_called():
    @checked(SettingsError)
    def hold(sizes: Sizes) -> None: ...

    with pytest.raises(SettingsError, match=r"^hold\(.*Give an object, Sizes\(\.\.\.\), instead"):
        hold(Sizes)


def test_a_subclass_whose_annotations_are_its_own_secret_is_checked_as_far_as_its_base():
    class Local: ...

    @dataclass(frozen=True)
    class More(Sizes):
        more: Local | None = None

    assert More((1,), more=3).more == 3
    with pytest.raises(SettingsError, match=r"^More\(sides="):
        More((0,))


def test_an_error_speaks_of_the_class_that_was_called():
    with pytest.raises(SettingsError, match=r"^Derived\(size=0\)"):
        Derived(0)
    with pytest.raises(SettingsError, match=r"^Derived\.of\(kind='c'\)"):
        Derived.of("c")


class Hostile:
    """It can be neither shown nor compared."""

    def __repr__(self) -> str:
        raise ValueError

    __eq__ = __len__ = __iter__ = __repr__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


OWN = [1]
OWN.append(OWN)  # type: ignore[arg-type]
ZOO = [
    Hostile(), [Hostile()], {"a": Hostile()}, OWN, np.ones(3), torch.ones(3), [torch.ones(3)], 1j,
    "x" * 10_000, -(10**5000), [10**5000], list(range(10_000)), b"x", range(3), {},
    object, type, lambda: None, iter(()),
]  # fmt: skip


def test_whatever_is_given_is_taken_or_refused_in_a_line():
    assert all(len(shown(value)) <= 100 for value in ZOO)
    for name, function in CALLABLES.items():
        for parameter, hint in hints_of(function).items():
            kind = kind_of(hint)
            try:
                for value in ZOO:
                    kind.take(value, None)
            except Exception as error:
                raise AssertionError(f"{name}, {parameter}: {error!r}") from error
            assert kind.text(from_one), f"{name}, {parameter}"


def test_python_says_what_is_missing_or_too_much():
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        train()
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        Base(1, 2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sizes'"):
        Base(sizes=1)


def test_a_checked_function_keeps_its_name_its_text_and_its_signature():
    assert (train.__name__, train.__doc__) == ("train", "Give back what arrived.")
    assert list(inspect.signature(train).parameters)[:2] == ["steps", "rest"]


def test_a_limit_of_no_parameter_is_seen_where_it_is_written():
    with pytest.raises(AssertionError, match="step"):
        checked(SettingsError, step=from_one)(lambda steps: steps)


def test_in_a_compiled_graph_a_checked_function_breaks_nothing():
    @checked(SettingsError, power=from_one)
    def raised(x: Tensor, power: int) -> Tensor:
        return x**power

    compiled = torch.compile(lambda x: raised(x, 2) + 1, backend="eager", fullgraph=True)
    assert torch.equal(compiled(2 * ONE), 5 * ONE)
