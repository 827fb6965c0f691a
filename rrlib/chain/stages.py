"""What the notebooks of the chain call between the big pieces: references turned into things, and small tables.

A corpus is a folder or a `module:callable` that writes one; a teacher is a `module:callable` or the base URL of an
OpenAI-compatible server. Nothing here knows which corpus, teacher or checkpoint it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrlib.chain.manifest import Stage
from rrlib.disk import read_json, write_json
from rrlib.engines.base import Decoding
from rrlib.errors import InputError
from rrlib.formats import Collection, read_collection, read_jsonl
from rrlib.records import WindowRecord
from rrlib.resources import load_callable, resolve
from rrlib.responses import VERDICTS, audit, parse_strict
from rrlib.types import Passage, RankingExample

if TYPE_CHECKING:
    import pandas as pd

_POINTER = "collection.json"


def open_corpus(stage: Stage, ref: str, options: Mapping[str, Any] | None = None, **sizes: Any) -> Path:
    """The collection folder that `ref` stands for; later stages find it by `collection_of`.

    ref: a folder, `package:module/folder`, or `module:callable`, called as callable(folder, seed=..., **sizes,
    **options) to write a folder inside the stage. Raises InputError when it cannot be had.
    """
    if ":" in ref and not ref.startswith("package:"):
        folder = stage.path("collection")
        if not (folder / "SOURCE.json").is_file():
            load_callable(ref)(folder, seed=stage.parameters["seed"], **sizes, **dict(options or {}))
        where = "collection"
    else:
        folder = Path(resolve(ref)).resolve()
        where = str(folder)
    write_json(stage.path(_POINTER), {"reference": ref, "folder": where})
    return folder


def collection_of(stage: Stage, split: str) -> Collection:
    """One split of the collection that 01_synthesis opened, read from a later stage."""
    pointer = read_json(stage.input("01_synthesis", _POINTER))
    return read_collection(stage.run_dir / "01_synthesis" / pointer["folder"], split)


def open_teacher(
    ref: str, folder: Path, *, seed: int, model: str = "", options: Mapping[str, Any] | None = None
) -> Any:
    """The chat client that `ref` stands for: an OpenAI-compatible base URL (with `model`), or `module:callable`.

    A callable is called as callable(folder, seed=seed, **options), folder being the collection's.
    """
    if ref.startswith(("http://", "https://")):
        from rrlib.engines.client import OpenAIClient

        if not model:
            raise InputError("a teacher behind a base URL needs a model", remedy="set teacher_model in the profile")
        return OpenAIClient(ref, model, **dict(options or {}))
    return load_callable(ref)(folder, seed=seed, **dict(options or {}))


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
    from rrlib.formats import read_examples

    kept = [float(e.meta["consistency"]) for e in read_examples(result.examples) if "consistency" in e.meta]
    return kept + [float(row["consistency"]) for _, row in read_jsonl(result.dropped) if "consistency" in row]


def kept_and_dropped(result: Any) -> pd.DataFrame:
    """One line a fate: kept, or dropped with its reason; with its share of the queries."""
    import pandas as pd

    fates = {"kept": result.summary["examples"], **result.summary["dropped"]}
    total = max(1, result.summary["queries"])
    rows = [{"fate": fate, "queries": n, "share": round(n / total, 3)} for fate, n in fates.items()]
    return pd.DataFrame(rows).set_index("fate")


def audition(
    model: str | Path,
    collection: Collection,
    *,
    window: int,
    style: str = "reasonrank",
    max_new_tokens: int = 512,
    limit: int | None = None,
    k: int = 10,
    engine: str = "transformers",
    engine_options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Let a checkpoint rank one window of each query: one row a query, greedy, judged by the qrels.

    Columns: qid, query, level (strict: valid, bad_list, bad_format), verdict (lenient), ndcg and recall at k over the
    window's passages, tokens, text (the response), order (docids), passages.
    """
    import pandas as pd

    from rrlib.metrics import ndcg, recall
    from rrlib.prompts import get_style
    from rrlib.rerank import Reranker

    candidates = [c for c in collection.candidates(window) if len(c.passages) > 1][:limit]
    reranker = Reranker(
        str(model),
        engine,
        style=style,
        strategy="full_list",
        depth=window,
        decoding=Decoding(max_new_tokens=max_new_tokens),
        **dict(engine_options or {}),
    )
    records = {record.qid: record for record in reranker.rerank(candidates).records}
    reranker.engine.close()
    think = get_style(style).think
    rows = []
    for item in candidates:
        record = records[item.query.qid]
        grades = collection.qrels.get(item.query.qid, {})
        labels = [max(grades.get(p.docid, 0), 0) for p in item.passages]
        order = list(record.order)
        rows.append(
            {
                "qid": item.query.qid,
                "query": item.query.text,
                "level": parse_strict(record.text or "", len(labels), think=think).level,
                "verdict": record.verdict,
                "ndcg": float(ndcg(order, labels, k)),  # type: ignore[arg-type]
                "recall": float(recall(order, labels, k)),  # type: ignore[arg-type]
                "tokens": record.tokens_out,
                "text": record.text or "",
                "order": [item.passages[i].docid for i in order],
                "passages": item.passages,
            }
        )
    return pd.DataFrame(rows)


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


def comparison(rows: Sequence[Any], metric: str) -> pd.DataFrame:
    """Systems of one metric, as rrlib.evaluation.tables.compare gives them, with difference and p against the first."""
    import pandas as pd

    table = []
    for row in (r for r in rows if r.metric == metric):
        gap = row.difference
        table.append(
            {
                "system": row.system,
                "mean": f"{row.mean:.3f}",
                "95% interval": f"[{row.low:.3f}, {row.high:.3f}]",
                "difference": "" if gap is None else f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]",
                "p": "" if row.p is None else f"{row.p:.4f}",
                "p (Holm)": "" if row.p_holm is None else f"{row.p_holm:.4f}",
                "n": row.n,
            }
        )
    return pd.DataFrame(table).set_index("system")


def one_group(completions: pd.DataFrame, size: int) -> pd.DataFrame:
    """The rollouts of the last step's prompt with the most different rewards (then: the widest spread): a row each.

    completions: of rrlib.training.grpo.read_completions. size: rollouts of a group.
    """
    last = completions[completions["step"] == completions["step"].max()]
    groups = [group for _, group in last.groupby("prompt", sort=False) if len(group) >= size]
    if not groups:
        raise InputError(f"no prompt has {size} rollouts", remedy="give the number of rollouts of the training")
    reward = next(c for c in last.columns if c.endswith("reward"))
    best = max(groups, key=lambda group: (group[reward].round(3).nunique(), float(group[reward].std())))
    return best.rename(columns={reward: "reward"}).head(size).reset_index(drop=True)


def check_exercise(function: Callable[..., Any], cases: Sequence[tuple[tuple[Any, ...], float]]) -> str:
    """Try an exercise's function on cases ((arguments), expected number); a sentence says how it went. Never raises."""
    for arguments, expected in cases:
        call = f"{function.__name__}({', '.join(map(repr, arguments))})"
        try:
            given = function(*arguments)
        except Exception as error:
            return f"not yet: {call} raises {type(error).__name__}: {error}"
        if given is None:
            return f"not solved yet: {call} gives None, {expected:.4f} is wanted"
        try:
            near = abs(float(given) - expected) <= 1e-6
        except (TypeError, ValueError):
            return f"not yet: {call} gives {given!r}, a number is wanted"
        if not near:
            return f"not yet: {call} gives {float(given):.4f}, {expected:.4f} is wanted"
    return f"right: all {len(cases)} cases hold"


def examples_for(stage: Stage, limit: int | None = None) -> list[RankingExample]:
    """The training examples that 01_synthesis left, the first `limit` of them (0 or None = all)."""
    from rrlib.formats import read_examples

    return read_examples(stage.input("01_synthesis", "teacher", "examples.jsonl"))[: limit or None]
