"""Shards -> one folder, with a proof that nothing is missing.

Every shard has gone through the whole source and left, in its summary, how many queries the source has and a digest of
all their ids, beside those of its own part. So the merge can say: all shards saw the same source, were run with the
same settings, share no query, and together hold every one. What comes out equals a run without shards, byte for byte.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rrlib.disk import differences, read_json
from rrlib.errors import InputError, MissingFileError
from rrlib.formats import read_jsonl
from rrlib.synthesis.results import Results, SynthesisResult, Tally, read_summary, write_summary
from rrlib.synthesis.sources.items import Shard, qid_hash
from rrlib.synthesis.teacher.store import StoreLock

_SUMS = ("select", "hard", "rank")


def merge(folders: Sequence[str | Path], out_dir: str | Path, allow_failed: bool = False) -> SynthesisResult:
    """Join the folders of all shards of a synthesis.

    allow_failed: also where some calls failed for good in a shard (its run, started again, would ask them again).
    Raises InputError that names the shard for: a missing or doubled shard, other settings, another source, an
    unfinished shard, queries that are missing or there twice.
    """
    roots = [Path(folder) for folder in folders]
    summaries = [_summary(root) for root in roots]
    _same_settings(roots)
    shards = _all_there(roots, summaries)
    _same_source(roots, summaries, allow_failed)
    first = summaries[0]["source"]
    out, tally, digest = Path(out_dir), Tally(), 0
    if out.resolve() in {root.resolve() for root in roots}:
        raise InputError("the result would overwrite a shard", path=out, remedy="name another folder")
    with StoreLock(out), Results(out) as results:
        rows = heapq.merge(*(_rows(root, shard) for root, shard in zip(roots, shards, strict=True)), key=_position)
        for expected, (fate, example) in enumerate(rows):
            if fate["position"] != expected:
                what = "is missing" if fate["position"] > expected else "is there twice"
                raise InputError(
                    f"query number {expected} of the source {what}", path=out, remedy="run the shards again"
                )
            digest ^= qid_hash(fate["qid"])
            tally.add(fate)
            results.write(fate, example)
        if (tally.queries, f"{digest:016x}") != (first["queries"], first["digest"]):
            raise InputError(
                f"{tally.queries} queries, the source has {first['queries']}", path=out, remedy="run the shards again"
            )
    summary = _joined(summaries) | tally.summary()
    write_summary(out, summary)
    return SynthesisResult(results.paths[0], results.paths[1], summary)


def _summary(root: Path) -> dict[str, Any]:
    try:
        summary = read_summary(root)
        summary["source"]["digest"], summary["shard"], summary["alpha"], summary["k"], summary["account"]["calls"]
        return summary
    except OSError:
        raise MissingFileError(
            "no summary.json or account.json: this shard is not finished", path=root, remedy="run it to its end"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError("summary.json is not that of a shard", path=root, remedy="run the shard again") from None


def _same_settings(roots: Sequence[Path]) -> None:
    headers = [read_json(root / "store.json") for root in roots]
    for root, header in zip(roots, headers, strict=True):
        if not isinstance(header, dict):
            raise InputError("no store.json here", path=root, remedy="name the output folder of a shard")
        changed = [d for d in differences(headers[0], header) if d.key != "shard"]
        if changed:
            listed = "; ".join(f"{d.key}: {d.current!r} here, {d.previous!r} in {roots[0]}" for d in changed)
            raise InputError(f"made with other settings ({listed})", path=root, remedy="run it with the same settings")


def _same_source(roots: Sequence[Path], summaries: Sequence[dict[str, Any]], allow_failed: bool) -> None:
    first = summaries[0]["source"]
    for root, summary in zip(roots, summaries, strict=True):
        if (summary["source"]["queries"], summary["source"]["digest"]) != (first["queries"], first["digest"]):
            raise InputError(
                f"the source had {summary['source']['queries']} queries here, {first['queries']} in {roots[0]}, "
                "or other ones",
                path=root,
                remedy="run this shard again on the same source",
            )
        for key in ("alpha", "k"):
            if summary[key] != summaries[0][key]:
                raise InputError(f"{key} is {summary[key]} here", path=root, remedy=f"finish all shards with one {key}")
        failed = summary["dropped"].get("call_failed", 0)
        if failed and not allow_failed:
            raise InputError(
                f"{failed} queries are without an answer",
                path=root,
                remedy="run this shard again, or allow failed ones",
            )


def _all_there(roots: Sequence[Path], summaries: Sequence[dict[str, Any]]) -> list[Shard]:
    shards = [Shard.parse(summary["shard"]) for summary in summaries]
    count = shards[0].count
    seen: dict[int, Path] = {}
    for root, shard in zip(roots, shards, strict=True):
        if shard.count != count:
            raise InputError(f"shard {shard} among shards of {count}", path=root, remedy="merge shards of one division")
        if shard.number in seen:
            raise InputError(f"shard {shard} is also {seen[shard.number]}", path=root, remedy="name each shard once")
        seen[shard.number] = root
    missing = [str(Shard(n, count)) for n in range(1, count + 1) if n not in seen]
    if missing:
        raise InputError(f"missing: shard {', '.join(missing)}", remedy="run them, and name their folders too")
    return shards


def _rows(root: Path, shard: Shard) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """(fate, example or None) of every query of a shard, in the order of the source."""
    examples = (row for _, row in read_jsonl(root / "examples.jsonl"))
    for line, fate in read_jsonl(root / "fates.jsonl"):
        if fate["qid"] not in shard:
            raise InputError(
                f"query {fate['qid']!r} does not belong to shard {shard}", path=root / "fates.jsonl", line=line
            )
        example = next(examples, None) if fate["fate"] == "kept" else None
        if fate["fate"] == "kept" and (example is None or example["qid"] != fate["qid"]):
            raise InputError(
                f"the example of query {fate['qid']!r} is missing", path=root / "examples.jsonl", remedy="run it again"
            )
        yield fate, example


def _position(row: tuple[dict[str, Any], Any]) -> int:
    return int(row[0]["position"])


def _joined(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of the whole: settings of the first, accounts and answers added up."""
    first = summaries[0]

    def total(name: str, key: str) -> Any:
        values = [summary[name].get(key) for summary in summaries]
        return None if any(value is None for value in values) else round(sum(values), 6)

    return first | {
        "shard": "1/1",
        "shards": len(summaries),
        "answers": {step: total("answers", step) for step in _SUMS},
        "account": {key: total("account", key) for key in first["account"]},
        "this_run": {},
        "stored_before": sum(summary["stored_before"] for summary in summaries),
        "torn_lines": sum(summary["torn_lines"] for summary in summaries),
        "source": {**first["source"], "own_digest": first["source"]["digest"]},
    }
