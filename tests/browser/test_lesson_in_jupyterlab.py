"""The lesson in a real browser: every notebook run by its menu, every widget moved with the keyboard, two themes.

The tour is run as on a fresh clone; then the smoke profile runs beside its widgets; the others as for a person who has
run that profile, from the last to the first: one that is run again may change what it leaves, and those that read it
would then train anew.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labpage import ROOT, Lab, Sheet, begin_smoke_run

from rrlib.chain.params import declared_parameters

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

# 06 without stored results trains four checkpoints: tests/test_efficiency.py runs it, smaller, without a browser.
NAMES = [
    path.stem
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    if path.stem != "06_efficiency" or "stored" in declared_parameters(path)
]
TOUR_SECONDS = 60
PATIENCE = 60_000  # ms until a change counts as not come: a guard against hanging, far above what a quiet machine needs


@pytest.fixture(scope="module")
def tour(
    lab: Lab, browser: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Sheet]:
    """00, run by its menu, with the widgets shown. The smoke run begins when its time has been taken, not beside it."""
    sheet = Sheet(lab, browser, "00_tour")
    begun, busy = time.monotonic(), lab.cpu_seconds()
    sheet.run_all(580)
    sheet.seconds, sheet.cpu_seconds = time.monotonic() - begun, lab.cpu_seconds() - busy
    begin_smoke_run(tmp_path_factory, request)
    yield sheet
    sheet.close()


def pictures(cells: list[dict[str, Any]]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])


def test_the_tour_shows_every_figure_in_under_a_minute(tour: Sheet, record_property: Callable[..., None]) -> None:
    cells = [cell for cell in tour.cells() if cell["cell_type"] == "code"]
    drawn = sum("stage.figure(" in "".join(cell["source"]) for cell in cells)
    assert pictures(cells) == drawn >= 8
    record_property("seconds", f"{tour.seconds:.1f} (processor: {tour.cpu_seconds:.1f})")
    # Of its processes, which use one thread: on a machine with nothing else to do, that is about what a person waits.
    assert tour.cpu_seconds < TOUR_SECONDS
    assert not tour.errors
    tour.shot("executed")


def by_slider(name: str, key: str = "ArrowRight", times: int = 1) -> Callable[[Any], None]:
    def move(panel: Any) -> None:
        handle = panel.locator(f".rr-{name} .noUi-handle")
        handle.focus()
        for _ in range(times):
            handle.press(key)

    return move


def by_menu(name: str, label: str) -> Callable[[Any], None]:
    return lambda panel: panel.locator(f".rr-{name} select").select_option(label=label)


def by_button(name: str) -> Callable[[Any], None]:
    return lambda panel: panel.locator(f"button.rr-{name}").press("Enter")


def by_play() -> Callable[[Any], None]:
    return lambda panel: panel.locator(".rr-play button").first.press("Enter")


def by_typing(text: str) -> Callable[[Any], None]:
    def move(panel: Any) -> None:
        area = panel.locator("textarea")
        area.focus()
        area.press("Control+a")
        panel.page.keyboard.type(text)

    return move


MOVES: list[tuple[str, Callable[[Any], None], str]] = [
    ("reward", by_slider("place2", "ArrowLeft"), "2 of 2 relevant passages are carried"),
    ("reward", by_slider("recall", "ArrowRight", 4), "Recall 1.000"),
    ("reward", by_slider("rbo", "ArrowRight", 2), "Reward"),
    ("reward", by_slider("p", "ArrowLeft", 2), "Reward"),
    ("reward", by_slider("ndcg", "ArrowLeft", 2), "Reward"),
    ("reward", by_slider("place1", "ArrowRight", 3), "2 of 2"),
    ("reward", by_slider("other1", "ArrowLeft", 3), "the reward prefers"),
    ("player", by_slider("step", "ArrowRight"), "Step 1."),
    ("player", by_button("forward"), "Step 2."),
    ("player", by_button("back"), "Step 1."),
    ("player", by_play(), "Step 2."),
    ("inspector", by_typing("<think> a </think> <answer> [1] > [2] </answer>"), "bad_list"),
    ("inspector", by_typing("[2] is best"), "bad_format"),
    ("trace", by_slider("step", "ArrowRight", 2), "2 of "),
    ("group", by_slider("rollout", "ArrowRight"), "Rollout 2:"),
    ("group", by_slider("recall", "ArrowRight", 2), "Rollout 2:"),
    ("group", by_slider("rbo", "ArrowRight", 2), "Rollout 2:"),
    ("group", by_menu("scale", "do not divide"), "Rollout 2:"),
    ("compare", by_slider("place", "ArrowLeft"), "Query"),
    ("compare", by_menu("after", "BM25"), "(+0.000)"),
    ("compare", by_menu("before", "reranked"), "with reranked"),
]


@pytest.mark.parametrize(("panel", "move", "words"), MOVES, ids=[f"{i:02d}-{m[0]}" for i, m in enumerate(MOVES)])
def test_a_widget_moves_by_keyboard(panel: str, move: Callable[[Any], None], words: str, tour: Sheet) -> None:
    from playwright.sync_api import expect

    box = tour.page.locator(f".rr-{panel}")
    expect(box).to_have_count(1)
    image, told = box.locator(".rr-picture img"), box.locator(".rr-words [role=status]")
    before = image.get_attribute("src"), told.inner_text()
    move(box)
    expect(told).to_contain_text(words, timeout=PATIENCE)
    expect(told).not_to_have_text(before[1], timeout=PATIENCE)
    expect(image).to_have_count(1)  # one picture, replaced and not stacked
    expect(image).not_to_have_attribute("src", before[0] or "", timeout=PATIENCE)
    assert image.evaluate("i => i.complete && i.naturalWidth > 200") and len(image.get_attribute("alt") or "") > 20
    box.scroll_into_view_if_needed()
    tour.shot(f"widget_{panel}")
    assert not tour.errors


CONTRAST = """
root => {
  const light = c => { const v = c.map(x => x / 255).map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
                       return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const rgba = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const ground = e => {
    for (let n = e; n; n = n.parentElement) {
      const c = rgba(getComputedStyle(n).backgroundColor);
      if (c.length && (c.length < 4 || c[3] > 0.99)) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const out = [];
  for (const e of root.querySelectorAll('*')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length) continue;
    let alpha = 1;
    for (let n = e; n; n = n.parentElement) alpha *= Number(getComputedStyle(n).opacity);
    const back = ground(e), front = rgba(getComputedStyle(e).color).slice(0, 3)
      .map((x, i) => alpha * x + (1 - alpha) * back[i]);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    out.push([(a + 0.05) / (b + 0.05), e.className + ' ' + e.textContent.trim().slice(0, 40)]);
  }
  return out;
}
"""


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_widgets_read_in_dark_and_light(theme: str, tour: Sheet) -> None:
    """Every word of every widget has a contrast of 4.5 to 1 or more; every picture stands on white."""
    tour.page.evaluate(f"() => window.jupyterapp.commands.execute('apputils:change-theme', {{theme: '{theme}'}})")
    tour.page.wait_for_function(f"() => document.body.dataset.jpThemeName === '{theme}'", timeout=PATIENCE)
    tour.page.wait_for_timeout(800)  # the style sheet of the theme arrives after its name
    for panel in ("reward", "player", "inspector", "trace", "group", "compare"):
        box = tour.page.locator(f".rr-{panel}")
        box.scroll_into_view_if_needed()
        found = box.evaluate(CONTRAST)
        assert found
        poor = [(round(ratio, 1), what) for ratio, what in found if ratio < 4.5]
        assert not poor, f"{theme}, {panel}: {poor}"
        ground = box.locator(".rr-picture img").evaluate("i => getComputedStyle(i).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        tour.shot(f"{panel}_{theme.split()[-1].lower()}")


def test_the_executed_tour_reads_offline_as_html(tour: Sheet, lab: Lab, browser: Any, tmp_path: Path) -> None:
    """Saved in the browser, exported, opened again without a network: all pictures, and nothing is asked for."""
    from rrlib.lesson.pages import export_html

    saved = tour.save(lab)
    assert saved.stat().st_size < 1_000_000
    target = export_html(saved, tmp_path)
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900})
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(target.as_uri())
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    widths = page.evaluate("() => [...document.images].map(i => i.naturalWidth)")
    assert len(widths) >= 8 and min(widths) > 200 and not errors
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth + 1")
    page.screenshot(path=ROOT / "outputs" / "browser" / "00_tour_html.png")
    context.close()


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "lessons").glob("*.html")), ids=lambda path: path.stem)
def test_no_table_of_a_lesson_is_wider_than_it_may_be(page: Path, browser: Any) -> None:
    from rrlib.lesson.shown import WIDTH

    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900})
    shown = context.new_page()
    shown.goto(page.as_uri())
    tables = "[...document.querySelectorAll('table.dataframe')]"
    widths = shown.evaluate(f"() => {tables}.map(t => Math.round(t.getBoundingClientRect().width))")
    context.close()
    assert len(widths) >= 5 and max(widths) <= WIDTH, widths


# Two kernels at a time, for two cores. No notebook stands beside one that it reads: 05 reads nothing, 06 not 03.
PAIRS = [
    pair
    for names in (("05_ablations", "04_evaluation"), ("06_efficiency", "03_rl"), ("02_sft",), ("01_synthesis",))
    if (pair := tuple(name for name in names if name in NAMES))
]


def test_every_notebook_is_run_by_its_menu() -> None:
    assert sorted(["00_tour", *(name for pair in PAIRS for name in pair)]) == NAMES


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_run_all_shows_no_error(
    names: tuple[str, ...], lab_after_run: Lab, browser: Any, record_property: Callable[..., None]
) -> None:
    with contextlib.ExitStack() as stack:
        sheets = []
        for name in names:
            sheets.append(Sheet(lab_after_run, browser, name))
            stack.callback(sheets[-1].close)
            sheets[-1].start()
        for sheet in sheets:
            check_executed(sheet, sheet.wait(580), lab_after_run)
            record_property(f"seconds of {sheet.name}", round(sheet.seconds, 1))
            move_widgets(sheet)


def check_executed(sheet: Sheet, cells: list[dict[str, Any]], lab: Lab) -> None:
    """Pictures, nothing on standard error, the stage finished, a file under 1 MB."""
    assert pictures(cells) >= 1
    assert not [o for cell in cells for o in cell["outputs"] if o.get("name") == "stderr"], "something on stderr"
    last = "".join(str(output) for output in cells[-1]["outputs"])
    assert re.search(rf"{sheet.name} finished: \d+ files", last)
    sheet.save(lab)
    assert (lab.notebooks / f"{sheet.name}.ipynb").stat().st_size < 1_000_000
    sheet.shot("executed")
    assert not sheet.errors


def move_widgets(sheet: Sheet) -> None:
    """Move the first slider of every widget by the keyboard, as far as there are any: what it shows changes."""
    from playwright.sync_api import expect

    cells = [cell for cell in sheet.cells() if "".join(cell["source"]).startswith("if interactive:")]
    boxes = sheet.page.locator(".widget-vbox:has(> .rr-picture), .widget-interact")
    expect(boxes).to_have_count(len(cells), timeout=PATIENCE)
    for number in range(len(cells)):
        box = boxes.nth(number)
        handle = box.locator(".noUi-handle").first
        low = float(handle.get_attribute("aria-valuenow") or 0) < float(handle.get_attribute("aria-valuemax") or 0)
        before = box.evaluate(SHOWN)
        handle.focus()
        handle.press("ArrowRight" if low else "ArrowLeft")
        end = time.monotonic() + PATIENCE / 1000
        while box.evaluate(SHOWN) == before:
            assert time.monotonic() < end, f"{sheet.name}: widget {number + 1} does not move"
            sheet.page.wait_for_timeout(100)
        box.scroll_into_view_if_needed()
        sheet.shot(f"widget{number + 1}")
    assert not sheet.errors


# What a widget shows beside its controls: a picture and a sentence, or the output of an `interact`.
SHOWN = """box => [...box.querySelectorAll('.rr-picture img, .rr-words, .jp-OutputArea-output')]
  .map(e => e.tagName === 'IMG' ? e.src : e.innerHTML).join('|')"""
