"""The door into MTEB: `mteb.evaluate` on tasks that are built in memory. Nothing is fetched."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import mteb
import pytest
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SearchProtocol
from mteb.models.model_meta import ModelMeta
from scripted_engine import BEST, TEXTS, by_gain

from rrlib.adapters.mteb import RerankSearch
from rrlib.adapters.shared import UnreadWarning
from rrlib.engines import Reply
from rrlib.errors import EngineError, InputError

IDS = [f"d{n}" for n in range(len(TEXTS))]
CORPUS = [{"id": docid, "text": text, "title": ""} for docid, text in zip(IDS, TEXTS, strict=True)]
QUERIES = [{"id": "q1", "text": "first"}, {"id": "q2", "text": "second"}]
QRELS = {"q1": {"d5": 1}, "q2": {"d7": 1, "d0": 0}}
LISTED = {"q1": IDS, "q2": IDS}


class Small(AbsTaskRetrieval):
    """A task of two queries and eight passages. given: what replaces a part of it."""

    metadata = TaskMetadata(
        name="SmallReranking", type="Reranking", description="A test.", reference=None, main_score="mrr_at_10",
        dataset={"path": "NA", "revision": "NA"}, category="t2t", eval_splits=["test"], eval_langs=["eng-Latn"],
        date=None, domains=None, task_subtypes=None, license=None, annotations_creators=None, dialect=None,
        sample_creation=None, bibtex_citation="", modalities=["text"],
    )  # fmt: skip

    def __init__(self, **given: Any) -> None:
        super().__init__()
        parts = {"corpus": CORPUS, "queries": QUERIES, "relevant_docs": QRELS, "top_ranked": LISTED, **given}
        rows = {name: Dataset.from_list(parts[name]) for name in ("corpus", "queries")}
        self.dataset = {"default": {"test": {**parts, **rows}}}  # type: ignore[typeddict-item]
        self.data_loaded = True


class FirstStage:
    """A search model that gives back the corpus in its order."""

    mteb_model_meta = ModelMeta.create_empty({"name": "first/stage", "revision": "1"})

    def index(self, corpus: Any, **task: Any) -> None:
        self.ids = list(corpus["id"])

    def search(self, queries: Any, *, top_k: int, **task: Any) -> dict[str, dict[str, float]]:
        return {qid: {docid: -float(n) for n, docid in enumerate(self.ids[:top_k])} for qid in queries["id"]}


def scores_of(model: Any, task: Any, **options: Any) -> dict[str, Any]:
    (result,) = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False, **options)
    return result.scores["test"][0]


def search(door: RerankSearch, task: Small, top_k: int = 100) -> dict[str, dict[str, float]]:
    split = task.dataset["default"]["test"]
    names = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}}
    door.index(split["corpus"], **names, num_proc=None)
    ranked = split["top_ranked"]
    return door.search(split["queries"], **names, top_k=top_k, top_ranked=ranked, num_proc=None)


def test_it_is_a_search_model_with_their_arguments() -> None:
    door = RerankSearch(by_gain())
    assert isinstance(door, SearchProtocol)
    for name in ("index", "search"):
        theirs = inspect.signature(getattr(SearchProtocol, name)).parameters
        ours = list(inspect.signature(getattr(RerankSearch, name)).parameters)[:-1]  # the rest is taken as it comes
        assert set(ours) <= set(theirs)


def test_a_reranking_task_is_evaluated() -> None:
    door = RerankSearch(by_gain())
    scores = scores_of(door, Small())
    assert scores["mrr_at_10"] == pytest.approx((1 + 1 / 2) / 2) == scores["main_score"]
    tally = door.tallies["SmallReranking", "default", "test"]
    assert tally.windows == 2 and tally.unread == {} and tally.failed == 0


@pytest.mark.parametrize(("depth", "mrr"), [(8, (1 + 1 / 2) / 2), (6, (1 + 0) / 2)])
def test_a_retrieval_task_behind_a_first_stage(depth: int, mrr: float, tmp_path: Path) -> None:
    task = Small(top_ranked=None)
    first = scores_of(FirstStage(), task, prediction_folder=tmp_path)
    assert first["mrr_at_10"] == pytest.approx((1 / 6 + 1 / 8) / 2, abs=1e-4)
    with pytest.raises(InputError, match="lists no candidates"):
        scores_of(RerankSearch(by_gain()), Small(top_ranked=None))
    assert scores_of(RerankSearch(by_gain()), task.convert_to_reranking(tmp_path, top_k=depth))["mrr_at_10"] == mrr


@pytest.mark.parametrize("top_k", [1, 3, 8, 100])
def test_scores_fall_by_one_so_that_no_evaluator_reorders_ties(top_k: int) -> None:
    found = search(RerankSearch(by_gain()), Small(), top_k)
    wanted = {f"d{place}": 8.0 - rank for rank, place in enumerate(BEST[:top_k])}
    assert found == {"q1": wanted, "q2": wanted} and list(found["q1"]) == list(wanted)


def test_parse_failures_are_counted_for_each_task() -> None:
    door = RerankSearch(by_gain("no list at all", Reply(error="it broke"), window=4, stride=2))
    with pytest.warns(UnreadWarning, match="2 of 6 windows"):
        scores_of(door, Small())
    tally = door.tallies["SmallReranking", "default", "test"]
    assert (tally.windows, tally.unread.total(), tally.failed, tally.last_error) == (6, 2, 1, "it broke")


def test_a_model_that_ranks_nothing_has_no_result() -> None:
    door = RerankSearch(by_gain(*["no list at all"] * 2))
    with pytest.raises(EngineError, match="no answer of 2 could be read"):
        scores_of(door, Small())
    assert door.tallies["SmallReranking", "default", "test"].unread.total() == 2


def test_what_a_task_may_lack_or_hold_twice() -> None:
    listed = {"q1": ["d0", "d5", "d0"], "q2": []}
    found = search(RerankSearch(by_gain()), Small(top_ranked=listed))
    assert found == {"q1": {"d5": 2.0, "d0": 1.0}, "q2": {}}
    assert search(RerankSearch(by_gain()), Small(top_ranked={"q1": ["d0", "d5"]}))["q2"] == {}
    with pytest.raises(InputError, match=r"not in its corpus: 'nowhere'"):
        search(RerankSearch(by_gain()), Small(top_ranked={"q1": ["d0", "nowhere"]}))


def test_titles_and_instructions_are_shown() -> None:
    reranker, prompts = by_gain(), list[str]()
    submit = reranker.engine.submit

    def listening(requests: Any, decoding: Any) -> None:
        prompts.extend(request.messages[-1]["content"] for request in requests)
        submit(requests, decoding)

    reranker.engine.submit = listening  # type: ignore[method-assign]
    corpus = [{**row, "title": f"T{row['id']}"} for row in CORPUS]
    search(RerankSearch(reranker), Small(corpus=corpus, queries=[{**QUERIES[0], "instruction": "only recent ones"}]))
    assert "Title: Td0 Content: gain 3" in prompts[0] and "first only recent ones" in prompts[0]


def test_results_of_other_settings_are_not_taken_from_the_cache(tmp_path: Path) -> None:
    cache = mteb.ResultCache(tmp_path)
    metas = [RerankSearch(by_gain(window=window, stride=2)).mteb_model_meta for window in (4, 8, 4)]
    assert metas[0].revision == metas[2].revision != metas[1].revision and metas[0].name == "rrlib/scripted"
    assert RerankSearch(by_gain(), "org/mine").mteb_model_meta.name == "org/mine"
    for window, calls in ((4, 6), (8, 2), (4, 0)):
        reranker = by_gain(window=window, stride=2)
        mteb.evaluate(RerankSearch(reranker), Small(), cache=cache, co2_tracker=False, show_progress_bar=False)
        assert reranker.engine.calls == calls
