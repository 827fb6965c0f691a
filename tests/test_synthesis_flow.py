"""One generator of questions: what the dry run counts is what is asked, and what is stored is asked by neither."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.formats import read_jsonl
from rrlib.plans.synthesis import first_of, plan
from rrlib.synthesis.assemble import Mix
from rrlib.synthesis.fates import Fate, Fault, Step, explain, faulty
from rrlib.synthesis.flow import Answer, Flow, Question, outcome_of
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.sources.items import Item
from rrlib.types import Passage, Query


class Source:
    """Queries of one shape: so many candidates, so many web results."""

    name, data_kind = "shape", "synthetic"

    def __init__(self, candidates: int, pool: int, queries: int = 2, domain: str = "biology") -> None:
        self.candidates, self.pool, self.queries, self.domain = candidates, pool, queries, domain

    def __len__(self) -> int:
        return self.queries

    def __iter__(self) -> Iterator[Item]:
        for q in range(self.queries):
            candidates = tuple(Passage(f"c{q}-{i}", f"text {i}") for i in range(self.candidates))
            pool = tuple(Passage(f"w{q}-{i}", f"web {i}") for i in range(self.pool))
            yield Item(Query(f"q{q}", f"question {q}"), candidates, self.domain, f"gold {q}", pool)


class Teacher:
    """Gives the same answer to every selection, and says nothing that a ranking could be."""

    model = "toy"

    def __init__(self, selection: str) -> None:
        self.selection, self.asked = selection, dict.fromkeys(map(str, Step), 0)

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        gold_shown = "Gold answer" in messages[1]["content"]
        step = "hard" if "traps" in messages[0]["content"] else "select" if gold_shown else "rank"
        self.asked[step] += 1
        return Reply("no ranking" if step == "rank" else self.selection)


def nothing(question: Question) -> Answer:
    return {**first_of(question), "text": "None"}


def both(source: Source, out: Path, selection: str, assume: Any) -> dict[str, int]:
    """The calls of a plan, which are those of a run whose teacher answers so; afterwards there is none left."""
    options: dict[str, Any] = {"window": 4, "seed": 1}
    planned = plan(source, "toy", out, assume=assume, **options)
    assert not out.exists(), "nothing is written"
    teacher = Teacher(selection)
    synthesize(source, teacher, out, **options)
    assert planned.calls == teacher.asked
    for assumption in (first_of, nothing):
        later = plan(source, "toy", out, assume=assumption, **options)
        assert sum(later.calls.values()) == 0 and later.stored == sum(teacher.asked.values())
    return dict(planned.calls)


@pytest.mark.parametrize(
    ("candidates", "pool", "calls"),
    [
        (0, 0, (0, 0, 0)),
        (0, 3, (0, 0, 0)),
        (1, 0, (0, 0, 0)),  # the dry run counted a selection and a ranking
        (1, 1, (1, 1, 1)),  # the candidate is chosen, the web result is its trap
        (2, 0, (1, 0, 1)),
        (4, 5, (1, 2, 1)),
        (9, 4, (3, 1, 1)),
    ],
)
def test_the_dry_run_counts_what_is_asked(
    tmp_path: Path, candidates: int, pool: int, calls: tuple[int, int, int]
) -> None:
    """Every selection names its first passage, as the dry run assumes; numbers are those of one query."""
    planned = both(Source(candidates, pool), tmp_path / "out", "[1]", first_of)
    assert tuple(planned.values()) == tuple(2 * n for n in calls)


@pytest.mark.parametrize(("candidates", "pool", "selections"), [(4, 3, 1), (9, 1, 3), (2, 0, 1), (5, 9, 2)])
def test_where_nothing_is_selected_nothing_follows(tmp_path: Path, candidates: int, pool: int, selections: int) -> None:
    """The dry run counted the traps and the ranking too."""
    planned = both(Source(candidates, pool), tmp_path / "out", "None", nothing)
    assert planned == {"select": 2 * selections, "hard": 0, "rank": 0}


@pytest.mark.parametrize("selection", ["[1], [2], [3], [4]", "I think [2].", "[9]"])
def test_a_stored_answer_counts_for_what_it_says(tmp_path: Path, selection: str) -> None:
    """All selected, or a fault: no ranking is asked, and the dry run of the same folder counts none."""
    teacher = Teacher(selection)
    synthesize(Source(4, 0), teacher, tmp_path, window=4, seed=1)
    assert teacher.asked == {"select": 2, "hard": 0, "rank": 0}
    assert sum(plan(Source(4, 0), "toy", tmp_path, window=4, seed=1).calls.values()) == 0
    more = plan(Source(4, 0, queries=3), "toy", tmp_path, window=4, seed=1)
    assert more.calls == {"select": 1, "hard": 0, "rank": 1}
    assert "2 (1 select, 1 rank); answers stored already: 2 (as if each selection finds a passage)" in more.text()


def test_labels_of_people_need_no_selection(tmp_path: Path) -> None:
    class Judged(Source):
        def __iter__(self) -> Iterator[Item]:
            for item in super().__iter__():
                docids = [p.docid for p in item.candidates]
                yield Item(item.query, item.candidates, "ms-marco", labels={docids[0]: 1} if docids else None)

    for candidates, rankings in ((0, 0), (1, 0), (3, 2)):
        planned = plan(Judged(candidates, 0), "toy", tmp_path / "none", window=4)
        assert planned.calls == {"select": 0, "hard": 0, "rank": rankings}
        assert "as if each" not in planned.text()


def test_the_generator_by_hand() -> None:
    """Questions of one query in order, each piece a window or less; the first without an answer ends it."""
    (item,) = Source(5, 2, queries=1)
    flow, asked = Flow(Mix(4), seed=0), list[str]()

    def say(question: Question) -> Answer:
        asked.append(f"{question.step}/{question.key}")
        return first_of(question)

    outcome = outcome_of(flow.questions(item), say)
    assert asked == ["select/q0/0", "select/q0/1", "hard/q0/0", "rank/q0"] and outcome.fate == ""
    assert outcome.window is not None and sum(outcome.window.relevance) == 2
    for stop, key in enumerate(asked):
        seen = list[str]()

        def until(question: Question, stop: int = stop, seen: list[str] = seen) -> Answer | None:
            seen.append(f"{question.step}/{question.key}")
            return first_of(question) if len(seen) <= stop else None

        assert outcome_of(flow.questions(item), until).fate == Fate.CALL_FAILED and seen[-1] == key


def test_every_fate_on_disk_has_a_sentence(tmp_path: Path) -> None:
    for word in (*Step, *Fault, *Fate):
        assert re.fullmatch(r"[A-Z].*[.?]|[A-Z].*\. .*\.", word.sentence) and str(word) == word.value
    synthesize(Source(4, 0), Teacher("no"), tmp_path, window=4)
    fates = {row["fate"] for _, row in read_jsonl(tmp_path / "fates.jsonl")}
    assert fates == {"select: malformed"} == {faulty(Step.SELECT, Fault.MALFORMED)}
    assert explain("select: malformed") == "Select: The answer is no list of identifiers."
    assert explain("kept") == Fate.KEPT.sentence
    for word in ("lost", "rank: lost", "nobody: malformed"):
        with pytest.raises(ValueError, match="is not a valid"):
            explain(word)
