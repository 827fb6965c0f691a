"""The rules of the notebooks: lessons that read alike from the first to the last, and run on any machine."""

from __future__ import annotations

import ast
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from rrlib.chain.from_profile import read_parameters
from rrlib.chain.params import STAGES, declared_parameters

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
UNITS = re.compile(r"[A-Za-z(]{2,}")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
        cell["tags"] = cell["metadata"].get("tags", [])
    return notebook


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def texts(path: Path) -> list[str]:
    return [cell["source"] for cell in read(path)["cells"] if cell["cell_type"] == "markdown"]


def lines_of(source: str) -> int:
    return sum(1 for line in source.splitlines() if line.strip() and not line.strip().startswith("#"))


def test_every_stage_has_its_notebook(path: Path) -> None:
    assert set(STAGES) <= {p.stem for p in NOTEBOOKS}


def test_it_is_stripped_and_its_kernel_is_python3(path: Path) -> None:
    notebook = read(path)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert set(notebook["metadata"]) <= {"kernelspec", "jupytext"}
    for cell in code_cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}


def test_it_begins_with_title_question_data_kind_and_minutes(path: Path) -> None:
    first = texts(path)[0]
    assert first.startswith(f"# {path.stem[:2]} ")
    for word in ("**The one question:**", "**Data:**", "**Time:**"):
        assert word in first
    assert re.search(r"synthetic|simulated|real", first) and "CPU" in first
    assert read(path)["cells"][0]["cell_type"] == "markdown"


def test_cells_are_short(path: Path) -> None:
    sizes = [lines_of(cell["source"]) for cell in code_cells(path) if "parameters" not in cell["tags"]]
    assert statistics.median(sizes) <= 6
    assert max(sizes) <= 25


def test_text_keeps_step_with_code(path: Path) -> None:
    assert len(texts(path)) >= 0.7 * len(code_cells(path))


def test_definitions_stand_in_exercises_only(path: Path) -> None:
    exercises = 0
    for cell in code_cells(path):
        found = [n for n in ast.walk(ast.parse(cell["source"])) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        assert not found or "exercise" in cell["tags"], cell["source"]
        exercises += "exercise" in cell["tags"]
    assert exercises >= 1


def test_parameters_are_literals_with_a_comment_that_states_the_unit(path: Path) -> None:
    declared = declared_parameters(path)
    assert {"run", "seed", "interactive"} <= set(declared)
    assert declared["interactive"].default is False
    for parameter in declared.values():
        assert len(UNITS.findall(parameter.comment)) >= 2, f"{parameter.name}: {parameter.comment!r}"


def test_every_parameter_is_used(path: Path) -> None:
    code = "\n".join(cell["source"] for cell in code_cells(path) if "parameters" not in cell["tags"])
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    declared = declared_parameters(path)
    reached_by_config = {"run", "seed", "interactive"} | read_parameters(path.stem, declared)
    assert set(declared) - names <= reached_by_config


def test_parameters_come_before_config_and_stage(path: Path) -> None:
    cells = code_cells(path)
    tagged = next(i for i, cell in enumerate(cells) if "parameters" in cell["tags"])
    assert f'config = collect("{path.stem}", globals())' in cells[tagged + 1]["source"]
    assert all(re.match(r"import |from ", cell["source"]) for cell in cells[:tagged])


def test_it_asks_before_it_shows_and_says_what_to_see(path: Path) -> None:
    text = "\n".join(texts(path))
    assert text.count("**Predict:**") >= 2
    assert "What to see:" in text
    assert "## Exercise" in text and "<details><summary>Hint</summary>" in text


def test_widgets_wait_for_interactive(path: Path) -> None:
    for cell in code_cells(path):
        if "ipywidgets" in cell["source"]:
            assert cell["source"].startswith("if interactive:\n")


def test_it_ends_with_asserts_and_finish(path: Path) -> None:
    last = code_cells(path)[-1]["source"]
    assert "assert " in last and "stage.finish(" in last


def test_it_names_no_place_of_one_machine(path: Path) -> None:
    for suffix in (".ipynb", ".py"):
        text = path.with_suffix(suffix).read_text(encoding="utf-8")
        assert not re.search(r"""["'(\s]/(home|root|tmp|work|Users|mnt|data)\b""", text)
        assert not re.search(r"\b[A-Z]:\\\\", text)
        assert "os.chdir" not in text and "sys.path" not in text and "../" not in text


def test_the_paired_copy_is_in_step(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    paired = jupytext.read(path.with_suffix(".py"))
    ours = [(c["cell_type"], c["source"], c["tags"]) for c in read(path)["cells"]]
    theirs = [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in paired.cells]
    assert ours == theirs, "run: jupytext --sync notebooks/*.ipynb"


def test_it_parses_and_imports_only_what_the_environment_has(path: Path) -> None:
    allowed = {"rrlib", "pandas", "numpy", "ipywidgets", "inspect", "matplotlib"}
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell["source"])):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {module.split(".")[0] for module in modules} <= allowed


# --- the order of the cells (what a reader may rely on in every notebook) --------------------------------------------


def kinds(path: Path) -> list[str]:
    """What each cell is for, in order; text cells are `text`."""
    found = []
    for cell in read(path)["cells"]:
        source = cell["source"]
        if cell["cell_type"] == "markdown":
            kind = "title" if source.startswith("# ") else "exercise text" if "## Exercise" in source else "text"
        elif {"parameters", "exercise"} & set(cell["tags"]):
            kind = next(tag for tag in ("parameters", "exercise") if tag in cell["tags"])
        elif all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(source).body):
            kind = "imports"
        elif "config = collect(" in source:
            kind = "config"
        elif source.startswith("if interactive:"):
            kind = "widget"
        elif "check_exercise(" in source:
            kind = "check"
        elif "stage.finish(" in source:
            kind = "finish"
        else:
            kind = "figure" if "stage.figure(" in source else "code"
        found.append(kind)
    return found


def test_the_cells_come_in_the_order_of_the_house(path: Path) -> None:
    order = kinds(path)
    for kind in ("title", "imports", "parameters", "config", "finish"):
        assert order.count(kind) == 1, f"{order.count(kind)} cells are {kind}"
    places = [order.index(kind) for kind in ("title", "imports", "parameters", "config", "exercise", "check", "finish")]
    assert places == sorted(places)
    assert places[0] == 0 and places[-1] == len(order) - 1
    assert {"code", "figure", "widget"}.isdisjoint(order[: order.index("config")])


def test_an_exercise_is_text_then_stub_then_check(path: Path) -> None:
    order, cells = kinds(path), read(path)["cells"]
    for i, kind in enumerate(order):
        if kind == "exercise":
            assert order[i - 1] == "exercise text" and order[i + 1] == "check"
            assert "Hint</summary>" in cells[i - 1]["source"]
            (stub,) = ast.parse(cells[i]["source"]).body
            assert isinstance(stub, ast.FunctionDef) and ast.get_docstring(stub)
            assert ast.unparse(stub.body[-1]) == "return None" and len(stub.body) == 2
            assert stub.name in cells[i + 1]["source"]


def test_a_figure_is_asked_for_and_spoken_about(path: Path) -> None:
    """In the section of each figure there is a question before it, or a text right behind it that says what to see."""
    cells, order = read(path)["cells"], kinds(path)
    for i, kind in enumerate(order):
        if kind != "figure":
            continue
        start = max(j for j in range(i) if cells[j]["source"].startswith("## "))
        asked = any(
            "**Predict:**" in cells[j]["source"] for j in range(start, i) if cells[j]["cell_type"] == "markdown"
        )
        told = [cells[j] for j in range(i + 1, min(i + 3, len(cells))) if cells[j]["cell_type"] == "markdown"]
        assert asked or told, cells[i]["source"]


def test_a_widget_comes_behind_something_that_a_page_can_show(path: Path) -> None:
    order = kinds(path)
    for i, kind in enumerate(order):
        if kind == "widget":
            assert {"figure", "code"} & set(order[order.index("config") + 1 : i])


def test_questions_keep_step_with_results(path: Path) -> None:
    figures = kinds(path).count("figure")
    questions = sum(text.count("**Predict:**") for text in texts(path))
    assert questions >= max(2, figures / 2), f"{questions} questions for {figures} figures"


def test_imports_stand_in_one_place(path: Path) -> None:
    for cell in code_cells(path):
        late = [n for n in ast.walk(ast.parse(cell["source"])) if isinstance(n, ast.Import | ast.ImportFrom)]
        whole = all(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.parse(cell["source"]).body)
        assert not late or whole or cell["source"].startswith("if interactive:"), cell["source"]


def test_cell_ids_are_unique(path: Path) -> None:
    ids = [cell["id"] for cell in read(path)["cells"]]
    assert len(set(ids)) == len(ids) and all(ids)


def test_a_notebook_is_small_before_it_runs(path: Path) -> None:
    assert path.stat().st_size < 60_000
