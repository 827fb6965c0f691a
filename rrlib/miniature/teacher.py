"""A simulated teacher: a chat client that answers the same prompts as a real one, from the facts of the world.

It reads the lines `Query: ...`, `Gold answer: ...` and `[i] ...` and recognises cues and evidence wherever they stand.
With a gold answer in view it selects; without one it reasons from the cues and ranks. It errs in known ways at known
rates: wrong beliefs (at random, and for some cue pairs always the same), misread passages, selection errors, slips
of format, refusals, cut-offs. What it says is deterministic in (seed, prompt) and is labelled simulated.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.errors import InputError, MissingFileError
from rrlib.miniature import thinking
from rrlib.miniature.generate import choose_domains, world_hash
from rrlib.miniature.world import Cue, World, content_words, load_world, shared_words
from rrlib.prompts import format_ranking

_QUERY = re.compile(r"^Query:[ \t]*(.*)$", re.MULTILINE)
_GOLD = re.compile(r"^Gold answer:[ \t]*(.*)$", re.MULTILINE)
_PASSAGE = re.compile(r"^\[(\d+)\][ \t]+(.*)$", re.MULTILINE)
_TRAPS = "identifiers of the traps"
"""Words of the question for hard negatives, which shows the gold answer as a selection does."""
_REFUSAL = "I am sorry, but I cannot help with ranking these passages."
_RECOGNISED = 0.6
"""Share of the content words of a piece of evidence that a text must hold if it does not hold the whole sentence."""


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Probabilities in 0..1. wrong_belief: of an answer, at random; systematic: of a cue pair, which then is always
    believed wrongly in the same way; dismissive: of a wrong belief, which then gives the other concepts in play no
    second place (for a systematic pair: always or never); misread: of a passage, while thinking; miss, extra: of a
    relevant passage left out, and of a rival passage taken in, by a selection; format_slip, refusal, cut_off: of an
    answer.

    A wrong belief that keeps the truth in second place mostly passes a self-consistency filter of 0.4, a dismissive one
    mostly does not: so both the filter and reinforcement learning have something to mend.
    """

    wrong_belief: float = 0.12
    systematic: float = 0.3
    dismissive: float = 0.4
    misread: float = 0.005
    miss: float = 0.01
    extra: float = 0.003
    format_slip: float = 0.02
    refusal: float = 0.01
    cut_off: float = 0.01


class SimulatedTeacher:
    """`async chat(messages, decoding) -> Reply`, as any chat client.

    folder: a collection written by `rrlib.miniature:build` (its SOURCE.json says which world). error_rates: fields of
    ErrorRates by name. `Reply.extra` says `data_kind: simulated`, the belief, the truth and the error made, if any.
    Raises InputError for rates outside 0..1 or unknown, and for a folder of another world.
    """

    def __init__(self, folder: str | Path, *, seed: int, **error_rates: float) -> None:
        names = {f.name for f in fields(ErrorRates)}
        unknown = sorted(set(error_rates) - names)
        if unknown:
            raise InputError(f"unknown error rates: {', '.join(unknown)}", remedy=f"known: {', '.join(sorted(names))}")
        for name, rate in error_rates.items():
            if not isinstance(rate, (int, float)) or not 0.0 <= rate <= 1.0:
                raise InputError(f"the error rate {name} is {rate!r}", remedy="give a probability from 0 to 1")
        self.rates = ErrorRates(**error_rates)
        self.seed = seed
        self.model = "simulated-teacher"
        self.world = _world_of(Path(folder))
        self._evidence = {
            _plain(text): concept.name for concept in self.world.concepts.values() for text in concept.evidence
        }
        self._words = {text: content_words(text) for text in self._evidence}
        self._answers = {_plain(concept.answer): concept.name for concept in self.world.concepts.values()}
        self._cues = [(_plain(cue.text), cue) for cue in self.world.cues]

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """Answer a selection or a ranking prompt. Never fails: what it cannot read it says."""
        await asyncio.sleep(0)  # a call to a server gives others their turn
        return self.answer(messages, decoding)

    def answer(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """`chat` without the event loop."""
        text = "\n".join(m["content"] for m in messages if m["role"] == "user")
        prompt = json.dumps([dict(m) for m in messages], sort_keys=True, ensure_ascii=True)
        rng = random.Random(f"{self.seed}/{hashlib.sha256(prompt.encode()).hexdigest()}")
        query = _last(_QUERY, text)
        passages = [match.group(2) for match in _PASSAGE.finditer(text)]
        concepts = [self.concept_of(passage) for passage in passages]
        gold = _last(_GOLD, text)
        extra: dict[str, Any] = {"data_kind": "simulated", "error": ""}
        if rng.random() < self.rates.refusal:
            thought, said, extra["error"] = "", _REFUSAL, "refusal"
        elif gold is not None and _TRAPS in text:
            thought, said = self._traps(gold, query or "", passages, concepts)
        elif gold is not None:
            thought, said = self._select(gold, concepts, rng, extra)
        else:
            thought, said = self._rank(query or "", concepts, rng, extra)
        cut = rng.random() < self.rates.cut_off
        return _reply(thought, said, prompt, cut, decoding, extra, rng)

    # --- what it knows -----------------------------------------------------------------------------------------------
    def concept_of(self, passage: str) -> str | None:
        """The concept whose evidence a text holds, whole or for the most part; None if it holds none."""
        plain = _plain(passage)
        for evidence, concept in self._evidence.items():
            if evidence in plain:
                return concept
        words = content_words(passage)
        shares = {text: len(own & words) / max(1, len(own)) for text, own in self._words.items()}
        best = max(shares, key=lambda text: shares[text])
        return self._evidence[best] if shares[best] >= _RECOGNISED else None

    def cues_of(self, query: str) -> list[Cue]:
        """The cues that a query holds, in its order."""
        plain = _plain(query)
        places = [(plain.find(text), cue) for text, cue in self._cues if text in plain]
        return [cue for _, cue in sorted(places, key=lambda pair: pair[0])]

    # --- what it says ------------------------------------------------------------------------------------------------
    def _select(
        self, gold: str, concepts: Sequence[str | None], rng: random.Random, extra: dict[str, Any]
    ) -> tuple[str, str]:
        truth = self._truth(gold)
        extra["truth"] = truth
        rivals = {cue.rival(truth) for cue in self.world.cues if truth in cue.concepts} if truth else set()
        chosen = []
        for i, concept in enumerate(concepts, 1):
            rate = 1 - self.rates.miss if truth and concept == truth else self.rates.extra if concept in rivals else 0.0
            if rng.random() < rate:
                chosen.append(i)
        right = [i for i, concept in enumerate(concepts, 1) if truth and concept == truth]
        extra["error"] = "" if chosen == right else "selection"
        return f"The gold answer is about {truth or thinking.UNKNOWN}.", ", ".join(f"[{i}]" for i in chosen) or "None"

    def _truth(self, gold: str) -> str | None:
        """The concept of a gold answer; None where it is of no concept here."""
        named = (name for name in self.world.concepts if re.search(rf"\b{name}\b", gold.lower()))
        return self._answers.get(_plain(gold)) or next(named, None)

    def _traps(self, gold: str, query: str, passages: Sequence[str], concepts: Sequence[str | None]) -> tuple[str, str]:
        """Passages of another concept that share a word with the query, or whose concept one of its cues suggests."""
        truth, suggested = self._truth(gold), {name for cue in self.cues_of(query) for name in cue.concepts}
        chosen = [
            i
            for i, (text, concept) in enumerate(zip(passages, concepts, strict=True), 1)
            if concept != truth and (concept in suggested or shared_words(query, text))
        ]
        return f"The gold answer is about {truth or thinking.UNKNOWN}.", ", ".join(f"[{i}]" for i in chosen) or "None"

    def _rank(
        self, query: str, concepts: Sequence[str | None], rng: random.Random, extra: dict[str, Any]
    ) -> tuple[str, str]:
        cues = self.cues_of(query)
        common = set(cues[0].concepts) & set(cues[1].concepts) if len(cues) == 2 else set()
        if len(common) != 1:
            extra["error"] = "unreadable"
            return "The query gives no cue that I know, so I keep the order.", format_ranking(range(len(concepts)))
        truth = common.pop()
        belief, extra["error"], dismissive = self._believe(truth, cues, rng)
        extra |= {"truth": truth, "belief": belief, "dismissive": dismissive}
        seen = []
        for concept in concepts:
            misread = rng.random() < self.rates.misread
            other = rng.choice(list(self.world.concepts))
            seen.append(other if misread else concept or thinking.UNKNOWN)
        first, second = cues[0].concepts, cues[1].concepts
        rivals = [] if dismissive else thinking.rivals_of(belief, first, second)
        order = thinking.order_of(seen, belief, rivals)
        said = format_ranking(order)
        if rng.random() < self.rates.format_slip:
            said, extra["error"] = _slip(order, rng), "format_slip"
        return thinking.reasoning(first, second, belief, seen, rivals), said

    def _believe(self, truth: str, cues: Sequence[Cue], rng: random.Random) -> tuple[str, str, bool]:
        """(belief, error, dismissive): the truth, or a rival that one of the cues suggests."""
        pair = "/".join(sorted(cue.text for cue in cues))
        fixed = random.Random(f"{self.seed}/systematic/{pair}")
        rivals = sorted(cue.rival(truth) for cue in cues)
        always, which = fixed.random() < self.rates.systematic, fixed.choice(rivals)
        random_error, other = rng.random() < self.rates.wrong_belief, rng.choice(rivals)
        firmly, now = fixed.random() < self.rates.dismissive, rng.random() < self.rates.dismissive
        if always:
            return which, "systematic", firmly
        return (other, "random", now) if random_error else (truth, "", False)


def faultless_teacher(folder: str | Path, *, seed: int) -> SimulatedTeacher:
    """The teacher without errors of any kind, over the same folder."""
    return SimulatedTeacher(folder, seed=seed, **{rate.name: 0.0 for rate in fields(ErrorRates)})


def _world_of(folder: Path) -> World:
    path = folder / "SOURCE.json"
    if not path.is_file():
        raise MissingFileError("no SOURCE.json: not a collection folder", path=folder, remedy="write it with build")
    try:
        source: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        world = choose_domains(load_world(), source["domains"])
        same_world = source["world_sha256"] == world_hash(world)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"not written by the miniature ({error!r})", path=path, remedy="write it with build"
        ) from error
    if not same_world:
        raise InputError("this collection was written from another world", path=path, remedy="write it again")
    return world


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    matches = pattern.findall(text)
    return str(matches[-1]) if matches else None


def _slip(order: Sequence[int], rng: random.Random) -> str:
    """A list as careless models write it: an identifier lost, doubled or out of range, or prose around the list."""
    kind = rng.randrange(4)
    if kind == 0 and len(order) > 1:
        return format_ranking(order[:-1])
    if kind == 1:
        return format_ranking([*order, order[0]] if order else [0, 0])
    if kind == 2:
        return format_ranking([*order[:-1], len(order)])
    return f"Here is my ranking of the passages: {format_ranking(order)}. I hope that it helps!"


def _reply(
    thought: str, said: str, prompt: str, cut: bool, decoding: Decoding, extra: dict[str, Any], rng: random.Random
) -> Reply:
    """Counts words for tokens; an answer longer than max_new_tokens, or cut off by bad luck, ends in mid-thought."""
    words = thought.split()
    total = len(words) + len(said.split())
    limit = rng.randrange(1, max(2, len(words))) if cut and words else decoding.max_new_tokens
    tokens_in = len(prompt.split())
    if total > limit:
        thought, tokens_out = " ".join(words[:limit]), min(total, limit)
        return Reply("", thought, "length", tokens_in, tokens_out, extra=extra | {"error": "cut_off"})
    return Reply(said, thought, "stop", tokens_in, total, extra=extra)
