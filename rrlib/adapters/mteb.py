"""MTEB: a search model for its reranking tasks (also retrieval tasks made into such by `convert_to_reranking`)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rrlib.adapters.shared import PlaceRanker, missing, question
from rrlib.disk import hash_text
from rrlib.errors import InputError
from rrlib.formats.fields import few
from rrlib.records import Tally
from rrlib.rerank import Reranker
from rrlib.types import Passage

try:
    from mteb.models.model_meta import ModelMeta
except ModuleNotFoundError as error:
    raise missing(error, "mteb", "mteb") from error


class RerankSearch:
    """Ranks what a task lists as each query's candidates (MTEB's SearchProtocol). All queries are worked on together.

    name: ORGANISATION/MODEL, as in MTEB's results; by default rrlib/ and the last part of the model's own. Its revision
    is a hash of all settings of the reranker, so that results of others are not taken from MTEB's cache. A passage's
    title is shown before its text, an instruction behind its query. tallies: (task, subset, split) -> what the windows
    were (rrlib.records.Tally); those that could not be read keep their order, are counted there, and warned of.
    """

    def __init__(self, reranker: Reranker, name: str = "") -> None:
        self.reranker = reranker
        self.tallies: dict[tuple[str, str, str], Tally] = {}
        settings = reranker.settings()
        if reranker.with_first_stage:  # a log serves both, results do not
            settings |= {"with_first_stage": True}
        own = re.sub(r"[^\w.-]+", "-", Path(str(settings["model"])).name) or "reranker"
        revision = hash_text(json.dumps(settings, sort_keys=True, default=str))[:12]
        self.mteb_model_meta = ModelMeta.create_empty({"name": name or f"rrlib/{own}", "revision": revision})
        self._corpus: Any = []
        self._row_of: dict[str, int] = {}

    def index(self, corpus: Any, **task: Any) -> None:
        """Note where each document stands. Rows have `id`, `text` and perhaps `title`; their texts are read when they
        are candidates."""
        self._corpus = corpus
        self._row_of = {str(docid): row for row, docid in enumerate(corpus["id"])}

    def _passage(self, docid: str) -> Passage:
        row = self._corpus[self._row_of[docid]]
        return Passage(docid, row["text"] or "", row.get("title") or "")

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **task: Any,
    ) -> dict[str, dict[str, float]]:
        """query id -> document id -> n - rank + 1, of the best top_k. Raises InputError for a task without candidates,
        or with one that is not in its corpus, and EngineError where the model ranked nothing."""
        if top_ranked is None:
            remedy = "run a first stage with prediction_folder=FOLDER, then task.convert_to_reranking(FOLDER)"
            raise InputError(f"the task {task_metadata.name} lists no candidates", remedy=remedy)
        texts = {str(row["id"]): _text(row) for row in queries}
        listed = {qid: list(dict.fromkeys(map(str, top_ranked.get(qid, ())))) for qid in texts}
        unknown = [docid for docids in listed.values() for docid in docids if docid not in self._row_of]
        if unknown:
            raise InputError(f"candidates of {task_metadata.name} are not in its corpus: {few(unknown)}")
        asked = [qid for qid in texts if listed[qid]]
        questions = [question(texts[qid], [self._passage(docid) for docid in listed[qid]], qid) for qid in asked]
        ranker = PlaceRanker(self.reranker)  # whose tally is this task's own
        self.tallies[task_metadata.name, hf_subset, hf_split] = ranker.tally
        results: dict[str, dict[str, float]] = {qid: {} for qid in texts}
        for qid, places in zip(asked, ranker.rank_all(questions), strict=True):
            best = [listed[qid][place.index] for place in places][:top_k]
            results[qid] = {docid: float(len(places) - rank) for rank, docid in enumerate(best)}
        return results


def _text(row: Mapping[str, Any]) -> Any:
    """A query's text, and the instruction that some tasks give with it."""
    return f"{row['text']} {row['instruction']}" if row.get("instruction") else row["text"]
