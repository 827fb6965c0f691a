"""What a resume must notice, and what it need not do again: a complete log is read, and no prompt is made."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from test_rerank import Oracle
from tokenizers_for_tests import make_tokenizer

from rrlib import prompts
from rrlib.errors import InputError
from rrlib.pieces import Pieces, PreparedPrompts
from rrlib.prompts import PromptBuilder
from rrlib.rerank import Reranker
from rrlib.types import Candidates, Passage, Query

OPTIONS: dict[str, Any] = {"max_passage_tokens": 24, "window": 6, "stride": 3}
WINDOWS = 6  # two lists of twelve


def lists() -> list[Candidates]:
    """Texts that are longer than the limit of a passage."""
    passages = tuple(Passage(f"d{i}", f"gain {i}\n{'rank the passages of it ' * 20}{i}") for i in range(12))
    return [Candidates(Query(f"q{q}", f"what is number {q}?"), passages) for q in range(2)]


class Ranks(Oracle):
    """Ranks by the number in a text, over a model whose tokenizer and length are known."""

    max_model_len = 32_768

    def __init__(self, tokenizer: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.tokenizer = make_tokenizer("qwen2.5") if tokenizer is None else tokenizer


def run(log: Path, candidates: list[Candidates] | None = None, tokenizer: Any = None, **options: Any) -> Any:
    reranker = Reranker(Ranks(tokenizer), log=log, **OPTIONS | options)
    return reranker.rerank(lists() if candidates is None else candidates)


def with_passage(**changed: Any) -> list[Candidates]:
    """The lists with another passage at the fifth place of both."""
    return [
        replace(item, passages=(*item.passages[:4], replace(item.passages[4], **changed), *item.passages[5:]))
        for item in lists()
    ]


def templated(old: str, new: str) -> Any:
    """The tokenizer with a part of its chat template replaced."""
    tokenizer = copy.deepcopy(make_tokenizer("qwen2.5"))
    assert old in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(old, new)
    return tokenizer


def special() -> Any:
    """The tokenizer with one more special token, which stands in the texts."""
    tokenizer = copy.deepcopy(make_tokenizer("qwen2.5"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["passages"]})
    return tokenizer


PROMPT, SETTINGS = "was logged for another prompt", "this log was made with"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda: {"candidates": with_passage(text="gain 4\nanother")}, PROMPT),
        (lambda: {"candidates": with_passage(title="another")}, PROMPT),
        (lambda: {"candidates": [replace(i, query=Query(i.query.qid, "another?")) for i in lists()]}, PROMPT),
        (lambda: {"candidates": [replace(i, passages=i.passages[::-1]) for i in lists()]}, PROMPT),
        (lambda: {"candidates": [replace(i, passages=i.passages[:11]) for i in lists()]}, None),
        (lambda: {"tokenizer": make_tokenizer("llama3.1")}, PROMPT),
        (lambda: {"tokenizer": templated("<|im_end|>", "<|im_end|> ")}, PROMPT),
        (lambda: {"tokenizer": templated("<|im_start|>assistant", "<|im_start|>judge")}, PROMPT),
        (lambda: {"tokenizer": special()}, PROMPT),
        (lambda: {"tokenizer": other_words()}, PROMPT),
        (lambda: {"style": "nothink"}, SETTINGS),
        (lambda: {"max_passage_tokens": 25}, SETTINGS),
    ],
    ids=[
        *("text", "title", "query", "order", "fewer", "family", "template", "turn", "special token", "vocabulary"),
        *("style", "limit"),
    ],
)
def test_what_has_changed_is_noticed(changed: Callable[[], dict[str, Any]], said: str | None, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    run(log)
    assert len(log.read_text().splitlines()) == WINDOWS
    if said is None:  # its windows are others, and are asked
        assert run(log, **changed()).counts["asked"] > 0
        return
    with pytest.raises(InputError, match=said):
        run(log, **changed())
    assert run(log).counts["reused"] == WINDOWS, "and the log is as it was"


def other_words() -> Any:
    """The tokenizer with fewer joined pieces, so that it cuts elsewhere; all else is the same."""
    from tokenizers import Tokenizer

    tokenizer = copy.deepcopy(make_tokenizer("qwen2.5"))
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts["model"]["merges"] = parts["model"]["merges"][:5]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(parts))
    assert tokenizer.all_special_tokens == make_tokenizer("qwen2.5").all_special_tokens
    return tokenizer


@pytest.mark.parametrize("name", ["PREFIX", "SUFFIX"])
def test_other_words_around_the_passages_are_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "log.jsonl")
    monkeypatch.setattr(prompts, name, getattr(prompts, name) + " ")
    with pytest.raises(InputError, match=PROMPT):
        run(tmp_path / "log.jsonl")


def test_what_does_not_reach_the_prompt_changes_nothing(tmp_path: Path) -> None:
    """A text that differs behind its cut, and the name of a document: the prompt is made to tell, as in an old log."""
    run(tmp_path / "log.jsonl")
    behind = with_passage(text=lists()[0].passages[4].text + " and more")
    for candidates in (behind, with_passage(docid="another")):
        result = run(tmp_path / "log.jsonl", candidates)
        assert result.counts["reused"] == WINDOWS and "asked" not in result.counts


def test_a_template_that_writes_the_date_is_noticed_on_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    dated = copy.deepcopy(make_tokenizer("qwen2.5"))
    dated.chat_template = "{{ strftime_now('%d %b %Y') }}" + dated.chat_template

    class Day(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 1, 2)

    result = run(tmp_path / "log.jsonl", tokenizer=dated)
    assert {getattr(record, "source_hash", None) for record in result.records} == {None}
    assert run(tmp_path / "log.jsonl", tokenizer=dated).counts["reused"] == WINDOWS
    monkeypatch.setattr(chat_template_utils, "datetime", Day)
    with pytest.raises(InputError, match=PROMPT):
        run(tmp_path / "log.jsonl", tokenizer=dated)


def test_a_log_from_before_goes_on_as_it_did(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    whole = run(log)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    old = [{name: value for name, value in row.items() if name != "source_hash"} for row in rows]
    log.write_text("".join(json.dumps(row) + "\n" for row in old[:4]))
    again = run(log)
    assert again.rankings == whole.rankings
    assert (again.counts["reused"], again.counts["asked"]) == (4, WINDOWS - 4)
    assert "source_hash" not in log.read_text(), "a log goes on as it was begun"
    with pytest.raises(InputError, match=PROMPT):
        run(log, with_passage(text="gain 4\nanother"))
    assert [json.loads(line) for line in log.read_text().splitlines()][:4] == old[:4]


def test_windows_whose_call_failed_are_asked_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    Reranker(Ranks(fail=lambda request: request.key[3][0] == 3), log=log, **OPTIONS).rerank(lists())
    kept = run(log, retry_failed=False)
    assert kept.counts["reused"] == WINDOWS and kept.counts["verdict_failed"] == 2
    again = run(log)
    assert again.rankings == run(tmp_path / "other.jsonl").rankings and again.counts["reused"] == 2
    assert run(log).counts["reused"] == WINDOWS


# --- what is not done again -------------------------------------------------------------------------------------------
@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """All texts that are tokenized, by whatever way."""
    from transformers import PreTrainedTokenizerFast

    seen: list[str] = []
    encode, call = Pieces.encode, PreTrainedTokenizerFast.__call__

    def counted(self: Any, text: Any, *rest: Any, **options: Any) -> Any:
        seen.extend([text] if isinstance(text, str) else text)
        return call(self, text, *rest, **options)

    monkeypatch.setattr(Pieces, "encode", lambda self, texts: [seen.append(t) for t in texts] and encode(self, texts))
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    yield seen


def test_a_complete_log_is_gone_through_without_a_prompt(tmp_path: Path, tokenized: list[str]) -> None:
    log = tmp_path / "log.jsonl"
    whole = run(log)
    assert tokenized
    tokenized.clear()
    again = run(log)
    assert again.rankings == whole.rankings and again.counts["reused"] == WINDOWS
    assert tokenized == []


def test_only_windows_that_are_asked_are_made(tmp_path: Path, tokenized: list[str]) -> None:
    log = tmp_path / "log.jsonl"
    whole = run(log)
    lines = log.read_text().splitlines(keepends=True)
    last = max(range(WINDOWS), key=lambda place: (json.loads(lines[place])["qid"], -json.loads(lines[place])["start"]))
    log.write_text("".join(line for place, line in enumerate(lines) if place != last))
    shown = {int(docid[1:]) for docid in json.loads(lines[last])["docids"]}
    tokenized.clear()
    again = run(log)
    assert again.rankings == whole.rankings and again.counts["asked"] == 1
    assert len(shown) == 6 and {i for i in range(12) if any(f" gain {i}\n" in text for text in tokenized)} == shown


def test_a_run_numbers_its_requests_alike_whether_prompts_are_made_or_not(tmp_path: Path) -> None:
    """Sampling is seeded by these numbers."""
    log, numbers = tmp_path / "log.jsonl", []
    run(log)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for dropped in ((), ("source_hash",)):
        kept = [{name: value for name, value in row.items() if name not in dropped} for row in rows[:4]]
        log.write_text("".join(json.dumps(row) + "\n" for row in kept))
        engine, asked = Ranks(), []
        submit = engine.submit
        engine.submit = lambda requests, decoding, s=submit, a=asked: (a.extend(requests), s(requests, decoding))[1]  # type: ignore[method-assign]
        Reranker(engine, log=log, **OPTIONS).rerank(lists())
        numbers.append([(request.id, request.key) for request in asked])
    assert len(numbers[0]) == WINDOWS - 4 and numbers[0] == numbers[1]


# --- the digest -------------------------------------------------------------------------------------------------------
def test_no_two_lists_of_texts_have_one_digest() -> None:
    prepared = PreparedPrompts(PromptBuilder(make_tokenizer("qwen2.5")))
    a, b = Passage("a", "text", "title"), Passage("b", "other")
    windows: list[tuple[str, list[Passage]]] = [
        ("why", [a, b]), ("why", [b, a]), ("why", [a]), ("why ", [a, b]), ("whya", [Passage("t", "ext", "title"), b]),
        ("why", [Passage("a", "titletext"), b]), ("why", [Passage("a", "title", "text"), b]),
        ("why", [Passage("at", "ext", "title"), b]), ("why", [Passage("a", "text\ud800", "title"), b]), ("why", []),
    ]  # fmt: skip
    made = [prepared.source_hash(query, passages) for query, passages in windows]
    assert None not in made and len(set(made)) == len(windows)
    assert made[0] == PreparedPrompts(PromptBuilder(make_tokenizer("qwen2.5"))).source_hash(*windows[0])
    tokenizer = copy.deepcopy(make_tokenizer("qwen2.5"))
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)  # as an engine that makes batches
    assert made[0] == PreparedPrompts(PromptBuilder(tokenizer)).source_hash(*windows[0])
    for builder in (
        PromptBuilder(make_tokenizer("qwen2.5"), max_passage_tokens=100),
        PromptBuilder(make_tokenizer("qwen2.5"), "nothink"),
        PromptBuilder(make_tokenizer("qwen2.5"), "rankgpt"),
        PromptBuilder(make_tokenizer("qwen3")),
        PromptBuilder(None),
    ):
        assert PreparedPrompts(builder).source_hash(*windows[0]) not in made


def test_what_is_not_known_has_no_digest() -> None:
    class Own(PromptBuilder):
        """Makes prompts in a way of its own."""

    class Words:
        """A tokenizer that is not one of the package tokenizers."""

        all_special_tokens: tuple[str, ...] = ()

        def __call__(self, text: str, **options: Any) -> dict[str, list[str]]:
            return {"input_ids": text.split()}

        def apply_chat_template(self, conversation: Any, **options: Any) -> str:
            return "\n".join(row["content"] for row in conversation)

    for builder in (Own(make_tokenizer("qwen2.5")), PromptBuilder(Words())):  # type: ignore[arg-type]
        assert PreparedPrompts(builder).source_hash("why", [Passage("a", "text")]) is None
