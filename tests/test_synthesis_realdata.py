"""The whole path on real text: sources, candidates, both questions, filter, export, into examples that SFT accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers_for_tests import make_tokenizer

from rrlib.cli import main
from rrlib.engines.base import Decoding, Message, Reply
from rrlib.formats import read_corpus, read_examples
from rrlib.prompts import PromptBuilder
from rrlib.retrieval import Bm25
from rrlib.synthesis.export import data_card
from rrlib.synthesis.pipeline import synthesize
from rrlib.synthesis.sources import SourceQuery
from rrlib.synthesis.sources.candidates import retrieved_items
from rrlib.synthesis.sources.items import ItemFolder, write_items
from rrlib.synthesis.sources.judged import read_beir
from rrlib.training.data import Limits, encode_examples
from rrlib.training.sft import target

pytestmark = pytest.mark.realdata


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{5,}", text.lower()))


class OverlapTeacher:
    """Chooses the passages that share most words with the gold answer, and ranks by words shared with the query."""

    model = "overlap"

    def __init__(self) -> None:
        self.calls = 0

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        self.calls += 1
        text = messages[1]["content"]
        passages = {int(n): words(line) for n, line in re.findall(r"^\[(\d+)\] (.*)$", text, re.MULTILINE)}
        gold = re.search(r"^Gold answer: (.*)$", text, re.MULTILINE)
        if gold:
            wanted = words(gold.group(1))
            chosen = [i for i, own in passages.items() if len(own & wanted) >= 0.35 * len(wanted)]
            return Reply(", ".join(f"[{i}]" for i in chosen) or "None", tokens_in=len(text) // 4, tokens_out=5)
        asked = words(re.search(r"^Query: (.*)$", text, re.MULTILINE).group(1))  # type: ignore[union-attr]
        order = sorted(passages, key=lambda i: (-len(passages[i] & asked), i))
        chain = " ".join(f"[{i}] shares {len(passages[i] & asked)} words." for i in passages)
        return Reply(" > ".join(f"[{i}]" for i in order), chain, tokens_in=len(text) // 4, tokens_out=50)


class Silent:
    """Whoever asks it has not recorded its answers."""

    model = "overlap"

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        raise AssertionError("asked again")


def check(examples: list[Any], passages: int) -> None:
    """02 accepts them: prompts and responses encode, within limits, with the response in the protocol."""
    tokenizer = make_tokenizer("qwen2.5")
    builder = PromptBuilder(tokenizer, max_passage_tokens=128)
    encoded = encode_examples(examples, tokenizer, builder, Limits(9000, 4000, 12000), target=target)
    assert len(encoded.rows) == len(examples) and encoded.dropped == 0
    assert all(len(row.example.passages) <= passages for row in encoded.rows)
    text = tokenizer.decode(encoded.rows[0].response_ids)
    assert text.startswith("<think> ") and "</answer><|im_end|>" in text


def cranfield(realdata: Path) -> Iterator[SourceQuery]:
    """Cranfield has no gold answers: its best judged abstract stands in for one, as an accepted answer would."""
    folder = realdata / "collections" / "cranfield"
    corpus = read_corpus(folder)
    for query in read_beir(folder, "test"):
        best = max(query.labels, key=lambda docid: (query.labels[docid], docid), default="")
        if best in corpus and corpus[best].text.strip():
            gold = corpus[best].text
            yield replace(query, gold_answer=gold, domain="aeronautics", labels={}, qid=f"cran-{query.qid}")


def test_cranfield_with_two_questions_and_recorded_answers(realdata: Path, tmp_path: Path) -> None:
    corpus = read_corpus(realdata / "collections" / "cranfield").values()
    queries = [query for query, _ in zip(cranfield(realdata), range(40), strict=False)]
    write_items(tmp_path / "items", retrieved_items(queries, Bm25(corpus), 20), name="cranfield", data_kind="real")
    source, teacher, cache = ItemFolder(tmp_path / "items"), OverlapTeacher(), tmp_path / "cache"
    result = synthesize(source, teacher, tmp_path / "out", window=10, seed=1, concurrency=4, cache=cache, alpha=0.3)
    assert len(source) == 40 and result.summary["answers"]["select"] == 80
    assert result.n_examples >= 10, result.summary["dropped"]
    examples = read_examples(result.examples)
    assert all(0 < sum(e.relevance) < len(e.passages) for e in examples)
    assert all(e.meta["data_kind"] == "real" and e.meta["recipe"] == "general" for e in examples)
    check(examples, 10)
    again = synthesize(source, Silent(), tmp_path / "again", window=10, seed=1, cache=cache, alpha=0.3)
    assert again.examples.read_bytes() == result.examples.read_bytes()
    assert "Data kind: real" in data_card(tmp_path / "out")


def test_dl19_with_human_labels_from_the_command_line(realdata: Path, tmp_path: Path, capsys: Any) -> None:
    folder, items = realdata / "collections" / "dl19-bm25-top100", tmp_path / "items"
    prepare = ["data", "prepare", "beir", str(folder), str(items), "--split", "test", "--domain", "ms-marco"]
    assert main(prepare) == 0
    assert "43 items" in capsys.readouterr().out
    first = next(iter(ItemFolder(items)))
    assert len(first.candidates) == 20, "the recipe's depth" and first.labels
    to = ["--output", str(tmp_path / "out"), "--teacher", f"{__name__}:overlap_teacher", "--quiet", "--alpha", "0.3"]
    assert main(["synthesize", str(items), *to, "--dry-run"]) == 0
    assert "calls to make: 37 (37 rank)" in capsys.readouterr().out, "6 have no relevant passage among their 20, or all"
    assert main(["synthesize", str(items), *to]) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["answers"] == {"select": 0, "hard": 0, "rank": 37}, "what the dry run said"
    assert summary["examples"] >= 15 and summary["general_recipe"] == {}, summary["dropped"]
    check(read_examples(tmp_path / "out/examples.jsonl"), 20)


def overlap_teacher(folder: Path, seed: int) -> OverlapTeacher:
    return OverlapTeacher()
