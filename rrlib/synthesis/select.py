"""Step 1, pointwise labels: the teacher reads the gold answer and names the relevant passages (paper section 4.1).

An answer is read only if it says one thing: a list of identifiers, or `None`. Prose that mentions identifiers may as
well deny them, so it is a fault; a fault is recorded and its query is dropped, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rrlib.synthesis.fates import Fault
from rrlib.synthesis.teacher.ask import looks_like_refusal, split_reply
from rrlib.types import Passage

_LABEL = re.compile(r"^(?:(?:final )?answer|relevant(?: passages)?|selected(?: passages)?)\s*:\s*", re.IGNORECASE)
_NONE = re.compile(r"\W*none\W*", re.IGNORECASE)
_LIST = re.compile(r"(?:\[\d{1,9}\]|\d{1,9})(?:(?:\s*[,;]\s*|\s+and\s+|\s*,\s*and\s+|\s+)(?:\[\d{1,9}\]|\d{1,9}))*\.?")


@dataclass(frozen=True, slots=True)
class Selection:
    """positions: 0-based positions of the chosen passages, ascending. fault: why the answer cannot be used."""

    positions: tuple[int, ...] = ()
    fault: Fault | None = None


def read_selection(text: str, n: int, *, reasoning: str = "", finish_reason: str = "stop") -> Selection:
    """Read a teacher's selection among n passages.

    Faults: cut_off, empty, ids_out_of_range, refusal, malformed. `None` is no fault: it is an empty selection.
    """
    _, answer, fault = split_reply(text, reasoning, finish_reason)
    if fault:
        return Selection(fault=fault)
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    body = _LABEL.sub("", " ".join(lines).strip("`* "))
    if _NONE.fullmatch(body):
        return Selection()
    if not _LIST.fullmatch(body):
        return Selection(fault=Fault.REFUSAL if looks_like_refusal(answer) else Fault.MALFORMED)
    ids = {int(number) for number in re.findall(r"\d+", body)}
    if min(ids) < 1 or max(ids) > n:
        return Selection(fault=Fault.OUT_OF_RANGE)
    return Selection(tuple(sorted(i - 1 for i in ids)))


def chunks(passages: Sequence[Passage], window: int) -> list[Sequence[Passage]]:
    """The candidates in pieces of one window; the last piece may be shorter."""
    return [passages[start : start + window] for start in range(0, len(passages), window)]


def selected_docids(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], Fault | None]:
    """The chosen documents over all pieces of a query, in first-stage order, or the fault of the first bad piece."""
    chosen: list[str] = []
    for record in records:
        docids = record["docids"]
        selection = read_selection(
            record["text"], len(docids), reasoning=record["reasoning"], finish_reason=record["finish_reason"]
        )
        if selection.fault:
            return [], selection.fault
        chosen += [docids[position] for position in selection.positions]
    return chosen, None
