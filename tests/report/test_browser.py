"""The page in a browser: it runs, asks for nothing, and does what its buttons say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_up_page import IMAGE, N_CELLS, SCRIPT, page

from indiseek.report import render

DRAWN = "maps[%d].canvas.toDataURL()"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("page") / "report.html"
    found.write_text(render(page()), encoding="utf-8")
    return found


@pytest.fixture
def opened(chromium, path):
    chromium.open(path)
    chromium.wait("state.colour !== null")
    yield chromium
    assert chromium.complaints == []
    assert chromium.requests == [path.as_uri()]


def box(chromium, number: int) -> tuple[float, float, float]:
    chromium.run(f"maps[{number}].canvas.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    rect = f"maps[{number}].canvas.getBoundingClientRect()"
    return tuple(chromium.run(f"[{rect}.left, {rect}.top, {rect}.width]"))


def fill(chromium, field: str, text: str, event: str) -> None:
    there = f"document.getElementById('{field}')"
    chromium.run(f"{there}.value = {text!r}; {there}.dispatchEvent(new Event('{event}'))")


def test_names_are_text_and_run_nothing(opened, path):
    assert opened.run("document.querySelectorAll('img').length") == 0
    assert opened.run("document.title") == f"RNA and {IMAGE}"
    assert SCRIPT in opened.run("document.body.innerText")
    assert opened.run("document.querySelectorAll('script').length") == 2
    opened.run(f"colourBy({SCRIPT!r})")
    opened.wait(f"state.colour.title === {SCRIPT!r}")
    assert f"{IMAGE} " in opened.run("document.getElementById('legend').textContent")
    assert (
        opened.run("[...document.querySelectorAll('#table tbody tr td:first-child')].map(e => e.textContent)")[0]
        == IMAGE
    )


def test_the_rules_of_the_page_refuse_what_is_not_its_own(chromium, path):
    chromium.open(path)
    chromium.run("document.body.append(Object.assign(new Image(), {src: 'https://example.org/a.png'}))")
    chromium.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert chromium.run("fetch('https://example.org/').then(() => 'sent', () => 'refused')") == "refused"
    assert chromium.run("window.ran") is None
    # What is refused is said, so that a test which waits for silence can fail.
    for rule in ("script-src", "img-src", "default-src 'none'"):
        assert any("Content Security Policy" in text and rule in text for text in chromium.complaints)
    assert chromium.refused == ["https://example.org/a.png"]


def test_the_colour_that_is_chosen_is_drawn_in_every_map(opened):
    before = [opened.run(DRAWN % i) for i in (0, 1)]
    fill(opened, "colour", "CD4 (prot)", "change")
    opened.wait("state.colour.title === 'CD4 (prot)'")
    after = [opened.run(DRAWN % i) for i in (0, 1)]
    assert before[0] != after[0] and before[1] != after[1]
    assert "log(1 + count)" in opened.run("document.getElementById('legend').textContent")
    # 400 cells, of which each has the value that went in, to 1/252 of the range.
    colour = opened.run("({low: state.colour.low, high: state.colour.high, first: state.steps[0]})")
    assert colour["low"] <= colour["low"] + (colour["high"] - colour["low"]) * colour["first"] / 252 <= colour["high"]


def test_a_lasso_in_one_map_selects_the_same_cells_in_all(opened):
    left, top, side = box(opened, 0)
    # The second blob lies up and to the right.
    centre, radius = (left + 0.83 * side, top + 0.17 * side), 0.24 * side
    circle = [(centre[0] + radius * math.cos(a / 4), centre[1] + radius * math.sin(a / 4)) for a in range(26)]
    inside = [(min(x, left + side - 1), max(y, top + 1)) for x, y in circle]
    before = opened.run(DRAWN % 1)
    opened.drag(inside)
    assert opened.run("Array.from(state.selected)") == [0] * (N_CELLS // 2) + [1] * (N_CELLS // 2)
    assert opened.run("document.getElementById('count').textContent") == "200 of 400 cells are selected in all maps."
    assert opened.run(DRAWN % 1) != before
    opened.wait("document.querySelectorAll('#differs tbody tr').length === 5")
    # Each protein of the second blob is higher there.
    assert opened.run(
        "[...document.querySelectorAll('#differs tbody tr td:last-child')].every(e => +e.textContent > 0.5)"
    )
    opened.run("document.getElementById('clear').click()")
    assert opened.run("[state.nSelected, document.getElementById('selection').hidden]") == [0, True]
    assert opened.run(DRAWN % 1) == before


def test_without_a_mouse(opened):
    opened.run("[...document.querySelectorAll('#legend button')].find(b => b.textContent.startsWith('first')).click()")
    assert opened.run("state.nSelected") == N_CELLS // 2
    opened.run("maps[0].canvas.focus()")
    opened.press("+")
    opened.press("ArrowRight")
    zoom, x = opened.run("[maps[0].zoom, maps[0].x]")
    assert zoom == pytest.approx(1.4)
    assert x > 0.1
    opened.press("0")
    assert opened.run("maps[0].zoom") == 1
    opened.press("Escape")
    assert opened.run("state.nSelected") == 0


def test_search_and_sort_of_the_table(opened):
    rows = "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[0].textContent)"
    assert opened.run(rows)[0] == IMAGE  # most of its own
    fill(opened, "search", "cd", "input")
    assert opened.run(rows) == ["CD4", "CD8"]
    assert opened.run("document.getElementById('shown').textContent") == "2 of 2 that fit"
    head = "[...document.querySelectorAll('#table thead button')].find(b => b.textContent.startsWith('Feature'))"
    opened.run(f"{head}.click()")
    assert opened.run(rows) == ["CD4", "CD8"]
    opened.run(f"{head}.click()")
    assert opened.run(rows) == ["CD8", "CD4"]
    assert opened.run(f"{head}.parentNode.getAttribute('aria-sort')") == "descending"
    opened.run("document.querySelector('#table tbody button').click()")
    opened.wait("state.colour.title === 'CD8 (prot)'")


def test_a_feature_is_found_by_what_is_typed(opened):
    fill(opened, "search-colour", "cd8", "change")
    opened.wait("state.colour.title === 'CD8 (prot)'")
    fill(opened, "search-colour", "nix", "change")
    assert "nix" in opened.run("document.getElementById('told').textContent")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_off_and_maps_fit_the_window(chromium, path, width, dark):
    chromium.open(path, width=width, height=844, dark=dark, touch=width == 390)
    chromium.wait("state.colour !== null")
    assert chromium.run("document.documentElement.scrollWidth") == width
    assert chromium.run("isDark()") is dark
    ground = chromium.run("getComputedStyle(document.body).backgroundColor")
    chromium.run("document.getElementById('theme').click()")
    assert chromium.run("isDark()") is not dark
    assert chromium.run("getComputedStyle(document.body).backgroundColor") != ground
    tops = chromium.run("maps.filter(m => !m.figure.hidden).map(m => m.canvas.getBoundingClientRect().top)")
    assert (len(set(tops)) == len(tops)) is (width == 390)
    # A finger scrolls a phone's page, until it is to draw.
    assert chromium.run("state.mode") == ("look" if width == 390 else "lasso")
    assert chromium.complaints == []
