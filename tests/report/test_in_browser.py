"""Reports as a browser shows them: on a phone and a screen, light and dark, without a mouse."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from compare import near
from report.browser import NAMES, Browser, opened

from mlopt.report import RunFolder, write_comparison, write_report

image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

PHONE, SCREEN = 375, 1280
looks = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
widths = pytest.mark.parametrize("width", [PHONE, SCREEN])

LOOKS = Path(__file__).with_name("looks.js").read_text(encoding="utf-8")
CONTRAST, WIDE = (f"(() => {{ {LOOKS} return {name}(); }})()" for name in ("contrast", "wide"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened() as found:
        if found is None:
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
        yield found


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Path:
    return write_report(run)


@looks
@widths
def test_a_report_can_be_read(browser: Browser, page: Path, width: int, dark: bool) -> None:
    """Nothing is wider than the window or cut off, no text is faint, nothing is loaded or fails."""
    browser.open(page, width=width, dark=dark)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(WIDE) == []
    browser.run("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.run(WIDE) == []
    seen, faint = browser.run(CONTRAST)
    assert seen > 200
    assert faint == []
    wrong = [
        e for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
    ]
    assert wrong == []
    asked = [e for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    urls = {e["params"]["request"]["url"][:5] for e in asked}
    assert urls <= {"file:", "data:"}
    assert sum(e["params"]["request"]["url"].startswith("file:") for e in asked) == 1


@looks
def test_runs_side_by_side_can_be_read_on_a_phone(
    browser: Browser, page: Path, tmp_path: Path, dark: bool
) -> None:
    both = write_comparison([page.parent, page.parent / "darts"], tmp_path / "both.html")
    browser.open(both, width=PHONE, dark=dark)
    assert browser.run(WIDE) == []
    seen, faint = browser.run(CONTRAST)
    assert seen > 200
    assert faint == []


@looks
def test_drawings_on_white_have_the_colour_of_the_page(
    browser: Browser, page: Path, dark: bool, tmp_path: Path
) -> None:
    """The corner of each drawing of a cell is as light as the card that it lies on."""
    browser.open(page, width=SCREEN, dark=dark)
    browser.picture(tmp_path / "page.png")
    with image.open(io.BytesIO((tmp_path / "page.png").read_bytes())) as found:
        pixels = found.convert("L")
    boxes = browser.run(
        "[...document.querySelectorAll('figure img:not(.pixels)')].map(e => {"
        "const b = e.getBoundingClientRect(); return [b.left + scrollX, b.top + scrollY]})"
    )
    assert len(boxes) == 4
    for left, top in boxes:
        inside, outside = (
            pixels.getpixel((int(left) + 9, int(top) + 9)),
            pixels.getpixel((int(left) - 5, int(top) + 9)),
        )
        near(inside, outside, 2, scale=1.0, why="shades of 256, which a browser may round")
        assert (outside < 64) == dark


def test_all_that_can_be_opened_or_scrolled_is_reached_by_keys(
    browser: Browser, page: Path
) -> None:
    browser.open(page, width=SCREEN)
    wanted = browser.run("document.querySelectorAll('summary').length")
    assert wanted >= 3
    reached = []
    for _ in range(60):
        browser.press("Tab")
        tag, outline, text = browser.run(
            "(e => [e.tagName, getComputedStyle(e).outlineStyle, e.textContent])"
            "(document.activeElement)"
        )
        if tag == "BODY":
            break
        assert outline != "none"
        if tag == "SUMMARY":
            reached.append(text)
            browser.press("Enter")
            assert browser.run("document.activeElement.parentElement.open")
    assert len(reached) == wanted
    unreached = browser.run(
        "[...document.querySelectorAll('body *')].filter(e => e.scrollWidth > e.clientWidth + 1 && "
        "getComputedStyle(e).overflowX == 'auto' && e.tabIndex < 0).length"
    )
    assert unreached == 0


def test_rows_of_a_table_are_blocks_on_a_phone_and_still_a_table(
    browser: Browser, page: Path
) -> None:
    """The last column was cut off; for a screen reader there are rows and heads nevertheless."""
    browser.open(page, width=PHONE)
    heads = browser.run(
        "[...document.querySelector('table.rows tbody tr').querySelectorAll('td')].map(e => "
        "getComputedStyle(e, '::before').content)"
    )
    assert heads[0] == '"test error, % (± standard error)"'
    roles = {node["role"]["value"] for node in browser.ask("Accessibility.getFullAXTree")["nodes"]}
    assert {"table", "row", "rowheader", "columnheader", "cell", "heading"} <= roles


def _shows(browser: Browser, text: str) -> bool:
    """Whether the page says so; not while it is being loaded."""
    asked = f"document.querySelector('.big')?.textContent.includes('{text}') || false"
    try:
        return bool(browser.run(asked))
    except RuntimeError as error:
        if "navigated" not in str(error):
            raise
        return False


def test_a_run_that_goes_on_is_loaded_again(browser: Browser, tmp_path: Path) -> None:
    """Here at once; the report of the end, which is there by then, is not."""
    with RunFolder.create(tmp_path / "run", {"a": 1}) as folder:
        path = write_report(folder)
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('content="30"', 'content="0"', 1), encoding="utf-8")
        browser.open(path, width=SCREEN)
        folder.save_json("result.json", {"rows": [{"name": "A", "test_error": 3.0}]})
        write_report(folder)
        while not _shows(browser, "3.00"):
            browser.wait("Page.loadEventFired")
        assert browser.run("document.querySelector('meta[http-equiv=refresh]')") is None
