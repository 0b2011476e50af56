"""What a training is of, in words that can be compared: its network and its data."""

from __future__ import annotations

import enum
import functools
import hashlib
import operator
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["answers", "data_fingerprint", "network_fingerprint", "same_answers", "unwrapped"]

_PLAIN = (str, int, float, complex, bool, bytes, type(None), enum.Enum, torch.dtype)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
#: What a loader or its sampler may say of its batches; its other attributes are how it makes them.
_OF_BATCHES = ("batch_size", "drop_last", "shuffle", "indices", "weights", "num_samples")
#: Between the answers of one network, as a part of the largest: all in float64, and with something
#: in it that rounds, such as autocast. A cell with one edge elsewhere differs by 1e-3 and more.
_EXACT, _ROUNDED = 1e-6, 1e-2
_MOST_BYTES = 1 << 29  # of one tensor


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside of wrappers, which may want every process, or compile, for a call."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = getattr(network, "module" if isinstance(network, wrappers) else "_orig_mod", None)
        if not isinstance(inner, nn.Module):  # `_orig_mod` is that of torch.compile
            return network
        network = inner


def network_fingerprint(network: nn.Module) -> dict[str, str]:
    """The layers of a network, and the names, shapes and types of what it holds.

    Args:
        network: whose values do not matter.

    Returns:
        Its class, the type and shape of each tensor of its state, and a digest of how it prints;
        all names begin with "network: ".
    """
    inner = unwrapped(network)
    layers = _ADDRESS.sub("", repr(inner))
    found = {
        "the class": _name(type(inner)),
        **{name: _form(value) for name, value in inner.state_dict().items()},
        "the digest of its layers": hashlib.blake2b(layers.encode(), digest_size=6).hexdigest(),
    }
    return {f"network: {name}": value for name, value in found.items()}


def data_fingerprint(loader: Any) -> dict[str, str]:
    """The data of a loader, read from what holds it: no batch is made and nothing is drawn.

    Tensors, arrays and lists count with every element (tensors above half a gigabyte with rows that
    are spread over them), functions and classes by their names. How the batches are made (workers,
    prefetching) does not count, and neither do private attributes, such as caches, and the folders
    of files.

    Args:
        loader: a `DataLoader`, a list of batches, or any object that makes them.

    Returns:
        Of each part of the data a digest, or the value itself if it is short; all names begin with
        "data: ".
    """
    return {f"data: {name}": value for name, value in _of_loader(loader).items()}


def answers(network: nn.Module, images: Any, state: Mapping[str, Any] | None = None) -> Any:
    """What a network makes of some images in evaluation mode; it stays as it is.

    It is asked on the CPU with all numbers in float64, so that the answers of one network agree to
    many digits wherever it is trained, and those of two that are wired differently do not.

    Args:
        network: a network, or a wrapper of one.
        images: a few; None, or what is no tensor, is not asked about.
        state: values to take in place of the network's own.

    Returns:
        Its first result; None if it has none, for example since it cannot be called so.
    """
    if not isinstance(images, Tensor):
        return None
    inner = unwrapped(network)
    values = dict(inner.named_buffers())
    values |= inner.state_dict() if state is None else state
    values = {name: _exact(value) for name, value in values.items() if isinstance(value, Tensor)}
    modes = [(module, module.training) for module in inner.modules()]
    try:
        inner.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = functional_call(inner, values, (_exact(images),), tie_weights=False)
        first = found[0] if isinstance(found, (tuple, list)) and found else found
        return first.detach() if isinstance(first, Tensor) else None
    except Exception:  # a network of any kind: this is a question, not the training
        return None
    finally:
        for module, training in modes:
            module.training = training


def same_answers(here: Tensor | None, there: Tensor | None) -> bool:
    """Whether two results of `answers` are of one network, as far as can be told from them."""
    if here is None or there is None:
        return True
    if here.shape != there.shape or here.dtype != there.dtype:
        return False
    bound = _EXACT if here.dtype == torch.float64 else _ROUNDED
    a, b = here.double(), there.double()
    largest = b[b.isfinite()].abs().max().item() if b.isfinite().any() else 0.0
    return torch.allclose(a, b, rtol=0.0, atol=bound * largest, equal_nan=True)


def _exact(value: Tensor) -> Tensor:
    """A copy on the CPU, in float64 if it is floating point."""
    dtype = torch.float64 if value.is_floating_point() else value.dtype
    return value.detach().to("cpu", dtype, copy=True)


def _of_loader(loader: Any) -> dict[str, str]:
    found = {"the number of batches": str(operator.length_hint(loader))}
    if isinstance(loader, (list, tuple)):
        return found | {"the list of batches": _digest(loader)}
    data = getattr(loader, "dataset", None)
    if data is None:
        return found | _parts("loader", loader)
    for holder in ("loader", "sampler", "batch_sampler"):
        of = loader if holder == "loader" else getattr(loader, holder, None)
        if of is not None and holder != "loader":
            found[holder] = _name(type(of))
        found |= {
            f"{holder}.{name}": _digest(getattr(of, name))
            for name in _OF_BATCHES
            if isinstance(getattr(of, name, ...), (*_PLAIN, Tensor, np.ndarray, list, tuple))
        }
    return found | _parts("dataset", data)


def _parts(name: str, of: Any) -> dict[str, str]:
    """A digest of each public attribute of an object; of the whole if it has none."""
    own = {k: v for k, v in _attributes(of) if not k.startswith("_")}
    if isinstance(of, (list, tuple, Tensor, np.ndarray)) or not own:
        return {name: f"{_name(type(of))} {_digest(of)}"}
    return {name: _name(type(of))} | {f"{name}.{k}": _digest(v) for k, v in own.items()}


def _attributes(of: Any) -> list[tuple[str, Any]]:
    return list(vars(of).items()) if hasattr(of, "__dict__") else []


def _digest(value: Any) -> str:
    """A short value as it is; of others the form and a hash of all that is in it."""
    if isinstance(value, _PLAIN) and len(repr(value)) <= 40:
        return repr(value)
    total = hashlib.blake2b(digest_size=6)
    for part in _walk(value, []):
        total.update(part if isinstance(part, bytes) else part.encode("utf-8", "backslashreplace"))
        total.update(b"\0")
    return f"{_form(value)} {total.hexdigest()}".strip()


def _walk(value: Any, above: list[int]) -> Iterator[str | bytes]:
    """All that is in a value, in order; what changes by being used is left out."""
    if id(value) in above:
        yield "above"
    elif isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, Path):
        yield value.name  # the same data may lie elsewhere
    elif isinstance(value, _FUNCTIONS):
        yield _name(value)
    elif isinstance(value, Tensor):
        yield _form(value)
        yield _bytes(value)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield _form(value)
        yield np.ascontiguousarray(_some(value)).tobytes()
    elif isinstance(value, nn.Module):
        yield _ADDRESS.sub("", repr(value))
        yield from _walk(value.state_dict(), above)
    elif callable(table := getattr(value, "to_numpy", None)):  # as pandas has it
        yield from _walk(table(), above)
    elif isinstance(value, (torch.Generator, np.random.Generator)):
        yield _name(type(value))
    elif isinstance(value, functools.partial):
        yield from _walk((value.func, value.args, value.keywords), above)
    else:
        above = [*above, id(value)]
        yield _name(type(value))
        if isinstance(value, (list, tuple)) and all(type(item) in _PLAIN for item in value):
            yield repr(value)  # long lists of names and labels, at once
            return
        if isinstance(value, Mapping):
            items: list[Any] = [part for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple, np.ndarray)):
            items = list(value)
        elif isinstance(value, (set, frozenset)):
            items = sorted(value, key=repr)
        else:
            items = [x for pair in _attributes(value) if not pair[0].startswith("_") for x in pair]
        for item in items:
            yield from _walk(item, above)


def _bytes(value: Tensor) -> bytes:
    if value.layout != torch.strided or value.is_quantized:
        return repr(value).encode()
    value = _some(value).detach().cpu().resolve_conj().resolve_neg().contiguous()
    return value.reshape(-1).view(torch.uint8).numpy().tobytes()


def _some(value: Any) -> Any:
    """All of a tensor or array; of one that is too large to read, rows evenly spread over it."""
    step = -(-value.nbytes // _MOST_BYTES)
    return value[::step] if step > 1 and value.ndim else value


def _form(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{len(value)} items" if isinstance(value, (list, tuple, dict, set)) else ""


def _name(of: Any) -> str:
    """Without the module, which is another one for a program that is imported."""
    return getattr(of, "__qualname__", type(of).__qualname__)
