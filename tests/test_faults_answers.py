"""Faults that others met in answers: what is read as a ranking, templates that begin to think, placeholders, limits."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers_for_tests import make_tokenizer

from rrlib.cli import main
from rrlib.engines.base import Decoding, Reply, Request
from rrlib.errors import InputError
from rrlib.prompts import POINT_STYLES, WINDOW_STYLES, PromptBuilder, fill, get_style
from rrlib.reading import split_reasoning
from rrlib.rerank import Reranker
from rrlib.responses import parse_lenient, parse_strict, valid_share
from rrlib.synthesis.rank import read_ranking
from rrlib.templates import begins_to_think, template_facts
from rrlib.training.data import Limits, encode_examples
from rrlib.training.sft import target
from rrlib.training.trl_reward import answer_decoder
from rrlib.types import Candidates, Passage, Query, RankingExample

CHAIN = "[3] > [1] > [4] > [2]"
WANTED = [3, 1, 4, 2]
READERS = [("nothink", "{}"), ("reasonrank", "<answer> {} </answer>"), ("nothink_tags", "<answer>\n{}\n</answer>")]


def ids(text: str, n: int = 4, style: str = "nothink", finish: str | None = "stop") -> list[int]:
    return [i + 1 for i in parse_lenient(text, n, style, finish).order]


LISTS = [
    "1. [3]\n2. [1]\n3. [4]\n4. [2]",
    "1) [3] about tides\n2) [1] about the moon\n3) [4] about 2 rivers\n4) [2]",
    "1. 3\n2. 1\n3. 4\n4. 2",
    "Rank 1: passage 3\nRank 2: passage 1\nRank 3: passage 4\nRank 4: passage 2",
    "1: Passage [3]\n2: Passage [1]\n3: Passage [4]\n4: Passage [2]",
    "#1 - 3\n#2 - 1\n#3 - 4\n#4 - 2",
    "- [3]\n- [1]\n- [4]\n- [2]",
    "Of the 4 passages, [2] and [4] say little. My order: " + CHAIN,
    "I looked at all 4 passages; in order: " + CHAIN + ". Passages 2 and 4 are off topic.",
    "A first try was [1] > [2] > [3] > [4], but better is " + CHAIN,
    "Such as [2] > [1]. Sorted: [3], [1], [4], [2]",
    "The top 4 passages are: 3, 1, 4, 2",
    "Here are the 4 documents by relevance: 3 > 1 > 4 > 2",
    "Best: [3] > [1]. Then come [4] and [2].",
    "**[3]** > **[1]** > **[4]** > **[2]**",
    "`[3] > [1] > [4] > [2]`",
    r"\[3\] > \[1\] > \[4\] > \[2\]",
    "[3] → [1] → [4] → [2]",
    "[3] -> [1] -> [4] -> [2]",
    "[3] &gt; [1] &gt; [4] &gt; [2]",
    "【3】＞【1】＞【4】＞【2】",
    "Passage 3 > Passage 1 > Passage 4 > Passage 2",
    "(3) > (1) > (4) > (2)",
    "[3, 1, 4, 2]",
    '["3", "1", "4", "2"]',
    "3 > [1] > [4] > [2]",
    "3] > [1] > [4] > [2]",
    "[3] > [1] > [4] > 2",
    "3, 1, 4, 2",
    "The best is passage 3, then passage 1, then passage 4 and last passage 2.",
    "[3] (score 2) > [1] (score 1) > [4] (score 1) > [2] (score 0)",
    "Passage 3: 0.9\nPassage 1: 0.8\nPassage 4: 0.4\nPassage 2: 0.1",
]


@pytest.mark.parametrize("text", LISTS)
@pytest.mark.parametrize(("style", "frame"), READERS, ids=[style for style, _ in READERS])
def test_lists_are_read_as_they_are_meant(text: str, style: str, frame: str) -> None:
    read = parse_lenient(frame.format(text), 4, style, "stop")
    assert [i + 1 for i in read.order] == WANTED and read.verdict in ("ok", "repaired")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("11 > [1] > [2]", [11, 1, 2]),
        ("12] > [3] > [1]", [12, 3, 1]),
        ("7] > 9 > [2]", [7, 9, 2]),
        ("Of 20 passages: [5] > [11] > [2]", [5, 11, 2]),
        ("Here are the 3 best texts of the year 2024: 5 > 11 > 2", [5, 11, 2]),
        ("100% sure: [5] > [11] > [2]", [5, 11, 2]),
    ],
)
def test_lost_brackets_stay_identifiers_and_other_numbers_are_none(text: str, wanted: list[int]) -> None:
    assert ids(text, 12)[: len(wanted)] == wanted


@pytest.mark.parametrize(
    "text", ["1. [3] 2. [1] 3. [4] 4. [2]", "I have read 2 of them: " + CHAIN, "4 texts: 3, 1, 4, 2"]
)
def test_rankgpt_reads_every_digit_as_the_recorded_runs_were_read(text: str) -> None:
    digits = list(dict.fromkeys(int(c) for c in text if c.isdigit()))
    assert ids(text, 4, "rankgpt") == digits


UNCLOSED = [
    (f"<answer> {CHAIN}", "stop", "repaired", WANTED),
    (f"<think> a </think> <answer>\n{CHAIN}\n", "stop", "repaired", WANTED),
    (f"<answer> {CHAIN} <answer>", "stop", "repaired", WANTED),
    (f"<answer> {CHAIN} </answer> <answer>", "stop", "ok", WANTED),
    (f"<Answer> {CHAIN} </Answer>", "stop", "ok", WANTED),
    (f"<answer> {CHAIN}", None, "repaired", WANTED),
    ("<answer> [3] > [1]", "stop", "repaired", [3, 1, 2, 4]),
    ("<answer> [3] > [1]", None, "truncated", [1, 2, 3, 4]),
    ("<answer> [3] > [1] >", "stop", "truncated", [1, 2, 3, 4]),
    ("<answer> [3] > [", "stop", "truncated", [1, 2, 3, 4]),
    (f"<answer> {CHAIN}", "length", "truncated", [1, 2, 3, 4]),
    ("<answer>", "stop", "no_answer", [1, 2, 3, 4]),
]


@pytest.mark.parametrize(("text", "finish", "verdict", "order"), UNCLOSED)
def test_answers_without_an_end_tag(text: str, finish: str | None, verdict: str, order: list[int]) -> None:
    read = parse_lenient(text, 4, "reasonrank", finish)
    assert (read.verdict, [i + 1 for i in read.order]) == (verdict, order)


DECOY = "[2] > [4] > [1] > [3] looks right, 2 or 4"
BLOCKS = [
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<think_fast>", "</think_fast>"),
    ("<THINK>", "</THINK>"),
    ('<think type="long">', "</think>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("[THINK]", "[/THINK]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("\uff1cthink\uff1e", "\uff1c/think\uff1e"),
    ("\u27e8thinking\u27e9", "\u27e8/thinking\u27e9"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<start_working_out>", "<end_working_out>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe see that ", "assistantfinal"),
]


@pytest.mark.parametrize(("begin", "end"), BLOCKS, ids=[begin.strip() for begin, _ in BLOCKS])
def test_reasoning_in_any_tags_is_no_ranking(begin: str, end: str) -> None:
    for style in ("nothink", "rankgpt", "reasonrank"):
        frame = "<answer> {} </answer>" if WINDOW_STYLES[style].tags else "{}"
        decoy = DECOY + " <answer> [2] > [1] </answer>"
        read = parse_lenient(f"{begin}{decoy}{end}{frame.format(CHAIN)}", 4, style, "stop")
        assert ([i + 1 for i in read.order], read.verdict) == (WANTED, "ok")
        assert DECOY in read.reasoning
        for finish, verdict in (("stop", "no_answer"), ("length", "truncated")):
            read = parse_lenient(f"{begin}{decoy}", 4, style, finish)
            assert (list(read.order), read.verdict) == ([0, 1, 2, 3], verdict)
    if not begin.startswith("analysis"):
        assert read_ranking(f"{begin}{DECOY}{end}{CHAIN}", 4).fault in (None, "breaks_format")
    assert read_ranking(f"{begin}{DECOY}", 4).fault == "cut_off"


@pytest.mark.parametrize(
    "text", ["a <b> [1] > [2]", "[1] < [2]", "<answer> [think about 2] </answer>", "Analysis: [2] > [1]"]
)
def test_other_brackets_are_no_reasoning(text: str) -> None:
    assert split_reasoning(text) == ("", text, False, False)


def test_a_second_block_that_is_not_closed_is_not_read() -> None:
    assert ids(f"<think> a </think> {CHAIN} <think> {DECOY}") == WANTED
    assert parse_lenient(f"</think> <think> {DECOY}", 4, "nothink", "length").verdict == "truncated"


ROWS = [{"id": i, "score": score} for i, score in zip(WANTED, (4, 3, 2, 2), strict=True)]
JSON: list[tuple[Any, list[int] | None]] = [
    (ROWS, WANTED),
    ({"ranking": ROWS}, WANTED),
    ({"results": [{"passage_id": f"[{row['id']}]", "relevance_score": row["score"]} for row in ROWS]}, WANTED),
    ([{"score": row["score"], "doc": f"passage {row['id']}", "why": "it says 2 things"} for row in ROWS], WANTED),
    ([{"rank": 2, "id": 1}, {"rank": 1, "id": 3}, {"rank": 4, "id": 2}, {"rank": 3, "id": 4}], WANTED),
    ({"ranking": WANTED, "scores": [4, 3, 2, 1]}, WANTED),
    ({"scores": [4, 3, 2, 1], "ranked_ids": ["3", "1", "4", "2"]}, WANTED),
    ({"reasoning": "[2] > [1] > [3] > [4]", "answer": CHAIN}, WANTED),
    ({"3": 0.9, "1": 0.5, "4": 0.2, "2": 0.2}, WANTED),
    ({"scores": {"[3]": 9, "[1]": 8, "[4]": 2, "[2]": 1}}, WANTED),
    ({"scores": [1, 4, 3, 2]}, None),
    ([{"score": 4}, {"score": 1}], None),
    ([{"id": 1, "score": 2}, {"id": 2, "score": 4}], None),
    ([{"index": 0, "score": 4}, {"index": 2, "score": 3}], None),
    ([{"title": "3 tides", "grade": 2}, {"title": "1 moon", "grade": 1}], None),
    ({"relevance": 3, "confidence": 2}, None),
]


@pytest.mark.parametrize(("value", "wanted"), JSON, ids=[json.dumps(value)[:40] for value, _ in JSON])
def test_json_is_read_by_its_identifiers_or_not_at_all(value: Any, wanted: list[int] | None) -> None:
    plain, lines = (
        json.dumps(value),
        "\n".join(map(json.dumps, value)) if isinstance(value, list) else json.dumps(value),
    )
    for text in (
        plain,
        json.dumps(value, indent=2),
        f"Here it is:\n```json\n{plain}\n```\nDone, all 4.",
        repr(value),
        lines,
    ):
        for style, frame in READERS:
            read = parse_lenient(frame.replace("{}", text), 4, style, "stop")
            assert [i + 1 for i in read.order] == (wanted or [1, 2, 3, 4]), text
            assert (read.verdict == "no_answer") == (wanted is None)
    assert ids(plain[: len(plain) // 3]) in ([1, 2, 3, 4], ids(plain)) or wanted


@pytest.mark.parametrize(
    "text", ["[" * 20000, "1 " * 20000, '{"a":' * 5000, "<" * 20000, "1." * 20000, "[1] " * 5000 + "x", "1 > " * 9000]
)
def test_hostile_answers_are_quick(text: str) -> None:
    assert sorted(parse_lenient(text, 20, "nothink", "stop").order) == list(range(20))


# --- placeholders -----------------------------------------------------------------------------------------------------
HOSTILE = [
    "what is {num}?",
    "{query} {query}",
    "{passage} or {num} or {0} or {}",
    "{{num}}",
    "%s $query {text!r}",
    "{num:>10}",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("style", [*WINDOW_STYLES, *POINT_STYLES])
def test_placeholders_inside_texts_stay(text: str, style: str) -> None:
    builder = PromptBuilder(None, style)
    count = 1 if style in POINT_STYLES else 3
    shown = builder.messages(text, [Passage(str(i), f"text {text}") for i in range(count)])[-1]["content"]
    plain = builder.messages("QQQ", [Passage(str(i), "PPP") for i in range(count)])[-1]["content"]
    assert shown == plain.replace("QQQ", text).replace("PPP", f"text {text}")


def test_a_template_is_filled_in_one_go() -> None:
    assert fill("{a}-{b}-{c}", a="{b}", b="{a}") == "{b}-{a}-{c}"
    assert fill(r"{a}", a=r"\1\g<0>") == r"\1\g<0>"


# --- passage limits without a tokenizer -------------------------------------------------------------------------------
LONG = ["word " * 20000, "x" * 100000, "\u6f6e\u6c50" * 20000, "\u043f\u0440\u0438\u043b\u0438\u0432 " * 9000]


@pytest.mark.parametrize("text", LONG, ids=["words", "one word", "Chinese", "Russian"])
def test_passages_are_cut_without_a_tokenizer(text: str) -> None:
    builder = PromptBuilder(None, max_passage_tokens=100)
    shown = builder.passage(Passage("a", text))
    assert 390 <= len(shown.encode()) <= 400 and text.startswith(shown) and builder.cut == 1
    assert builder.passage(Passage("b", "short")) == "short" and builder.cut == 1


# --- chat templates ---------------------------------------------------------------------------------------------------
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are an assistant.<|im_end|>\n{% endif %}"
LLAMA = (
    "<|begin_of_text|>{% if messages[0].role == 'system' %}{% set system = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n{{ system }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TURNS = (
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "<start_of_turn>{{ role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
DROPS = "{% if messages[0].role == 'system' %}{% set messages = messages[1:] %}{% endif %}" + TURNS
R1 = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "<|User|>{{ m.content }}{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
SWITCHED = CHATML + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
Template = tuple[str, str, bool, bool, bool]
TEMPLATES: dict[str, Template] = {  # the template, the end of a turn; system role, opens a block, closes it when told
    "Qwen2.5": (DEFAULT + CHATML + "{% endif %}", "<|im_end|>", True, False, False),
    "SmolLM2": (DEFAULT + CHATML + "{% endif %}", "<|im_end|>", True, False, False),
    "Qwen3": (SWITCHED, "<|im_end|>", True, False, True),
    "Qwen3-Thinking": (CHATML + "<think>\n{% endif %}", "<|im_end|>", True, True, False),
    "Llama-3.1": (LLAMA, "<|eot_id|>", True, False, False),
    "Gemma": (GEMMA, "<end_of_turn>", False, False, False),
    "one that drops the system message": (DROPS, "<end_of_turn>", False, False, False),
    "R1 distill": (R1, "<|end|>", True, True, False),
    "opens without a line break": (CHATML + "<think>{% endif %}", "<|im_end|>", True, True, False),
    "opens with two": (CHATML + "<think>\n\n{% endif %}", "<|im_end|>", True, True, False),
}
PASSAGES = tuple(Passage(str(i), f"text number {i}") for i in range(4))
EXAMPLE = RankingExample(Query("q", "why?"), PASSAGES, (0, 0, 1, 0), (2, 0, 3, 1), "a reason")
ANSWER = f"<answer> {CHAIN} </answer>"


def tokenizer_of(name: str) -> Any:
    tokenizer = copy.deepcopy(make_tokenizer("qwen2.5"))
    tokenizer.chat_template, end = TEMPLATES[name][:2]
    tokenizer.add_special_tokens({"eos_token": end})
    return tokenizer


class Says:
    """An engine that writes one text, whatever it is asked."""

    name, model, capacity, max_model_len = "says", "says", 8, None

    def __init__(self, text: str, tokenizer: Any = None) -> None:
        self.text, self.tokenizer = text, tokenizer
        self.waiting: list[Request] = []
        self.prompts: list[str | None] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting.extend(requests)

    def collect(self) -> list[tuple[int, Reply]]:
        done, self.waiting = self.waiting, []
        self.prompts.extend(request.prompt for request in done)
        return [(request.id, Reply(text=self.text, finish_reason="stop")) for request in done]

    def cancel(self) -> None:
        self.waiting = []

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_does_is_known_and_said(name: str) -> None:
    end, system, opens, closes = TEMPLATES[name][1:]
    facts = template_facts(tokenizer_of(name))
    assert (facts.end, facts.system_role, facts.opens_block, facts.closes_block) == (end, system, opens, closes)
    assert ("no system role" in str(facts)) != system and ("opens <think>" in str(facts)) == opens
    assert end in str(facts) and not facts.dated


@pytest.mark.parametrize("style", ["reasonrank", "reasonrank-qwen3", "nothink_tags", "nothink"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_taught_is_rewarded_and_ranks(name: str, style: str) -> None:
    """SFT's target, read as a rollout of GRPO and as an answer at inference, over the same prompt."""
    tokenizer, think = tokenizer_of(name), get_style(style).think
    limits = Limits(9000, 9000, 9000)
    row = encode_examples([EXAMPLE], tokenizer, PromptBuilder(tokenizer, style), limits, target=target).rows[0]
    assert row.prompt.count(get_style(style).system) == 1 and "text number 3" in row.prompt
    response = tokenizer.decode(row.response_ids).removesuffix(TEMPLATES[name][1])
    opens = begins_to_think(row.prompt)
    assert opens == TEMPLATES[name][3]
    block = "<think> a reason </think> " if think else "<think>\n</think>\n\n" if opens else ""
    whole = f"<think>{' ' if think else ''}{response}" if opens else response
    assert whole == block + (ANSWER if get_style(style).tags else CHAIN), "the answer is begun once, and whole"
    rollout = answer_decoder(tokenizer, row.prompt, think)(list(row.response_ids))
    if get_style(style).tags:
        assert parse_strict(rollout, 4, think=think).level == "valid"
    engine = Says(response, tokenizer)
    result = Reranker(engine, style=style, window=4, stride=2).rerank([Candidates(Query("q", "why?"), PASSAGES, None)])
    record = result.records[0]
    assert engine.prompts == [row.prompt] and (record.verdict, record.order) == ("ok", (2, 0, 3, 1))
    assert record.reasoning.strip() == ("a reason" if think else "")
    if get_style(style).tags:
        assert valid_share(result.records, think=think) == 1.0


@pytest.mark.parametrize("name", [name for name, facts in TEMPLATES.items() if facts[3]])
def test_reasoning_in_a_style_without_it_earns_no_reward(name: str) -> None:
    tokenizer = tokenizer_of(name)
    prompt = PromptBuilder(tokenizer, "nothink_tags").render("why?", PASSAGES)
    for text in (f"a reason </think> {ANSWER}", f"</think> </think> {ANSWER}", f"<think> </think> {ANSWER}", ANSWER):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert parse_strict(answer_decoder(tokenizer, prompt, False)(ids), 4, think=False).level == "bad_format", text


@pytest.mark.parametrize(
    ("text", "style", "order"),
    [
        (f"a [4] > [2] reason </think> {ANSWER}", "reasonrank", [3, 1, 4, 2]),
        (f"\n\n</think>\n{ANSWER}", "nothink_tags", [3, 1, 4, 2]),
        (f"so [4] > [2] > [1] > [3]?\n</think>\n\n{CHAIN}", "nothink", [3, 1, 4, 2]),
        (f"{ANSWER}", "nothink_tags", [3, 1, 4, 2]),
    ],
)
def test_a_server_whose_template_opens_the_block(text: str, style: str, order: list[int]) -> None:
    engine = Says(text)  # no tokenizer, so nobody saw the prompt
    result = Reranker(engine, style=style, window=4, stride=2).rerank([Candidates(Query("q", "why?"), PASSAGES, None)])
    record = result.records[0]
    assert engine.prompts == [None] and [i + 1 for i in record.order] == order and record.verdict == "ok"
    if get_style(style).tags:
        assert valid_share([record], think=get_style(style).think) == 1.0


def test_a_template_that_fails_otherwise_is_said() -> None:
    tokenizer = copy.deepcopy(make_tokenizer("qwen2.5"))
    for template in ("{{ raise_exception('no') }}", "{{ messages[9].content.x }}", "{% if %}"):
        tokenizer.chat_template = template
        with pytest.raises(InputError, match=r"the chat template fails: .* -> use an instruct checkpoint"):
            PromptBuilder(tokenizer).render("why?", PASSAGES)


@pytest.mark.parametrize(
    ("profile", "processes", "told"),
    [
        ("miniature", "1", "has a system role, opens no block, ends a turn with <|im_end|>"),
        ("smoke", "1", "has a system role, opens no block, ends a turn with <|im_end|>"),
        ("qwen2.5-7b", "8", "not looked at, its tokenizer is not on this machine"),
    ],
)
def test_plan_says_what_the_template_does(
    profile: str, processes: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).resolve().parents[1]
    assert main(["plan", str(root / "params" / f"{profile}.yaml"), "--gpu-memory", "80", "--processes", processes]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("chat template of ") and last.endswith(told)
