"""The no-think mode with answer tags: its prompt byte for byte, both readers, and both stages of training."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from tiny_training import EXAMPLES, GRPO, SFT
from tokenizers_for_tests import make_tokenizer

from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder, format_ranking, format_response, get_style
from rrlib.responses import parse_lenient, parse_strict
from rrlib.reward import MultiViewReward
from rrlib.training.completions import read_completions
from rrlib.training.data import Limits, encode_examples
from rrlib.training.grpo import train_grpo
from rrlib.training.mix import both_modes, mix_styles, own_chain, pointwise_examples
from rrlib.training.sft import encode_for_sft, train_sft
from rrlib.types import Passage

STYLE = "nothink_tags"
TEXT = (
    "<|im_start|>system\nYou are RankLLM, an intelligent assistant that can rank passages based on their relevance to "
    "the query.<|im_end|>\n<|im_start|>user\nI will provide you with 2 passages, each indicated by a numerical "
    "identifier []. Rank the passages based on their relevance to the search query: why?.\n\n[1] a\n[2] b\nSearch "
    "Query: why?.\nRank the 2 passages above based on their relevance to the search query. All the passages should be "
    "included and listed using identifiers, in descending order of relevance. The final ranked list should be enclosed "
    "within <answer> </answer> tags, i.e., <answer> ranked list here </answer>. The format of ranked list should be [] "
    "> [], e.g., [2] > [1]. Only respond with the ranking results, do not say any word or explain.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def test_prompt_byte_for_byte_and_the_templates_own_switch() -> None:
    passages = [Passage("x", "a"), Passage("y", "b")]
    assert PromptBuilder(make_tokenizer("qwen2.5"), STYLE).render("why?", passages) == TEXT
    assert PromptBuilder(make_tokenizer("qwen3"), STYLE).render("why?", passages) == TEXT + "<think>\n\n</think>\n\n"
    thinking = PromptBuilder(make_tokenizer("qwen3"), "reasonrank-qwen3").render("why?", passages)
    assert thinking == TEXT  # same words; a Qwen3 checkpoint is switched by its template, the others by the words
    assert "enable" not in PromptBuilder(make_tokenizer("llama3.1"), STYLE).render("why?", passages)


def test_what_it_writes_is_read_strictly_and_leniently() -> None:
    style = get_style(STYLE)
    assert style.tags and not style.think
    rng = random.Random(7)
    for n in (1, 2, 10, 20):
        order = rng.sample(range(n), n)
        text = format_response("a thought that is left out", order, STYLE)
        assert text == f"<answer> {format_ranking(order)} </answer>"
        assert parse_strict(text, n, think=False).order == tuple(order)
        assert parse_strict(text, n, think=True).level == "bad_format"
        parsed = parse_lenient(text, n, STYLE, "stop")
        assert parsed.order == tuple(order) and parsed.verdict == "ok"


@pytest.mark.parametrize(
    ("text", "end", "verdict"),
    [
        ("[2] > [1]", "stop", "no_answer"),  # a plain list is not what this style asks for
        ("<answer> [2] > [1]", "length", "truncated"),
        ("<answer> [2] > [2] </answer>", "stop", "repaired"),
        ("<think> [2] > [1]", "length", "truncated"),  # it thought after all, and was cut off
        ("<think> x </think> <answer> [2] > [1] </answer>", "stop", "ok"),
    ],
)
def test_other_answers(text: str, end: str, verdict: str) -> None:
    assert parse_lenient(text, 2, STYLE, end).verdict == verdict
    assert parse_strict(text, 2, think=False).level != "valid"


@pytest.fixture(scope="module")
def trained(backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = dataclasses.replace(SFT, max_steps=150, save_every=0, max_length=900)
    bare = [dataclasses.replace(example, reasoning="") for example in EXAMPLES]  # nothing to think is needed
    result = train_sft(bare, backbone, tmp_path_factory.mktemp("sft") / "out", settings, STYLE)
    assert result.log[-1]["loss"] < 0.2 * result.log[0]["loss"]
    return result.checkpoint


def test_sft_learns_the_answer_block_alone(backbone: Path) -> None:
    from transformers import AutoTokenizer

    row = encode_for_sft(EXAMPLES, backbone, dataclasses.replace(SFT, max_length=900), STYLE).rows[0]
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    assert tokenizer.decode(row.response_ids) == "<answer> [1] > [2] > [3] </answer><|im_end|>"
    assert row.prompt.endswith("do not say any word or explain.<|im_end|>\n<|im_start|>assistant\n")


def test_grpo_rewards_it(trained: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(GRPO, max_prompt=900)
    reward = MultiViewReward(k=2, think=False)
    result = train_grpo(EXAMPLES, trained, tmp_path / "out", settings, reward, STYLE)
    assert result.log[0]["share/valid"] > 0.1
    kept = read_completions(tmp_path / "out")
    levels = [reward.score(text, (1, 0, 0), (0, 1, 2)).level for text in kept["completion"]]
    assert "valid" in levels and not kept["completion"].str.contains("<think>").any()


def test_grpo_refuses_a_reward_of_the_other_mode(trained: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(GRPO, max_prompt=900)
    with pytest.raises(InputError, match="think="):
        train_grpo(EXAMPLES, trained, tmp_path / "out", settings, MultiViewReward(k=2), STYLE)


# --- both modes from one checkpoint -----------------------------------------------------------------------------------
def test_shares_are_exact_and_seeded() -> None:
    mixed = mix_styles(EXAMPLES, {"reasonrank": 3, STYLE: 1}, seed=1)
    names = [e.meta["style"] for e in mixed]
    assert names.count("reasonrank") == 6 and names.count(STYLE) == 2
    assert [replace_style(e) for e in mixed] == EXAMPLES
    assert names == [e.meta["style"] for e in mix_styles(EXAMPLES, {"reasonrank": 0.75, STYLE: 0.25}, seed=1)]
    assert any(names != [e.meta["style"] for e in mix_styles(EXAMPLES, {"reasonrank": 3, STYLE: 1}, s)] for s in (2, 3))
    thirds = mix_styles(EXAMPLES, {"reasonrank": 1, STYLE: 1, "nothink": 1})
    assert sorted([e.meta["style"] for e in thirds].count(n) for n in ("reasonrank", STYLE, "nothink")) == [2, 3, 3]
    assert {e.meta["style"] for e in mix_styles(EXAMPLES, {"reasonrank": 0, STYLE: 1})} == {STYLE}
    assert len(both_modes(EXAMPLES, ["reasonrank", STYLE])) == 16
    for bad in ({"reasonrank": -1.0}, {"reasonrank": 0.0}, {"loud": 1.0}):
        with pytest.raises(InputError):
            mix_styles(EXAMPLES, bad)


def replace_style(example: object) -> object:
    meta = {k: v for k, v in example.meta.items() if k != "style"}  # type: ignore[attr-defined]
    return dataclasses.replace(example, meta=meta)  # type: ignore[type-var]


def test_each_example_is_trained_in_its_own_style(backbone: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    settings = dataclasses.replace(SFT, max_length=900)
    mixed = mix_styles(EXAMPLES, {"reasonrank": 1, STYLE: 1}, seed=1)
    for row in encode_for_sft(mixed, backbone, settings).rows:
        style = row.example.meta["style"]
        builder = PromptBuilder(tokenizer, style, settings.max_passage_tokens)
        assert row.prompt == builder.render(row.example.query.text, row.example.passages)
        text = format_response(row.example.reasoning, row.example.gold, style)
        assert tokenizer.decode(row.response_ids) == text + "<|im_end|>"
    with pytest.raises(InputError, match="one mode at a time"):
        limits = Limits(900, 900, 900)
        encode_examples(mixed, tokenizer, PromptBuilder(tokenizer, "reasonrank"), limits, target=None)
    same = mix_styles(EXAMPLES, {"reasonrank-qwen3": 1, STYLE: 1})
    with pytest.raises(InputError, match="send the same prompt"):  # this template has no switch of its own
        encode_for_sft(same, backbone, settings)


def test_the_same_data_for_a_pointwise_model(backbone: Path) -> None:
    from transformers import AutoTokenizer

    chain = "The first cue suggests x. So x yes. [1] y no [2] x yes [3] z no and [2] again. [9] is a year"
    example = dataclasses.replace(EXAMPLES[1], reasoning=chain)
    assert own_chain(chain, 1, 3) == "The first cue suggests x. So x yes. x yes again. [9] is a year"
    assert own_chain(chain, 0, 3) == "The first cue suggests x. So x yes. y no"
    assert own_chain("no mention", 0, 3) == "no mention"
    rows = pointwise_examples([example])
    assert [r.relevance for r in rows] == [(label,) for label in example.relevance] and len(rows) == 3
    assert [r.passages for r in rows] == [(p,) for p in example.passages]
    assert len({r.query.qid for r in rows}) == 3 and {r.meta["style"] for r in rows} == {"pointwise"}
    drawn = pointwise_examples([example], per_list=2, seed=3)
    assert len(drawn) == 2 and sum(r.relevance[0] for r in drawn) == 1
    encoded = encode_for_sft(rows, backbone, dataclasses.replace(SFT, max_length=900), "pointwise").rows
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    words = {tokenizer.decode(r.response_ids).rpartition("</think>")[2] for r in encoded}
    assert words == {" true<|im_end|>", " false<|im_end|>"}
    bare = encode_for_sft(pointwise_examples([example], "pointwise_nothink"), backbone, SFT, "pointwise_nothink").rows
    assert {tokenizer.decode(r.response_ids) for r in bare} == {"true<|im_end|>", "false<|im_end|>"}
    with pytest.raises(InputError, match="ranks a list"):
        pointwise_examples([example], "reasonrank")
