"""Where queries with gold answers come from (paper sections 4.1, B.1): one loader for each kind of file.

| loader | reads | gives |
|---|---|---|
| `stackexchange.read_posts` | Posts.xml of a StackExchange dump | questions, accepted answers, the links in them |
| `problems.read_leetcode` | LeetCode problems, JSON or JSON lines | problems with a solution |
| `problems.read_math` | MATH, a folder of JSON files or JSON lines | problems with a solution |
| `problems.read_theorems` | theorem lists as ProofWiki's, JSON or JSON lines | passages |
| `judged.read_msmarco` | MS MARCO queries with qrels or triples | queries with labels |
| `judged.read_bright` | BRIGHT's parquet files | queries with gold and excluded ids; passages |
| `judged.read_beir` | any BEIR folder | queries with labels |

Loaders are generators: a file is never in memory as a whole. Each raises InputError with file and place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SourceQuery:
    """A query as a source has it, before it has candidates.

    gold_answer: plain text. links: addresses of pages that the answer rests on. labels: human judgements, document id
    -> grade. excluded: documents that must not become candidates (BRIGHT). licence: of query and answer.
    """

    qid: str
    text: str
    gold_answer: str = ""
    domain: str = ""
    links: tuple[str, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    excluded: frozenset[str] = frozenset()
    licence: str = "unknown"


__all__ = ["SourceQuery"]
