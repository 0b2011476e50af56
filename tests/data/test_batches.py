"""Loaders: what the batches hold, in which order, and at what cost."""

from __future__ import annotations

import pytest
import torch
from compare import exact, rounding
from image_files import write_imagenet
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import Compose, RandomInvert

import mlopt
from mlopt._errors import DataError, SettingsError
from mlopt.data import Cutout, WholeBatch, load, loader, search_split, standard_augmentation

# A quotient by 255, a difference and a quotient, or a product and a sum, in float32; what is
# subtracted is up to twice what is left.
AFFINE = rounding(10, condition=2, dtype=torch.float32)

# Machines with one core, and Pythons that find starting processes beside threads unwise.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def index(data, x: torch.Tensor) -> list[int]:
    """Which image of the fixture each is: its first pixel."""
    pixels = (x[:, 0, 0, 0] * data.std[0] + data.mean[0]) * 255
    return pixels.round().long().tolist()


def test_in_order_without_shuffle(colours) -> None:
    batches = list(loader(colours.test, 3, shuffle=False))
    assert [len(y) for _, y in batches] == [3, 3, 1]
    x = torch.cat([x for x, _ in batches])
    y = torch.cat([y for _, y in batches])
    exact(x, colours.normalization.from_pixels(colours.test_images), AFFINE)
    assert y.tolist() == colours.test_labels.tolist()


def test_a_shuffled_pass_has_every_image_once_with_its_label(colours) -> None:
    batches = list(loader(colours.train, 8, seed=0))
    order = [i for x, _ in batches for i in index(colours, x)]
    assert sorted(order) == list(range(31))
    assert order != list(range(31))
    labels = torch.cat([y for _, y in batches])
    assert labels.tolist() == colours.train_labels[order].tolist()


def test_drop_last(colours) -> None:
    batches = loader(colours.train, 8, drop_last=True)
    assert len(batches) == 3
    assert {len(y) for _, y in batches} == {8}


def test_the_shuffles_seed(colours) -> None:
    def order(seed):
        return [y for _, ys in loader(colours.train, 31, seed=seed) for y in ys.tolist()]

    assert order(1) == order(1) != order(2)
    assert order(torch.Generator().manual_seed(1)) == order(1)
    batches = loader(colours.train, 31, seed=1)
    passes = [next(iter(batches))[1].tolist() for _ in range(2)]
    assert passes[0] != passes[1]


def test_without_a_seed_the_global_generator_decides(colours) -> None:
    batches = loader(colours.train, 31)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(index(colours, next(iter(batches))[0]))
    assert orders[0] == orders[1] != orders[2]


def test_augmented_and_plain_images(colours) -> None:
    batches = loader(
        colours.train, 31, augment=lambda image: image.flip(-1), plain=True, shuffle=False
    )
    x, y, plain = next(iter(batches))
    expected = colours.normalization.from_pixels(colours.train_images)
    exact(plain, expected, AFFINE)
    exact(x, expected.flip(-1), AFFINE)
    assert y.tolist() == colours.train_labels.tolist()


def test_without_augmentation_plain_is_x(colours) -> None:
    x, _, plain = next(iter(loader(colours.train, 31, plain=True)))
    assert torch.equal(x, plain)


def test_finish_comes_last_on_normalized_images(colours) -> None:
    seen = []

    def hole(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.min().item())
        return image * 0

    x, _, plain = next(iter(loader(colours.train, 31, finish=hole, plain=True)))
    assert x.abs().max() == 0
    assert plain.abs().max() > 0
    assert min(seen) < 0  # normalized, not pixels


def test_each_image_has_its_own_randomness() -> None:
    data = load("digits")
    part = data.train.take(torch.zeros(64, dtype=torch.int64))  # 64 times the same image
    torch.manual_seed(0)
    augment = standard_augmentation("digits", 8)
    x, _, plain = next(iter(loader(part, 64, augment=augment, plain=True)))
    assert len(x.unique(dim=0)) == 9
    assert len(plain.unique(dim=0)) == 1


class Noise(WholeBatch):
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return images + torch.rand(images.shape)


def test_a_whole_batch_is_changed_at_once(colours) -> None:
    first, last = Noise(), Noise()
    for x, _, plain in loader(colours.train, 8, augment=first, finish=last, plain=True):
        assert x.shape == plain.shape
    assert first.calls == last.calls == 4


def passes(part, seeds, **options) -> list[list[torch.Tensor]]:
    """Passes of one loader, the global generator set before each."""
    batches = loader(part, 8, plain=True, **options)
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append([tensor for batch in batches for tensor in batch])
    return found


def same(one, other) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.fixture(params=["memory", "one by one", "files"])
def part_and_options(request, colours, tmp_path):
    """Images in memory with changes of whole batches or of single images, and in files."""
    if request.param == "files":
        data = load("imagenet", write_imagenet(tmp_path / "imagenet", images=7), image_size=12)
        return data.train, {"augment": standard_augmentation("imagenet", 12)}
    augment = standard_augmentation("cifar10", 6)
    if request.param == "one by one":
        # no function of this file: where workers are not forked, they are sent it
        each = Compose([augment, RandomInvert(p=1)])
        return colours.train, {"augment": each, "finish": Cutout(2)}
    return colours.train, {"augment": augment, "finish": Cutout(4)}


def test_a_pass_is_the_same_with_and_without_workers(part_and_options) -> None:
    part, options = part_and_options
    alone = passes(part, (3, 3, 4), **options)
    assert same(alone[0], alone[1])
    assert not same(alone[0], alone[2])
    helped = passes(part, (3, 3, 4), workers=2, **options)
    assert all(map(same, alone, helped))


def test_passes_that_follow_each_other_are_too(part_and_options) -> None:
    """Nothing is set in between, so the passes must draw as much with workers as without."""
    part, options = part_and_options

    def two(workers: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        batches = loader(part, 8, workers=workers, **options)
        return [tensor for _ in range(2) for batch in batches for tensor in batch]

    alone = two(0)
    after = torch.rand(())
    assert same(alone, two(2))
    assert torch.rand(()) == after
    assert not same(alone[: len(alone) // 2], alone[len(alone) // 2 :])


@pytest.mark.parametrize("seed", [5, None])
def test_the_seed_of_a_loader_decides_all(colours, seed) -> None:
    state = torch.get_rng_state()
    options = {"augment": standard_augmentation("cifar10", 6), "seed": seed}
    one = passes(colours.train, (1, 2), **options)
    other = passes(colours.train, (3, 4), workers=1, **options)
    assert all(map(same, one, other)) == (seed is not None)
    assert not same(*one)
    torch.set_rng_state(state)
    list(loader(colours.train, 8, **options))
    assert torch.equal(torch.get_rng_state(), state) == (seed is not None)


def test_an_engine_reads_the_same_with_workers(colours) -> None:
    def trajectory(workers: int) -> torch.Tensor:
        W = mlopt.Variable(torch.nn.Parameter(torch.zeros(3 * 6 * 6)), "w")
        batches = loader(
            colours.train, 8, augment=standard_augmentation("cifar10", 6), workers=workers
        )

        @mlopt.problem(over=W, data=batches, optimizer=torch.optim.SGD([W.tensor], lr=0.1))
        def fit(w, batch):
            x, y = batch
            return ((x.flatten(1) @ w - y) ** 2).mean()

        engine = mlopt.Engine([fit], seed=3)
        for _ in range(7):  # more than a pass
            engine.step()
        return W.tensor.detach()

    assert torch.equal(trajectory(0), trajectory(2))


def test_workers_stay_and_passes_within_passes_have_their_own(colours) -> None:
    batches = loader(colours.train, 8, shuffle=False, workers=1)
    whole = [y for _, y in batches]
    kept = batches._iterator
    outer, inner = [], []
    for _, y in batches:
        outer.append(y)
        inner.append([y for _, y in batches])
    assert same(outer, whole)
    assert all(same(each, whole) for each in inner)
    next(iter(batches))  # a pass that is given up
    assert same([y for _, y in batches], whole)
    assert batches._iterator is kept


def test_a_corrupt_file_is_named_by_a_worker(tmp_path) -> None:
    root = write_imagenet(tmp_path)
    (root / "train" / "n00000001" / "n00000001_2.JPEG").write_bytes(b"no image")
    data = load("imagenet", root, image_size=8)
    with pytest.raises(DataError, match=r"n00000001_2\.JPEG cannot be read"):
        list(loader(data.train, 4, workers=1))


def test_one_item_is_a_row_of_a_batch(colours) -> None:
    dataset = loader(colours.train, 8).dataset
    x, y = dataset[5]
    assert x.shape == (3, 6, 6)
    assert (index(colours, x[None]), y.item()) == ([5], 5 % 3)


def test_what_is_refused(colours) -> None:
    with pytest.raises(SettingsError, match="batch_size=0"):
        loader(colours.train, 0)
    with pytest.raises(SettingsError, match="workers=-1"):
        loader(colours.train, 1, workers=-1)
    with pytest.raises(SettingsError, match="prefetch=0"):
        loader(colours.train, 1, workers=1, prefetch=0)
    with pytest.raises(SettingsError, match="no batch of the 7 images of colours"):
        loader(colours.test, 8, drop_last=True)


def nothing(image):
    return None


class Half(WholeBatch):
    """Loses images."""

    def __call__(self, images):
        return images[::2]


def widths(image):
    """A width of its own for each image of the fixture."""
    return image[:, :, : 1 + int(image[0, 0, 0]) % 3]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"finish": nothing}, "finish=nothing returned NoneType; return a tensor"),
        ({"augment": nothing}, "augment=nothing returned NoneType; return a tensor"),
        ({"augment": torch.sum}, r"augment=sum returned a tensor \(\); return"),
        ({"augment": Half()}, r"augment=Half returned a tensor \(2, 3, 6, 6\).*as many images"),
        ({"augment": widths}, r"augment=widths made images of \(3, 6, 1\) and of \(3, 6, 2\) in"),
    ],
)
def test_what_a_transform_returns_is_checked_and_it_is_named(
    colours, options, said, workers
) -> None:
    with pytest.raises(DataError, match=f"loader: {said}"):
        next(iter(loader(colours.train, 4, shuffle=False, workers=workers, **options)))


class Operations(TorchDispatchMode):
    """Counts what torch is asked for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_batch_is_gathered_at_once() -> None:
    """Not image by image: a batch of sixty-four takes as many operations as one of eight."""
    part = search_split(load("digits"))[0]
    counts = []
    for size in (8, 64):
        batches = iter(loader(part, size, plain=True))
        next(batches)
        with Operations() as operations:
            next(batches)
        counts.append(operations.count)
    assert 0 < counts[0] == counts[1] < 20
