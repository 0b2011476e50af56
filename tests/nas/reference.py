"""Oracles of the NAS tests: the per-edge supernet, and deterministic weights and images."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


def batch_norm(channels, affine=False):
    return nn.BatchNorm2d(channels, affine=affine)


def rectified_conv(in_channels, channels):
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), batch_norm(channels)
    )


class NaiveReduce(nn.Module):
    def __init__(self, in_channels, channels):
        super().__init__()
        self.a = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.b = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.bn = batch_norm(channels)

    def forward(self, x):
        x = torch.relu(x)
        return self.bn(torch.cat([self.a(x), self.b(x[:, :, 1:, 1:])], 1))


def half(channels, kernel, stride, dilation):
    pad = (kernel - 1) // 2 * dilation
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, pad, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        batch_norm(channels),
    ]


class NaiveMixedOp(nn.Module):
    """Seven operations and a zero on one edge."""

    def __init__(self, c, stride):
        super().__init__()
        self.ops = nn.ModuleList(
            [
                nn.Sequential(nn.MaxPool2d(3, stride, 1), batch_norm(c)),
                nn.Sequential(nn.AvgPool2d(3, stride, 1, count_include_pad=False), batch_norm(c)),
                nn.Identity() if stride == 1 else NaiveReduce(c, c),
                nn.Sequential(*half(c, 3, stride, 1), *half(c, 3, 1, 1)),
                nn.Sequential(*half(c, 5, stride, 1), *half(c, 5, 1, 1)),
                nn.Sequential(*half(c, 3, stride, 2)),
                nn.Sequential(*half(c, 5, stride, 2)),
            ]
        )

    def forward(self, x, weights):
        return sum(w * op(x) for w, op in zip(weights[1:], self.ops, strict=True))


class NaiveCell(nn.Module):
    def __init__(self, nodes, before, previous, c, reduction, after_reduction):
        super().__init__()
        self.nodes, self.reduction = nodes, reduction
        self.pre0 = NaiveReduce(before, c) if after_reduction else rectified_conv(before, c)
        self.pre1 = rectified_conv(previous, c)
        self.edges = nn.ModuleList(
            NaiveMixedOp(c, 2 if reduction and source < 2 else 1)
            for node in range(nodes)
            for source in range(node + 2)
        )

    def forward(self, s0, s1, weights):
        states = [self.pre0(s0), self.pre1(s1)]
        edge = 0
        for _ in range(self.nodes):
            node = 0
            for state in list(states):
                node = node + self.edges[edge](state, weights[edge])
                edge += 1
            states.append(node)
        return torch.cat(states[2:], 1)


class NaiveSupernet(nn.Module):
    def __init__(
        self, channels=16, layers=8, classes=10, nodes=4, in_channels=3, stem_multiplier=3
    ):
        super().__init__()
        c = stem_multiplier * channels
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, c, 3, padding=1, bias=False), batch_norm(c, affine=True)
        )
        self.cells = nn.ModuleList()
        before, previous, after = c, c, False
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels = channels * 2 if reduction else channels
            self.cells.append(NaiveCell(nodes, before, previous, channels, reduction, after))
            before, previous, after = previous, nodes * channels, reduction
        self.classifier = nn.Linear(previous, classes)

    def forward(self, x, weights):
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, weights.reduce if cell.reduction else weights.normal)
        return self.classifier(F.adaptive_avg_pool2d(s1, 1).flatten(1))


def paired_parameters(fast, naive):
    """Pairs (parameter of mlopt's Supernet, parameter of NaiveSupernet) that mean the same."""

    def pre(a, b):
        if isinstance(b, NaiveReduce):
            return [(a.even.weight, b.a.weight), (a.odd.weight, b.b.weight)]
        return [(a.conv.weight, b[1].weight)]

    pairs = list(zip(fast.stem.parameters(), naive.stem.parameters(), strict=True))
    pairs += list(zip(fast.classifier.parameters(), naive.classifier.parameters(), strict=True))
    for a, b in zip(fast.cells, naive.cells, strict=True):
        pairs += pre(a.preprocess0, b.pre0) + pre(a.preprocess1, b.pre1)
        edge = 0
        for node in range(b.nodes):
            for source in range(node + 2):
                group = a.groups[max(0, source - 1)]
                k = source * group.targets + node if source < 2 else node - source + 1
                ops = b.edges[edge].ops
                if isinstance(ops[2], NaiveReduce):
                    pairs += [
                        (group.skips.even[k], ops[2].a.weight),
                        (group.skips.odd[k], ops[2].b.weight),
                    ]
                for sep, op in ((group.sep3, ops[3]), (group.sep5, ops[4])):
                    for part, at in ((sep[0], 1), (sep[1], 5)):
                        pairs += [
                            (part.depthwise[k], op[at].weight),
                            (part.pointwise[k], op[at + 1].weight),
                        ]
                for part, op in ((group.dil3, ops[5]), (group.dil5, ops[6])):
                    pairs += [(part.depthwise[k], op[1].weight), (part.pointwise[k], op[2].weight)]
                edge += 1
    return pairs


def pseudo_random(count, salt):
    """Numbers in [-1, 1) from an integer hash: the same in every framework."""
    k = (torch.arange(1, count + 1, dtype=torch.int64) * 2654435761 + salt) & 0xFFFFFFFF
    for _ in range(2):
        k = ((k ^ (k >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    k = k ^ (k >> 16)
    return 2 * k.double() / 2**32 - 1


@torch.no_grad()
def fill(network):
    """Give every conv and linear weight sqrt(6 / fan_in) * hash, zero biases, in float64."""
    network.double()
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            values = math.sqrt(6 / parameter[0].numel()) * pseudo_random(parameter.numel(), 0)
            parameter.copy_(values.view(parameter.shape))
        elif name.endswith("bias"):
            parameter.zero_()
    return network


@torch.no_grad()
def fill_architecture(architecture):
    architecture.double()
    edges, operations = architecture.normal.shape
    n = (operations * torch.arange(edges)[:, None] + torch.arange(operations)).double()
    architecture.normal.copy_(torch.sin(1 + n))
    architecture.reduce.copy_(torch.cos(1 + n))
    return architecture


def images(salt, batch=4, size=32):
    return 1.7 * pseudo_random(batch * 3 * size * size, salt).view(batch, 3, size, size)
