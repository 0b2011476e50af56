"""How the weights of a generator or discriminator start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from mlopt._arguments import checked, in_body
from mlopt._errors import SettingsError

__all__ = ["Init", "initialize"]

Init = Literal["orthogonal", "normal", "xavier"]


def _normal(weight: Tensor) -> Tensor:
    return nn.init.normal_(weight, 0.0, 0.02)


_RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "orthogonal": nn.init.orthogonal_,
    "normal": _normal,
    "xavier": nn.init.xavier_uniform_,
}


@checked(SettingsError, init=in_body)
def initialize(module: nn.Module, init: Init) -> None:
    """Draw the weights of every convolution, linear map and embedding anew, in place.

        orthogonal   rows (or columns) of the weight as a matrix are orthonormal
        normal       N(0, 0.02), where 0.02 is the deviation
        xavier       uniform, with variance 2 / (inputs + outputs)

    Biases, and the gains and offsets of normalisations, stay as torch made them. Call it before
    `spectral_normalize`, after which a weight is a result and no longer a parameter.

    Args:
        module: the network.
        init: name of the rule.

    Raises:
        SettingsError: there is no such rule, or a weight is parametrized already.

    Reference: Brock, Donahue, Simonyan, "Large scale GAN training for high fidelity natural image
    synthesis", ICLR 2019, uses orthogonal; Radford et al., 2016, normal; Glorot, Bengio,
    "Understanding the difficulty of training deep feedforward neural networks", 2010, xavier.
    """
    if not isinstance(init, str) or init not in _RULES:
        raise SettingsError(f"initialize: init={init!r} is unknown; give one of {list(_RULES)}.")
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)):
            if is_parametrized(part, "weight"):
                raise SettingsError(
                    f"initialize: the weight of a {type(part).__name__} is parametrized, by a "
                    "spectral norm for instance; initialize before that."
                )
            _RULES[init](part.weight)
