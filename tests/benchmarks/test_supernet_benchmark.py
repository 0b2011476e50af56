"""The per-edge supernet against published sizes and numbers; the benchmark at its smallest."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compare import exact, near, rounding
from nas.reference import fill, fill_architecture, images
from torch import nn
from torch.nn.functional import cross_entropy

from mlopt.nas import PRIMITIVES, Architecture

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import supernet  # noqa: E402
from supernet_per_edge import Edge, PerEdgeSupernet, Reduce  # noqa: E402

FIVE = [("max_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3")] * 14
THREE = [("skip_connect", "sep_conv_3x3", "dil_conv_3x3")] * 14
STAGE = {5: [PRIMITIVES] * 14, 11: FIVE, 17: THREE}


def stage(layers):
    return {
        "layers": layers,
        "normal_operations": STAGE[layers],
        "reduce_operations": STAGE[layers],
    }


# Settings, classes, parameters, their number, multiply-adds of one image: with 100 classes they
# differ by the classifier's alone, which the parameters count.
PUBLISHED = [
    ({}, 10, 1_930_618, 1399, 300_255_744),
    ({}, 100, 1_953_748, 1399, None),
    ({"channels": 8, "layers": 5}, 10, 394_210, 889, 61_629_696),
    ({"channels": 4, "layers": 3}, 10, 72_854, 548, 15_483_520),
    ({"partial": 4}, 10, 299_578, 1399, 56_596_992),
    ({"partial": 4}, 100, 322_708, 1399, None),
    ({"partial": 2, "form": "imagenet"}, 1000, 956_512, 1406, None),
    (stage(5), 10, 1_275_834, 889, 186_698_240),
    (stage(5), 100, 1_298_964, 889, None),
    (stage(11), 10, 2_136_474, 1601, 338_774_528),
    (stage(17), 10, 1_861_402, 1501, 289_540_608),
    ({"auxiliary": "skip"}, 10, 1_971_578, 1431, 304_450_048),
    ({"auxiliary": "skip"}, 100, 1_994_708, 1431, None),
    ({"auxiliary": "conv"}, 10, 2_152_826, 1527, 329_615_872),
]


def multiply_adds(network, weights):
    """Of the convolutions and linear maps, for one image of 32 pixels a side."""
    counts = []

    def count(module, inputs, output):
        counts.append(output[0].numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():  # on the CPU: to follow shapes on "meta" takes four times as long
        network(torch.zeros(1, 3, 32, 32), weights)
    return sum(counts)


def uniform():
    """Mixtures of every space; nothing is computed with them."""
    rows, edges = torch.ones(14, 8), torch.ones(14)
    return SimpleNamespace(normal=rows, reduce=rows, normal_edges=edges, reduce_edges=edges)


#: One of each kind, the smallest where it is one of several; a whole network takes a second.
OFTEN = (3, 6, 13)


@pytest.mark.parametrize(
    ("settings", "classes", "parameters", "tensors", "macs"),
    [
        pytest.param(*row, marks=() if i in OFTEN else pytest.mark.slow)
        for i, row in enumerate(PUBLISHED)
    ],
)
def test_published_sizes(settings, classes, parameters, tensors, macs):
    network = PerEdgeSupernet(classes=classes, **settings).eval()
    sizes = [p.numel() for p in network.parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)
    if macs is not None:
        assert multiply_adds(network, uniform()) == macs


@pytest.mark.slow  # tests/nas/spaces/test_sizes.py has them of the supernets equal to these
def test_sizes_of_the_cells_with_partial_channels():
    network = PerEdgeSupernet(partial=4)
    sizes = [sum(p.numel() for p in cell.parameters()) for cell in network.cells]
    assert sizes == [8_592, 8_848, 21_408, 22_944, 24_992, 62_784, 68_928, 77_120]


def test_published_logits():
    network, a = fill(PerEdgeSupernet(4, 3)), fill_architecture(Architecture())
    logits = network(images(1), a())
    expected = [1.93923626e-01, 4.02900602e-02, -5.89180001e-01, -2.76961290e-01]
    near(logits[0, :4], expected, 1e-9, why="nine digits")
    loss = cross_entropy(logits, torch.arange(4))
    near(loss, 2.2393192624, 0.5 / 2.2393192624e10, why="eleven digits")
    norms = [g.norm().item() for g in torch.autograd.grad(loss, [a.normal, a.reduce])]
    near(norms, [1.0200597745e-01, 1.2895047049e-01], 1e-10, why="eleven digits")


# What the variants add, on one edge.

#: Of a few operations in float32, in whatever order.
FEW = rounding(20, dtype=torch.float32)
SKIP = ("skip_connect",)
ONLY = torch.eye(8)[PRIMITIVES.index("skip_connect")]  # all weight on the skip connection


def edge(stride=1, names=SKIP, partial=1, auxiliary=None, c=8):
    return Edge(c, stride, names, partial, auxiliary)


def test_partial_channels_are_shuffled():
    x = torch.arange(8.0).view(1, 8, 1, 1).expand(2, 8, 4, 4)
    y = edge(partial=4)(x, ONLY, 0.0)[0, :, 0, 0].tolist()
    assert y == [0, 2, 4, 6, 1, 3, 5, 7]  # channel j * 4 + i was channel i * 2 + j


def test_only_the_first_channels_are_mixed_and_the_others_are_pooled():
    x = torch.randn(2, 8, 4, 4)
    y = edge(2, names=PRIMITIVES[1:3], partial=4)(x, torch.zeros(8), 0.0)
    unshuffled = y[:, [0, 4, 1, 5, 2, 6, 3, 7]]
    assert not unshuffled[:, :2].any()
    blocks = x[:, 2:].unflatten(3, (2, 2)).unflatten(2, (2, 2))
    assert torch.equal(unshuffled[:, 2:], blocks.amax((3, 5)))
    assert torch.equal(edge(partial=4)(x, 3 * ONLY, 0.0)[:, [0, 4]], 3 * x[:, :2])


@pytest.mark.parametrize("kind", ["skip", "conv"])
def test_auxiliary_skip_is_added_beside_the_mixture(kind):
    x = torch.randn(2, 8, 4, 4)
    made = edge(auxiliary=kind)
    exact(made(x, 0.25 * ONLY, 0.5), 0.75 * x, FEW)
    made = edge(2, auxiliary=kind)
    own = [made.ops["skip_connect"](x), made.auxiliary(x)]
    exact(made(x, 3 * ONLY, 0.5), 3 * own[0] + 0.5 * own[1], FEW)
    assert not torch.equal(*own)


def test_skip_dropout_zeroes_elements_and_keeps_the_mean():
    torch.manual_seed(0)
    network = PerEdgeSupernet(4, 3, nodes=1)
    network.set_skip_dropout(0.4)
    skips = [e.ops["skip_connect"] for cell in network.cells for e in cell.edges]
    assert [type(s) for s in skips] == [nn.Dropout] * 2 + [Reduce] * 4
    y = skips[0](torch.ones(4, 8, 16, 16))
    exact(y.unique(), torch.tensor([0, 1 / 0.6]), FEW)
    four = 4 * (0.4 / 0.6 / y.numel()) ** 0.5
    near(y.mean(), 1.0, four, why="four deviations of the mean of as many draws")
    assert torch.equal(network.eval().cells[0].edges[0].ops["skip_connect"](y), y)


def test_edge_weights_multiply_the_edges():
    network, x = PerEdgeSupernet(2, 1, nodes=1, partial=2).eval(), torch.randn(2, 6, 4, 4)
    cell, w = network.cells[0], torch.rand(2, 8)
    states = [cell.pre0(x), cell.pre1(x)]
    y = [cell.edges[e](states[e], w[e], 0.0) for e in range(2)]
    found = cell(x, x, w, torch.tensor([0.3, 0.7]), 0.0)
    exact(found, 0.3 * y[0] + 0.7 * y[1], FEW)


def test_each_kind_of_cell_has_its_own_operations_and_none_alone_is_zero():
    operations = {"normal_operations": [SKIP] * 2, "reduce_operations": [("none",), PRIMITIVES]}
    network = PerEdgeSupernet(4, 3, nodes=1, **operations)
    kinds = [[list(e.ops) for e in cell.edges] for cell in network.cells]
    assert kinds == [[list(SKIP)] * 2] + 2 * [[["none"], list(PRIMITIVES[1:])]]
    y = network.cells[1].edges[0](torch.randn(2, 8, 4, 4), torch.ones(8), 0.0)
    assert y.shape == (2, 8, 2, 2)
    assert not y.any()


def test_stem_of_large_images():
    network = PerEdgeSupernet(2, 1, form="imagenet")
    s0 = network.stem0(torch.randn(2, 3, 32, 32))
    s1 = network.stem1(s0)
    assert (s0.shape, s1.shape) == ((2, 6, 8, 8), (2, 6, 4, 4))
    assert isinstance(network.cells[0].pre0, Reduce)


# The benchmark.

#: Layers of eight cells at most, of 20 operations each, forth and back, that normalise four images.
SAME = rounding(2 * 8 * 4 * 20, condition=1000)
SMALLEST = {"channels": 4, "layers": 3, "nodes": 2, "batch": 4, "image": 8}


@pytest.mark.parametrize("space", supernet.NAMES)
def test_both_contestants_compute_the_same(space, device):
    exact(supernet.difference(supernet.Size(space, **SMALLEST), str(device)), 0.0, SAME, scale=1.0)


def test_the_contestants_drop_skips_at_the_same_rate():
    size = supernet.Size("p-darts/3", **SMALLEST)
    fast, naive = (
        supernet.Contestant(name, size, supernet.Way()).network for name in supernet.CONTESTANTS
    )
    rates = {module.p for module in naive.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.7}
    exact(fast.scheduled, 0.7, FEW)


def test_the_benchmark_runs(tmp_path, capsys, monkeypatch):
    path = tmp_path / "table.md"
    arguments = [a for k, v in SMALLEST.items() for a in (f"--{k}", str(v))]
    arguments += ["--space", "pc-darts", "--pairs", "2", "--no-memory", "--output", str(path)]
    arguments += ["--channels-last", "--plain"]
    (found,) = supernet.main(arguments)
    assert found["space"] == "pc-darts"
    exact(float(found["difference"]), 0.0, SAME, scale=1.0)
    assert path.read_text().strip() in capsys.readouterr().out
    monkeypatch.setattr(supernet, "peak_bytes", lambda device, reset=False: 0 if reset else 2**21)
    assert supernet.main([*arguments, "--memory", "mlopt"]) == []
    assert capsys.readouterr().out == "2.0\n"


@pytest.mark.parametrize("wrong", [["--pairs", "1"], ["--cuda-graph"], ["--space", "nasnet"]])
def test_the_benchmark_refuses(wrong, capsys):
    with pytest.raises(SystemExit):
        supernet.main(wrong)
    assert wrong[0] in capsys.readouterr().err
