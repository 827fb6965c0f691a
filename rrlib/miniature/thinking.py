"""The chain of thought of the miniature: written by the simulated teacher, learned by the tiny model.

First what each cue suggests, then the belief with a verdict for every concept in play, then passage by passage its
concept and the verdict. The belief and its rivals come before the passages so that the verdict of a passage is a copy
of what stood by the same name: a step that a model of a million parameters can learn.
"""

from __future__ import annotations

from collections.abc import Sequence

YES, MAYBE, NO = "yes", "maybe", "no"
UNKNOWN = "unclear"
"""What is written for a passage or a cue that is not of the world."""


def cue_text(first: Sequence[str], second: Sequence[str]) -> str:
    """`The first cue suggests A or B, the second A or C.` Names in the order of the cue."""
    return f"The first cue suggests {' or '.join(first)}, the second {' or '.join(second)}."


def belief_text(belief: str, rivals: Sequence[str]) -> str:
    """`So yes A, maybe B, maybe C.`; a belief that gives nothing else a chance: `So yes A.`

    The verdict stands before its name, the other way round than behind a passage: whoever finds the same name again
    finds at that place what stood before it, while what stands behind it would have to be looked up one place further.
    """
    return "So " + ", ".join([f"{YES} {belief}"] + [f"{MAYBE} {rival}" for rival in rivals]) + "."


def verdict(concept: str, belief: str, rivals: Sequence[str]) -> str:
    return YES if concept == belief else MAYBE if concept in rivals else NO


def passage_texts(concepts: Sequence[str], belief: str, rivals: Sequence[str]) -> list[str]:
    """`[1] A yes` for every passage of the window, in its order."""
    return [f"[{i}] {name} {verdict(name, belief, rivals)}" for i, name in enumerate(concepts, 1)]


def order_of(concepts: Sequence[str], belief: str, rivals: Sequence[str]) -> list[int]:
    """0-based positions: yes, then maybe, then no; each in the order of the window."""
    rank = {YES: 0, MAYBE: 1, NO: 2}
    return sorted(range(len(concepts)), key=lambda i: rank[verdict(concepts[i], belief, rivals)])


def rivals_of(belief: str, first: Sequence[str], second: Sequence[str]) -> list[str]:
    """The other concepts that the cues suggest, each once, in the order in which they are named."""
    return [name for name in dict.fromkeys((*first, *second)) if name != belief]


def reasoning(
    first: Sequence[str],
    second: Sequence[str],
    belief: str,
    concepts: Sequence[str],
    rivals: Sequence[str] | None = None,
) -> str:
    """The whole of it, without tags. rivals: None = all other concepts that the cues suggest."""
    rivals = rivals_of(belief, first, second) if rivals is None else rivals
    return " ".join([cue_text(first, second), belief_text(belief, rivals), *passage_texts(concepts, belief, rivals)])
