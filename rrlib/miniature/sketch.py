"""One query of the embedded world laid out: its cues, what each suggests, its concept, and how the teacher errs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rrlib.errors import InputError
from rrlib.miniature.teacher import ErrorRates
from rrlib.miniature.world import load_world

EXAMPLE: dict[str, Any] = {
    "concept": "convection",
    "topic": "tavern",
    "cues": ["clouds piled up each sunny afternoon", "hot soup cooled sooner beside an open window"],
}
"""Metadata of the query that docs/world.md draws."""


@dataclass(frozen=True)
class Sketch:
    """cues: the two clauses of the query. rivals: the other concept of each cue. evidence: of the concept, one piece.

    systematic: share of the pairs of cues that the teacher always believes wrongly; at_random: share of its other
    answers that believe a rival (both 0 to 1).
    """

    topic: str
    cues: tuple[str, str]
    concept: str
    rivals: tuple[str, str]
    evidence: str
    systematic: float
    at_random: float


def sketch(metadata: Mapping[str, Any] | None = None, **error_rates: float) -> Sketch:
    """The sketch of a query of the embedded world, or of EXAMPLE where none (or one of another world) is given.

    metadata: of the query, as the collection has it (concept, topic, cues). error_rates: of the teacher, by the names
    of ErrorRates. Raises InputError for a concept or a cue that the world does not have.
    """
    given: Mapping[str, Any] = metadata if metadata and {"concept", "topic", "cues"} <= set(metadata) else EXAMPLE
    world = load_world()
    by_text = {cue.text: cue for cue in world.cues}
    concept = world.concepts.get(given["concept"])
    if concept is None or not set(given["cues"]) <= set(by_text):
        raise InputError(f"{given['concept']!r} is no concept of this world", remedy="give a query of this world")
    first, second = (by_text[text] for text in given["cues"])
    rates = ErrorRates(**{name: rate for name, rate in error_rates.items() if name in ErrorRates.__slots__})
    rivals = (first.rival(concept.name), second.rival(concept.name))
    evidence = concept.evidence[0]
    return Sketch(
        given["topic"], (first.text, second.text), concept.name, rivals, evidence, rates.systematic, rates.wrong_belief
    )
