"""The settings as options of a command line, over those of a preset."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from .checks import checked
from .options import Settings
from .presets import preset_names, read_preset


def parse(
    description: str | None, arguments: Sequence[str] | None = None, example: str | None = None
) -> Settings:
    """Settings from the command line: defaults, then the preset, then what is given."""
    return parse_with({}, description, arguments, example)[0]


def parse_with(
    flags: Mapping[str, str],
    description: str | None,
    arguments: Sequence[str] | None = None,
    example: str | None = None,
) -> tuple[Settings, dict[str, bool]]:
    """Settings as `parse` finds them, and which flags are given that are no settings.

    Args:
        flags: by name, what the help says of each.
        description: the help text.
        arguments: by default those of the process.
        example: whose table in the presets is read.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    presets = f"settings to start from: {', '.join(preset_names())}"
    parser.add_argument("--preset", default="quick", help=presets)
    for f in dataclasses.fields(Settings):
        flag = "--" + f.name.rstrip("_").replace("_", "-")
        options: dict[str, Any] = {"dest": f.name, "default": None, "help": f.metadata["help"]}
        if isinstance(f.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        elif isinstance(f.default, tuple):
            parser.add_argument(flag, type=type(f.default[0]), nargs="+", **options)
        else:
            choices = f.metadata["choices"] or None
            parser.add_argument(flag, type=type(f.default), choices=choices, **options)
    for name, meaning in flags.items():
        parser.add_argument("--" + name.replace("_", "-"), action="store_true", help=meaning)
    given = vars(parser.parse_args(arguments))
    found = {name: given.pop(name) for name in flags}
    preset = given.pop("preset")
    given = checked({k: v for k, v in given.items() if v is not None}, "the command line")
    values = read_preset(preset, example, given.get("dataset"), given.get("space")) | given
    return Settings(**values), found
