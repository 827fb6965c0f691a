"""The words of synthesis: its steps, what can be wrong with an answer, and what became of a query.

They stand in the files of a run as they stand here. `explain` gives the sentence of any fate in fates.jsonl.
"""

from __future__ import annotations

from enum import StrEnum


class _Word(StrEnum):
    """A word with a sentence that says what it means."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> _Word:
        word = str.__new__(cls, value)
        word._value_ = value
        word.sentence = sentence
        return word


class Step(_Word):
    """What the teacher is asked for, in this order; each step has a store of its name."""

    SELECT = "select", "Which passages are relevant? The gold answer is in view."
    HARD = "hard", "Which web results only look relevant? The gold answer is in view."
    RANK = "rank", "In which order do the passages of the window help? The gold answer is hidden."


class Fault(_Word):
    """Why an answer of the teacher cannot be used."""

    CUT_OFF = "cut_off", "The answer ended at the limit of tokens, or inside its reasoning."
    EMPTY = "empty", "The answer says nothing."
    REFUSAL = "refusal", "The teacher declined."
    MALFORMED = "malformed", "The answer is no list of identifiers."
    OUT_OF_RANGE = "ids_out_of_range", "The answer names a passage that was not shown."
    REPEATED = "repeated_ids", "The ranking names a passage twice."
    MISSING = "missing_ids", "The ranking leaves out a passage."
    NO_REASONING = "no_reasoning", "The ranking came without the reasoning that the prompt style needs."
    BREAKS_FORMAT = "breaks_format", "Reasoning and list, joined, would not pass the strict reader of the reward."


class Fate(_Word):
    """What became of a query. A faulty answer has a fate of its own, `step: fault`, see `faulty`."""

    KEPT = "kept", "An example came of it."
    NO_CANDIDATES = "no_candidates", "There are fewer than two passages to order."
    NO_LABELS = "no_labels", "Its labels come from the qrels, and nobody judged its passages."
    NO_GOLD_ANSWER = "no_gold_answer", "The teacher selects by the gold answer, and there is none."
    CALL_FAILED = "call_failed", "A question is without an answer; the next run asks it again."
    NOTHING_SELECTED = "nothing_selected", "No passage is relevant."
    NO_NEGATIVES = "no_negatives", "Every passage is relevant, so there is nothing to order."
    BELOW_ALPHA = "below_alpha", "The teacher's order contradicts its own labels by more than alpha allows."


def faulty(step: Step, fault: str) -> str:
    """The fate of a query that lost by a faulty answer: `rank: missing_ids`."""
    return f"{step}: {fault}"


def explain(fate: str) -> str:
    """The sentence of a fate as it stands in fates.jsonl. Raises ValueError for another word."""
    step, colon, fault = fate.partition(": ")
    return f"{Step(step).capitalize()}: {Fault(fault).sentence}" if colon else Fate(fate).sentence
