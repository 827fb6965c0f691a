"""Hard negatives among web results (complex QA): found with the gold answer in view, shown as negatives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.formats import read_examples, read_jsonl
from rrlib.synthesis.pipeline import follow, synthesize
from rrlib.synthesis.sources.items import Item
from rrlib.types import Passage, Query


class Source:
    """Queries with six candidates, one of them good, and a pool of eight web results, three of them traps.

    shared: the good candidate comes up in the pool too, as a passage that the teacher will call a trap.
    """

    name, data_kind = "web", "synthetic"

    def __init__(self, queries: int = 3, pool: int = 8, shared: bool = False, good: bool = True) -> None:
        self.queries, self.pool, self.shared, self.good = queries, pool, shared, good

    def __len__(self) -> int:
        return self.queries

    def __iter__(self) -> Iterator[Item]:
        for q in range(self.queries):
            words = ["good" if i == 2 and self.good else "plain" for i in range(6)]
            candidates = tuple(Passage(f"c{q}-{i}", f"{word} text {i}") for i, word in enumerate(words))
            pool = [Passage(f"w{q}-{i}", f"{'trap' if i in (1, 4, 6) else 'web'} text {i}") for i in range(self.pool)]
            if self.shared:
                pool[1] = Passage(f"c{q}-2", "good text 2, and a trap")
            yield Item(Query(f"q{q}", f"question {q}"), candidates, "biology", f"gold {q}", tuple(pool))


class Teacher:
    model = "toy"

    def __init__(self, trap_answer: str = "") -> None:
        self.trap_answer, self.asked = trap_answer, list[tuple[str, str]]()

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        text = messages[1]["content"]
        kind = "hard" if "traps" in messages[0]["content"] else "select" if "Gold answer" in text else "rank"
        self.asked.append((kind, text))
        lines = {int(n): line for n, line in re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)}
        if kind == "rank":
            order = sorted(lines, key=lambda i: "good" not in lines[i])
            return Reply(" > ".join(f"[{i}]" for i in order), "a chain")
        if kind == "hard" and self.trap_answer:
            return Reply(self.trap_answer)
        wanted = "trap" if kind == "hard" else "good"
        return Reply(", ".join(f"[{i}]" for i, line in lines.items() if wanted in line) or "None")


def make(source: Source, teacher: Teacher, out: Path, **options: Any) -> Any:
    return synthesize(source, teacher, out, **{"window": 5, "seed": 1, "hard_negatives": 0.75, **options})


def test_hard_negatives_come_from_the_web(tmp_path: Path) -> None:
    teacher = Teacher()
    result = make(Source(), teacher, tmp_path)
    assert [kind for kind, _ in teacher.asked].count("hard") == 6, "eight results are two questions of five"
    assert all("Gold answer: gold" in text for kind, text in teacher.asked if kind == "hard")
    assert not any("gold" in text for kind, text in teacher.asked if kind == "rank")
    assert result.summary["answers"] == {"select": 6, "hard": 6, "rank": 3}
    for one in read_examples(result.examples):
        roles = {p.docid: role for p, role in zip(one.passages, one.meta["roles"], strict=True)}
        q = one.query.qid[1:]
        assert {d for d, role in roles.items() if role == "hard"} == {f"w{q}-1", f"w{q}-4", f"w{q}-6"}
        assert {d for d, role in roles.items() if role == "positive"} == {f"c{q}-2"}
        assert len(roles) == 5 and sum(one.relevance) == 1
    steps = follow(tmp_path, "q1")
    assert [len(steps[step]) for step in ("select", "hard", "rank")] == [2, 2, 1]


def test_a_passage_that_is_positive_and_hard_is_recorded(tmp_path: Path) -> None:
    result = make(Source(shared=True), Teacher(), tmp_path)
    assert result.summary["positive_and_hard"] == 3
    for one in read_examples(result.examples):
        docids = [p.docid for p in one.passages]
        assert len(set(docids)) == len(docids) and one.meta["positive_and_hard"] == [f"c{one.query.qid[1:]}-2"]
        assert sum(one.relevance) == 1


def test_no_trap_leaves_the_top_of_the_list(tmp_path: Path) -> None:
    result = make(Source(), Teacher("None"), tmp_path)
    for one in read_examples(result.examples):
        assert all(p.docid.startswith("c") for p in one.passages)


def test_a_faulty_answer_costs_its_query(tmp_path: Path) -> None:
    result = make(Source(), Teacher("I think the first one."), tmp_path)
    assert {row["reason"] for _, row in read_jsonl(result.dropped)} == {"hard: malformed"}


def test_traps_are_not_asked_for_where_nothing_is_relevant_or_nothing_was_found(tmp_path: Path) -> None:
    nothing = Teacher()
    result = make(Source(good=False), nothing, tmp_path / "a")
    assert {kind for kind, _ in nothing.asked} == {"select"}
    assert result.summary["dropped"] == {"nothing_selected": 3}
    empty = Teacher()
    assert make(Source(pool=0), empty, tmp_path / "b").n_examples == 3
    assert {kind for kind, _ in empty.asked} == {"select", "rank"}
