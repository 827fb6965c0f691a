"""What a call costs. Prices move, so each entry says when it was read and where; give your own with a file.

Dollars a million tokens, without discounts for cached prompts or night hours: an upper figure is what a budget needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rrlib.errors import InputError, MissingFileError


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a million tokens: read (prompt) and written (reasoning and answer). source: where and when seen."""

    read: float
    written: float
    source: str = ""

    def __post_init__(self) -> None:
        if not (self.read >= 0 and self.written >= 0):
            raise InputError(f"a price of {self.read} and {self.written}", remedy="give dollars a million tokens")

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Dollars of one call."""
        return (self.read * tokens_in + self.written * tokens_out) / 1e6


_DEEPSEEK = "https://api-docs.deepseek.com/quick_start/pricing, list price of February 2025"
_OPENAI = "https://openai.com/api/pricing, list price of February 2025"

PRICES: Mapping[str, Price] = {
    "deepseek-reasoner": Price(0.55, 2.19, _DEEPSEEK),
    "deepseek-chat": Price(0.27, 1.10, _DEEPSEEK),
    "gpt-4o": Price(2.50, 10.00, _OPENAI),
    "gpt-4o-mini": Price(0.15, 0.60, _OPENAI),
    "o3-mini": Price(1.10, 4.40, _OPENAI),
}
"""Model name as its server knows it -> price. A few, as examples: check them, and bring your own for the rest."""


def read_prices(path: str | Path) -> dict[str, Price]:
    """A price table of one's own, YAML: `model: {read: dollars, written: dollars}`. Raises InputError for others."""
    import yaml

    remedy = "write MODEL: {read: 0.5, written: 2.0}, in dollars a million tokens"
    try:
        table = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            "no such price table", path=path, remedy="write MODEL: {read: 0.5, written: 2.0}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"not YAML: {error}", path=path, remedy=remedy) from None
    if not isinstance(table, dict):
        raise InputError("a mapping of models is expected", path=path, remedy=remedy)
    prices = {}
    for model, row in table.items():
        numbers = row if isinstance(row, dict) else {}
        read, written = numbers.get("read"), numbers.get("written")
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and n >= 0 for n in (read, written)):
            raise InputError(f"the price of {model!r} is {row!r}", path=path, remedy=remedy)
        prices[str(model)] = Price(float(read), float(written), str(numbers.get("source") or path))  # type: ignore[arg-type]
    return prices


def price_of(model: str, own: Mapping[str, Price] | None = None) -> Price | None:
    """The price of a model, from one's own table first; None when nobody knows it."""
    return (own or {}).get(model) or PRICES.get(model)


def price_for(model: str, given: Sequence[float] = ()) -> Price | None:
    """The price that a profile gives (read, written), else that of the table. Raises InputError for others."""
    if not given:
        return price_of(model)
    if len(given) != 2:
        raise InputError(f"a price of {list(given)}", remedy="give two numbers: dollars a million tokens read, written")
    return Price(float(given[0]), float(given[1]), "profile")
