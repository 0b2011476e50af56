"""Patterns of layers: recurrence, attention, embeddings, normalisation, convolutions."""

from __future__ import annotations

from typing import Any

import torch
from engine.patterns import SAMPLES, Pattern, images, sequences, tokens
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

__all__ = ["LAYERS"]

LENGTHS = [3, 3, 2, 1]


class Recurrent(nn.Module):
    """The last state of a recurrent layer, read out."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = kind(3, 2, batch_first=True, **options)
        self.last = nn.Linear(4 if options.get("bidirectional") else 2, 1)

    def forward(self, x: Any) -> Tensor:
        if isinstance(x, tuple) and not isinstance(x, PackedSequence):
            x = pack_padded_sequence(*x, batch_first=True)
        out, _ = self.layer(x)
        if isinstance(out, PackedSequence):
            out, lengths = pad_packed_sequence(out, batch_first=True)
            return self.last(out[torch.arange(SAMPLES), lengths - 1])
        return self.last(out[:, -1])


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(SAMPLES, 2)
        for at in x.unbind(1):
            h, c = self.cell(at, (h, c))
        return h


def padded(k: int) -> tuple[Tensor, Tensor]:
    return sequences(0) + k, torch.tensor(LENGTHS)


def packed(k: int) -> PackedSequence:
    return pack_padded_sequence(*padded(k), batch_first=True)


class Masked(nn.Module):
    """Sequences of several lengths, padded: their means without the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, lengths = batch
        there = torch.arange(x.shape[1]) < lengths[:, None]
        h = self.first(x).tanh().masked_fill(~there[..., None], 0.0)
        return self.last(h.sum(1) / lengths[:, None])


class Attention(nn.Module):
    def __init__(self, fused: bool, causal: bool = False) -> None:
        super().__init__()
        self.mix, self.fused = nn.MultiheadAttention(3, 1, batch_first=True), fused
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        mask = None
        if self.causal:
            mask = x.new_full((x.shape[1],) * 2, -torch.inf).triu(1)
        return self.mix(x, x, x, need_weights=not self.fused, attn_mask=mask)[0]


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)[:, None]
        return nn.functional.scaled_dot_product_attention(h, h.tanh(), h)[:, 0]


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(3, 1, 2, dropout=0.2, activation="gelu", batch_first=True)


def embedded(sparse: bool, **options: Any) -> nn.Module:
    table = nn.Embedding(5, 2, padding_idx=0, sparse=sparse, **options)
    return nn.Sequential(table, nn.Tanh(), nn.Linear(2, 1))


class Means(nn.Embedding):
    """What a bag is, written out."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(1)


def bag(sparse: bool = False, plain: bool = False) -> nn.Module:
    table = Means(5, 2) if plain else nn.EmbeddingBag(5, 2, sparse=sparse)
    return nn.Sequential(table, nn.Tanh())


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 1))


def still() -> nn.Module:
    return normed(nn.BatchNorm1d(4)).eval()


class Shaped(nn.Module):
    """A layer, its input and its output in other shapes."""

    def __init__(self, layer: nn.Module, *shape: int) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(SAMPLES, *self.shape)).flatten(1).tanh()


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Bilinear(3, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x, x.sin())


def lacks_second(module: nn.Module, x: Tensor) -> bool:
    """Whether torch's kernel for it has no second derivative, in this version on this processor."""
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    try:
        torch.autograd.grad(slope.sum(), x)
    except RuntimeError:
        return True
    return False


def fused(module: nn.Module, *shape: int) -> str:
    """What is said of attention by a kernel that cannot be differentiated twice."""
    second = lacks_second(module.double(), torch.ones(shape, dtype=torch.float64))
    return "attention by torch's mathematical kernel" if second else ""


LAYERS = {
    "rnn": Pattern(lambda: Recurrent(nn.RNN), sequences),
    "lstm": Pattern(lambda: Recurrent(nn.LSTM), sequences),
    "lstm, two ways, two layers, dropout": Pattern(
        lambda: Recurrent(nn.LSTM, bidirectional=True, num_layers=2, dropout=0.3), sequences
    ),
    "gru": Pattern(lambda: Recurrent(nn.GRU), sequences),
    "lstm cell": Pattern(Cell, sequences),
    "packed in the network": Pattern(lambda: Recurrent(nn.GRU), padded),
    "packed batches": Pattern(lambda: Recurrent(nn.LSTM), packed),
    "padded batches": Pattern(Masked, padded),
    "attention": Pattern(lambda: Attention(fused=False), sequences),
    "attention with a mask": Pattern(lambda: Attention(fused=False, causal=True), sequences),
    "fused attention": Pattern(
        lambda: Attention(fused=True), sequences, said=fused(Attention(fused=True), SAMPLES, 4, 3)
    ),
    "fused attention, called": Pattern(Fused, said=fused(Fused(), SAMPLES, 3)),
    "encoder layer": Pattern(encoder, sequences),
    "embedding": Pattern(lambda: embedded(sparse=False), tokens),
    "sparse embedding": Pattern(
        lambda: embedded(sparse=True),
        tokens,
        plain=lambda: embedded(sparse=False),
        adam=False,
        decay=0.0,
    ),
    "embedding bag": Pattern(bag, tokens, plain=lambda: bag(plain=True), second="embedding_bag"),
    "sparse embedding bag": Pattern(
        lambda: bag(sparse=True),
        tokens,
        plain=lambda: bag(plain=True),
        adam=False,
        decay=0.0,
        second="embedding_bag",
    ),
    "embedding that renormalises": Pattern(
        lambda: embedded(sparse=False, max_norm=0.1),
        tokens,
        refused="low writes .* in place.*max_norm",
    ),
    "batch norm": Pattern(lambda: normed(nn.BatchNorm1d(4))),
    "batch norm, mean of all batches": Pattern(lambda: normed(nn.BatchNorm1d(4, momentum=None))),
    "batch norm in evaluation": Pattern(still),
    "layer norm": Pattern(lambda: normed(nn.LayerNorm(4))),
    "group norm": Pattern(lambda: normed(nn.GroupNorm(2, 4))),
    "instance norm": Pattern(
        lambda: Shaped(nn.InstanceNorm2d(2, affine=True, track_running_stats=True), 2, 4, 4),
        images,
    ),
    "rms norm": Pattern(lambda: normed(nn.RMSNorm(4))),
    "convolution": Pattern(lambda: Shaped(nn.Conv2d(2, 2, 3, padding=1), 2, 4, 4), images),
    "depthwise": Pattern(
        lambda: Shaped(nn.Conv2d(2, 2, 3, groups=2, dilation=2, padding=2), 2, 4, 4), images
    ),
    "transposed": Pattern(lambda: Shaped(nn.ConvTranspose1d(2, 1, 3, stride=2), 2, 16), images),
    "max pooling": Pattern(
        lambda: Shaped(nn.Sequential(nn.Conv2d(2, 2, 2), nn.ReLU(), nn.MaxPool2d(2)), 2, 4, 4),
        images,
    ),
    "bilinear": Pattern(Pair),
    "prelu": Pattern(lambda: normed(nn.PReLU(4))),
    "dropout": Pattern(lambda: normed(nn.Dropout(0.4))),
    "feature dropout": Pattern(lambda: normed(nn.FeatureAlphaDropout(0.4))),
}
