"""Tables line up, as text and as Markdown."""

from __future__ import annotations

from mlopt.report import format_table

ROWS = [
    {"name": "LFM-CW", "error": 1.6667, "parameters": 45632},
    {"name": "a|b\nc", "error": 90},
]


def test_plain_text() -> None:
    assert format_table(ROWS).splitlines() == [
        "name    error  parameters",
        "------  -----  ----------",
        "LFM-CW  1.667      45,632",
        "a|b c      90           -",
    ]


def test_markdown_escapes_and_lines_up() -> None:
    lines = format_table(ROWS, {"name": "method", "error": "%"}, markdown=True).splitlines()
    assert lines == [
        "| method |     % |",
        "| ------ | ----: |",
        "| LFM-CW | 1.667 |",
        "| a\\|b c |    90 |",
    ]


def test_without_rows_the_headings_remain() -> None:
    assert format_table([], ["a", "bc"]).splitlines() == ["a  bc", "-  --"]
