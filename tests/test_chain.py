"""The chain itself: the smoke profile through `rrlib run`, once; then what skipping, failing and interrupting do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from smoke_chain import ROOT, SMOKE, Chain, environment, rrlib_run

from rrlib.chain.params import STAGES, collect, declared_parameters, notebook_path
from rrlib.chain.results import ROW_KEYS, SYSTEMS, render_results, write_results
from rrlib.chain.run import begin, run_chain, stage_named
from rrlib.cli import main
from rrlib.errors import InputError, StageError


@pytest.fixture
def here(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    """The finished chain, seen by code of this process."""
    monkeypatch.setenv("RRLIB_OUTPUTS", str(chain.outputs))
    yield chain


@pytest.mark.timeout(600)
def test_results_are_one_row_a_system_and_metric(chain: Chain) -> None:
    rows = json.loads((chain.run / "results.json").read_text())["rows"]
    assert all(tuple(row) == ROW_KEYS for row in rows)
    assert tuple(dict.fromkeys(row["system"] for row in rows)) == SYSTEMS
    assert rows[0]["metric"] == "nDCG@10"
    metrics = {row["metric"] for row in rows}
    assert len(rows) == len(SYSTEMS) * len(metrics) and len(metrics) >= 2
    for row in rows:
        assert row["collection"] == "miniature" and row["data_kind"] == "synthetic" and row["profile"] == "smoke"
        assert (row["seed"], row["n"]) == (7, 24)
        assert 0.0 <= row["low"] <= row["mean"] <= row["high"] <= 1.0
    means = {row["system"]: row["mean"] for row in rows if row["metric"] == "nDCG@10"}
    assert means["oracle"] == max(means.values()) > means["first-stage"]


def test_the_table_and_the_paths_are_printed(chain: Chain) -> None:
    for system in SYSTEMS:
        assert re.search(rf"^{re.escape(system)} +\d\.\d{{3}} \[\d\.\d{{3}}, \d\.\d{{3}}\]", chain.out, re.MULTILINE)
    assert "synthetic" in chain.out
    printed = re.findall(r"^(?:results|notebook|figure): +(\S.*)$", chain.out, re.MULTILINE)
    assert len(printed) == 1 + 4 + len(list((chain.run / "figures").iterdir()))
    assert all(Path(path).is_file() for path in printed)
    assert re.search(r"^seconds: +01_synthesis \d+ s, .*04_evaluation \d+ s; \d+ s in all$", chain.out, re.MULTILINE)


@pytest.mark.parametrize("stage", STAGES)
def test_the_executed_notebooks_have_outputs_and_no_errors(stage: str, chain: Chain) -> None:
    path = chain.run / "notebooks" / f"{stage}.ipynb"
    assert path.stat().st_size < 1_000_000
    cells = json.loads(path.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "nothing is said on standard error"
    assert not any("application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs), "a figure is shown in the notebook itself"
    assert any("injected-parameters" in cell["metadata"].get("tags", []) for cell in cells)
    last = [cell for cell in cells if cell["cell_type"] == "code"][-1]
    assert f"{stage} finished" in json.dumps(last["outputs"])


def test_every_figure_is_saved_once_and_is_a_picture(chain: Chain) -> None:
    figures = sorted(path.name for path in (chain.run / "figures").iterdir())
    manifests = [json.loads((chain.run / stage / "manifest.json").read_text()) for stage in STAGES]
    assert figures == sorted(name for manifest in manifests for name in manifest["figures"])
    assert all(any(name.startswith(stage) for name in figures) for stage in STAGES)
    assert all((chain.run / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in figures)


def test_manifests_link_the_stages_and_record_the_machine(chain: Chain) -> None:
    manifests = {stage: json.loads((chain.run / stage / "manifest.json").read_text()) for stage in STAGES}
    for stage, inputs in STAGES.items():
        match, record = manifests[stage]["match"], manifests[stage]["record"]
        assert match["inputs"] == {name: manifests[name]["hash"] for name in inputs}
        assert record["seed"] == 7 and record["data_kind"] == "synthetic"
        assert {"python", "torch", "transformers", "trl"} <= record["versions"].keys()
        assert (chain.run / stage / "metrics.json").is_file()


def test_training_learned_something(chain: Chain) -> None:
    sft = json.loads((chain.run / "02_sft" / "metrics.json").read_text())
    assert sft["last_loss"] < sft["first_loss"]
    rl = json.loads((chain.run / "03_rl" / "metrics.json").read_text())
    assert -1.0 <= rl["first_reward"] <= 1.3 and -1.0 <= rl["last_reward"] <= 1.3


def test_a_second_run_skips_everything_and_is_fast(chain: Chain, tmp_path: Path) -> None:
    before = (chain.run / "results.json").read_bytes()
    done, seconds = rrlib_run(chain.outputs, tmp_path, str(SMOKE))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unchanged, skipped") == 4
    assert seconds < 15 and seconds < chain.seconds / 3
    assert (chain.run / "results.json").read_bytes() == before
    assert "first-stage" in done.stdout and "04_evaluation skipped" in done.stdout


def test_a_changed_parameter_names_itself_and_what_follows_runs_again(here: Chain, tmp_path: Path) -> None:
    shutil.copytree(here.run, tmp_path / "smoke")
    changed = tmp_path / "changed.yaml"
    changed.write_text(SMOKE.read_text() + "01_synthesis:\n  alpha: 0.45\n")
    done, _ = rrlib_run(tmp_path, tmp_path, str(changed), "--until", "01")
    assert done.returncode == 0, done.stderr
    assert "changed, runs again: parameters.alpha: 0.4 -> 0.45" in done.stdout
    assert (tmp_path / "smoke" / "01_synthesis.previous" / "manifest.json").is_file()
    (tmp_path / "smoke" / "02_sft" / "manifest.json").unlink()
    done, _ = rrlib_run(tmp_path, tmp_path, str(changed), "--from", "03")
    assert done.returncode == 1 and "needs 02_sft" in done.stderr


def test_from_takes_the_stages_before_as_they_are(here: Chain) -> None:
    lines: list[str] = []
    result = run_chain(SMOKE, start="03", echo=lines.append, live=False)
    assert result.seconds == {"03_rl": None, "04_evaluation": None}
    assert len(result.notebooks) == 4 and len(result.rows) > 0


def test_a_notebook_opened_alone_makes_what_is_missing_at_smoke_size(tmp_path: Path) -> None:
    """The first cells of 02, as in Jupyter: no chain, no outputs."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "notebooks" / "02_sft.ipynb", 4)
    last = next(
        i for i, cell in enumerate(notebook.cells) if "begin(config)" in cell.source and cell.cell_type == "code"
    )
    notebook.cells = notebook.cells[: last + 1]
    before = dict(os.environ)
    os.environ.update(environment(tmp_path))
    try:
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
        ).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    shown = json.dumps(notebook.cells[-1].outputs)
    assert "SMOKE SIZE" in shown and "stage 02_sft of run smoke: begun" in shown
    assert (tmp_path / "smoke" / "01_synthesis" / "manifest.json").is_file()


@pytest.mark.parametrize(("stage", "first", "last"), [("03_rl", "01", "02"), ("04_evaluation", "01", "03")])
def test_03_and_04_opened_alone_run_the_stages_before_them_and_say_so(
    stage: str,
    first: str,
    last: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the defaults of their parameters cells and no outputs: the smoke profile, from the first that is missing.

    The runner is the one of the test above; here it only writes down what it is asked for.
    """
    asked = []

    class Runner:
        returncode, stdout = 0, ("[1/2] made\n",)

        def __init__(self, command: list[str], **_: Any) -> None:
            asked.append(command)
            for name in ("01_synthesis", "02_sft", "03_rl"):
                (tmp_path / "smoke" / name).mkdir(parents=True, exist_ok=True)
                (tmp_path / "smoke" / name / "manifest.json").write_text(
                    '{"hash": "0", "record": {"data_kind": "synthetic"}}'
                )

        def __enter__(self) -> Runner:
            return self

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    monkeypatch.delenv("RRLIB_CHAIN", raising=False)
    monkeypatch.setattr("rrlib.chain.run.subprocess.Popen", Runner)
    defaults = {name: parameter.default for name, parameter in declared_parameters(notebook_path(stage)).items()}
    begin(collect(stage, defaults))
    (command,) = asked
    assert command[3:5] == ["run", str(SMOKE)] and command[-4:] == ["--from", first, "--until", last]
    assert "made now at SMOKE SIZE" in capsys.readouterr().out


# --- failing, interrupting, refusing ---------------------------------------------------------------------------------


def small_notebook(path: Path, *cells: str) -> Path:
    made: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": "## The part"}]
    made += [
        {"cell_type": "code", "metadata": {"tags": ["parameters"] if i == 0 else []}, "source": source}
        | {"outputs": [], "execution_count": None}
        for i, source in enumerate(("x = 1  # count", *cells))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}))
    return path


def test_the_kernel_is_this_interpreter_with_this_library(tmp_path: Path) -> None:
    from rrlib.chain.papermill_engine import execute

    code = "import os, sys, rrlib; print(sys.prefix); print(rrlib.__file__); print(os.environ['RRLIB_CHAIN'], x)"
    lines: list[str] = []
    notebook = small_notebook(tmp_path / "a.ipynb", code)
    execute(notebook, tmp_path / "out" / "a.ipynb", {"x": 5}, echo=lines.append, live=False)
    cells = json.loads((tmp_path / "out" / "a.ipynb").read_text())["cells"]
    printed = "".join(cells[-1]["outputs"][0]["text"]).split("\n")
    assert printed[:3] == [sys.prefix, str(ROOT / "rrlib" / "__init__.py"), "1 5"]
    assert len(lines) == 1 and lines[0].strip().startswith("The part")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("1 / 0", StageError, "ZeroDivisionError"),
        (
            "from rrlib.errors import InputError\nraise InputError('no such corpus', path='c')",
            InputError,
            "no such corpus",
        ),
    ],
)
def test_a_failing_cell_is_named_and_the_partial_notebook_stays(
    code: str, kind: type[Exception], words: str, tmp_path: Path
) -> None:
    from rrlib.chain.papermill_engine import execute

    notebook = small_notebook(tmp_path / "a.ipynb", "print('came this far')", code, "print('never')")
    output = tmp_path / "out" / "a.ipynb"
    with pytest.raises(kind) as caught:
        execute(notebook, output, {"x": 2}, echo=lambda line: None, live=False)
    message = str(caught.value)
    assert words in message and str(output) in message and "a, cell 4" in message
    text = output.read_text()
    assert "came this far" in text and '"never' not in text


def test_ctrl_c_keeps_what_ran_and_frees_the_kernel(tmp_path: Path) -> None:
    notebook = small_notebook(
        tmp_path / "a.ipynb",
        f"import os, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); print('one')",
        "import time; time.sleep(120)",
    )
    script = (
        "import sys; from pathlib import Path; from rrlib.chain.papermill_engine import execute\n"
        "try: execute(Path(sys.argv[1]), Path(sys.argv[2]), {'x': 2}, echo=print, live=False)\n"
        "except KeyboardInterrupt: sys.exit(130)"
    )
    output = tmp_path / "out.ipynb"
    process = subprocess.Popen([sys.executable, "-c", script, str(notebook), str(output)], env=environment(tmp_path))
    pid = tmp_path / "pid"
    _wait_until(lambda: pid.exists() and output.exists() and "one" in output.read_text())
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert '"one\\n"' in output.read_text()
    kernel = int(pid.read_text())
    _wait_until(lambda: not Path(f"/proc/{kernel}").exists() or "Z" in Path(f"/proc/{kernel}/stat").read_text())


def _wait_until(done: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_the_live_line_tells_section_and_last_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rrlib.chain.papermill_engine import execute

    notebook = small_notebook(tmp_path / "a.ipynb", "print('step 3 of 9', flush=True)\nimport time; time.sleep(2.5)")
    execute(notebook, tmp_path / "out.ipynb", {"x": 2}, echo=print, live=True)
    assert re.search(r"The part \.\.\. \d s  step 3 of 9", capsys.readouterr().out)


def test_two_runners_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    (tmp_path / "smoke").mkdir()
    with (tmp_path / "smoke" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StageError, match="another process"):
            run_chain(SMOKE, echo=lambda line: None)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.yaml"], 2, "no such profile"),
        ([str(SMOKE), "--from", "07"], 2, "no stage '07'"),
        ([str(SMOKE), "--from", "03", "--until", "02"], 2, "after --until"),
        ([str(SMOKE), "--name", "../up"], 2, "run name"),
        ([str(SMOKE), "--name", ""], 2, "run name"),
        ([str(SMOKE), "--from", "02"], 1, "needs 01_synthesis"),
        ([], 2, "profile"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["run", *arguments]) == code
    assert words in capsys.readouterr().err


def test_stages_are_named_by_number_or_name() -> None:
    assert [stage_named(text) for text in ("01", "2", "03_rl")] == ["01_synthesis", "02_sft", "03_rl"]


# --- results ---------------------------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    values = ("sft", "miniature", "nDCG@10", 0.5, 0.4, 0.6, 24, 7, "smoke", "synthetic")
    return dict(zip(ROW_KEYS, values, strict=True)) | changes


class FakeStage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)


@pytest.mark.parametrize(
    "rows",
    [
        [row(), row()],
        [row(mean=55.0, high=60.0)],
        [row(low=0.55)],
        [{"system": "sft"}],
        [row() | {"more": 1}],
        [row(system="sft-rl")],
        [row(system="")],
    ],
)
def test_results_that_are_none_are_refused(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(StageError):
        write_results(FakeStage(tmp_path), rows)  # type: ignore[arg-type]
    assert not (tmp_path / "results.json").exists()


def test_results_are_written_and_rendered(tmp_path: Path) -> None:
    rows = [row(system="oracle", mean=0.6), row(), row(metric="R@5")]
    path = write_results(FakeStage(tmp_path), rows)  # type: ignore[arg-type]
    assert json.loads(path.read_text()) == {"rows": rows}
    lines = render_results(rows).splitlines()
    assert lines[1].split() == ["system", "nDCG@10", "R@5", "n", "data"]
    assert [line.split()[0] for line in lines[3:]] == ["sft", "oracle"]
    assert "0.500 [0.400, 0.600]" in lines[3] and "synthetic" in lines[3]
    assert render_results([]) == "no results"
    other = [row(system="ReasonRank-7B")]  # a profile that names its checkpoints names its systems too
    assert write_results(FakeStage(tmp_path), other, ["first-stage", "ReasonRank-7B"]).is_file()  # type: ignore[arg-type]
