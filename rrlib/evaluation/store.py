"""What an experiment keeps on disk: windows, rankings and what they depend on, so that nothing is computed twice.

    <output>/<system>/windows.jsonl  <benchmark>.trec  outcome.json

`outcome.json` is written last. A system whose settings and candidates are those of the file is read back; with others,
its folder must be begun anew (`fresh`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrlib.chain.manifest import read_json, write_json
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.systems import Outcome, Peer, System
from rrlib.formats import read_jsonl, read_run, write_scored_run
from rrlib.resources import model_hash


class OutcomeStore:
    """Outcomes by system; without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None, fresh: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.fresh = fresh

    def rank(
        self, name: str, system: System, data: Sequence[BenchmarkData], peer: Peer, suffix: str = ""
    ) -> list[Outcome]:
        """The system's outcomes, from the folder where they are there. suffix: of the files, for other queries."""
        settings = getattr(system, "settings", None)
        if self.folder is None or settings is None:
            return system.rank(data, None, peer)
        folder = self.folder / name
        stem = suffix.replace("/", "_")
        known = folder / f"outcome{stem}.json"
        if self.fresh and not stem and folder.is_dir():
            shutil.rmtree(folder)
        told = settings()
        if isinstance(told.get("model"), str) and Path(told["model"]).is_dir():
            told = {**told, "model": f"a folder with {model_hash(told['model'])}"}  # it may be moved
        key = {"settings": _plain(told), "benchmarks": {one.name: _digest(one) for one in data}}
        found = read_json(known)
        log = folder / f"windows{stem}.jsonl"
        if found is not None and found["key"] == key:
            return [self._read(folder, stem, one, found["outcomes"][one.name]) for one in data]
        outcomes = system.rank(data, log, peer)
        for one, outcome in zip(data, outcomes, strict=True):
            write_scored_run(folder / f"{one.name.replace('/', '_')}{stem}.trec", outcome.run, name.replace(" ", "-"))
            write_jsonl_records(folder / f"{one.name.replace('/', '_')}{stem}.windows.jsonl", outcome.records)
        kept = {one.name: {"seconds": o.seconds, "info": o.info} for one, o in zip(data, outcomes, strict=True)}
        write_json(known, {"key": key, "outcomes": kept})
        return outcomes

    def _read(self, folder: Path, stem: str, data: BenchmarkData, kept: dict[str, Any]) -> Outcome:
        name = data.name.replace("/", "_")
        run = read_run(folder / f"{name}{stem}.trec")
        records = [row for _, row in read_jsonl(folder / f"{name}{stem}.windows.jsonl")]
        return Outcome(run, records, kept["seconds"], kept["info"])


def write_jsonl_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Window records without their settings, which stand in outcome.json once."""
    from rrlib.formats import write_jsonl

    write_jsonl(path, ({k: v for k, v in record.items() if k != "settings"} for record in records))


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _digest(data: BenchmarkData) -> str:
    """Of the queries and the candidates, their order, and what is cut from them."""
    digest = hashlib.sha256(repr((data.spec, data.split)).encode())
    for qid in data.qrels:
        text = data.queries[qid].text if qid in data.queries else ""
        hits = (data.run or {}).get(qid, [])
        digest.update(json.dumps([qid, text, [hit.docid for hit in hits]]).encode())
    return digest.hexdigest()[:16]
