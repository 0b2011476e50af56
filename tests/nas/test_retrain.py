"""Training from scratch: the steps, the schedules, going on after a break, what is measured."""

from __future__ import annotations

import io
import math
import sys

import pytest
import torch
from compare import exact, kills, rounding
from engine.test_progress import Terminal
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from mlopt._errors import DataError, NonFiniteError, SettingsError
from mlopt.nas import GENOTYPES, EvaluationNetwork, evaluate, lr_schedule, retrain, spread

# A quotient of epochs, a cosine, 1 plus it, half of that, 1 less the share that stays, products
# with both shares and with the rate; rates and shares that were read are rounded once each.
SCHEDULE = rounding(12)


def small(name="DARTS_V2", **kwargs):
    return EvaluationNetwork(GENOTYPES[name], **{"channels": 4, "layers": 3, **kwargs})


def loader(count=48, classes=2, size=8, batch=16, **kwargs):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % classes
    images = 0.3 * torch.randn(count, 1, size, size, generator=generator)
    images += labels[:, None, None, None]
    return DataLoader(TensorDataset(images, labels), batch_size=batch, shuffle=True, **kwargs)


def learner(seed=0, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return small("DARTS_V1", **{"classes": 2, "in_channels": 1, "auxiliary": False, **kwargs})


def test_retrain_learns_and_reports():
    network, seen = learner(), []
    before = torch.random.get_rng_state()
    history = retrain(
        network,
        loader(),
        epochs=4,
        lr=0.02,
        min_lr=0.01,
        on_epoch=seen.append,
        progress=False,
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert history == seen
    assert [m["epoch"] for m in history] == [0, 1, 2, 3]
    exact([m["lr"] for m in history][::2], [0.02, 0.015], SCHEDULE)
    assert history[-1]["loss"] < history[0]["loss"]
    result = evaluate(network, loader())
    assert result["total"] == 48
    exact(result["error"], 100 * (1 - result["correct"] / 48), rounding(10), scale=100)
    assert result["error"] < 10
    assert network.training


def test_retrain_is_reproducible_and_shows_progress(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    runs = []
    for _ in range(2):
        torch.rand(3)
        runs.append(retrain(learner(), loader(), epochs=3, drop_path=0.3, seed=5))
    assert runs[0] == runs[1]
    exact([m["drop_path"] for m in runs[0]], [0, 0.1, 0.2], SCHEDULE)
    other = retrain(learner(), loader(), epochs=3, drop_path=0.3, seed=6, progress=False)
    assert other != runs[0]
    assert "loss=" in sys.stderr.getvalue()
    assert "retraining, epoch 3 of 3: 100%" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    retrain(learner(), loader(), epochs=1)
    assert sys.stderr.getvalue() == ""  # nobody looks


def test_first_step_is_clipped_sgd_on_the_weighted_sum():
    network = small(classes=2, in_channels=1).double()
    start = [p.detach().clone() for p in network.parameters()]
    images = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0])
    logits, auxiliary = network(images)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    loss = criterion(logits, labels) + 0.4 * criterion(auxiliary, labels)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > 0.1
    retrain(
        network,
        [(images, labels)],  # type: ignore[arg-type]
        epochs=1,
        lr=0.5,
        clip=0.1,
        weight_decay=0.0,
        label_smoothing=0.1,
        progress=False,
    )
    share = 0.1 / (norm + 1e-6)  # torch's clipping adds 1e-6
    expected = [s - 0.5 * g * share for s, g in zip(start, gradients, strict=True)]
    # The passes are the same; the norm is a sum over all weights, which come in other portions.
    bound = rounding(sum(p.numel() for p in start))
    exact(list(network.parameters()), expected, bound)
    kills(start, expected, bound)


def test_retrain_stops_at_a_non_finite_loss():
    network = learner()
    start = [p.detach().clone() for p in network.parameters()]
    data = [(torch.full((2, 1, 8, 8), torch.nan), torch.tensor([0, 1]))]
    with pytest.raises(NonFiniteError, match="step 0") as error:
        retrain(network, data, epochs=1, progress=False)  # type: ignore[arg-type]
    assert (error.value.problem, error.value.step) == ("retrain", 0)
    assert all(torch.equal(p, s) for p, s in zip(network.parameters(), start, strict=True))


def test_retrain_refuses_bad_settings():
    with pytest.raises(SettingsError, match="epochs"):
        retrain(learner(), loader(), epochs=0)
    with pytest.raises(SettingsError, match="drop_path"):
        retrain(learner(), loader(), epochs=1, drop_path=1.0)
    with pytest.raises(DataError, match="no batch"):
        retrain(learner(), [], epochs=1, progress=False)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no batch"):
        evaluate(learner(), [])
    with pytest.raises(SettingsError, match="label_smoothing"):
        retrain(learner(), loader(), epochs=1, label_smoothing=-0.1)
    for run in (lambda: retrain(learner(), loader(classes=3), epochs=1, progress=False),
                lambda: evaluate(learner(), loader(classes=3))):  # fmt: skip
        with pytest.raises(DataError, match="label 2, but the network has 2 classes"):
            run()


def rates(schedule, epochs, lr, **kwargs):
    """The learning rate of each epoch, asked of the optimizer."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr)
    scheduler = lr_schedule(optimizer, schedule, epochs, **kwargs)
    seen = []
    for _ in range(epochs):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_linear_schedule_and_warm_up_of_pc_darts():
    """Down by 1 / 245 in each epoch; the last five, more slowly, by a fifth of that."""
    seen = rates("linear", 250, 0.5)
    steps = {0: 245, 1: 244, 100: 145, 243: 2, 244: 1, 245: 1, 246: 0.8, 249: 0.2}
    for e, k in steps.items():
        exact(seen[e], 0.5 * k / 245, SCHEDULE)
    warm = rates("linear", 250, 0.5, warmup=5)
    exact(warm[:5], [0.1, 0.2, 0.3, 0.4, 0.5], SCHEDULE)
    assert warm[5:] == seen[5:]


@pytest.mark.parametrize(
    ("lr", "least", "expected"),
    [
        (
            0.025,
            0.001,
            {
                1: 0.024976320741139258743,
                10: 0.022708203932499369089,
                25: 0.013,
                40: 0.0032917960675006309108,
                49: 0.0010236792588607412566,
            },
        ),
        (0.1, 0.0, {0: 0.1, 15: 0.079389262614623656458, 25: 0.05, 49: 9.8663578586421902383e-5}),
    ],
)
def test_cosine_schedule(lr, least, expected):
    seen = rates("cosine", 50, lr, min_lr=least)
    for e, rate in expected.items():  # 1 + cos cancels at the end
        exact(seen[e], rate, SCHEDULE, scale=lr)


def test_short_linear_schedules_have_no_tail():
    assert rates("linear", 4, 1.0) == [1, 0.75, 0.5, 0.25]
    exact(rates("linear", 4, 1.0, min_lr=0.2), [1, 0.8, 0.6, 0.4], SCHEDULE)
    exact(rates("linear", 11, 1.0)[4:8], [1 / 3, 1 / 6, 1 / 6, 2 / 15], SCHEDULE)


def test_the_exponential_schedule_of_darts():
    seen = rates("exponential", 250, 0.1)
    expected = {0: 0.1, 1: 0.097, 2: 0.09409, 249: 5.0834883463472198464e-5}
    for e, rate in expected.items():
        exact(seen[e], rate, rounding(12 + 2 * e))  # e times 0.97, which is rounded itself
    exact(rates("exponential", 9, 1.0, min_lr=0.5)[1], 0.985, SCHEDULE)


def test_each_group_keeps_its_own_rate():
    weights = [nn.Parameter(torch.zeros(())) for _ in range(2)]
    groups = [{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 3.0}]
    optimizer = torch.optim.SGD(groups)
    scheduler = lr_schedule(optimizer, "cosine", 4, min_lr=0.5)
    optimizer.step()
    scheduler.step()
    scheduler.step()
    exact([group["lr"] for group in optimizer.param_groups], [0.75, 1.75], SCHEDULE)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"schedule": "step"}, "'step'.*'cosine', 'linear', 'exponential'"),
        ({"warmup": 3}, "3 epochs and warmup=3"),
        ({"min_lr": 0.5}, "min_lr"),
        ({"min_lr": -0.5}, "min_lr"),
    ],
)
def test_bad_schedules(kwargs, message):
    with pytest.raises(SettingsError, match=message):
        retrain(learner(), loader(), epochs=3, progress=False, **kwargs)


def test_retrain_follows_the_schedule():
    history = retrain(
        learner(), loader(), epochs=5, lr=0.1, schedule="linear", warmup=2, progress=False
    )
    exact([m["lr"] for m in history], [0.05, 0.1, 0.06, 0.04, 0.02], SCHEDULE)


class Wrapped(nn.Module):
    """As a network stands inside DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def test_a_wrapped_network_drops_paths_too():
    histories = []
    for network in (learner(), Wrapped(learner())):
        histories.append(retrain(network, loader(), epochs=2, drop_path=0.5, progress=False))
    assert histories[0] == histories[1]
    assert network.module.drop_path == 0.25


class Interrupted(Exception):
    pass


def own_sampler():
    batches = loader()
    sampler = RandomSampler(batches.dataset, generator=torch.Generator().manual_seed(8))
    return DataLoader(batches.dataset, batch_size=16, sampler=sampler)


@pytest.mark.parametrize(
    "make",
    [loader, lambda: loader(generator=torch.Generator().manual_seed(8)), own_sampler],
    ids=["global generator", "loader's generator", "sampler's generator"],
)
def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path, make):
    path = tmp_path / "below" / "retrain.pt"

    def train(network, **kwargs):
        torch.rand(3)  # of the global generator, whose state outside must not matter
        return retrain(
            network, make(), epochs=6, lr=0.05, drop_path=0.4, schedule="linear", warmup=3,
            seed=4, progress=False, **kwargs,
        )  # fmt: skip

    def interrupt(metrics):
        if metrics["epoch"] == 3:
            raise Interrupted

    whole = learner(layers=1)
    expected = train(whole)
    with pytest.raises(Interrupted):
        train(learner(layers=1), checkpoint=path, on_epoch=interrupt)
    seen, network = [], learner(seed=9, layers=1)  # what it begins with is overwritten
    assert train(network, checkpoint=path, on_epoch=seen.append) == expected
    assert [m["epoch"] for m in seen] == [3, 4, 5]
    for name, value in network.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    there = sorted(p.name for p in path.parent.iterdir())
    assert there == [".retrain.pt.before", "retrain.pt"]

    again = learner(seed=10, layers=1)
    assert train(again, checkpoint=path, on_epoch=pytest.fail) == expected
    assert torch.equal(again.classifier.weight, whole.classifier.weight)


class Fixed(nn.Module):
    """Logits that do not depend on the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return self.logits[x[:, 0].long()], None


def test_top_one_and_top_five_by_hand():
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1, 0]] * 8, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 4, 4, 5, 6, 6])
    images = torch.arange(8)[:, None]
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    found = evaluate(Fixed(logits), batches)
    assert (found["correct"], found["correct_top5"], found["total"]) == (2, 5, 8)
    assert (found["error"], found["error_top5"]) == (75.0, 37.5)
    log_sum = math.log(sum(math.exp(k) for k in range(7)))
    mean = sum(log_sum - (6 - k) for k in labels.tolist()) / 8
    exact(found["loss"], mean, rounding(40))  # exponentials of seven, a logarithm, a mean of eight
    few = evaluate(Fixed(logits[:, :3]), [(images[:3], labels[:3])])
    assert few["error_top5"] == 0


def test_spread_over_seeds():
    three = spread([2.5, 3.0, 4.0])
    mean = 9.5 / 3
    deviation = (sum((x - mean) ** 2 for x in (2.5, 3.0, 4.0)) / 2) ** 0.5
    exact((three.mean, three.deviation), (mean, deviation), rounding(20))
    assert three.count == 3
    assert str(three) == "3.17 ± 0.76"
    one = spread([2.5])
    assert (one.mean, one.deviation, str(one)) == (2.5, None, "2.50")
    with pytest.raises(SettingsError, match="no values"):
        spread([])
