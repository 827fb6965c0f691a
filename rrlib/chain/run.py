"""The chain: notebooks 01 to 04 run by papermill from one profile, each into a stage folder, skipped when unchanged.

`run_chain` is what `rrlib run` calls; `begin` is what a notebook calls. They share one rule for what counts as done
(rrlib.chain.manifest), so a notebook that is opened alone in Jupyter finds what the chain left, and makes what is
missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrlib.chain.manifest import Stage, identity, open_stage, outputs_root, stage_state
from rrlib.chain.params import NOTEBOOKS, Config, Profile, inputs_of, load_profile, notebook_path
from rrlib.chain.results import render_results
from rrlib.disk import Lock, read_json, write_json
from rrlib.errors import InputError, StageError
from rrlib.resources import PACKAGE, repository

Echo = Callable[[str], None]


@dataclass
class ChainResult:
    """What a chain left: results rows, executed notebooks, figures, seconds of each stage (None = skipped)."""

    run_dir: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    notebooks: list[Path] = field(default_factory=list)
    figures: list[Path] = field(default_factory=list)
    seconds: dict[str, float | None] = field(default_factory=dict)


def begin(config: Config, *, fresh: bool = False) -> Stage:
    """Open the stage of a notebook: outputs/<run>/<stage>.

    Opened alone, a notebook may miss the stages that it reads: they are run first, at smoke size, and that is printed.
    Raises StageError when the stage was begun with other settings (then: `begin(config, fresh=True)`).
    """
    from rrlib.chain.stages import check_packages

    check_packages(config)
    run_dir = outputs_root() / config.run
    inputs = inputs_of(config.stage, config.as_dict())
    missing = [name for name in inputs if read_json(run_dir / name / "manifest.json") is None]
    if missing and not _inside_chain():
        print(f"{config.stage} reads {', '.join(missing)}, not made yet in run {config.run!r}: made now at SMOKE SIZE")
        _make_at_smoke_size(config.run, missing)
    return open_stage(run_dir, config.stage, config.as_dict(), inputs, fresh=fresh)


def _make_at_smoke_size(run: str, missing: list[str]) -> None:
    """Run the missing stages by a runner of their own, and print what it says. Raises StageError when it fails."""
    command = [sys.executable, "-m", "rrlib", "run", str(repository() / "params" / "smoke.yaml")]
    command += ["--name", run, "--from", missing[0][:2], "--until", missing[-1][:2]]
    paths = [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "RRLIB_OUTPUTS": str(outputs_root())}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=repository()
    ) as process:
        for line in process.stdout or ():
            print(line, end="")
    if process.returncode:
        raise StageError(f"making {', '.join(missing)} failed (exit code {process.returncode}) -> see above")


def _inside_chain() -> bool:
    from rrlib.chain.papermill_engine import CHAIN_MARK

    return bool(os.environ.get(CHAIN_MARK))


def stage_named(text: str) -> str:
    """The stage that `03`, `3` or `03_rl` names. Raises InputError with the choices."""
    for stage in NOTEBOOKS:
        if text == stage or (text.isdecimal() and int(text) == int(stage[:2])):
            return stage
    raise InputError(f"no stage {text!r}", remedy=f"name one of {', '.join(s[:2] for s in NOTEBOOKS)}")


def run_chain(
    profile: str | Path,
    *,
    name: str | None = None,
    start: str | None = None,
    until: str | None = None,
    fresh: bool = False,
    echo: Echo = print,
    live: bool | None = None,
) -> ChainResult:
    """Run the stages `start`..`until` (default: all it has) of a profile into outputs/<name>.

    A finished stage with the same settings is skipped. With `start`, the stages before it must be finished and are
    taken as they are. `fresh` starts each of the stages over. `live` shows the running cell in place (default: on a
    terminal). Raises ProfileError (bad profile), StageError (blocked stage, failed cell, another run at work).
    """
    loaded = load_profile(profile)
    run = loaded.name if name is None else name
    if not run or run.strip(".") == "" or "/" in run or os.sep in run:
        raise InputError(f"run name {run!r} cannot be a folder's name", remedy="use letters, digits, dot, dash")
    run_dir = outputs_root() / run
    first = stage_named(start) if start else loaded.stages[0]
    last = stage_named(until) if until else loaded.stages[-1]
    chosen = [stage for stage in loaded.stages if first <= stage <= last]
    if first > last:
        raise InputError(f"--from {first[:2]} is after --until {last[:2]}", remedy="swap them")
    if not chosen:
        raise InputError(
            f"the profile runs no stage from {first[:2]} to {last[:2]}",
            remedy=f"it runs {', '.join(loaded.stages)}",
        )
    for stage in loaded.stages:
        if stage < first and read_json(run_dir / stage / "manifest.json") is None:
            raise StageError(f"--from {first[:2]} needs {stage}, not finished in {run_dir} -> leave --from out")
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    echo(f"profile {loaded.name} ({loaded.path}), run {run}, seed {loaded.seed}, threads {threads}")
    result = ChainResult(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with Lock(run_dir / ".lock", f"another process works in {run_dir} -> wait for it, or give another --name"):
        for number, stage in enumerate(chosen, 1):
            echo(f"[{number}/{len(chosen)}] {stage}")
            result.seconds[stage] = _run_stage(loaded, run_dir, stage, fresh, echo, live)
        _publish(loaded, run_dir, chosen[-1], result, echo)
    return result


def _run_stage(profile: Profile, run_dir: Path, stage: str, fresh: bool, echo: Echo, live: bool | None) -> float | None:
    parameters = profile.parameters(stage, run=run_dir.name)
    state, changes = stage_state(run_dir, stage, identity(run_dir, stage, parameters, inputs_of(stage, parameters)))
    folder = run_dir / stage
    if state == "finished" and not fresh:
        seconds = (read_json(folder / "manifest.json") or {}).get("record", {}).get("seconds", 0.0)
        echo(f"      unchanged, skipped (it took {seconds:.0f} s)")
        return None
    from rrlib.chain.papermill_engine import execute  # a missing package is said before anything is put away

    if fresh and folder.exists():
        shutil.rmtree(folder)
    elif state == "changed":
        echo(f"      changed, runs again: {'; '.join(changes[:4])}{' ...' if len(changes) > 4 else ''}")
    elif state == "begun":
        echo("      begun before, goes on")
    elif state == "blocked":
        raise StageError(
            f"{stage} was begun in {folder} with other settings ({'; '.join(changes)}) -> "
            "set them back to continue, or give --fresh to start it over"
        )
    begun = time.monotonic()
    executed = run_dir / "notebooks" / f"{stage}.ipynb"
    execute(notebook_path(stage), executed, parameters, echo=echo, live=live)
    if read_json(folder / "manifest.json") is None:
        raise StageError(f"{executed} ran to its end without stage.finish() -> call it in the last cell")
    return round(time.monotonic() - begun, 1)


def _publish(profile: Profile, run_dir: Path, last: str, result: ChainResult, echo: Echo) -> None:
    """Gather what all stages left so far, and write results.json when the evaluation is among them. What an earlier
    run with other settings left is named and not listed; results.json, its copy of them, goes. last: the last that ran.
    """
    earlier = set()
    for stage in NOTEBOOKS:
        manifest = read_json(run_dir / stage / "manifest.json")
        executed = run_dir / "notebooks" / f"{stage}.ipynb"
        if manifest is None:
            continue
        ours = profile.parameters(stage, run=run_dir.name) if stage in profile.stages and stage > last else None
        if not _is_current(run_dir, stage, ours):
            earlier.add(stage)
            echo(f"{stage} is of earlier settings: not listed, it stays in {_short(run_dir / stage)}")
            continue
        if executed.is_file():
            result.notebooks.append(executed)
        figures = (run_dir / "figures" / name for name in manifest["figures"])
        result.figures.extend(path for path in figures if path.is_file())
    results = read_json(run_dir / "04_evaluation" / "results.json")
    if "04_evaluation" in earlier:
        (run_dir / "results.json").unlink(missing_ok=True)
    elif results is not None and (run_dir / "04_evaluation" / "manifest.json").is_file():
        result.rows = results["rows"]
        write_json(run_dir / "results.json", results)


def _is_current(run_dir: Path, stage: str, parameters: Mapping[str, Any] | None = None) -> bool:
    """Whether a finished stage was made from its inputs as they are now, and these from theirs. parameters: what
    the profile has for it now; None: not compared."""
    match = (read_json(run_dir / stage / "manifest.json") or {}).get("match", {})
    inputs = match.get("inputs", {})
    if parameters is not None and stage_state(run_dir, stage, identity(run_dir, stage, parameters, tuple(inputs)))[1]:
        return False
    present = {name: (read_json(run_dir / name / "manifest.json") or {}).get("hash") for name in inputs}
    return present == inputs and all(_is_current(run_dir, name) for name in inputs)


def render_chain(result: ChainResult) -> str:
    """What `rrlib run` prints at its end: results, where notebooks and figures are, seconds of each stage."""
    done = ", ".join(f"{s} {'skipped' if t is None else f'{t:.0f} s'}" for s, t in result.seconds.items())
    total = sum(t for t in result.seconds.values() if t is not None)
    parts = [""]
    if result.rows:
        parts += [render_results(result.rows), "", f"results:   {_short(result.run_dir / 'results.json')}"]
    parts += [f"notebook:  {_short(path)}" for path in result.notebooks]
    parts += [f"figure:    {_short(path)}" for path in result.figures]
    parts += [f"seconds:   {done}; {total:.0f} s in all"]
    return "\n".join(parts)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
