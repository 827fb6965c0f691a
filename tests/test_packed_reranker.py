"""The reranker that comes with the package: what its card says is a row of the table, and it ranks real sentences."""

from __future__ import annotations

import json

import pytest

from rrlib import Reranker
from rrlib.evaluation.paired import paired_rows
from rrlib.resources import PACKAGE, SMOLLM2
from rrlib.studies.real_rows import HEADLINE, read_rows, read_runs, runs_path, table_path

NAME = "smollm2-135m-facts"
REFERENCE = f"package:rrlib.checkpoints/{NAME}"
FOLDER = PACKAGE / "checkpoints" / NAME
SOURCE = json.loads((FOLDER / "SOURCE.json").read_text(encoding="utf-8"))


def test_the_card_shows_rows_of_the_table_and_they_beat_the_first_stage() -> None:
    rows = read_rows(table_path())
    assert SOURCE["results"] and all(row in rows for row in SOURCE["results"])
    by_system = {row["system"]: row for row in SOURCE["results"] if row["metric"] == HEADLINE}
    first, ours = by_system.pop("first-stage"), by_system.popitem()[1]
    assert not by_system and REFERENCE in ours["command"]
    values = {
        run.system: run.values
        for run in read_runs(runs_path(table_path()))
        if run.own and (run.collection, run.first_stage) == (ours["collection"], ours["first_stage"])
        if run.profile in ("", ours["profile"])
    }
    sets = {system: {"": values[system]} for system in ("first-stage", ours["system"])}
    gap = next(row for row in paired_rows(sets, "first-stage") if row["system"] == ours["system"])
    assert ours["mean"] > first["mean"] and gap["p"] < 0.01, "packed only if it beats its first stage by a paired test"


def test_the_card_names_base_licence_and_the_terms_of_the_data() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert SOURCE["base"] == SMOLLM2 and SOURCE["base_license"] == "apache-2.0"
    assert "EntailmentBank" in card and "non-commercial" in card and REFERENCE in card
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 12e6


@pytest.mark.smollm2
def test_it_ranks_real_sentences_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    query = "Why does an iron nail that lies in the rain turn brown? It rusts."
    passages = [
        "A bird is a kind of animal.",
        "Iron rusts in water and air.",
        "The moon orbits the Earth.",
        "A nail is made of iron.",
        "Sugar is sweet.",
    ]
    ranked = [hit.text for hit in Reranker(REFERENCE).rank(query, passages)]
    assert set(ranked[:2]) == {passages[1], passages[3]}
