"""References in profiles: `package:some.module/folder` for files in a package, `module:name` for callables."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError

PACKAGE = Path(__file__).resolve().parent
"""The folder of the package. Its parent is the clone, where there is one."""


def resolve(ref: str | Path) -> str:
    """A folder or hub name for `from_pretrained`: `package:module/sub/folder` becomes the path inside that package."""
    text = str(ref)
    if not text.startswith("package:"):
        return text
    module, _, inside = text.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"no package {module!r} for {text!r}", remedy="write package:module/folder")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.exists():
        raise MissingFileError(f"{inside!r} is not in package {module}", remedy="reinstall the package, or name a path")
    return str(path)


def model_hash(model: str | Path) -> str:
    """A hash of a checkpoint folder: names, sizes, and both ends of each file. A hub name stands for itself."""
    folder = Path(model)
    if not folder.is_dir():
        return str(model)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}/{size}".encode())
        with open(path, "rb") as handle:
            digest.update(handle.read(65536))
            handle.seek(max(size - 65536, 0))
            digest.update(handle.read(65536))
    return digest.hexdigest()[:16]


def load_callable(ref: str) -> Callable[..., Any]:
    """The object that `module:name` names. Raises InputError with what went wrong."""
    module, sep, name = ref.partition(":")
    if not sep or not module or not name:
        raise InputError(f"{ref!r} names no callable", remedy="write module:name")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(f"{ref!r}: {error}", remedy="install the package, or correct the name") from error
    except AttributeError as error:
        raise InputError(f"{ref!r}: module {module} has no {name!r}", remedy="correct the name") from error
    if not callable(found):
        raise InputError(f"{ref!r} is not callable", remedy="name a function or a class")
    return found  # type: ignore[no-any-return]


def repository() -> Path:
    """The folder that holds notebooks/ and params/: the library's own checkout, else found upwards from here.

    Raises MissingFileError when neither has them (the library alone was installed).
    """
    for folder in (PACKAGE.parent, Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    raise MissingFileError("no folder with notebooks/ and params/ here or above", remedy="run inside the checkout")
