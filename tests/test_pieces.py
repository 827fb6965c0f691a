"""Prompts put together from pieces are those of the whole string: the text byte for byte, the ids one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import make_tokenizer

from rrlib.errors import InputError
from rrlib.pieces import Pieces, PreparedPrompts
from rrlib.prompts import PromptBuilder, fix_text
from rrlib.types import Candidates, Passage, Query

STYLES = ("reasonrank", "reasonrank-qwen3", "rankgpt", "nothink", "nothink_tags")


def whole(builder: PromptBuilder, query: str, passages: Sequence[Passage]) -> tuple[str, list[int]]:
    """What the released way gives: the rendered string, tokenized."""
    prompt = builder.render(query, passages)
    assert builder.tokenizer is not None
    return prompt, builder.tokenizer(prompt, add_special_tokens=False)["input_ids"]


def with_pattern(kind: str) -> Any:
    """A tokenizer of another kind of word: Qwen's pattern, GPT-2's, or SentencePiece's blanks."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    words = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    qwen = words + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    if kind == "qwen":
        split = pre_tokenizers.Split(Regex(qwen), "isolated")
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "blanks":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<|im_end|>"], initial_alphabet=alphabet)
    corpus = ["the passages rank.\n\n[1] the list\n[2] of the passages.\n", "a \n[3] b.\n[4] Search Query: why?"] * 9
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = make_tokenizer("qwen2.5").chat_template
    return fast


BITS = [
    *("the ", "cats", " ", "\n", "\n\n", "\r\n", "[1]", "[2] ", "]", "(", ".", "'s", "7", "é", "\u0301", "“why”"),
    *("中文", "😀", "&amp;", "<b>", "Ã©", "\u3000", "\t", "<|im_end|>", "</think>", "\ud800", "-", "/", "_", "\u2028"),
]
text = st.lists(st.sampled_from(BITS), max_size=12).map("".join)


OF_A_FAMILY = ("llama3.1", "qwen3")


@pytest.mark.parametrize("kind", ["gpt2", "qwen", *OF_A_FAMILY])
def test_hostile_texts_give_the_bytes_and_ids_of_the_whole(kind: str) -> None:
    tokenizer = make_tokenizer(kind) if kind in OF_A_FAMILY else with_pattern(kind)
    assert Pieces(tokenizer).fits
    put_together = 0

    @settings(max_examples=250, deadline=None)
    @given(text, st.lists(st.tuples(text, text), min_size=1, max_size=4), st.sampled_from(STYLES), st.integers(2, 30))
    def holds(query: str, shown: list[tuple[str, str]], style: str, limit: int) -> None:
        nonlocal put_together
        builder = PromptBuilder(tokenizer, style, limit)
        passages = [Passage(str(i), body, title) for i, (body, title) in enumerate(shown)]
        prompt, ids = PreparedPrompts(builder).window(query, passages)
        expected = whole(PromptBuilder(tokenizer, style, limit), query, passages)
        assert prompt == expected[0]
        assert ids is None or ids == expected[1]
        put_together += ids is not None

    holds()
    assert put_together > 100, "most windows are put together"


def test_a_tokenizer_whose_words_hold_together_is_shown_the_whole_string() -> None:
    tokenizer = with_pattern("blanks")
    assert not Pieces(tokenizer).fits
    prompt, ids = PreparedPrompts(PromptBuilder(tokenizer)).window("why?", [Passage("a", "x"), Passage("b", "y")])
    assert ids is None and prompt == PromptBuilder(tokenizer).render("why?", [Passage("a", "x"), Passage("b", "y")])


def test_a_text_that_ftfy_changes_in_its_line_is_left_to_the_whole_string() -> None:
    tokenizer = make_tokenizer("qwen2.5")
    builder = PromptBuilder(tokenizer)
    prepared = PreparedPrompts(builder)
    builder.keep(odd := Passage("a", "x"), "l\u2019Ã©t\u00e9 \ufb01n")
    assert fix_text("[1] l\u2019Ã©t\u00e9 \ufb01n\n", html=False) != "[1] l\u2019Ã©t\u00e9 \ufb01n\n"
    prompt, ids = prepared.window("why?", [odd])
    assert ids is None and prompt == builder.render("why?", [odd])


def test_texts_of_any_length_are_cut_as_the_builder_cuts_them() -> None:
    tokenizer = make_tokenizer("qwen2.5")
    texts = ["word " * n for n in (1, 20, 39, 40, 41, 60, 2000)] + [
        "x" * 5000,
        "x" * 300 + " y" * 400,
        ". " * 45,
        "[7] " * 30,
    ]
    passages = [Passage(str(i), body) for i, body in enumerate(texts)]
    fast, plain = PromptBuilder(tokenizer, max_passage_tokens=40), PromptBuilder(tokenizer, max_passage_tokens=40)
    PreparedPrompts(fast).prepare(passages)
    assert [fast.passage(p) for p in passages] == [plain.passage(p) for p in passages]
    assert fast.cut == plain.cut > 3


WORDS = [*("the ", "passages ", "rank ", "list ", "of ") * 12, *BITS]
long_text = st.lists(st.sampled_from(WORDS), min_size=15, max_size=60).map("".join)


@pytest.mark.parametrize("kind", ["gpt2", "qwen", *OF_A_FAMILY])
def test_long_texts_are_cut_by_ids_that_were_read_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the words at the ends are read again, and the cut text and its ids are those of the released way."""
    tokenizer = make_tokenizer(kind) if kind in OF_A_FAMILY else with_pattern(kind)
    by_ids = 0

    @settings(max_examples=120, deadline=None)
    @given(st.lists(long_text, min_size=1, max_size=3), st.integers(8, 60))
    def holds(texts: list[str], limit: int) -> None:
        nonlocal by_ids
        builder = PromptBuilder(tokenizer, "reasonrank", limit)
        passages = [Passage(str(i), body) for i, body in enumerate(texts)]
        prepared = PreparedPrompts(builder)
        cut = prepared._cut_long

        def counted(long: Any) -> None:
            nonlocal by_ids
            cut(long)
            by_ids += sum(prepared._bodies.get(passage) is not None for passage in long)

        prepared._cut_long = counted  # type: ignore[method-assign]
        prompt, ids = prepared.window("why?", passages)
        plain = PromptBuilder(tokenizer, "reasonrank", limit)
        expected = whole(plain, "why?", passages)
        assert prompt == expected[0] and (ids is None or ids == expected[1])
        assert builder.cut == plain.cut

    holds()
    assert by_ids > 20, "texts are cut by their ids"


def test_a_long_text_is_read_once() -> None:
    tokenizer = make_tokenizer("qwen2.5")
    prepared = PreparedPrompts(PromptBuilder(tokenizer, max_passage_tokens=40))
    read: list[str] = []
    encode = prepared.pieces.encode
    prepared.pieces.encode = lambda texts: [read.append(t) for t in texts] and encode(texts)  # type: ignore
    prepared.prepare([Passage(str(i), f"{'passages of the list ' * 60}{i}") for i in range(20)])
    assert sum(map(len, read)) < 1.2 * 20 * 5 * 40, "no more than five characters a token of the limit"


def test_each_passage_is_tokenized_once_in_all_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = PreparedPrompts(PromptBuilder(make_tokenizer("qwen2.5"), max_passage_tokens=512))
    seen: list[str] = []
    encode = prepared.pieces.encode
    monkeypatch.setattr(prepared.pieces, "encode", lambda texts: [seen.append(t) for t in texts] and encode(texts))
    passages = [Passage(str(i), f"passage {i} of many") for i in range(30)]
    for start in (20, 10, 0, 10, 20):
        prepared.window("why?", passages[start : start + 20])
    for passage in passages:
        assert sum(passage.text in text for text in seen) == 1
    prepared.forget(passages)
    prepared.window("why?", passages[:2])
    assert sum("passage 0 of many" in text for text in seen) == 2, "and again when it was forgotten"


def counted_engine(capacity: int, context: int) -> Any:
    """An oracle with the packaged reranker's tokenizer, and so many positions."""
    from test_rerank import Oracle

    from rrlib.engines.hf import load_tokenizer

    engine: Any = Oracle(capacity=capacity)
    engine.tokenizer, engine.max_model_len = load_tokenizer("package:rrlib.miniature/reranker"), context
    return engine


def many_queries(count: int) -> list[Candidates]:
    """Queries whose 40 passages are their own, each with a word that no other has."""
    return [
        Candidates(
            Query(f"q{q}", "which?"), tuple(Passage(f"d{q}-{i}", f"gain {i}\nmark-{q}-{i}-end") for i in range(40))
        )
        for q in range(count)
    ]


@pytest.mark.parametrize("context", [32_768, 5_000], ids=["settled by the limits", "settled by the texts"])
def test_each_passage_is_tokenized_once_where_few_are_kept(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """480 passages, of which 160 are kept: those of finished queries go, and those shown longest ago. A query whose
    length was looked at before its time may be read again."""
    from rrlib import prompts, scheduler
    from rrlib.engines import Decoding
    from rrlib.rerank import Reranker

    monkeypatch.setattr(prompts, "MOST_KEPT", 160)
    monkeypatch.setattr(scheduler, "LOOKED_AT_FIRST", 1)
    seen: list[str] = []
    encode = Pieces.encode
    monkeypatch.setattr(Pieces, "encode", lambda self, texts: [seen.append(t) for t in texts] and encode(self, texts))
    engine = counted_engine(2, context)
    limit = 512 if context == 32_768 else 120
    reranker = Reranker(engine, max_passage_tokens=limit, decoding=Decoding(100))
    builder, most = reranker.prompts, 0
    for _ in reranker.stream(many_queries(12)):
        most = max(most, len(builder._passages))
        assert builder.bodies.keys() <= builder._passages.keys()
    marks = [word for text in seen for word in text.split() if word.startswith("mark-")]
    assert len(set(marks)) == 480 and len(marks) <= 480 + (40 if context == 5_000 else 0)
    assert 0 < most <= 160 and not builder._passages and not builder._tokens


def test_a_plan_of_more_passages_than_are_kept_tokenizes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from test_experiment import world

    from rrlib import prompts
    from rrlib.engines import Decoding
    from rrlib.evaluation import Listwise, plan_experiment, systems

    data = world(queries=4, n=40, window=20, stride=10, max_passage_tokens=100)
    system = Listwise("package:rrlib.miniature/reranker", context=32_768, decoding=Decoding(100))
    systems._cached_prompts.cache_clear()
    exact = plan_experiment({"m": system}, data)
    systems._cached_prompts.cache_clear()
    monkeypatch.setattr(prompts, "MOST_KEPT", 20)
    monkeypatch.setattr(PreparedPrompts, "prepare", lambda *_: pytest.fail("a text is tokenized"))
    bound = plan_experiment({"m": system}, data)
    assert bound["calls"].item() == exact["calls"].item() == 12
    assert bound["longest_prompt"].item() >= 20 * 200 > exact["longest_prompt"].item()
    systems._cached_prompts.cache_clear()


def test_the_first_request_does_not_wait_for_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where limits settle nothing, the longest queries are looked at first, and of the others each window; what does
    not fit is refused with the same words at either time, before it is asked."""
    from rrlib import scheduler
    from rrlib.engines import Decoding
    from rrlib.rerank import Reranker

    monkeypatch.setattr(scheduler, "LOOKED_AT_FIRST", 2)
    engine, queries = counted_engine(2, 5_000), many_queries(9)
    reranker = Reranker(engine, max_passage_tokens=120, decoding=Decoding(100))
    read: list[int] = []
    submit = engine.submit
    engine.submit = lambda *given: (read.append(len(reranker.prompts._passages)), submit(*given))[1]
    assert len(reranker.rerank(queries).rankings) == 9 and read[0] <= 4 * 40
    odd = Candidates(Query("odd", "which?"), tuple(Passage(f"o{i}", f"gain {i}\n{'zq9xw ' * 110}") for i in range(40)))
    refusal = r"query odd: a window may hold \d+ prompt tokens, and the model takes 2500 less 100 for the answer"
    monkeypatch.setattr(PreparedPrompts, "characters", lambda *_: 0)  # so that they are looked at as they are given
    for others in (0, 5):
        engine = counted_engine(2, 2_500)
        with pytest.raises(InputError, match=refusal):
            Reranker(engine, max_passage_tokens=120, decoding=Decoding(100)).rerank([*many_queries(others), odd])
        assert bool(engine.asked) == (others > 2) and not any(qid == "odd" for qid, _ in engine.asked)


def test_windows_of_any_texts_fit_the_released_profile() -> None:
    """20 passages at their limit and a query as long as BRIGHT's longest are settled without a text being read."""
    import yaml

    profile = yaml.safe_load((Path(__file__).parents[1] / "params" / "bright-7b.yaml").read_text())["04_evaluation"]
    prepared = PreparedPrompts(
        PromptBuilder(make_tokenizer("qwen2.5"), max_passage_tokens=profile["max_passage_tokens"])
    )
    room = profile["engine_options"]["max_model_len"] - profile["max_new_tokens"]
    passages = [Passage(str(i), "x") for i in range(100)]
    for query in ("why?", "because of a long story " * 160):
        assert prepared.surely_fits(Query("q", query), passages, profile["window"], room)
    assert not prepared.builder._passages


@pytest.mark.parametrize("context", [32_768, 6_000], ids=["settled by the limits", "settled by the texts"])
def test_each_passage_is_tokenized_once_in_a_whole_experiment(context: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan, check and ranking: 1.05 times the characters of the passages at most, however they are tokenized."""
    import random

    from test_experiment import world
    from test_rerank import Oracle
    from transformers import PreTrainedTokenizerFast

    from rrlib.engines import Decoding
    from rrlib.engines.hf import load_tokenizer
    from rrlib.evaluation import Experiment, Listwise, plan_experiment, systems

    class Known(Listwise):
        def _open(self) -> Any:
            engine: Any = Oracle()
            engine.tokenizer, engine.max_model_len = load_tokenizer(self.model), context
            return engine

    seen: list[str] = []
    encode, call = Pieces.encode, PreTrainedTokenizerFast.__call__

    def counted(self: Any, given: Any, *rest: Any, **options: Any) -> Any:
        seen.extend([given] if isinstance(given, str) else given)
        return call(self, given, *rest, **options)

    dice = random.Random(7)
    data = world(queries=4, n=100, window=20, stride=10, max_passage_tokens=512)
    for docid, passage in data.corpus.items():
        words = " ".join(dice.choices(["passages", "rank", "list", "the", "of"], k=80))
        data.corpus[docid] = Passage(docid, f"{passage.text}\n{docid} {words}.")
    raw = sum(len(passage.text) for passage in data.corpus.values())
    systems._cached_prompts.cache_clear()
    monkeypatch.setattr(Pieces, "encode", lambda self, texts: [seen.append(t) for t in texts] and encode(self, texts))
    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    system = Known("package:rrlib.miniature/reranker", context=context, decoding=Decoding(100))

    def share() -> float:
        return sum(len(line) for given in seen for line in given.split("\n") if " d" in line and "test-" in line) / raw

    result = Experiment({"m": system}, data, "nDCG@10", resamples=100)
    assert result.costs["calls"].iloc[0] == 9
    assert 0.9 < share() <= 1.05
    seen.clear()
    plan = plan_experiment({"m": system}, data)
    assert plan["longest_prompt"].item() < 5_900
    assert 0.9 < share() <= 1.05, "a plan counts tokens"
    Experiment({"m": system}, data, "nDCG@10", resamples=100)
    assert 0.9 < share() <= 1.05, "and what it read serves the run"
    systems._cached_prompts.cache_clear()


def test_engines_get_the_ids_of_the_prompt(tmp_path: Path) -> None:
    """The scheduler's own requests, and that the engine's count of tokens is that of the string."""
    from rrlib.engines.light import LightEngine
    from rrlib.rerank import Reranker

    engine = LightEngine("package:rrlib.miniature/reranker")
    asked = []
    submit = engine.submit
    engine.submit = lambda requests, decoding: (asked.extend(requests), submit(requests, decoding))[1]  # type: ignore[method-assign]
    reranker = Reranker(engine)
    reranker.rank("how do bees find flowers?", [f"text {i} on bees" for i in range(12)])
    assert asked and all(request.ids is not None for request in asked)
    for request in asked:
        assert list(request.ids or ()) == engine.tokenizer(request.prompt or "", add_special_tokens=False)["input_ids"]
    json.dumps([list(request.ids or ()) for request in asked])  # plain numbers


@settings(max_examples=400, deadline=None)
@given(text, st.booleans())
def test_fixing_line_by_line_is_fixing(body: str, html: bool) -> None:
    import ftfy

    clean = body.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    expected = ftfy.fix_text(clean) if html else ftfy.fix_text(clean, unescape_html=False)
    assert fix_text(body, html=html) == expected
