"""A language model whose training samples have weights: large to be counted, small to be run."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

import mlopt

__all__ = ["LARGE", "OPTIMIZERS", "SMALL", "Language", "language"]

OPTIMIZERS: dict[str, Any] = {
    "Adam": functools.partial(torch.optim.Adam, lr=1e-4),
    "SGD": functools.partial(torch.optim.SGD, lr=1e-4, momentum=0.9),
}


class Language(nn.Module):
    """A transformer, decoder only."""

    def __init__(self, width: int, layers: int, words: int, length: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(length, width)
        nn.init.normal_(self.words.weight, std=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, width // 8 if width < 64 else width // 64, 4 * width, 0.0, "gelu",
                batch_first=True, norm_first=True,
            )
            for _ in range(layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(width)

    def forward(self, text: Tensor) -> Tensor:
        """(batch, length) -> (batch, length, words)"""
        length = text.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=text.device)
        x = self.words(text) + self.places.weight[:length]
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x) @ self.words.weight.T


LARGE = {"width": 2048, "layers": 18, "words": 50_257, "length": 1024}
SMALL = {"width": 128, "layers": 2, "words": 2048, "length": 8}


def language(method: Any, optimizer: str = "Adam", samples: int = 64) -> mlopt.Engine:
    """The graph: a model's samples have weights, which are judged by the validation loss."""
    torch.manual_seed(0)
    W = mlopt.Variable(Language(**SMALL), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(samples)), "a")
    text = torch.randint(SMALL["words"], (2, 2, SMALL["length"] + 1))
    train = mlopt.Stream([(text[0], torch.arange(2))])
    valid = mlopt.Stream([text[1]])

    def losses(w: nn.Module, text: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivative
            found = w(text[:, :-1]).transpose(1, 2)
        return cross_entropy(found, text[:, 1:], reduction="none").mean(1)

    @mlopt.problem(
        over=W, given=[A], data=train, hypergrad=method,
        optimizer=OPTIMIZERS[optimizer](W.parameters()),
    )  # fmt: skip
    def training(w: Any, a: Any, batch: Any) -> Any:
        text, which = batch
        # A curvature, of which solvers cannot find the inverse in a few products.
        decay = sum((1 + i) * (p**2).sum() for i, p in enumerate(w.parameters()))
        return (2 * a[which].sigmoid() * losses(w, text)).mean() + decay

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=torch.optim.Adam(A.parameters(), 1e-2))
    def validation(a: Any, w: Any, batch: Any) -> Any:
        return losses(w, batch).mean()

    return mlopt.Engine([training, validation])
