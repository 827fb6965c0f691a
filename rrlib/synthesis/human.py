"""A teacher made of people: a chat client that answers the teacher's prompts from human labels and human reasoning.

It answers the prompts that a model would be sent, so that stores, filter and books are the same. The selection prompt
gets the human labels; the ranking prompt gets the gold list (relevant passages in the order of the human tree, then the
rest as shown) with a chain in one of the forms of rrlib.synthesis.chains. The data are real, the teacher is called
`human`. Where people gave no reasoning, `ModelTeacher` lets a trained reranker write it.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrlib.engines import Decoding, Engine, Message, Reply, Request, make_engine
from rrlib.errors import InputError
from rrlib.formats import Collection, read_collection
from rrlib.prompts import PromptBuilder, format_ranking
from rrlib.resources import model_hash, resolve
from rrlib.synthesis.chains import FORMS, Argument, Form, argument_of, get_form, gold_order
from rrlib.synthesis.filter import self_consistency
from rrlib.synthesis.prompts import VERSION, flatten, passage_line
from rrlib.synthesis.sources.items import CollectionSource
from rrlib.synthesis.sources.windows import Windowing
from rrlib.types import Passage, RankingExample

MODEL = "human"
SPLITS = ("train", "validation")
"""Splits whose labels the teacher may tell. Of the test split it knows nothing."""

_QUERY = re.compile(r"^Query:[ \t]*(.*)$", re.MULTILINE)
_GOLD = re.compile(r"^Gold answer:[ \t]*(.*)$", re.MULTILINE)
_PASSAGE = re.compile(r"^\[(\d+)\][ \t]+(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a prompt of the teacher asks: the query (empty where there is none), the passages' texts as shown, whether
    it is to select (the gold answer is in view) or to rank, and how many words the prompt has."""

    query: str
    texts: tuple[str, ...]
    selects: bool
    words: int


def read_question(messages: Sequence[Message]) -> Asked:
    """Read a prompt of rrlib.synthesis.prompts back."""
    text = "\n".join(m["content"] for m in messages if m["role"] == "user")
    queries = _QUERY.findall(text)
    texts = tuple(shown for _, shown in _PASSAGE.findall(text))
    return Asked(queries[-1] if queries else "", texts, bool(_GOLD.search(text)), len(text.split()))


class HumanTeacher:
    """`async chat(messages, decoding) -> Reply`, as any chat client.

    folder: a collection with qrels (and, in the metadata, human reasoning) for train or validation. form: see
    rrlib.synthesis.chains.Form. words: of a passage quoted in the chain (0 = all). gold: how the relevant passages
    stand in the list, `tree` (as the proof uses them) or `shown` (as in the window, which a small model can copy from
    its verdicts). seed: taken, as of every teacher, and not used: nothing here is drawn. Raises InputError for an
    unknown form or gold order, and for a folder without labels.
    """

    model = MODEL

    def __init__(
        self, folder: str | Path, *, seed: int = 0, form: str = Form.VERDICTS, words: int = 0, gold: str = "tree"
    ) -> None:
        self.form, self.words, self.gold = get_form(form), words, _known_gold(gold)
        self.settings = {"form": str(self.form), "words": words, "gold": gold}
        self._queries: dict[str, tuple[Argument, set[str]]] = {}
        self._unsure: set[str] = set()  # texts of several queries that people judged differently
        self._docids: dict[str, set[str]] = defaultdict(set)  # shown text -> documents that have it
        for collection in _labelled(folder):
            for qid, query in collection.queries.items():
                relevant = {docid for docid, grade in collection.qrels.get(qid, {}).items() if grade > 0}
                text, judged = flatten(query.text), (argument_of(collection.metadata[qid]), relevant)
                if self._queries.setdefault(text, judged) != judged:
                    self._unsure.add(text)
            for docid, passage in collection.corpus.items():
                self._docids[_shown(passage)].add(docid)

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """Answer a selection or a ranking prompt; an error where its query is none of the labelled ones."""
        return self.answer(messages, decoding)

    def answer(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """`chat` without the event loop. Passages that the corpus lacks count as not relevant."""
        asked = read_question(messages)
        judged = self._queries.get(asked.query)
        if judged is None:
            return Reply(error="people have not judged this query")
        if asked.query in self._unsure:
            return Reply(error="two queries have this text, and people judged them differently")
        argument, relevant = judged
        known = [self._docids.get(shown, set()) for shown in asked.texts]  # of equal texts, the relevant one
        named = [min(docids & relevant or docids, default=f"unknown-{i}") for i, docids in enumerate(known)]
        passages = [Passage(docid, shown) for docid, shown in zip(named, asked.texts, strict=True)]
        chosen = [i for i, passage in enumerate(passages) if passage.docid in relevant]
        tokens = asked.words
        extra = {"data_kind": MODEL}
        if asked.selects:
            return Reply(", ".join(f"[{i + 1}]" for i in chosen) or "None", tokens_in=tokens, extra=extra)
        chain, order = self.rank(argument, passages, chosen)
        return Reply(format_ranking(order), chain, tokens_in=tokens, tokens_out=len(chain.split()), extra=extra)

    def rank(self, argument: Argument, passages: Sequence[Passage], relevant: Sequence[int]) -> tuple[str, list[int]]:
        """(chain, gold list) of a window; relevant and gold list are 0-based positions into `passages`."""
        chain = FORMS[self.form](argument, passages, relevant, self.words)
        return chain, gold_order(argument if self.gold == "tree" else Argument(), passages, relevant)


def _known_gold(gold: str) -> str:
    if gold not in ("tree", "shown"):
        raise InputError(f"unknown gold order {gold!r}", remedy="use tree or shown")
    return gold


def _labelled(folder: str | Path) -> list[Collection]:
    collections = []
    for split in SPLITS:
        try:
            collections.append(read_collection(folder, split))
        except InputError:
            continue  # a folder may have one split alone
    if not any(collection.qrels for collection in collections):
        raise InputError("no human labels for training or validation", path=folder, remedy="add qrels/train.tsv")
    return collections


def _shown(passage: Passage) -> str:
    """The text of a passage as the teacher's prompt shows it."""
    return passage_line(1, passage).removeprefix("[1] ")


def human_examples(
    collection: Collection,
    *,
    split: str = "train",
    form: str = Form.VERDICTS,
    words: int = 0,
    gold: str = "tree",
    windowing: Windowing | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> list[RankingExample]:
    """Training examples of a labelled collection in memory: what the pipeline makes with HumanTeacher, without stores.

    split, seed, limit: which queries in which order, see CollectionSource; each gives the windows that `windowing`
    (default: Windowing()) says, as retrieved. form, words, gold: see HumanTeacher.
    """
    written, gold = FORMS[get_form(form)], _known_gold(gold)
    arguments = {qid: argument_of(metadata) for qid, metadata in collection.metadata.items()}
    examples = []
    for item in CollectionSource(collection, split, seed, limit, windowing=windowing or Windowing()):
        qid, _, number = item.query.qid.rpartition("/")
        chosen = [i for i, p in enumerate(item.candidates) if (item.labels or {}).get(p.docid, 0) > 0]
        labels = tuple(int(i in chosen) for i in range(len(item.candidates)))
        argument = arguments[qid]
        order = gold_order(argument if gold == "tree" else Argument(), item.candidates, chosen)
        meta = {
            "domain": item.domain,
            "collection": collection.name,
            "data_kind": collection.data_kind,
            "licence": item.licence,
            "teacher": MODEL,
            "teacher_kind": MODEL,
            "prompt_version": VERSION,
            "seed": seed,
            "query": qid,
            "window": int(number),
            "form": str(form),
        }
        if chosen:
            meta["consistency"] = self_consistency(order, labels)
        chain = written(argument, item.candidates, chosen, words)
        examples.append(RankingExample(item.query, item.candidates, labels, tuple(order), chain, meta))
    return examples


class ModelTeacher:
    """A trained reranker as teacher where people gave labels and no reasoning: one round of synthesis (section 4.1).

    The selection prompt is answered by the human labels, the ranking prompt by a checkpoint of ours, which reads its
    own prompt (`style`) for the same query and passages. So the self-consistency filter drops the lists that contradict
    the labels: errors of a real model, judged by people.

    folder: as for HumanTeacher. checkpoint: a model folder or hub name, or the base URL of an OpenAI-compatible server
    (then with `model`, its name there). engine, engine_options: see rrlib.engines.make_engine; an Engine serves too.
    Calls in flight go to the engine together, as one batch with the sampling seed of the first: with a temperature
    above 0 what is drawn depends on which calls come together.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        checkpoint: str | Engine,
        seed: int = 0,
        model: str = "",
        engine: str = "transformers",
        style: str = "reasonrank",
        max_passage_tokens: int = 512,
        **engine_options: Any,
    ) -> None:
        self._people = HumanTeacher(folder, seed=seed)
        if isinstance(checkpoint, str) and checkpoint.startswith(("http://", "https://")):
            if not model:
                raise InputError("a checkpoint behind a URL needs its name there", remedy="give model")
            engine_options = {"base_url": checkpoint, **engine_options}
            engine, checkpoint = "openai", model
        if isinstance(checkpoint, str):
            checkpoint = make_engine(engine, resolve(checkpoint), **engine_options)
        self.engine = checkpoint
        self.settings = {"style": style, "max_passage_tokens": max_passage_tokens}
        if Path(str(self.engine.model)).exists():
            self.settings["weights"] = model_hash(self.engine.model)
        self.model = f"{Path(self.engine.model).name}, {MODEL} labels"
        self._prompts = PromptBuilder(getattr(self.engine, "tokenizer", None), style, max_passage_tokens)
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._worker: asyncio.Task[None] | None = None
        self._asked = 0

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """Answer a selection prompt by the labels, a ranking prompt by the checkpoint."""
        asked = read_question(messages)
        if asked.selects or not asked.query:
            return self._people.answer(messages, decoding)
        passages = [Passage(str(number), shown) for number, shown in enumerate(asked.texts, 1)]
        return await self._ask(self._request(asked.query, passages), decoding)

    def _request(self, query: str, passages: Sequence[Passage]) -> Request:
        self._asked += 1
        if self._prompts.tokenizer is None:
            return Request(self._asked, self._prompts.messages(query, passages))
        return Request(self._asked, prompt=self._prompts.render(query, passages))

    async def _ask(self, request: Request, decoding: Decoding) -> Reply:
        """The engine's reply. The first to wait starts the work for all that wait."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, reply))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(decoding))
        return await reply

    async def _work(self, decoding: Decoding) -> None:
        while self._waiting:
            await asyncio.sleep(0.01)  # let the calls that are in flight come together
            batch, self._waiting = self._waiting, []
            try:
                replies = await asyncio.to_thread(self._run, [request for request, _ in batch], decoding)
            except Exception as error:  # each call hears of it
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for request, future in batch:
                if not future.done():
                    future.set_result(replies[request.id])

    def _run(self, requests: list[Request], decoding: Decoding) -> dict[int, Reply]:
        self.engine.submit(requests, decoding)
        replies: dict[int, Reply] = {}
        while len(replies) < len(requests):
            replies |= dict(self.engine.collect())
        return replies
