"""Executed notebooks as pages: one HTML file each that reads offline, and the lessons kept in docs/lessons.

A page holds its pictures (in 256 colours, so that it stays small) with a text each, and its formulas as pictures; no
script, no state of a widget, and nothing that is fetched. A lesson's page also holds the hash of the notebook that it
shows, and that of this package, whose sentences, tables and figures stand in it.
"""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrlib.chain.manifest import outputs_root
from rrlib.chain.params import read_cells
from rrlib.disk import hash_text, read_json
from rrlib.errors import InputError, MissingFileError

COMMAND = "make lessons"
"""Makes docs/lessons anew."""

_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)
_FORMULA = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_FIGURE = re.compile(r"""\.figure\(\s*["']([^"']+)["']""")
_VIEW = "application/vnd.jupyter.widget-view+json"
_SOURCE = re.compile(r'<meta name="rrlib-source" content="(\w+)">')
_LESSON = re.compile(r'<meta name="rrlib-lesson" content="(\w+)">')
_PLACE = re.compile(r"(?<![\w.])(?<!:/)/(?:[\w.+-]+/)+(?=(?:outputs|notebooks|rrlib|params)/)")
_STYLE = """\
body { max-width: 60em; margin: 1em auto; padding: 0 1em; background: #fff; color: #000; font: 15px/1.5 sans-serif }
.note { padding: 0.8em 1em; background: #fff3c4 }
.cell { margin: 0.6em 0 }
.prompt { color: #777; font: 11px monospace }
.input_area { background: #f5f5f5; border: 1px solid #ddd; padding: 0 0.8em; overflow-x: auto }
pre, code { font: 13px/1.4 monospace }
.output_area { overflow-x: auto }
.output_area pre { white-space: pre-wrap; overflow-wrap: break-word; font-size: 11.5px }
.anchor-link { display: none }
img { max-width: 100% }
table { border-collapse: collapse; margin: 0.6em 0 }
th, td { padding: 0.2em 0.5em; border-bottom: 1px solid #ddd }
"""
_COLOURS, _WIDEST = 256, 1000  # of a picture in a page: colours and pixels


def export_html(
    notebook: str | Path, folder: str | Path, *, note: str = "", source: str = "", lesson: str = ""
) -> Path:
    """Write an executed notebook as one HTML file: pictures inside, no script, nothing fetched from anywhere.

    note: a sentence for the head of the page. source, lesson: hashes of the notebook that is shown and of rrlib.lesson,
    kept in the page. Widgets are live only in Jupyter; the page says so in their place. Raises MissingFileError, and
    InputError for a file that is no notebook or was not executed.
    """
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    path = Path(notebook)
    content = _executed(path)
    content.metadata.pop("widgets", None)
    heading = path.stem
    for cell in content.cells:
        if cell.cell_type == "markdown":
            heading = (_HEADING.findall(cell.source) or [heading])[-1]
            cell.source = _FORMULA.sub(lambda formula: _formula(formula[1]), cell.source)
        for output in cell.get("outputs", ()):
            _lighten(output, _alternative(cell.source, heading))
    body, _ = HTMLExporter(template_name="basic", embed_images=True).from_notebook_node(content)
    mark = f'<meta name="rrlib-source" content="{source}">' if source else ""
    mark += f'<meta name="rrlib-lesson" content="{lesson}">' if lesson else ""
    head = f'{mark}<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{path.stem}</title>'
    style = _STYLE + re.sub(r" */\*.*?\*/", "", HtmlFormatter().get_style_defs(".highlight"))
    said = f'<p class="note">{html.escape(note)}</p>' if note else ""
    body = _PLACE.sub("", _SCRIPT.sub("", body))
    page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>\n{style}\n</style></head>\n'
    page += f"<body>{said}\n{body}\n</body></html>\n"
    target = Path(folder) / f"{path.stem}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def source_hash(notebook: str | Path) -> str:
    """Hash of a notebook's cells, text and code, without outputs."""
    return hash_text(*(f"{cell['cell_type']}\n{cell['source'].strip()}" for cell in read_cells(Path(notebook))))


def lesson_hash(folder: str | Path | None = None) -> str:
    """Hash of the package rrlib.lesson: its sentences, tables and figures are in the pages. folder: another copy."""
    root = Path(__file__).parent if folder is None else Path(folder)
    files = sorted(root.rglob("*.py"))
    return hash_text(*(f"{path.relative_to(root).as_posix()}\n{path.read_text(encoding='utf-8')}" for path in files))


def build_lessons(run: str, folder: str | Path, *, echo: Callable[[str], None] = print) -> list[Path]:
    """Write every notebook as a page: those of the chain as the finished run executed them, the others executed now.

    run: name of a finished run below outputs/. Raises InputError where a notebook of the run is missing, or is not the
    one in notebooks/, and what an execution raises.
    """
    from rrlib.lesson.copies import lesson_notebooks

    done = outputs_root() / run
    profile = _profile_of(done)
    pages = []
    for notebook in lesson_notebooks():
        executed = done / "notebooks" / notebook.name
        if notebook.stem == "00_tour" or notebook.stem[:2] > "04":
            executed = _execute(notebook, outputs_root() / "lessons" / notebook.name, run, echo)
            made = "its default parameters"
            made += "" if notebook.stem == "00_tour" else f" but for the name of the run: run = {run!r}"
        else:
            _check_same(notebook, executed)
            made = f"the profile {profile}"
        note = (
            f"Notebook {notebook.stem[:2]}, executed with {made}. Widgets are live only in Jupyter. "
            f"Made from notebooks/{notebook.name} by `{COMMAND}`."
        )
        pages.append(export_html(executed, folder, note=note, source=source_hash(notebook), lesson=lesson_hash()))
        echo(f"{pages[-1].name}: {pages[-1].stat().st_size / 1e3:.0f} kB")
    return pages


def out_of_step(folder: str | Path) -> list[str]:
    """A sentence for each notebook whose page is missing in the folder, shows an older notebook, or was made by an
    older rrlib.lesson; none if all fit."""
    from rrlib.lesson.copies import lesson_notebooks

    faults = []
    for notebook in lesson_notebooks():
        page = Path(folder) / f"{notebook.stem}.html"
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        kept, by = _SOURCE.search(text), _LESSON.search(text)
        if kept is None:
            faults.append(f"{page.name} is missing -> {COMMAND}")
        elif kept[1] != source_hash(notebook):
            faults.append(f"{page.name} shows an older notebooks/{notebook.name} -> {COMMAND}")
        elif by is None or by[1] != lesson_hash():
            faults.append(f"{page.name} was made by an older rrlib/lesson -> {COMMAND}")
    return faults


def _executed(path: Path) -> Any:
    """The notebook in a file. Raises as export_html does."""
    import nbformat

    if not path.is_file():
        raise MissingFileError("no such notebook", path=path, remedy="executed ones are in outputs/<run>/notebooks/")
    try:
        content = nbformat.read(path, 4)
    except Exception as error:  # nbformat raises several kinds, some of them json's
        raise InputError(f"not a notebook: {error}", path=path, remedy="give an executed .ipynb") from error
    if not any(cell.get("outputs") for cell in content.cells):
        raise InputError("this notebook has no outputs", path=path, remedy="execute it first: rrlib run, or Jupyter")
    return content


def _alternative(source: str, heading: str) -> str:
    """What a picture is called for who cannot see it: the name that its cell gives it, and the heading above."""
    name = _FIGURE.search(source)
    return f"Figure {name[1]!r} under the heading {heading!r}" if name else f"Figure under the heading {heading!r}"


def _lighten(output: Any, alternative: str) -> None:
    """A widget becomes a sentence, a picture a smaller one with a text, unless it has one."""
    data = output.get("data", {})
    if data.pop(_VIEW, None) is not None:
        data["text/plain"] = "(a widget: open the notebook in Jupyter to move it)"
    if "image/png" in data:
        data["image/png"] = _smaller(data["image/png"])
        output.metadata.setdefault("image/png", {}).setdefault("alt", alternative)


def _smaller(picture: str) -> str:
    """A PNG in base64, in few colours and no wider than a page; as it was where that is smaller. Colours are chosen by
    how far they are apart: by their pixels, thin lines would have none of their own."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    if image.width > _WIDEST:
        image = image.resize((_WIDEST, round(image.height * _WIDEST / image.width)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    coded = base64.b64encode(out.getvalue()).decode("ascii")
    return min(picture, coded, key=len)


def _formula(tex: str) -> str:
    """A formula as a picture, its TeX as the text alternative: a page without scripts cannot set it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    out, flat = io.BytesIO(), " ".join(tex.split())
    math_to_image(f"${flat}$", out, prop=FontProperties(size=14), format="svg")
    coded = base64.b64encode(out.getvalue()).decode("ascii")
    style = "max-width:100%;background:#fff"
    return f'<img alt="{html.escape(flat, quote=True)}" style="{style}" src="data:image/svg+xml;base64,{coded}">'


def _profile_of(run: Path) -> str:
    """The profile that a finished run was made with. Raises InputError where the run is not finished."""
    path = run / "results.json"
    if not path.is_file():
        raise MissingFileError("this run is not finished", path=path, remedy=f"rrlib run it first, or: {COMMAND}")
    rows = read_json(path)
    rows = rows["rows"] if isinstance(rows, dict) else rows
    return str(rows[0]["profile"])


def _check_same(notebook: Path, executed: Path) -> None:
    """Raises InputError where an executed notebook is not the one in notebooks/ (parameters may differ)."""
    if not executed.is_file():
        raise MissingFileError("no executed notebook", path=executed, remedy=f"run the chain first, or: {COMMAND}")
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    ran = [c for c in cells if "injected-parameters" not in c["metadata"].get("tags", [])]
    mine = [cell["source"].strip() for cell in read_cells(notebook)]
    if mine != ["".join(cell["source"]).strip() for cell in ran]:
        raise InputError(f"it is not notebooks/{notebook.name} of today", path=executed, remedy=f"run again: {COMMAND}")


def _execute(notebook: Path, target: Path, run: str, echo: Callable[[str], None]) -> Path:
    """Execute a notebook that no stage reads, with its default parameters; those that share a run's folder name it."""
    from rrlib.chain.papermill_engine import execute

    parameters = {} if notebook.stem == "00_tour" else {"run": run}
    echo(f"{notebook.name}: executing")
    execute(notebook, target, parameters, echo=echo, live=False)
    return target
