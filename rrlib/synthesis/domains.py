"""The domains side by side: where candidates come from, and what counts as relevant (paper 4.1, B.1).

The paper's four (mathematics twice), and two whose texts people have judged.

A recipe is data, so another domain is one more entry: copy one, change its words, and name your data set in `also`.
`labels` says where the pointwise labels come from: the teacher who sees the gold answer, or the qrels of the
collection (web search has human labels, so no selection is asked). `candidates` and `depth` are what `rrlib data
prepare` does where nothing else is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rrlib.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_HARD = (
    "A passage is a trap if it shares words, names or the topic with the query, so that a hasty reader takes it for "
    "relevant, and does not help to reach the gold answer."
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One domain's words. task: what the lists are for; relevant: the definition that all prompts quote.

    hard: what a hard negative is, for the selection among web results. labels: `teacher` or `qrels`. candidates:
    `links` (the pages that the accepted answer links to, cut into passages), `dense` or `bm25` (retrieval over a
    corpus). depth: candidates a query, 0 = all there are.
    """

    name: str
    task: str
    relevant: str
    hard: str = _HARD
    labels: Literal["teacher", "qrels"] = "teacher"
    candidates: Literal["links", "dense", "bm25"] = "bm25"
    depth: int = 0
    also: tuple[str, ...] = ()
    """Names of data sets that belong to this recipe (lower case, words joined by `-`)."""


_RECIPES = (
    # Complex QA. Queries: StackExchange questions whose accepted answer links to a page.
    Recipe(
        "complex-qa",
        task="Somebody asked a hard question in a public forum, and passages are wanted that lead to its answer.",
        relevant="A passage is relevant if it holds a fact, mechanism, definition or rule that the answer rests on, so "
        "that a reader who knows the passage is nearer to the answer. Sharing words or a topic is not enough.",
        candidates="links",
        also=("biology", "earth-science", "economics", "robotics", "sustainable-living", "stackoverflow", "psychology"),
    ),
    # Coding. Queries: LeetCode problems; gold answer: the solution.
    Recipe(
        "coding",
        task="A programming problem is given, and other solved problems are wanted that teach how to solve it.",
        relevant="A passage is relevant if its problem is solved by the same algorithm or the same data structure as "
        "the given problem. A similar story, or the same input format, is not enough.",
        candidates="dense",
        depth=40,
        also=("leetcode", "pony"),
    ),
    # Mathematics, two kinds of passages. Queries: MATH problems; gold answer: the solution.
    Recipe(
        "math-qa",
        task="A mathematical problem is given, and other worked problems are wanted that show how to solve it.",
        relevant="A passage is relevant if its solution applies the same theorem or the same method as the solution of "
        "the given problem. The same objects or numbers are not enough.",
        candidates="dense",
        depth=40,
        also=("math", "aops", "theoremqa-questions"),
    ),
    Recipe(
        "math-theorem",
        task="A mathematical problem is given, and theorems are wanted that its solution can use.",
        relevant="A passage is relevant if it states a theorem that the solution applies, or one that a step of the "
        "solution comes close to. A theorem about the same objects that no step uses is not relevant.",
        candidates="dense",
        depth=40,
        also=("proofwiki", "theoremqa-theorems"),
    ),
    # Web search. Queries and human labels: MS MARCO.
    Recipe(
        "web-search",
        task="Somebody typed a query into a web search engine, and passages are wanted that answer it.",
        relevant="A passage is relevant if it answers the query in whole or in part. Being about the same subject "
        "without answering is not enough.",
        labels="qrels",
        candidates="bm25",
        depth=20,
        also=("ms-marco", "msmarco"),
    ),
    # Science facts (not in the paper). Queries: exam questions with the right answer; human entailment trees.
    Recipe(
        "science-facts",
        task="A science question is given with its right answer, and facts are wanted that together prove the answer.",
        relevant="A passage is relevant if it is a premise of the proof: a step from the question to the answer rests "
        "on it. A true fact on the same subject that no step needs is not relevant.",
        candidates="bm25",
        depth=25,
        also=("science", "entailmentbank"),
    ),
    # Key points (not in the paper). Queries: arguments of a debate; human matches.
    Recipe(
        "key-points",
        task="An argument from a debate is given, and key points are wanted that say in short what it says.",
        relevant="A passage is relevant if it captures the gist of the argument, or of a part of it. A key point of "
        "the same debate, or of the same side, that the argument does not make is not relevant.",
        candidates="bm25",
        depth=25,
        also=("argument", "argkp"),
    ),
)

GENERAL = Recipe(
    "general",
    task="A question is given, and passages are wanted that help to answer it.",
    relevant="A passage is relevant if knowing it brings a reader nearer to the answer. Sharing words or a topic with "
    "the question is not enough.",
)
"""Used, and counted, for domains that no recipe names."""

RECIPES: Mapping[str, Recipe] = {recipe.name: recipe for recipe in (*_RECIPES, GENERAL)}
_BY_NAME = {name: recipe for recipe in RECIPES.values() for name in (recipe.name, *recipe.also)}


def recipe_for(domain: str, names: Mapping[str, str] | None = None) -> Recipe:
    """The recipe of a domain name as a collection writes it.

    names: the caller's own map from domain names to recipe names, looked at first.
    Unknown domains get GENERAL. Raises InputError when `names` points to a recipe that does not exist.
    """
    if names and domain in names:
        try:
            return RECIPES[names[domain]]
        except KeyError:
            raise InputError(
                f"domain {domain!r} is mapped to recipe {names[domain]!r}", remedy=f"use one of {', '.join(RECIPES)}"
            ) from None
    return _BY_NAME.get("-".join(domain.lower().replace("_", " ").split()), GENERAL)


def table_of_recipes() -> pd.DataFrame:
    """The recipes as a table: what the teacher is told, and where labels and candidates come from."""
    import pandas as pd

    pd.set_option("display.max_colwidth", None)
    rows = [
        {"recipe": r.name, "a passage is relevant if": r.relevant, "labels": r.labels, "candidates": r.candidates}
        for r in RECIPES.values()
    ]
    return pd.DataFrame(rows).set_index("recipe")
