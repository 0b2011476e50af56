"""What a run depends on: the settings, their values, and where these come from.

Start with options.py: every setting with its default. checks.py says what values it may have,
presets.py reads those of `configs/`, command_line.py those that a user gives; device.py sees that
the device is there.

May import: no other room.
"""

from .checks import checked
from .command_line import parse, parse_with
from .device import check_device
from .options import DATASETS, SPACE_NAMES, Settings, option
from .presets import EXAMPLES, preset_names, read_preset
from .toml import read_toml, read_value

__all__ = [
    "DATASETS",
    "EXAMPLES",
    "SPACE_NAMES",
    "Settings",
    "check_device",
    "checked",
    "option",
    "parse",
    "parse_with",
    "preset_names",
    "read_preset",
    "read_toml",
    "read_value",
]
