"""Faults that others met, part: files. Each table holds one kind of input; each row says what must come of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rrlib import formats
from rrlib.chain.from_profile import config_of
from rrlib.chain.manifest import references
from rrlib.chain.params import collect, declared_parameters, load_profile, notebook_path
from rrlib.evaluation.fetch import fetch
from rrlib.evaluation.registry import expand, get_benchmark
from rrlib.resources import repository, resolve

ROOT = repository()


# --- relative paths mean the folder where the command was given ------------------------------------------------------


def one_cell(path: Path, *lines: str) -> Path:
    """A notebook of a parameters cell (`profile`, a path) and one cell of these lines."""
    sources = (("parameters",), 'profile = ""  # a profile (path)'), ((), "\n".join(lines))
    cells = [
        {
            "cell_type": "code",
            "metadata": {"tags": list(tags)},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for tags, source in sources
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}))
    return path


def execute(notebook: Path, profile: Path) -> str:
    """What the notebook's last cell prints, run as `rrlib run` runs it: far from the folder of the command."""
    from rrlib.chain.papermill_engine import execute as run_notebook

    output = notebook.parent / "outputs" / "x" / "notebooks" / notebook.name
    run_notebook(notebook, output, {"profile": str(profile)}, echo=lambda line: None, live=False)
    outputs = json.loads(output.read_text())["cells"][-1]["outputs"]
    return "".join(text for one in outputs for text in one.get("text", []))


def profile_of(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"name: mine\nseed: 1\n{text}")
    return path


def test_a_notebook_sees_the_relative_paths_of_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collection, model and root of the benchmarks in one kernel: it begins in the folder of the command, and what the
    runner would compare (`references`) is what the notebook's stage compares."""
    (tmp_path / "work" / "mydata" / "coll").mkdir(parents=True)
    (tmp_path / "work" / "mydata" / "model").mkdir()
    (tmp_path / "work" / "mydata" / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("RRLIB_DATA", "mydata")
    profile = profile_of(tmp_path, "01_synthesis:\n  corpus: mydata/coll\n02_sft:\n  model: mydata/model\n")
    notebook = one_cell(
        tmp_path / "a.ipynb",
        "import json",
        "from pathlib import Path",
        "from rrlib.chain.from_profile import config_of, corpus_folder",
        "from rrlib.chain.manifest import references",
        "from rrlib.chain.params import load_profile",
        "from rrlib.evaluation.benchmarks import data_root",
        "loaded = load_profile(profile)",
        "corpus = corpus_folder(config_of(loaded, '01_synthesis').corpus, Path('own'), seed=1)",
        "model = config_of(loaded, '02_sft').model",
        "print(json.dumps([str(corpus), references(model), str(data_root().resolve())]))",
    )
    corpus, seen, root = json.loads(execute(notebook, profile))
    assert corpus == str(tmp_path / "work" / "mydata" / "coll") and root == str(tmp_path / "work" / "mydata")
    assert seen == references("mydata/model") and list(seen) == ["mydata/model"]


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [
        ("01_synthesis", "corpus", "~/coll"),
        ("01_synthesis", "import_from", "~/released/data.jsonl"),
        ("02_sft", "model", "~/models/qwen"),
        ("04_evaluation", "data_root", "~/data"),
        ("04_evaluation", "checkpoints", {"ours": "~/a", "hub": "org/name"}),
        ("04_evaluation", "benchmarks", ["~/sets/one", "beir/scifact"]),
        ("05_ablations", "take_from", ["~/runs/one"]),
    ],
)
def test_home_is_written_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, name: str, value: Any
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    text = json.dumps(value)
    expected = json.loads(text.replace("~", str(tmp_path)))
    profile = profile_of(tmp_path, f"stages: [{stage}]\n{stage}:\n  {name}: {text}\n")
    assert load_profile(profile).parameters(stage)[name] == expected
    defaults = {key: parameter.default for key, parameter in declared_parameters(notebook_path(stage)).items()}
    assert getattr(collect(stage, {**defaults, name: value}), name) == expected  # the same by hand, in Jupyter


@pytest.mark.parametrize("name", ["~/model", "~/deep/er/model", "~"])
def test_home_is_written_out_wherever_a_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(name) == name.replace("~", str(tmp_path))
    assert resolve("org/~name") == "org/~name" and resolve("a~b") == "a~b"


def hub(path: str, configuration: str) -> Any:
    """BRIGHT as the hub has it, two documents and one query a set."""
    rows = {
        "examples": [{"id": "0", "query": "why", "gold_ids": ["d/1.txt"], "excluded_ids": ["N/A"]}],
        "documents": [{"id": "d/1.txt", "content": "because"}, {"id": "d/2.txt", "content": "so"}],
        "gpt4_reason": [{"id": "0", "query": "why, at length"}],
    }[configuration]

    class EverySet(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return rows

    return EverySet()


def bright_below(root: Path) -> None:
    """What `rrlib bench fetch bright --root ROOT` leaves, and the first stage as the recipe says."""
    for name in expand(["bright"]):
        folder = fetch(get_benchmark(name), root / name, load_dataset=hub)
        formats.write_run(folder / "runs" / "reasonir.trec.gz", {"0": ["d/2.txt", "d/1.txt"]}, "t")


@pytest.mark.parametrize("variable", [None, "data", "elsewhere/copies"])
def test_the_recipe_of_bright_works_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    """The folder `data` where the command is given, or what RRLIB_DATA names from there: all 12 sets, in a kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RRLIB_DATA", raising=False)
    if variable:
        monkeypatch.setenv("RRLIB_DATA", variable)
    bright_below(Path(variable or "data"))
    notebook = one_cell(
        tmp_path / "b.ipynb",
        "from types import SimpleNamespace",
        "from rrlib.chain.from_profile import config_of",
        "from rrlib.chain.params import load_profile",
        "from rrlib.chain.stages import evaluation_data",
        "data = evaluation_data(SimpleNamespace(), config_of(load_profile(profile), '04_evaluation'))",
        "print(len(data), *{(*[p.text for p in d.candidates()[0].passages], d.first_stage) for d in data})",
    )
    assert execute(notebook, ROOT / "params" / "bright-7b.yaml") == "12 ('so', 'because', 'reasonir')\n"


def test_what_the_large_profile_says_of_its_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rrlib.chain.from_profile import corpus_folder

    monkeypatch.chdir(tmp_path)
    config = config_of(load_profile(ROOT / "params" / "qwen2.5-7b.yaml"), "01_synthesis")
    assert corpus_folder(config.corpus, Path("own"), seed=1) == tmp_path / "data" / "reasonrank"
