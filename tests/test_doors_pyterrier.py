"""The door into PyTerrier, used as its own documentation uses a transformer: in pipelines, cut-offs and experiments.

Nothing here starts Java: PyTerrier alone does without, Terrier's index and retrievers do not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import ir_measures
import pandas as pd
import pyterrier as pt
import pytest
from scripted_engine import BEST, TEXTS, by_gain

import rrlib
from rrlib.errors import InputError

os.environ.setdefault("PT_TEST_TRANSFORMER_REPORTS", "0")

TOPICS = pd.DataFrame([["q2", "second"], ["q1", "first"]], columns=["qid", "query"])
RESULTS = pd.DataFrame(
    [[qid, f"d{n}", 20.0 - n, n, text, n % 2] for qid in ("q1", "q2") for n, text in enumerate(TEXTS)],
    columns=["qid", "docno", "score", "rank", "text", "odd"],
)
QRELS = pd.DataFrame([["q1", "d5", 1], ["q2", "d7", 1]], columns=["qid", "docno", "label"])


def first_stage() -> Any:
    return pt.Transformer.from_df(RESULTS)


def ranked(frame: pd.DataFrame) -> dict[str, list[str]]:
    return {qid: list(rows.sort_values("rank")["docno"]) for qid, rows in frame.groupby("qid")}


@pytest.mark.parametrize("cut", [1, 4, 8, 100])
def test_in_a_pipeline_behind_a_cut_off(cut: int) -> None:
    frame = (first_stage() % cut >> rrlib.pt.Reranker(by_gain()))(TOPICS)
    wanted = [f"d{place}" for place in BEST if place < cut]
    assert ranked(frame) == {"q1": wanted, "q2": wanted}
    assert list(dict.fromkeys(frame["qid"])) == ["q2", "q1"]  # as they came
    assert set(frame.columns) == {"qid", "query", "docno", "score", "rank", "text", "odd", "retrieval_score"}
    assert all(frame["retrieval_score"] == 20.0 - frame["docno"].str[1:].astype(int))


def test_texts_of_a_dataset_are_put_in_between() -> None:
    """`retriever >> pt.text.get_text(dataset) >> reranker`, as PyTerrier's pages on reranking use it."""

    class Dataset:
        """What get_text asks of a dataset: a text loader of its documents."""

        def text_loader(self, fields: Any = "*", *, verbose: bool = False) -> Any:
            texts = dict(zip(RESULTS["docno"], RESULTS["text"], strict=True))
            return pt.apply.generic(lambda frame: frame.assign(text=frame["docno"].map(texts)))

    ids_alone = pt.Transformer.from_df(RESULTS.drop(columns=["text"]))
    frame = (ids_alone >> pt.text.get_text(Dataset(), "text") >> rrlib.pt.Reranker(by_gain()))(TOPICS)
    wanted = [f"d{place}" for place in BEST]
    assert ranked(frame) == {"q1": wanted, "q2": wanted}


def test_in_an_experiment() -> None:
    systems = [first_stage(), first_stage() % 8 >> rrlib.pt.Reranker(by_gain()) % 3]
    table = pt.Experiment(
        systems, TOPICS, QRELS, [ir_measures.RR, ir_measures.nDCG @ 10], names=["first", "reranked"], baseline=0
    )
    values = dict(zip(table["name"], table["RR"], strict=True))
    assert values == {"first": pytest.approx((1 / 6 + 1 / 8) / 2), "reranked": pytest.approx((1 + 1 / 2) / 2)}


class TestConformance(pt.testing.TransformerTestCase):
    """PyTerrier's own checks of a transformer: what it wants, what it gives, how it is drawn."""

    @staticmethod
    def get_transformer() -> Any:
        return rrlib.pt.Reranker(by_gain())


def test_what_it_needs_is_known_before_it_runs() -> None:
    door = rrlib.pt.Reranker(by_gain())
    columns = ["qid", "docno", "query", "text"]
    assert pt.inspect.transformer_inputs(door) == [columns]
    assert pt.inspect.transformer_outputs(door, columns) == [*columns, "score", "rank"]
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        door(RESULTS.drop(columns="text").assign(query="q"))
    body = rrlib.pt.Reranker(by_gain(), text_field="body")
    assert ranked(body(RESULTS.rename(columns={"text": "body"}).assign(query="q")))["q1"][0] == "d5"


@pytest.mark.parametrize("columns", [["rank"], ["score"], ["rank", "score"]])
def test_candidates_are_taken_in_first_stage_order(columns: list[str]) -> None:
    """Equal gains keep that order, whatever the order of the rows; depth counts along it, and the tail stays behind."""
    frame = RESULTS.assign(query="q", text="same 1").iloc[::-1][["qid", "query", "docno", "text", *columns]]
    assert ranked(rrlib.pt.Reranker(by_gain())(frame))["q1"] == [f"d{n}" for n in range(8)]
    deep = frame.assign(text=[f"gain {docno[1:]}" for docno in frame["docno"]])
    order = ranked(rrlib.pt.Reranker(by_gain(depth=3))(deep))["q1"]
    assert order == ["d2", "d1", "d0", "d3", "d4", "d5", "d6", "d7"]


def test_texts_that_are_missing_and_documents_that_come_twice() -> None:
    rows = [["1", "q", "a", "gain 1"], ["1", "q", "a", "gain 2"], ["1", "q", "b", None], ["2", "p", "c", float("nan")]]
    rows += [["2", "p", "d", "gain 3"]]
    frame = rrlib.pt.Reranker(by_gain())(pd.DataFrame(rows, columns=["qid", "query", "docno", "text"], dtype=object))
    assert len(frame) == 5 and list(frame["rank"]) == [0, 1, 2, 0, 1] and sorted(frame["docno"]) == list("aabcd")


def test_many_queries_are_told_apart() -> None:
    """Each with its own candidates, in one call of the reranker; those without any ask nothing."""
    frame = pd.concat(
        [RESULTS.iloc[: 1 + n % 8].assign(qid=f"q{n}", query=f"query {n}") for n in range(40)], ignore_index=True
    )
    door = rrlib.pt.Reranker(by_gain())
    found = ranked(door(frame))
    assert found == {f"q{n}": [f"d{place}" for place in BEST if place < 1 + n % 8] for n in range(40)}
    assert door.tally.windows == 35 and len(door(frame.iloc[:0])) == 0  # one passage alone is not asked about


def test_a_query_without_text_is_bad_input() -> None:
    with pytest.raises(InputError, match="'q1'"):
        rrlib.pt.Reranker(by_gain())(RESULTS.assign(query=" "))


def test_the_packaged_model_by_its_name() -> None:
    door = rrlib.pt.Reranker("package:rrlib.miniature/reranker", "numpy")
    texts = ["Cabbage notes: bacteria make acid from its sugar.", "Heated fluid rises and chilled fluid descends."]
    query = "In a tavern, clouds piled up each sunny afternoon, and hot soup cooled sooner beside an open window. Why?"
    rows = [["1", query, f"d{n}", text] for n, text in enumerate(texts)]
    assert len(door(pd.DataFrame(rows, columns=["qid", "query", "docno", "text"]))) == 2 and door.tally.windows == 1


def test_nothing_starts_java_and_the_name_costs_nothing_before_it_is_used() -> None:
    code = (
        "import sys, rrlib; assert 'pyterrier' not in sys.modules; rrlib.pt; import pyterrier; "
        "assert not pyterrier.java.started() and 'jnius' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
