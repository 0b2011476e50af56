"""The graphs of docs/scaling.md, as far as ranks are concerned: LFM-CW, SGL, weights of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaling_model import Buffers, Level, Sizes

import mlopt

__all__ = ["lfm_cw", "sgl", "weighted"]


def lfm_cw(
    sizes: Mapping[str, Sizes],
    method: Any,
    *,
    classes: int = 10,
    item: int = 4,
    metrics: int = 0,
    whole: bool = True,
    buffers: Mapping[str, Buffers] | None = None,
) -> list[Level]:
    """LFM-CW, whose discriminator reads the architecture.

    Args:
        sizes: the bytes of each parameter of w1, w2, g, h and a.
        method: of w1, g and w2.
        classes: of the images.
        item: bytes of a number.
        metrics: of the discriminator.
        whole: whether the images of each class are counted in whole numbers, which go apart.
        buffers: of w1, w2, g and h, if they have some.

    Returns:
        The levels.
    """
    a, none, held = sizes["a"], mlopt.Frozen(), buffers or {}
    losses = (classes * item,)
    sums = (losses, (classes * 8,)) if whole else (2 * losses,)

    def level(name: str, of: str, reads: Mapping[str, Sizes], how: Any, count: int = 0) -> Level:
        return Level(
            name, reads, sizes[of], how, (), count, held.get(of, (0, 0, False)),
            data=("valid",) if of == "a" else ("train",),
        )  # fmt: skip

    return [
        level("w1", "w1", {"a": a}, method),
        level("h", "h", {"g": sizes["g"], "a": a}, none, metrics),
        level("g", "g", {"h": sizes["h"], "a": a}, method),
        Level("sums", {"w1": sizes["w1"], "a": a}, value=sums, data=("valid",), adds=True),
        Level("class losses", {"sums": losses}),
        Level("images", {"g": sizes["g"]}, data=("train",)),
        level("w2", "w2", {"a": a, "class losses": losses, "images": ()}, method),
        level("a", "a", {"w2": sizes["w2"]}, None),
    ]


def sgl(
    sizes: Mapping[str, Sizes], method: Any, *, buffers: Mapping[str, Buffers] | None = None
) -> list[Level]:
    """SGL.

    Args:
        sizes: the bytes of each parameter of a1, a2, ..., v1, v2, ..., w1, w2, ...
        method: of all networks.
        buffers: of the networks, if they have some.

    Returns:
        The levels.
    """
    group, held = [n[1:] for n in sizes if n.startswith("a")], buffers or {}

    def buffers_of(name: str) -> Buffers:
        return held.get(name, (0, 0, False))

    first = [
        Level(f"v{k}", {"a": sizes[f"a{k}"]}, sizes[f"v{k}"], method, (), 0,
              buffers_of(f"v{k}"), ("train",))
        for k in group
    ]  # fmt: skip
    labels = [
        Level(f"labels{k}", {f"v{k}": sizes[f"v{k}"], "a": sizes[f"a{k}"]}, data=("unlabelled",))
        for k in group
    ]
    second = [
        Level(
            f"w{k}",
            {"a": sizes[f"a{k}"], **{f"labels{j}": () for j in group if j != k}},
            sizes[f"w{k}"], method, (), 0, buffers_of(f"w{k}"), ("train", "unlabelled"),
        )
        for k in group
    ]  # fmt: skip
    every = tuple(size for k in group for size in sizes[f"a{k}"])
    top = Level("a", {f"w{k}": sizes[f"w{k}"] for k in group}, every, data=("valid",))
    return [*first, *labels, *second, top]


def weighted(w: Sizes, a: Sizes, method: Any) -> list[Level]:
    """A model whose training samples have weights, and a validation loss above.

    Args:
        w: the bytes of each parameter of the model.
        a: of the weights.
        method: of the model.

    Returns:
        The levels.
    """
    return [
        Level("w", {"a": a}, w, method, data=("train",)),
        Level("a", {"w": w}, a, data=("valid",), through=True),
    ]
