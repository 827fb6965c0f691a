"""The systems of an experiment: what ranks the candidates, and what it would cost, known before any model is loaded.

Every system ranks the same candidates of the same benchmark. `Listwise` and `Pointwise` drive rrlib.rerank over any
engine. Those without a model are in rrlib.evaluation.orders, those made of others in rrlib.evaluation.mixtures.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rrlib.continuation import Continuation, check_pair
from rrlib.engines import Decoding
from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.formats import ranking_to_run
from rrlib.logged import LoggedRecords
from rrlib.pieces import PreparedPrompts
from rrlib.prompts import PromptBuilder, get_style
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.strategies import StrategySpec, plan
from rrlib.types import Candidates, Run

READ_HERE = ("transformers", "vllm", "numpy")
"""Engines whose model is named by a folder or hub name, so that its tokenizer and length are at hand."""


@dataclass
class Outcome:
    """What a system did on one benchmark: a scored run, its window records, wall seconds (None: nothing was run).

    info: what it chose or found on the way (weight, effective window, router's threshold, ...).
    """

    run: Run
    records: list[WindowRecord] = field(default_factory=list)
    seconds: float | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a system would cost on a benchmark: calls exactly, tokens as upper bounds (0: no model). Where the answers
    decide what is asked next (rrlib.strategies.plan), both hold for answers that change nothing.

    longest: tokens of the longest prompt a window could show; limit: positions of the model (None: not known).
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    longest: int = 0
    limit: int | None = None


Peer = Callable[[str, BenchmarkData], Outcome]
"""Gives the outcome of another system of the experiment, by name, running it first if need be."""


class System(Protocol):
    """What an experiment asks of a system."""

    def needs(self) -> tuple[str, ...]:
        """Names of the systems it builds on."""

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        """What it will cost. Raises InputError for what cannot work. Loads no model."""

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        """Rank the candidates of each benchmark. log: where window records are kept, for resuming."""


# --- models ----------------------------------------------------------------------------------------------------------


class Fit(StrEnum):
    """What gives way where a window does not fit into the context."""

    NOTHING = ""
    """It is refused, before a model is loaded."""

    PASSAGES = "passages"
    """Passages are cut shorter, evenly."""

    WINDOW = "window"
    """The window holds fewer passages, its stride in proportion."""


@dataclass(frozen=True)
class Listwise:
    """A listwise reranker: any checkpoint or hub model, any engine, with or without reasoning.

    model: folder, hub name, `.gguf` file, or `package:module/folder`. style: `nothink_tags`, `nothink` do not reason.
    window, stride, depth, max_passage_tokens: None takes the benchmark's. budget: reasoning tokens (None: no limit of
    its own). shuffle: a seed; the candidates are shown in a random order instead of the first stage's. context: tokens
    of prompt and answer together; fit: what gives way where a window does not fit (a Fit). engine_options,
    with_first_stage: of rrlib.rerank.Reranker.
    """

    model: str
    engine: str = "transformers"
    style: str = "reasonrank"
    strategy: str = "sliding_window"
    window: int | None = None
    stride: int | None = None
    passes: int = 1
    depth: int | None = None
    max_passage_tokens: int | None = None
    decoding: Decoding = field(default_factory=Decoding)
    budget: int | None = None
    shuffle: int | None = None
    context: int | None = None
    fit: str = Fit.NOTHING.value
    with_first_stage: bool | None = None
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    def needs(self) -> tuple[str, ...]:
        """It builds on no other system."""
        return ()

    # -- sizes
    def sizes(self, data: BenchmarkData) -> dict[str, int]:
        """window, stride, depth and max_passage_tokens on this benchmark."""
        spec = data.spec
        window = self.window if self.window is not None else spec.window
        stride = self.stride if self.stride is not None else min(spec.stride, window)
        return {
            "window": window,
            "stride": stride,
            "depth": self.depth if self.depth is not None else spec.depth,
            "max_passage_tokens": self.max_passage_tokens or spec.max_passage_tokens,
        }

    def candidates(self, data: BenchmarkData) -> list[Candidates]:
        """The candidates as they are shown: cut to the depth, and shuffled where that is asked for."""
        candidates = data.candidates(self.sizes(data)["depth"])
        if self.shuffle is None:
            return candidates
        out = []
        for request in candidates:
            order = list(range(len(request.passages)))
            random.Random(f"{self.shuffle}/{request.query.qid}").shuffle(order)
            out.append(replace(request, passages=tuple(request.passages[i] for i in order), scores=()))
        return out

    def fitting_sizes(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> dict[str, int]:
        """`sizes`, cut as `fit` says so that every window of these candidates fits; as they are where no tokenizer is
        known. Texts are tokenized only where their limit does not settle it. Raises InputError where one does not
        fit."""
        limit = self._limit()
        if limit is None or self._tokenizer() is None:
            return self.sizes(data)
        sizes, room = self.sizes(data), limit - self.decoding.max_new_tokens
        prompts, widest = self._prompts(sizes["max_passage_tokens"]), self._spec(sizes).widest
        depth = sizes["depth"]
        doubtful = [c for c in candidates if not prompts.surely_fits(c.query, c.passages[:depth], widest, room)]
        return self._fitted(data, doubtful, limit)[0] if doubtful else sizes

    def _spec(self, sizes: Mapping[str, int]) -> StrategySpec:
        return StrategySpec(self.strategy, sizes["window"], sizes["stride"], self.passes)

    # -- before a model is loaded
    def refuse(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> None:
        """Raise InputError for what `check` refuses, and count nothing: for a run whose cost nobody asks for."""
        self._answers()
        self._spec(self.fitting_sizes(data, candidates))

    def _answers(self) -> Continuation:
        """How its answers go on. Raises InputError for options that do not go together."""
        style = get_style(self.style)
        check_pair(style, self.strategy)
        if self.fit not in tuple(Fit):
            raise InputError(f"fit={self.fit!r}", remedy="use passages, window, or leave it out")
        return Continuation(style, self.budget, self.decoding)

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        """Count calls, bound tokens, and hold the longest window against the model's positions (its config alone). Of
        more passages than prompts keep, none is tokenized that fits by its limit: the bound is then that of the limit,
        more than twice as high where passages are long."""
        again = self._answers().needed  # a second request reads the first and its answer
        sizes, limit, tokenizer = self.sizes(data), self._limit(), self._tokenizer()
        if tokenizer is None:
            spec = self._spec(sizes)
            calls = sum(plan(spec.start, min(len(c.passages), sizes["depth"])).calls for c in candidates)
            return Cost(calls, 0, calls * self.decoding.max_new_tokens, limit=limit)
        sizes, longest = self._fitted(data, candidates, limit)
        spec, calls, bound = self._spec(sizes), 0, 0
        for request, tokens in zip(candidates, longest, strict=True):
            asked = plan(spec.start, min(len(request.passages), sizes["depth"])).calls
            read = 2 * tokens + self.decoding.max_new_tokens if again else tokens
            calls, bound = calls + asked, bound + asked * read
        return Cost(calls, bound, calls * self.decoding.max_new_tokens, max(longest, default=0), limit)

    def _tokenizer(self) -> Any:
        name = self.model if self.engine in READ_HERE else self.engine_options.get("tokenizer")
        if name is None or self.engine == "replay":
            return None
        return _cached_prompts(str(name), 0).builder.tokenizer

    def _prompts(self, max_passage_tokens: int) -> PreparedPrompts:
        """This system's prompts; passages that another system prepared for the same tokenizer are kept."""
        name = self.model if self.engine in READ_HERE else self.engine_options["tokenizer"]
        return _cached_prompts(str(name), max_passage_tokens).in_style(self.style)

    def _limit(self) -> int | None:
        """Tokens that prompt and answer may have: `context`, vLLM's max_model_len, or the model's positions."""
        given = self.context or self.engine_options.get("max_model_len")
        if given is not None or self.engine not in READ_HERE:
            return given
        from transformers import AutoConfig

        from rrlib.resources import resolve

        try:
            config = AutoConfig.from_pretrained(resolve(self.model))
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot read the configuration of {self.model!r}: {str(error).splitlines()[0]}",
                remedy="name a folder with config.json, or a hub name that this machine can reach",
            ) from error
        return int(getattr(config, "max_position_embeddings", 0)) or None

    def _fitted(
        self, data: BenchmarkData, candidates: Sequence[Candidates], limit: int | None
    ) -> tuple[dict[str, int], list[int]]:
        """The sizes with which every window fits, and the longest prompt of each query. Raises InputError."""
        sizes = self.sizes(data)
        room = None if limit is None else limit - self.decoding.max_new_tokens

        prompts = self._prompts(sizes["max_passage_tokens"])
        counted = prompts.builder.keeps(len({p for c in candidates for p in c.passages[: sizes["depth"]]}))

        def bound(item: Candidates, widest: int | None) -> int:
            head = item.passages[: sizes["depth"]]
            if not counted and (room is None or prompts.surely_fits(item.query, head, widest, room)):
                return prompts.at_most(item.query, head, widest)
            return prompts.bound(item.query.text, head, widest)

        def bounds() -> list[int]:
            widest = self._spec(sizes).widest
            return [bound(item, widest) for item in candidates]

        longest = bounds()
        ratio = sizes["stride"] / sizes["window"]
        while room is not None and max(longest, default=0) > room:
            worst = max(range(len(longest)), key=lambda i: longest[i])
            excess = longest[worst] - room
            if self.fit == Fit.PASSAGES and sizes["max_passage_tokens"] > 8:
                step = max(1, excess // max(1, sizes["window"]))
                sizes["max_passage_tokens"] = max(8, sizes["max_passage_tokens"] - step)
                prompts = self._prompts(sizes["max_passage_tokens"])
            elif self.fit == Fit.WINDOW and sizes["window"] > 2:
                sizes["window"] -= 1
                sizes["stride"] = max(1, round(ratio * sizes["window"]))
            else:
                raise InputError(
                    f"{data.name}, query {candidates[worst].query.qid}: a window may hold {longest[worst]} prompt "
                    f"tokens, and there is room for {room} ({limit} less {self.decoding.max_new_tokens} new ones)",
                    remedy="use a smaller window, shorter passages or answers, or fit='passages' or 'window'",
                )
            longest = bounds()
        return sizes, longest

    # -- the work
    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        """Rerank benchmarks of like sizes in one queue, so that the engine never waits for the last query of a set."""
        import time

        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        candidates = [self.candidates(benchmark) for benchmark in data]
        for i, benchmark in enumerate(data):
            sizes = self.fitting_sizes(benchmark, candidates[i])
            groups.setdefault(tuple(sizes.items()), []).append(i)
        outcomes: dict[int, Outcome] = {}
        engine = self._open()
        try:
            for number, (key, members) in enumerate(groups.items()):
                sizes = dict(key)
                path = None if log is None else log if len(groups) == 1 else log.with_suffix(f".{number}.jsonl")
                reranker = Reranker(
                    engine,
                    style=self.style,
                    strategy=self.strategy,
                    passes=self.passes,
                    decoding=self.decoding,
                    budget=self.budget,
                    log=path,
                    with_first_stage=self.with_first_stage,
                    **sizes,  # type: ignore[arg-type]
                )
                self._share(reranker)
                began = time.perf_counter()
                result = reranker.rerank([c for i in members for c in candidates[i]])
                seconds = time.perf_counter() - began
                parts = _by_collection(result.records)
                for i in members:
                    outcomes[i] = self._outcome(data[i], result, parts, seconds, sizes)
        finally:
            engine.close()
        return [outcomes[i] for i in range(len(data))]

    def _share(self, reranker: Reranker) -> None:
        """Give a reranker the passages that were prepared for its check, where its engine has the same tokenizer."""
        if reranker.prompts.tokenizer is None or self._tokenizer() is None:
            return
        ours = self._prompts(reranker.max_passage_tokens)
        if ours.identity is not None and ours.identity == reranker.prepared.identity:
            reranker.prompts, reranker.prepared = ours.builder, ours

    def _open(self) -> Any:
        from rrlib.engines import make_engine

        return make_engine(self.engine, self.model, **dict(self.engine_options))

    def _outcome(
        self, data: BenchmarkData, result: Any, parts: Mapping[str, Part], seconds: float, sizes: dict[str, int]
    ) -> Outcome:
        records, own, _ = parts.get(data.name, Part([], 0.0, 0.0))
        waited, fresh = sum(part.waited for part in parts.values()), sum(part.fresh for part in parts.values())
        info: dict[str, Any] = dict(sizes)
        if result.counts.get("reused"):
            info["windows_reused"] = int(result.counts["reused"])
        spent = seconds * own / fresh if fresh else None if waited else seconds
        return Outcome(self._run(data, result.run(data.name), records), records, spent, info)

    def _run(self, data: BenchmarkData, rankings: Mapping[str, Sequence[str]], records: list[WindowRecord]) -> Run:
        """Ranks as strictly falling scores; first-stage documents below the depth stand behind, in their order."""
        lists = {}
        for qid, docids in rankings.items():
            head = set(docids)
            lists[qid] = [*docids, *(hit.docid for hit in data.need_run()[qid] if hit.docid not in head)]
        return ranking_to_run(lists)

    def settings(self) -> dict[str, Any]:
        """What its results depend on, for the record and for skipping what is there."""
        return {"kind": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class Pointwise(Listwise):
    """A pointwise reranker: each passage judged on its own, scored by the probability of the word for relevant.

    style: `pointwise` (a chain, then true or false), `pointwise_nothink` (the word alone), or `rank1` for the released
    Rank1 checkpoints.
    """

    style: str = "pointwise"
    strategy: str = "pointwise"


class Part(NamedTuple):
    """The records of one benchmark, and the seconds that its windows waited: all of them, and those of this run.

    Windows read back from the log (they carry its settings) took no time now: what is new stands for the whole.
    """

    records: list[WindowRecord]
    waited: float
    fresh: float


def _by_collection(records: Sequence[WindowRecord]) -> dict[str, Part]:
    indices: dict[str, list[int]] = {}
    waited, fresh = defaultdict[str, float](float), defaultdict[str, float](float)
    for i, record in enumerate(records):
        indices.setdefault(record.collection, []).append(i)
        waited[record.collection] += record.seconds
        fresh[record.collection] += record.seconds if record.settings is None else 0
    chosen: Any = records.at if isinstance(records, LoggedRecords) else lambda places: [records[i] for i in places]
    return {name: Part(chosen(places), waited[name], fresh[name]) for name, places in indices.items()}


@lru_cache(maxsize=4)
def _cached_prompts(tokenizer: str, max_passage_tokens: int) -> PreparedPrompts:
    """One a tokenizer and limit (0: the tokenizer alone), so that a passage is prepared once for all systems."""
    from rrlib.engines.hf import load_tokenizer

    if max_passage_tokens == 0:
        return PreparedPrompts(PromptBuilder(load_tokenizer(tokenizer)))
    like = _cached_prompts(tokenizer, 0)
    return PreparedPrompts(PromptBuilder(like.builder.tokenizer, max_passage_tokens=max_passage_tokens), like)
