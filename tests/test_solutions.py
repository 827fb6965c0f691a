"""Every exercise has a solution in notebooks/solutions/, checked by the notebook's own check cell; every stub fails it.

A check cell is the code that calls `check_exercise`. Its cases are built here from the cell itself: plain assignments
are executed as far as they need nothing that only a run of the notebook has.
"""

from __future__ import annotations

import ast
import json
import random
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrlib.evaluation.significance import paired_test
from rrlib.lesson.exercises import answered_by, check_exercise
from rrlib.lesson.explain import by_labels
from rrlib.metrics import rbo
from rrlib.prompts import format_response
from rrlib.responses import parse_lenient
from rrlib.strategies import drive, plan, sliding_spans, sliding_window
from rrlib.synthesis.filter import self_consistency
from rrlib.training.config import GRPOSettings
from rrlib.training.objective import advantages, policy_loss

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


@cache
def imported(path: Path) -> dict[str, Any]:
    """The names that the notebook's imports bring."""
    names: dict[str, Any] = {}
    for cell in code_cells(path):
        if all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(cell["source"]).body):
            exec(compile(cell["source"], path.name, "exec"), names)
    return names


def checks(path: Path) -> dict[str, tuple[ast.expr, dict[str, Any]]]:
    """Function name -> (the cases as an expression, the names it may use) of every call of `check_exercise`."""
    found = {}
    for cell in (cell for cell in code_cells(path) if "print(check_exercise(" in cell["source"]):
        names = dict(imported(path))
        tree = ast.parse(cell["source"])
        for statement in tree.body:
            if isinstance(statement, ast.Import | ast.ImportFrom | ast.Assign):
                try:
                    exec(compile(ast.Module([statement], []), path.name, "exec"), names)
                except NameError:
                    continue  # needs what only a run of the notebook has
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check_exercise":
                assert isinstance(node.args[0], ast.Name) and len(node.args) == 2 and not node.keywords
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
    assert (ast.get_docstring(tree) or "").startswith(
        (f"Solutions of the exercises in {path.stem[:2]}", f"Solution of the exercise in {path.stem[:2]}")
    )
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
    for _, expected, *_ in eval(compile(ast.Expression(cases), "cases", "eval"), names):
        constant = lambda *_, value=expected: value  # noqa: E731
        assert verdict(constant, cases, names).startswith("not yet:")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_three_exercises_of_growing_size_the_last_a_part_of_the_method(path: Path) -> None:
    solution = path.parent / "solutions" / f"{path.stem}.py"
    bodies = {n.name: n.body for n in ast.parse(solution.read_text("utf-8")).body if isinstance(n, ast.FunctionDef)}
    sizes = [
        sum(1 for part in bodies[name] for node in ast.walk(part) if isinstance(node, ast.stmt)) for name in stubs(path)
    ]
    assert len(sizes) == 3 and sizes == sorted(sizes)
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"## Exercise (\d)(, a part of the method)?: ", text)
    assert titles == [("1", ""), ("2", ""), ("3", ", a part of the method")]


# --- the parts of the method, against the library on drawn inputs -----------------------------------------------------
def solutions(stem: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "notebooks" / "solutions" / f"{stem}.py"))


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_of_the_method_are_those_of_the_library(seed: int) -> None:
    draw = random.Random(seed)
    size, n = draw.randint(2, 12), draw.randint(2, 40)
    stride, k = draw.randint(1, size), draw.randint(1, size)
    labels = [draw.choice([0, 0, 1, 2]) for _ in range(n)]
    gold = draw.sample(range(size), size)
    tour, evaluation = solutions("00_tour"), solutions("04_evaluation")
    assert tour["calls"](n, size, stride) == len(sliding_spans(n, size, stride))
    final = drive(sliding_window(n, size, stride), by_labels(labels))
    assert evaluation["slide"](labels, size, stride) == list(final)
    text = " > ".join(f"[{draw.randint(0, size + 2)}]" for _ in range(draw.randint(1, size)))
    read = parse_lenient(f"<think> </think> <answer> {text} </answer>", size)
    assert tour["read_order"](text, size) == list(read.order)
    near = solutions("01_synthesis")["consistency"](gold, (labels * size)[:size], k)
    assert near == pytest.approx(self_consistency(gold, (labels * size)[:size], k))
    assert solutions("02_sft")["written"]("So yes.", gold) == format_response("So yes.", gold)
    rewards = [draw.choice([-1.0, 0.0, 0.7, 1.3]) for _ in range(size)]
    order = draw.sample(range(size), size)
    ablations, efficiency = solutions("05_ablations"), solutions("06_efficiency")
    assert ablations["overlap"](order, gold) == pytest.approx(rbo(order, gold))
    gaps = [draw.uniform(-0.4, 0.6) for _ in range(min(size, 9))]
    assert ablations["flip_p"](gaps) == pytest.approx(paired_test(gaps, [0.0] * len(gaps), seed))
    cost = plan(lambda m: sliding_window(m, size, stride), n)
    assert efficiency["pass_cost"](n, size, stride) == [cost.calls, cost.shown]
    assert solutions("03_rl")["group_advantages"](rewards) == pytest.approx(list(advantages(np.array(rewards))))


@pytest.mark.parametrize("seed", range(5))
def test_the_losses_are_those_that_are_trained(seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    logprobs, labels = torch.randn(9, 4).log_softmax(-1), torch.randint(0, 4, (9,))
    labels[:3] = -100
    trained = torch.nn.functional.cross_entropy(logprobs[:-1], labels[1:])
    assert solutions("02_sft")["row_loss"](logprobs.tolist(), labels.tolist()) == pytest.approx(
        float(trained), abs=1e-5
    )
    ratios, advantage = torch.rand(1, 6) * 2 + 0.1, torch.randn(1)
    settings = GRPOSettings(clip=0.2)
    losses = policy_loss(ratios.log(), torch.zeros(1, 6), advantage, settings)[0].tolist()
    ours = [solutions("03_rl")["token_loss"](ratio, float(advantage[0]), 0.2) for ratio in ratios[0].tolist()]
    assert ours == pytest.approx(losses, abs=1e-5) and max(ratios[0].tolist()) < settings.dual_clip


def test_no_notebook_shows_a_solution() -> None:
    for path in NOTEBOOKS:
        solution = path.parent / "solutions" / f"{path.stem}.py"
        if solution.is_file():
            bodies = re.findall(r"return (.{12,})", solution.read_text(encoding="utf-8"))
            assert bodies and not any(body in path.read_text(encoding="utf-8") for body in bodies)


# --- what a check says ------------------------------------------------------------------------------------------------
WRONG = [
    (lambda: 3.0, 2.0, "gives 3.0, too much; hint: look again (0 of 1 cases hold before it)"),
    (lambda: 2.0, 4.0, "gives 2.0, too little; hint: look again"),
    (lambda: "x", 2.0, "gives 'x', a number is wanted"),
    (lambda: [1], 2.0, "gives [1], a number is wanted"),
    (lambda: float("nan"), 2.0, "gives nan, a number is wanted"),
    (lambda: 3, [1, 2], "gives 3, a list is wanted"),
    (lambda: [1], [1, 2], "gives [1], fewer entries than are wanted"),
    (lambda: (1, 2, 3), [1, 2], "gives [1, 2, 3], more entries than are wanted"),
    (lambda: [1, 3], (1, 2), "gives [1, 3], of which entry 1 is wrong: too much"),
    (lambda: "<a>", "<b>", "gives '<a>', another text is wanted"),
    (lambda: 1 / 0, 2.0, "raises ZeroDivisionError: "),
]


@pytest.mark.parametrize(("function", "expected", "words"), WRONG)
def test_a_check_says_where_and_never_what_is_wanted(function: Any, expected: Any, words: str) -> None:
    said = check_exercise(function, [((), expected, "look again")])
    assert said.startswith("not yet: <lambda>() ") and words in said
    assert not isinstance(expected, float | str) or repr(expected) not in said


def test_cases_of_a_function_of_the_library_hold_for_it_and_count() -> None:
    cases = answered_by(max, {"the larger one": (1, 2), "either": (3, 3)})
    assert cases == [((1, 2), 2, "the larger one"), ((3, 3), 3, "either")]
    assert check_exercise(max, cases) == "right: all 2 cases hold"
    assert "(1 of 2 cases hold before it)" in check_exercise(lambda a, b: 2, cases)
