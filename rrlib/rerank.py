"""The reranker: many queries' strategies over one engine, without barriers.

One ready queue holds the windows of all queries of all collections. When a window's answer is parsed, that query's
next window becomes ready; the query with the longest remaining chain goes first; the engine is kept full. The released
code waits for a whole collection at every window position, which costs 1.5 to 2.1 times the critical path.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rrlib.continuation import Continuation, joined
from rrlib.engines import Decoding, Engine, Reply, Request, make_engine
from rrlib.engines.replay import MISSING
from rrlib.errors import EngineError, InputError
from rrlib.prompts import PromptBuilder, get_style
from rrlib.records import Key, RankedPassage, Ranking, RerankResult, WindowLog, WindowRecord
from rrlib.resources import model_hash
from rrlib.responses import Parsed, Verdict, parse_lenient
from rrlib.strategies import Answer, Strategy, StrategySpec, Window, plan
from rrlib.types import Candidates, Passage, Query

GIVE_UP_AFTER = 10  # if the first ten windows all fail, the fault is not theirs


@dataclass
class _Job:
    """One query on its way: the strategy, how far it is, and the answers of the round it waits for."""

    candidates: Candidates
    head: tuple[Passage, ...]
    strategy: Strategy
    depth: int
    rounds: int = 0
    windows: list[Window] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)

    def key(self, window: Window) -> Key:
        return self.candidates.collection, self.candidates.query.qid, window.pass_no, window.positions


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request in flight: where its answer belongs, and what was answered before, if it goes on from there."""

    job: int
    window: int
    prompt_hash: str | None
    request: Request
    before: Reply | None = None


class Reranker:
    """Reranks candidates with an engine, a prompt style and a strategy.

    model: a folder, a hub name, a `.gguf` file, `package:module/folder`, or an engine already made.
    style: a prompt style (rrlib.prompts.WINDOW_STYLES; POINT_STYLES with strategy `pointwise`, where a passage's score
    is the probability of the word for relevant, of both words). depth: how many candidates are reranked; the tail keeps
    its place behind them. log: a JSONL file that keeps every window and from which a killed run goes on.
    budget: reasoning tokens (0 or more; None: no limit of its own). A chain that is longer is closed there and the
    answer still asked for, within decoding.max_new_tokens in all; the prompt must be known (a tokenizer).
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
        budget: int | None = None,
        **engine_options: Any,
    ) -> None:
        self.style = get_style(style)
        self.strategy = StrategySpec(strategy, window, stride, passes)
        if depth is not None and depth < 0:
            raise InputError(f"depth {depth}", remedy="give 0 or more")
        self.depth, self.max_passage_tokens = depth, max_passage_tokens
        self.decoding = decoding or Decoding()
        self.log_path, self.fresh, self.retry_failed, self.progress = log, fresh, retry_failed, progress
        if (self.style.words is not None) != (self.strategy.name == "pointwise"):
            raise InputError(
                f"style {self.style.name!r} with strategy {self.strategy.name!r}",
                remedy="the pointwise strategy takes a pointwise style, and the others a listwise one",
            )
        self.continuation = Continuation(self.style, budget, self.decoding)
        self.engine: Engine = make_engine(engine, model, **engine_options) if isinstance(model, str) else model
        self.asks_model = getattr(self.engine, "asks_model", True)  # an engine of one's own need not say so
        tokenizer = getattr(self.engine, "tokenizer", None)
        if self.continuation.needed and tokenizer is None and self.asks_model:
            raise InputError(
                "a chain can only be continued where the model's tokenizer is known",
                remedy="name the server's tokenizer (--tokenizer), or leave budget and pointwise reasoning out",
            )
        self.prompts = PromptBuilder(tokenizer, style, max_passage_tokens)

    def settings(self) -> dict[str, Any]:
        """What every log line records, and what must be equal for a resume. weights: of a checkpoint in a folder, which
        may then be moved."""
        budget = self.continuation.budget
        limits: dict[str, Any] = {} if budget is None else {"budget": budget}
        provider = getattr(self.engine, "provider", None)
        if provider is not None and provider.settings():
            limits["provider"] = provider.settings()
        checkpoint = Path(self.engine.model)
        weights = {"weights": model_hash(checkpoint)} if checkpoint.exists() else {}
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
        self.records: list[WindowRecord] = []
        self.counts: Counter[str] = Counter()
        self.ready: list[tuple[int, int, int, int]] = []  # (-remaining depth, job, round, window)
        self.flight: dict[int, _Sent] = {}
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
        size = {"sliding_window": self.owner.strategy.size, "pointwise": 1}.get(self.owner.strategy.name)
        for job in self.jobs:
            bound = self.owner.prompts.bound(job.candidates.query.text, job.head, size)
            alone = self.owner.prompts.bound(job.candidates.query.text, (), size) if bound > room else 0
            if alone > room >= self.owner.prompts.bound("", (), size) and job.head:
                raise InputError(
                    f"query {job.candidates.query.qid}: the query itself takes {alone} tokens with its frame, and the "
                    f"model has room for {room}: no window fits",
                    remedy="shorten the query, or use a smaller --max-new-tokens",
                )
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
            further: list[Request] = []
            for number, reply in self.engine.collect():
                sent = self.flight.pop(number)
                reply = reply if sent.before is None else joined(sent.before, reply)
                onward = self._onward(sent, reply)
                if onward is None:
                    self._finish(sent, reply)
                else:
                    self.flight[onward.request.id] = onward
                    further.append(onward.request)
            if further:
                self.engine.submit(further, self.owner.decoding)
        if self.counts["asked"] and self.counts["failed"] == self.counts["asked"] and self.owner.asks_model:
            raise EngineError(f"every call failed; the last reason: {self.records[-1].error}")
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
            logged = self.log.records.get(key) if self.log is not None else None
            if logged is not None and self._usable(logged, prompt_hash):
                self.counts["reused"] += 1
                self._take(index, window_index, logged)
                continue
            if self.log is not None:
                self.log.asked(key)
            sent = _Sent(index, window_index, prompt_hash, request)
            if self.owner.continuation.budget == 0 and request.prompt is not None:  # nothing to think: close it at once
                sent = self._onward(sent, Reply(finish_reason="length")) or sent
            self.flight[sent.request.id] = sent
            self.counts["asked"] += 1
            batch.append(sent.request)
        if batch:
            self.engine.submit(batch, self.owner.decoding)

    def _usable(self, record: WindowRecord, prompt_hash: str | None) -> bool:
        if self.owner.retry_failed and record.error:
            return False
        if record.prompt_hash == prompt_hash:
            return True
        if self.owner.retry_failed:  # a window behind a retried one may see other passages now
            return False
        assert self.log is not None
        raise InputError(
            f"query {record.qid}: window {record.start}-{record.end} was logged for another prompt",
            path=self.log.path,
            remedy="the run, texts or tokenizer have changed: name another --log, or begin anew with --fresh",
        )

    def _request(self, job: _Job, window: Window) -> tuple[Request, str | None]:
        """The request for a window, and the hash of its prompt; an engine that asks no model gets the key alone."""
        self._next_id += 1
        prompts, key, query = self.owner.prompts, job.key(window), job.candidates.query
        if not self.owner.asks_model:
            return Request(self._next_id, key=key), None
        passages = [job.head[i] for i in window.items]
        messages = prompts.messages(query.text, passages)
        prompt = prompts.render(query.text, passages) if prompts.tokenizer is not None else None
        shown = prompt if prompt is not None else "\n".join(message["content"] for message in messages)
        digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self.owner.continuation.begin(Request(self._next_id, messages, prompt, key=key)), digest

    def _onward(self, sent: _Sent, reply: Reply) -> _Sent | None:
        """What is asked next to go on with an answer, and None where it is complete."""
        if reply.error is not None or sent.request.prompt is None or sent.request.choices:
            return None
        self._next_id += 1  # where nothing follows too: sampling is seeded by these numbers
        second = self.owner.continuation.go_on(self._next_id, sent.request, reply, sent.before)
        if second is None:
            return None
        request, so_far = second
        if so_far.extra["closed"] and not request.choices:
            self.counts["closed_at_budget"] += 1
        return replace(sent, request=request, before=so_far)

    def _finish(self, sent: _Sent, reply: Reply) -> None:
        """Parse an answer, log it, and let its query go on."""
        job = self.jobs[sent.job]
        window = job.windows[sent.window]
        score = self.owner.continuation.score(reply) if window.score else None
        if reply.error is None and window.score and score is None:
            reply = replace(reply, error="no log-probabilities")
        if reply.error is not None:
            self.counts["missing" if reply.error == MISSING else "failed"] += 1
        answer = read_answer(reply, len(window.items), window.score, self.owner.style.name)
        record = WindowRecord(
            qid=job.candidates.query.qid,
            positions=window.positions,
            docids=tuple(job.head[i].docid for i in window.items),
            order=answer.order,
            collection=job.candidates.collection,
            pass_no=window.pass_no,
            round=job.rounds,
            prompt_hash=sent.prompt_hash,
            text=None if reply.error is not None else reply.text,
            reasoning=answer.reasoning,
            verdict=answer.verdict,
            repairs=answer.repairs,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            finish_reason=reply.finish_reason if reply.error is None else "error",
            seconds=round(reply.seconds, 6),
            retries=reply.retries,
            error=reply.error,
            score=score,
            logprobs={word: round(value, 6) for word, value in reply.logprobs.items()} if window.score else None,
            requests=reply.extra.get("requests"),
            closed=bool(reply.extra.get("closed")),
        )
        if self.log is not None:
            self.log.append(record)
        self._take(sent.job, sent.window, record)
        done = self.counts["asked"] - len(self.flight)
        if self.owner.asks_model and self.counts["failed"] == done == GIVE_UP_AFTER:
            raise EngineError(f"the first {done} calls all failed; the last reason: {reply.error}")

    def _take(self, index: int, window_index: int, record: WindowRecord) -> None:
        job = self.jobs[index]
        self.records.append(record)
        self.counts[f"verdict_{record.verdict}"] += 1
        job.answers[window_index] = record.score if job.windows[window_index].score else record.order
        if self.bar is not None:
            self.bar.update(1)
        if len(job.answers) == len(job.windows):
            self._advance(index, [job.answers[i] for i in range(len(job.windows))])

    def _advance(self, index: int, answers: list[Answer] | None) -> None:
        """Send a query's strategy its answers, and put its next windows into the ready queue."""
        job = self.jobs[index]
        try:
            windows = next(job.strategy) if answers is None else job.strategy.send(answers)
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


def read_answer(reply: Reply, n: int, scored: bool, style: str) -> Parsed:
    """The order, verdict and reasoning of an answer over n passages; one that failed keeps the order.

    scored: the window is one passage, whose score is its answer, so that only the reasoning is read.
    """
    if reply.error is not None:
        return Parsed(tuple(range(n)), Verdict.FAILED)
    if scored:
        reasoning = reply.text.partition("</think>")[0].strip().removeprefix("<think>").strip()
        cut = reply.finish_reason == "length"  # scored all the same
        return Parsed((0,), Verdict.TRUNCATED if cut else Verdict.OK, reasoning=reasoning)
    parsed = parse_lenient(reply.text, n, style, reply.finish_reason or None)
    return replace(parsed, reasoning=reply.reasoning or parsed.reasoning)
