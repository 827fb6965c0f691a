"""Prompts put together from texts that were fixed and tokenized once: byte for byte, and id for id, those of the whole.

A passage stands in several windows of its query, and a window of twenty holds ten thousand tokens: to fix and tokenize
each window anew costs most of what a run does outside its engine (benchmarks/overhead.py). A prompt is a head, a line
`[1] text` for each passage, and a tail. ftfy looks at lines by themselves, so a prompt of fixed lines is fixed. A
tokenizer that cuts a text into words by a pattern cuts at the same places on both sides of `[1]| text\\n|[2]`. Whether
one does is tried once, on texts that are hard to cut. Where it does not, or where ftfy would change a passage in its
line, the whole prompt is made and tokenized as rrlib.prompts alone would.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from rrlib.prompts import MOST_KEPT, PromptBuilder, fix_text, lines_of
from rrlib.types import Passage

Ids = Sequence[int]
MOST_FRAMES = 5_000
"""Queries whose frames are kept: about 20 KB each."""
_MARK = "\n\ue000here the passages stand\ue000\n"
_NEXT = "["  # texts are tokenized with what follows them, for the pattern that cuts words looks at it
_HARD = ("a b", "1", "0.5", ".", "(x)", "“q”", "中文", "é", "\u0301", "😀", "'s", "a'", "-", "a-", "  y", "x  ", "\tz",
         "a\n", "a \n \n", "b\r", "\u3000", "#", "a/", "[", "]", "][", "", "<a>", "_", "x\u00a0", "И", "١")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around the passages of a window, with its ids."""

    head: str
    tail: str
    head_ids: Ids
    tail_ids: Ids

    def text(self, texts: Sequence[str]) -> str:
        """The prompt that shows these texts."""
        return self.head + "".join(f"[{i}] {text}\n" for i, text in enumerate(texts, 1)) + self.tail


class Pieces:
    """The ids of frames and passages for one tokenizer. fits: whether, put together, they are those of the whole."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._numbers: dict[int, Ids] = {}  # not a list: several threads may share this
        self._next = self.encode([_NEXT])[0]
        self.fits = len(self._next) == 1 and all(self._try(texts) for texts in (_HARD, _HARD[::-1]))

    def _try(self, texts: Sequence[str]) -> bool:
        frame = self.frame("Rank <these>: x.\n\n", "Search: x.")
        bodies = [body for body in self.bodies(texts) if body is not None]
        if frame is None or len(bodies) < len(texts):
            return False
        return self.join(frame, bodies) == list(self.encode([frame.text(texts)])[0])

    def encode(self, texts: list[str]) -> list[Ids]:
        """The ids of each text by itself."""
        options = {"add_special_tokens": False, "verbose": False}
        if texts and getattr(self._tokenizer, "is_fast", False):
            return self._tokenizer(texts, **options)["input_ids"]  # type: ignore[no-any-return]
        return [self._tokenizer(text, **options)["input_ids"] for text in texts]

    def frame(self, head: str, tail: str) -> Frame | None:
        """The frame with its ids; None where they cannot be told. head ends where the first passage begins."""
        before, after = self.encode([head + _NEXT, tail])
        ids = self._before_next(before)
        return None if ids is None else Frame(head, tail, ids, after)

    def bodies(self, texts: Iterable[str]) -> list[array[int] | None]:
        """The ids of ` text\\n` for each text, as they are in front of another passage; None where that is not told."""
        rows = [self._before_next(row) for row in self.encode([f" {text}\n{_NEXT}" for text in texts])]
        return [None if row is None else array("i", row) for row in rows]

    def _before_next(self, ids: Ids) -> Ids | None:
        return ids[:-1] if len(ids) > 1 and ids[-1] == self._next[0] else None

    def join(self, frame: Frame, bodies: Sequence[Ids]) -> list[int]:
        """The ids of a prompt."""
        new = [number for number in range(1, len(bodies) + 1) if number not in self._numbers]
        self._numbers.update(zip(new, self.encode([f"[{number}]" for number in new]), strict=True))
        shown = chain.from_iterable((self._numbers[number], body) for number, body in enumerate(bodies, 1))
        return list(chain(frame.head_ids, chain.from_iterable(shown), frame.tail_ids))


class PreparedPrompts:
    """The windows of a prompt builder, from passages prepared once. like: another of the same tokenizer, which is then
    not tried again. For one thread at a time."""

    def __init__(self, builder: PromptBuilder, like: PreparedPrompts | None = None) -> None:
        self.builder, self._like = builder, like
        self._bodies: dict[Passage, Ids | None] = {}  # None: only the whole string tells
        self._frames: dict[tuple[str, int], Frame | None] = {}

    @cached_property
    def pieces(self) -> Pieces:
        """Of the builder's tokenizer, which it must have."""
        return Pieces(self.builder.tokenizer) if self._like is None else self._like.pieces

    def prepare(self, passages: Iterable[Passage]) -> None:
        """Fix, cut and tokenize all passages that are new, at once. Nothing where ids cannot be put together."""
        new = [passage for passage in dict.fromkeys(passages) if passage not in self._bodies]
        if not new or not self.pieces.fits:
            return
        if len(self._bodies) >= MOST_KEPT:
            self._bodies.clear()  # those still needed are made again
        clean = {p: self.builder.clean(p) for p in new if not self.builder.has(p)}
        self._cut(clean)
        rest = [passage for passage in new if passage not in self._bodies]
        texts = [self.builder.passage(passage) for passage in rest]
        self._bodies.update(zip(rest, self.pieces.bodies(texts), strict=True))
        for passage in new:
            lines = lines_of(f"[1] {self.builder.passage(passage)}\n")
            if clean.get(passage, "").startswith(self.builder.passage(passage)):
                lines = [lines[0], lines[-1]]  # those between are as ftfy has left them
            if any(fix_text(line, html=False) != line for line in lines):
                self._bodies[passage] = None

    def _cut(self, clean: Mapping[Passage, str]) -> None:
        """Cut with less work than the builder would, where possible: most texts are tokenized once, none to its end."""
        builder, limit = self.builder, self.builder.max_passage_tokens
        short = {passage: text for passage, text in clean.items() if len(text) <= 4 * limit}
        for (passage, text), body in zip(short.items(), self.pieces.bodies(short.values()), strict=True):
            # A blank in front may change the ids of the first word, which has no more of them than bytes.
            first = len(text.partition(" ")[0].encode())
            if body is not None and len(body) + first <= limit and builder.shown(text) == text:
                builder.keep(passage, text)
                self._bodies[passage] = body
        long = {passage: text for passage, text in clean.items() if passage not in self._bodies}
        most = 5 * limit  # characters; words are tokenized one by one, so those behind would not change these
        heads = [text if len(text) <= most else text[:most].rpartition(" ")[0] for text in long.values()]
        for (passage, text), head, ids in zip(long.items(), heads, self.pieces.encode(heads), strict=True):
            if len(ids) > limit:
                builder.keep(passage, builder.shown(builder.cut_at(list(ids))))
            elif head is text:
                builder.keep(passage, builder.shown(text))

    def forget(self, passages: Iterable[Passage]) -> None:
        """Drop what is kept of these passages: their query is finished."""
        passages = list(passages)
        for passage in passages:
            self._bodies.pop(passage, None)
        self.builder.forget(passages)

    def window(self, query: str, passages: Sequence[Passage]) -> tuple[str, list[int] | None]:
        """The templated string as the builder renders it, and its ids; None where the string must be tokenized."""
        self.prepare(passages)
        bodies = [body for passage in passages if (body := self._bodies.get(passage)) is not None]
        frame = self._frame(query, len(passages)) if bodies and len(bodies) == len(passages) else None
        if frame is None:
            return self.builder.render(query, passages), None
        return frame.text([self.builder.passage(passage) for passage in passages]), self.pieces.join(frame, bodies)

    def _frame(self, query: str, num: int) -> Frame | None:
        """What stands around the passages; None where the template or ftfy leaves no place to cut."""
        if len(self._frames) >= MOST_FRAMES:
            self._frames.clear()
        if (query, num) not in self._frames:
            self._frames[query, num] = self._make_frame(query, num)
        return self._frames[query, num]

    def _make_frame(self, query: str, num: int) -> Frame | None:
        builder = self.builder
        if builder.style.raw or builder.style.words is not None:
            return None
        *others, user = builder.listed(builder.query(query), [""] * num)
        lines = "".join(f"[{i}] \n" for i in range(1, num + 1))
        before, _, after = user["content"].partition(lines)
        if lines in after:
            return None  # the query holds such lines itself
        raw = builder.templated([*others, {"role": "user", "content": before + _MARK + after}])
        head, mark, tail = raw.partition(_MARK)
        # Behind a `<`, ftfy takes entities for text: so it must stand in front of the passages, as it does in the tags.
        if not mark or not head.endswith("\n") or "<" not in head:
            return None
        fixed = fix_text(head), fix_text(tail, html=False)
        if any(builder.structure(new) != builder.structure(old) for new, old in zip(fixed, (head, tail), strict=True)):
            return None
        return self.pieces.frame(*fixed)
