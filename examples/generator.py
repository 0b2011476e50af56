"""One conditional GAN alone, and how often a classifier of real images recognises what it draws.

The discriminator H and the generator G of a family are trained against each other, without any
other problem. Then G draws images of every class, and a small convolutional network that was
trained on the real images says which class it sees.

    python examples/generator.py --family dcgan --dataset digits
    python examples/generator.py --family biggan --dataset fashion-mnist --steps 3000 --ema 0.999
    python examples/generator.py --family wgan-gp --d-steps 4 --per-class 5
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.data import ImageData, ImagePart, load, loader
from mlopt.generators import (
    GANS,
    ExponentialAverage,
    make_gan,
    sample_grid,
    save_grid,
    train_gan,
)
from mlopt.report import RunFolder, format_table
from support.data import cut
from support.pipeline import ending, open_run
from support.settings import check_device, option

#: What some minutes on two CPU cores allow: narrow networks, and larger steps than the published.
#: DCGAN's generator soon draws one image a class, if its discriminator takes as few steps as it.
SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"steps": 1000, "d_steps": 4, "width": 32, "lr": 5e-4},
    "wgan-gp": {
        "steps": 500, "width": 16, "batch_size": 32, "lr": 3e-3, "discriminator_lr": 1e-3,
        "decay": "none",
    },
    "wgan-gp-conv": {
        "steps": 1000, "width": 16, "batch_size": 32, "lr": 3e-3, "discriminator_lr": 1e-3,
    },
    "biggan": {
        "steps": 600, "width": 8, "batch_size": 32, "lr": 3e-3, "discriminator_lr": 1e-3,
    },
}  # fmt: skip
#: Options of the networks in these runs that are not the family's own. In so few steps BigGAN's
#: generator learns the classes by one shared embedding, hardly by one for every BatchNorm.
NETWORKS: dict[str, dict[str, Any]] = {
    "biggan": {"init": "orthogonal", "shared": 32},
}
#: What these may be at least; the networks and the training know their own.
LEAST = {
    "steps": 1, "batch_size": 1, "samples": 1, "classifier_steps": 1, "train_images": 0, "seed": 0,
}  # fmt: skip
CLASSIFIER = "CNN: 3x3 convolutions of 32 and 64 channels, one hidden layer of 128"


@dataclass(frozen=True)
class Options:
    """Everything that a run depends on; `SMALL` has some defaults of each family's own."""

    family: str = option("dcgan", "kind of GAN", *GANS)
    dataset: str = option("fashion-mnist", "data set, see mlopt.data.load")
    data_root: str = option("", "folder of the data set's files, where it needs one")
    train_images: int = option(0, "use that many training images only (0: all)")
    seed: int = option(0, "of all randomness")
    device: str = option("cpu", "cpu, cuda, cuda:1, ...")
    run_folder: str = option("", "where the run is written (default: runs/<family>-<dataset>-...)")
    overwrite: bool = option(False, "replace an earlier run in that folder")
    resume: bool = option(False, "go on with the run in that folder, or begin it")

    steps: int = option(1000, "of the generator")
    d_steps: int = option(0, "of the discriminator for each one (0: the family's own)")
    batch_size: int = option(64, "real images in a step of the discriminator")
    per_class: int = option(
        0, "M: images of each class in a generator's step (0: the labels of the batch)"
    )
    width: int = option(32, "of both networks, in the family's unit")
    noise: int = option(64, "numbers of noise an image")
    lr: float = option(5e-4, "step size of the generator's Adam")
    discriminator_lr: float = option(0.0, "of the discriminator's Adam (0: that of the generator)")
    decay: str = option("", "of both step sizes (default: the family's own)", "none", "linear")
    ema: float = option(0.99, "decay of the generator's running average (0: none)")

    samples: int = option(100, "images of each class that are judged")
    classifier: str = option("", "file of a trained classifier, such as another run's")
    classifier_steps: int = option(1500, "of training it, if there is no such file")

    def run_path(self) -> Path:
        """The run folder."""
        return Path(self.run_folder or f"runs/{self.family}-{self.dataset}-seed{self.seed}")


@dataclass(frozen=True)
class RealImages:
    """Batches of images in a generator's range [-1, 1], with labels; new ones in each pass."""

    part: ImagePart
    batch_size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        to_generator = self.part.data.normalization.to_generator
        size = min(self.batch_size, len(self.part))
        for x, y in loader(self.part, size, drop_last=True):
            yield to_generator(x), y


def train(data: ImageData, folder: RunFolder, s: Options) -> nn.Module:
    """The generator after training: its running average if there is one."""
    family = GANS[s.family]
    options = {"z": s.noise, "width": s.width, **NETWORKS.get(s.family, {})}
    g, h = make_gan(s.family, data.image_size, data.channels, data.classes, **options)
    g, h = g.to(s.device), h.to(s.device)
    average = ExponentialAverage(g, s.ema) if s.ema else None
    logged = {row["step"]: row["seconds"] for row in folder.metrics()}
    began = time.perf_counter() - max(logged.values(), default=0.0)

    def log(step: int, losses: dict[str, float]) -> None:
        if step not in logged:  # else it was killed before it was saved
            folder.log("gan", step=step, seconds=time.perf_counter() - began, **losses)

    settings = {
        **family.training(),
        "lr": s.lr,
        "discriminator_lr": s.discriminator_lr or s.lr,
        "d_steps": s.d_steps or family.d_steps,
        "decay": s.decay or family.decay,
    }
    batches = RealImages(data.train, s.batch_size)
    train_gan(
        g, h, batches, s.steps, **settings,
        per_class=s.per_class, average=average, on_log=log, progress=True,
        checkpoint=folder.path("gan.pt"),
    )  # fmt: skip
    return g if average is None else average.module


def make_classifier(data: ImageData) -> nn.Sequential:
    """The plain network of `CLASSIFIER`."""
    side = data.image_size // 4
    return nn.Sequential(
        nn.Conv2d(data.channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * side**2, 128), nn.ReLU(), nn.Linear(128, data.classes),
    )  # fmt: skip


def classifier_of(data: ImageData, folder: RunFolder, s: Options) -> nn.Module:
    """The classifier of real images: from its file, or trained, and written into the run folder."""
    network = make_classifier(data).to(s.device)
    if s.classifier:
        try:
            network.load_state_dict(
                torch.load(s.classifier, map_location=s.device, weights_only=True)
            )
        except (OSError, RuntimeError) as error:
            raise mlopt.DataError(
                f"--classifier {s.classifier}: is not this classifier's file for {data.name} "
                f"({error}); leave the option out to train one."
            ) from error
    else:
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        passes = itertools.chain.from_iterable(itertools.repeat(RealImages(data.train, 128)))
        for x, y in itertools.islice(passes, s.classifier_steps):
            loss = cross_entropy(network(x.to(s.device)), y.to(s.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_network(network, folder, "classifier.pt")
    return network.eval()


def save_network(network: nn.Module, folder: RunFolder, name: str) -> None:
    """Write the values of a network into the run folder, all of them or none."""
    content = io.BytesIO()
    torch.save(network.state_dict(), content)
    folder.save(name, content.getvalue())


@torch.no_grad()
def seen_in(network: nn.Module, images: Tensor) -> Tensor:
    """The class that the classifier sees in each image, (N,)."""
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).argmax(1).cpu() for part in images.split(500)])


def judge(
    images: Tensor, network: nn.Module, data: ImageData, s: Options
) -> tuple[list[dict[str, Any]], float]:
    """Rows for each class and overall, and the classifier's own accuracy on the test images.

    Recognised is the share of a class's samples in which the classifier sees that class. Spread is
    the deviation of its samples' pixels in units of the real images': near 0 they are all alike.
    """
    n = data.normalization
    test = n.to_generator(n.from_pixels(data.test.images))
    accuracy = (seen_in(network, test) == data.test.labels).float().mean().item()
    right = seen_in(network, images).view(data.classes, -1) == torch.arange(data.classes)[:, None]
    drawn = images.cpu().view(data.classes, s.samples, -1)
    rows = []
    for c, name in enumerate(data.class_names):
        real = test[data.test.labels == c].flatten(1)
        spread = drawn[c].std(dim=0, correction=0).mean() / real.std(dim=0, correction=0).mean()
        recognised = 100 * right[c].float().mean().item()
        rows.append({"class": name, "recognised": recognised, "spread": spread.item()})
    overall = {
        "class": "all",
        "recognised": 100 * right.float().mean().item(),
        "spread": sum(row["spread"] for row in rows) / len(rows),
    }
    return [*rows, overall], 100 * accuracy


def run(s: Options) -> dict[str, Any]:
    """One whole run into its folder; the content of its result.json."""
    check_device(s.device)
    data = cut(load(s.dataset, s.data_root or None), s.train_images)
    settings = {"example": "generator", **dataclasses.asdict(s)}
    with open_run(s.run_path(), settings, resume=s.resume, overwrite=s.overwrite) as folder:
        if (result := folder.read_json("result.json")) is not None:
            return result
        torch.manual_seed(s.seed)
        generator = train(data, folder, s)
        seconds = folder.metrics()[-1]["seconds"]
        save_network(generator, folder, "generator.pt")
        grid = sample_grid(generator, data.classes, 10, seed=s.seed)
        save_grid(grid, folder.path("samples.png"), per_row=10, scale=max(1, 56 // data.image_size))
        torch.manual_seed(s.seed)
        network = classifier_of(data, folder, s)
        images = sample_grid(generator, data.classes, s.samples, seed=s.seed + 1)
        rows, accuracy = judge(images, network, data, s)
        result = {
            "title": f"{s.family} on {data.name}",
            "dataset": data.name,
            "steps": s.steps,
            "seconds": seconds,
            "classifier": CLASSIFIER,
            "classifier_accuracy": accuracy,
            "recognised": rows,
        }
        folder.save("recognised.md", text(result) + "\n")
        folder.save_json("result.json", result)
    return result


def text(result: dict[str, Any]) -> str:
    """The result in words and as a Markdown table."""
    columns = {"class": "class", "recognised": "recognised, %", "spread": "spread / real spread"}
    return (
        f"{result['title']}: {result['steps']} generator steps in {result['seconds']:.0f} s.\n"
        f"Judged by {result['classifier']}; it recognises {result['classifier_accuracy']:.1f} % of "
        f"the real test images.\n\n" + format_table(result["recognised"], columns, markdown=True)
    )


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options from the command line, over the family's defaults of `SMALL`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for f in dataclasses.fields(Options):
        own = {name: small[f.name] for name, small in SMALL.items() if f.name in small}
        shown = ", ".join(f"{name} {value}" for name, value in own.items()) or f.default
        settings: dict[str, Any] = {"default": None, "help": f.metadata["help"]}
        if shown not in ("", False):
            settings["help"] += f" (default: {shown})"
        if isinstance(f.default, bool):
            settings["action"] = "store_true"
        else:
            settings |= {"type": type(f.default), "choices": f.metadata["choices"] or None}
        parser.add_argument("--" + f.name.replace("_", "-"), **settings)
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    small = SMALL[given.get("family", Options.family)]
    s = Options(**{**small, **given})
    for name, least in LEAST.items():
        if not least <= getattr(s, name) < 2**63:
            raise mlopt.SettingsError(
                f"--{name.replace('_', '-')} must be at least {least}, and below 2^63."
            )
    return s


if __name__ == "__main__":
    with ending():
        print(text(run(parse())))
