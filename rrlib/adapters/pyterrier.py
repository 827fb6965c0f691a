"""PyTerrier: a transformer, `bm25 % 100 >> rrlib.pt.Reranker(...)`. Java is not needed here, only by Terrier itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import rrlib.rerank
from rrlib.adapters.shared import SCORE_BEFORE, PlaceRanker, missing, question
from rrlib.engines import Engine
from rrlib.errors import InputError
from rrlib.records import Tally

try:
    import pyterrier
except ModuleNotFoundError as error:
    raise missing(error, "pyterrier", "pyterrier") from error

if TYPE_CHECKING:
    import pandas

FIRST = pyterrier.model.FIRST_RANK


class Reranker(pyterrier.Transformer):  # type: ignore[misc]
    """The rows of each query in the order of a reranker; all queries of a frame are worked on together.

    model, engine, options: of rrlib.Reranker; or model is one already made. text_field: the column of texts. Candidates
    are taken in the order of `rank`, else of falling `score`, else as they stand. Every row and column stays. New are
    `rank` (from 0) and `score` (n - rank for n rows, so that no evaluator can reorder ties); the score before is in
    `retrieval_score`. Raises InputError for a query without text, and EngineError where the model ranked nothing;
    single windows that failed or could not be read keep their order, are counted in `tally`, and warned of.
    """

    schematic: ClassVar = {"label": "rrlib Reranker", "help_url": None}  # for PyTerrier's drawings, without a look-up

    def __init__(
        self,
        model: str | Path | Engine | rrlib.rerank.Reranker,
        engine: str = "transformers",
        *,
        text_field: str = "text",
        **options: Any,
    ) -> None:
        made = model if isinstance(model, rrlib.rerank.Reranker) else rrlib.rerank.Reranker(model, engine, **options)
        self.text_field, self._ranker = text_field, PlaceRanker(made)

    @property
    def tally(self) -> Tally:
        """What the windows were, over all calls."""
        return self._ranker.tally

    def transform(self, inp: pandas.DataFrame) -> pandas.DataFrame:
        """The frame of results, reranked. Raises PyTerrier's InputValidationError where a column is missing."""
        pyterrier.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        if inp["qid"].isna().any():
            raise InputError("a row of the frame has no qid", remedy="drop it, or name its query")
        frame = _best_first(inp)
        given = frame[self.text_field].astype(object)
        texts = given.where(given.notna(), "").astype(str)
        places_of = frame.groupby("qid", sort=False).indices
        rows_of = {qid: places_of[qid] for qid in inp["qid"].unique()}  # the queries as they came
        questions = [
            question(frame["query"].iloc[rows[0]], [*texts.iloc[rows]], str(qid)) for qid, rows in rows_of.items()
        ]
        rows: list[int] = []
        scores: list[float] = []
        for places, own in zip(self._ranker.rank_all(questions), rows_of.values(), strict=True):
            rows += [own[place.index] for place in places]
            scores += [float(len(places) - rank) for rank in range(len(places))]
        ranked = frame.iloc[rows].reset_index(drop=True).assign(score=scores)
        return ranked.astype({"score": float}).assign(rank=ranked.groupby("qid", sort=False).cumcount() + FIRST)


def _best_first(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The rows in first-stage order, ties as they stand, whatever their query; their score under its new name."""
    import pandas

    for column, rising in (("rank", True), ("score", False)):
        if column in frame.columns:
            frame = frame.sort_values(column, ascending=rising, kind="stable", key=pandas.to_numeric)
            break
    if "score" not in frame.columns:
        return frame
    return frame.drop(columns=SCORE_BEFORE, errors="ignore").rename(columns={"score": SCORE_BEFORE})
