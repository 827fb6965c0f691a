"""Solutions of the exercises in 00.

Only the first `size - stride` places of a window meet the next one, so count the places up to there. The number of
windows is a walk from the tail to the head. A lenient reader keeps what it can use, in the order in which it stands.
"""

import re


def carried_on(places, size, stride):
    """How many of the places are seen again in the next window."""
    return sum(place <= size - stride for place in places)


def calls(n, size, stride):
    """How many windows it takes to reach the head of the list."""
    windows, end = 0, n
    while end > 1:
        windows += 1
        end = 0 if end <= size else end - stride
    return windows


def read_order(text, size):
    """Places of the passages, best first, from 0 on: always each of them once."""
    seen = []
    for number in re.findall(r"\[(\d+)\]", text):
        place = int(number) - 1
        if 0 <= place < size and place not in seen:
            seen.append(place)
    return seen + [place for place in range(size) if place not in seen]
