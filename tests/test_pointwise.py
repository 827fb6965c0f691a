"""Pointwise baselines and the reasoning budget: probabilities of chosen words from every engine, scores to orders,
chains that are closed at n tokens and still answered, and logs that replay."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_engines import Handler, serve, tiny
from test_rerank import make

from rrlib.engines import Decoding, Reply, Request, make_engine
from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder, format_judgement, format_response, format_target
from rrlib.rerank import Reranker
from rrlib.strategies import drive, plan, pointwise
from rrlib.types import Passage, Query, RankingExample

__all__ = ["serve", "tiny"]


# --- strategy and prompts ---------------------------------------------------------------------------------------------
def test_order_is_by_score_with_ties_in_input_order_and_failures_in_place() -> None:
    scores = [0.2, 0.9, 0.9, None, 0.95]
    assert drive(pointwise(5), lambda window: scores[window.items[0]]) == (4, 1, 2, 3, 0)
    assert drive(pointwise(5), lambda window: None) == (0, 1, 2, 3, 4)
    for n in (0, 1, 2, 95, 100):
        asked = plan(pointwise, n)
        assert (asked.calls, asked.depth) == ((n, 1) if n > 1 else (0, 0))
    rng = random.Random(7)
    values = [rng.random() for _ in range(95)]
    order = drive(pointwise(95), lambda window: values[window.items[0]])
    assert [values[i] for i in order] == sorted(values, reverse=True)


def test_prompts_and_targets(tiny: str) -> None:
    tokenizer = make_engine("transformers", tiny).tokenizer  # type: ignore[attr-defined]
    words = (
        "Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.\n"
        "Query: why {passage}?\nPassage: Title: T Content: see (3) {query}\n"
    )
    passage = Passage("a", "see [3] {query}", "T")
    assert PromptBuilder(tokenizer, "rank1").render("why {passage}?", [passage]) == words + "<think>"
    chat = f"<|im_start|>user\n{words}<|im_end|>\n<|im_start|>assistant\n"
    assert PromptBuilder(tokenizer, "pointwise").render("why {passage}?", [passage]).endswith(chat)
    with pytest.raises(InputError, match="show one"):
        PromptBuilder(tokenizer, "pointwise").render("q", [passage, Passage("b", "b")])
    assert format_judgement(" since ", True) == "<think> since </think> true"
    assert format_judgement("since", False, "rank1") == " since </think> false"
    assert format_judgement("since", False, "pointwise_nothink") == "false"
    example = RankingExample(Query("q", "q"), (passage,), (1,), (0,), "since")
    assert format_target(example, "pointwise") == "<think> since </think> true"
    assert format_target(example) == format_response("since", (0,))
    with pytest.raises(InputError, match="judges one passage"):
        format_response("since", [0], "pointwise")
    with pytest.raises(InputError, match="ranks a list"):
        format_judgement("since", True, "reasonrank")


# --- engines ----------------------------------------------------------------------------------------------------------
def logprob(model: Any, tokenizer: Any, prompt: str, choice: str) -> float:
    """The log-probability of a continuation, token by token, one forward pass each: slow and plain."""
    import torch

    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    total = 0.0
    for token in tokenizer(choice, add_special_tokens=False)["input_ids"]:
        with torch.inference_mode():
            total += torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)[token].item()
        ids = [*ids, token]
    return total


def test_transformers_scores_choices_in_batches_as_one_by_one(tiny: str) -> None:
    from transformers import AutoModelForCausalLM

    engine: Any = make_engine("transformers", tiny, batch_size=3)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    prompts = [f"the fox {'jumps ' * i}over" for i in range(1, 8)]
    assert len(engine._ids(" true")) > 1 and len(engine._ids("x")) == 1
    for choices in ((" true", " false"), ("x", "y"), ("x", " false")):
        engine.submit([Request(i, prompt=p, choices=choices) for i, p in enumerate(prompts)], Decoding())
        replies: dict[int, Reply] = {}
        while len(replies) < len(prompts):
            replies.update(engine.collect())
        for i, prompt in enumerate(prompts):
            assert replies[i].text == "" and replies[i].error is None and list(replies[i].logprobs) == list(choices)
            for choice in choices:
                expected = logprob(model, engine.tokenizer, prompt, choice)
                assert replies[i].logprobs[choice] == pytest.approx(expected, abs=1e-4)


def test_transformers_reads_what_the_passages_of_a_query_share_once(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    engine: Any = make_engine("transformers", tiny, batch_size=4)
    model, read = AutoModelForCausalLM.from_pretrained(tiny), []
    forward = engine._lm.forward

    def counted(ids: Any, **options: Any) -> Any:
        read.append(tuple(ids.shape))
        return forward(ids, **options)

    monkeypatch.setattr(engine._lm, "forward", counted)
    queries = ("which fox jumps over the lazy dog in the rain", "why does a river run down to the sea at night")
    prompts = [f"{query}: {passage}" for passage in ("a", "fox", "the fox", "rain") for query in queries]
    engine.submit([Request(i, prompt=p, choices=("x", "y")) for i, p in enumerate(prompts)], Decoding())
    for query in (0, 1):
        replies = dict(engine.collect())
        assert sorted(i % 2 for i in replies) == [query] * 4, "a batch has the passages of one query"
        (one, shared), (rows, rest) = read[-2:]
        lengths = [len(engine._ids(prompts[i])) for i in replies]
        assert (one, rows) == (1, 4) and shared + rest == max(lengths) and shared > rest
        for i, reply in replies.items():
            assert reply.logprobs["x"] == pytest.approx(logprob(model, engine.tokenizer, prompts[i], "x"), abs=1e-4)


def test_transformers_stops_at_a_string_and_at_the_requests_own_limit(tiny: str) -> None:
    engine: Any = make_engine("transformers", tiny, batch_size=4)
    hot = Decoding(30, temperature=1.0, seed=5)  # greedy, a random model repeats itself

    def ask(**options: Any) -> Reply:
        engine.submit([Request(0, prompt="the fox", **options)], hot)
        ((_, reply),) = engine.collect()
        return reply

    free, short = ask(), ask(max_new_tokens=3)
    assert short.tokens_out == 3 and short.finish_reason == "length" and free.text.startswith(short.text)
    stop = free.text[12:15]  # wherever its tokens begin and end
    cut = ask(stop=(stop, "never said"))
    assert cut.finish_reason == "stop" and cut.text == free.text[: free.text.index(stop)]
    assert cut.tokens_out <= free.tokens_out


def alternatives(text: str) -> dict[str, float]:
    gain = int(re.findall(r"gain (\d+)", text)[-1])
    p = (gain + 1) / 20
    return {" t": math.log(p), " f": math.log(1 - p - 0.01), "x": math.log(0.01)}


def test_openai_reads_the_alternatives_of_the_first_token(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(self: Any) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked.append(body)
        found = {k.strip() if "messages" in body else k: v for k, v in alternatives(json.dumps(body)).items()}
        if "messages" in body:
            rows = [{"token": k, "logprob": v, "bytes": None} for k, v in found.items()]
            row = {"token": "t", "logprob": rows[0]["logprob"], "bytes": None, "top_logprobs": rows}
            choice = {"message": {"role": "assistant", "content": "t"}, "logprobs": {"content": [row]}}
        else:
            choice = {"text": " t", "logprobs": {"tokens": [" t"], "top_logprobs": [found]}}
        choice |= {"index": 0, "finish_reason": "length"}
        usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
        kind = "chat.completion" if "messages" in body else "text_completion"
        out = {"id": "x", "object": kind, "created": 0, "model": "m", "choices": [choice], "usage": usage}
        self.reply(200, json.dumps(out).encode())

    monkeypatch.setattr(Handler, "do_POST", answer)
    engine = make_engine("openai", "m", base_url=serve().url, max_retries=0)
    result = Reranker(engine, style="pointwise_nothink", strategy="pointwise").rerank([make(12, "q1")])
    engine.close()
    assert result.run()["q1"] == [f"d{g}" for g in range(11, -1, -1)]
    assert all(body["max_tokens"] == 1 and body["top_logprobs"] == 20 and body["temperature"] == 0 for body in asked)
    record = result.records[0]
    gain = int(record.docids[0][1:])
    p = (gain + 1) / 20
    assert record.score == pytest.approx(p / (p + 1 - p - 0.01), abs=1e-6) and record.verdict == "ok"


def test_openai_without_logprobs_is_a_failure_with_a_reason(serve: Any) -> None:
    engine = make_engine("openai", "m", base_url=serve().url, max_retries=0)
    from rrlib.errors import EngineError

    with pytest.raises(EngineError, match="no log-probabilities"):
        Reranker(engine, style="pointwise_nothink", strategy="pointwise").rerank([make(5, "q1")])
    engine.close()


# --- the reranker: pointwise with a chain ----------------------------------------------------------------------------
class Judge:
    """Writes a chain of `length` words for a passage, and knows `true` by the passage's gain."""

    name, model, capacity = "judge", "judge", 16
    max_model_len = 4096

    def __init__(self, tokenizer: Any, length: int = 12, close: bool = True, fail: str = "") -> None:
        self.tokenizer, self.length, self.close_chain, self.fail = tokenizer, length, close, fail
        self.waiting: list[Request] = []
        self.seen: list[Request] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests
        self.seen += requests

    def collect(self) -> list[tuple[int, Reply]]:
        request = self.waiting.pop()
        assert request.prompt is not None
        if self.fail and self.fail in request.prompt:
            return [(request.id, Reply(error="down"))]
        if request.choices:
            gain = int(re.findall(r"gain (\d+)", request.prompt)[-1])
            found = dict(
                zip(request.choices, (math.log((gain + 1) / 101), math.log(1 - (gain + 1) / 101)), strict=True)
            )
            return [(request.id, Reply(tokens_in=30, seconds=0.5, logprobs=found))]
        limit = request.max_new_tokens or 10**9
        words = "<think> " + " ".join(f"w{i}" for i in range(min(self.length, limit)))
        done = self.close_chain and self.length < limit
        reply = Reply(
            words + " " if done else words, "", "stop" if done else "length", 20, min(self.length, limit), 1.0
        )
        return [(request.id, reply)]

    def close(self) -> None:
        pass


@pytest.fixture
def tokenizer(tiny: str) -> Any:
    from rrlib.engines.hf import load_tokenizer

    return load_tokenizer(tiny)


def test_a_chain_then_the_words_probability(tokenizer: Any, tmp_path: Path) -> None:
    engine, log = Judge(tokenizer), tmp_path / "log.jsonl"
    options: dict[str, Any] = {"style": "pointwise", "strategy": "pointwise"}
    result = Reranker(engine, log=log, **options).rerank([make(30, "q1"), make(1, "q2"), make(0, "q3")])
    assert result.run()["q1"] == [f"d{g}" for g in range(29, -1, -1)] and result.run()["q2"] == ["d0"]
    assert len(result.records) == 30 and len(engine.seen) == 60
    assert all(r.stop == ("</think>",) for r in engine.seen if not r.choices)
    assert all(r.prompt is not None and r.prompt.endswith("w11 </think>") for r in engine.seen if r.choices)
    row = next(r for r in result.records if r.docids == ("d29",))
    assert row.score == pytest.approx(30 / 101, abs=1e-6) and row.verdict == "ok" and row.requests == 2
    assert (row.tokens_in, row.tokens_out, row.seconds) == (50, 12, 1.5)
    assert row.text.endswith("w11 </think> false") and row.reasoning.startswith("w0 w1") and row.order == (0,)
    again = Reranker(make_engine("replay", "", responses=log), **options).rerank([make(30, "q1")])
    assert again.run()["q1"] == result.run()["q1"]
    resumed = Judge(tokenizer)
    assert Reranker(resumed, log=log, **options).rerank([make(30, "q1")]).run()["q1"] == result.run()["q1"]
    assert not resumed.seen


def test_a_chain_cut_off_is_closed_and_scored_all_the_same(tokenizer: Any) -> None:
    for budget, length in ((5, 5), (0, 0)):
        engine = Judge(tokenizer, length=40)
        ranker = Reranker(engine, style="pointwise", strategy="pointwise", budget=budget)
        result = ranker.rerank([make(8, "q1")])
        assert result.run()["q1"] == [f"d{g}" for g in range(7, -1, -1)]
        assert {r.verdict for r in result.records} == {"truncated"} and all(r.closed for r in result.records)
        assert {r.tokens_out for r in result.records} == {length}
        assert len(engine.seen) == (16 if budget else 8)


def test_a_failed_passage_keeps_its_place(tokenizer: Any) -> None:
    pool = make(8, "q1")
    place = [p.docid for p in pool.passages].index("d3")
    result = Reranker(Judge(tokenizer, fail="gain 3\n"), style="pointwise", strategy="pointwise").rerank([pool])
    order = result.run()["q1"]
    assert order[place] == "d3" and [d for d in order if d != "d3"] == [f"d{g}" for g in (7, 6, 5, 4, 2, 1, 0)]
    assert result.counts["failed"] == 1


# --- the budget of a listwise chain -----------------------------------------------------------------------------------
class Thinker(Judge):
    """Thinks `length` words before it lists by gain; goes on from where a prompt ends."""

    def collect(self) -> list[tuple[int, Reply]]:
        request = self.waiting.pop()
        assert request.prompt is not None
        head, _, begun = request.prompt.rpartition("<|im_start|>assistant\n")
        gains = [int(g) for g in re.findall(r"\] gain (\d+)", head)]
        order = sorted(range(len(gains)), key=lambda i: -gains[i])
        whole = format_response(" ".join(f"w{i}" for i in range(self.length)), order)
        if begun:
            text = whole.partition("<answer>")[2] if begun.endswith("<answer>") else whole.removeprefix(begun)
        else:
            text = whole
        words = re.findall(r"\s*\S+", text)
        limit = request.max_new_tokens or 10**9
        reply = Reply(
            "".join(words[:limit]), "", "stop" if len(words) <= limit else "length", 10, len(words[:limit]), 1.0
        )
        return [(request.id, reply)]


@pytest.mark.parametrize(
    ("budget", "closed", "requests"),
    [(0, True, 1), (1, True, 2), (10, True, 2), (41, True, 2), (43, False, 2), (50, False, 2), (100, False, None)],
)
def test_a_budget_closes_the_chain_and_still_gets_the_list(
    tokenizer: Any, budget: int, closed: bool, requests: int | None, tmp_path: Path
) -> None:
    """40 words of chain: `<think>` + 40 + `</think>`, then `<answer>` and a list of 10 (19 words)."""
    engine, log = Thinker(tokenizer, length=40), tmp_path / "log.jsonl"
    ranker = Reranker(engine, window=10, stride=5, budget=budget, decoding=Decoding(200), log=log)
    result = ranker.rerank([make(10, "q1")])
    assert result.run()["q1"] == [f"d{g}" for g in range(9, -1, -1)]
    (row,) = result.records
    assert row.verdict == "ok" and row.closed is closed and row.requests == requests
    assert row.text.count("<answer>") == 1 and row.text.startswith("<think>")
    assert row.tokens_out == row.text.count(" ") + 1 - (2 if closed else 0) - (1 if budget == 0 else 0)
    assert row.settings is None
    assert json.loads(log.read_text())["settings"]["budget"] == budget
    assert result.counts.get("closed_at_budget", 0) == int(closed)


def test_no_budget_changes_nothing(tokenizer: Any, tmp_path: Path) -> None:
    engine, log = Thinker(tokenizer, length=40), tmp_path / "log.jsonl"
    Reranker(engine, window=10, stride=5, log=log).rerank([make(12, "q1")])
    assert "budget" not in json.loads(log.read_text().splitlines()[0])["settings"]
    assert all(request.max_new_tokens is None for request in engine.seen)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budget": 5, "style": "nothink"}, "does not reason"),
        ({"budget": -1}, "leave room"),
        ({"budget": 3172}, "leave room"),
        ({"style": "pointwise"}, "pointwise strategy"),
        ({"strategy": "pointwise"}, "pointwise strategy"),
    ],
)
def test_what_does_not_go_together_is_refused(tokenizer: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Reranker(Judge(tokenizer), **options)


def test_a_chain_cannot_be_continued_without_the_tokenizer() -> None:
    with pytest.raises(InputError, match="tokenizer"):
        Reranker(Judge(None), budget=5)
