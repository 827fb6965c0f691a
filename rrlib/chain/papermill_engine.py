"""How one notebook is executed: papermill, with the kernel of this interpreter, progress lines and plain failures.

papermill's own choices do not fit a chain that is run from a shell: its kernel is whatever `python3` means to Jupyter
(a user's spec goes before the environment's), its progress bar counts cells, and its error is a page of traceback.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import papermill
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from rrlib.errors import InputError, StageError
from rrlib.resources import PACKAGE

CHAIN_MARK = "RRLIB_CHAIN"
"""Set in the kernels that are started here: a notebook there never starts stages of its own."""

_HEADING = re.compile(r"^#{1,3} +(.+)$", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_INPUT_ERRORS = ("InputError", "ProfileError", "MissingFileError")


class Progress:
    """Says which section of the notebook is at work: a line for each that is done, and one in place on a terminal."""

    def __init__(self, echo: Callable[[str], None], live: bool) -> None:
        self.echo, self.live = echo, live
        self.section, self.note, self.begun = "", "", time.monotonic()
        self._stop = threading.Event()
        if live:
            threading.Thread(target=self._tick, daemon=True).start()

    def cell(self, cell: Mapping[str, Any], last_heading: str) -> None:
        """A cell begins under `last_heading`."""
        if cell["cell_type"] == "code" and last_heading != self.section:
            self._line()
            self.section, self.note, self.begun = last_heading, "", time.monotonic()

    def close(self) -> None:
        """The notebook ended, well or not."""
        self._stop.set()
        self._line()

    def _line(self) -> None:
        if self.section:
            if self.live:
                print("\r\x1b[K", end="", flush=True)
            self.echo(f"      {self.section[:56]:<58}{time.monotonic() - self.begun:6.1f} s")

    def _tick(self) -> None:
        while not self._stop.wait(1.0):
            text = f"      {self.section[:40]} ... {time.monotonic() - self.begun:.0f} s  {self.note}"
            print(f"\r\x1b[K{text[:100]}", end="", flush=True)


class _Client(PapermillNotebookClient):
    """Hands each stream line of the running cell to the progress display."""

    progress: Progress

    def process_message(self, *args: Any, **kwargs: Any) -> Any:
        output = super().process_message(*args, **kwargs)
        if output and output.get("output_type") == "stream":
            lines = _ANSI.sub("", output["text"]).replace("\r", "\n").strip().splitlines()
            self.progress.note = lines[-1].strip() if lines else self.progress.note
        return output


class _Engine(NBClientEngine):
    """papermill's engine with our client; `progress` arrives through the keyword arguments of execute_notebook."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
        progress: Progress = kwargs["progress"]
        headings, heading = [], ""
        for cell in nb_man.nb.cells:
            if cell["cell_type"] == "markdown":
                inside = _HEADING.findall(cell["source"])
                heading = re.sub(r"[*_`]", "", inside[-1]) if inside else heading
            headings.append(heading)
        begin_cell = nb_man.cell_start

        def cell_start(cell: Any, cell_index: int, **more: Any) -> None:
            progress.cell(cell, headings[cell_index])
            begin_cell(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        client = _Client(
            nb_man, timeout=None, startup_timeout=kwargs.get("start_timeout", 60), kernel_name=kernel_name, log=_quiet()
        )
        client.progress = progress
        return client.execute()


def _quiet() -> logging.Logger:
    logger = logging.getLogger("rrlib.papermill")
    logger.setLevel(logging.CRITICAL)
    return logger


def execute(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any],
    *,
    echo: Callable[[str], None],
    live: bool | None = None,
) -> None:
    """Run a notebook and save it, executed, at `output`; what ran is saved also when a cell fails or Ctrl-C comes.

    Raises InputError when the failing cell did, else StageError: notebook, number and heading of the cell, error.
    """
    papermill_engines.register("rrlib", _Engine)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    output.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(echo, sys.stdout.isatty() if live is None else live)
    with _kernel():
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=dict(parameters),
                engine_name="rrlib",
                kernel_name="python3",
                cwd=os.getcwd(),  # a profile's relative paths mean the folder of the command, here as in the runner
                progress_bar=False,
                progress=progress,
            )
        except PapermillExecutionError as error:
            raise _failure(error, output) from None
        finally:
            progress.close()


def _failure(error: PapermillExecutionError, output: Path) -> Exception:
    source = error.source.strip().splitlines()
    what = f"{error.ename}: {_ANSI.sub('', str(error.evalue)).strip()}"
    if error.ename == "KeyboardInterrupt":
        raise KeyboardInterrupt
    place = f"{output.stem}, cell {error.exec_count} (`{source[0][:70] if source else ''}`)"
    if error.ename in _INPUT_ERRORS:
        return InputError(f"{place}: {what}", remedy=f"the notebook as far as it came: {output}")
    return StageError(f"{place}: {what} -> the notebook as far as it came: {output}")


@contextmanager
def _kernel() -> Iterator[None]:
    """For the length of the block, let the kernel name `python3` mean this interpreter with this library."""
    root = str(PACKAGE.parent)
    env = {
        CHAIN_MARK: "1",
        "PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # bars are saved as stale text
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "TQDM_DISABLE": os.environ.get("TQDM_DISABLE", "1"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # whatever this process draws with
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    # vllm, where installed, warns on import that a CPU has no Triton: whatever its own level, and in every notebook.
    quiet = "import logging; logging.getLogger('vllm.triton_utils.importing').setLevel('ERROR')"
    options = ["--log-level=50", f"--IPKernelApp.exec_lines={quiet}"]
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", *options, "-f", "{connection_file}"],
        "display_name": "python3",
        "language": "python",
        "env": env,
    }
    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory(prefix="rrlib-kernel-") as folder:
        kernel = Path(folder, "kernels", "python3", "kernel.json")
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps(spec), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = os.pathsep.join(p for p in (folder, before or "") if p)
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before
