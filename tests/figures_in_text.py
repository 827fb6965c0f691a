"""Which figures a sentence holds, in digits and in words, and whether one is a value."""

from __future__ import annotations

import re

UNIT = r" (?:points|times|seconds?|minutes?|hours?|[GM]i?B)\b"
RANGE = re.compile(rf"(?<![\w.@/-])(\d+(?:\.\d+)?) to (?=\d+(?:\.\d+)?(%|{UNIT}))")
"""The first figure of `7 to 21%`, whose unit stands behind the second."""
FIGURE = re.compile(rf"(?<![\w.@/-])[-+]?(?:\d+\.\d+|\d+(?=%|{UNIT}))(?![\w/]|\.\d)(?:%|{UNIT})?")
CARDINALS = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
CARDINALS |= {
    "twelve": 12,
    "fifteen": 15,
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "ninety": 90,
}
DIVISORS = {
    "half": 2,
    "third": 3,
    "quarter": 4,
    "fifth": 5,
    "sixth": 6,
    "seventh": 7,
    "eighth": 8,
    "ninth": 9,
    "tenth": 10,
}
_COUNT, _PART = "|".join(CARDINALS), "|".join(DIVISORS)
WORDS = re.compile(
    rf"\b(?:half an? (?:point|minute|hour|second)|(?:{_COUNT}|an?) (?:point|minute|hour)s?|(?:{_COUNT}) seconds|"
    rf"(?:{_COUNT}|an?) (?:{_PART})s?|(?:more|less) than half|half (?:of|as))\b",
    re.IGNORECASE,
)
"""Figures in words. (`a second` is mostly the one behind the first.)"""


def figures(sentence: str) -> list[str]:
    """The figures of a sentence, without code, links, versions, papers and the name of the usual interval."""
    bare = re.sub(
        r"`[^`]*`|\]\([^)]*\)|<code>.*?</code>|arXiv [\d.]+|[Ss]ection \d\.\d|Python [\d.]+ \(or [\d.]+\)",
        " ",
        sentence,
    )
    bare = re.sub(r"95%(?= bootstrap| intervals?)|(?<=[Ii]ntervals are )95%|(?<=[Ii]ntervals \()95%", " ", bare)
    bare = RANGE.sub(r"\1\2 to ", bare)
    return [found[0] for found in FIGURE.finditer(bare)] + [found[0] for found in WORDS.finditer(bare)]


def holds(figure: str, value: float) -> bool:
    """Whether a figure is that value, rounded to its decimals; percentages and points are hundredths."""
    if WORDS.fullmatch(figure):
        return word_holds(figure.lower(), value)
    assert FIGURE.fullmatch(figure), figure
    digits = re.split("[% ]", figure)[0]
    scale = 100.0 if figure.endswith(("%", "points")) else 1.0
    decimals = len(digits.partition(".")[2])
    return abs(float(digits) - value * scale) <= 0.5 * 10.0**-decimals + 1e-9


def word_holds(figure: str, value: float) -> bool:
    """Whether a figure in words is that value. A number from ten on may be off by a tenth of it, a smaller one by half
    a unit; a fraction is the nearest of its kind (`a quarter`: nearer to it than to a third or a fifth)."""
    many, *_, last = figure.split()
    if figure.endswith("than half"):
        return value > 0.5 if many == "more" else value < 0.5
    if last in ("of", "as") or last.rstrip("s") in DIVISORS:
        counted, divisor = CARDINALS.get(many, 1), DIVISORS.get(last.rstrip("s"), 2)
        return value > 0 and abs(counted / value - divisor) <= 0.5
    value *= 100 if last.startswith("point") else 1
    number = 0.5 if many == "half" else float(CARDINALS.get(many, 1))
    return abs(value - number) <= (0.25 if many == "half" else 0.5 if number < 10 else number / 10) + 1e-9
