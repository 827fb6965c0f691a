"""What notebook 01 shows of a run: one query's texts, tables of what became of all, and how alpha is chosen.

Everything is read from the files that a run (or an import) leaves, so a real teacher, a simulated one and imported
data go through the same cells. What only a simulated teacher can tell (what it believed) is said to be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rrlib.formats import Collection, read_jsonl
from rrlib.synthesis.domains import recipe_for
from rrlib.synthesis.export import stream_examples
from rrlib.synthesis.fates import Fate, explain
from rrlib.synthesis.results import SynthesisResult
from rrlib.synthesis.sources.items import CollectionSource, Item
from rrlib.synthesis.sources.released import read_released
from rrlib.types import Passage, Query, RankingExample

if TYPE_CHECKING:
    import pandas as pd

GRID = tuple(round(0.1 * i, 1) for i in range(11))
"""Alphas that tables and curves try: the paper's grid (0.1 to 0.7), and both ends."""

IMPORTED = "(imported: nobody was asked)"


class Markdown(str):
    """Text that a notebook shows as Markdown."""

    def _repr_markdown_(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class Followed:
    """The query to follow through all steps. number: its place in the order of asking, 1 = the first."""

    query: Query
    passages: tuple[Passage, ...]
    number: int = 1


def followed(
    collection: Collection, window: int, *, seed: int = 0, limit: int | None = None, import_from: str = ""
) -> Followed:
    """The first query that is asked both questions, else the first of all; of released data, its first example.

    seed, limit: of the run that will ask, since they make the order. The passages are the first `window` candidates.
    """
    if import_from:
        example = next(read_released(import_from))
        return Followed(example.query, example.passages)
    everything = list(enumerate(CollectionSource(collection, seed=seed, limit=limit), 1))
    number, item = next(((n, item) for n, item in everything if _asked_twice(item)), everything[0])
    return Followed(item.query, item.candidates[:window], number)


def _asked_twice(item: Item) -> bool:
    return recipe_for(item.domain).labels == "teacher" and bool(item.gold_answer and item.candidates)


def outcome(result: SynthesisResult, qid: str) -> tuple[RankingExample | None, str]:
    """(the example that came of a query, None where none did; a sentence on its fate)."""
    row = next((row for _, row in read_jsonl(result.fates) if row["qid"] == qid), None)
    if row is None:
        return None, f"{qid} was not asked about"
    value = f", self-consistency {row['consistency']:.3f}" if "consistency" in row else ""
    example = next((e for e in stream_examples(result.examples) if e.query.qid == qid), None)
    why = "" if row["fate"] == Fate.KEPT else f". {explain(row['fate'])}"
    return example, f"{row['fate'].replace('_', ' ')}{value}; alpha {result.summary['alpha']:g}{why}"


_SUMMED = {"seconds": "seconds of waiting, summed over calls that run side by side"}
"""Counts of an account that are no count of what the name says alone."""


def counted(numbers: Mapping[Any, Any]) -> str:
    """Counts in words, what is not known left out: `480 select, 193 rank`. Seconds of an account are those of all its
    calls together, and are said to be."""
    known = {str(name): value for name, value in numbers.items() if value is not None}
    return ", ".join(f"{value} {_SUMMED.get(name, name.replace('_', ' '))}" for name, value in known.items())


def prompt_sent(asked: Mapping[str, Sequence[Mapping[str, Any]]], step: str, chars: int = 3000) -> str:
    """What the teacher was sent first in a step; of a longer prompt the beginning and the end, `chars` in all."""
    records = asked.get(step) or ()
    if not records:
        return IMPORTED
    text = str(records[0]["prompt"][-1]["content"])
    return text if len(text) <= chars else f"{text[: chars // 2]}\n[...]\n{text[-(chars // 2) :]}"


def answers(asked: Mapping[str, Sequence[Mapping[str, Any]]], step: str) -> str:
    """What the teacher said in a step: its reasoning, where it gave one, and its answers."""
    records = asked.get(step) or ()
    said = [f"{r['reasoning']}\n\n{r['text']}".strip() if step == "rank" else str(r["text"]) for r in records]
    return " | ".join(said) if said else IMPORTED


def fates(result: SynthesisResult | None) -> pd.DataFrame:
    """One row a query: qid, domain, fate, consistency, quality, first_right, and of a simulated teacher: error, wrong.

    quality: NDCG@10 of the list under human labels (not the teacher's), first_right: whether it begins with a passage
    that they call relevant; both NaN where there are none. wrong: whether the teacher believed wrongly; NaN (and error
    empty) for a teacher that does not tell. consistency is NaN for queries without a readable list. Empty for None.
    """
    import pandas as pd

    columns = ["qid", "domain", "fate", "consistency", "quality", "first_right", "error", "wrong"]
    rows = []
    for _, row in read_jsonl(result.fates) if result is not None else ():
        words = row.get("simulated") or {}
        knows = words.get("belief") is not None and words.get("truth") is not None
        rows.append(
            {
                **{key: row.get(key) for key in columns[:6]},
                "error": str(words.get("error") or "") if knows else "",
                "wrong": float(words["belief"] != words["truth"]) if knows else None,
            }
        )
    frame = pd.DataFrame(rows, columns=columns)
    numbers = ["consistency", "quality", "first_right", "wrong"]
    return frame.astype(dict.fromkeys(numbers, "float64"))


def wrong_beliefs(frame: pd.DataFrame, alpha: float) -> pd.DataFrame:
    """Share of lists with a wrong belief before and after the filter, in all and by kind of error.

    frame: of `fates`. Lists that could be read count, whatever alpha the run had. One line with a note where the
    teacher does not tell what it believes, as no real one does.
    """
    import pandas as pd

    lists = frame[frame["wrong"].notna() & frame["consistency"].notna()]
    if lists.empty:
        note = "this teacher does not say what it believed"
        return pd.DataFrame({"before": [note], "after": [""]}, index=pd.Index(["wrong belief"], name="lists"))
    passing = lists[lists["consistency"] >= alpha]
    wrong = lists[lists["wrong"] == 1.0]
    kinds = {"wrong belief": wrong} | {f"  of them {k or 'other'}": g for k, g in wrong.groupby("error")}
    rows = []
    for name, group in kinds.items():
        after = group[group["consistency"] >= alpha]
        rows.append(
            {
                "lists": name,
                "before": len(group),
                "share before": round(len(group) / len(lists), 3),
                "after": len(after),
                "share after": round(len(after) / max(1, len(passing)), 3),
            }
        )
    total = {"lists": "all lists", "before": len(lists), "share before": 1.0, "after": len(passing), "share after": 1.0}
    return pd.DataFrame([total, *rows]).set_index("lists")


def alpha_table(frame: pd.DataFrame, grid: Sequence[float] = GRID) -> pd.DataFrame:
    """What each alpha does to the lists of the validation split, judged by labels that the teacher had no part in.

    A list is right when it begins with a passage that people (or the world that made the query) call relevant: that
    is what its reasoning was for. The filter is a search for right lists: precision = share of right ones among the
    kept, recall = share of the right ones that are kept, F1 = their harmonic mean. quality = mean NDCG@10 of the kept
    lists under the same labels. Empty where there are no such labels.
    """
    import pandas as pd

    lists = _judged(frame)
    rows = []
    for alpha in grid if len(lists) else ():
        passing = lists[lists["consistency"] >= alpha]
        right, right_passing = lists["first_right"].sum(), passing["first_right"].sum()
        precision, recall = right_passing / max(1, len(passing)), right_passing / max(1, right)
        rows.append(
            {
                "alpha": alpha,
                "kept": len(passing),
                "share kept": round(len(passing) / len(lists), 3),
                "precision": round(precision, 3),
                "recall": round(recall, 3),
                "F1": round(2 * precision * recall / max(1e-9, precision + recall), 3),
                "quality": round(float(passing["quality"].mean()), 3) if len(passing) else float("nan"),
            }
        )
    columns = ["alpha", "kept", "share kept", "precision", "recall", "F1", "quality"]
    return pd.DataFrame(rows, columns=columns).set_index("alpha")


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The lists that labels of people, or of the world that made the query, can judge."""
    return frame[frame["consistency"].notna() & frame["first_right"].notna()]


def best_alpha(table: pd.DataFrame, otherwise: float) -> float:
    """The alpha with the best F1, the lowest of equals (it keeps most lists); `otherwise` where the table is empty."""
    return float(table["F1"].idxmax()) if len(table) else otherwise


def verdict_on(alpha: float, frame: pd.DataFrame, grid: Sequence[float] = GRID, draws: int = 2000) -> str:
    """One sentence: which alpha has the best F1 on validation, and whether `alpha` is worse by more than noise.

    frame: of `fates`, of the validation split. Noise: the 95% interval of the difference in F1 over `draws` samples of
    the same number of lists, drawn with replacement, seeded; both alphas are judged on each sample. `alpha` is tried
    too where the grid leaves it out.
    """
    import numpy as np

    table = alpha_table(frame, sorted({*grid, alpha}))
    if not len(table):
        return f"alpha {alpha:g}, as the parameter says: no labels to judge it by"
    best = best_alpha(table, alpha)
    lists = _judged(frame)
    right = lists["first_right"].to_numpy()  # (lists,)
    samples = np.random.default_rng(0).multinomial(len(lists), [1 / len(lists)] * len(lists), draws)  # (draws, lists)
    as_drawn = np.ones(len(lists))

    def f1(at: float, weights: Any) -> Any:
        passing = (lists["consistency"] >= at).to_numpy(dtype=float)
        return 2 * (weights @ (passing * right)) / np.maximum(weights @ (passing + right), 1)

    def gap(weights: Any) -> Any:
        return f1(best, weights) - f1(alpha, weights)

    verdict = f"best F1 on {len(lists)} validation lists: {f1(best, as_drawn):.3f} at alpha {best:g}"
    if alpha == best:
        return f"{verdict}, which is used"
    low, high = np.quantile(gap(samples), (0.025, 0.975))
    noise = "within" if low <= 0 else "outside"
    lower = f"{gap(as_drawn):.3f} [{low:.3f}, {high:.3f}]"
    return f"{verdict}; used is {alpha:g}, lower by {lower}: {noise} the noise"
