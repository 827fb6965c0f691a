"""Prompts put together from texts that were fixed and tokenized once: byte for byte, and id for id, those of the whole.

A passage stands in several windows of its query, and a window of twenty holds ten thousand tokens: to fix and tokenize
each window anew costs most of what a run does outside its engine (benchmarks/overhead.py). A prompt is a head, a line
`[1] text` for each passage, and a tail. ftfy looks at lines by themselves, so a prompt of fixed lines is fixed. A
tokenizer that cuts a text into words by a pattern cuts at the same places on both sides of `[1]| text\\n|[2]`. Whether
one does is tried once, on texts that are hard to cut. Where it does not, or where ftfy would change a passage in its
line, the whole prompt is made and tokenized as rrlib.prompts alone would.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

from rrlib.errors import InputError
from rrlib.prompts import PromptBuilder, fix_text, lines_of
from rrlib.types import Passage, Query

Ids = Sequence[int]
MOST_FRAMES = 5_000
"""Queries whose frames are kept: about 20 KB each."""
_MARK = "\n\ue000here the passages stand\ue000\n"
_NEAR = 40  # ids from an end of a text, among which a break is looked for
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
        self._fast = getattr(tokenizer, "backend_tokenizer", None)  # without what transformers does around it
        self._numbers: dict[int, Ids] = {}  # not a list: several threads may share this
        self._known_sides: dict[int, tuple[bool, bool]] = {}
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
        fast = self._fast
        if (
            fast is not None and fast.padding is None and fast.truncation is None
        ):  # transformers takes half as much more
            return [encoding.ids for encoding in fast.encode_batch_fast(texts, add_special_tokens=False)]
        return [self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts]

    def frame(self, head: str, tail: str) -> Frame | None:
        """The frame with its ids; None where they cannot be told. head ends where the first passage begins."""
        before, after = self.encode([head + _NEXT, tail])
        ids = self.before_next(before)
        return None if ids is None else Frame(head, tail, ids, after)

    def bodies(self, texts: Iterable[str]) -> list[array[int] | None]:
        """The ids of ` text\\n` for each text, as they are in front of another passage; None where that is not told."""
        rows = [self.before_next(row) for row in self.encode([f" {text}\n{_NEXT}" for text in texts])]
        return [None if row is None else array("i", row) for row in rows]

    def text(self, ids: Ids) -> str:
        """What ids stand for."""
        if self._fast is not None:
            return self._fast.decode(ids, skip_special_tokens=False)  # type: ignore[no-any-return]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return self._tokenizer.decode(ids, **options)  # type: ignore[no-any-return]

    def break_in(self, ids: Ids, places: Iterable[int]) -> int | None:
        """The first of some places (above 0) where a word ends and a blank with a word follows: ids on one side do not
        depend on the text of the other. None where none of the places is one."""
        return next((at for at in places if self._ends(ids[at - 1]) and self._begins(ids[at])), None)

    def _begins(self, token: int) -> bool:
        return self._sides(token)[0]

    def _ends(self, token: int) -> bool:
        return self._sides(token)[1]

    def _sides(self, token: int) -> tuple[bool, bool]:
        """Whether a token is a blank with ASCII letters behind it, and whether it ends in such a letter."""
        if token not in self._known_sides:
            text = self.text([token])
            word = text[1:] if text.startswith(" ") else ""
            self._known_sides[token] = word.isascii() and word.isalpha(), text[-1:].isascii() and text[-1:].isalpha()
        return self._known_sides[token]

    def before_next(self, ids: Ids) -> Ids | None:
        """Ids without the `[` behind them; None where it is no token of its own."""
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
        self._bodies: dict[Passage, Ids | None] = builder.bodies  # None: only the whole string tells
        self._frames: dict[tuple[str, int], Frame | None] = {}
        self._others: dict[str, PreparedPrompts] = {}

    @cached_property
    def pieces(self) -> Pieces:
        """Of the builder's tokenizer, which it must have."""
        return Pieces(self.builder.tokenizer) if self._like is None else self._like.pieces

    def prepare(self, passages: Iterable[Passage]) -> None:
        """Fix, cut and tokenize all passages that are new, at once. Nothing where ids cannot be put together."""
        new = [p for p in dict.fromkeys(passages) if not self.builder.has(p) or p not in self._bodies]
        if not new or not self.pieces.fits:
            return
        clean = {p: self.builder.clean(p) for p in new if not self.builder.has(p)}
        self._cut(clean)
        rest = [passage for passage in new if passage not in self._bodies]
        texts = [self.builder.passage(passage) for passage in rest]
        self._bodies.update(zip(rest, self.pieces.bodies(texts), strict=True))
        for passage in new:
            if not self.builder.has(passage):  # dropped for those behind it
                self._bodies.pop(passage, None)
                continue
            lines = lines_of(f"[1] {self.builder.passage(passage)}\n")
            if clean.get(passage, "").startswith(self.builder.passage(passage)):
                lines = [lines[0], lines[-1]]  # those between are as ftfy has left them
            if any(fix_text(line, html=False) != line for line in lines):
                self._bodies[passage] = None

    def _cut(self, clean: Mapping[Passage, str]) -> None:
        """Cut with less work than the builder would: a text is tokenized once, as a window shows it, not to its end.

        A blank in front, the cut and the line's end change the ids of the words there: those alone are made anew.
        """
        builder, limit = self.builder, self.builder.max_passage_tokens
        most = 5 * limit  # characters; words are tokenized one by one, so those behind would not change these
        heads = {p: text if len(text) <= most else text[:most].rpartition(" ")[0] for p, text in clean.items()}
        long: dict[Passage, tuple[str, Ids, int]] = {}  # a head, its ids in a line, and the first break in them
        for (passage, head), body in zip(heads.items(), self.pieces.bodies(heads.values()), strict=True):
            # A blank in front may change the ids of the first word, which has no more of them than bytes.
            first = len(head.partition(" ")[0].encode())
            if body is not None and head is clean[passage] and len(body) + first <= limit:
                if builder.shown(head) == head:
                    builder.keep(passage, head)
                    self._bodies[passage] = body
            elif body is not None and (at := self.pieces.break_in(body, range(1, min(_NEAR, len(body))))):
                long[passage] = head, body, at
        self._cut_long(long)
        rest = [passage for passage in clean if passage not in self._bodies and not builder.has(passage)]
        for passage, ids in zip(rest, self.pieces.encode([heads[p] for p in rest]), strict=True):
            if len(ids) > limit:
                builder.keep(passage, builder.shown(builder.cut_at(list(ids))))
            elif heads[passage] is clean[passage]:
                builder.keep(passage, builder.shown(clean[passage]))

    def _cut_long(self, long: Mapping[Passage, tuple[str, Ids, int]]) -> None:
        """Cut texts by the ids of their lines. One whose ids near the limit depend on what follows is left alone, and
        one of which a tokenizer changes the text."""
        builder, pieces, limit = self.builder, self.pieces, self.builder.max_passage_tokens
        leads = [pieces.text(body[:at]).removeprefix(" ") for _, body, at in long.values()]
        tails: dict[Passage, tuple[Ids, str]] = {}
        for (passage, (head, body, at)), lead, first in zip(long.items(), leads, pieces.encode(leads), strict=True):
            last = pieces.break_in(body, range(len(body) - 1, max(at, len(body) - _NEAR), -1))
            ids = [*first, *body[at:last]]  # of the text without its line
            cut = pieces.text(ids[:limit])
            if last is None or len(ids) < limit or not head.startswith(cut):
                continue
            builder.cut += 1
            builder.keep(passage, builder.shown(cut))
            near = pieces.break_in(ids, range(limit - 1, max(len(first), limit - _NEAR), -1))
            tail = "" if near is None else pieces.text(ids[near:limit])
            if near is not None and builder.passage(passage) == cut and cut.startswith(lead) and cut.endswith(tail):
                tails[passage] = [*body[:at], *ids[len(first) : near]], tail
        ends = pieces.encode([f"{tail}\n{_NEXT}" for _, tail in tails.values()])
        for (passage, (body, _)), end in zip(tails.items(), ends, strict=True):
            if (whole := pieces.before_next(end)) is not None:
                self._bodies[passage] = array("i", [*body, *whole])

    def forget(self, passages: Iterable[Passage]) -> None:
        """Drop what is kept of these passages: their query is finished."""
        self.builder.forget(passages)

    def in_style(self, style: str) -> PreparedPrompts:
        """The windows of another style over the same passages, which are prepared once for both; cached."""
        if style == self.builder.style.name:
            return self
        if style not in self._others:
            self._others[style] = PreparedPrompts(self.builder.in_style(style), self)
        return self._others[style]

    def bound(self, query: str, passages: Sequence[Passage], size: int | None) -> int:
        """`PromptBuilder.bound`, in tokens, from passages prepared once. The builder must have a tokenizer."""
        new = [passage for passage in passages if not self.builder.counted(passage)]
        self.prepare(new)
        for passage in new:
            if (body := self._bodies.get(passage)) is not None:
                self.builder.count(passage, len(body) - 1)  # without the end of its line
        return self.builder.bound(query, passages, size)

    def surely_fits(self, query: Query, passages: Sequence[Passage], size: int | None, room: int) -> bool:
        """Whether every window of a query fits by the limits and lengths alone, so that no passage need be tokenized.
        size: passages of the widest window (None: all of them). room: tokens for a prompt."""
        shown = self._most(passages, size)
        most = shown + 2 * len(query.text.encode("utf-8", "replace"))  # a token is a byte or more
        if self._empty_bytes + most <= room or self._empty_frame + most <= room:
            return True
        return self._empty_frame + shown <= room and self.at_most(query, passages, size) <= room

    def at_most(self, query: Query, passages: Sequence[Passage], size: int | None) -> int:
        """An upper bound on the prompt tokens of any window as `bound` gives one, by the limit of a passage: more than
        twice as high where passages are long, and only the query is tokenized."""
        return self.builder.bound(query.text, (), None) + self._most(passages, size)

    def _most(self, passages: Sequence[Passage], size: int | None) -> int:
        """Twice its limit is more than a cut passage takes."""
        return min(len(passages), size or len(passages)) * (2 * self.builder.max_passage_tokens + 6)

    def characters(self, query: Query, passages: Sequence[Passage], size: int | None) -> int:
        """What is looked at first where lengths are in doubt: the characters of a query's largest window, about."""
        limit = 5 * self.builder.max_passage_tokens
        longest = sorted((min(len(p.title) + len(p.text), limit) for p in passages), reverse=True)[:size]
        return len(query.text) + sum(longest)

    @cached_property
    def _empty_bytes(self) -> int:
        return 2 * len(self.builder.render("", ()).encode("utf-8", "replace"))

    @cached_property
    def _empty_frame(self) -> int:
        return self.builder.bound("", (), None)

    def check_fits(self, query: Query, passages: Sequence[Passage], size: int | None, limit: int, answer: int) -> None:
        """Raise InputError where a window of the query may not fit the model. limit: its positions; answer: new tokens;
        the rest as in `surely_fits`, which is asked first."""
        room = limit - answer
        if self.surely_fits(query, passages, size, room):
            return
        bound = self.bound(query.text, passages, size)
        alone = self.bound(query.text, (), size) if bound > room else 0
        if alone > room >= self._empty_frame and passages:
            raise InputError(
                f"query {query.qid}: the query itself takes {alone} tokens with its frame, and the model has room for "
                f"{room}: no window fits",
                remedy="shorten the query, or use a smaller --max-new-tokens",
            )
        if bound > room and len(passages) > 1:
            raise InputError(
                f"query {query.qid}: a window may hold {bound} prompt tokens, and the model takes {limit} less "
                f"{answer} for the answer",
                remedy="use a smaller --window, --max-passage-tokens or --max-new-tokens",
            )

    def source_hash(self, query: str, passages: Sequence[Passage]) -> str | None:
        """A digest of all that a window's prompt is made of, 16 hexadecimal digits: equal ones are of equal prompts,
        and no prompt need be made to tell. Of one prompt there may be several (a text that differs behind its cut).

        None where that cannot be told: a tokenizer that is not one of `tokenizers`, a template that writes the date.
        """
        if self.identity is None or self._changes:
            return None
        digest = hashlib.sha256(self.identity)
        for text in chain([query], *((p.docid, p.title, p.text) for p in passages)):
            data = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data))  # so that no two lists of texts are the same bytes
            digest.update(data)
        return digest.hexdigest()[:16]

    @cached_property
    def _changes(self) -> bool:
        """Whether the template may write something else each time."""
        template = str(getattr(self.builder.tokenizer, "chat_template", None))
        return any(word in template for word in ("strftime_now", "random", "lipsum"))

    @cached_property
    def identity(self) -> bytes | None:
        """A digest of all that makes prompts but the texts: tokenizer, template, style, limit and this code. None where
        it cannot be told."""
        builder, tokenizer = self.builder, self.builder.tokenizer
        if type(self) is not PreparedPrompts or type(builder) is not PromptBuilder:
            return None
        try:
            code = [(Path(__file__).parent / name).read_bytes() for name in _CODE]
            words = b"" if tokenizer is None else _words(tokenizer).encode("utf-8", "surrogatepass")
            shown: Any = builder.listed("\ue000", ["\ue001"])  # a prompt as it comes out, with nothing to tokenize
            if tokenizer is not None and not builder.style.raw:
                shown = builder.templated(shown)
        except Exception:  # of many kinds: a tokenizer with parts of its own, code without files, a template that fails
            return None
        names = ("chat_template", "special_tokens_map", "split_special_tokens")
        given = [str(getattr(tokenizer, name, None)) for name in names]
        facts = [type(tokenizer).__qualname__, *given, builder.specials, repr(builder.style)]
        facts += [str(builder.max_passage_tokens), unicodedata.unidata_version, *map(_version, _PACKAGES), shown]
        parts = [*code, words, json.dumps(facts).encode()]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()

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
        if (query, num) in self._frames:
            return self._frames.get((query, num))
        self._frames[query, num] = frame = self._make_frame(query, num)
        return frame

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


_CODE = ("prompts.py", "pieces.py", "templates.py")
_PACKAGES = ("ftfy", "jinja2", "tokenizers", "transformers")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _words(tokenizer: Any) -> str:
    """All that a tokenizer of `tokenizers` is, without how it pads and cuts batches. Raises an error for another."""
    text: str = tokenizer.backend_tokenizer.to_str()
    return text.partition('"added_tokens"')[2] or text
