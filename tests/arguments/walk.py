"""Every public callable: the names of `__all__` of every public package, and their methods."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from typing import Any

import mlopt
from mlopt._graph.levels import Levels
from mlopt._graph.relations import Relations
from mlopt.hypergrad.products import Differences

__all__ = ["PACKAGES", "hints_of", "names", "public_callables"]

PACKAGES = ["mlopt"] + sorted(
    found.name
    for found in pkgutil.walk_packages(mlopt.__path__, "mlopt.")
    if found.ispkg and not any(part.startswith("_") for part in found.name.split("."))
)

#: What mlopt fills in and hands out, and what a method says to the engine at every step.
RECORDS = {
    "Cost",
    "Audit", "Cause", "Finding", "Penalty", "Plan", "Response", "Resumption", "Solution",
    "Alarm", "ArchitectureWeights", "Spread", "Draw",
}  # fmt: skip

#: What the engine calls, beside the classes named Abstract..., with what it has made.
INTERFACES = [
    mlopt.Callback,
    mlopt.Exact,
    mlopt.OneStep,
    mlopt.Response,
    Differences,
    Levels,
    Relations,
]


def public_callables() -> dict[str, Any]:
    """By dotted name. A class stands for its constructor.

    Left out is what nobody calls: errors and records that mlopt makes itself, abstract classes, and
    the methods of an interface, which the engine calls with what it has made.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            public = getattr(module, name)
            if id(public) in seen or not callable(public) or typing.get_origin(public):
                continue
            seen.add(id(public))
            if not inspect.isclass(public):
                found[f"{package}.{name}"] = public
            elif not issubclass(public, BaseException):
                found |= _of_class(f"{package}.{name}", public)
    return found


def _of_class(name: str, cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    made = not inspect.isabstract(cls) and not getattr(cls, "_is_protocol", False)
    if made and cls.__name__ not in RECORDS and _own(cls, "__init__"):
        found[name] = cls
    for method in dir(cls):
        if method == "__call__" or not method.startswith("_"):
            function = inspect.getattr_static(cls, method)
            function = getattr(function, "__func__", function)
            if inspect.isfunction(function) and made and _walked(cls, method, function):
                found[f"{name}.{method}"] = function
    return found


def _own(cls: type, method: str) -> bool:
    return any(method in vars(c) for c in cls.__mro__ if c.__module__.startswith("mlopt"))


def _walked(cls: type, method: str, function: Any) -> bool:
    """Whether a method is of mlopt, none of an interface, and of no public class before."""
    if not function.__module__.startswith("mlopt"):
        return False
    asked = [c for c in cls.__mro__ if c.__name__.startswith("Abstract") or c in INTERFACES]
    return not any(method in vars(c) for c in asked)


def names(function: Any) -> list[str]:
    """The parameters, without the object."""
    if inspect.isclass(function):
        return list(inspect.signature(function).parameters)
    found = list(inspect.signature(function).parameters)
    return found[1:] if found[:1] in (["self"], ["cls"]) else found


def hints_of(function: Any) -> dict[str, Any]:
    """The annotations, of a dataclass those of its fields."""
    if inspect.isclass(function):
        is_record = hasattr(function, "__dataclass_fields__")
        return typing.get_type_hints(function if is_record else function.__init__)
    return typing.get_type_hints(function)
