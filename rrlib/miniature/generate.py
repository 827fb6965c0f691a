"""From the world to a collection folder: corpus, queries with gold answers, candidate pools, labels, first stage.

Everything is drawn from `random.Random` streams named after the seed, so one seed gives one set of bytes. The three
splits share no combination of (concept, cue pair, topic). A pool holds 1 to 6 relevant passages, passages about the
rivals that a single cue would suggest (often with the query's topic, so that words mislead) and others; bm25s orders
it, equal scores by document id, and document ids are dealt at random.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.disk import read_json
from rrlib.errors import InputError
from rrlib.formats import write_jsonl, write_lines, write_qrels, write_scored_run
from rrlib.miniature.world import Cue, Domain, Topic, World, load_world
from rrlib.retrieval import Bm25
from rrlib.types import Hit, Passage, Qrels, Run

SPLITS = ("train", "validation", "test")
RELEVANT_WEIGHTS = (10, 20, 25, 20, 15, 10)
"""How often a pool holds 1, 2, ..., 6 relevant passages, in percent."""
TOPIC_SHARE_RELEVANT, TOPIC_SHARE_RIVAL, TOPIC_SHARE_OTHER = 0.5, 0.5, 0.4
"""How often a relevant, rival or other passage of a pool carries the topic of the query."""


@dataclass(frozen=True, slots=True)
class WorldPassage:
    """A passage and where it comes from."""

    docid: str
    text: str
    domain: str
    concept: str
    topic: Topic


@dataclass(frozen=True, slots=True)
class WorldQuery:
    """A query and what it is made of. `rivals` are the concepts that one of its cues alone would suggest."""

    qid: str
    text: str
    domain: str
    concept: str
    cues: tuple[Cue, Cue]
    topic: Topic
    split: str = "train"

    @property
    def rivals(self) -> tuple[str, str]:
        return self.cues[0].rival(self.concept), self.cues[1].rival(self.concept)


def choose_domains(world: World, domains: Sequence[str] | None) -> World:
    """The world with these domains alone. Raises InputError for unknown ones."""
    if domains is None:
        return world
    unknown = [name for name in domains if name not in world.domains]
    if unknown or not domains:
        raise InputError(f"unknown domains: {unknown}", remedy=f"choose from {', '.join(world.domains)}")
    return World({name: world.domains[name] for name in world.domains if name in domains})


def make_corpus(world: World, seed: int, topics_per_evidence: int = 6) -> list[WorldPassage]:
    """Every piece of evidence under `topics_per_evidence` topics, evenly spread, in the order of the document ids."""
    rng = random.Random(f"{seed}/corpus")
    drawn: list[tuple[Domain, str, Topic, str]] = []
    for domain in world.domains.values():
        size = len(domain.topics)
        if not 1 <= topics_per_evidence <= size:
            raise InputError(f"topics_per_evidence is {topics_per_evidence}", remedy=f"give 1 to {size}")
        for concept in domain.concepts.values():
            topics = rng.sample(domain.topics, size)
            step = size / len(concept.evidence)
            for j, evidence in enumerate(concept.evidence):
                for i in range(topics_per_evidence):
                    drawn.append((domain, concept.name, topics[(int(j * step) + i) % size], evidence))
    rng.shuffle(drawn)
    width = len(str(len(drawn)))
    return [
        WorldPassage(f"m{i:0{width}d}", domain.passage_text(topic, evidence), domain.name, concept, topic)
        for i, (domain, concept, topic, evidence) in enumerate(drawn, 1)
    ]


def make_queries(world: World, seed: int, sizes: dict[str, int]) -> list[WorldQuery]:
    """Queries of all splits, the domains in turn; no two share (concept, cue pair, topic)."""
    if any(size < 0 for size in sizes.values()):
        raise InputError(f"split sizes are {sizes}", remedy="give sizes of 0 or more")
    rng = random.Random(f"{seed}/queries")
    by_domain = []
    for domain in world.domains.values():
        rows = [
            (domain, concept, pair, topic)
            for concept in domain.concepts
            for pair in domain.decisive_pairs(concept)
            for topic in domain.topics
        ]
        rng.shuffle(rows)
        by_domain.append(rows)
    in_turn = [row for rank in range(max(map(len, by_domain))) for rows in by_domain for row in rows[rank : rank + 1]]
    if sum(sizes.values()) > len(in_turn):
        raise InputError(
            f"{sum(sizes.values())} queries are asked for, the world has {len(in_turn)} combinations",
            remedy="ask for fewer, or use more domains",
        )
    out, taken = [], 0
    for split in ("test", "validation", "train"):  # so that more training queries leave the test queries as they are
        size = sizes.get(split, 0)
        for i, (domain, concept, pair, topic) in enumerate(in_turn[taken : taken + size], 1):
            # cues and words of a query have a stream of their own, so no query depends on how many there are
            own = random.Random(f"{seed}/{concept}/{pair[0].text}/{pair[1].text}/{topic.phrase}")
            cues = pair if own.random() < 0.5 else (pair[1], pair[0])
            text = domain.query_text(topic, cues, own.choice(domain.questions))
            out.append(WorldQuery(f"{split}-{i:04d}", text, domain.name, concept, cues, topic, split))
        taken += size
    return out


class PoolMaker:
    """Draws the candidate pool of a query: relevant, rival and other passages, some with the topic of the query."""

    def __init__(self, passages: Sequence[WorldPassage]) -> None:
        self.passages = tuple(passages)
        self.by_concept: dict[str, list[WorldPassage]] = {}
        self.by_topic: dict[tuple[str, str], list[WorldPassage]] = {}
        for passage in passages:
            self.by_concept.setdefault(passage.concept, []).append(passage)
            self.by_topic.setdefault((passage.domain, passage.topic.word), []).append(passage)

    def draw(self, query: WorldQuery, size: int, rng: random.Random, relevant: int | None = None) -> list[WorldPassage]:
        """`size` distinct passages in random order; `relevant` of them (None: 1 to 6, by RELEVANT_WEIGHTS). Raises
        InputError where there are not so many."""
        if relevant is None:
            most = max(1, min(6, size // 3))
            relevant = rng.choices(range(1, most + 1), RELEVANT_WEIGHTS[:most])[0]
        rivals = min(round(size * rng.uniform(0.2, 0.3)), size - relevant)
        chosen: dict[str, WorldPassage] = {}

        def take(count: int, pool: list[WorldPassage], share: float) -> None:
            same = self.by_topic.get((query.domain, query.topic.word), [])
            allowed = {p.docid for p in pool}
            with_topic = [p for p in same if p.docid in allowed]
            for _ in range(count):
                wanted = with_topic if rng.random() < share else pool
                for source in (wanted, pool):
                    passage = self._fresh(source, chosen, rng)
                    if passage is not None:
                        chosen[passage.docid] = passage
                        break

        others = [name for name in self.by_concept if name not in (query.concept, *query.rivals)]
        take(relevant, self.by_concept.get(query.concept, []), TOPIC_SHARE_RELEVANT)
        if len(chosen) < relevant:
            raise _too_few(f"relevant passages of {query.concept}", relevant, len(chosen))
        take(rivals, [p for name in query.rivals for p in self.by_concept.get(name, [])], TOPIC_SHARE_RIVAL)
        take(size - len(chosen), [p for name in others for p in self.by_concept[name]], TOPIC_SHARE_OTHER)
        if len(chosen) < size:
            raise _too_few(f"candidates for {query.qid}", size, len(chosen))
        pool = list(chosen.values())
        rng.shuffle(pool)
        return pool

    @staticmethod
    def _fresh(source: list[WorldPassage], chosen: Container[str], rng: random.Random) -> WorldPassage | None:
        """A passage that is not chosen yet, or None if all are: by trial first, as a list of the free ones is slow."""
        for _ in range(8 if source else 0):
            passage = rng.choice(source)
            if passage.docid not in chosen:
                return passage
        free = [p for p in source if p.docid not in chosen]
        return rng.choice(free) if free else None


def _too_few(what: str, asked: int, there: int) -> InputError:
    remedy = "ask for fewer, or for more topics_per_evidence"
    return InputError(f"{asked} {what} are asked for, and {there} can be had", remedy=remedy)


def _grades(query: WorldQuery, pool: Sequence[WorldPassage]) -> dict[str, int]:
    """2: the concept asked for; 1: a rival (close, but not the answer); 0: anything else."""
    return {p.docid: 2 if p.concept == query.concept else int(p.concept in query.rivals) for p in pool}


def _ranked(index: Bm25, query: str, pool: Sequence[WorldPassage]) -> list[Hit]:
    """Hits of a pool by BM25 over the whole corpus, best first; equal scores by document id, descending."""
    scores = dict(zip((p.docid for p in index.passages), index.scores(query).tolist(), strict=True))
    pairs = sorted(((round(scores[p.docid], 6), p.docid) for p in pool), reverse=True)
    return [Hit(docid, score, rank) for rank, (score, docid) in enumerate(pairs, 1)]


def build(
    folder: str | Path,
    *,
    seed: int,
    train: int,
    validation: int,
    test: int,
    pool: int = 30,
    topics_per_evidence: int = 6,
    domains: Sequence[str] | None = None,
    relevant: Sequence[int] | None = None,
    name: str = "miniature",
    hard: int = 0,
) -> Path:
    """Write the collection folder of the embedded world and return it.

    train, validation, test: numbers of queries (all together at most the combinations of the world: 4,032 here).
    pool: candidates a query. topics_per_evidence: passages made of one piece of evidence. domains: None = all.
    relevant: (fewest, most) relevant passages of a pool, all counts as often; None = as RELEVANT_WEIGHTS has it. More
    of them than a window carries forward is a world in which windows lose passages.
    hard: passages of a training query beside its candidates that a teacher may find hard negatives in (0: none).
    Files: corpus.jsonl, queries.jsonl, qrels/ (binary, judged over the pool), graded/ (2 concept, 1 rival, 0),
    runs/ (bm25s; train.hard.trec where `hard` is set), SOURCE.json (written last). Those of an older collection are
    removed before the first is written; other files stay. Raises InputError, and touches nothing, for sizes that the
    world cannot give, and for a folder with files in which no world was built.
    """
    root = Path(folder)
    _check_ours(root)
    world = choose_domains(load_world(), domains)
    passages = make_corpus(world, seed, topics_per_evidence)
    if not 3 <= pool <= len(passages):
        raise InputError(f"a pool of {pool} candidates", remedy=f"give 3 to {len(passages)}")
    _check_relevant(relevant, pool)
    queries = make_queries(world, seed, {"train": train, "validation": validation, "test": test})
    maker, index = PoolMaker(passages), Bm25(Passage(p.docid, p.text) for p in passages)
    parts: dict[str, tuple[Qrels, Qrels, Run]] = {}
    for split in SPLITS:
        binary: Qrels = {}
        graded: Qrels = {}
        run: Run = {}
        for query in (q for q in queries if q.split == split):
            rng = random.Random(f"{seed}/pool/{query.text}")
            drawn = maker.draw(query, pool, rng, rng.randint(*relevant) if relevant else None)
            run[query.qid] = _ranked(index, query.text, drawn)
            graded[query.qid] = dict(sorted(_grades(query, drawn).items()))
            binary[query.qid] = {docid: int(grade == 2) for docid, grade in graded[query.qid].items()}
        parts[split] = binary, graded, run
    traps = _hard_run([q for q in queries if q.split == "train"], maker, hard, seed) if hard else None
    _clear(root)
    for split, (binary, graded, run) in parts.items():
        if run:
            write_qrels(root / "qrels" / f"{split}.tsv", binary)
            write_qrels(root / "graded" / f"{split}.tsv", graded)
            write_scored_run(root / "runs" / f"{split}.trec", run, "bm25s")
    if traps is not None:
        write_scored_run(root / "runs" / "train.hard.trec", traps, "hard")
    write_jsonl(root / "corpus.jsonl", (_corpus_row(p) for p in passages))
    write_jsonl(root / "queries.jsonl", (_query_row(q, world) for q in queries))
    source: dict[str, Any] = {
        "name": name,
        "data_kind": "synthetic",
        "licence": "MIT",
        "what": "Generated from the embedded world; texts written for this project.",
        "seed": seed,
        "sizes": {"train": train, "validation": validation, "test": test, "pool": pool, "corpus": len(passages)},
        "domains": list(world.domains),
        "topics_per_evidence": topics_per_evidence,
        "world_sha256": world_hash(world),
    }
    if relevant:
        source["relevant"] = list(relevant)
    if hard:
        source["hard"] = hard
    write_lines(root / UNFINISHED, [json.dumps(source, indent=1)]).replace(root / "SOURCE.json")
    return root


UNFINISHED = ".building"
"""A file of a folder in which a world is being built, or was when that was broken off: it may be built there again."""


def _check_ours(root: Path) -> None:
    """Raise InputError for a folder with files that no world was built in."""
    if not root.is_dir() or not any(root.iterdir()) or (root / UNFINISHED).is_file():
        return
    source = read_json(root / "SOURCE.json")
    if not (isinstance(source, dict) and "world_sha256" in source):
        raise InputError("this folder holds other files", path=root, remedy="name a new or an empty folder")


def _check_relevant(relevant: Sequence[int] | None, pool: int) -> None:
    """Raise InputError unless (fewest, most) leave a pool its rivals and others."""
    if relevant is not None and not (len(relevant) == 2 and 1 <= relevant[0] <= relevant[1] <= pool // 2):
        raise InputError(f"{list(relevant)} relevant passages", remedy=f"give [fewest, most] from 1 to {pool // 2}")


def _clear(root: Path) -> None:
    """Remove what `build` writes, SOURCE.json first: a folder that has one is whole."""
    write_lines(root / UNFINISHED, [])
    of_splits = [name.format(split) for name in ("qrels/{}.tsv", "graded/{}.tsv", "runs/{}.trec") for split in SPLITS]
    for name in ("SOURCE.json", "corpus.jsonl", "queries.jsonl", *of_splits, "runs/train.hard.trec"):
        if (root / name).is_file():
            (root / name).unlink()


def _hard_run(queries: Sequence[WorldQuery], maker: PoolMaker, size: int, seed: int) -> Run:
    """A pool for hard negatives a query, as a run: passages with the query's topic or of its rivals, seldom right ones,
    drawn from a stream of their own, so that everything else stays as it is without them."""
    if size < 0:
        raise InputError(f"hard is {size}", remedy="give the passages of each pool, 0 for none")
    run: Run = {}
    for query in queries:
        rng = random.Random(f"{seed}/hard/{query.text}")
        same = maker.by_topic.get((query.domain, query.topic.word), [])
        near = {p.docid: p for p in (*same, *(p for name in query.rivals for p in maker.by_concept.get(name, [])))}
        drawn = rng.sample(sorted(near), min(size, len(near)))
        run[query.qid] = [Hit(docid, float(len(drawn) - i), i + 1) for i, docid in enumerate(drawn)]
    return run


def world_hash(world: World) -> str:
    """A hash of every text of the world."""
    return hashlib.sha256("\n".join(world.texts()).encode()).hexdigest()


def _corpus_row(passage: WorldPassage) -> dict[str, Any]:
    origin = {"domain": passage.domain, "concept": passage.concept, "topic": passage.topic.word}
    return {"_id": passage.docid, "title": "", "text": passage.text, "metadata": origin}


def _query_row(query: WorldQuery, world: World) -> dict[str, Any]:
    return {
        "_id": query.qid,
        "text": query.text,
        "metadata": {
            "split": query.split,
            "domain": query.domain,
            "gold_answer": world.concepts[query.concept].answer,
            "concept": query.concept,
            "cues": [cue.text for cue in query.cues],
            "topic": query.topic.word,
        },
    }
