"""The red thread: one query from the teacher's answer over SFT and GRPO to the final list, from a run's own files.

Every notebook picks it by the same rule from what 01 left, so all of them follow the same query, and a run that is
repeated follows it again. 00 has no run: it begins with the query of the profile `miniature`, which is kept:

    python -m rrlib.lesson.thread outputs/miniature
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.evaluation.audition import WRITTEN_LIST
from rrlib.formats import Collection, read_examples, write_examples
from rrlib.lesson.explain import rollouts
from rrlib.prompts import format_response
from rrlib.reading import split_reasoning
from rrlib.rerank import Reranker
from rrlib.resources import locate
from rrlib.responses import parse_lenient, parse_strict
from rrlib.reward import VIEWS, MultiViewReward, RewardRecord
from rrlib.types import Candidates, RankingExample

if TYPE_CHECKING:
    import pandas as pd


STORED = "thread.jsonl"
"""Among the stored results: the example that a run of the profile `miniature` follows (seed 7)."""

_RESULTS = "package:rrlib.miniature/results"


def stored_thread() -> RankingExample:
    """The example that 01 to 04 follow in a run of the profile `miniature` with its own seed, whose model 00 uses."""
    (example,) = read_examples(Path(locate(_RESULTS)) / STORED)
    return example


def keep_thread(run_dir: str | Path, target: str | Path | None = None) -> RankingExample:
    """Write the example that a run follows to a file (None: the stored one). Raises as thread_of does."""
    example = thread_of(run_dir)
    write_examples(Path(locate(_RESULTS)) / STORED if target is None else target, [example])
    return example


def thread_of(run_dir: str | Path) -> RankingExample:
    """The example to follow through a run: of those that the filter kept, the one whose list agrees least with its own
    labels, the first asked of equals. There the teacher has most to be corrected in.

    Raises InputError where the run has no examples.
    """
    examples = read_examples(Path(run_dir) / "01_synthesis" / "teacher" / "examples.jsonl")
    return min(examples, key=lambda example: float(example.meta.get("consistency", 1.0)))


def chosen_words(example: RankingExample) -> str:
    """A sentence: which query is followed, and why."""
    value = example.meta.get("consistency")
    if value is None:
        return f"Followed is {example.query.qid}, the first example: none has a consistency."
    return f"Followed is {example.query.qid}: of the kept lists it agrees least with its own labels (NDCG {value:.3f})."


@dataclass(frozen=True)
class Answers:
    """What one checkpoint answers to one window: greedily, and a group drawn at temperature 1 (empty if not asked)."""

    greedy: str
    drawn: list[str]


def answers_of(
    checkpoints: Mapping[str, str | Path],
    example: RankingExample,
    *,
    count: int = 0,
    seed: int = 0,
    style: str = "reasonrank",
    max_passage_tokens: int | None = None,
    max_new_tokens: int = 512,
    engine_options: Mapping[str, Any] | None = None,
    on_answer: Callable[[str], None] | None = None,
) -> dict[str, Answers]:
    """Ask checkpoints (name -> folder) about an example's window: each once greedily, and `count` times at random, with
    a seed. max_passage_tokens: a longer passage is cut; None is what each checkpoint was trained with. on_answer: told
    of each checkpoint's name when it has answered.

    Raises InputError for a checkpoint that cannot be loaded, EngineError when a call fails.
    """
    window = [(example.query.text, example.passages)]
    answers = {}
    for name, checkpoint in checkpoints.items():
        reranker = Reranker(
            str(checkpoint),
            "transformers",
            style=style,
            strategy="full_list",
            depth=len(example.passages),
            max_passage_tokens=max_passage_tokens,
            decoding=Decoding(max_new_tokens=max_new_tokens),
            **dict(engine_options or {}),
        )
        ((greedy,),) = rollouts(reranker, window, 1, seed, temperature=0.0)
        answers[name] = Answers(greedy, rollouts(reranker, window, count, seed)[0] if count else [])
        reranker.engine.close()
        if on_answer is not None:
            on_answer(name)
    return answers


def stations(
    example: RankingExample, answers: Mapping[str, str], reward: MultiViewReward, style: str = "reasonrank"
) -> pd.DataFrame:
    """One row a station, the teacher first: places of the relevant passages in its list, form, views, reward.

    answers: station -> response. A response that cannot be read as a ranking has no views, and inference would keep
    the order of the window, or mend it: those places are shown.
    """
    import pandas as pd

    size = len(example.passages)
    orders = {name: parse_lenient(text, size, style).order for name, text in answers.items()}
    levels = {name: parse_strict(text, size, reward.think).level for name, text in answers.items()}
    views = [float(value) for value in reward.views(_row(example.gold), example.relevance, example.gold)[0]]
    total = float(reward.combine(reward.views(_row(example.gold), example.relevance, example.gold))[0])
    rows: list[dict[str, Any]] = [
        {"station": "teacher", **_places(example, example.gold), "form": "valid"}
        | dict(zip(VIEWS, views, strict=True))
        | {"reward": total}
    ]
    for name, text in answers.items():
        record = reward.score(text, example.relevance, example.gold)
        rows.append(
            {"station": name, **_places(example, orders[name]), "form": levels[name]}
            | {view: getattr(record, view) for view in VIEWS}
            | {"reward": record.total}
        )
    frame = pd.DataFrame(rows).set_index("station")
    numbers = [*VIEWS, "reward"]
    frame[numbers] = frame[numbers].astype(float).round(3)
    return frame


def whole_list(
    example: RankingExample,
    collection: Collection,
    checkpoints: Mapping[str, str | Path],
    settings: Mapping[str, Any],
    on_list: Callable[[str], None] | None = None,
) -> pd.DataFrame | None:
    """One row a system, the first stage first: places of the relevant passages in the example's whole list.

    collection: of its split, with a first-stage run. settings: arguments of Reranker (engine, style, window, stride,
    depth, decoding, options of the engine). on_list: told of each checkpoint's name. None where the collection has no
    candidates of that query, as where the examples were imported.
    """
    items = [item for item in collection.candidates(settings.get("depth")) if item.query.qid == example.query.qid]
    if not items:
        return None
    lists = {}
    for name, checkpoint in checkpoints.items():
        reranker = Reranker(str(checkpoint), **settings)
        ((_, docids),) = reranker.rerank(items).rankings.items()
        reranker.engine.close()
        lists[name] = docids
        if on_list is not None:
            on_list(name)
    grades = collection.qrels.get(example.query.qid, {})
    return final_lists(items[0], [docid for docid, grade in grades.items() if grade > 0], lists)


def final_lists(candidates: Candidates, relevant: Sequence[str], lists: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row a system, the first stage first: places of the relevant passages in the whole list of one query."""
    import pandas as pd

    first_stage = [passage.docid for passage in candidates.passages]
    rows = []
    for name, docids in {"first stage": first_stage, **lists}.items():
        places = [place for place, docid in enumerate(docids, 1) if docid in set(relevant)]
        rows.append({"system": name, "relevant at": ", ".join(map(str, places)), "of": len(docids)})
    return pd.DataFrame(rows).set_index("system")


def end_words(table: pd.DataFrame | None) -> str:
    """One sentence from `whole_list`: where the relevant passages stood, and where they stand in the last list."""
    if table is None or not len(table):
        return "There is no thread in this run."
    first, last = (str(table["relevant at"].iloc[place]) for place in (0, -1))
    if first == last:
        return f"The relevant passages stand where they stood in the first stage's list: at {first or 'no place'}."
    return f"The relevant passages stood at {first} in the first stage's list; they stand at {last} at the end."


def weight_of_likeness(example: RankingExample, response: str, reward: MultiViewReward) -> float | None:
    """The weight of RBO at which the teacher's list would earn as much as a response, the other weights as they are;
    None where no weight above 0 does, or where the response is no ranking."""
    record = reward.score(response, example.relevance, example.gold)
    teacher = reward.score(teacher_text(example), example.relevance, example.gold)
    if record.ndcg is None or teacher.ndcg is None:
        return None
    rest = [r.total - reward.weights.get("rbo", 0.0) * float(r.rbo or 0.0) for r in (record, teacher)]
    gap = float(teacher.rbo or 0.0) - float(record.rbo or 0.0)
    weight = (rest[0] - rest[1]) / gap if gap else 0.0
    return weight if weight > 0 else None


def teacher_text(example: RankingExample) -> str:
    """The teacher's reasoning and list as a response."""
    return format_response(example.reasoning, example.gold)


def in_words(table: pd.DataFrame, before: str, after: str) -> str:
    """One sentence from `stations`: did the reward rise from one station to another, and is it above the teacher's?"""
    first, last, teacher = (float(table.loc[name, "reward"]) for name in (before, after, "teacher"))
    moved = "rises" if last > first else "falls" if last < first else "stays"
    to = f"at {first:.3f}" if moved == "stays" else f"from {first:.3f} to {last:.3f}"
    place = "above" if last > teacher else "below" if last < teacher else "equal to"
    likeness = [table.loc[name, "rbo"] for name in (before, after)]
    rbo = " and ".join("none" if value != value else f"{value:.3f}" for value in likeness)
    if likeness[0] == likeness[0] and likeness[1] == likeness[1]:
        gap = float(likeness[1]) - float(likeness[0])
        rbo += f": {'nearer to it' if gap > 0 else 'further from it' if gap < 0 else 'neither nearer nor further'}"
    unread = [name for name, value in zip((before, after), likeness, strict=True) if value != value]
    kept = f" Where no list counts ({', '.join(unread)}), the places are what inference makes of it." if unread else ""
    return (
        f"From {before} to {after} the reward of the greedy answer {moved} {to}; that is {place} the teacher's "
        f"{teacher:.3f}. The likeness to the teacher's list (RBO) is {rbo}.{kept}"
    )


def kept_words(answers: Mapping[str, str]) -> str:
    """One sentence: are the reasoning and the written list the same in the first answer and the last, tags aside? What
    neither of them has is said to be missing."""
    (first, *_, last) = answers.values()
    pairs = {
        "reasoning": [split_reasoning(text).reasoning.strip() for text in (first, last)],
        "list": [_written_list(text) for text in (first, last)],
    }
    if first == last:
        return "The two answers are the same."
    missing = [name for name, both in pairs.items() if not any(both)]
    if missing:
        rest = {name: "the same" if one == other else "another one" for name, (one, other) in pairs.items()}
        said = "".join(f"; the {name} is {what}" for name, what in rest.items() if name not in missing)
        return f"Neither answer has a {' or a '.join(missing)}{said}."
    same = [name for name, (one, other) in pairs.items() if one == other]
    if len(same) == 2:
        return "Reasoning and list are the same word for word: what changed is the form alone."
    if not same:
        return "Reasoning and list are both other ones."
    (other,) = set(pairs) - set(same)
    return f"The {same[0]} is the same, the {other} is another one."


def group_means(drawn: Mapping[str, Sequence[RewardRecord]]) -> pd.DataFrame:
    """One row a checkpoint: mean, lowest and highest reward of the group it drew, and the share of valid answers."""
    import pandas as pd

    rows = []
    for name, records in drawn.items():
        rewards = [record.total for record in records]
        valid = sum(record.level == "valid" for record in records) / len(records)
        row = {"group of": name, "mean reward": sum(rewards) / len(rewards), "lowest": min(rewards)}
        rows.append({**row, "highest": max(rewards), "valid": valid})
    return pd.DataFrame(rows).set_index("group of").round(3)


def drawn_words(records: Sequence[RewardRecord]) -> str:
    """A sentence on one group of answers: how many are rankings, what these earn, and what the broken ones earn."""
    valid = [record.total for record in records if record.level == "valid"]
    broken = sorted({f"{record.total:g}" for record in records if record.level != "valid"}, key=float)
    what = f"{len(valid)} of {len(records)} answers drawn are rankings"
    earn = f" and earn {sum(valid) / len(valid):.3f} in the mean" if valid else ""
    if not broken:
        return f"{what}{earn}."
    return f"{what}{earn}; {len(records) - len(valid)} are broken in form, and such a one earns {' or '.join(broken)}."


def group_words(drawn: Mapping[str, Sequence[RewardRecord]]) -> str:
    """How the mean reward of a group went from the first checkpoint to the last, and whether by form or by the
    rankings. drawn: checkpoint -> rewards of the answers that it drew to one prompt."""
    (before, old), *_, (after, new) = drawn.items()
    first, last = (sum(record.total for record in records) / len(records) for records in (old, new))
    moved = _moved(first, last)
    broken = [sum(record.level != "valid" for record in records) for records in (old, new)]
    valid = [[record.total for record in records if record.level == "valid"] for records in (old, new)]
    said = (
        f"Drawn at random, the group's mean {moved}. Broken in form: {broken[0]} of {len(old)} answers {before}, "
        f"{broken[1]} of {len(new)} {after}."
    )
    if all(valid):
        means = [sum(values) / len(values) for values in valid]
        said += f" The mean of the valid ones {_moved(*means)}."
        if last < first and round(means[1] - means[0], 3) >= 0 and broken[1] > broken[0]:
            said += " So it is form alone that the mean lost by."
    return f"{said} (Answers to one prompt: no claim about others.)"


def _moved(first: float, last: float) -> str:
    """`falls from 1.176 to 0.945`, or `stays at 1.260` where three decimals show no difference."""
    texts = f"{first:.3f}", f"{last:.3f}"
    if texts[0] == texts[1]:
        return f"stays at {texts[0]}"
    return f"{'rises' if last > first else 'falls'} from {texts[0]} to {texts[1]}"


def _written_list(text: str) -> str:
    """The last list that stands in an answer, in tags or not; empty where there is none."""
    lists = WRITTEN_LIST.findall(text)
    return "".join(lists[-1].split()) if lists else ""


def _row(order: Sequence[int]) -> Any:
    import numpy as np

    return np.asarray([order], dtype=np.int64)


def _places(example: RankingExample, order: Sequence[int]) -> dict[str, str]:
    places = [place for place, item in enumerate(order, 1) if example.relevance[item] > 0]
    return {"relevant at": ", ".join(map(str, places))}


if __name__ == "__main__":
    try:
        print(chosen_words(keep_thread(sys.argv[1] if sys.argv[1:] else "outputs/miniature")))
    except InputError as error:
        sys.exit(str(error))
