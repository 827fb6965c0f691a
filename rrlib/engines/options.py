"""Options of engines, by name: read from a command line, and checked before a model is loaded."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import json
import typing
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rrlib.errors import InputError

OURS: Mapping[str, Mapping[str, str]] = {
    "vllm": {
        "model": "give it as --model",
        "disable_log_stats": "rrlib sets it",
        "skip_tokenizer_init": "rrlib needs the tokenizer",
        "runner": "rrlib generates text",
        "convert": "rrlib generates text",
        "data_parallel_size": "start `vllm serve --data-parallel-size N` and use --engine openai "
        "(docs/many-machines.md)",
    },
    "transformers": {"model": "give it as --model"},
    "numpy": {"model": "give it as --model"},
    "openai": {"model": "give it as --model", "api_key": "name the variable that holds it as api_key_env"},
    "replay": {},
}
"""Engine -> option that rrlib sets itself, and what to do instead."""


def read_options(texts: Sequence[str], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """Options from a command line, `name=value` each; dashes in a name are underscores.

    A value is read as JSON, and where it is none as YAML: 2, 0.85, true, null, fp8, {"a": 1}. elsewhere: option -> the
    flag that is there for it. Raises InputError for what has no name or value, is given twice, or has a flag.
    """
    options: dict[str, Any] = {}
    for text in texts:
        written, equals, value = text.partition("=")
        name = written.strip().replace("-", "_")
        if not (name.isidentifier() and equals and value.strip()):
            raise InputError(f"--engine-option {text!r}", remedy="write NAME=VALUE")
        if name in elsewhere:
            raise InputError(f"--engine-option {name} has a flag of its own", remedy=f"write {elsewhere[name]}")
        if name in options:
            raise InputError(f"--engine-option {name} is given twice", remedy="leave one of them out")
        options[name] = read_value(value.strip())
    return options


def read_value(text: str) -> Any:
    """A value as JSON, as YAML, or as the text itself."""
    import yaml

    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, bool | int | float | list | dict | None) else text


def check_options(name: str, made: Any, options: Mapping[str, Any], also: Collection[str] = ()) -> None:
    """Refuse, before a model is loaded, an option that an engine lacks, that rrlib sets itself, or of another type.

    made: the engine's class. also: names that may have been meant. Where the class takes more than it names (vLLM), it
    is asked which names there are: from its sources, if they are on this machine. Raises InputError.
    """
    own = {n: p for n, p in inspect.signature(made).parameters.items() if p.kind is not p.VAR_KEYWORD and n != "model"}
    passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(made).parameters.values())
    kinds = typing.get_type_hints(made.__init__)
    for option, value in options.items():
        if option in OURS.get(name, {}):
            raise InputError(f"{option!r} is no option of engine {name!r} here", remedy=OURS[name][option])
        if option in own:
            if not _is_a(value, kinds.get(option, Any)):
                wanted = str(kinds[option]).removeprefix("<class '").removesuffix("'>")
                raise InputError(f"{option} is {value!r}", remedy=f"give {wanted.replace(' | ', ' or ')}")
            continue
        known = [*own, *(sorted(vllm_options()) if passes_on else ())]
        if option in known or (passes_on and not vllm_options()):
            continue
        near = difflib.get_close_matches(option, [*also, *known], 1)
        remedy = f"the options of engine {name!r} are {', '.join(known)}"
        raise InputError(f"there is no option {option!r}", remedy=f"write {near[0]!r}" if near else remedy)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a plain type (a number, a text, or one of several); what is not plain passes."""
    kinds = typing.get_args(kind) or (kind,)
    if not set(kinds) <= {int, float, str, bool, type(None)}:
        return True
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, (*kinds, *((int,) if float in kinds else ())))


@cache
def vllm_options() -> frozenset[str]:
    """The names of vLLM's engine arguments, read from its sources: importing it takes seconds. Empty where it is not
    installed, or keeps them elsewhere."""
    found = importlib.util.find_spec("vllm")
    path = Path(found.origin).parent / "engine" / "arg_utils.py" if found and found.origin else None
    if path is None or not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs"]
    fields = [line.target for node in classes for line in node.body if isinstance(line, ast.AnnAssign)]
    names = {target.id for target in fields if isinstance(target, ast.Name)}
    return frozenset(name for name in names if not name.startswith("_"))
