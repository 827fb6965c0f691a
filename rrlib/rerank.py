"""The reranker: many queries' strategies over one engine, without barriers.

One ready queue holds the windows of all queries of all collections. When a window's answer is parsed, that query's
next window becomes ready; the query with the longest remaining chain goes first; the engine is kept full. The released
code waits for a whole collection at every window position, which costs 1.5 to 2.1 times the critical path.
"""

from __future__ import annotations

import hashlib
import heapq
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rrlib.continuation import Continuation, joined, read_answer
from rrlib.engines import Decoding, Engine, Reply, Request, engine_from
from rrlib.engines.replay import MISSING
from rrlib.engines.shared import alone
from rrlib.engines.trained import settings_for
from rrlib.errors import EngineError, InputError
from rrlib.formats.objects import candidates_from, check_top_k, question_from
from rrlib.prompts import PromptBuilder, get_style
from rrlib.records import Key, Ranking, RerankResult, WindowLog, WindowRecord
from rrlib.resources import model_hash
from rrlib.strategies import Answer, Strategy, StrategySpec, Window, plan
from rrlib.templates import whole_response
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
    its place behind them. passes, best: of rrlib.strategies.StrategySpec.
    log: a JSONL file that keeps every window and from which a killed run goes on.
    budget: reasoning tokens (0 or more; None: no limit of its own). A chain that is longer is closed there and the
    answer still asked for, within decoding.max_new_tokens in all; the prompt must be known (a tokenizer).
    style, window, stride, max_passage_tokens: None is what the checkpoint was trained with (rrlib.engines.trained).
    retry_failed: on resume, ask windows again whose call had failed. engine_options: see rrlib.engines.make_engine.
    """

    def __init__(
        self,
        model: str | Path | Engine,
        engine: str = "transformers",
        *,
        style: str | None = None,
        strategy: str = "sliding_window",
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
        **engine_options: Any,
    ) -> None:
        asked = {"style": style, "window": window, "stride": stride, "max_passage_tokens": max_passage_tokens}
        chosen = settings_for(model, strategy, asked)
        self.style = get_style(chosen["style"])
        self.strategy = StrategySpec(strategy, chosen["window"], chosen["stride"], passes, best)
        if depth is not None and depth < 0:
            raise InputError(f"depth {depth}", remedy="give 0 or more")
        self.depth, self.max_passage_tokens = depth, int(chosen["max_passage_tokens"])
        self.decoding = decoding or Decoding()
        self.log_path, self.fresh, self.retry_failed, self.progress = log, fresh, retry_failed, progress
        if (self.style.words is not None) != (self.strategy.name == "pointwise"):
            raise InputError(
                f"style {self.style.name!r} with strategy {self.strategy.name!r}",
                remedy="the pointwise strategy takes a pointwise style, and the others a listwise one",
            )
        self.continuation = Continuation(self.style, budget, self.decoding)
        own = list(inspect.signature(Reranker.__init__).parameters)[1:-1]
        self.engine = engine_from(model, engine, engine_options, own)
        self.asks_model = getattr(self.engine, "asks_model", True)  # an engine of one's own need not say so
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
        self.on_window: Callable[[WindowRecord], None] | None = None  # told of every window as it is finished

    def settings(self) -> dict[str, Any]:
        """What every log line records, and what must be equal for a resume. weights: of a checkpoint in a folder, which
        may then be moved."""
        given = {"budget": self.continuation.budget, "best": self.strategy.best}
        limits: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
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

    def rank(self, query: str | Query, docs: Any, doc_ids: Any = None, top_k: int | None = None) -> Ranking:
        """Rank a few texts for a query: a list of texts, a dict of id -> text, a table (rrlib.formats.objects).

        doc_ids: their ids, "1", "2", ... where none are given; numbers are written out. top_k: the best so many alone.
        Raises InputError for what is no query or holds no texts.
        """
        check_top_k(top_k)
        question = question_from(query, docs, doc_ids)
        result = self.rerank([question])
        order = result.rankings[(question.collection, question.query.qid)]
        return Ranking.of(order, question.passages, result.records, top_k)

    def rerank(self, candidates: Iterable[Candidates]) -> RerankResult:
        """Rerank many queries. Raises InputError for a query given twice or texts too long for the model.

        May be called from several threads: one reranking at a time, the others wait. After an error or an interrupt
        the reranker can be used again.
        """
        items = candidates_from(candidates)
        with alone(self.engine) as turn:
            run = _Run(self, items, turn.first)
            try:
                result = run.go()
            except BaseException:
                turn.first = run.last_id
                run.close(finished=False)
                raise
            run.close(finished=True)
        return result


class _Run:
    """One call of `rerank`: the ready queue, the windows in flight, and the log."""

    def __init__(self, owner: Reranker, candidates: Sequence[Candidates], last_id: int) -> None:
        self.owner, self.engine = owner, owner.engine
        self.jobs: list[_Job] = []
        self.records: list[WindowRecord] = []
        self.counts: Counter[str] = Counter()
        self.ready: list[tuple[int, int, int, int]] = []  # (-remaining depth, job, round, window)
        self.flight: dict[int, _Sent] = {}
        self.rankings: dict[tuple[str, str], list[str]] = {}
        self.log: WindowLog | None = None
        self.bar: Any = None
        self.last_id = last_id
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
            owner.fresh = False  # the next call goes on with it
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
        for job in self.jobs:
            query, answer = job.candidates.query, self.owner.decoding.max_new_tokens
            self.owner.prompts.check_fits(query, job.head, self.owner.strategy.widest, limit, answer)

    def go(self) -> RerankResult:
        for index in range(len(self.jobs)):
            self._advance(index, None)
        while self.ready or self.flight:
            self._fill()
            if not self.flight:
                continue  # every ready window was in the log
            further: list[Request] = []
            for number, reply in self.engine.collect():
                sent = self.flight.pop(number, None)
                if sent is None:
                    continue  # of a reranking that broke off
                reply = reply if sent.before is None else joined(sent.before, reply)
                onward = self._onward(sent, reply)
                if onward is None:
                    self._finish(sent, reply)
                else:
                    self.flight[onward.request.id] = onward
                    further.append(onward.request)
            if further:
                self.engine.submit(further, self.owner.decoding)
        self.counts["windows"] = self.counts["asked"] + self.counts["reused"]  # which may be others than planned
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
        assert self.log is not None
        name = record.collection, record.qid
        if self.owner.retry_failed and record.error:
            self.log.retried.add(name)
            return False
        if record.prompt_hash == prompt_hash:
            return True
        if name in self.log.retried:  # a window behind a retried one may see other passages now
            return False
        raise InputError(
            f"query {record.qid}: window {record.start}-{record.end} was logged for another prompt",
            path=self.log.path,
            remedy="the run, texts or tokenizer have changed: name another --log, or begin anew with --fresh",
        )

    def _request(self, job: _Job, window: Window) -> tuple[Request, str | None]:
        """The request for a window, and the hash of its prompt; an engine that asks no model gets the key alone."""
        self.last_id += 1
        prompts, key, query = self.owner.prompts, job.key(window), job.candidates.query
        if not self.owner.asks_model:
            return Request(self.last_id, key=key), None
        passages = [job.head[i] for i in window.items]
        messages = prompts.messages(query.text, passages)
        prompt = prompts.render(query.text, passages) if prompts.tokenizer is not None else None
        shown = prompt if prompt is not None else "\n".join(message["content"] for message in messages)
        digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self.owner.continuation.begin(Request(self.last_id, messages, prompt, key=key)), digest

    def _onward(self, sent: _Sent, reply: Reply) -> _Sent | None:
        """What is asked next to go on with an answer, and None where it is complete."""
        if reply.error is not None or sent.request.prompt is None or sent.request.choices:
            return None
        self.last_id += 1  # where nothing follows too: sampling is seeded by these numbers
        second = self.owner.continuation.go_on(self.last_id, sent.request, reply, sent.before)
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
        if self.owner.asks_model and not self.owner.style.prefill:  # what is recorded is whole already
            reply = replace(reply, text=whole_response(sent.request.prompt, reply.text, self.owner.style.think))
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
        if self.owner.on_window is not None:
            self.owner.on_window(record)
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
