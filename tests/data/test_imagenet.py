"""ImageNet from small folders of JPEGs, and every way in which the folders can be wrong."""

from __future__ import annotations

import colorsys
import shutil
import warnings

import pytest
import torch
from image_files import write_imagenet
from PIL import Image
from torchvision.transforms import v2

from mlopt._errors import DataError, SettingsError
from mlopt.data import (
    ImageFiles,
    hold_out,
    images_of,
    load,
    loader,
    search_split,
    standard_augmentation,
)


@pytest.fixture
def root(tmp_path):
    return write_imagenet(tmp_path / "imagenet")


def pil(path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def files(data) -> list[str]:
    return sorted(str(data.train_images.path(i)) for i in range(len(data.train_images)))


def test_every_file_has_the_number_of_its_folder(root) -> None:
    data = load("imagenet", root)
    assert (data.name, data.classes, data.channels, data.image_size) == ("imagenet", 3, 3, 224)
    assert data.class_names == ("n00000001", "n00000002", "n00000003")
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (len(data.train), len(data.test)) == (12, 6)
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    for part in (data.train, data.test):
        for k, label in enumerate(part.labels.tolist()):
            assert part.images.path(k).parent.name == data.class_names[label]
    assert data.train_images.path(5) == root / "train" / "n00000002" / "n00000002_1.JPEG"


def test_grey_and_cmyk_images_become_rgb(root) -> None:
    images = load("imagenet", root).train_images
    modes = []
    for k, pixels in enumerate(images.read()):
        with Image.open(images.path(k)) as image:
            modes.append(image.mode)
        expected = v2.functional.pil_to_tensor(pil(images.path(k)))
        assert pixels.shape == expected.shape
        assert pixels.shape[1] != pixels.shape[2]
        assert torch.equal(pixels, expected)
    assert modes == ["RGB", "L", "CMYK", "RGB"] * 3
    grey = images.read()[1]
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])


@pytest.mark.parametrize(("size", "shorter"), [(28, 32), (224, 256), (32, 37)])
def test_test_images_are_resized_and_cut_from_the_middle(root, size, shorter) -> None:
    data = load("imagenet", str(root), image_size=size)
    x, y = next(iter(loader(data.test, 6, shuffle=False)))
    assert x.shape == (6, 3, size, size)
    assert y.tolist() == data.test_labels.tolist()
    theirs = v2.Compose([v2.Resize(shorter), v2.CenterCrop(size), v2.PILToTensor()])
    expected = torch.stack([theirs(pil(data.test_images.path(k))) for k in range(6)])
    pixels = (data.normalization.to_generator(x) + 1) * 127.5
    levels = (pixels - expected).abs().max().round()
    assert levels <= 1  # two resizers round differently


def test_training_batches(root) -> None:
    data = load("imagenet", root, image_size=16)
    augment = standard_augmentation("imagenet", 16)
    torch.manual_seed(0)
    x, y, plain = next(iter(loader(data.train, 12, augment=augment, plain=True)))
    assert x.shape == plain.shape == (12, 3, 16, 16)
    assert sorted(y.tolist()) == data.train_labels.tolist()
    middle = data.normalization.from_pixels(data.train_images.fit(data.train_images.read()))
    for image, label in zip(plain, y.tolist(), strict=True):
        same = [torch.equal(image, m) for m in middle]
        assert sum(same) == 1
        assert same.index(True) // 4 == label
    one = data.train.take(torch.zeros(12, dtype=torch.int64))
    (x,) = loader(one, 12, augment=augment, labels=False)
    assert len(x.unique(dim=0)) == 12  # each image is changed on its own


def test_colours_change_in_evaluation_and_not_in_a_search() -> None:
    """A grey image tells brightness, the hue and saturation of a brown one the other three."""
    grey = torch.full((3, 30, 40), 100, dtype=torch.uint8)
    brown = torch.tensor([100, 80, 60], dtype=torch.uint8).view(3, 1, 1).expand(3, 30, 40)
    torch.manual_seed(0)
    search = standard_augmentation("imagenet", 8, search=True)
    assert all(torch.equal(search(brown), brown[:, :8, :8]) for _ in range(20))
    jitter = standard_augmentation("imagenet", 8)
    # a factor in [0.6, 1.4]; the other three may round it down
    levels = torch.stack([jitter(grey)[0, 0, 0] for _ in range(150)])
    assert 57 <= levels.min() < 65
    assert 135 < levels.max() <= 140
    hues, saturations = [], []
    for _ in range(150):
        red, green, blue = (jitter(brown)[:, 0, 0] / 255).tolist()
        hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
        hues.append((hue - 1 / 12 + 0.5) % 1 - 0.5)  # brown's own is 1/12
        saturations.append(saturation)
    assert -0.23 < min(hues) < -0.17
    assert 0.17 < max(hues) < 0.23
    # contrast and saturation, up to 1.4 ** 2 and down to 0.6 ** 2; one of them: 0.26 to 0.52
    assert min(saturations) < 0.23
    assert max(saturations) > 0.57


def test_crops_have_any_place_and_flips_are_fair() -> None:
    """Pixels tell their column: where a crop begins and whether it is turned round."""
    columns = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200)
    change = standard_augmentation("imagenet", 20, search=True)
    torch.manual_seed(0)
    ends = torch.stack([change(columns)[0, 0, [0, -1]] for _ in range(400)]).int()
    flipped = ends[:, 0] > ends[:, 1]
    assert 160 < flipped.sum() < 240
    assert ends.min() < 10
    assert ends.max() > 190


def test_a_search_takes_a_tenth_and_a_fortieth_of_each_class(root) -> None:
    data = load("imagenet", root)
    train, valid = search_split(data)
    assert train.labels.tolist() == valid.labels.tolist() == [0, 1, 2]  # one of four, at least
    names = [{part.images.path(k) for k in range(3)} for part in (train, valid)]
    assert not names[0] & names[1]
    train, valid = search_split(data, seed=1, shares=(0.5, 0.5))
    assert train.labels.bincount().tolist() == valid.labels.bincount().tolist() == [2, 2, 2]


def test_unlabeled_images(root) -> None:
    data = load("imagenet", root, image_size=16)
    rest, held = hold_out(data, 4)
    assert held.labels.tolist() == [0, 1, 2]
    assert len(rest.train) == 9
    together = [held.images.path(k) for k in range(3)] + [
        rest.train_images.path(k) for k in range(9)
    ]
    assert sorted(map(str, together)) == files(data)
    search_split(rest)
    small = load("digits")
    with pytest.raises(DataError, match=r"\(3, 16, 16\), not \(1, 8, 8\)"):
        images_of(data, like=small)
    (x,) = loader(images_of(data, like=rest), 12, labels=False)
    assert x.shape == (12, 3, 16, 16)


def test_files_are_chosen_as_a_tensor_is(root) -> None:
    images = load("imagenet", root, image_size=8).train_images
    assert isinstance(images, ImageFiles)
    assert (images.shape, images.ndim, images.dtype) == ((12, 3, 8, 8), 4, torch.uint8)
    for chosen in (torch.tensor([7, 2, 7]), torch.arange(12) % 5 == 0, slice(3, 6)):
        expected = torch.arange(12)[chosen].tolist()
        found = [images[chosen].path(k) for k in range(len(expected))]
        assert found == [images.path(k) for k in expected]


def test_a_corrupt_file_stops_the_pass_and_is_named(root) -> None:
    broken = root / "train" / "n00000002" / "n00000002_3.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    data = load("imagenet", root, image_size=16)
    with pytest.raises(DataError, match=r"n00000002_3\.JPEG cannot be read .*skip_corrupt=True"):
        list(loader(data.train, 4))
    assert len(list(loader(data.test, 4))) == 2


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0" + bytes(50)])
def test_corrupt_files_are_left_out_and_counted(root, content) -> None:
    folder = root / "train" / "n00000003"
    for k in (0, 2):
        (folder / f"n00000003_{k}.JPEG").write_bytes(content)
    message = r"2 of the 12 files in .*train cannot be read .*n00000003_0\.JPEG, .*_2\.JPEG\."
    with pytest.warns(UserWarning, match=message):
        data = load("imagenet", root, image_size=16, skip_corrupt=True)
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 2
    left_out = ("n00000003/n00000003_0.JPEG", "n00000003/n00000003_2.JPEG")
    assert data.train_images.left_out == left_out
    assert data.test_images.left_out == ()
    assert sum(len(y) for _, y in loader(data.train, 4)) == 10


def test_nothing_is_said_if_nothing_is_left_out(root) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load("imagenet", root, skip_corrupt=True)
    assert len(data.train) == 12


def test_a_class_of_corrupt_files_only(root) -> None:
    for path in (root / "val" / "n00000001").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="val has no readable images of n00000001"):
        load("imagenet", root, skip_corrupt=True)


def test_missing_and_empty_folders(root, tmp_path) -> None:
    with pytest.raises(DataError, match="give root, the folder that holds train and val"):
        load("imagenet")
    with pytest.raises(DataError, match=r"no folder .*nowhere.train"):
        load("imagenet", tmp_path / "nowhere")
    empty = tmp_path / "empty"
    for part in ("train", "val"):
        (empty / part).mkdir(parents=True)
    with pytest.raises(DataError, match="train has no class folders"):
        load("imagenet", empty)
    (root / "train" / "n00000002" / "notes.txt").write_text("no image")
    for path in (root / "train" / "n00000002").glob("*.JPEG"):
        path.unlink()
    with pytest.raises(DataError, match="train has no readable images of n00000002"):
        load("imagenet", root)


@pytest.mark.parametrize(("part", "other"), [("train", "val"), ("val", "train")])
def test_a_class_in_one_part_only(root, part, other) -> None:
    shutil.rmtree(root / part / "n00000002")
    with pytest.raises(DataError, match=rf"{part} lacks 1 .*{other}: n00000002"):
        load("imagenet", root)


def test_the_number_of_classes(root) -> None:
    assert load("imagenet", root, classes=3).classes == 3
    with pytest.raises(DataError, match="3 class folders, and classes=1000"):
        load("imagenet", root, classes=1000)


def test_options_of_others(root) -> None:
    with pytest.raises(SettingsError, match="digits has no option image_size; its options: none"):
        load("digits", image_size=16)
    with pytest.raises(
        SettingsError, match="no option size; .*: classes, image_size, skip_corrupt"
    ):
        load("imagenet", root, size=16)
    with pytest.raises(SettingsError, match="image_size=0"):
        load("imagenet", root, image_size=0)
