"""The rerankers that come with the package: what a card says is a row of the table, and they rank real sentences."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from rrlib import Reranker
from rrlib.evaluation.paired import paired_rows
from rrlib.resources import PACKAGE, SMOLLM2
from rrlib.studies.pointwise import settings
from rrlib.studies.real_rows import HEADLINE, read_rows, read_runs, runs_path, table_path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("smollm2-135m-judge",)


def folder_of(name: str) -> Path:
    return PACKAGE / "checkpoints" / name


def reference(name: str) -> str:
    return f"package:rrlib.checkpoints/{name}"


def source_of(name: str) -> dict[str, Any]:
    return dict(json.loads((folder_of(name) / "SOURCE.json").read_text(encoding="utf-8")))


def test_these_are_all() -> None:
    assert {folder.name for folder in (PACKAGE / "checkpoints").iterdir() if (folder / "SOURCE.json").exists()} == {
        *NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_card_shows_rows_of_the_table_and_they_beat_the_first_stage(name: str) -> None:
    rows, source = read_rows(table_path()), source_of(name)
    assert source["results"] and all(row in rows for row in source["results"])
    headline = [row for row in source["results"] if row["metric"] == HEADLINE]
    for collection in {row["collection"] for row in headline}:
        by_system = {row["system"]: row for row in headline if row["collection"] == collection}
        first, ours = by_system.pop("first-stage"), by_system.popitem()[1]
        assert not by_system and reference(name) in ours["command"]
        values = {
            run.system: run.values
            for run in read_runs(runs_path(table_path()))
            if run.own and (run.collection, run.first_stage) == (ours["collection"], ours["first_stage"])
            if run.profile in ("", ours["profile"])
        }
        sets = {system: {"": values[system]} for system in ("first-stage", ours["system"])}
        gap = next(row for row in paired_rows(sets, "first-stage") if row["system"] == ours["system"])
        assert ours["mean"] > first["mean"] and gap["p"] < 0.01, (
            "packed only if it beats its first stage by a paired test"
        )


@pytest.mark.parametrize("name", NAMES)
def test_the_card_names_base_licence_and_the_terms_of_the_data(name: str) -> None:
    card, source = (folder_of(name) / "README.md").read_text(encoding="utf-8"), source_of(name)
    assert source["base"] == SMOLLM2 and source["base_license"] == "apache-2.0"
    assert "EntailmentBank" in card and "non-commercial" in card and reference(name) in card
    assert sum(file.stat().st_size for file in folder_of(name).iterdir()) < 12e6


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_it_has_fused_and_how_it_was_trained(name: str) -> None:
    card, training = (folder_of(name) / "README.md").read_text(encoding="utf-8"), source_of(name)["training"]
    for collection, first_stage in (("entailmentbank", "ai2-25"), ("argkp", "stem")):
        (fused,) = [
            fmean(run.values)
            for run in read_runs(runs_path(table_path()))
            if "--with-first-stage" in run.command and reference(name) in run.command
            if (run.collection, run.first_stage) == (collection, first_stage)
        ]
        assert f"{fused:.3f} on {collection}" in card
    profile = settings(name, training["style"], training["seed"], []).as_dict()
    of_profile = {key: value for key, value in training.items() if key in profile}
    assert of_profile == {key: profile[key] for key in of_profile}
    assert {"learning_rate", "epochs", "accumulation", "max_length", "lora_rank"} <= set(of_profile)


@pytest.mark.smollm2
@pytest.mark.parametrize("name", NAMES)
def test_it_ranks_real_sentences_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    query = "Why does an iron nail that lies in the rain turn brown? It rusts."
    passages = [
        "A bird is a kind of animal.",
        "Iron rusts in water and air.",
        "The moon orbits the Earth.",
        "A nail is made of iron.",
        "Sugar is sweet.",
    ]
    ranked = [hit.text for hit in Reranker(reference(name)).rank(query, passages)]
    assert set(ranked[:2]) == {passages[1], passages[3]}


@pytest.mark.smollm2
@pytest.mark.parametrize("name", NAMES)
def test_the_lines_of_the_readme_run_with_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The README's own block, another model in it and no engine of the miniature."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (block,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    code, changed = re.subn(r'"package:rrlib\.miniature/reranker", engine="numpy"', f'"{reference(name)}"', block)
    assert changed == 1
    exec(compile(code, "README.md", "exec"), {})
    first, *others = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("1 ") and "Heated fluid rises and chilled fluid descends." in first and len(others) == 2
