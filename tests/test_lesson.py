"""`rrlib lesson`: student copies, never written over anything; `rrlib html`: pages that need only themselves."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from smoke_chain import ROOT, Chain

from rrlib.cli import main
from rrlib.errors import InputError
from rrlib.lesson.copies import MARK, build_lesson, lesson_notebooks, question
from rrlib.lesson.pages import COMMAND, build_lessons, export_html, lesson_hash, out_of_step, source_hash

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


@pytest.fixture
def executed(tmp_path: Path) -> Path:
    """A small executed notebook with a table, a picture and a widget."""
    notebook = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [
        nbformat.v4.new_output("execute_result", {"text/html": "<table><tr><td>0.613</td></tr></table>"}),
        nbformat.v4.new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"}),
        nbformat.v4.new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Panel()"}
        ),
    ]
    notebook.cells = [nbformat.v4.new_markdown_cell("# A title\n\n$x^2$"), cell]
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    path = tmp_path / "executed.ipynb"
    nbformat.write(notebook, path)
    return path


def test_student_copies_have_no_outputs_and_no_solutions(tmp_path: Path) -> None:
    copies = build_lesson(tmp_path / "class")
    assert [copy.name for copy in copies] == [path.name for path in lesson_notebooks()]
    assert not list((tmp_path / "class").rglob("*.py")) and not (tmp_path / "class" / "solutions").exists()
    for copy, original in zip(copies, lesson_notebooks(), strict=True):
        cells = json.loads(copy.read_text(encoding="utf-8"))["cells"]
        assert all(c["outputs"] == [] and c["execution_count"] is None for c in cells if c["cell_type"] == "code")
        theirs = json.loads(original.read_text(encoding="utf-8"))["cells"]
        changed = [(a, b) for a, b in zip(cells, theirs, strict=True) if "".join(a["source"]) != "".join(b["source"])]
        ((ours, before),) = changed  # the parameters cell, where the widgets are turned on
        assert "".join(ours["source"]) == "".join(before["source"]).replace("interactive = False", "interactive = True")
    readme = (tmp_path / "class" / "README.md").read_text(encoding="utf-8")
    assert all(question(path) in readme and path.name in readme for path in lesson_notebooks())


def test_copies_may_stay_without_widgets(tmp_path: Path) -> None:
    for copy, original in zip(build_lesson(tmp_path / "a", interactive=False), lesson_notebooks(), strict=True):
        assert json.loads(copy.read_text()) == json.loads(original.read_text())


def test_nothing_of_a_student_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("my work")
    assert main(["lesson", str(tmp_path)]) == 2
    assert main(["lesson", str(tmp_path), "--fresh"]) == 2
    assert main(["lesson", str(tmp_path / "mine.txt")]) == 2
    assert (tmp_path / "mine.txt").read_text() == "my work"


def test_a_lesson_is_put_away_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "class"
    assert main(["lesson", str(folder)]) == 0
    (folder / "00_tour.ipynb").write_text("edited")
    assert main(["lesson", str(folder)]) == 2
    assert "--fresh" in capsys.readouterr().err and (folder / "00_tour.ipynb").read_text() == "edited"
    assert main(["lesson", str(folder), "--fresh", "--no-interactive"]) == 0
    assert (folder / MARK).is_file() and (folder / "00_tour.ipynb").read_text() != "edited"


def test_a_page_holds_everything_and_fetches_nothing(executed: Path, tmp_path: Path) -> None:
    assert main(["html", str(executed), "--output", str(tmp_path / "pages")]) == 0
    page = (tmp_path / "pages" / "executed.html").read_text(encoding="utf-8")
    assert "A title" in page and "0.613" in page and PNG in page.replace("\n", "")
    assert "a widget: open the notebook in Jupyter" in page
    assert "<script" not in page and not re.search(r"""(src|href)\s*=\s*["']https?:""", page)
    assert not re.search(r"@import|url\(\s*['\"]?https?:", page)


@pytest.mark.parametrize(
    "content", [None, "no notebook", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}']
)
def test_what_is_no_executed_notebook_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.ipynb"
    if content is not None:
        path.write_text(content)
    assert main(["html", str(path), "--output", str(tmp_path)]) == 2
    with pytest.raises(ValueError, match=r"-> "):
        export_html(path, tmp_path)


def test_the_executed_chain_reads_offline(chain: Chain, tmp_path: Path) -> None:
    for notebook in sorted((chain.run / "notebooks").glob("*.ipynb")):
        page = export_html(notebook, tmp_path).read_text(encoding="utf-8")
        assert page.count("data:image/png;base64,") >= 1 and "<script" not in page
        assert not re.search(r"""(src|href)\s*=\s*["']https?:""", page)
        assert len(page) < 3_000_000


LESSONS = ROOT / "docs" / "lessons"


def test_every_lesson_shows_the_notebook_of_today() -> None:
    """If this fails, run the command that it names: a notebook was changed and its page was not."""
    assert out_of_step(LESSONS) == []


@pytest.mark.parametrize("page", sorted(LESSONS.glob("*.html")), ids=lambda page: page.stem)
def test_a_lesson_is_light_says_how_it_was_made_and_names_no_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 1_000_000
    made = "the profile miniature" if "01" <= page.stem[:2] <= "04" else "its default parameters"
    assert f"Notebook {page.stem[:2]}, executed with {made}" in text
    assert (
        "<script" not in text
        and "widget-state" not in text
        and not re.search(r"""(src|href)\s*=\s*["']https?:""", text)
    )
    shown = re.sub(r"data:image/[^\"']+", "", text)
    assert not re.search(r"/(root|tmp|home|work|Users)/", shown) and "Traceback" not in shown
    if page.stem == "03_rl":
        assert text.count('alt="') >= 5 and "$$" not in text  # formulas are pictures with their TeX beside them


def test_a_page_that_is_missing_or_old_is_named_with_the_command(tmp_path: Path) -> None:
    pages = [path.stem for path in lesson_notebooks()]
    for name in pages[1:]:
        kept = source_hash(lesson_notebooks()[pages.index(name)]) if name != pages[1] else "0"
        by = lesson_hash() if name != pages[2] else "0"
        metas = f'<meta name="rrlib-source" content="{kept}"><meta name="rrlib-lesson" content="{by}">'
        (tmp_path / f"{name}.html").write_text(f"<head>{metas}")
    missing, old, words = out_of_step(tmp_path)
    assert missing == f"{pages[0]}.html is missing -> {COMMAND}"
    assert old == f"{pages[1]}.html shows an older notebooks/{pages[1]}.ipynb -> {COMMAND}"
    assert words == f"{pages[2]}.html was made by an older rrlib/lesson -> {COMMAND}"


def test_a_changed_sentence_of_the_lesson_makes_a_page_old(tmp_path: Path) -> None:
    """Sentences, tables and figures of a page come from rrlib.lesson: a page keeps the hash of its sources."""
    copy = tmp_path / "lesson"
    shutil.copytree(ROOT / "rrlib" / "lesson", copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert lesson_hash(copy) == lesson_hash()
    for name in ("sentences.py", "plots/tour.py"):
        before = lesson_hash(copy)
        text = (copy / name).read_text(encoding="utf-8")
        (copy / name).write_text(text + "# another word\n", encoding="utf-8")
        assert lesson_hash(copy) != before


def test_a_lesson_names_the_one_parameter_that_it_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executed: Path
) -> None:
    notebooks = [path for path in lesson_notebooks() if path.stem[:2] in ("00", "05")]
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "results.json").write_text('{"rows": [{"profile": "small"}]}')
    monkeypatch.setattr("rrlib.lesson.copies.lesson_notebooks", lambda: notebooks)
    monkeypatch.setattr("rrlib.lesson.pages._execute", lambda notebook, *_: _copied(executed, tmp_path, notebook))
    tour, ablations = build_lessons("small", tmp_path / "pages", echo=lambda _: None)
    assert "executed with its default parameters. " in tour.read_text(encoding="utf-8")
    text = ablations.read_text(encoding="utf-8")
    assert "executed with its default parameters but for the name of the run: run = &#x27;small&#x27;. " in text
    assert f'<meta name="rrlib-lesson" content="{lesson_hash()}">' in text


def _copied(executed: Path, folder: Path, notebook: Path) -> Path:
    (folder / notebook.name).write_bytes(executed.read_bytes())
    return folder / notebook.name


def test_formulas_pictures_and_places_in_a_page(executed: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(executed, 4)
    notebook.cells.append(nbformat.v4.new_markdown_cell(r"$$A_i = \frac{R_i}{2}$$"))
    notebook.cells[1].outputs.append(nbformat.v4.new_output("stream", text="/a/deep/outputs/smoke/x.json"))
    nbformat.write(notebook, executed)
    page = export_html(executed, tmp_path, note="Made <here>.", source="abc").read_text(encoding="utf-8")
    assert 'src="data:image/svg+xml;base64,' in page and r'alt="A_i = \frac{R_i}{2}"' in page and "$$" not in page
    assert "Made &lt;here&gt;." in page and '<meta name="rrlib-source" content="abc">' in page
    assert "/a/deep" not in page and "outputs/smoke/x.json" in page


def test_lessons_are_made_of_a_finished_run_of_todays_notebooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executed: Path
) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    with pytest.raises(InputError, match=f"not finished -> .*{COMMAND}"):
        build_lessons("smoke", tmp_path / "pages", echo=lambda _: None)
    folder = tmp_path / "smoke" / "notebooks"
    folder.mkdir(parents=True)
    (tmp_path / "smoke" / "results.json").write_text('{"rows": [{"profile": "smoke"}]}')
    monkeypatch.setattr("rrlib.lesson.pages._execute", lambda *_: executed)
    with pytest.raises(InputError, match="no executed notebook"):
        build_lessons("smoke", tmp_path / "pages", echo=lambda _: None)
    (folder / "01_synthesis.ipynb").write_bytes(executed.read_bytes())
    with pytest.raises(InputError, match=r"not notebooks/01_synthesis\.ipynb of today"):
        build_lessons("smoke", tmp_path / "pages", echo=lambda _: None)


@pytest.mark.parametrize("arguments", [[], ["a.ipynb", "--run", "smoke"], ["--api", "--run", "smoke"]])
def test_pages_are_of_notebooks_or_of_a_run(arguments: list[str]) -> None:
    assert main(["html", *arguments]) == 2


def test_the_repository_stays_small() -> None:
    """Under 25 MB without what git ignores: checkpoints of the miniature, stored results and all."""
    total = 0
    for folder, folders, files in os.walk(ROOT):
        ignored = {"outputs", "build", "dist", "__pycache__"}
        folders[:] = [name for name in folders if not name.startswith(".") and name not in ignored]
        total += sum((Path(folder) / name).stat().st_size for name in files)
    assert total < 25_000_000, f"{total / 1e6:.1f} MB"
