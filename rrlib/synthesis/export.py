"""Examples out of the house: JSON lines, parquet, the released format, and a data card that says what it is.

`import_examples` is the way in: foreign data becomes the same files that a run of the teacher leaves, so the stages
behind do not ask where examples come from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rrlib.disk import check_apart
from rrlib.errors import InputError
from rrlib.formats import example_from_json, example_to_json, read_jsonl, write_jsonl, write_lines
from rrlib.prompts import PromptBuilder, format_ranking, format_response
from rrlib.synthesis.filter import ALPHA, check_alpha, check_cut, keeps, self_consistency
from rrlib.synthesis.results import RESULTS, SUMMARY, Results, SynthesisResult, Tally, write_summary
from rrlib.synthesis.sources.released import ALL, SOURCE, read_released
from rrlib.types import RankingExample

FORMATS = ("jsonl", "parquet", "released")
RELEASED = (ALL, "sft.json", "rl.jsonl")
"""Files of the released form, beside the folders of texts."""


def stream_examples(path: str | Path) -> Iterator[RankingExample]:
    """The examples of a JSON-lines file, one in memory at a time."""
    for line, row in read_jsonl(path):
        yield example_from_json(row, path, line)


def examples_of(result: SynthesisResult) -> list[RankingExample]:
    """The kept examples of a run or an import, all in memory. Raises InputError when none was kept."""
    examples = list(stream_examples(result.examples))
    if not examples:
        raise InputError(
            "no example was kept", path=result.examples, remedy="lower alpha, or see dropped.jsonl for why"
        )
    return examples


def _flat(example: RankingExample) -> dict[str, Any]:
    """A row for a table: `meta` is a JSON string, as its keys differ by row."""
    row = example_to_json(example)
    return {**row, "meta": json.dumps(row["meta"], sort_keys=True)}


def export(examples: Iterable[RankingExample], target: str | Path, form: str = "jsonl", **options: Any) -> Path:
    """Write examples as `jsonl` or `parquet` (a file), or as `released` (a folder; see write_released)."""
    if form not in FORMATS:
        raise InputError(f"unknown format {form!r}", remedy=f"one of {', '.join(FORMATS)}")
    if form == "released":
        return write_released(examples, target, **options)
    if form == "jsonl":
        return write_jsonl(target, (example_to_json(example) for example in examples))
    import pyarrow
    import pyarrow.parquet as pq

    path, writer, rows = Path(target), None, iter(examples)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    while batch := [_flat(example) for _, example in zip(range(512), rows, strict=False)]:
        table = pyarrow.Table.from_pylist(batch, schema=writer.schema if writer is not None else None)
        writer = writer or pq.ParquetWriter(part, table.schema)
        writer.write_table(table)
    if writer is None:
        raise InputError("there are no examples", remedy="check the stage that wrote them")
    writer.close()
    return part.replace(path)


def write_released(examples: Iterable[RankingExample], folder: str | Path, style: str = "reasonrank") -> Path:
    """The authors' layout: training_data_all.jsonl with id_query/ and id_doc/, and beside it sft.json and rl.jsonl.

    Every row also says whose it is: teacher, teacher_kind, data_kind and licence, `unknown` where the example does not.
    style: of the prompts in sft.json and rl.jsonl. Raises InputError when one document id has two texts in a domain.
    """
    root, builder = Path(folder), PromptBuilder(None, style)
    queries: dict[str, dict[str, str]] = {}
    docs: dict[str, dict[str, str]] = {}
    all_rows, sft, rl = [], [], []
    for example in examples:
        domain = str(example.meta.get("domain") or "unknown")
        ids = [p.docid for p in example.passages]
        queries.setdefault(domain, {})[example.query.qid] = example.query.text
        for passage in example.passages:
            text = f"{passage.title}\n{passage.text}" if passage.title else passage.text
            if docs.setdefault(domain, {}).setdefault(passage.docid, text) != text:
                raise InputError(
                    f"document {passage.docid!r} has two texts in {domain!r}", remedy="give documents ids of their own"
                )
        lists = {
            "initial_list": ids,
            "final_list": [ids[i] for i in example.gold],
            "relevant_docids": [i for i, label in zip(ids, example.relevance, strict=True) if label > 0],
        }
        system, user = builder.messages(example.query.text, example.passages)
        # A reader of released data takes it for the authors' own where a row does not say what it is.
        source = {key: str(example.meta.get(key) or "unknown") for key in SOURCE}
        row = {"dataset": domain, "qid": example.query.qid, **lists, **source}
        all_rows.append({**row, "reasoning": example.reasoning})
        answer = format_response(example.reasoning, example.gold, style)
        sft.append(
            {"instruction": user["content"], "input": "", "output": answer, "system": system["content"], **source}
        )
        truth = {"style": "rule", "ground_truth": format_ranking(example.gold)}
        rl.append({"data_source": domain, "prompt": [system, user], "reward_model": truth, **row})
    if not all_rows:
        raise InputError("there are no examples", remedy="check the stage that wrote them")
    for name, texts in (("id_query", queries), ("id_doc", docs)):
        for domain, by_id in texts.items():
            write_lines(root / name / f"{domain}.json", [json.dumps(by_id, ensure_ascii=True, indent=0)])
    write_lines(root / "sft.json", [json.dumps(sft, ensure_ascii=True, indent=1)])
    write_jsonl(root / "rl.jsonl", rl)
    write_jsonl(root / ALL, all_rows)
    return root


def import_examples(
    path: str | Path, out_dir: str | Path, *, alpha: float = ALPHA, k: int = 10, limit: int | None = None
) -> SynthesisResult:
    """Released data (or our own, from elsewhere) into the files that a run of the teacher leaves; nothing is asked.

    Lists with pointwise labels pass the filter with alpha; those without pass as they are. limit: at most so many.
    Raises InputError for data in no known format, where nothing can be used, where the results would take the place of
    the data, and for a folder in which a teacher was asked.
    """
    check_alpha(alpha)
    check_cut(k)
    out, notes, tally = Path(out_dir), list[str](), Tally()
    made = {f"OUTPUT/{name}": out / name for name in (*RESULTS, *SUMMARY)}
    check_apart({"SOURCE": Path(path)}, made, outside=True)
    if any((out / name).exists() for name in ("store.json", "calls.jsonl")):
        raise InputError("this folder holds a teacher's answers", path=out, remedy="name a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    kinds: Counter[str] = Counter()
    with Results(out) as results:
        for position, example in enumerate(read_released(path, notes)):
            if limit is not None and position >= limit:
                break
            meta = dict(example.meta)
            fate = {
                "position": position,
                "qid": example.query.qid,
                "domain": str(meta.get("domain") or ""),
                "recipe": str(meta.get("recipe") or ""),
                "licence": str(meta.get("licence") or "unknown"),
                "fate": "kept",
            }
            if any(example.relevance):
                fate["consistency"] = meta["consistency"] = self_consistency(example.gold, example.relevance, k)
                fate["fate"] = "kept" if keeps(meta["consistency"], alpha) else "below_alpha"
            kinds[str(meta.get("data_kind") or "real")] += 1
            tally.add(fate)
            results.write(fate, example_to_json(example) | {"meta": meta} if fate["fate"] == "kept" else None)
        if not tally.queries:
            raise InputError("no usable row", path=path, remedy="; ".join(notes) or "check the file")
    kind = "simulated" if kinds["simulated"] else "synthetic" if kinds["synthetic"] else "real"
    summary = {
        **tally.summary(),
        "alpha": alpha,
        "k": k,
        "data_kind": kind,
        "imported_from": Path(path).name,
        "left_out": notes,
        "answers": {},
        "this_run": {},
        "account": {},
        "collection": Path(path).name,
    }
    write_summary(out, summary)
    return SynthesisResult(results.paths[0], results.paths[1], summary)


def data_card(out_dir: str | Path, name: str = "") -> str:
    """A data card (Markdown) of a folder with examples.jsonl and summary.json: what, how many, by whom, under what."""
    out = Path(out_dir)
    try:
        summary: Mapping[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError("no summary.json here", path=out, remedy="name the output folder of a synthesis") from None
    teachers: Counter[str] = Counter()
    lengths, values, positives = [], [], []
    for example in stream_examples(out / "examples.jsonl"):
        teachers[f"{example.meta.get('teacher', 'unknown')} ({example.meta.get('teacher_kind', 'unknown')})"] += 1
        lengths.append(len(example.passages))
        positives.append(sum(label > 0 for label in example.relevance))
        if "consistency" in example.meta:
            values.append(float(example.meta["consistency"]))
    dropped = sum(summary["dropped"].values())

    def table(title: str, counts: Mapping[str, int]) -> list[str]:
        return [f"| {title} | examples |", "|---|---|", *(f"| {k or '?'} | {n:,} |" for k, n in counts.items()), ""]

    mean = sum(values) / len(values) if values else float("nan")
    n = max(1, len(lengths))
    return "\n".join(
        [
            f"# {name or summary.get('collection') or out.name}: listwise ranking examples with reasoning",
            "",
            f"**Data kind: {summary['data_kind']}.** {len(lengths):,} examples of {summary['queries']:,} queries; "
            f"{dropped:,} queries were dropped. Each has a query, {min(lengths, default=0)} to "
            f"{max(lengths, default=0)} passages, a binary label a passage (mean {sum(positives) / n:.1f} relevant), "
            "a reasoning chain and an order of the whole list.",
            "",
            *table("domain", summary["by_domain"]),
            *table("licence of the texts", summary["by_licence"]),
            *table("teacher", teachers),
            *table("dropped because", summary["dropped"] or {"(nothing was dropped)": 0}),
            f"Made by rrlib: prompt version {summary.get('prompt_version', '?')}, decoding "
            f"{json.dumps(summary.get('decoding', {}))}, seed {summary.get('seed', '?')}. Self-consistency "
            f"(NDCG@{summary.get('k', '?')} of the order under the labels): mean {mean:.3f}, "
            f"threshold {summary['alpha']:g}.",
            "",
            "The order and the chain were written by the teacher without the gold answer, the labels with it in view. "
            "A label is a model's judgement, not a person's, unless the domain's labels come from qrels. Where the "
            "teacher is human, all of it is people's, made with the answer in view.",
        ]
    )
