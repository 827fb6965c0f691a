"""Tables of the notebooks: what a collection holds, what became of each query, what a checkpoint wrote, who gained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.errors import InputError
from rrlib.evaluation.paired import in_words, paired_rows, sets_of
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import read_collection, read_examples, read_jsonl
from rrlib.records import WindowRecord
from rrlib.responses import VERDICTS, audit
from rrlib.types import Passage, Qrels

if TYPE_CHECKING:
    import pandas as pd


def split_sizes(folder: str | Path) -> pd.DataFrame:
    """Queries by domain and split, of any collection folder with metadata."""
    import pandas as pd

    rows = []
    for split in ("train", "validation", "test"):
        try:
            collection = read_collection(folder, split)
        except InputError:
            continue
        counts = Counter(str(m.get("domain") or "?") for m in collection.metadata.values())
        rows += [{"domain": domain, "split": split, "queries": n} for domain, n in counts.items()]
    table = pd.DataFrame(rows).pivot_table(
        index="domain", columns="split", values="queries", fill_value=0, aggfunc="sum"
    )
    return table[[s for s in ("train", "validation", "test") if s in table]].astype(int)


def passages_table(
    passages: Sequence[Passage], relevance: Sequence[int] = (), gold: Sequence[int] = (), width: int = 140
) -> pd.DataFrame:
    """Passages as a table: number in the prompt, text, pointwise label, place in the gold list (1 = best).

    Texts are cut to `width` characters here, so pandas is told not to cut columns further.
    """
    import pandas as pd

    pd.set_option("display.max_colwidth", None)
    table = pd.DataFrame({"text": [_cut(p.text, width) for p in passages]}, index=range(1, len(passages) + 1))
    table.index.name = "[n]"
    if relevance:
        table["relevant"] = ["yes" if label > 0 else "" for label in relevance]
    if gold:
        places = {position: place for place, position in enumerate(gold, 1)}
        table["gold place"] = [places[i] for i in range(len(passages))]
    return table


def _cut(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 3] + "..."


def consistencies(result: Any) -> list[float]:
    """NDCG@k of every list that the filter judged, kept and dropped (result: of rrlib.synthesis.pipeline)."""
    values = [float(e.meta["consistency"]) for e in read_examples(result.examples) if "consistency" in e.meta]
    return values + [float(row["consistency"]) for _, row in read_jsonl(result.dropped) if "consistency" in row]


def kept_and_dropped(result: Any) -> pd.DataFrame:
    """One line a fate: kept, or dropped with its reason; with its share of the queries."""
    import pandas as pd

    fates = {"kept": result.summary["examples"], **result.summary["dropped"]}
    total = max(1, result.summary["queries"])
    rows = [{"fate": fate, "queries": n, "share": round(n / total, 3)} for fate, n in fates.items()]
    return pd.DataFrame(rows).set_index("fate")


def audition_table(auditions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One line a checkpoint: windows, share of valid responses, mean NDCG and recall, mean length in tokens."""
    import pandas as pd

    rows = [
        {
            "checkpoint": name,
            "windows": len(frame),
            "valid": round(float((frame["level"] == "valid").mean()), 3),
            "NDCG": round(float(frame["ndcg"].mean()), 3),
            "Recall": round(float(frame["recall"].mean()), 3),
            "tokens": round(float(frame["tokens"].mean()), 1),
        }
        for name, frame in auditions.items()
    ]
    return pd.DataFrame(rows).set_index("checkpoint")


def one_group(completions: pd.DataFrame, size: int) -> pd.DataFrame:
    """The rollouts of the last step's prompt with the most different rewards (then: the widest spread): a row each.

    completions: of rrlib.training.completions.read_completions. size: rollouts of a group.
    """
    last = completions[completions["step"] == completions["step"].max()]
    groups = [group for _, group in last.groupby("prompt", sort=False) if len(group) >= size]
    if not groups:
        raise InputError(f"no prompt has {size} rollouts", remedy="give the number of rollouts of the training")
    reward = next(c for c in last.columns if c.endswith("reward"))
    widest = max(groups, key=lambda group: (group[reward].round(3).nunique(), float(group[reward].std())))
    return widest.rename(columns={reward: "reward"}).head(size).reset_index(drop=True)


def verdicts_of(records: Mapping[str, Sequence[WindowRecord]]) -> dict[str, dict[str, float]]:
    """System -> verdict -> share of its window records; verdicts that never came are left out."""
    shares = {
        name: {row.kind: row.share for row in audit(rows) if row.kind in VERDICTS} for name, rows in records.items()
    }
    seen = [verdict for verdict in VERDICTS if any(share.get(verdict) for share in shares.values())]
    return {name: {verdict: share.get(verdict, 0.0) for verdict in seen} for name, share in shares.items()}


def against(result: ExperimentResult, baseline: str, systems: Sequence[str], metric: str | None = None) -> pd.DataFrame:
    """Another comparison of the same values: systems against another baseline, paired by query."""
    import pandas as pd

    name = metric or str(result.per_query["metric"].iloc[0])
    seed = int(result.table["seed"].dropna().iloc[0])
    rows: list[dict[str, Any]] = []
    for benchmark, part in result.per_query.groupby("benchmark", sort=False):
        values = sets_of(part, name)
        for row in paired_rows({s: values[s] for s in (baseline, *systems)}, baseline, seed=seed)[1:]:
            tally = f"{row['wins']}/{row['ties']}/{row['losses']}"
            shown = {f"{name} less {baseline}": in_words(row), "w/t/l": tally, "p (Holm)": row["p_holm"]}
            rows.append({"benchmark": benchmark, "system": row["system"], **shown})
    return pd.DataFrame(rows).set_index("system").round(4)


def length_table(result: ExperimentResult, systems: Sequence[str], metric: str | None = None) -> pd.DataFrame:
    """One row a query and system: tokens written for it (all windows), and its value."""
    import pandas as pd

    name = metric or str(result.per_query["metric"].iloc[0])
    values = result.per_query[result.per_query["metric"] == name]
    rows = []
    for (system, benchmark), outcome in result.outcomes.items():
        if system not in systems:
            continue
        written: dict[str, int] = {}
        for record in outcome.records:
            written[record.qid] = written.get(record.qid, 0) + record.tokens_out
        own = values[(values["system"] == system) & (values["benchmark"] == benchmark)]
        for qid, value in zip(own["qid"], own["value"], strict=True):
            rows.append({"system": system, "qid": qid, "tokens": written.get(qid, 0), "value": value})
    return pd.DataFrame(rows)


def window_traces(
    records: Sequence[WindowRecord], before: Mapping[str, Sequence[str]], qrels: Qrels
) -> list[list[int]]:
    """The rank (1-based) of each relevant candidate before the first window and after every window of its query.

    records: of one system and collection. before: query -> document ids in the order shown, best first.
    """
    windows: dict[str, list[WindowRecord]] = {}
    for record in records:
        windows.setdefault(record.qid, []).append(record)
    traces: list[list[int]] = []
    for qid, query_records in windows.items():
        order = list(before.get(qid, ()))
        relevant_docids = [docid for docid in order if qrels.get(qid, {}).get(docid, 0) > 0]
        ranks = {docid: [order.index(docid) + 1] for docid in relevant_docids}
        for record in sorted(query_records, key=lambda record: (record.pass_no, -record.end)):
            record.replay_onto(order)
            for docid in relevant_docids:
                ranks[docid].append(order.index(docid) + 1)
        traces += list(ranks.values())
    return traces
