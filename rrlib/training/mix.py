"""Training data in more than one mode: think and no-think from one checkpoint, and pointwise examples from lists.

The paper names the missing switch between reasoning and no-think as a limitation. Here the switch is the prompt: each
training example is written in one style (`meta["style"]`), in given shares, and the model learns to answer each prompt
in its own form. `train_sft` reads the style of each example; GRPO trains one mode at a time.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rrlib.errors import InputError
from rrlib.prompts import get_style
from rrlib.types import RankingExample

STYLE = "style"
"""The key of `RankingExample.meta` that names an example's prompt style."""


def mix_styles(examples: Sequence[RankingExample], shares: Mapping[str, float], seed: int = 0) -> list[RankingExample]:
    """Give each example one style, in the given shares (of examples; they are scaled to sum to 1), at random by seed.

    Numbers are exact up to rounding (largest remainders). The order of the examples stays. Raises InputError for
    unknown styles, negative shares, or shares that are all 0.
    """
    names = list(shares)
    for name in names:
        get_style(name)
    total = sum(shares.values())
    if any(share < 0 for share in shares.values()) or not total > 0:
        raise InputError(f"shares {dict(shares)}", remedy="give shares of 0 or more, one of them above 0")
    exact = {name: len(examples) * shares[name] / total for name in names}
    counts = {name: int(exact[name]) for name in names}
    left = len(examples) - sum(counts.values())
    for name in sorted(names, key=lambda n: (counts[n] - exact[n], names.index(n)))[:left]:
        counts[name] += 1
    drawn = [name for name in names for _ in range(counts[name])]
    random.Random(f"{seed}/styles").shuffle(drawn)
    return [replace(e, meta={**e.meta, STYLE: name}) for e, name in zip(examples, drawn, strict=True)]


def both_modes(examples: Sequence[RankingExample], styles: Sequence[str]) -> list[RankingExample]:
    """Every example once in each style: as much data for each mode as a model of that mode alone would have."""
    for name in styles:
        get_style(name)
    return [replace(e, meta={**e.meta, STYLE: name}) for e in examples for name in styles]


_MENTION = re.compile(r"\[(\d+)\]")


def own_chain(reasoning: str, position: int, size: int) -> str:
    """What a listwise chain says about one passage: all before the first identifier, then the clauses behind this
    passage's own, up to the next. Identifiers are left out, since a pointwise prompt has none.

    position: 0-based. size: passages of the window; identifiers above it are no mentions.
    """
    mentions = [m for m in _MENTION.finditer(reasoning) if 1 <= int(m.group(1)) <= size]
    if not mentions:
        return reasoning.strip()
    parts = [reasoning[: mentions[0].start()]]
    for mention, following in zip(mentions, [*mentions[1:], None], strict=True):
        if int(mention.group(1)) == position + 1:
            parts.append(reasoning[mention.end() : following.start() if following else len(reasoning)])
    return " ".join(" ".join(parts).split())


def pointwise_examples(
    examples: Sequence[RankingExample], style: str = "pointwise", per_list: int = 0, seed: int = 0
) -> list[RankingExample]:
    """The same data for a pointwise model (Rank1's form): each passage with its label, and what the teacher's chain
    says about it (`own_chain`).

    per_list: passages drawn from each list (0: all): half of them relevant ones, as far as there are, so that the model
    does not learn to say false. The query id gets the passage's number. Raises InputError for a listwise style.
    """
    if get_style(style).words is None:
        raise InputError(f"the style {style!r} ranks a list", remedy="use pointwise, pointwise_nothink or rank1")
    out: list[RankingExample] = []
    for example in examples:
        size = len(example.passages)
        chosen = list(range(size))
        if per_list:
            rng = random.Random(f"{seed}/{example.query.qid}")
            good = [i for i in chosen if example.relevance[i] > 0]
            bad = [i for i in chosen if example.relevance[i] <= 0]
            chosen_good = rng.sample(good, min(len(good), max(1, per_list // 2)))
            chosen = sorted(chosen_good + rng.sample(bad, min(len(bad), max(0, per_list - len(chosen_good)))))
        for i in chosen:
            out.append(
                RankingExample(
                    replace(example.query, qid=f"{example.query.qid}/{i}"),
                    (example.passages[i],),
                    (int(example.relevance[i] > 0),),
                    (0,),
                    own_chain(example.reasoning, i, size),
                    {**example.meta, STYLE: style},
                )
            )
    return out
