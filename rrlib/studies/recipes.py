"""The rows of the ablations: the full recipe with one thing taken out or changed, each a small difference in words.

The first nine are the paper's questions. Then come its reward taken apart, the teacher as a reranker, and listwise
against pointwise from one supervision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rrlib.reward import PAPER_WEIGHTS


class Ranker(StrEnum):
    """Who ranks the test queries in a row."""

    LISTWISE = "listwise"
    """The row's model, a window at a time."""

    POINTWISE = "pointwise"
    """The row's model, a passage at a time."""

    TEACHER_WINDOWS = "teacher, windows"
    """The teacher, a window at a time; nothing is trained."""

    TEACHER_FULL = "teacher, full list"
    """The teacher, all candidates at once; nothing is trained."""


class Supervision(StrEnum):
    """Whose chains and judgements SFT learns from; the queries and their passages are the same."""

    TEACHER = "teacher"
    """The chain and the list of the teacher; pointwise, the verdict of the chain on each passage."""

    GOLD = "gold"
    """The chain and the list of a teacher without errors; pointwise, the labels made with the gold answer."""


@dataclass(frozen=True)
class Recipe:
    """One row. what: in words. paper: its NDCG@10 x 100 on BRIGHT (paper section 4, ablations); None = not there.

    alpha: of the filter, weights: of the reward's views, normalize: of GRPO, None = the profile's. rbo_where_right: of
    the reward. domains: the training examples' domains, none = all. style: of prompts and answers. sft, rl: which
    trainings it has.
    """

    name: str
    what: str
    paper: float | None = None
    alpha: float | None = None
    domains: tuple[str, ...] = ()
    style: str = "reasonrank"
    sft: bool = True
    rl: bool = True
    weights: Mapping[str, float] | None = None
    normalize: str | None = None
    rbo_where_right: bool = False
    ranker: Ranker = Ranker.LISTWISE
    supervision: Supervision = Supervision.TEACHER

    def other_lists(self, alpha: float) -> bool:
        """Whether SFT reads other lists than in the full recipe. alpha: the profile's."""
        return self.sft and (bool(self.domains) or self.alpha not in (None, alpha))


NO_REASONING = "nothink_tags"
FIRST_STAGE = "first stage"
FULL = "full"


def _weights(**changes: float) -> dict[str, float]:
    return {**PAPER_WEIGHTS, **changes}


def _teacher(ranker: Ranker, what: str) -> Recipe:
    return Recipe(ranker.value, what, sft=False, rl=False, ranker=ranker)


_PAPERS = (
    Recipe(FULL, "synthesis with filter, SFT, GRPO with the multi-view reward", 35.74),
    Recipe("backbone", "no training at all", sft=False, rl=False),
    Recipe("no filter", "alpha = 0: every readable list is learned from", 34.20, alpha=0.0),
    Recipe("no SFT", "GRPO on the backbone", 28.69, sft=False),
    Recipe("no RL", "SFT alone", 33.15, rl=False),
    Recipe("NDCG-only reward", "no Recall, no RBO", 34.20, weights=_weights(recall=0.0, rbo=0.0)),
    Recipe("no reasoning, SFT", "SFT on the lists alone", 32.96, style=NO_REASONING, rl=False),
    Recipe("no reasoning", "SFT on the lists alone, then GRPO", 33.60, style=NO_REASONING),
    Recipe("one domain", "web search alone, as MS MARCO alone in the paper", 30.08, domains=("web-search",)),
)
_REWARDS = (
    Recipe("no Recall", "the reward without Recall", weights=_weights(recall=0.0)),
    Recipe("no RBO", "the reward without RBO", weights=_weights(rbo=0.0)),
    Recipe(
        "RBO where the gold list is right",
        "RBO counts only where the gold list itself has NDCG 1 by the labels",
        rbo_where_right=True,
    ),
    Recipe("views normalised", "each view against its group before they are summed (GDPO)", normalize="views"),
)
_TEACHER = (
    _teacher(Ranker.TEACHER_WINDOWS, "the teacher itself ranks, in sliding windows"),
    _teacher(Ranker.TEACHER_FULL, "the teacher itself ranks, all candidates at once"),
)

_FORMS = (
    Recipe("listwise, gold", "SFT on the lists of a teacher without errors", rl=False, supervision=Supervision.GOLD),
    Recipe("pointwise", "SFT on the teacher's verdicts, a passage at a time", rl=False, ranker=Ranker.POINTWISE),
    Recipe(
        "pointwise, gold",
        "SFT on the gold labels, a passage at a time",
        rl=False,
        ranker=Ranker.POINTWISE,
        supervision=Supervision.GOLD,
    ),
)
"""The fourth of them, listwise from the teacher, is `no RL`."""

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (*_PAPERS, *_REWARDS, *_TEACHER, *_FORMS)}
"""Rows in the order of the table. The paper's first stage on BRIGHT has 30.59."""

PAPER_ROWS = tuple(recipe.name for recipe in _PAPERS)
REWARD_ROWS = tuple(recipe.name for recipe in _REWARDS)
TEACHER_ROWS = tuple(recipe.name for recipe in _TEACHER)
FORM_ROWS = tuple(recipe.name for recipe in _FORMS)
PAPER_FIRST_STAGE = 30.59
