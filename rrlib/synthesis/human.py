"""A teacher made of people: a chat client that answers the teacher's prompts from human labels and human reasoning.

It answers the prompts that a model would be sent, so that stores, filter and books are the same. The selection prompt
gets the human labels; the ranking prompt gets the gold list (relevant passages in the order of the human tree, then the
rest as shown) with a chain in one of the forms of rrlib.synthesis.chains. The data are real, the teacher is called
`human`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rrlib.engines.base import Decoding, Message, Reply
from rrlib.errors import InputError
from rrlib.formats import Collection, read_collection
from rrlib.prompts import format_ranking
from rrlib.synthesis.chains import FORMS, Argument, Form, argument_of, get_form, gold_order
from rrlib.synthesis.filter import self_consistency
from rrlib.synthesis.prompts import VERSION, flatten, passage_line
from rrlib.synthesis.sources.windows import Windowing, windows_of
from rrlib.types import Passage, Query, RankingExample

MODEL = "human"
SPLITS = ("train", "validation")
"""Splits whose labels the teacher may tell. Of the test split it knows nothing."""

_QUERY = re.compile(r"^Query:[ \t]*(.*)$", re.MULTILINE)
_GOLD = re.compile(r"^Gold answer:[ \t]*(.*)$", re.MULTILINE)
_PASSAGE = re.compile(r"^\[(\d+)\][ \t]+(.*)$", re.MULTILINE)


class HumanTeacher:
    """`async chat(messages, decoding) -> Reply`, as any chat client.

    folder: a collection with qrels (and, in the metadata, human reasoning) for train or validation. form: see
    rrlib.synthesis.chains.Form. words: of a passage quoted in the chain (0 = all). seed: taken, as of every teacher,
    and not used: nothing here is drawn. Raises InputError for an unknown form and for a folder without labels.
    """

    model = MODEL

    def __init__(self, folder: str | Path, *, seed: int = 0, form: str = Form.VERDICTS, words: int = 0) -> None:
        self.form, self.words = get_form(form), words
        self._queries: dict[str, tuple[Argument, set[str]]] = {}
        self._docids: dict[str, str] = {}
        for collection in _labelled(folder):
            for qid, query in collection.queries.items():
                relevant = {docid for docid, grade in collection.qrels.get(qid, {}).items() if grade > 0}
                self._queries[flatten(query.text)] = argument_of(collection.metadata[qid]), relevant
            self._docids |= {_shown(passage): docid for docid, passage in collection.corpus.items()}

    async def chat(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """Answer a selection or a ranking prompt; an error where its query is none of the labelled ones."""
        return self.answer(messages, decoding)

    def answer(self, messages: Sequence[Message], decoding: Decoding) -> Reply:
        """`chat` without the event loop. Passages that the corpus lacks count as not relevant."""
        text = "\n".join(m["content"] for m in messages if m["role"] == "user")
        asked = _QUERY.findall(text)
        judged = self._queries.get(asked[-1]) if asked else None
        if judged is None:
            return Reply(error="people have not judged this query")
        argument, relevant = judged
        texts = [shown for _, shown in _PASSAGE.findall(text)]
        passages = [Passage(self._docids.get(shown) or f"unknown-{i}", shown) for i, shown in enumerate(texts)]
        chosen = [i for i, passage in enumerate(passages) if passage.docid in relevant]
        tokens = len(text.split())
        extra = {"data_kind": MODEL}
        if _GOLD.search(text):
            return Reply(", ".join(f"[{i + 1}]" for i in chosen) or "None", tokens_in=tokens, extra=extra)
        chain, order = self.rank(argument, passages, chosen)
        return Reply(format_ranking(order), chain, tokens_in=tokens, tokens_out=len(chain.split()), extra=extra)

    def rank(self, argument: Argument, passages: Sequence[Passage], relevant: Sequence[int]) -> tuple[str, list[int]]:
        """(chain, gold list) of a window; relevant and gold list are 0-based positions into `passages`."""
        return FORMS[self.form](argument, passages, relevant, self.words), gold_order(argument, passages, relevant)


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
    form: str = Form.VERDICTS,
    words: int = 0,
    windowing: Windowing | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> list[RankingExample]:
    """Training examples of a labelled collection in memory, without stores: what the pipeline makes with HumanTeacher.

    Queries come in the collection's order, at most `limit`; each gives the windows that `windowing` says, as retrieved.
    """
    windowing, written = windowing or Windowing(), FORMS[get_form(form)]
    examples = []
    for candidate in collection.candidates(windowing.depth)[:limit]:
        query, metadata = candidate.query, collection.metadata[candidate.query.qid]
        relevant = {docid for docid, grade in collection.qrels.get(query.qid, {}).items() if grade > 0}
        argument = argument_of(metadata)
        windows = windows_of(candidate.passages, relevant, windowing, seed, query.qid)
        for number, passages in enumerate(windows):
            chosen = [i for i, passage in enumerate(passages) if passage.docid in relevant]
            order = gold_order(argument, passages, chosen)
            chain = written(argument, passages, chosen, words)
            labels = tuple(int(i in chosen) for i in range(len(passages)))
            meta = _meta(collection, metadata, seed) | {"query": query.qid, "window": number, "form": str(form)}
            if chosen:
                meta["consistency"] = self_consistency(order, labels)
            examples.append(
                RankingExample(Query(f"{query.qid}/{number}", query.text), passages, labels, tuple(order), chain, meta)
            )
    return examples


def _meta(collection: Collection, metadata: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {
        "domain": str(metadata.get("domain") or ""),
        "collection": collection.name,
        "data_kind": collection.data_kind,
        "licence": str(collection.source.get("licence") or "unknown"),
        "teacher": MODEL,
        "teacher_kind": MODEL,
        "prompt_version": VERSION,
        "seed": seed,
    }
