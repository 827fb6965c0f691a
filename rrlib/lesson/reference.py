"""The API reference: every public module's docstrings as static pages, by pdoc. Nothing is fetched from anywhere."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from rrlib.errors import InputError, MissingFileError

_PACKAGE = Path(__file__).resolve().parent.parent


def public_modules() -> list[str]:
    """The dotted names of all modules of rrlib whose names do not begin with an underscore; packages before theirs."""
    names = []
    for path in sorted(_PACKAGE.rglob("*.py")):
        parts = path.relative_to(_PACKAGE.parent).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return sorted(names)


def build_reference(folder: str | Path, modules: Iterable[str] = ()) -> list[Path]:
    """Write a page for each module (default: all public ones), with an index and a search; returns the pages.

    modules: their dotted names. A module is imported to be described. Raises MissingFileError without pdoc,
    and InputError that names the modules which could not be imported, for want of an extra for instance; the pages of
    the others are written all the same.
    """
    try:
        import pdoc
        import pdoc.render
    except ImportError as error:
        raise MissingFileError(
            f"pdoc is not installed: {error}", remedy="`make env` installs it (the extra dev)"
        ) from error
    failed: dict[str, str] = {}
    for name in (wanted := list(modules) or public_modules()):
        try:
            importlib.import_module(name)
        except ImportError as error:
            failed[name] = str(error)
    pdoc.render.configure(docformat="markdown", show_source=False, footer_text="rrlib, from its docstrings")
    with warnings.catch_warnings():
        # It warns of each module that it meets twice (beside its package), and of hints that name what they only check.
        warnings.simplefilter("ignore")
        left_out = [f"!{re.escape(name)}$" for name in failed]  # else a package brings them along
        pdoc.pdoc(*(name for name in wanted if name not in failed), *left_out, output_directory=Path(folder))
    pages = [Path(folder, *name.split(".")).with_suffix(".html") for name in wanted if name not in failed]
    for page in (*pages, Path(folder, "search.js")):  # default values that are files stand there with their folders
        page.write_text(page.read_text(encoding="utf-8").replace(f"{_PACKAGE.parent}/", ""), encoding="utf-8")
    if failed:
        raise InputError(
            f"no page for {len(failed)} of {len(wanted)} modules: "
            + "; ".join(f"{name} ({why})" for name, why in failed.items()),
            remedy="install the extras that they need: `make env` has all of them",
        )
    return pages
