"""Money: prices, the books, a hard budget, the cache, and the plan that a dry run prints."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_synthesis import Teacher, make_collection, run

from rrlib.engines.base import Decoding, Reply
from rrlib.engines.limits import Pace, TokenGauge, size_of
from rrlib.errors import InputError, MissingFileError
from rrlib.formats import read_jsonl
from rrlib.plans.synthesis import plan
from rrlib.synthesis.teacher.cache import ResponseCache
from rrlib.synthesis.teacher.ledger import BudgetError
from rrlib.synthesis.teacher.prices import PRICES, Price, price_of, read_prices

PRICE = Price(1.0, 10.0)
"""Dollars a million tokens: the toy teacher's 10 tokens in and 3 or 9 out cost 40 or 100 millionths."""


def test_prices_are_dated_and_ones_own_go_first(tmp_path: Path) -> None:
    assert all("20" in price.source and price.source.startswith("https://") for price in PRICES.values())
    assert Price(0.5, 2.0).cost(1_000_000, 500_000) == pytest.approx(1.5)
    table = tmp_path / "prices.yaml"
    table.write_text("deepseek-reasoner: {read: 0.1, written: 0.2}\nmine: {read: 0, written: 1}\n")
    own = read_prices(table)
    assert price_of("deepseek-reasoner", own) == Price(0.1, 0.2, str(table))
    assert price_of("gpt-4o", own) == PRICES["gpt-4o"] and price_of("nobody") is None
    with pytest.raises(MissingFileError):
        read_prices(tmp_path / "none.yaml")
    for bad in ("mine: 3", "mine: {read: -1, written: 1}", "- mine", "mine: {read: '1', written: 1}", "a: ["):
        table.write_text(bad)
        with pytest.raises(InputError, match=r"prices\.yaml"):
            read_prices(table)


def test_the_books_add_up(tmp_path: Path) -> None:
    result = run(make_collection(12), Teacher(), tmp_path, price=PRICE)
    cost = (24 * 40 + 12 * 100) / 1e6
    assert result.summary["this_run"]["usd"] == pytest.approx(cost) == result.summary["account"]["usd"]
    again = run(make_collection(12), Teacher(), tmp_path, price=PRICE)
    assert again.summary["this_run"]["usd"] == 0 or again.summary["this_run"]["usd"] is None
    assert again.summary["account"]["usd"] == pytest.approx(cost)


def test_failed_calls_are_booked_as_possible_costs(tmp_path: Path) -> None:
    bad = Teacher(lambda kind, query, r: Reply(error="503", retries=2) if query == "question 1" else r)
    result = run(make_collection(4), bad, tmp_path, price=PRICE, decoding=Decoding(max_new_tokens=100))
    assert result.summary["account"]["failed"] == 1
    assert 100 * 10 / 1e6 < result.summary["account"]["possible_usd"] < 1e-2


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_budget_is_never_overrun_and_the_run_goes_on_later(tmp_path: Path, concurrency: int) -> None:
    """A call may cost 100 * $10/M + its prompt at most; the budget holds about half the calls."""
    options: dict[str, Any] = {"price": PRICE, "decoding": Decoding(max_new_tokens=100), "concurrency": concurrency}
    first = Teacher(delay=0.001)
    with pytest.raises(BudgetError, match=r"the budget of \$0\.00 is reached: .* 12 queries are done") as caught:
        run(make_collection(12), first, tmp_path, budget=0.0027, **options)
    assert 1 < len(first.asked) < 36
    assert "raise the budget" in str(caught.value)
    spent = sum(row.get("usd") or 0 for _, row in read_jsonl(tmp_path / "calls.jsonl"))
    assert 0.0002 < spent <= 0.0027
    done = len(list(read_jsonl(tmp_path / "examples.jsonl")))
    assert done >= 1, "what is done is finished"
    again = Teacher()
    assert run(make_collection(12), again, tmp_path, budget=1.0, **options).n_examples == 12
    assert len(first.asked) + len(again.asked) == 36


def test_a_budget_counts_what_retries_may_have_cost(tmp_path: Path) -> None:
    """Retries through a watched client: each is booked at its most, and the budget stops them."""

    class Flaky(Teacher):
        async def chat(self, messages: Any, decoding: Any, watch: Any = None) -> Reply:  # type: ignore[override]
            for _ in range(3):
                self.asked.append(("try", ""))
                await watch("dropped", False)
            return await super().chat(messages, decoding)

    teacher = Flaky()
    decoding = Decoding(max_new_tokens=1000)
    with pytest.raises(BudgetError, match="does not hold another try"):
        run(make_collection(2), teacher, tmp_path, budget=0.025, price=PRICE, decoding=decoding, concurrency=1)
    possible = sum(row.get("possible") or 0 for _, row in read_jsonl(tmp_path / "calls.jsonl"))
    assert len(teacher.asked) == 2 and 0.02 < possible <= 0.025


def test_an_error_frees_the_money_that_others_wait_for(tmp_path: Path) -> None:
    """The budget holds one call at a time; the first breaks in an unforeseen way, the second must not wait for ever."""

    class Broken(Teacher):
        async def chat(self, messages: Any, decoding: Any) -> Reply:
            await asyncio.sleep(0.01)
            raise RuntimeError("a bug")

    decoding = Decoding(max_new_tokens=1000)
    with pytest.raises(RuntimeError, match="a bug"):
        run(make_collection(4), Broken(), tmp_path, budget=0.012, price=PRICE, decoding=decoding, concurrency=4)


def test_a_budget_needs_a_price(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no price of this model is known"):
        run(make_collection(2), Teacher(), tmp_path, budget=1.0)
    with pytest.raises(InputError, match="a budget of -1"):
        run(make_collection(2), Teacher(), tmp_path, budget=-1.0, price=PRICE)


def test_the_cache_answers_the_whole_request_and_nothing_else(tmp_path: Path) -> None:
    run(make_collection(4), Teacher(), tmp_path / "a", cache=tmp_path / "cache", price=PRICE)
    silent = Teacher()
    result = run(make_collection(4), silent, tmp_path / "b", cache=tmp_path / "cache", price=PRICE)
    assert silent.asked == [] and result.n_examples == 4
    assert result.summary["this_run"]["cached"] == 12 and result.summary["account"]["usd"] == 0
    for name in ("select.jsonl", "rank.jsonl", "examples.jsonl"):
        one, two = ((tmp_path / x / name).read_bytes().splitlines() for x in "ab")
        assert sorted(one) == sorted(two)
    for other in ({"seed": 2}, {"decoding": Decoding(temperature=0.1)}):
        loud = Teacher()
        run(make_collection(4), loud, tmp_path / str(other), cache=tmp_path / "cache", **other)
        assert len(loud.asked) == 12


def test_a_damaged_cache_entry_is_asked_again(tmp_path: Path) -> None:
    cache, messages = ResponseCache(tmp_path), [{"role": "user", "content": "hello"}]
    client, decoding = Teacher(), Decoding()
    cache.put(client, messages, decoding, Reply("hi", "thought", "stop", 3, 2, seconds=9.0, retries=4))
    assert cache.get(client, messages, decoding) == Reply("hi", "thought", "stop", 3, 2, extra={"cached": True})
    cache.path(client, messages, decoding).write_text('{"text": "h')
    assert cache.get(client, messages, decoding) is None
    assert cache.get(client, messages, replace(decoding, seed=1)) is None


def test_a_dry_run_counts_calls_and_costs_without_a_call(tmp_path: Path) -> None:
    collection = make_collection(12)
    made = plan(collection, "toy-teacher", tmp_path, window=6, seed=1, price=PRICE, expect=50)
    assert made.calls == {"select": 24, "hard": 0, "rank": 12} and made.stored == 0
    assert made.queries == 12 and made.tokens_out == 36 * 50
    assert made.usd == pytest.approx(PRICE.cost(made.tokens_in, 36 * 50))
    assert made.most_usd is not None and made.usd is not None and made.most_usd > made.usd
    assert os.listdir(tmp_path) == [], "nothing is written"
    run(collection, Teacher(), tmp_path, limit=5)
    later = plan(collection, "toy-teacher", tmp_path, window=6, seed=1, price=PRICE)
    assert later.calls == {"select": 14, "hard": 0, "rank": 7} and later.stored == 15
    assert later.tokens_out == 14 * 3 + 7 * 9, "what was answered tells how long answers are"
    assert "14 select" in later.text() and "$" in later.text()
    free = plan(collection, "toy-teacher", tmp_path, window=6, seed=1)
    assert free.usd is None and "no price" in free.text()


# --- limits ----------------------------------------------------------------------------------------------------------


def test_pace_spaces_calls_and_settles_estimates() -> None:
    now, slept = 100.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 6))
        now += seconds

    async def go() -> None:
        pace = Pace(60.0, clock=lambda: now, sleep=sleep)
        for _ in range(3):
            await pace.take()
        assert slept == [1.0, 1.0]
        pace.settle(4.0)  # the last one was larger than thought
        await pace.take()
        assert slept[-1] == 5.0
        tokens = Pace(6000.0, clock=lambda: now, sleep=sleep)
        await tokens.take(500)
        tokens.settle(-300)
        await tokens.take(1)
        assert slept[-1] == 2.0
        await Pace(0.0, clock=lambda: now, sleep=sleep).take(1e9)
        assert len(slept) == 4

    asyncio.run(go())
    with pytest.raises(InputError, match="-1"):
        Pace(-1)


def test_gauge_learns_from_the_servers_counts() -> None:
    gauge = TokenGauge()
    assert gauge.prompt(400) == 100 and gauge.answer(1000) == 250
    gauge.learn(300, 100, 40)
    gauge.learn(300, 0, 0)
    assert gauge.prompt(600) == 200 and gauge.answer(1000) == 40 and gauge.answer(10) == 10
    assert size_of([{"role": "user", "content": "ü€"}]) == 5


def test_the_bill_of_a_teacher_in_this_process_is_nothing(tmp_path: Path) -> None:
    ours, others = "rrlib.miniature:SimulatedTeacher", ("rrlib.synthesis.human:ModelTeacher", "unknown-7b")
    assert "cost: none" in plan(make_collection(2), ours, tmp_path / "none").text()
    for model in others:  # one may stand behind an address
        assert "no price of this model is known" in plan(make_collection(2), model, tmp_path / "none").text()
    assert "cost: about $" in plan(make_collection(2), ours, tmp_path / "none", price=PRICE).text()
