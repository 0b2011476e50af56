"""What the NAS examples share: search, derive, retrain from scratch, test, report."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from settings import Settings, parse
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.data import ImageData, load, loader, search_split, standard_augmentation
from mlopt.generators import sample_grid, save_grid
from mlopt.nas import (
    Architecture,
    Cutout,
    EvaluationNetwork,
    Genotype,
    count_parameters,
    derive,
    draw,
    evaluate,
    retrain,
)
from mlopt.report import RunFolder, format_table, write_report


@dataclass
class Search:
    """A search ready to run.

    Attributes:
        engine: of the scheme.
        architecture: what it learns.
        classifier: the network whose validation error is followed.
        networks: those whose forward passes are counted.
        generator: whose samples are saved, if there is one.
        epochs: of the whole run, pretraining included.
    """

    engine: mlopt.Engine
    architecture: Architecture
    classifier: nn.Module
    networks: Iterable[nn.Module]
    epochs: int
    generator: nn.Module | None = None
    passes: int = field(default=0, init=False)


#: Makes a search from the data, the loaders of its two halves, and the settings.
Scheme = Callable[[ImageData, Any, Any, Settings], Search]


def sgd(variable: mlopt.Variable, s: Settings) -> dict[str, Any]:
    """Optimizer and scheduler of a network's weights: SGD, cosine over the search."""
    optimizer = torch.optim.SGD(
        variable.parameters(), s.lr, momentum=s.momentum, weight_decay=s.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, s.epochs + s.pretrain, eta_min=min(s.min_lr, s.lr)
    )
    return {"optimizer": optimizer, "scheduler": scheduler}


def adam(variable: mlopt.Variable, s: Settings) -> torch.optim.Optimizer:
    """Optimizer of an architecture."""
    return torch.optim.Adam(
        variable.parameters(), s.arch_lr, betas=(0.5, 0.999), weight_decay=s.arch_weight_decay
    )


def hypergradient_method(s: Settings, lr: float | None = None) -> mlopt.AbstractHypergradient:
    """First order, or one step ahead: by the optimizer, or the plain gradient step of this lr."""
    if s.order == "first":
        return mlopt.Frozen()
    product: mlopt.AbstractProduct = {
        "central": mlopt.Central(s.radius),
        "one-sided": mlopt.OneSided(s.radius),
        "exact": mlopt.Exact(),
    }[s.product]
    return mlopt.OneStep(lr=lr, product=product)


def main(example: str, scheme: Scheme, description: str | None, plain: bool) -> None:
    """The command line of an example.

    Args:
        example: its name, of the run folder.
        scheme: makes the search.
        description: the help text.
        plain: whether training batches carry the images without augmentation too.
    """
    try:
        s = parse(description)
        rows = run(example, scheme, s, plain=plain)
    except mlopt.MloptError as error:
        sys.exit(f"error: {error}")
    print(result_table(rows))


def run(example: str, scheme: Scheme, s: Settings, *, plain: bool) -> list[dict[str, Any]]:
    """One whole run into its folder.

    Args:
        example: its name.
        scheme: makes the search.
        s: the settings.
        plain: whether training batches carry the images without augmentation too.

    Returns:
        The rows of the result: the run, logistic regression, chance.
    """
    data = load_data(s)
    with RunFolder.create(
        s.run_path(example), {"example": example, **dataclasses.asdict(s)}, overwrite=s.overwrite
    ) as folder:
        torch.manual_seed(s.seed)  # of the initial weights; the engine has generators of its own
        train, valid = search_loaders(data, s, plain=plain)
        search = scheme(data, train, valid, s)
        seconds = run_search(search, valid, folder, data, s)
        genotype = derive(search.architecture)
        print(f"\n{genotype}\n")
        (folder.path("genotype.json")).write_text(genotype.to_json() + "\n", encoding="utf-8")
        draw(genotype, folder.path("cells.svg"), title=f"{example} on {data.name}")
        network, error = retrain_and_test(genotype, data, folder, s)
        row = {
            "name": TITLES.get(example, example),
            "search_seconds": seconds,
            "passes": search.passes,
            "evaluations": search.engine.plan().evaluations,
            "parameters": count_parameters(network),
            "test_error": error,
            "standard_error": standard_error(error, len(data.test)),
        }
        rows = [row, *baselines(data)]
        save_result(folder, example, data, rows)
        print(f"report: {write_report(folder)}")
    return rows


TITLES = {"lfm_cw_darts": "LFM-CW", "darts": "DARTS"}


def save_result(
    folder: RunFolder, example: str, data: ImageData, rows: list[dict[str, Any]]
) -> None:
    """Write result.json."""
    folder.save_json(
        "result.json",
        {
            "title": f"{rows[0]['name']} on {data.name}",
            "dataset": data.name,
            "class_names": list(data.class_names),
            "rows": rows,
            "notes": [
                f"Test error on {len(data.test)} test images, touched once, after retraining from "
                f"scratch on all {len(data.train)} training images. The standard error is that of "
                "one network on this test set; other seeds vary as well.",
                "Passes: forward passes of all networks in the whole search.",
            ],
        },
    )


def load_data(s: Settings) -> ImageData:
    """The data set, its training part cut to `train_images` if asked for."""
    data = load(s.dataset, s.data_root or None)
    if not s.train_images or s.train_images >= len(data.train):
        return data
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    chosen = order[: s.train_images]
    return dataclasses.replace(
        data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen]
    )


def search_loaders(data: ImageData, s: Settings, *, plain: bool) -> tuple[Any, Any]:
    """Loaders of the two halves; the validation batches keep pace with the training batches."""
    train, valid = search_split(data)
    augment = None if data.name == "digits" else standard_augmentation(data.name, data.image_size)
    options = {"batch_size": min(s.batch_size, len(valid)), "drop_last": True, "augment": augment}
    return loader(train, plain=plain, **options), loader(valid, **options)


class _Log(mlopt.Callback):
    """Writes a search into its run folder."""

    def __init__(
        self, search: Search, valid: Any, folder: RunFolder, data: ImageData, s: Settings
    ) -> None:
        self.search, self.valid, self.folder, self.data, self.s = search, valid, folder, data, s
        self.began = time.perf_counter()

    def on_log(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        row = {k: v for k, v in metrics.items() if not k.startswith("signal/")}
        if "signal/class_losses" in metrics:
            row["class_losses"] = metrics["signal/class_losses"]
        seconds = time.perf_counter() - self.began
        self.folder.log("search", step=engine.steps, epoch=engine.epoch, seconds=seconds, **row)

    def on_epoch(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        last = engine.epoch == self.search.epochs
        if self.search.generator is not None and (
            last or engine.epoch % max(1, self.search.epochs // 6) == 0
        ):
            images = sample_grid(self.search.generator, self.data.classes, 10, seed=0)
            path = self.folder.path(f"samples/epoch_{engine.epoch:04d}.png")
            save_grid(images, path, per_row=10, scale=max(1, 32 // self.data.image_size))

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self.folder.log("search-epoch", step=engine.steps, epoch=engine.epoch, **metrics)


def run_search(
    search: Search, valid: Any, folder: RunFolder, data: ImageData, s: Settings
) -> float:
    """Run the engine; the seconds it took."""

    def count(module: nn.Module, args: Any) -> None:
        search.passes += 1

    def validate() -> dict[str, float]:
        entropy = {
            f"entropy/{kind}": value for kind, value in search.architecture.entropy().items()
        }
        with torch.no_grad():
            weights = search.architecture()
        error, loss = classify(
            lambda x: search.classifier(x, weights), search.classifier, valid, s.device
        )
        return {"validation/error": error, "validation/loss": loss, **entropy}

    for network in (search.architecture, *search.networks):
        network.to(s.device)
    hooks = [network.register_forward_pre_hook(count) for network in search.networks]
    began = time.perf_counter()
    try:
        search.engine.run(
            epochs=search.epochs,
            validate=validate,
            callbacks=[_Log(search, valid, folder, data, s)],
            log_every=10,
        )
    finally:
        for hook in hooks:
            hook.remove()
    return time.perf_counter() - began


@torch.no_grad()
def classify(
    logits: Callable[[Tensor], Tensor], network: nn.Module, batches: Any, device: str
) -> tuple[float, float]:
    """Error (percent) and mean loss over a loader, in evaluation mode, on randomness of its own."""
    wrong, loss, total = 0, 0.0, 0
    training = network.training
    network.eval()
    with torch.random.fork_rng(devices=[]):
        for x, y in batches:
            x, y = x.to(device), y.to(device)
            out = logits(x)
            wrong += int((out.argmax(1) != y).sum())
            loss += float(cross_entropy(out, y, reduction="sum"))
            total += len(y)
    network.train(training)
    return 100 * wrong / total, loss / total


def retrain_and_test(
    genotype: Genotype, data: ImageData, folder: RunFolder, s: Settings
) -> tuple[EvaluationNetwork, float]:
    """Train the derived network from scratch on both halves; its test error in percent."""
    torch.manual_seed(s.seed)
    network = EvaluationNetwork(
        genotype, s.eval_channels, s.eval_cells, data.classes, data.channels, s.auxiliary > 0
    )
    batches = loader(
        data.train,
        s.eval_batch_size,
        augment=standard_augmentation(data.name, data.image_size),
        finish=Cutout(s.cutout) if s.cutout else None,
        drop_last=len(data.train) > s.eval_batch_size,
    )
    began = time.perf_counter()

    def log(metrics: dict[str, float]) -> None:
        folder.log(
            "retrain",
            epoch=int(metrics["epoch"]),
            seconds=time.perf_counter() - began,
            lr=metrics["lr"],
            **{"train/loss": metrics["loss"], "train/error": metrics["error"]},
        )

    retrain(
        network,
        batches,
        epochs=s.eval_epochs,
        lr=s.eval_lr,
        momentum=s.momentum,
        weight_decay=s.eval_weight_decay,
        clip=s.clip,
        auxiliary_weight=s.auxiliary,
        drop_path=s.drop_path,
        device=s.device,
        seed=s.seed,
        on_epoch=log,
    )
    measured = evaluate(network, loader(data.test, 256, shuffle=False), s.device)
    return network, measured["error"]


def standard_error(error: float, images: int) -> float:
    """Of an error rate in percent measured on so many images: sqrt(p (1 - p) / n)."""
    p = error / 100
    return 100 * (p * (1 - p) / images) ** 0.5


def baselines(data: ImageData) -> list[dict[str, Any]]:
    """Chance, and logistic regression on raw pixels (for small data sets: it takes seconds)."""
    rows: list[dict[str, Any]] = []
    if len(data.train) <= 10_000:
        from sklearn.linear_model import LogisticRegression

        x, test = (
            part.images.flatten(1).float() / data.normalization.pixel_max
            for part in (data.train, data.test)
        )
        model = LogisticRegression(max_iter=1000).fit(x.numpy(), data.train.labels.numpy())
        error = 100 * (1 - model.score(test.numpy(), data.test.labels.numpy()))
        rows.append(
            {
                "name": "logistic regression",
                "test_error": error,
                "standard_error": standard_error(error, len(data.test)),
                "parameters": int(model.coef_.size + model.intercept_.size),
            }
        )
    guess = 100 * (1 - float(data.test.labels.bincount().max()) / len(data.test))
    return [*rows, {"name": "chance", "test_error": guess}]


def result_table(rows: Sequence[dict[str, Any]], *, markdown: bool = False) -> str:
    """The rows as text."""
    return format_table(
        rows,
        {
            "name": "",
            "search_seconds": "search, s",
            "passes": "network passes",
            "parameters": "parameters",
            "test_error": "test error, %",
            "standard_error": "standard error, %",
        },
        markdown=markdown,
    )
