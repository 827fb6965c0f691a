"""What an experiment keeps on disk: windows, rankings and what they depend on, so that nothing is computed twice.

    <output>/<system>/windows.jsonl  <benchmark>.trec  outcome.json

`outcome.json` is written last, and not where a call failed: the same experiment asks those windows again. A system
whose settings and candidates are those of the file is read back; with others, its folder must be begun anew (`fresh`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrlib.disk import hash_file, hash_text, read_json, write_json
from rrlib.errors import MissingFileError
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.systems import Outcome, Peer, System
from rrlib.formats import read_run, write_jsonl, write_scored_run
from rrlib.records import read_records
from rrlib.resources import weights_of


class OutcomeStore:
    """Outcomes by system; without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None, fresh: bool = False) -> None:
        self.folder = None if folder is None else Path(folder)
        self.fresh = fresh
        self._texts: dict[tuple[str, str, str], str] = {}  # read once for all systems

    def rank(
        self, name: str, system: System, data: Sequence[BenchmarkData], peer: Peer, suffix: str = ""
    ) -> list[Outcome]:
        """The system's outcomes, from the folder where they are there. suffix: of the files, for other queries."""
        settings = getattr(system, "settings", None)
        if self.folder is None or settings is None:
            return system.rank(data, None, peer)
        folder = self.folder / name
        stem = suffix.replace("/", "_")
        stored_at = folder / f"outcome{stem}.json"
        if self.fresh and not stem and folder.is_dir():
            shutil.rmtree(folder)
        given = settings()
        digests = {part.name: digest(part) for part in data}
        texts = {part.name: self._texts_of(part) for part in data}
        key = {"settings": _plain(_by_content(given)), "benchmarks": digests, "texts": texts}
        stored = read_json(stored_at)
        if stored is not None and stored["key"] in (key, *_older(given, key)):
            outcomes = [self._read(folder, stem, part, stored["outcomes"][part.name]) for part in data]
            if not _failed(outcomes, given):
                return outcomes
        log = None if given.get("engine") == "replay" else folder / f"windows{stem}.jsonl"  # what is recorded is there
        outcomes = system.rank(data, log, peer)
        for part, outcome in zip(data, outcomes, strict=True):
            base = f"{part.name.replace('/', '_')}{stem}"
            write_scored_run(folder / f"{base}.trec", outcome.run, name.replace(" ", "-"))
            # Window records without their settings, which stand in outcome.json once.
            bare = (replace(record, settings=None).to_json() for record in outcome.records)
            write_jsonl(folder / f"{base}.windows.jsonl", bare)
        info = {part.name: {"seconds": o.seconds, "info": o.info} for part, o in zip(data, outcomes, strict=True)}
        if _failed(outcomes, given):
            stored_at.unlink(missing_ok=True)
        else:
            write_json(stored_at, {"key": key, "outcomes": info})
        return outcomes

    def _texts_of(self, data: BenchmarkData) -> str:
        name = (data.name, data.split, digest(data))
        if name not in self._texts:
            self._texts[name] = _texts(data)
        return self._texts[name]

    def _read(self, folder: Path, stem: str, data: BenchmarkData, stored: dict[str, Any]) -> Outcome:
        base = f"{data.name.replace('/', '_')}{stem}"
        records = read_records(folder / f"{base}.windows.jsonl")
        return Outcome(read_run(folder / f"{base}.trec"), records, stored["seconds"], stored["info"])


def _failed(outcomes: Sequence[Outcome], settings: Mapping[str, Any]) -> bool:
    """Whether a call failed that can be made again: answers that were recorded stay what they are."""
    asks = settings.get("engine") != "replay"
    return asks and any(record.error is not None for outcome in outcomes for record in outcome.records)


def _by_content(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what stands in files in place of where they lie: weights, and recorded answers."""
    out = dict(settings)
    if isinstance(model := out.get("model"), str) and (weights := weights_of(model)) is not None:
        out["model"] = f"a folder with {weights}"
    options = out.get("engine_options") or {}
    if isinstance(answers := options.get("responses"), str | Path) and Path(answers).is_file():
        out["engine_options"] = {**options, "responses": f"a file with {hash_file(Path(answers))}"}
    return out


def _older(settings: Mapping[str, Any], key: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The keys under which the same was kept before: without texts, and recorded answers and packages by name alone."""
    named = dict(settings)
    if isinstance(model := named.get("model"), str) and Path(model).exists():
        named["model"] = f"a folder with {weights_of(model)}"
    older = {**key, "settings": _plain(named)}
    return [{name: value for name, value in each.items() if name != "texts"} for each in (key, older)] + [older]


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _texts(data: BenchmarkData) -> str:
    """Of titles and texts of the candidates. Recorded answers need no texts: without a corpus there is nothing."""
    docids = {hit.docid for hits in (data.run or {}).values() for hit in hits}
    try:
        corpus = data.passages(docids)
    except MissingFileError:
        return ""
    shown = ([docid, corpus[docid].title, corpus[docid].text] for docid in sorted(docids) if docid in corpus)
    return hash_text(*map(json.dumps, shown))


def digest(data: BenchmarkData) -> str:
    """Of the queries and the candidates, their order, and what is cut from them."""
    digest = hashlib.sha256(repr((data.spec, data.split)).encode())
    for qid in data.qrels:
        text = data.queries[qid].text if qid in data.queries else ""
        hits = (data.run or {}).get(qid, [])
        digest.update(json.dumps([qid, text, [hit.docid for hit in hits]]).encode())
    return digest.hexdigest()[:16]
