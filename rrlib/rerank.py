"""The reranker: many queries' strategies over one engine, without barriers (rrlib/scheduler.py).

`rank` takes a few texts, `rerank` gives all at the end, and `stream` gives each query as it is finished.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rrlib.continuation import Continuation, check_pair
from rrlib.engines import Decoding, Engine, engine_from
from rrlib.engines.shared import alone
from rrlib.engines.trained import counts_first_stage, settings_for
from rrlib.errors import InputError
from rrlib.formats.objects import candidates_from, check_top_k, question_from
from rrlib.jobs import Finished, Progress
from rrlib.logged import LoggedRecords
from rrlib.pieces import PreparedPrompts
from rrlib.prompts import PromptBuilder, get_style
from rrlib.ranking import Ranking
from rrlib.records import RerankResult, Tally, WindowRecord
from rrlib.resources import weights_of
from rrlib.sampling import SampledSpec, check_sampling, sampling_for, varies
from rrlib.scheduler import Run
from rrlib.types import Candidates, Query


class Reranker:
    """Reranks candidates with an engine, a prompt style and a strategy.

    model: a folder, a hub name, a `.gguf` file, `package:module/folder`, or an engine already made.
    style: a prompt style (rrlib.prompts.WINDOW_STYLES; POINT_STYLES with strategy `pointwise`, where a passage's score
    is the probability of the word for relevant, of both words). strategy: of rrlib.strategies; None is `pointwise` for
    a checkpoint that was trained to judge one passage, else `sliding_window`. depth: how many candidates are reranked;
    the tail keeps its place behind them. passes, best: of rrlib.strategies.StrategySpec.
    log: a JSONL file that keeps every window and from which a killed run goes on.
    budget: reasoning tokens (0 or more; None: no limit of its own). A chain that is longer is closed there and the
    answer still asked for, within decoding.max_new_tokens in all; the prompt must be known (a tokenizer).
    style, window, stride, max_passage_tokens: None is what the checkpoint was trained with (rrlib.engines.trained).
    with_first_stage: the final order is fused with the one given, by reciprocal ranks. The answers in a log serve both.
    None: as a packed checkpoint says, for candidates that carry a first stage's scores (a run's; not plain texts).
    samples, fuse: each window is asked so often, with sampling, and the orders are fused by `rrf` (None) or `borda`
    (rrlib.sampling); a seed of the decoding that is None is 0 then. None: once, or as recorded answers were drawn.
    retry_failed: on resume, ask windows again whose call had failed. engine_options: see rrlib.engines.make_engine.
    """

    def __init__(
        self,
        model: str | Path | Engine,
        engine: str = "transformers",
        *,
        style: str | None = None,
        strategy: str | None = None,
        window: int | None = None,
        stride: int | None = None,
        passes: int = 1,
        best: int | None = None,
        depth: int | None = 100,
        max_passage_tokens: int | None = None,
        decoding: Decoding | None = None,
        log: str | Path | None = None,
        fresh: bool = False,
        retry_failed: bool = True,
        progress: bool = False,
        budget: int | None = None,
        samples: int | None = None,
        fuse: str | None = None,
        with_first_stage: bool | None = None,
        **engine_options: Any,
    ) -> None:
        asked = {"style": style, "window": window, "stride": stride, "max_passage_tokens": max_passage_tokens}
        chosen = settings_for(model, strategy, asked)
        self.style = get_style(chosen["style"])
        drawn = sampling_for(getattr(model, "recorded_sampling", {}), samples, fuse)
        self.strategy = SampledSpec(chosen["strategy"], chosen["window"], chosen["stride"], passes, best, *drawn)
        if depth is not None and depth < 0:
            raise InputError(f"depth {depth}", remedy="give 0 or more")
        self.depth, self.max_passage_tokens = depth, int(chosen["max_passage_tokens"])
        self.decoding = decoding or Decoding()
        if drawn[0] > 1 and self.decoding.seed is None:
            self.decoding = replace(self.decoding, seed=0)
        self.log_path, self.fresh, self.retry_failed, self.progress = log, fresh, retry_failed, progress
        check_pair(self.style, self.strategy.name)
        self.continuation = Continuation(self.style, budget, self.decoding)
        self.with_first_stage = with_first_stage
        self._fuses_runs = with_first_stage is None and counts_first_stage(model)
        own = list(inspect.signature(Reranker.__init__).parameters)[1:-1]
        self.engine = engine_from(model, engine, engine_options, own)
        self.asks_model = getattr(self.engine, "asks_model", True)  # an engine of one's own need not say so
        if self.asks_model:
            check_sampling(*drawn, self.decoding.temperature, varies=varies(self.style))
        tokenizer = getattr(self.engine, "tokenizer", None)
        if tokenizer is not None and not self.style.raw and not getattr(tokenizer, "chat_template", True):
            remedy = "name an instruct checkpoint, or put its chat_template.jinja beside its tokenizer"
            raise InputError(f"the tokenizer of {self.engine.model!r} has no chat template", remedy=remedy)
        if self.continuation.needed and tokenizer is None and self.asks_model:
            raise InputError(
                "a chain can only be continued where the model's tokenizer is known",
                remedy="name the server's tokenizer (--tokenizer), or leave budget and pointwise reasoning out",
            )
        self.prompts = PromptBuilder(tokenizer, self.style.name, self.max_passage_tokens)
        self.prepared = PreparedPrompts(self.prompts)
        self.on_window: Callable[[WindowRecord], None] | None = None  # told of every window as it is finished

    def settings(self) -> dict[str, Any]:
        """What every log line records, and what must be equal for a resume. weights: of a checkpoint in a folder, which
        may then be moved."""
        given = {"budget": self.continuation.budget, "best": self.strategy.best}
        limits: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        provider = getattr(self.engine, "provider", None)
        if provider is not None and provider.settings():
            limits["provider"] = provider.settings()
        content = weights_of(self.engine.model)
        weights = {"weights": content} if content is not None else {}
        return {
            "engine": self.engine.name,
            "model": self.engine.model,
            **weights,
            "dtype": getattr(self.engine, "dtype", None),
            "style": self.style.name,
            "strategy": self.strategy.name,
            "window": self.strategy.size,
            "stride": self.strategy.stride,
            "passes": self.strategy.passes,
            "depth": self.depth,
            "max_passage_tokens": self.max_passage_tokens,
            "decoding": asdict(self.decoding),
            **limits,
            **self.strategy.settings(),
        }

    def fuses(self, candidates: Candidates) -> bool:
        """Whether the final order of these is fused with the one they come in."""
        return bool(self.with_first_stage) or (self._fuses_runs and bool(candidates.scores))

    def _repr_html_(self) -> str:
        """Model, engine, style and strategy as a table for notebooks."""
        from html import escape

        names = ("model", "engine", "style", "strategy", "window", "stride", "depth")
        given = self.settings()
        rows = "".join(f"<tr><th>{name}<td>{escape(str(given[name]))}" for name in names)
        return f'<table style="text-align:left">{rows}</table>'

    def rank(self, query: str | Query, docs: Any, doc_ids: Any = None, top_k: int | None = None) -> Ranking:
        """Rank a few texts for a query: a list of texts, a dict of id -> text, a table (rrlib.formats.objects).

        doc_ids: their ids, "1", "2", ... where none are given; numbers are written out. top_k: the best so many alone.
        Raises InputError for what is no query or holds no texts.
        """
        check_top_k(top_k)
        question = question_from(query, docs, doc_ids)
        (finished,) = self._run([question], Progress(Counter(), Tally()), keep=True)
        return Ranking.of(finished.docids, question, finished.windows, top_k)

    async def rank_async(self, query: str | Query, docs: Any, doc_ids: Any = None, top_k: int | None = None) -> Ranking:
        """`rank` in a thread, so that an event loop goes on meanwhile. Calls at the same time wait for each other. A
        task that is cancelled leaves at once, and its windows are still asked to the end."""
        return await asyncio.to_thread(self.rank, query, docs, doc_ids, top_k)

    def rerank(self, candidates: Iterable[Candidates]) -> RerankResult:
        """Rerank many queries. Raises InputError for a query given twice or texts too long for the model. With a log,
        the windows stay in it, and are read from it when they are asked for.

        May be called from several threads: one reranking at a time, the others wait. After an error or an interrupt
        the reranker can be used again.
        """
        items = candidates_from(candidates)
        rankings: dict[tuple[str, str], list[str]] = {(item.collection, item.query.qid): [] for item in items}
        records: Any = [] if self.log_path is None else LoggedRecords(self.log_path)
        progress = Progress(Counter(), Tally())
        for finished in self._run(items, progress, keep=False, records=records):
            rankings[finished.candidates.collection, finished.candidates.query.qid] = finished.docids
        return RerankResult(rankings, records, dict(progress.counts))

    def stream(self, candidates: Iterable[Candidates], *, windows: bool = True) -> Stream:
        """Rerank many queries and give each Ranking as it is finished: `for ranking in reranker.stream(candidates)`.

        The rankings are those of `rerank`, in another order. With a log, what is kept in memory beside the candidates
        does not grow with the answers: the windows of a ranking are read back from it. windows: False leaves them out.
        The engine is held until the last query, or until the stream is closed, which drops the calls in flight; the
        log then goes on from there. Raises InputError and EngineError as `rerank` does, from the loop.
        """
        return Stream(self, candidates_from(candidates), windows)

    def _run(
        self,
        items: Sequence[Candidates],
        progress: Progress,
        *,
        keep: bool,
        records: list[WindowRecord] | LoggedRecords | None = None,
    ) -> Iterator[Finished]:
        with alone(self.engine) as turn:
            run = Run(self, items, turn.first, progress, keep=keep, records=records)
            try:
                yield from run.go()
            except BaseException:
                turn.first = run.last_id
                run.close(finished=False)
                raise
            run.close(finished=True)


class Stream(Iterator[Ranking]):
    """The rankings of `Reranker.stream`, one a query as it is finished; `counts` and `tally` grow with them."""

    def __init__(self, reranker: Reranker, items: Sequence[Candidates], windows: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.tally = Tally()
        self._finished = reranker._run(items, Progress(self.counts, self.tally), keep=windows)

    def __next__(self) -> Ranking:
        candidates, docids, records = next(self._finished)
        return Ranking.of(docids, candidates, records)

    def close(self) -> None:
        """Break off: what is in flight is dropped, and another reranking may begin. Safe to call twice."""
        self._finished.close()  # type: ignore[attr-defined]
