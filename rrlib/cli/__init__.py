"""The command line: one module a command, each with `register(app)`. Bad input ends with exit code 2."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Annotated

import typer

import rrlib

ORDER = ("demo", "rerank", "evaluate", "audit", "run", "doctor")  # the rest follows by name


def commands() -> list[str]:
    """The modules of this package, one a command, in the order `--help` shows them."""
    names = {module.name for module in pkgutil.iter_modules(__path__)}
    return [name for name in ORDER if name in names] + sorted(names - set(ORDER))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"rrlib {rrlib.__version__}")
        raise typer.Exit


def build_app() -> object:
    """The typer app with every command; imports nothing heavy."""
    app = typer.Typer(
        name="rrlib",
        help="Listwise reranking with reasoning (ReasonRank): rerank, evaluate, and run the whole method.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_version, help="print the version and end")
        ] = False,
    ) -> None: ...

    for name in commands():
        importlib.import_module(f"rrlib.cli.{name}").register(app)
    return app


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (it failed, or a part of it), 2 (bad input), 3 (nothing came of it),
    130 (interrupted)."""
    command = typer.main.get_command(build_app())  # type: ignore[arg-type]
    try:
        code = command.main(args=argv, prog_name="rrlib", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except BaseException as error:
        return _exit_code(error)


def _exit_code(raised: BaseException) -> int:
    """Say what ended a command, and give its exit code. What is nobody's fault but ours is raised on."""
    from rrlib.errors import InputError, RRLibError, innermost

    error = innermost(raised)  # a task group raises a group, whose message names no cause
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        print("interrupted; run the same command again to go on where it stopped", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, ModuleNotFoundError):
        from rrlib.doctor import missing_package

        error = missing_package(error) or error
    if isinstance(error, InputError):
        return _say(error, 2)
    if isinstance(
        error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError | FileExistsError
    ):
        return _say(error, 1 if isinstance(error, RRLibError) else 2)
    if isinstance(error, RRLibError | OSError):  # a full disk, a dropped mount: what was written stays
        return _say(error, 1)
    # The parser's own errors (unknown option, wrong type) show themselves; typer exports no base class for them.
    show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", None)
    if show is None or exit_code is None:
        raise error
    show()
    return int(exit_code)


def _say(error: BaseException, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code
