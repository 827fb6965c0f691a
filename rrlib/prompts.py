"""The wire format: what a listwise reranker reads, byte for byte (paper section B.2, figure 12, and the released code).

The released checkpoints work only with the exact prompt, so it is treated as a protocol. A passage is stripped, passed
through ftfy, cut to the first `max_passage_tokens` tokens of the model's tokenizer, and its `[n]` become `(n)`; the
chat template is applied and the whole string is passed through ftfy again, as the released code does.

One thing is ours: passages and queries are hostile text. After ftfy (which turns full-width and HTML-escaped forms
into real ones) every chat marker and protocol tag inside them gets a space behind its first character, so that no text
can change the structure of the message. Texts without such markers come out byte for byte as in the released code.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from rrlib.errors import InputError
from rrlib.templates import apply_template
from rrlib.types import Passage, RankingExample

# --- the protocol, quoted from PAPER section B.2 (figure 12) and the released inference code ------------------------
_ROLE = "You are RankLLM, an intelligent assistant that can rank passages based on their relevance to the query."
SYSTEM_THINK = (
    f"{_ROLE} Given a query and a passage list, you first thinks about the reasoning process in the mind and then "
    "provides the answer (i.e., the reranked passage list). The reasoning process and answer are enclosed within "
    "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
    "<answer> answer here </answer>."
)
SYSTEM_PLAIN = _ROLE
PREFIX = (
    "I will provide you with {num} passages, each indicated by a numerical identifier []. Rank the passages based on "
    "their relevance to the search query: {query}.\n\n"
)
SUFFIX = (
    "Search Query: {query}.\nRank the {num} passages above based on their relevance to the search query. All the "
    "passages should be included and listed using identifiers, in descending order of relevance. "
)
LAST_THINK = "The format of the answer should be [] > [], e.g., [2] > [1]."
LAST_QWEN3 = (
    "The final ranked list should be enclosed within <answer> </answer> tags, i.e., <answer> ranked list here "
    "</answer>. The format of ranked list should be [] > [], e.g., [2] > [1]. Only respond with the ranking results, "
    "do not say any word or explain."
)
POINT = (  # Rank1 (Weller et al. 2025), as its released code sends it
    "Determine if the following passage is relevant to the query. Answer only with 'true' or 'false'.\n"
    "Query: {query}\nPassage: {passage}\n"
)
LAST_PLAIN = (
    "The output format should be [] > [], e.g., [2] > [1]. Only respond with the ranking results, do not say any word "
    "or explain."
)


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """One variant of the protocol: what is sent, and how the answer is read.

    tags: the list stands in an answer block; else the response is the plain list. think: a think block comes first.
    switch: the chat template is told `enable_thinking=False`. Templates that know the word (Qwen3's) then close an
    empty think block themselves; the others pass it over.
    """

    name: str
    system: str
    last: str
    tags: bool
    think: bool
    switch: bool = False
    words: tuple[str, str] | None = None
    """Pointwise styles: the words for relevant and not relevant, whose probabilities score a passage."""
    raw: bool = False
    """The prompt goes out without a chat template, and its last text is `prefill`."""
    prefill: str = ""


WINDOW_STYLES: dict[str, PromptStyle] = {
    style.name: style
    for style in (
        PromptStyle("reasonrank", SYSTEM_THINK, LAST_THINK, tags=True, think=True),
        PromptStyle("reasonrank-qwen3", SYSTEM_PLAIN, LAST_QWEN3, tags=True, think=True),
        PromptStyle("nothink", SYSTEM_PLAIN, LAST_PLAIN, tags=False, think=False),
        # Ours: no reasoning, and the list in an answer block, so that the reward's format rule (section 4.2) holds for
        # it as for the reasoning styles. Its words are those of `reasonrank-qwen3`, which ask for just that: no new
        # sentence to learn, and the miniature's tokenizer knows them.
        PromptStyle("nothink_tags", SYSTEM_PLAIN, LAST_QWEN3, tags=True, think=False, switch=True),
        # Same text as `nothink`; named apart so that a log says whose plain lists it holds.
        PromptStyle("rankgpt", SYSTEM_PLAIN, LAST_PLAIN, tags=False, think=False),
    )
}

POINT_STYLES: dict[str, PromptStyle] = {
    style.name: style
    for style in (
        # The released Rank1 checkpoints: no chat template, the reasoning begun for the model.
        PromptStyle("rank1", "", "", False, think=True, words=(" true", " false"), raw=True, prefill="<think>"),
        # The same words as a user's turn, for models trained here: with reasoning, and the word alone.
        PromptStyle("pointwise", "", "", False, think=True, words=(" true", " false")),
        PromptStyle("pointwise_nothink", "", "", False, think=False, switch=True, words=("true", "false")),
    )
}


def get_style(name: str) -> PromptStyle:
    """The style of that name. Raises InputError that lists all there are."""
    styles = WINDOW_STYLES | POINT_STYLES
    if name not in styles:
        raise InputError(f"unknown prompt style {name!r}", remedy=f"use one of {', '.join(styles)}")
    return styles[name]


# --- texts -----------------------------------------------------------------------------------------------------------
_ID = re.compile(r"\[(\d+)\]")
_MARKER = re.compile(
    r"<(?=\|[^<>\n]{0,64}\|>)"  # <|im_start|>, <|eot_id|>, <|begin_of_text|>, ...
    r"|<(?=/?(?:think|answer|s|bos|eos|pad|unk|start_of_turn|end_of_turn|tool_call|tool_response)>)"
    r"|\[(?=/?INST\])|<(?=</?SYS>>)",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"[\t\n -%'-~]*")  # printable ASCII without `&`: there ftfy has nothing to fix
lines_of = re.compile(r"[^\n]*\n|[^\n]+").findall  # as ftfy cuts a text
_LOGGER = logging.getLogger("rrlib.prompts")
BYTES_PER_TOKEN = 4
"""Where no tokenizer is at hand, passages are cut to so many bytes of UTF-8 for each token of the limit."""
MOST_KEPT = 50_000
"""Passages whose text a builder keeps as the window shows it: about 150 MB at 512 tokens each, and their ids 100."""
_CHARS_PER_TOKEN = 200  # no tokenizer we know has a token longer than this; a 1 MB word is cut before it is tokenized


def fill(template: str, **values: str) -> str:
    """The template with its placeholders filled in one go: a value that holds `{num}` or `{query}` stays as it is."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)


def rewrite_ids(text: str) -> str:
    """`[12]` -> `(12)`: identifiers inside a text must not look like those of the window."""
    return _ID.sub(r"(\1)", text)


def fix_text(text: str, *, html: bool = True) -> str:
    """ftfy's `fix_text` with lone surrogates replaced first (they cannot be encoded as UTF-8).

    ftfy fixes line by line and takes about a millisecond a KB, so it is shown only the lines that it could change.
    """
    if _PLAIN.fullmatch(text):
        return text
    import ftfy

    clean = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    lines = []
    for line in lines_of(clean):
        plain = _PLAIN.fullmatch(line)
        lines.append(line if plain else ftfy.fix_text(line, unescape_html="auto" if html else False))
        html = html and "<" not in line  # ftfy's rule: behind the first tag, entities are text
    return "".join(lines)


@lru_cache(maxsize=64)
def _special_pattern(specials: tuple[str, ...]) -> re.Pattern[str] | None:
    plain = [s for s in specials if len(s) > 1]
    return re.compile("|".join(re.escape(s) for s in sorted(plain, key=len, reverse=True))) if plain else None


def neutralise(text: str, specials: tuple[str, ...] = ()) -> str:
    """Break every chat marker, protocol tag and special token inside a text by a space behind its first character."""
    pattern = _special_pattern(specials)
    for _ in range(8):  # breaking one marker cannot join another, but special tokens are arbitrary strings
        broken = _MARKER.sub(lambda m: m.group() + " ", text)
        if pattern is not None:
            broken = pattern.sub(lambda m: m.group()[0] + " " + m.group()[1:], broken)
        if broken == text:
            return text
        text = broken
    return re.sub(r"[<\[|]", " ", text)


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that prompts need."""

    all_special_tokens: list[str]

    def __call__(self, text: str, **kwargs: Any) -> Any: ...
    def decode(self, token_ids: list[int], **kwargs: Any) -> str: ...
    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


class PromptBuilder:
    """Builds the messages and the templated string of a window; passages are tokenized and cut once.

    tokenizer: a Hugging Face tokenizer with a chat template, or None (then texts are cut by BYTES_PER_TOKEN, and only
        `messages` works: for servers whose tokenizer is not at hand).
    max_passage_tokens: 512 for BRIGHT and R2MED, 100 for BEIR and TREC DL (section 5.1).
    """

    def __init__(self, tokenizer: Tokenizer | None, style: str = "reasonrank", max_passage_tokens: int = 512) -> None:
        if max_passage_tokens < 1:
            raise InputError(f"max_passage_tokens is {max_passage_tokens}", remedy="give a limit of 1 or more")
        self.tokenizer, self.style, self.max_passage_tokens = tokenizer, get_style(style), max_passage_tokens
        self.specials: tuple[str, ...] = tuple(tokenizer.all_special_tokens) if tokenizer is not None else ()
        self._passages: OrderedDict[Passage, str] = OrderedDict()  # those shown last stand last
        self._tokens: dict[Passage, int] = {}
        self.bodies: dict[Passage, Any] = {}
        """What rrlib.pieces keeps of a passage; it goes with its text."""
        self._others: dict[str, PromptBuilder] = {}
        self.cut = 0
        """How many distinct passages were longer than the limit."""

    def passage(self, passage: Passage) -> str:
        """The text of a passage as the window shows it; cached (see MOST_KEPT, and `forget`)."""
        if self.has(passage):
            return self._passages[passage]
        self.keep(passage, text := self.shown(self._cut(self.clean(passage))))
        return text

    def clean(self, passage: Passage) -> str:
        """The text of a passage before it is cut."""
        raw = f"Title: {passage.title} Content: {passage.text}" if passage.title else passage.text
        return neutralise(fix_text(raw.strip()), self.specials)

    def shown(self, text: str) -> str:
        """A cut text as the window shows it."""
        return neutralise(rewrite_ids(text), self.specials)

    def has(self, passage: Passage) -> bool:
        """Whether the text of a passage is kept; it is now the last that is dropped."""
        kept = passage in self._passages
        if kept:
            self._passages.move_to_end(passage)
        return kept

    def keep(self, passage: Passage, shown: str) -> None:
        """Keep the text of a passage as the window shows it. Of too many, those that were shown longest ago are dropped
        and made again where they are needed; how many tokens they have is kept."""
        self._passages[passage] = shown
        self._passages.move_to_end(passage)
        while len(self._passages) > MOST_KEPT:
            self.bodies.pop(self._passages.popitem(last=False)[0], None)

    def keeps(self, passages: int) -> bool:
        """Whether so many passages are kept together."""
        return passages <= MOST_KEPT

    def forget(self, passages: Iterable[Passage]) -> None:
        """Drop what is cached of these passages, in all styles: their query is finished."""
        for passage in passages:
            for kept in (self._passages, self._tokens, self.bodies):
                kept.pop(passage, None)

    def in_style(self, style: str) -> PromptBuilder:
        """A builder of another style over the same tokenizer and limit, sharing the cut passages; cached."""
        if style == self.style.name:
            return self
        if style not in self._others:
            other = PromptBuilder(self.tokenizer, style, self.max_passage_tokens)
            other._passages, other._tokens, other._others = self._passages, self._tokens, self._others
            other.bodies = self.bodies
            self._others[style] = other
        return self._others[style]

    def tokens(self, passage: Passage) -> int:
        """Tokens of a passage as the window shows it; cached. The builder must have a tokenizer."""
        tokens = self._tokens.get(passage)
        if tokens is None:
            assert self.tokenizer is not None
            ids = self.tokenizer(self.passage(passage), add_special_tokens=False, verbose=False)["input_ids"]
            self.count(passage, tokens := len(ids))
        return tokens

    def bound(self, query: str, passages: Sequence[Passage], size: int | None) -> int:
        """An upper bound on the prompt tokens of any window that a query could show: its `size` longest passages (None:
        all of them), each with its identifier and line break. The builder must have a tokenizer."""
        assert self.tokenizer is not None
        longest = sorted((self.tokens(passage) + 6 for passage in passages), reverse=True)[:size]
        frame = self.tokenizer(self.render(query, []), add_special_tokens=False, verbose=False)["input_ids"]
        return len(frame) + sum(longest)

    def counted(self, passage: Passage) -> bool:
        """Whether the tokens of a passage are known."""
        return passage in self._tokens

    def count(self, passage: Passage, tokens: int) -> None:
        """Take the tokens of a passage as another has found them."""
        self._tokens[passage] = tokens

    def query(self, text: str) -> str:
        """The query as the window shows it. The released code does not pass it through ftfy on its own."""
        query = rewrite_ids(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")).strip()
        fixed = fix_text(query, html=False)
        safe = neutralise(fixed, self.specials)
        return query if safe == fixed else rewrite_ids(safe)

    def _cut(self, text: str) -> str:
        if self.tokenizer is None:
            data = text.encode("utf-8")
            if len(data) <= self.max_passage_tokens * BYTES_PER_TOKEN:
                return text
            if not self.cut:
                note = (
                    "no tokenizer: passages are cut to %d bytes, %d a token (name one, --tokenizer, for exact limits)"
                )
                _LOGGER.warning(note, self.max_passage_tokens * BYTES_PER_TOKEN, BYTES_PER_TOKEN)
            self.cut += 1
            return data[: self.max_passage_tokens * BYTES_PER_TOKEN].decode("utf-8", "ignore")
        head = text[: self.max_passage_tokens * _CHARS_PER_TOKEN]
        ids = self.tokenizer(head, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) <= self.max_passage_tokens and len(head) == len(text):
            return text
        return self.cut_at(ids)

    def cut_at(self, ids: list[int]) -> str:
        """The text of the first ids, as many as a passage may have. The builder must have a tokenizer."""
        assert self.tokenizer is not None
        self.cut += 1
        return self.tokenizer.decode(
            ids[: self.max_passage_tokens], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def messages(self, query: str, passages: Sequence[Passage]) -> tuple[dict[str, str], ...]:
        """The system and the user message of one window. Shape: passages in the order they are shown."""
        return self.listed(self.query(query), [self.passage(p) for p in passages])

    def listed(self, query: str, texts: Sequence[str]) -> tuple[dict[str, str], ...]:
        """The messages that show a query and texts as they are given."""
        num = str(len(texts))
        if self.style.words is not None:
            if len(texts) > 1:
                raise InputError(f"{num} passages for the pointwise style {self.style.name!r}", remedy="show one")
            text = fill(POINT, query=query, passage=texts[0] if texts else "")
            return ({"role": "user", "content": text},)
        parts = [fill(PREFIX, num=num, query=query)]
        parts += [f"[{i}] {text}\n" for i, text in enumerate(texts, 1)]
        parts.append(fill(SUFFIX, num=num, query=query) + self.style.last)
        return {"role": "system", "content": self.style.system}, {"role": "user", "content": "".join(parts)}

    def render(self, query: str, passages: Sequence[Passage]) -> str:
        """The templated string with the generation prompt; encode it with `add_special_tokens=False`."""
        if self.tokenizer is None:
            raise InputError("no tokenizer, so no chat template", remedy="send `messages` to the server instead")
        messages = self.messages(query, passages)
        if self.style.raw:
            return messages[0]["content"] + self.style.prefill
        raw = self.templated(messages)
        fixed = fix_text(raw)
        # ftfy looks at whole lines, so text around a passage could in principle complete a marker. It never has;
        # if it does, the texts (already fixed one by one) go out without the second pass.
        return fixed if self.structure(fixed) == self.structure(raw) else raw

    def templated(self, messages: Sequence[dict[str, str]]) -> str:
        """The chat template's string for these messages. The builder must have a tokenizer."""
        switch = {"enable_thinking": False} if self.style.switch else {}
        return apply_template(self.tokenizer, messages, **switch)

    def structure(self, text: str) -> list[str]:
        """The marks that make a message, in order: two texts with the same marks have the same parts."""
        pattern = _special_pattern(self.specials)
        return [*_MARKER.findall(text), *(pattern.findall(text) if pattern else ())]


def format_ranking(order: Sequence[int]) -> str:
    """0-based positions, best first -> `[3] > [1] > [2]` (1-based identifiers)."""
    return " > ".join(f"[{i + 1}]" for i in order)


def format_response(reasoning: str, order: Sequence[int], style: str = "reasonrank") -> str:
    """The SFT target (section 4.1): reasoning and list joined in tags. No-think styles leave the reasoning out: the
    answer block alone (`nothink_tags`), or the plain list."""
    chosen = get_style(style)
    if chosen.words is not None:
        raise InputError(f"the style {style!r} judges one passage", remedy="use format_judgement")
    ranking = format_ranking(order)
    if not chosen.tags:
        return ranking
    if not chosen.think:
        return f"<answer> {ranking} </answer>"
    return f"<think> {reasoning.strip()} </think> <answer> {ranking} </answer>"


def format_judgement(reasoning: str, relevant: bool, style: str = "pointwise") -> str:
    """The SFT target of a pointwise style: the reasoning in its block (what the prompt has begun is left out), then the
    word; the word alone in no-think styles."""
    chosen = get_style(style)
    if chosen.words is None:
        raise InputError(f"the style {style!r} ranks a list", remedy="use format_response")
    word = chosen.words[0 if relevant else 1]
    return f"<think> {reasoning.strip()} </think>{word}".removeprefix(chosen.prefill) if chosen.think else word


def format_target(example: RankingExample, style: str = "reasonrank") -> str:
    """What SFT teaches for an example in a style: its reasoning and list, or the judgement of its one passage."""
    if get_style(style).words is not None:
        return format_judgement(example.reasoning, example.relevance[0] > 0, style)
    return format_response(example.reasoning, example.gold, style)
