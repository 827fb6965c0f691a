"""A query's passages as one sequence: the same scores as from separate prompts, a loss worked out by hand, and a
training that learns to rank."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import SFT, make_backbone

from rrlib.errors import InputError
from rrlib.rerank import Reranker
from rrlib.studies import pointwise
from rrlib.training.mix import pointwise_examples
from rrlib.training.sft import encode_for_sft
from rrlib.training.together import LIST_WEIGHT, collate, join, judging_loss, lengthen, query_of, train_together
from rrlib.types import Passage, Query, RankingExample

STYLE = "pointwise_nothink"
SETTINGS = dataclasses.replace(
    SFT, micro_batch=1, accumulation=4, max_length=1024, learning_rate=1e-2, epochs=24.0, max_steps=0, save_every=12
)
LISTS = [
    RankingExample(
        Query(f"q{i}", f"find {letter}"),
        tuple(Passage(f"d{i}-{other}", f"it is {other * 3}") for other in "abcd"[i:] + "abcd"[:i]),
        tuple(int(other == "a") for other in "abcd"[i:] + "abcd"[:i]),
        (0, 1, 2, 3),
        "ok",
    )
    for i, letter in enumerate("abcd")
]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny backbone, whose tokenizer has the two words as tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_backbone(tmp_path_factory.mktemp("judge"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["true", "false"])
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return str(folder)


def words(folder: str) -> list[int]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("true", "false")]


def alone(model: Any, prompts: list[tuple[int, ...]], yes: int, no: int) -> torch.Tensor:
    """The score of each prompt, read by itself."""
    with torch.inference_mode():
        logits = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    return torch.stack([row[yes] - row[no] for row in logits])


def test_scores_are_those_of_separate_prompts(judge: str) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(judge).eval()
    prompts = [row.prompt_ids for row in encode_for_sft(pointwise_examples(LISTS[:1], STYLE), judge, SFT, STYLE).rows]
    joined = join(prompts)
    assert len(joined.ids) < 0.5 * sum(map(len, prompts)) and len(joined.last) == 4
    inputs = collate([{**joined._asdict(), "relevant": [0.0] * 4}])
    last = inputs.pop("last")
    inputs.pop("relevant")
    yes, no = words(judge)
    with torch.inference_mode():
        logits = model(**inputs).logits[0, last]
    expected = alone(model, prompts, yes, no)
    assert torch.allclose(logits[:, yes] - logits[:, no], expected, atol=1e-5)
    assert expected.std() > 1e-3, "equal scores would show nothing"
    assert join([prompts[0]]).ids == list(prompts[0]) and join([prompts[0]]).last == [len(prompts[0]) - 1]


def test_the_loss_by_hand() -> None:
    loss = judging_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert float(loss) == pytest.approx(math.log(2) + LIST_WEIGHT * math.log(2))
    none = judging_loss(torch.tensor([2.0, -1.0]), torch.zeros(2))
    assert float(none) == pytest.approx((math.log1p(math.exp(2)) + math.log1p(math.exp(-1))) / 2)
    two = judging_loss(torch.tensor([1.0, 0.0, -1.0]), torch.tensor([1.0, 1.0, 0.0]))
    total = math.log(math.e + 1 + math.exp(-1))
    word = (math.log1p(math.exp(-1)) + math.log(2) + math.log1p(math.exp(-1))) / 3
    assert float(two) == pytest.approx(word + LIST_WEIGHT * ((total - 1) + total) / 2)


def test_it_learns_and_an_update_is_the_mean_over_its_queries(judge: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    examples = pointwise_examples(LISTS, STYLE)
    result = train_together(examples, judge, tmp_path / "out", SETTINGS, STYLE)
    losses = [row["loss"] for row in result.log if "loss" in row]
    model, (yes, no) = AutoModelForCausalLM.from_pretrained(judge).eval(), words(judge)
    rows = encode_for_sft(examples, judge, SETTINGS, STYLE).rows
    by_hand = []
    for query in dict.fromkeys(query_of(row.example) for row in rows):
        own = [row for row in rows if query_of(row.example) == query]
        relevant = torch.tensor([float(row.example.relevance[0]) for row in own])
        by_hand.append(float(judging_loss(alone(model, [row.prompt_ids for row in own], yes, no), relevant)))
    assert losses[0] == pytest.approx(sum(by_hand) / 4, abs=1e-3) and len(losses) == 24
    assert losses[-1] < 0.5 * losses[0]
    reranker = Reranker(
        str(result.checkpoint), style=STYLE
    )  # the model has 1,024 positions: a word needs no room for a chain
    for example in LISTS:
        best = reranker.rank(example.query.text, [p.text for p in example.passages])[0]
        assert best.text == example.passages[example.relevance.index(1)].text
    again = train_together(examples, judge, tmp_path / "out", SETTINGS, STYLE)
    assert [row.get("loss") for row in again.log] == [row.get("loss") for row in result.log]


def test_what_it_refuses(judge: str, tmp_path: Path) -> None:
    examples = pointwise_examples(LISTS, STYLE)
    with pytest.raises(InputError, match="does not answer by a word alone"):
        train_together(pointwise_examples(LISTS, "pointwise"), judge, tmp_path / "a", SETTINGS, "pointwise")
    with pytest.raises(InputError, match="micro_batch 2"):
        train_together(examples, judge, tmp_path / "b", dataclasses.replace(SETTINGS, micro_batch=2), STYLE)
    plain = str(make_backbone(tmp_path / "plain"))
    with pytest.raises(InputError, match="no single tokens"):
        train_together(examples, plain, tmp_path / "c", SETTINGS, STYLE)


def test_lengthened_passages_keep_their_text_and_label() -> None:
    examples = pointwise_examples(LISTS, STYLE)
    assert lengthen(examples, 0.0, 7) == examples
    long = lengthen(examples, 1.0, 7)
    assert [e.relevance for e in long] == [e.relevance for e in examples]
    for before, after in zip(examples, long, strict=True):
        parts = after.passages[0].text.split(". ")
        assert before.passages[0].text in parts and len(parts) <= 5 and after.query == before.query
    assert any(len(e.passages[0].text) > len(b.passages[0].text) for e, b in zip(long, examples, strict=True))
    some = lengthen(examples, 0.5, 7)
    changed = {query_of(e) for e, b in zip(some, examples, strict=True) if e != b}
    kept = {query_of(e) for e, b in zip(some, examples, strict=True) if e == b}
    assert changed and kept - changed, "a share of the queries, not of the passages"


def test_the_command_wants_a_first_stage_for_each_collection(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--collection", "entailmentbank", "argkp", "--first-stage", "stem", "--output", "x", "--data", "."]
    assert pointwise.main(words) == 2 and "name one for each" in capsys.readouterr().err
