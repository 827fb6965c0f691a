"""Reasoning written from human labels: one pure function a form, (what people wrote, passages, labels) -> text.

The human reasoning is an entailment tree (Dalvi et al. 2021), as text: `sent1 & sent3 -> int1: a conclusion; int1 &
sent2 -> hypothesis;`. Its leaves are passages of the corpus. What is not in the window cannot be reasoned from, so a
leaf that is not shown is left out, and so is a conclusion that rests on one. Passages go by their number in the window.
The hypothesis (question and answer as one statement) is never shown to a model: one that writes it has reasoned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rrlib.errors import InputError
from rrlib.synthesis.prompts import flatten
from rrlib.types import Passage

NOTHING = "None of these passages helps."
_STEP = re.compile(r"([^;]*?)->\s*(hypothesis|int\d+)\s*(?::\s*([^;]*))?;")


class Form(StrEnum):
    """What a chain written from human labels looks like."""

    FACTS = "facts"
    """The relevant passages quoted with their numbers, in tree order."""
    TREE = "tree"
    """The steps of the proof that the window holds: premises by number, conclusions in words."""
    VERDICTS = "verdicts"
    """`[1] no [2] yes ...`: a verdict on each passage in the order shown."""
    QUOTED = "quoted"
    """Each passage by number and first words, then its verdict."""
    STATEMENT = "statement"
    """What the answer is, as one statement. It names no passage, so a judge of single passages can learn it too."""
    HYPOTHESIS = "hypothesis"
    """The statement; then the verdicts."""
    NONE = "none"
    """No chain, for prompt styles without a think block."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a proof: names of its premises (`sent1`, `int2`), name and words of what follows from them."""

    premises: tuple[str, ...]
    name: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """What people wrote about a query: the statement to show, the leaves by name (document ids), the steps in order.

    All empty where people only gave labels.
    """

    hypothesis: str = ""
    leaves: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()

    def leaf_order(self) -> list[str]:
        """Document ids of the leaves in tree order: as the steps use them, then those that no step uses."""
        used = [premise for step in self.steps for premise in step.premises if premise in self.leaves]
        return list(dict.fromkeys(self.leaves[name] for name in [*used, *self.leaves]))


def argument_of(metadata: Mapping[str, Any]) -> Argument:
    """The argument in a query's metadata: `hypothesis`, `leaves` (name -> document id), `proof`; each may be missing.

    Raises InputError for a proof with a premise that is neither a leaf nor an earlier conclusion.
    """
    leaves = {str(name): str(docid) for name, docid in (metadata.get("leaves") or {}).items()}
    steps, usable = [], set(leaves)
    for left, name, text in _STEP.findall(str(metadata.get("proof") or "")):
        premises = tuple(premise.strip() for premise in left.split("&"))
        strange = [premise for premise in premises if premise not in usable]
        if strange:
            raise InputError(f"premise {strange[0]!r} of a proof is no leaf and no earlier conclusion")
        steps.append(Step(premises, name, " ".join(text.split())))
        usable.add(name)
    return Argument(str(metadata.get("hypothesis") or ""), leaves, tuple(steps))


def gold_order(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int]) -> list[int]:
    """The list that the labels give: relevant passages in tree order, then the others in the order shown.

    relevant: 0-based positions into `passages`. Returns 0-based positions, best first, a permutation.
    """
    places = {docid: place for place, docid in enumerate(argument.leaf_order())}
    best = sorted(relevant, key=lambda position: (places.get(passages[position].docid, len(places)), position))
    return [*best, *(position for position in range(len(passages)) if position not in set(relevant))]


def facts(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int], words: int = 0) -> str:
    """`[3] iron rusts in damp air` for each relevant passage, a line each, in tree order."""
    best = gold_order(argument, passages, relevant)[: len(relevant)]
    return "\n".join(f"[{i + 1}] {quoted_words(passages[i], words)}" for i in best) or NOTHING


def tree(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int], words: int = 0) -> str:
    """The steps whose premises are all at hand, a line each: `[1] and [3] give A: a nail rusts`.

    Relevant passages that no such step uses come first, as `[2] helps`. The last step's conclusion is the hypothesis.
    """
    number = {passages[i].docid: f"[{i + 1}]" for i in relevant}
    names = {leaf: number[docid] for leaf, docid in argument.leaves.items() if docid in number}
    lines: list[str] = []
    used: set[str] = set()
    for step in argument.steps:
        if not all(premise in names for premise in step.premises):
            continue
        cited = list(dict.fromkeys(names[premise] for premise in step.premises))
        last = step.name == "hypothesis"
        conclusion = "the answer" if last else chr(ord("A") + sum(name.startswith("int") for name in names))
        verb, text = "gives" if len(cited) == 1 else "give", argument.hypothesis if last else step.text
        lines.append(f"{' and '.join(cited)} {verb} {conclusion}: {flatten(text)}")
        names[step.name] = conclusion
        used |= set(cited)
    best = gold_order(argument, passages, relevant)[: len(relevant)]
    alone = [f"[{i + 1}] helps" for i in best if f"[{i + 1}]" not in used]
    return "\n".join([*alone, *lines]) or NOTHING


def verdicts(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int], words: int = 0) -> str:
    """`[1] no [2] yes [3] no`: all passages in the order shown."""
    return " ".join(f"[{i + 1}] {'yes' if i in relevant else 'no'}" for i in range(len(passages)))


def quoted(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int], words: int = 4) -> str:
    """`[1] iron rusts in: yes`, a line each, with the first `words` words of each passage."""
    said = ("yes" if i in relevant else "no" for i in range(len(passages)))
    return "\n".join(
        f"[{i}] {quoted_words(p, words)}: {v}" for i, (p, v) in enumerate(zip(passages, said, strict=True), 1)
    )


def statement(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int], words: int = 0) -> str:
    """The statement that the passages are to show; empty where people wrote none."""
    return flatten(argument.hypothesis)


def hypothesis(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int], words: int = 0) -> str:
    """The statement, on a line of its own where there is one; then the verdicts."""
    lines = [statement(argument, passages, relevant), verdicts(argument, passages, relevant)]
    return "\n".join(line for line in lines if line)


def none(argument: Argument, passages: Sequence[Passage], relevant: Sequence[int], words: int = 0) -> str:
    """The empty chain."""
    return ""


Writer = Callable[[Argument, Sequence[Passage], Sequence[int], int], str]
FORMS: Mapping[Form, Writer] = {
    Form.FACTS: facts,
    Form.TREE: tree,
    Form.VERDICTS: verdicts,
    Form.QUOTED: quoted,
    Form.STATEMENT: statement,
    Form.HYPOTHESIS: hypothesis,
    Form.NONE: none,
}


def get_form(name: str) -> Form:
    """The form of that name. Raises InputError that lists all."""
    try:
        return Form(name)
    except ValueError:
        raise InputError(f"unknown chain form {name!r}", remedy=f"use one of {', '.join(Form)}") from None


def quoted_words(passage: Passage, words: int = 0) -> str:
    """The text of a passage on one line, its first `words` words (0 = all), markers made harmless."""
    parts = flatten(f"{passage.title}: {passage.text}" if passage.title else passage.text).split()
    return " ".join(parts[:words] if words else parts)
