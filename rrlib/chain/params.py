"""Strict parameters: what a notebook declares, what a profile may set, and nothing in between.

papermill only warns when a profile names a parameter that a notebook does not have, or when the notebook has no
`parameters` cell at all; YAML reads `1e-6` as a string; a derived default goes stale when its source is injected.
All of these train quietly with the wrong numbers, so here each one is a `ProfileError` with file, line and remedy.

The contract: the `parameters` cell of a notebook holds literals only, one assignment a line, each with a comment that
states the unit. The type of the default is the type of the parameter.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rrlib.engines.keys import refuse_written_keys
from rrlib.errors import InputError, MissingFileError, ProfileError
from rrlib.resources import at_home, repository

STAGES: dict[str, tuple[str, ...]] = {
    "01_synthesis": (),
    "02_sft": ("01_synthesis",),
    "03_rl": ("01_synthesis", "02_sft"),
    "04_evaluation": ("01_synthesis", "02_sft", "03_rl"),
}
"""Stage (= notebook) -> the stages whose folders it reads, in the order in which the chain runs."""

EXTRAS: dict[str, tuple[str, ...]] = {"05_ablations": (), "06_efficiency": ("01_synthesis", "02_sft")}
"""Stages beside the chain: a profile names them under `stages`."""

NOTEBOOKS = {**STAGES, **EXTRAS}

SPARES: dict[str, dict[str, tuple[str, ...]]] = {
    "04_evaluation": {"benchmarks": ("01_synthesis",), "checkpoints": ("02_sft", "03_rl")},
    "06_efficiency": {"stored": EXTRAS["06_efficiency"]},
}
"""Stage -> parameter -> the stages that it does not read where that parameter is set."""


def inputs_of(stage: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages whose folders a stage reads with these parameters."""
    spared = [name for key, names in SPARES.get(stage, {}).items() if values.get(key) for name in names]
    return tuple(name for name in NOTEBOOKS.get(stage, ()) if name not in spared)


RESERVED = {
    "run": "set by --name, or by the profile's `name`",
    "profile": "the profile's `name`",
    "seed": "the profile's top-level `seed`",
    "interactive": "false whenever the chain runs; set it to True in Jupyter by hand",
}
"""Parameters that the runner sets itself; no section of a profile may."""

TOP_LEVEL = ("name", "seed", "description", "hardware", "stages", "shared", *NOTEBOOKS)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")  # YAML 1.1 has octal and base 60 as well


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of a `parameters` cell: name, default value, and the comment that states its unit."""

    name: str
    default: Any
    comment: str


@dataclass(frozen=True)
class Profile:
    """A profile that fits the notebooks. `sections` holds what it sets for each stage; the rest stays at default.

    stages: what it runs, in order; the chain unless it says otherwise.
    """

    path: Path
    name: str
    seed: int
    description: str = ""
    hardware: str = ""
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stages: tuple[str, ...] = tuple(STAGES)

    def parameters(self, stage: str, *, run: str | None = None, notebooks: Path | None = None) -> dict[str, Any]:
        """All parameters of a stage, defaults included, as the runner injects them; `run` defaults to the name."""
        declared = declared_parameters(notebook_path(stage, notebooks))
        reserved = {"run": run or self.name, "profile": self.name, "seed": self.seed, "interactive": False}
        values = {name: parameter.default for name, parameter in declared.items()}
        values.update(self.sections.get(stage, {}))
        values.update({name: value for name, value in reserved.items() if name in declared})
        return {name: _as_declared(value, declared[name].default) for name, value in values.items()}


def notebook_path(stage: str, notebooks: Path | None = None) -> Path:
    """Where a stage's notebook is; MissingFileError when it is not there."""
    path = (notebooks or repository() / "notebooks") / f"{stage}.ipynb"
    if not path.is_file():
        raise MissingFileError("no such notebook", path=path, remedy="restore it from git, or name another stage")
    return path


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook file, sources joined to strings; ProfileError when it is no notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [{**cell, "source": "".join(cell["source"])} for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise ProfileError(f"this is not a notebook ({error!r})", path=path, remedy="restore it from git") from error


def declared_parameters(path: Path) -> dict[str, Parameter]:
    """What the notebook's one `parameters` cell declares. Raises ProfileError for anything but literals."""
    tagged = [c for c in read_cells(path) if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise ProfileError(
            f"{len(tagged)} cells are tagged `parameters`, one is wanted",
            path=path,
            remedy="tag exactly the cell that holds the defaults",
        )
    source = tagged[0]["source"]
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise ProfileError(f"the parameters cell does not parse: {error.msg}", path=path, line=error.lineno) from error
    lines = source.splitlines()
    declared: dict[str, Parameter] = {}
    for node in body:
        name, default = _literal(node, path)
        if name in declared:
            raise ProfileError(f"parameter {name!r} is set twice", path=path, line=node.lineno, remedy="keep one line")
        comment = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :].partition("#")[2].strip()
        declared[name] = Parameter(name, default, comment)
    return declared


def _literal(node: ast.stmt, path: Path) -> tuple[str, Any]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
    if len(targets) != 1 or not isinstance(targets[0], ast.Name) or value is None:
        raise ProfileError(
            f"the parameters cell holds more than `name = literal`: {ast.unparse(node)}",
            path=path,
            line=node.lineno,
            remedy="move it to a cell of its own",
        )
    try:
        return targets[0].id, ast.literal_eval(value)
    except (ValueError, TypeError) as error:
        raise ProfileError(
            f"parameter {targets[0].id!r} is derived ({ast.unparse(value)}), so it goes stale when a profile is set",
            path=path,
            line=node.lineno,
            remedy="write a literal here, and derive the value in a later cell",
        ) from error


def load_profile(path: str | Path, notebooks: Path | None = None) -> Profile:
    """Read a profile and hold it against the notebooks.

    Raises ProfileError (a MissingFileError for the file itself) that names file, line, key and remedy: YAML that does
    not parse, a key twice, an unknown key or section, a reserved key, a wrong type, a shared key nobody declares.
    """
    path = Path(path)
    data, lines = _read_yaml(path)
    for key in data:
        if key not in TOP_LEVEL:
            raise ProfileError(
                f"unknown key {key!r}", path=path, line=lines.get((key,)), remedy=f"use one of {', '.join(TOP_LEVEL)}"
            )
    for key, kind in (("name", str), ("seed", int), ("description", str), ("hardware", str)):
        if key in ("name", "seed") and key not in data:
            raise ProfileError(f"the key {key!r} is missing", path=path, remedy=f"add a line `{key}: ...`")
        if key in data and (not isinstance(data[key], kind) or isinstance(data[key], bool)):
            raise ProfileError(_wrong_type(key, data[key], kind), path=path, line=lines.get((key,)))
    if not _NAME.fullmatch(data["name"]):
        raise ProfileError(
            f"name {data['name']!r} cannot be a folder's name",
            path=path,
            line=lines.get(("name",)),
            remedy="use letters, digits, dot, dash, underscore",
        )
    stages = _stages(data.get("stages"), path, lines.get(("stages",)))
    declared = {stage: declared_parameters(notebook_path(stage, notebooks)) for stage in stages}
    sections = _sections(data, declared, path, lines)
    try:
        refuse_written_keys(sections)
    except InputError as error:
        raise ProfileError(error.message, path=path, remedy=error.remedy) from None
    return Profile(
        path, data["name"], data["seed"], data.get("description", ""), data.get("hardware", ""), sections, stages
    )


def _sections(
    data: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Parameter]],
    path: Path,
    lines: Mapping[tuple[str, ...], int],
) -> dict[str, dict[str, Any]]:
    """What a profile sets for each of its stages: `shared`, where the stage declares the key, then its own section."""
    sections: dict[str, dict[str, Any]] = {stage: {} for stage in declared}
    for section in ("shared", *NOTEBOOKS):
        if data.get(section) is not None and not isinstance(data[section], dict):
            raise ProfileError(_wrong_type(section, data[section], dict), path=path, line=lines.get((section,)))
    for section in ("shared", *NOTEBOOKS):
        values = data.get(section)
        if values is None:
            continue
        if section != "shared" and section not in declared:
            raise ProfileError(
                f"there is a section {section}, which this profile does not run",
                path=path,
                line=lines.get((section,)),
                remedy="add it to `stages`, or remove the section",
            )
        for key, value in values.items():
            line = lines.get((section, key))
            homes = [s for s in (declared if section == "shared" else (section,)) if key in declared[s]]
            _check_key(section, key, homes, declared, path, line)
            for stage in homes:
                if "count" in declared[stage][key].comment and isinstance(value, int) and value < 0:
                    raise ProfileError(f"{section}: {key} is {value}", path=path, line=line, remedy="give 0 or more")
                check_value(key, value, declared[stage][key].default, path=path, line=line, section=section)
                if section != "shared" or key not in (data.get(stage) or {}):
                    sections[stage][key] = value
    return sections


def _stages(value: Any, path: Path, line: int | None) -> tuple[str, ...]:
    """What `stages` asks for, in the order of the notebooks; the chain where the key is not there."""
    if value is None:
        return tuple(STAGES)
    if not isinstance(value, list) or not value or len(set(map(str, value))) < len(value):
        raise ProfileError("`stages` is a list of notebooks, each once", path=path, line=line)
    unknown = [name for name in value if not isinstance(name, str) or name not in NOTEBOOKS]
    if unknown:
        raise ProfileError(
            f"unknown stages {unknown}", path=path, line=line, remedy=f"use some of {', '.join(NOTEBOOKS)}"
        )
    return tuple(name for name in NOTEBOOKS if name in value)


def _check_key(
    section: str,
    key: Any,
    homes: list[str],
    declared: Mapping[str, Mapping[str, Parameter]],
    path: Path,
    line: int | None,
) -> None:
    if key in RESERVED:
        raise ProfileError(
            f"{section}: {key!r} is not a profile's to set here", path=path, line=line, remedy=RESERVED[key]
        )
    if homes:
        return
    import difflib

    near = next(iter(difflib.get_close_matches(str(key), [n for names in declared.values() for n in names], n=1)), "")
    where = "no notebook declares it" if section == "shared" else f"notebooks/{section}.ipynb does not declare it"
    raise ProfileError(
        f"{section}: unknown key {key!r}; {where}",
        path=path,
        line=line,
        remedy=f"did you mean {near!r}?" if near else "see the notebook's parameters cell",
    )


def check_value(
    key: str, value: Any, default: Any, *, path: Path | None = None, line: int | None = None, section: str = ""
) -> None:
    """Refuse a value whose type is not the type of the default. An int may stand for a float, nothing else may."""
    label = f"{section}: {key}" if section else key
    if isinstance(value, float) and value != value:
        raise ProfileError(f"{label}: not a number (nan)", path=path, line=line, remedy="write a number")
    if default is None:
        return
    if _fits(value, default):
        items = enumerate(value) if isinstance(default, list) else value.items() if isinstance(default, dict) else ()
        patterns = list(default.values()) if isinstance(default, dict) else default
        for name, item in items:
            if patterns and all(type(pattern) is type(patterns[0]) for pattern in patterns):
                check_value(f"{key}[{name}]", item, patterns[0], path=path, line=line, section=section)
        return
    remedy = ""
    if isinstance(value, str) and isinstance(default, float | int) and _NUMBER.fullmatch(value.strip()):
        mantissa, exponent = re.split("[eE]", value.strip())
        remedy = f"YAML reads {value} as a string: write {mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
        remedy = remedy if exponent[0] in "+-" else f"{remedy[: -len(exponent)]}+{exponent}"
    elif isinstance(value, str) and isinstance(default, bool | int | float):
        remedy = "write it without quotes"
    elif isinstance(value, float) and type(default) is int:
        remedy = f"write a whole number, such as {value:.0f}" if abs(value) < 1e15 else "write a whole number"
    raise ProfileError(_wrong_type(label, value, type(default)), path=path, line=line, remedy=remedy)


def _fits(value: Any, default: Any) -> bool:
    return type(value) is type(default) or (type(default) is float and type(value) is int)


def _as_declared(value: Any, default: Any) -> Any:
    """The value as the stage has it: an int as a float where that is declared, and every path with `~` in full."""
    if isinstance(value, str):
        return at_home(value)
    if isinstance(value, list):
        return [_as_declared(item, None) for item in value]
    if isinstance(value, dict):
        return {name: _as_declared(item, None) for name, item in value.items()}
    return float(value) if type(default) is float and type(value) is int else value


def _wrong_type(label: str, value: Any, kind: type) -> str:
    return f"{label}: {kind.__name__} wanted, {type(value).__name__} {value!r} given"


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The profile as a dict, and the 1-based line of each key, as (key,) or (section, key)."""
    import yaml

    if not path.is_file():
        raise MissingFileError("no such profile", path=path, remedy="profiles are in params/, as NAME.yaml")
    try:
        text = path.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ProfileError("this file is not UTF-8 text", path=path, remedy="save the profile as UTF-8") from error
    except ValueError as error:  # a date that is none, say
        raise ProfileError(f"a value cannot be read: {error}", path=path, remedy="put it into quotes") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        raise ProfileError(
            f"YAML does not parse: {problem}", path=path, line=mark.line + 1 if mark else None, remedy="mend this line"
        ) from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(data, dict):
        raise ProfileError("a profile is a mapping of keys", path=path, remedy="start it with `name: ...`")
    lines: dict[tuple[str, ...], int] = {}
    _note_lines(node, (), lines, path)
    return data, lines


def _note_lines(node: Any, prefix: tuple[str, ...], lines: dict[tuple[str, ...], int], path: Path) -> None:
    import yaml

    for key, value in node.value:
        place, line = (*prefix, str(key.value)), key.start_mark.line + 1
        if place in lines:
            raise ProfileError(
                f"the key {'.'.join(place)!r} stands twice (line {lines[place]} too)",
                path=path,
                line=line,
                remedy="keep one of them",
            )
        lines[place] = line
        written = value.value if isinstance(value, yaml.ScalarNode) and value.tag.endswith(":int") else "0"
        if not _INTEGER.fullmatch(written):
            message = f"{'.'.join(place)} is written {written}, which YAML reads as {yaml.safe_load(written)}"
            raise ProfileError(message, path=path, line=line, remedy="write it as a plain decimal number")
        if isinstance(value, yaml.MappingNode):
            _note_lines(value, place, lines, path)


def collect(stage: str, namespace: Mapping[str, Any]) -> SimpleNamespace:
    """The config object of a notebook: its declared parameters, with the values that its namespace now holds.

    Called right after the parameters cell as `config = collect("02_sft", globals())`. Checks the types again, since
    in Jupyter a person edits the cell by hand. The result also has `.stage` and `.as_dict()`.
    """
    path = notebook_path(stage)
    values: dict[str, Any] = {}
    for name, parameter in declared_parameters(path).items():
        if name not in namespace:
            raise ProfileError(f"parameter {name!r} is not set", path=path, remedy="run the parameters cell first")
        check_value(name, namespace[name], parameter.default, path=path)
        values[name] = _as_declared(namespace[name], parameter.default)
    return Config(stage, values)


class Config(SimpleNamespace):
    """The parameters of one stage as attributes; `.stage` is its name."""

    def __init__(self, stage: str, values: Mapping[str, Any]) -> None:
        super().__init__(**values)
        self._stage, self._names = stage, tuple(values)

    @property
    def stage(self) -> str:
        """The stage (= notebook) these belong to."""
        return self._stage

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, in the order of the parameters cell."""
        return {name: getattr(self, name) for name in self._names}
