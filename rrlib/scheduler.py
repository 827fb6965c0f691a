"""One call of the reranker: the ready queue, the windows in flight, and the log.

One ready queue holds the windows of all queries of all collections. When a window's answer is parsed, that query's
next window becomes ready; the query with the longest remaining chain goes first; the engine is kept full. The released
code waits for a whole collection at every window position, which costs 1.5 to 2.1 times the critical path.

Longest chain first alone would finish all queries at the very end. So the queries are in cohorts (rrlib.jobs.cohorts):
the windows of an earlier cohort go first, and a later one fills the slots that they leave. Those with the longest
chains are in front: begun last, such a one would run on alone.

A query is handed out as soon as it is finished, and nothing of it is kept then: not its windows, which are read back
from the log where there is one, and not its passages as the prompts show them.
"""

from __future__ import annotations

import hashlib
import heapq
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Protocol

from rrlib.continuation import Continuation, joined, read_answer
from rrlib.engines import Decoding, Engine, Reply, Request
from rrlib.engines.replay import MISSING
from rrlib.errors import EngineError, InputError
from rrlib.jobs import Finished, Job, Progress, Sent, cohorts
from rrlib.logged import LoggedRecords
from rrlib.pieces import PreparedPrompts
from rrlib.prompts import PromptBuilder, PromptStyle
from rrlib.records import WindowLog, WindowRecord
from rrlib.sampling import SampledSpec, seed_of, with_first_stage
from rrlib.strategies import Answer, Window, plan
from rrlib.templates import whole_response
from rrlib.types import Candidates, Passage

SENT_TOGETHER = 16
"""Requests the engine gets at once, so that it need not wait for the prompts of all that it could take."""
LOOKED_AT_FIRST = 16
"""Queries whose lengths are looked at before work starts, of those whose limits do not settle that they fit."""
GIVE_UP_AFTER = 10  # if the first ten windows all fail, the fault is not theirs


class Settings(Protocol):
    """What a run needs of its reranker."""

    engine: Engine
    asks_model: bool
    style: PromptStyle
    strategy: SampledSpec
    depth: int | None
    decoding: Decoding
    continuation: Continuation
    prompts: PromptBuilder
    prepared: PreparedPrompts
    log_path: str | Path | None
    fresh: bool
    retry_failed: bool
    progress: bool
    on_window: Callable[[WindowRecord], None] | None

    def settings(self) -> dict[str, Any]:
        """What every log line records."""
        ...

    def fuses(self, candidates: Candidates) -> bool:
        """Whether the final order is fused with that of the first stage."""
        ...


class Run:
    """One reranking of many queries; `go` yields each as it is finished.

    last_id: the number of the request before the first. keep: whether a query's windows are handed out with it.
    records: to which every window is added as it finishes (LoggedRecords with a log alone), or None. Raises InputError
    for a query given twice or texts too long for the model.
    """

    def __init__(
        self,
        owner: Settings,
        candidates: Sequence[Candidates],
        last_id: int,
        progress: Progress,
        *,
        keep: bool,
        records: list[WindowRecord] | LoggedRecords | None = None,
    ) -> None:
        self.owner, self.engine, self.prepared = owner, owner.engine, owner.prepared
        self.jobs: dict[int, Job] = {}  # the queries that are not finished, by their place
        self.waiting: deque[int] = deque()  # those of them that have not begun
        self.counts, self.tally = progress
        self.keep, self.records = keep, records
        self.done: list[Finished] = []  # not yet handed out
        self.uses: Counter[Passage] = Counter()  # passage -> unfinished queries that may show it
        self.ready: list[tuple[float, int, int, int, int]] = []  # (end of cohort, -remaining depth, job, round, window)
        self.flight: dict[int, Sent] = {}
        self.log: WindowLog | None = None
        self.bar: Any = None
        self.room = 0, 0  # the model's positions, and what the answer takes of them
        self.last_id, self.again = last_id, 0  # windows asked again, whose call failed in an earlier run
        total, names = 0, set[tuple[str, str]]()
        for index, item in enumerate(candidates):
            name = (item.collection, item.query.qid)
            if name in names:
                raise InputError(f"query {name[1]!r} of collection {name[0]!r} is given twice")
            names.add(name)
            if owner.asks_model and item.passages and not item.query.text.strip():
                raise InputError(
                    f"query {item.query.qid!r} has no text", remedy="give its text, or leave the query out"
                )
            head = item.passages if owner.depth is None else item.passages[: owner.depth]
            cost = plan(owner.strategy.start, len(head))
            total += cost.calls
            self.jobs[index] = Job(item, head, owner.strategy.start(len(head)), cost.depth, cost.calls)
            self.uses.update(head)
        self.waiting.extend(sorted(self.jobs, key=lambda index: -self.jobs[index].depth))  # of equals as given
        self.longest, before = max((job.depth for job in self.jobs.values()), default=0), 0
        for index in self.waiting:
            self.jobs[index].place, before = before, before + self.jobs[index].calls
        self.slots, self.ends = 0, list[float]()  # the cohorts for so many slots: where each ends
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
        """Refuse before work starts what cannot fit the model: the longest window a query could ever show. Where limits
        do not settle it, the queries with the longest texts are looked at, and of the others each window as it is made:
        so the first request does not wait for all texts to be tokenized."""
        limit = getattr(self.engine, "max_model_len", None)
        tokenizer = self.owner.prompts.tokenizer
        if limit is None or tokenizer is None:
            return
        style, answer = self.owner.style, self.owner.decoding.max_new_tokens
        if style.words and not style.think:  # such a judge writes one of the words and no more
            answer = max(len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in style.words)
        self.room, widest, prepared = (limit, answer), self.owner.strategy.widest, self.prepared
        for job in self.jobs.values():
            job.doubtful = not prepared.surely_fits(job.candidates.query, job.head, widest, limit - answer)
        doubtful = [job for job in self.jobs.values() if job.doubtful]
        if len(doubtful) > LOOKED_AT_FIRST:
            doubtful.sort(key=lambda job: -prepared.characters(job.candidates.query, job.head, widest))
        for job in doubtful[:LOOKED_AT_FIRST]:
            prepared.check_fits(job.candidates.query, job.head, widest, limit, answer)
            job.doubtful = False

    def go(self) -> Iterator[Finished]:
        """Rerank, and yield the queries as they are finished. Raises EngineError where no call succeeds."""
        while self.waiting or self.ready or self.flight:
            self._fill()
            while self.done:
                yield self.done.pop(0)
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
        asked, none = self.counts["asked"], self.tally.failed == self.tally.windows
        if asked and self.counts["failed"] == asked and (none or asked > self.again) and self.owner.asks_model:
            raise EngineError(f"every call failed; the last reason: {self.tally.last_error}")
        while self.done:
            yield self.done.pop(0)

    def _end_of_cohort(self, job: Job) -> float:
        """Where the cohort of a query ends, in windows. An engine may find out how much it can take while it works."""
        if self.slots != self.engine.capacity:
            self.slots = self.engine.capacity
            self.ends = [*cohorts(self.counts["windows"], self.longest, self.slots), inf]
        return self.ends[bisect_right(self.ends, job.place)]

    def _open(self) -> None:
        """Begin the queries whose cohort's turn it is: that of the first ready window, or the next where none is."""
        while self.waiting and (not self.ready or self._end_of_cohort(self.jobs[self.waiting[0]]) <= self.ready[0][0]):
            self._advance(self.waiting.popleft(), None)

    def _fill(self) -> None:
        """Send ready windows, longest remaining chain of the first cohort first, until the engine is full, or until a
        query is finished by windows of the log and can be handed out."""
        batch: list[Request] = []
        done = len(self.done)
        while len(self.flight) < self.engine.capacity and len(self.done) == done:
            self._open()
            if not self.ready:
                break
            _, _, index, round_no, window_index = heapq.heappop(self.ready)
            job = self.jobs[index]
            window = job.windows[window_index]
            assert round_no == job.rounds
            key, source_hash = job.key(window), self._source_hash(job, window)
            logged = self.log.get(key) if self.log is not None else None
            made = None if logged is not None and self._same(logged, source_hash) else self._request(job, window)
            if logged is not None and (made is None or self._usable(logged, made[1])):
                self.last_id += made is None  # the numbers of those behind it, as if it had been made
                self.counts["reused"] += 1
                self._take(index, window_index, logged, self.log.place(key) if self.log is not None else None)
                continue
            assert made is not None
            if self.log is not None:
                self.log.asked(key)
            request, prompt_hash = made
            sent = Sent(index, window_index, prompt_hash, request, source_hash)
            if self.owner.continuation.budget == 0 and request.prompt is not None:  # nothing to think: close it at once
                sent = self._onward(sent, Reply(finish_reason="length")) or sent
            self.flight[sent.request.id] = sent
            self.counts["asked"] += 1
            batch.append(sent.request)
            if len(batch) == SENT_TOGETHER:
                self.engine.submit(batch, self.owner.decoding)
                batch = []
        if batch:
            self.engine.submit(batch, self.owner.decoding)

    def _source_hash(self, job: Job, window: Window) -> str | None:
        """What a window's prompt is made of, where there is a log to hold it against that tells it."""
        if self.log is None or not self.log.tells_source or not self.owner.asks_model:
            return None
        return self.prepared.source_hash(job.candidates.query.text, [job.head[i] for i in window.items])

    def _same(self, record: WindowRecord, source_hash: str | None) -> bool:
        """Whether a record is that of a prompt made of the same, so that the prompt need not be made to tell. Where
        that is not known, the prompt says so itself (`_usable`)."""
        again = self.owner.retry_failed and record.error is not None
        return not again and source_hash is not None and record.source_hash == source_hash

    def _usable(self, record: WindowRecord, prompt_hash: str | None) -> bool:
        assert self.log is not None
        name = record.collection, record.qid
        if self.owner.retry_failed and record.error is not None:
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

    def _request(self, job: Job, window: Window) -> tuple[Request, str | None]:
        """The request for a window, and the hash of its prompt; an engine that asks no model gets the key alone."""
        self.last_id += 1
        prompts, key, query = self.owner.prompts, job.key(window), job.candidates.query
        seed = None if window.sample is None else seed_of(self.owner.decoding.seed, key)
        if not self.owner.asks_model:
            return Request(self.last_id, key=key), None
        passages = [job.head[i] for i in window.items]
        prompt, ids = self.prepared.window(query.text, passages) if prompts.tokenizer is not None else (None, None)
        if job.doubtful and (ids is None or len(ids) > self.room[0] - self.room[1]):
            self.prepared.check_fits(query, passages, None, *self.room)
        messages = prompts.messages(query.text, passages)
        shown = prompt if prompt is not None else "\n".join(message["content"] for message in messages)
        digest = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self.owner.continuation.begin(Request(self.last_id, messages, prompt, ids, key, seed=seed)), digest

    def _onward(self, sent: Sent, reply: Reply) -> Sent | None:
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
        begun_behind = sent.begun_behind or sent.request.prompt
        return replace(sent, request=request, before=so_far, begun_behind=begun_behind)

    def _finish(self, sent: Sent, reply: Reply) -> None:
        """Parse an answer, log it, and let its query go on."""
        job = self.jobs[sent.job]
        window = job.windows[sent.window]
        score = self.owner.continuation.score(reply) if window.score else None
        if reply.error is None and window.score and score is None:
            reply = replace(reply, error="no log-probabilities that are numbers")
        again = self.log is not None and self.log.had_failed(job.key(window))
        self.again += again
        if reply.error is not None:
            self.counts["missing" if reply.error == MISSING else "failed"] += 1
        if self.owner.asks_model and not self.owner.style.prefill:  # what is recorded is whole already
            prompt = sent.begun_behind or sent.request.prompt
            reply = replace(reply, text=whole_response(prompt, reply.text, self.owner.style.think))
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
            source_hash=sent.source_hash,
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
            logprobs=None if score is None else {word: round(value, 6) for word, value in reply.logprobs.items()},
            requests=reply.extra.get("requests"),
            closed=bool(reply.extra.get("closed")),
            sample=window.sample or 0,
            seed=sent.request.seed,
        )
        place = self.log.append(record) if self.log is not None else None
        self._take(sent.job, sent.window, record, place)
        done = self.counts["asked"] - len(self.flight)
        if self.owner.asks_model and self.counts["failed"] == done == GIVE_UP_AFTER + self.again and not again:
            raise EngineError(f"the first {done} calls all failed; the last reason: {reply.error}")

    def _take(self, index: int, window_index: int, record: WindowRecord, place: int | None) -> None:
        """Count a finished window and let its query go on. place: in the log."""
        job = self.jobs[index]
        self.tally.take(record)
        if isinstance(self.records, LoggedRecords):
            assert place is not None
            self.records.take(record, place)
        elif self.records is not None:
            self.records.append(record)
        if self.keep:
            job.kept.append(record if place is None else place)
        self.counts[f"verdict_{record.verdict}"] += 1
        if self.owner.on_window is not None:
            self.owner.on_window(record)
        window = job.windows[window_index]
        lost = window.sample is not None and record.unread  # the order that it kept is no vote among samples
        job.answers[window_index] = record.score if window.score else None if lost else record.order
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
            self._end(index, stop.value)
            return
        job.rounds += answers is not None
        job.note(windows)
        end = self._end_of_cohort(job)
        for window_index in range(len(windows)):
            heapq.heappush(self.ready, (end, -(job.depth - job.rounds), index, job.rounds, window_index))

    def _end(self, index: int, order: Sequence[int]) -> None:
        """A query is finished: it waits to be handed out, and what was kept for it is dropped."""
        job = self.jobs.pop(index)
        tail = job.candidates.passages[len(job.head) :]
        order = with_first_stage(order) if self.owner.fuses(job.candidates) else order
        docids = [job.head[i].docid for i in order] + [p.docid for p in tail]
        windows = [self.log.read(w) if self.log is not None and isinstance(w, int) else w for w in job.kept]
        self.done.append(Finished(job.candidates, docids, [w for w in windows if isinstance(w, WindowRecord)]))
        self.uses.subtract(job.head)
        last = [passage for passage in job.head if self.uses[passage] < 1]
        for passage in last:
            del self.uses[passage]
        self.prepared.forget(last)

    def close(self, *, finished: bool) -> None:
        """Let go of the log and of what is cached; finished: nothing is in flight."""
        self.prepared.forget(self.uses)
        if self.bar is not None:
            self.bar.close()
        if self.log is not None:
            self.log.close(finished=finished)
