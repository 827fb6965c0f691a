"""The embedded world: concepts, the evidence that explains them and the cues that point to them, in plain English.

One YAML file a domain in `worlds/`. A cue is true of exactly two concepts of its domain, so it is ambiguous alone; two
cues with one common concept are decisive together. A query is a topic and two such cues; a passage is a topic and one
piece of evidence. A query shares no content word with the evidence of its concept, and shares its topic with passages
about other concepts: words mislead, reasoning does not. `World.check` holds all of this, and loading calls it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

from rrlib.errors import InputError, MissingFileError

WORLDS = Path(__file__).parent / "worlds"

_FUNCTION_WORDS = """
a about all also an and any are as at be been before below but by can cannot could did do does down each even
ever every few for from had has have how however i if in into is it its itself just least less may merely more
most much must my never next no nobody none not nothing of off on once one only or other others our out over
own same should since so some something somebody still such than that the their them then there these they
thing things this those through to too two under until unto up upon us was we were what when where whether
which while who whole why will with without would yet you your ahead
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words without content of their own: sharing one of them tells a lexical ranker nothing about the concept."""

_WORD = re.compile(r"[a-z]+")
_ENDINGS = ("ations", "ation", "ingly", "ously", "ings", "ness", "ally", "ing", "ied", "ies", "est", "ers", "ed", "er")
_SHORT_ENDINGS = ("es", "ly", "s", "e", "y")


def stem(word: str) -> str:
    """A rough stem (suffixes cut, three letters kept): rough on the safe side, for checks and not for search."""
    for ending in (*_ENDINGS, *_SHORT_ENDINGS):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def content_words(text: str) -> frozenset[str]:
    """The stems of the words of a text that carry content."""
    return frozenset(stem(word) for word in _WORD.findall(text.lower()) if word not in FUNCTION_WORDS)


def shared_words(left: str, right: str) -> frozenset[str]:
    """Content words that two texts share: equal stems, or equal first six letters (`recursion`, `recursive`)."""
    a, b = content_words(left), content_words(right)
    heads = {word[:6] for word in b if len(word) >= 6}
    return frozenset(word for word in a if word in b or (len(word) >= 6 and word[:6] in heads))


@dataclass(frozen=True, slots=True)
class Topic:
    """A setting such as `a bakery`; `word` is its one content word."""

    phrase: str

    @property
    def word(self) -> str:
        return self.phrase.split()[-1]


@dataclass(frozen=True, slots=True)
class Concept:
    """What a question is about. answer: the gold answer in one sentence, which names it."""

    name: str
    domain: str
    answer: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cue:
    """A clause that is true of exactly two concepts of its domain."""

    text: str
    concepts: tuple[str, str]

    def rival(self, concept: str) -> str:
        """The other concept that this cue would suggest."""
        return self.concepts[1] if self.concepts[0] == concept else self.concepts[0]


@dataclass(frozen=True, slots=True)
class Domain:
    """One of the paper's four domains, with its relevance definition (section 4.1)."""

    name: str
    title: str
    relevance: str
    query_opening: str
    passage_opening: str
    questions: tuple[str, ...]
    topics: tuple[Topic, ...]
    concepts: dict[str, Concept]
    cues: tuple[Cue, ...]

    def cues_of(self, concept: str) -> tuple[Cue, ...]:
        return tuple(cue for cue in self.cues if concept in cue.concepts)

    def decisive_pairs(self, concept: str) -> list[tuple[Cue, Cue]]:
        """Pairs of cues whose only common concept is this one, in the order of the file."""
        return [
            (a, b) for a, b in combinations(self.cues_of(concept), 2) if set(a.concepts) & set(b.concepts) == {concept}
        ]

    def query_text(self, topic: Topic, cues: tuple[Cue, Cue], question: str) -> str:
        """`In a bakery, CUE, and CUE. QUESTION`"""
        opening = self.query_opening.replace("{topic}", topic.phrase)
        return f"{opening}{cues[0].text}, and {cues[1].text}. {question}"

    def passage_text(self, topic: Topic, evidence: str) -> str:
        """`Bakery notes: EVIDENCE`"""
        return self.passage_opening.replace("{Topic}", topic.word.capitalize()) + evidence


@dataclass(frozen=True, slots=True)
class World:
    """All domains, by name."""

    domains: dict[str, Domain]

    @property
    def concepts(self) -> dict[str, Concept]:
        return {c.name: c for d in self.domains.values() for c in d.concepts.values()}

    @property
    def cues(self) -> list[Cue]:
        return [cue for d in self.domains.values() for cue in d.cues]

    def domain_of(self, concept: str) -> Domain:
        return self.domains[self.concepts[concept].domain]

    def texts(self) -> list[str]:
        """Every sentence of the world once, for the tokenizer."""
        out: list[str] = []
        for domain in self.domains.values():
            out += [domain.title, domain.relevance, *domain.questions]
            for topic in domain.topics:
                out += [domain.query_opening.replace("{topic}", topic.phrase), domain.passage_text(topic, "")]
            for concept in domain.concepts.values():
                out += [concept.answer, *concept.evidence]
            out += [cue.text for cue in domain.cues]
        return out

    def overlaps(self) -> list[tuple[str, str, str, frozenset[str]]]:
        """(concept, query side, evidence, shared content words) wherever a query would leak into its evidence."""
        leaks = []
        for domain in self.domains.values():
            frame = [domain.query_opening.replace("{topic}", ""), *domain.questions]
            frame += [topic.phrase for topic in domain.topics]
            for concept in domain.concepts.values():
                ask = [cue.text for cue in domain.cues_of(concept.name)] + frame
                for evidence in (*concept.evidence, domain.passage_opening.replace("{Topic}", "")):
                    for text in ask:
                        if common := shared_words(text, evidence):
                            leaks.append((concept.name, text, evidence, common))
        return leaks

    def check(self) -> None:
        """Raise InputError, with every fault found, unless the world is as the module docstring says."""
        faults: list[str] = []
        names = [c.name for d in self.domains.values() for c in d.concepts.values()]
        faults += [f"concept {n!r} stands in two domains" for n in sorted({n for n in names if names.count(n) > 1})]
        texts = [e for d in self.domains.values() for c in d.concepts.values() for e in c.evidence]
        texts += [cue.text for cue in self.cues]
        faults += [f"text {t!r} stands twice" for t in sorted({t for t in texts if texts.count(t) > 1})]
        for domain in self.domains.values():
            for cue in domain.cues:
                if len(set(cue.concepts)) != 2 or not set(cue.concepts) <= set(domain.concepts):
                    faults.append(f"cue {cue.text!r} must name two concepts of {domain.name}")
            for concept in domain.concepts.values():
                if len(concept.evidence) < 6:
                    faults.append(f"{concept.name}: {len(concept.evidence)} pieces of evidence, at least 6 are needed")
                if len(domain.cues_of(concept.name)) < 6 or not domain.decisive_pairs(concept.name):
                    faults.append(f"{concept.name}: at least 6 cues, and a decisive pair, are needed")
                if concept.name not in concept.answer.lower():
                    faults.append(f"{concept.name}: the gold answer does not name it")
        faults += [
            f"{concept}: {ask!r} shares {', '.join(sorted(common))} with {evidence!r}"
            for concept, ask, evidence, common in self.overlaps()
        ]
        if faults:
            raise InputError("the world is not sound: " + "; ".join(faults), remedy="mend the texts in worlds/")


_KEYS = {"domain", "title", "relevance", "query_opening", "passage_opening", "questions", "topics", "concepts", "cues"}


def read_domain(path: str | Path) -> Domain:
    """One domain file. Raises InputError naming the file for unknown or missing keys."""
    import yaml

    try:
        data: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError("there is no such domain file", path=path) from error
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}", path=path) from error
    if not isinstance(data, dict) or set(data) != _KEYS:
        wrong = sorted(set(data) ^ _KEYS) if isinstance(data, dict) else ["all of it"]
        raise InputError(f"unknown or missing keys: {', '.join(map(str, wrong))}", path=path)
    name = data["domain"]
    try:
        concepts = {
            key: Concept(key, name, value["answer"], tuple(value["evidence"]))
            for key, value in data["concepts"].items()
        }
        cues = tuple(Cue(row["text"], (row["concepts"][0], row["concepts"][1])) for row in data["cues"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"a concept or a cue is not of the expected shape ({error!r})", path=path) from error
    return Domain(
        name=name,
        title=data["title"],
        relevance=data["relevance"],
        query_opening=data["query_opening"],
        passage_opening=data["passage_opening"],
        questions=tuple(data["questions"]),
        topics=tuple(Topic(phrase) for phrase in data["topics"]),
        concepts=concepts,
        cues=cues,
    )


@lru_cache(maxsize=4)
def load_world(folder: Path = WORLDS) -> World:
    """Read and check every domain file of a folder (default: the packaged world)."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise MissingFileError("no domain file (*.yaml) here", path=folder)
    domains = [read_domain(path) for path in files]
    world = World({domain.name: domain for domain in domains})
    world.check()
    return world
