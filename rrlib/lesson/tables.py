"""Tables of the notebooks: what a collection holds, what became of each query, what a checkpoint wrote, who gained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.errors import InputError
from rrlib.evaluation.paired import in_words, p_in_words, paired_rows, sets_of
from rrlib.evaluation.results import ExperimentResult
from rrlib.formats import read_collection, read_examples, read_jsonl
from rrlib.formats.collection import split_names
from rrlib.records import WindowRecord
from rrlib.responses import VERDICTS, audit
from rrlib.reward import VIEWS
from rrlib.training.completions import group_means
from rrlib.types import Passage, Qrels

if TYPE_CHECKING:
    import pandas as pd


def split_sizes(folder: str | Path) -> pd.DataFrame:
    """Queries by domain and split, of any collection folder with metadata. A split of which there is nothing is left
    out. Raises InputError for files that cannot be read, and where there is no split at all."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    fault: InputError | None = None
    for split in ("train", "validation", "test"):
        try:
            collection = read_collection(folder, split)
        except InputError as error:
            if _has_files(Path(folder), split):
                raise
            fault = error  # what the splits share (texts, SOURCE.json) spoils them all
            continue
        counts = Counter(str(m.get("domain") or "?") for m in collection.metadata.values())
        rows += [{"domain": domain, "split": split, "queries": n} for domain, n in counts.items()]
    if fault is not None and not rows:
        raise fault
    table = pd.DataFrame(rows).pivot_table(
        index="domain", columns="split", values="queries", fill_value=0, aggfunc="sum"
    )
    return table[[s for s in ("train", "validation", "test") if s in table]].astype(int)


def _has_files(root: Path, split: str) -> bool:
    """Whether a collection folder has judgements or a run of a split."""
    files = [*root.glob("qrels/*"), *root.glob("runs/*")]
    named = any(file.name.split(".")[0] in split_names(split) for file in files)
    return named or (split == "test" and any(root.glob("first_stage.trec*")))


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
            shown = {f"{name} less {baseline}": in_words(row), "w/t/l": tally, "p (Holm)": p_in_words(row)}
            rows.append({"benchmark": benchmark, "system": row["system"], **shown})
    return pd.DataFrame(rows).set_index("system")


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


def length_verdicts(table: pd.DataFrame, close: float = 0.05) -> pd.DataFrame:
    """One row a system: shortest and longest answer (tokens a query), the rank correlation of length and value with
    its p, and what that says. table: of `length_table`. Where the middle nine tenths of the lengths differ by less
    than `close` of their median, a correlation is none of thinking longer. None is there where all lengths or all
    values are the same."""
    import numpy as np
    import pandas as pd
    from scipy import stats

    rows = []
    for name, part in table.groupby("system", sort=False):
        tokens, values = part["tokens"].to_numpy(dtype=float), part["value"].to_numpy(dtype=float)
        low, middle, high = np.quantile(tokens, [0.05, 0.5, 0.95])
        row = {"system": name, "shortest": int(tokens.min()), "longest": int(tokens.max()), "rank correlation": ""}
        if tokens.min() == tokens.max() or values.min() == values.max():
            alike = "lengths" if tokens.min() == tokens.max() else "values"
            rows.append({**row, "p": "", "says": f"all {alike} are the same: no answer here"})
            continue
        found = stats.spearmanr(tokens, values)
        p = float(found.pvalue)
        says = "cannot be told from none" if p > 0.05 else "longer, better" if found.statistic > 0 else "longer, worse"
        if high - low < close * max(middle, 1.0):
            says += f"; lengths differ by less than {close:.0%} (middle nine tenths): this is not thinking longer"
        shown = "< 0.0001" if p < 0.00005 else f"{p:.4f}"
        rows.append({**row, "rank correlation": f"{found.statistic:+.2f}", "p": shown, "says": says})
    return pd.DataFrame(rows).set_index("system")


def pool_holds(rankings: Mapping[str, Sequence[str]], qrels: Qrels) -> str:
    """A sentence: how much of what is relevant the candidates hold. rankings: query -> candidates' document ids."""
    shares = []
    for qid, docids in rankings.items():
        relevant = {docid for docid, grade in qrels.get(qid, {}).items() if grade > 0}
        if relevant:
            shares.append(len(relevant & set(docids)) / len(relevant))
    if not shares:
        raise InputError("no query has a relevant passage", remedy="give judged queries")
    none = sum(share == 0 for share in shares) / len(shares)
    return (
        f"the candidates hold {sum(shares) / len(shares):.1%} of the relevant passages (mean over {len(shares)} "
        f"queries); {none:.1%} of the queries have none among them"
    )


def climb_table(completions: pd.DataFrame, part: float = 0.2, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Did the rewards climb? Mean of the groups in the first and in the last `part` of the steps, and the difference
    with a 95% bootstrap interval over groups: a row for the reward and for each view (of valid rollouts).

    completions: of rrlib.training.completions.read_completions. With few steps the interval is wide, and says so.
    """
    import numpy as np
    import pandas as pd

    means = group_means(completions).reset_index()
    steps = sorted(means["step"].unique())
    many = max(1, round(part * len(steps)))
    first, last = means[means["step"].isin(steps[:many])], means[means["step"].isin(steps[-many:])]
    rng = np.random.default_rng(seed)
    rows = []
    for name in ("reward", *VIEWS):
        before, after = (half[name].dropna().to_numpy(dtype=float) for half in (first, last))
        if not len(before) or not len(after):
            continue
        drawn = [rng.choice(after, len(after)).mean() - rng.choice(before, len(before)).mean() for _ in range(draws)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        climbed = "climbed" if low > 0 else "fell" if high < 0 else "cannot be told"
        gap = f"{after.mean() - before.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        row = {"what": name, "first steps": round(before.mean(), 3), "last steps": round(after.mean(), 3)}
        rows.append({**row, "difference": gap, "it": climbed, "groups": f"{len(before)} and {len(after)}"})
    return pd.DataFrame(rows).set_index("what")


def ablation_view(result: pd.DataFrame) -> pd.DataFrame:
    """The table of the ablations as it is shown: a difference and its interval in one column, p as it is said.

    result: of rrlib.studies.report.table. Graded values name their seeds where they are of fewer than the row's.
    """
    table = result.rename(columns={"p (Holm)": "p_holm"}).assign(difference_low=result["low"])
    rows = table.assign(difference_high=result["high"]).to_dict("records")
    view = result[["nDCG@10", "seeds", "valid", "tokens"]].round({"nDCG@10": 3, "valid": 3, "tokens": 0})
    view["difference"] = [in_words(row) for row in rows]
    view["p (Holm)"] = [p_in_words(row) for row in rows]
    return view.assign(
        **{"p (seeds)": result["p (seeds)"], "paper": result["paper"], "graded": result["graded in words"]}
    )


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
