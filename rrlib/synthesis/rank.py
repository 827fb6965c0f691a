"""Step 3, the listwise label: a reasoning chain and an order of the whole window, without the gold answer (4.1).

The list must be a permutation as it stands. Appending forgotten passages is right at inference, where a window has to
go on; as a label it would be our guess under the teacher's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rrlib.prompts import format_response, get_style, neutralise
from rrlib.responses import parse_lenient, parse_strict
from rrlib.synthesis.fates import Fault
from rrlib.synthesis.teacher.ask import looks_like_refusal, split_reply

_WRAPPED = re.compile(r"<answer>(.*)</answer>", re.DOTALL)
_FAULTS = {"out_of_range": Fault.OUT_OF_RANGE, "duplicates": Fault.REPEATED, "missing": Fault.MISSING}


@dataclass(frozen=True, slots=True)
class Ranking:
    """gold: 0-based positions, best first. reasoning: the chain without tags. fault: why it cannot be used."""

    gold: tuple[int, ...] = ()
    reasoning: str = ""
    fault: Fault | None = None


def read_ranking(
    text: str,
    n: int,
    *,
    reasoning: str = "",
    finish_reason: str = "stop",
    style: str = "reasonrank",
) -> Ranking:
    """Read a teacher's ranking of n passages.

    Faults: cut_off, empty, refusal, malformed, ids_out_of_range, repeated_ids, missing_ids, no_reasoning (only where
    the style has a think block), breaks_format (the joined target would not pass the strict reader of the reward, or
    the chain holds a chat marker). Other separators than ` > ` are accepted when the identifiers are all there once.
    """
    chain, answer, fault = split_reply(text, reasoning, finish_reason)
    if fault:
        return Ranking(reasoning=chain, fault=fault)
    wrapped = _WRAPPED.fullmatch(answer)
    body = (wrapped.group(1) if wrapped else answer).strip()
    parsed = parse_lenient(body, n, style="nothink")
    if parsed.verdict not in ("ok", "repaired") or "text" in parsed.repairs or "ties" in parsed.repairs:
        return Ranking(reasoning=chain, fault=Fault.REFUSAL if looks_like_refusal(body) else Fault.MALFORMED)
    for repair, name in _FAULTS.items():
        if repair in parsed.repairs:
            return Ranking(reasoning=chain, fault=name)
    chosen = get_style(style)
    if chosen.think:
        if not chain:
            return Ranking(fault=Fault.NO_REASONING)
        target = format_response(chain, parsed.order, style)
        without_tags = re.sub(r"</?answer>", "", chain)
        if parse_strict(target, n).level != "valid" or neutralise(without_tags) != without_tags:
            return Ranking(reasoning=chain, fault=Fault.BREAKS_FORMAT)
    return Ranking(parsed.order, chain)
