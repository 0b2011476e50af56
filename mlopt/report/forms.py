"""The forms of the JSON files that a report shows: what has another one is left out, and said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlopt._errors import MloptError
from mlopt.report.run_folder import RunFolder

__all__ = ["read_part"]

_DEEPEST = 40  # lists in lists of a file
#: What is a list in a file, if it is there.
_LISTS = {
    "result": ("rows", "notes", "class_names"),
    "genotype": ("normal", "normal_concat", "reduce", "reduce_concat"),
    "learners": ("learners", "pairs"),
}
#: The lists of objects among them, and what errors call one.
_OBJECTS = {
    ("result", "rows"): "row",
    ("learners", "learners"): "learner",
    ("learners", "pairs"): "pair",
}
_NUMBERS = ("test_error", "standard_error")


def read_part(root: Path, part: str, left_out: list[str]) -> Any:
    """The content of a file, as much of it as has the form that a report shows.

    Args:
        root: the folder of the run.
        part: name of the file without ".json".
        left_out: gets a sentence for all that is left out.

    Returns:
        An object; rows of a result have text as their names. None if there is no such file, or none
        that can be read.
    """
    name = f"{part}.json"
    try:
        content = RunFolder(root).read_json(name)
    except MloptError as error:
        left_out.append(str(error))
        return None
    if content is None and not os.path.lexists(root / name):
        return None
    if not _within(content, _DEEPEST):
        left_out.append(f"{name}: has more than {_DEEPEST} lists in each other.")
        return None
    if not isinstance(content, dict):
        left_out.append(f"{name}: is no JSON object.")
        return None
    for key in _LISTS.get(part, ()):
        if not isinstance(content.get(key, []), list):
            left_out.append(f"{name}: {key} is no list.")
            del content[key]
    if part == "result":
        left_out += [f"{name}: its {key} is no number." for key in _no_numbers(content)]
    for (of, key), called in _OBJECTS.items():
        if of == part and key in content:
            content[key] = _objects(content[key], f"{name}, {called}", key == "rows", left_out)
    return content


def _within(content: Any, depth: int) -> bool:
    """Whether lists and objects stand in each other no deeper than so."""
    items = content.values() if isinstance(content, dict) else content
    if not isinstance(content, (dict, list)):
        return True
    return depth > 0 and all(_within(item, depth - 1) for item in items)


def _objects(items: list[Any], where: str, named: bool, left_out: list[str]) -> list[Any]:
    """The objects of a list; of those that need a name, the ones that have it, as text."""
    found = []
    for place, item in enumerate(items, 1):
        name = item.get("name") if isinstance(item, dict) else None
        has_name = isinstance(name, (str, int, float)) and bool(str(name).strip())
        if not isinstance(item, dict):
            left_out.append(f"{where} {place}: is no object.")
        elif named and not has_name:
            left_out.append(f"{where} {place}: has no name.")
        else:
            found.append({**item, "name": str(name)} if named else item)
            wrong = _no_numbers(item)
            left_out += [f"{where} {place}: its {key} is no number." for key in wrong]
    return found


def _no_numbers(item: dict[str, Any]) -> list[str]:
    """What is there where a number stands, and is none."""
    return [key for key in _NUMBERS if not _is_number(item.get(key))]


def _is_number(value: object) -> bool:
    """Whether it is one, or not there."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
