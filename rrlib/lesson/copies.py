"""What a class takes home: student copies of the notebooks, and executed notebooks as pages that read offline.

Student copies have no outputs and no solutions, show their widgets, and run wherever the library is installed, since
paths come from the library. A folder that holds anything else is never written into.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrlib.chain.params import read_cells
from rrlib.disk import write_json
from rrlib.errors import InputError, MissingFileError
from rrlib.resources import repository

MARK = "LESSON.json"
"""In every folder that `build_lesson` made; only such a folder is ever written over."""

_QUESTION = re.compile(r"\*\*The one question:\*\*\s*(.+?)\n\s*\n", re.DOTALL)
_SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE)
_VIEW = "application/vnd.jupyter.widget-view+json"


def lesson_notebooks(root: Path | None = None) -> list[Path]:
    """The numbered notebooks, in the order of the lesson."""
    folder = (root or repository()) / "notebooks"
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def build_lesson(folder: str | Path, *, fresh: bool = False, interactive: bool = True) -> list[Path]:
    """Write student copies of all notebooks, and a README.md that lists them; returns the copies.

    fresh: put away an older lesson in that folder first. interactive: the copies show their widgets.
    Raises InputError when the folder holds files: work of students is not written over.
    """
    target = Path(folder)
    if target.is_file():
        raise InputError("this is a file", path=target, remedy="name a folder")
    if target.is_dir() and any(target.iterdir()):
        if not (target / MARK).is_file():
            raise InputError("this folder holds other files", path=target, remedy="name a new or empty folder")
        if not fresh:
            raise InputError("a lesson is there already", path=target, remedy="name another folder, or give --fresh")
        shutil.rmtree(target)
    target.mkdir(parents=True, exist_ok=True)
    copies, lines = [], []
    for path in lesson_notebooks():
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            _prepare(cell, interactive)
        copy = target / path.name
        copy.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        copies.append(copy)
        lines.append(f"| `{path.name}` | {question(path)} |")
    (target / "README.md").write_text(_readme(lines), encoding="utf-8")
    write_json(target / MARK, {"notebooks": [copy.name for copy in copies], "interactive": interactive})
    return copies


def question(path: Path) -> str:
    """The one question of a notebook, on one line, without marks of emphasis. Raises InputError where it has none."""
    stated = _QUESTION.search(read_cells(path)[0]["source"] + "\n\n")
    if stated is None:
        raise InputError("the first cell does not state the one question", path=path, remedy="see docs/teaching.md")
    return " ".join(stated[1].replace("*", "").split())


def _prepare(cell: dict[str, Any], interactive: bool) -> None:
    if cell["cell_type"] != "code":
        return
    cell["outputs"], cell["execution_count"] = [], None
    if interactive and "parameters" in cell["metadata"].get("tags", []):
        source = "".join(cell["source"])
        cell["source"] = re.sub(r"^interactive = False\b", "interactive = True", source, flags=re.MULTILINE)


def _readme(lines: Sequence[str]) -> str:
    return "\n".join(
        [
            "# A reranker that thinks: the lesson",
            "",
            "Open a notebook with `jupyter lab`, press run-all, and read from the top. At each **Predict**, stop and",
            "answer before you look further down. The cell after an exercise says whether your solution holds.",
            "",
            "| notebook | its one question |",
            "|---|---|",
            *lines,
            "",
        ]
    )


def export_html(notebook: str | Path, folder: str | Path) -> Path:
    """Write an executed notebook as one HTML file: pictures inside, no script, nothing fetched from anywhere.

    Widgets are live only in Jupyter; the page says so in their place. Raises MissingFileError, and InputError for a
    file that is no notebook or was not executed.
    """
    import nbformat
    from nbconvert import HTMLExporter

    source = Path(notebook)
    if not source.is_file():
        raise MissingFileError("no such notebook", path=source, remedy="executed ones are in outputs/<run>/notebooks/")
    try:
        content = nbformat.read(source, 4)
    except Exception as error:  # nbformat raises several kinds, some of them json's
        raise InputError(f"not a notebook: {error}", path=source, remedy="give an executed .ipynb") from error
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    if not any(cell.get("outputs") for cell in code):
        raise InputError("this notebook has no outputs", path=source, remedy="execute it first: rrlib run, or Jupyter")
    content.metadata.pop("widgets", None)
    for cell in code:
        for output in cell.outputs:
            if output.get("data", {}).pop(_VIEW, None) is not None:
                output.data["text/plain"] = "(a widget: open the notebook in Jupyter to move it)"
    body, _ = HTMLExporter(template_name="lab", embed_images=True).from_notebook_node(content)
    target = Path(folder) / f"{source.stem}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(_SCRIPT.sub("", body), encoding="utf-8")
    return target
