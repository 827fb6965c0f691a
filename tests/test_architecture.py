"""The house: floors, no circles, a map that names every room, and sizes that can be read.

Only the sources are read here (parsed, not imported). That the package itself is light, and how quick `--help` is, is
held in tests/test_cli.py.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rrlib"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "types"),
    ("disk", "notebook", "patches", "gguf", "lora", "checkpoints", "resources", "doctor"),
    ("formats", "metrics", "templates", "prompts", "pieces", "reading", "responses", "strategies", "sampling"),
    ("reward", "records", "ranking", "outcome", "retrieval"),
    ("engines",),
    ("continuation", "jobs", "logged", "scheduler", "rerank"),
    ("synthesis", "training", "evaluation", "miniature"),
    ("plans",),
    ("chain",),
    ("studies",),
    ("lesson",),
    ("adapters", "serve", "cli", "__main__"),
)
"""The rooms of rrlib (files and folders), from the ground up. A room may import what stands on lower floors and, on its
own floor, what stands before it. docs/architecture.md draws the same."""

DOOR = "rrlib"
"""`rrlib/__init__.py` stands outside the floors: it hands out names of any room, and looks each up on first use."""

FURNITURE = {"miniature": {"cli.miniature", "cli.demo"}}
"""Rooms that are reached by reference, as any other corpus, teacher or checkpoint is, and who may import them still."""


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package, by its name without `rrlib.`; the package itself is `rrlib`."""
    parsed = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        parsed[name or DOOR] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


def named_by(node: ast.AST) -> list[str]:
    """The modules of rrlib that an import statement names; `from room import file` names the file."""
    if isinstance(node, ast.Import):
        dotted = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are written in full"
        dotted = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    names = []
    for path in dotted:
        while path.startswith(DOOR):
            name = path.removeprefix(f"{DOOR}.")
            if name in modules():
                names.append(name)
                break
            path = path.rpartition(".")[0]
    return names


@cache
def imports() -> dict[str, frozenset[str]]:
    """What each module imports of the package, inside functions and for type checking too."""
    return {
        module: frozenset(name for node in ast.walk(tree) for name in named_by(node))
        for module, tree in modules().items()
    }


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_stands_on_one_floor() -> None:
    standing = [name for floor in FLOORS for name in floor]
    assert len(standing) == len(set(standing))
    assert {room(module) for module in modules()} - {DOOR} <= set(standing), "write the new room into FLOORS"


def test_no_room_imports_from_above() -> None:
    place = {name: at for at, name in enumerate(name for floor in FLOORS for name in floor)}
    upward = [
        f"{module} imports {name}"
        for module, names in imports().items()
        for name in names
        if DOOR not in (module, name) and place[room(name)] > place[room(module)]
    ]
    assert upward == []


def test_no_two_files_import_each_other() -> None:
    """No circle of any length; the door is in none, since it imports on first use."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            new = imports()[ahead.pop()] - seen - {DOOR}
            seen |= new
            ahead += new
        return seen

    reach = {module: reached(module) for module in modules()}
    circles = {tuple(sorted(m for m in reach[a] if a in reach[m])) for a in reach if a in reach[a]}
    assert circles == set()


@pytest.mark.parametrize("piece", FURNITURE)
def test_furniture_is_reached_by_reference(piece: str) -> None:
    users = {module for module, names in imports().items() for name in names if room(name) == piece}
    assert {module for module in users if room(module) != piece} <= FURNITURE[piece]


# --- the map ----------------------------------------------------------------------------------------------------------
def test_the_map_names_every_module_and_none_that_is_gone() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    # An `__init__.py` is named where it says more than its docstring.
    says_more = {f"rrlib/{name.replace('.', '/')}/__init__.py" for name in modules() if holds_code(name)}
    named = re.findall(r"^\| `(rrlib/[\w/]+\.py)` \| \S.*\|$", page, re.MULTILINE)
    assert sorted(named) == sorted(set(named)), "a module has one line"
    assert (files | says_more | {"rrlib/__init__.py"}) - set(named) == set(), "add a line to docs/architecture.md"
    assert [name for name in named if not (ROOT / name).is_file()] == [], "gone: take the line out"
    for path in re.findall(r"`((?:rrlib|tests|benchmarks|notebooks|docs|params)/[\w/.-]+)`", page):
        assert (ROOT / path).exists(), path


def holds_code(module: str) -> bool:
    """Whether a package's `__init__.py` defines functions of its own."""
    folder = PACKAGE / module.replace(".", "/")
    return folder.is_dir() and any(isinstance(node, ast.FunctionDef) for node in modules()[module].body)


def test_the_picture_of_the_map_shows_these_floors() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"^```mermaid\nflowchart BT\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    drawn = [tuple(re.split(r"[ ,]+", box)) for box in re.findall(r'^ +F\d+\["(.+?)"\]$', picture, re.MULTILINE)]
    here = {room(module) for module in modules()} - {"__main__"}
    assert drawn == [tuple(name for name in floor if name in here) for floor in FLOORS]


# --- sizes ------------------------------------------------------------------------------------------------------------
def test_functions_and_modules_can_be_read() -> None:
    """At most 2% of the functions have more than 50 lines, and no module has more than 400."""
    sizes = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{module}:{node.name}")
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [f"{name} ({lines})" for lines, name in sorted(sizes, reverse=True) if lines > 50]
    assert len(long) <= 0.02 * len(sizes), f"{len(long)} of {len(sizes)}: {', '.join(long)}"
    lines = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: n for path, n in lines.items() if n > 400} == {}
