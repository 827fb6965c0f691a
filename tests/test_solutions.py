"""Every exercise has a solution in notebooks/solutions/, checked by the notebook's own check cell; every stub fails it.

A check cell is the code that calls `check_exercise`. Its cases are built here from the cell itself: plain assignments
are executed as far as they need nothing that only a run of the notebook has.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from rrlib.lesson.exercises import check_exercise

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


def stubs(path: Path) -> dict[str, str]:
    """Function name -> source of its exercise cell."""
    found = {}
    for cell in code_cells(path):
        if "exercise" in cell["metadata"].get("tags", []):
            names = [node.name for node in ast.parse(cell["source"]).body if isinstance(node, ast.FunctionDef)]
            assert len(names) == 1, f"{path.stem}: an exercise cell defines one function, this one {names}"
            found[names[0]] = cell["source"]
    return found


def checks(path: Path) -> dict[str, tuple[ast.expr, dict[str, Any]]]:
    """Function name -> (the cases as an expression, the names it may use) of every call of `check_exercise`."""
    found = {}
    for cell in code_cells(path):
        names: dict[str, Any] = {}
        tree = ast.parse(cell["source"])
        for statement in tree.body:
            if isinstance(statement, ast.Import | ast.ImportFrom | ast.Assign):
                try:
                    exec(compile(ast.Module([statement], []), path.name, "exec"), names)
                except NameError:
                    continue  # needs what only a run of the notebook has
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check_exercise":
                assert isinstance(node.args[0], ast.Name) and len(node.args) == 2
                found[node.args[0].id] = (node.args[1], names)
    return found


def verdict(function: Any, cases: ast.expr, names: dict[str, Any]) -> str:
    made = eval(compile(ast.Expression(cases), "cases", "eval"), names)
    assert len(made) >= 2, "one case can be met by a constant"
    return check_exercise(function, made)


EXERCISES = [(path, name) for path in NOTEBOOKS for name in stubs(path)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_an_exercise_and_one_file_of_solutions(path: Path) -> None:
    assert stubs(path), "every numbered notebook has an exercise"
    solution = path.parent / "solutions" / f"{path.stem}.py"
    assert solution.is_file(), f"write {solution.relative_to(ROOT)}: a docstring, and one function for each exercise"
    tree = ast.parse(solution.read_text(encoding="utf-8"))
    assert (ast.get_docstring(tree) or "").startswith(f"Solution of the exercise in {path.stem[:2]}")
    assert {n.name for n in tree.body if isinstance(n, ast.FunctionDef)} == set(stubs(path))


@pytest.mark.parametrize(("path", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_the_solution_passes_the_check_and_the_stub_does_not(path: Path, name: str) -> None:
    cases, names = checks(path)[name]
    solved = runpy.run_path(str(path.parent / "solutions" / f"{path.stem}.py"))[name]
    assert verdict(solved, cases, names).startswith("right:")
    stub: dict[str, Any] = {}
    exec(compile(stubs(path)[name], path.name, "exec"), stub)
    assert verdict(stub[name], cases, names).startswith("not solved yet:")
    assert (stub[name].__doc__ or "") == (solved.__doc__ or ""), "the solution answers the question of the stub"


@pytest.mark.parametrize(("path", "name"), EXERCISES, ids=lambda value: getattr(value, "stem", value))
def test_no_constant_passes_the_check(path: Path, name: str) -> None:
    cases, names = checks(path)[name]
    for _, expected in eval(compile(ast.Expression(cases), "cases", "eval"), names):
        constant = lambda *_, value=expected: value  # noqa: E731
        assert verdict(constant, cases, names).startswith("not yet:")


def test_no_notebook_shows_a_solution() -> None:
    for path in NOTEBOOKS:
        solution = path.parent / "solutions" / f"{path.stem}.py"
        if solution.is_file():
            bodies = re.findall(r"return (.+)", solution.read_text(encoding="utf-8"))
            assert bodies and not any(body in path.read_text(encoding="utf-8") for body in bodies)
