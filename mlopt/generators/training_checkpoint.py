"""The file from which an interrupted training of a GAN goes on, and its batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlopt._errors import DataError, SettingsError
from mlopt._files import Damaged, read_archive, write_archive

__all__ = ["Batches", "Course"]

_KIND = "checkpoint of the training of a GAN"
_ADVICE = "Give another file, or remove this one to start anew."


class Batches:
    """Batches in passes, one after another, which another process can go on with.

    Args:
        batches: gone through again and again; they draw from torch's global generator alone.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self._iterator: Iterator[Any] | None = None
        self._began = torch.get_rng_state()
        self._drawn = 0  # in this pass

    def draw(self) -> Any:
        """Take the next one.

        Returns:
            The batch.

        Raises:
            DataError: there is none.
        """
        for _ in range(2):
            if self._iterator is None:
                self._began, self._drawn = torch.get_rng_state(), 0
                self._iterator = iter(self._batches)
            for batch in self._iterator:
                self._drawn += 1
                return batch
            self._iterator = None
        raise DataError("train_gan: the batches are empty; give at least one.")

    def state_dict(self) -> dict[str, Any]:
        """Where the pass began, and how many of it were drawn."""
        return {"began": self._began, "drawn": self._drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go through the pass again, to where it was; torch's generator moves."""
        torch.set_rng_state(state["began"])
        self._iterator = None
        for _ in range(state["drawn"]):
            self.draw()


class Course:
    """A training, and its file.

    Args:
        path: of the file; None for a training that is not saved.
        settings: what the training is of.
        device: whose generator draws the noise.
        parts: what has a state, by name, the networks `generator` and `discriminator` among them.
    """

    def __init__(
        self,
        path: Path | None,
        settings: Mapping[str, Any],
        device: torch.device,
        parts: Mapping[str, Any],
    ) -> None:
        self.path, self._device, self._parts = path, device, parts
        shapes = {
            f"{name}.{key}": tuple(value.shape)
            for name, part in parts.items()
            if isinstance(part, nn.Module)
            for key, value in part.state_dict().items()
        }
        self._of = {**settings, **shapes}

    def save(self, done: int, losses: Mapping[str, float]) -> None:
        """Write the whole file, or nothing of it.

        Args:
            done: steps that have been taken.
            losses: of the last one.
        """
        if self.path is None:
            return
        content = {
            "of": self._of,
            "done": done,
            "losses": dict(losses),
            "parts": {name: part.state_dict() for name, part in self._parts.items()},
            "generators": [torch.get_rng_state(), *self._cuda()],
        }
        write_archive(self.path, _KIND, 1, content)

    def resume(self) -> tuple[int, dict[str, float]]:
        """Go back to where the file was written, if it was.

        Returns:
            The steps that have been taken, and the losses of the last one.

        Raises:
            SettingsError: the file is damaged, or that of another training.
        """
        try:
            content = None if self.path is None else read_archive(self.path, _KIND, 1)
        except Damaged as error:
            raise SettingsError(f"train_gan: {error} {_ADVICE}") from error
        if content is None:
            return 0, {}
        there = dict(content["of"])
        for name in {**self._of, **there}:
            if self._of.get(name) != there.get(name):
                raise SettingsError(
                    f"train_gan: {self.path}: is the checkpoint of a training with "
                    f"{name}={there.get(name)!r}, not {self._of.get(name)!r}. {_ADVICE}"
                )
        for name, part in self._parts.items():
            part.load_state_dict(content["parts"][name])
        cpu, *cuda = content["generators"]
        torch.set_rng_state(cpu)  # the batches have moved it
        for state in cuda if self._device.type == "cuda" else ():
            torch.cuda.set_rng_state(state, self._device)
        return content["done"], content["losses"]

    def _cuda(self) -> list[torch.Tensor]:
        return [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
