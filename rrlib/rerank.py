"""The reranker: many queries' strategies over one engine, without barriers.

One ready queue holds the windows of all queries of all collections. When a window's answer is parsed, that query's
next window becomes ready; the query with the longest remaining chain goes first; the engine is kept full. The released
code waits for a whole collection at every window position, which costs 1.5 to 2.1 times the critical path.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrlib.engines import Decoding, Engine, Reply, Request, make_engine
from rrlib.engines.replay import MISSING, Key
from rrlib.errors import EngineError, InputError
from rrlib.prompts import PromptBuilder, get_style
from rrlib.responses import parse_lenient
from rrlib.strategies import Strategy, StrategySpec, Window, plan
from rrlib.types import Candidates, Passage, Query
from rrlib.windowlog import WindowLog

GIVE_UP_AFTER = 10  # if the first ten windows all fail, the fault is not theirs


@dataclass
class RerankResult:
    """What a run gave.

    rankings: (collection, qid) -> document ids, best first: every candidate once. records: the window records in the
    order they finished. counts: windows asked, reused, failed, missing, verdicts, in_flight at the last kill, ...
    """

    rankings: dict[tuple[str, str], list[str]]
    records: list[dict[str, Any]]
    counts: dict[str, int]

    def run(self, collection: str = "") -> dict[str, list[str]]:
        """The rankings of one collection: qid -> document ids, as `rrlib.formats.write_run` takes them."""
        return {qid: docs for (name, qid), docs in self.rankings.items() if name == collection}


@dataclass(frozen=True, slots=True)
class RankedPassage:
    """A passage at its new place. score: n - rank + 1, strictly decreasing, so no evaluator can reshuffle it."""

    rank: int
    score: float
    docid: str
    text: str


@dataclass(frozen=True)
class Ranking:
    """The answer of `Reranker.rank`: passages best first, and what the model said in each window."""

    results: tuple[RankedPassage, ...]
    windows: tuple[Mapping[str, Any], ...]

    def __iter__(self) -> Iterator[RankedPassage]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> RankedPassage:
        return self.results[index]

    @property
    def reasoning(self) -> tuple[str, ...]:
        """The reasoning of each window, in the order asked (the last is the head of the list)."""
        return tuple(str(w["reasoning"]) for w in self.windows)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The verdict of each window, in the order asked."""
        return tuple(str(w["verdict"]) for w in self.windows)


@dataclass
class _Job:
    """One query on its way: the strategy, how far it is, and the answers of the round it waits for."""

    candidates: Candidates
    head: tuple[Passage, ...]
    strategy: Strategy
    depth: int
    rounds: int = 0
    windows: list[Window] = field(default_factory=list)
    answers: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def key(self, window: Window) -> Key:
        return self.candidates.collection, self.candidates.query.qid, window.pass_no, window.positions


class Reranker:
    """Reranks candidates with an engine, a prompt style and a strategy.

    model: a folder, a hub name, `package:module/folder`, or an engine already made.
    style: a prompt style (rrlib.prompts.WINDOW_STYLES). depth: how many candidates are reranked; the tail keeps its
    place behind them. log: a JSONL file that keeps every window and from which a killed run goes on.
    retry_failed: on resume, ask windows again whose call had failed. engine_options: see rrlib.engines.make_engine.
    """

    def __init__(
        self,
        model: str | Engine,
        engine: str = "transformers",
        *,
        style: str = "reasonrank",
        strategy: str = "sliding_window",
        window: int = 20,
        stride: int = 10,
        passes: int = 1,
        depth: int | None = 100,
        max_passage_tokens: int = 512,
        decoding: Decoding | None = None,
        log: str | Path | None = None,
        fresh: bool = False,
        retry_failed: bool = False,
        progress: bool = False,
        **engine_options: Any,
    ) -> None:
        self.style = get_style(style)
        self.strategy = StrategySpec(strategy, window, stride, passes)
        if depth is not None and depth < 0:
            raise InputError(f"depth {depth}", remedy="give 0 or more")
        self.depth, self.max_passage_tokens = depth, max_passage_tokens
        self.decoding = decoding or Decoding()
        self.log_path, self.fresh, self.retry_failed, self.progress = log, fresh, retry_failed, progress
        self.engine: Engine = make_engine(engine, model, **engine_options) if isinstance(model, str) else model
        tokenizer = getattr(self.engine, "tokenizer", None)
        self.prompts = PromptBuilder(tokenizer, style, max_passage_tokens)

    def settings(self) -> dict[str, Any]:
        """What every log line records, and what must be equal for a resume."""
        return {
            "engine": self.engine.name,
            "model": self.engine.model,
            "dtype": getattr(self.engine, "dtype", None),
            "style": self.style.name,
            "strategy": self.strategy.name,
            "window": self.strategy.size,
            "stride": self.strategy.stride,
            "passes": self.strategy.passes,
            "depth": self.depth,
            "max_passage_tokens": self.max_passage_tokens,
            "decoding": asdict(self.decoding),
        }

    def rank(self, query: str, docs: Sequence[str | Passage], doc_ids: Sequence[str] | None = None) -> Ranking:
        """Rank a few texts for a query. doc_ids: their ids, "1", "2", ... where none are given."""
        ids = [str(i) for i in range(1, len(docs) + 1)] if doc_ids is None else list(doc_ids)
        if len(ids) != len(docs):
            raise InputError(f"{len(ids)} doc_ids for {len(docs)} docs", remedy="give one id a document")
        passages = tuple(d if isinstance(d, Passage) else Passage(i, d) for i, d in zip(ids, docs, strict=True))
        result = self.rerank([Candidates(Query("query", query), passages)])
        texts = {p.docid: p.text for p in passages}
        order = result.rankings[("", "query")]
        ranked = [RankedPassage(r, len(order) - r + 1.0, d, texts[d]) for r, d in enumerate(order, 1)]
        return Ranking(tuple(ranked), tuple(result.records))

    def rerank(self, candidates: Sequence[Candidates]) -> RerankResult:
        """Rerank many queries. Raises InputError for a query given twice or texts too long for the model."""
        run = _Run(self, candidates)
        try:
            result = run.go()
        except BaseException:
            run.close(finished=False)
            raise
        run.close(finished=True)
        return result


class _Run:
    """One call of `rerank`: the ready queue, the windows in flight, and the log."""

    def __init__(self, owner: Reranker, candidates: Sequence[Candidates]) -> None:
        self.owner, self.engine = owner, owner.engine
        self.jobs: list[_Job] = []
        self.records: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.ready: list[tuple[int, int, int, int]] = []  # (-remaining depth, job, round, window)
        self.flight: dict[int, tuple[int, int, str | None]] = {}
        self.rankings: dict[tuple[str, str], list[str]] = {}
        self.log: WindowLog | None = None
        self.bar: Any = None
        self._next_id = 0
        total = 0
        for item in candidates:
            name = (item.collection, item.query.qid)
            if name in self.rankings:
                raise InputError(f"query {name[1]!r} of collection {name[0]!r} is given twice")
            self.rankings[name] = [p.docid for p in item.passages]
            head = item.passages if owner.depth is None else item.passages[: owner.depth]
            cost = plan(owner.strategy.start, len(head))
            total += cost.calls
            self.jobs.append(_Job(item, head, owner.strategy.start(len(head)), cost.depth))
        self.counts["queries"], self.counts["windows"] = len(self.jobs), total
        self._check_lengths()
        if owner.log_path is not None:
            self.log = WindowLog(owner.log_path, owner.settings(), fresh=owner.fresh)
            self.counts["in_flight_at_kill"] = self.log.in_flight
        if owner.progress:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, unit="window", desc="rerank", smoothing=0.1)

    def _check_lengths(self) -> None:
        """Refuse before work starts what cannot fit the model: the longest window a query could ever show."""
        limit = getattr(self.engine, "max_model_len", None)
        tokenizer = self.owner.prompts.tokenizer
        if limit is None or tokenizer is None:
            return
        room = limit - self.owner.decoding.max_new_tokens
        size = self.owner.strategy.size if self.owner.strategy.name == "sliding_window" else None
        lengths: dict[Passage, int] = {}
        for job in self.jobs:
            for passage in job.head:
                if passage not in lengths:
                    text = self.owner.prompts.passage(passage)
                    lengths[passage] = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) + 6
            longest = sorted((lengths[p] for p in job.head), reverse=True)[:size]
            query = self.owner.prompts.render(job.candidates.query.text, [])
            bound = len(tokenizer(query, add_special_tokens=False, verbose=False)["input_ids"]) + sum(longest)
            if bound > room and len(job.head) > 1:
                raise InputError(
                    f"query {job.candidates.query.qid}: a window may hold {bound} prompt tokens, and the model takes "
                    f"{limit} less {self.owner.decoding.max_new_tokens} for the answer",
                    remedy="use a smaller --window, --max-passage-tokens or --max-new-tokens",
                )

    def go(self) -> RerankResult:
        for index in range(len(self.jobs)):
            self._advance(index, None)
        while self.ready or self.flight:
            self._fill()
            if not self.flight:
                continue  # every ready window was in the log
            for number, reply in self.engine.collect():
                index, window_index, prompt_hash = self.flight.pop(number)
                self._finish(index, window_index, prompt_hash, reply)
        if self.counts["asked"] and self.counts["failed"] == self.counts["asked"] and self.engine.name != "replay":
            raise EngineError(f"every call failed; the last reason: {self.records[-1]['error']}")
        return RerankResult(self.rankings, self.records, dict(self.counts))

    def _fill(self) -> None:
        """Send ready windows, longest remaining chain first, until the engine is full."""
        batch: list[Request] = []
        while self.ready and len(self.flight) < self.engine.capacity:
            _, index, round_no, window_index = heapq.heappop(self.ready)
            job = self.jobs[index]
            window = job.windows[window_index]
            assert round_no == job.rounds
            request, prompt_hash = self._request(job, window)
            key = job.key(window)
            known = self.log.records.get(key) if self.log is not None else None
            if known is not None and self._usable(known, prompt_hash, key):
                self.counts["reused"] += 1
                self._take(index, window_index, known)
                continue
            if self.log is not None:
                self.log.asked(key)
            self.flight[request.id] = (index, window_index, prompt_hash)
            self.counts["asked"] += 1
            batch.append(request)
        if batch:
            self.engine.submit(batch, self.owner.decoding)

    def _usable(self, record: Mapping[str, Any], prompt_hash: str | None, key: Key) -> bool:
        if self.owner.retry_failed and record.get("error"):
            return False
        if record.get("prompt_hash") == prompt_hash:
            return True
        if self.owner.retry_failed:  # a window behind a retried one may see other passages now
            return False
        assert self.log is not None
        raise InputError(
            f"query {key[1]}: window {key[3][0]}-{key[3][-1] + 1} was logged for another prompt",
            path=self.log.path,
            remedy="the run, texts or tokenizer have changed: name another --log, or begin anew with --fresh",
        )

    def _request(self, job: _Job, window: Window) -> tuple[Request, str | None]:
        passages = [job.head[i] for i in window.items]
        query = job.candidates.query
        self._next_id += 1
        prompts, key = self.owner.prompts, job.key(window)
        if self.engine.name == "replay":
            return Request(self._next_id, key=key), None
        messages = prompts.messages(query.text, passages)
        prompt = prompts.render(query.text, passages) if prompts.tokenizer is not None else None
        shown = prompt if prompt is not None else messages[0]["content"] + "\n" + messages[1]["content"]
        digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return Request(self._next_id, messages, prompt, key=key), digest

    def _finish(self, index: int, window_index: int, prompt_hash: str | None, reply: Reply) -> None:
        """Parse an answer, log it, and let its query go on."""
        job = self.jobs[index]
        window = job.windows[window_index]
        n = len(window.items)
        record: dict[str, Any] = {"qid": job.candidates.query.qid, "pass": window.pass_no}
        if job.candidates.collection:
            record["collection"] = job.candidates.collection
        first, last = window.positions[0], window.positions[-1] + 1
        record.update(start=first, end=last)
        if window.positions != tuple(range(first, last)):
            record["positions"] = list(window.positions)
        if reply.error is not None:
            order, verdict, reasoning = tuple(range(n)), "failed", ""
            repairs: tuple[str, ...] = ()
            self.counts["missing" if reply.error == MISSING else "failed"] += 1
        else:
            parsed = parse_lenient(reply.text, n, self.owner.style.name, reply.finish_reason or None)
            order, verdict, repairs = parsed.order, parsed.verdict, parsed.repairs
            reasoning = reply.reasoning or parsed.reasoning
        record.update(
            docids=[job.head[i].docid for i in window.items],
            prompt_hash=prompt_hash,
            text=None if reply.error is not None else reply.text,
            reasoning=reasoning,
            verdict=verdict,
            repairs=list(repairs),
            order=list(order),
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            finish_reason=reply.finish_reason if reply.error is None else "error",
            seconds=round(reply.seconds, 6),
            retries=reply.retries,
            error=reply.error,
        )
        if self.log is not None:
            self.log.append(job.key(window), record)
        self._take(index, window_index, record)
        done = self.counts["asked"] - len(self.flight)
        if self.engine.name != "replay" and self.counts["failed"] == done == GIVE_UP_AFTER:
            raise EngineError(f"the first {done} calls all failed; the last reason: {reply.error}")

    def _take(self, index: int, window_index: int, record: dict[str, Any]) -> None:
        job = self.jobs[index]
        self.records.append(record)
        self.counts[f"verdict_{record['verdict']}"] += 1
        job.answers[window_index] = tuple(record["order"])
        if self.bar is not None:
            self.bar.update(1)
        if len(job.answers) == len(job.windows):
            self._advance(index, [job.answers[i] for i in range(len(job.windows))])

    def _advance(self, index: int, answers: list[tuple[int, ...]] | None) -> None:
        """Send a query's strategy its answers, and put its next windows into the ready queue."""
        job = self.jobs[index]
        try:
            windows = next(job.strategy) if answers is None else job.strategy.send([list(a) for a in answers])
        except StopIteration as stop:
            order = stop.value
            tail = job.candidates.passages[len(job.head) :]
            name = (job.candidates.collection, job.candidates.query.qid)
            self.rankings[name] = [job.head[i].docid for i in order] + [p.docid for p in tail]
            return
        job.rounds += answers is not None
        job.windows, job.answers = windows, {}
        for window_index in range(len(windows)):
            heapq.heappush(self.ready, (-(job.depth - job.rounds), index, job.rounds, window_index))

    def close(self, *, finished: bool) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.log is not None:
            self.log.close(finished=finished)
        if not finished:
            self.engine.close()
