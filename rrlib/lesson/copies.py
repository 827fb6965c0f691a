"""What a class takes home: student copies of the notebooks.

Student copies have no outputs and no solutions, show their widgets, and run wherever the library is installed, since
paths come from the library. A folder that holds anything else is never written into.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rrlib.chain.params import read_cells
from rrlib.disk import write_json
from rrlib.errors import InputError
from rrlib.resources import repository

MARK = "LESSON.json"
"""In every folder that `build_lesson` made; only such a folder is ever written over."""

_QUESTION = re.compile(r"\*\*The one question:\*\*\s*(.+?)\n\s*\n", re.DOTALL)


def lesson_notebooks(root: Path | None = None) -> list[Path]:
    """The numbered notebooks, in the order of the lesson."""
    folder = (root or repository()) / "notebooks"
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def build_lesson(
    folder: str | Path, *, fresh: bool = False, interactive: bool = True, echo: Callable[[str], object] = print
) -> list[Path]:
    """Write student copies of all notebooks, and a README.md that lists them; returns the copies.

    fresh: put away an older lesson in that folder first: it is renamed, not deleted (`class` to `class.1`, or the next
    number that is free), and echo is told so. interactive: the copies show their widgets.
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
        target = target.resolve()  # a folder that is named `.` is another one when it is renamed
        echo(f"the lesson that was in {target} is now in {_put_away(target)}")
    target.mkdir(parents=True, exist_ok=True)
    notebooks = lesson_notebooks()
    # The mark comes first, so that a lesson that was broken off is known as one.
    write_json(target / MARK, {"notebooks": [path.name for path in notebooks], "interactive": interactive})
    copies, lines = [], []
    for path in notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            _prepare(cell, interactive)
        copy = target / path.name
        copy.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        copies.append(copy)
        lines.append(f"| `{path.name}` | {question(path)} |")
    (target / "README.md").write_text(_readme(lines), encoding="utf-8")
    return copies


def _put_away(folder: Path) -> Path:
    """Rename a folder to the first free one of `<folder>.1`, `<folder>.2`, ...; returns its new place."""
    aside = next(place for n in count(1) if not (place := folder.with_name(f"{folder.name}.{n}")).exists())
    try:
        return folder.rename(aside)
    except OSError as error:
        remedy = "name another folder for the new lesson"
        raise InputError(f"it cannot be renamed: {error.strerror or error}", path=folder, remedy=remedy) from error


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
