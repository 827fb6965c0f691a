"""Faults of what is said of a run: its results, its plan, its profile's comments and its pages."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from rrlib.chain.from_profile import evaluations_of, plans_of
from rrlib.chain.manifest import open_stage
from rrlib.chain.params import inputs_of
from rrlib.chain.results import ROW_KEYS
from rrlib.chain.run import ChainResult, render_chain, run_chain
from rrlib.cli import main
from rrlib.disk import read_json, write_json
from rrlib.lesson.pages import export_html
from rrlib.plans.evaluation import paper_plan
from rrlib.studies.recipes import FIRST_STAGE, RECIPES
from rrlib.studies.stored import stored_rows

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params"


# --- rrlib run --------------------------------------------------------------------------------------------------------
@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of runs, in which notebooks are not executed: each leaves a figure, the last also a row of results."""

    def execute(notebook: Path, target: Path, parameters: dict[str, Any], **_: Any) -> None:
        name, run_dir = notebook.stem, tmp_path / "outputs" / parameters["run"]
        stage = open_stage(run_dir, name, parameters, inputs_of(name, parameters))
        stage.data_kind = "synthetic"
        stage.path("data.json").write_text(json.dumps(parameters))
        if name == "04_evaluation":
            values = ("sft", "miniature", "nDCG@10", 0.5, 0.4, 0.6, 24, 7, "a", "synthetic")
            write_json(stage.path("results.json"), {"rows": [dict(zip(ROW_KEYS, values, strict=True))]})
        stage.figures.append(f"{name}_one.png")
        for path in (run_dir / "figures" / stage.figures[0], target):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        stage.finish()

    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr("rrlib.chain.papermill_engine.execute", execute)
    yield tmp_path / "outputs"


def chain(folder: Path, settings: str = "", until: str | None = None) -> tuple[ChainResult, list[str]]:
    """What a run named `a` of a profile with these settings has, and the lines that it printed."""
    profile, lines = folder.parent / "a.yaml", list[str]()
    profile.write_text(f"name: a\nseed: 7\n{settings}")
    return run_chain(profile, until=until, live=False, echo=lines.append), lines


@pytest.mark.parametrize(
    ("settings", "until", "stale"),
    [
        ("01_synthesis: {train_queries: 150}\n", "01", ("02_sft", "03_rl", "04_evaluation")),
        ("02_sft: {epochs: 5.0}\n", "02", ("03_rl", "04_evaluation")),
        ("03_rl: {steps: 1}\n", "03", ("04_evaluation",)),
        ("04_evaluation: {depth: 10}\n", "03", ("04_evaluation",)),  # its inputs are those of now, its settings not
    ],
)
def test_results_of_earlier_settings_are_not_those_of_this_run(
    outputs: Path, settings: str, until: str, stale: tuple[str, ...]
) -> None:
    whole, lines = chain(outputs)
    assert len(whole.rows) == 1 and len(whole.figures) == len(whole.notebooks) == 4
    assert not any(" is of earlier settings" in line for line in lines)
    part, lines = chain(outputs, settings, until)
    assert tuple(line.split()[0] for line in lines if " is of earlier settings" in line) == stale
    assert part.rows == [] and not (outputs / "a" / "results.json").exists()
    shown = render_chain(part)
    assert "results:" not in shown and not any(stage in shown.partition("seconds:")[0] for stage in stale)
    assert len(part.figures) == len(part.notebooks) == 4 - len(stale)
    assert (outputs / "a" / "04_evaluation" / "results.json").is_file()
    again, _ = chain(outputs, settings)
    assert len(again.rows) == 1 and (outputs / "a" / "results.json").is_file() and len(again.figures) == 4


def test_an_ancestor_of_earlier_settings_makes_all_behind_it_so(outputs: Path) -> None:
    """04's own inputs may be as they were while one of them is not made from what is there now."""
    chain(outputs)
    path = outputs / "a" / "03_rl" / "manifest.json"
    manifest = read_json(path)
    manifest["match"]["inputs"]["02_sft"] = "another"
    write_json(path, manifest)
    part, lines = chain(outputs, until="02")
    assert part.rows == [] and [line.split()[0] for line in lines if " is of earlier" in line] == [
        "03_rl",
        "04_evaluation",
    ]


def test_results_of_the_same_settings_stay_those_of_this_run(outputs: Path) -> None:
    chain(outputs)
    part, lines = chain(outputs, until="01")
    assert (
        len(part.rows) == 1 and len(part.figures) == 4 and not any(" is of earlier settings" in line for line in lines)
    )


# --- rrlib plan -------------------------------------------------------------------------------------------------------
@pytest.fixture
def nothing_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["smoke", "miniature", "straddle"])
def test_profiles_of_4_gb_fit_4_gb(name: str, nothing_made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = PARAMS / f"{name}.yaml"
    assert "4 GB of memory" in profile.read_text(encoding="utf-8")
    assert main(["plan", str(profile), "--gpu-memory", "4"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(": fits") == 2
    rows = re.findall(r"tokens of a row: (\d+), the longest of (\d+) lists made for this plan", shown)
    assert len(rows) == 2 and all(int(tokens) < 1000 and int(lists) > 100 for tokens, lists in rows)
    assert "tests/" not in shown  # who has the wheel alone has no tests


def test_a_plan_counts_with_the_rows_of_its_run(nothing_made: Path) -> None:
    from rrlib.formats import write_examples
    from rrlib.studies.stored import stored_experiments

    stage = nothing_made / "smoke" / "01_synthesis"
    path = stage / "teacher" / "examples.jsonl"
    path.parent.mkdir(parents=True)
    write_examples(path, [stored_experiments().example])
    write_json(stage / "manifest.json", {})
    sft, grpo = plans_of(PARAMS / "smoke.yaml", gpu_memory=4.0)
    for plan in (sft, grpo):
        assert dict(plan.facts)["tokens of a row"].endswith("the longest of the run smoke")


def test_where_nothing_is_known_of_the_rows_a_plan_is_for_the_limit(nothing_made: Path) -> None:
    sft, _ = plans_of(PARAMS / "qwen2.5-7b.yaml")
    assert "the most that is allowed" in dict(sft.facts)["tokens of a row"]


def test_a_plan_has_the_stages_of_its_profile_and_no_others(
    nothing_made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, trainings, evaluated in (("bright-7b", [], 1), ("ablations", [], 0), ("efficiency", ["SFT"], 0)):
        profile = PARAMS / f"{name}.yaml"
        assert [plan.kind for plan in plans_of(profile)] == trainings
        assert len(evaluations_of(profile)) == evaluated
        assert main(["plan", str(profile)]) == 0
        shown = capsys.readouterr().out
        assert ("SFT of" in shown, "GRPO of" in shown) == ("SFT" in trainings, False)
        assert ("evaluation of liu" in shown, "miniature/backbone" in shown) == (evaluated == 1, bool(trainings))
        assert ("rrlib plan params/miniature.yaml" in shown) is (name == "ablations")


def test_what_only_evaluates_is_planned_for_the_gpu_of_its_hardware() -> None:
    """80 GB, as `rrlib bench plan` counts; not the memory of the machine at hand."""
    (here,) = evaluations_of(PARAMS / "bright-7b.yaml")
    small = evaluations_of(PARAMS / "bright-7b.yaml", gpu_memory=40.0)[0]
    expected = paper_plan(["bright"], max_passage_tokens=512, window=20, stride=10, depth=100)
    assert here.sequences == expected.sequences > small.sequences


# --- profiles and benchmarks ------------------------------------------------------------------------------------------
def test_the_profile_of_the_ablations_says_what_it_makes() -> None:
    text = (PARAMS / "ablations.yaml").read_text(encoding="utf-8")
    rows, seeds = (yaml.safe_load(text)["05_ablations"][key] for key in ("rows", "seeds"))
    trained = [row for row in rows if row != FIRST_STAGE and (RECIPES[row].sft or RECIPES[row].rl)]
    assert (len(rows), len(trained), len(seeds)) == (10, 8, 3)
    assert "Ten rows on three seeds" in text and "the other eight are trained" in text and "nine" not in text
    assert "description: ten rows of the ablation table on three seeds, eight of them trained" in text
    assert "python -m rrlib.studies.make" in text
    made = [row for row in stored_rows() if row.row in trained and row.seed in seeds and row.seconds]
    minutes = [sum(row.seconds.values()) / 60 for row in made]
    words = " ".join(text.replace("\n#", " ").split())
    assert f"{min(minutes):.0f} to {max(minutes):.0f} minutes for a trained row and a seed" in words


@pytest.mark.parametrize(("arguments", "engine"), [([], "prefix"), (["--engine", "generate"], "generate")])
def test_the_benchmark_of_grpo_says_who_drew_its_rollouts(
    arguments: list[str], engine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library's own choice is no longer transformers: on a CPU it is the prefix decoder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import grpo_gpu

    monkeypatch.setattr("measure.device", lambda: ("cpu", "a CPU"))
    small = ["--tiny", "--steps", "1", "--prompts", "2", "--rollouts", "2"]
    assert grpo_gpu.main([*small, *arguments]) == 0
    shown = capsys.readouterr().out
    assert f"rollouts by {engine}" in shown
    assert json.loads(shown.strip().splitlines()[-1])["rollouts"].startswith(engine)


# --- pages ------------------------------------------------------------------------------------------------------------
COLOURS = {"ndcg": (222, 143, 5), "rbo": (213, 94, 0), "entropy": (251, 175, 228)}


def picture() -> str:
    """A figure as training has them, in base64: thin lines and the bands around them, four panels."""
    from matplotlib.figure import Figure

    figure, out = Figure(figsize=(13, 3.5)), io.BytesIO()
    for number, axes in enumerate(figure.subplots(1, 4)):
        for height, colour in enumerate(COLOURS.values(), number):
            shade = [part / 255 for part in colour]
            axes.fill_between([0, 1, 2], [height - 1, height - 2, height], height + 1, color=shade, alpha=0.12)
            axes.plot([0, 1, 2], [height, height + 0.4, height], color=shade, linestyle="--", marker="s", markersize=4)
        axes.set_title("a picture of a training")
    figure.savefig(out, format="png", dpi=144, facecolor="white")
    return base64.b64encode(out.getvalue()).decode("ascii")


def test_pictures_of_a_page_keep_their_colours_and_have_a_text(tmp_path: Path) -> None:
    from PIL import Image

    notebook, made = nbformat.v4.new_notebook(), picture()
    sources = ['stage.figure("reward", curves(log))', "plot(log)", "plot(own)"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for cell in cells:
        cell.outputs = [nbformat.v4.new_output("display_data", {"image/png": made, "text/plain": "<Figure>"})]
    cells[2].outputs[0].metadata["image/png"] = {"alt": "its own words"}
    heads = [nbformat.v4.new_markdown_cell(text) for text in ("# 03\n\nText.", "## Training <here>\n\nMore.")]
    notebook.cells = [*heads, *cells]
    nbformat.write(notebook, tmp_path / "03.ipynb")
    page = export_html(tmp_path / "03.ipynb", tmp_path).read_text(encoding="utf-8")
    assert "No description has been provided" not in page
    assert [html.unescape(text) for text in re.findall(r'alt="([^"]*)"', page)] == [
        "Figure 'reward' under the heading 'Training <here>'",
        "Figure under the heading 'Training <here>'",
        "its own words",
    ]
    coded = re.findall(r'base64,([^"]+)"', page)[0]
    assert len(coded) < len(made)
    image = Image.open(io.BytesIO(base64.b64decode(coded))).convert("RGB")
    colours = [colour for _, colour in image.getcolors(1 << 24) or ()]
    for name, colour in COLOURS.items():
        away = min(max(abs(a - b) for a, b in zip(kept, colour, strict=True)) for kept in colours)
        assert away <= 12, f"{name} is {away} of 255 away"
