"""Profiles and parameters cells: what fits is read as it stands, everything else is refused by file, key and remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rrlib.chain.params import (
    RESERVED,
    STAGES,
    check_value,
    collect,
    declared_parameters,
    load_profile,
    notebook_path,
)
from rrlib.errors import MissingFileError, ProfileError
from rrlib.resources import repository

ROOT = Path(__file__).resolve().parent.parent
HEAD = "name: mine\nseed: 1\n"


def profile(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def notebook(folder: Path, source: str, *, tags: tuple[str, ...] = ("parameters",), copies: int = 1) -> Path:
    """A folder with the four notebooks, 02 replaced by one that holds `source` as its parameters cell."""
    shutil.copytree(ROOT / "notebooks", folder)
    cell = {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source.splitlines(keepends=True)}
    body = {"cells": [cell] * copies, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (folder / "02_sft.ipynb").write_text(json.dumps(body), encoding="utf-8")
    return folder / "02_sft.ipynb"


# --- profiles --------------------------------------------------------------------------------------------------------

BAD = {
    "unknown key": (HEAD + "02_sft:\n  learning_rte: 1.0e-3\n", 4, "learning_rte", "learning_rate"),
    "unknown key without a neighbour": (HEAD + "02_sft:\n  zzz: 1\n", 4, "zzz", "parameters cell"),
    "key of another notebook": (HEAD + "01_synthesis:\n  epochs: 1.0\n", 4, "epochs", ""),
    "unknown section": (HEAD + "02_stf:\n  epochs: 1.0\n", 3, "02_stf", "02_sft"),
    "shared key nobody declares": (HEAD + "shared:\n  windows: 10\n", 4, "windows", "window"),
    "number read as a string": (HEAD + "02_sft:\n  learning_rate: 1e-6\n", 4, "1e-6", "1.0e-6"),
    "number read as a string, no sign": (HEAD + "02_sft:\n  learning_rate: 1.5e6\n", 4, "1.5e6", "1.5e+6"),
    "quoted number": (HEAD + '02_sft:\n  epochs: "2"\n', 4, "epochs", "quotes"),
    "float for an int": (HEAD + "02_sft:\n  micro_batch: 8.0\n", 4, "micro_batch", "such as 8"),
    "bool for an int": (HEAD + "02_sft:\n  micro_batch: true\n", 4, "micro_batch", ""),
    "int for a bool": (HEAD + "02_sft:\n  gradient_checkpointing: 1\n", 4, "gradient_checkpointing", ""),
    "number for a string": (HEAD + "shared:\n  style: 3\n", 4, "style", ""),
    "null": (HEAD + "02_sft:\n  epochs:\n", 4, "epochs", ""),
    "not a number": (HEAD + "02_sft:\n  epochs: .nan\n", 4, "nan", ""),
    "string for a list": (HEAD + "04_evaluation:\n  metrics: nDCG@10\n", 4, "metrics", ""),
    "wrong item of a list": (HEAD + "04_evaluation:\n  metrics: [nDCG@10, 5]\n", 4, "metrics[1]", ""),
    "list for a mapping": (HEAD + "03_rl:\n  reward_weights: [1.0]\n", 4, "reward_weights", ""),
    "string inside a mapping of numbers": (HEAD + "03_rl:\n  reward_weights: {ndcg: 1e-1}\n", 4, "1e-1", "1.0e-1"),
    "reserved key in a section": (HEAD + "02_sft:\n  seed: 3\n", 4, "seed", "top-level"),
    "interactive": (HEAD + "shared:\n  interactive: true\n", 4, "interactive", "Jupyter"),
    "run": (HEAD + "shared:\n  run: other\n", 4, "run", "--name"),
    "no name": ("seed: 1\n", None, "'name'", "name:"),
    "no seed": ("name: mine\n", None, "'seed'", "seed:"),
    "seed is a string": ("name: mine\nseed: seven\n", 2, "seed", ""),
    "name is a path": ("name: ../mine\nseed: 1\n", 1, "../mine", "letters"),
    "section is a list": (HEAD + "02_sft: [epochs]\n", 3, "02_sft", ""),
    "key twice": (HEAD + "02_sft:\n  epochs: 1.0\n  epochs: 2.0\n", 5, "epochs", "line 4"),
    "section twice": (HEAD + "02_sft:\n  epochs: 1.0\n02_sft:\n  epochs: 2.0\n", 5, "02_sft", "line 3"),
    "broken YAML": (HEAD + "02_sft: {epochs: 1.0\n", 4, "YAML", ""),
    "tab": (HEAD + "02_sft:\n\tepochs: 1.0\n", 4, "YAML", ""),
    "empty": ("", None, "mapping", "name:"),
    "a list": ("- name\n", None, "mapping", "name:"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", None, "UTF-8", "UTF-8"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_profiles_are_refused_by_file_line_key_and_remedy(case: str, tmp_path: Path) -> None:
    text, line, key, remedy = BAD[case]
    path = profile(tmp_path, text)
    with pytest.raises(ProfileError) as caught:
        load_profile(path)
    assert caught.value.path == path
    assert caught.value.line == line
    assert key in str(caught.value)
    assert remedy in str(caught.value)


def test_a_missing_profile_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no such profile"):
        load_profile(tmp_path / "none.yaml")


def test_a_profile_sets_what_it_names_and_leaves_the_rest_at_its_default(tmp_path: Path) -> None:
    text = HEAD + "shared:\n  window: 8\n02_sft:\n  epochs: 3\n  learning_rate: 1.0e-6\n04_evaluation:\n  window: 6\n"
    read = load_profile(profile(tmp_path, text))
    sft, evaluation = read.parameters("02_sft", run="other"), read.parameters("04_evaluation")
    assert (sft["window"], sft["epochs"], sft["learning_rate"], sft["run"]) == (8, 3.0, 1e-6, "other")
    assert isinstance(sft["epochs"], float)  # an int stands for a float, and arrives as one
    assert (evaluation["window"], evaluation["run"], evaluation["profile"]) == (6, "mine", "mine")
    assert sft["seed"] == 1 and sft["interactive"] is False and "profile" not in sft
    defaults = declared_parameters(notebook_path("02_sft"))
    changed = {"window", "epochs", "learning_rate", "run", "seed"}
    assert all(sft[name] == parameter.default for name, parameter in defaults.items() if name not in changed)


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_of_the_repository_fits(path: Path) -> None:
    read = load_profile(path)
    assert read.name == path.stem
    assert read.description and read.hardware
    for stage in STAGES:
        assert read.parameters(stage)["run"] == path.stem


def test_smoke_is_the_notebooks_defaults() -> None:
    read = load_profile(ROOT / "params" / "smoke.yaml")
    for stage in STAGES:
        declared = declared_parameters(notebook_path(stage))
        assert read.parameters(stage) == {name: parameter.default for name, parameter in declared.items()}


# --- parameters cells ------------------------------------------------------------------------------------------------

BAD_CELLS = {
    "derived": ("epochs = 2.0  # count\nwarmup = epochs / 20  # share\n", "warmup", "derived"),
    "call": ("model = str('x')  # name\n", "model", "derived"),
    "import": ("import os\n", "import os", "cell of its own"),
    "two targets": ("a = b = 1  # count\n", "a = b = 1", "cell of its own"),
    "annotation without a value": ("a: int  # count\n", "a: int", "cell of its own"),
    "twice": ("a = 1  # count\na = 2  # count\n", "'a'", "one line"),
    "syntax": ("a = = 1\n", "does not parse", ""),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_a_parameters_cell_holds_literals_only(case: str, tmp_path: Path) -> None:
    source, key, remedy = BAD_CELLS[case]
    path = notebook(tmp_path / "notebooks", source)
    with pytest.raises(ProfileError) as caught:
        declared_parameters(path)
    assert caught.value.path == path
    assert key in str(caught.value) and remedy in str(caught.value)


@pytest.mark.parametrize(("tags", "copies"), [((), 1), (("parameters",), 2)])
def test_exactly_one_cell_is_tagged(tags: tuple[str, ...], copies: int, tmp_path: Path) -> None:
    notebook(tmp_path / "notebooks", "epochs = 2.0  # count\n", tags=tags, copies=copies)
    with pytest.raises(ProfileError, match="one is wanted"):
        load_profile(profile(tmp_path, HEAD), tmp_path / "notebooks")


def test_a_notebook_that_is_none(tmp_path: Path) -> None:
    path = notebook(tmp_path / "notebooks", "")
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ProfileError, match="not a notebook"):
        declared_parameters(path)
    with pytest.raises(MissingFileError, match="no such notebook"):
        notebook_path("09_none")


def test_declared_parameters_have_values_and_comments(tmp_path: Path) -> None:
    source = 'a = -1  # count\nb: float = 1.0e-6  # per update\nc = ["x # y"]  # names\n'
    found = declared_parameters(notebook(tmp_path / "notebooks", source))
    assert [(p.name, p.default, p.comment) for p in found.values()] == [
        ("a", -1, "count"),
        ("b", 1e-6, "per update"),
        ("c", ["x # y"], "names"),
    ]


def test_collect_takes_the_values_of_the_notebook_and_checks_them() -> None:
    declared = declared_parameters(notebook_path("03_rl"))
    namespace = {name: parameter.default for name, parameter in declared.items()} | {"steps": 5, "beta": 0, "other": 1}
    config = collect("03_rl", namespace)
    assert (config.stage, config.steps, config.beta) == ("03_rl", 5, 0.0)
    assert list(config.as_dict()) == list(declared)
    with pytest.raises(ProfileError, match="steps"):
        collect("03_rl", namespace | {"steps": "5"})
    del namespace["steps"]
    with pytest.raises(ProfileError, match="run the parameters cell first"):
        collect("03_rl", namespace)


def test_a_default_of_none_takes_anything_but_nan() -> None:
    check_value("x", 3, None)
    with pytest.raises(ProfileError, match="nan"):
        check_value("x", float("nan"), None)


def test_the_repository_is_found_and_reserved_names_are_explained() -> None:
    assert repository() == ROOT
    assert all(RESERVED.values())
