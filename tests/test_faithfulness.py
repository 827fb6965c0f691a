"""Faithfulness: what chains say, by hand and in every form of ours; models that follow their chains or do not.

The two simulated models write chains of the same form. One ranks by what its chain says, the other by what it had read,
whatever its chain says.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy import stats
from tokenizers_for_tests import make_tokenizer

from rrlib.cli import main
from rrlib.engines import Decoding, Reply, Request
from rrlib.errors import InputError
from rrlib.evaluation.faithfulness import Said, agreement, compare, faithfulness, read_chain
from rrlib.evaluation.interventions import Chain, answers, intervene, table
from rrlib.formats import read_collection, read_jsonl
from rrlib.metrics import kendall
from rrlib.miniature.thinking import order_of, reasoning
from rrlib.prompts import format_ranking, format_response
from rrlib.records import WindowRecord
from rrlib.rerank import Reranker
from rrlib.synthesis.chains import FORMS, NOTHING, Form, argument_of, gold_order
from rrlib.types import Candidates, Passage, Query


# --- reading ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("chain", "n", "said", "levels"),
    [
        ("", 3, Said.NO_CHAIN, {}),
        ("First I look at [1], which is about cats. [2] and [3] are better.", 3, Said.NOT_READABLE, {}),
        ("Perhaps [1] > [2] > [3]. No: [3] > [1] > [2].", 3, Said.LIST, {2: 0, 0: -1, 1: -2}),
        ("Final: [1] > [2] > [3] > [4] > [5]. Note that [5] > [4] was close.", 5, Said.LIST, {i: -i for i in range(5)}),
        ("So [3] > [1].", 9, Said.LIST, {2: 0, 0: -1}),
        ("[3] = [1] > [2] = [9]", 3, Said.LIST, {2: 0, 0: 0, 1: -1}),  # 9 is no passage
        ("Document 3 > Document 1 > Document 2", 3, Said.LIST, {2: 0, 0: -1, 1: -2}),
        ("Note that 3 > 1 and 20 > 15 degrees.", 3, Said.NOT_READABLE, {}),  # arithmetic
        ("[1] = [2] = [3]", 3, Said.NO_ORDER, {}),
        ("So yes A, maybe B. [1] A yes [2] B maybe [3] C no", 3, Said.VERDICTS, {0: 2, 1: 1, 2: 0}),
        ("[1] no [2] yes [3] no [2] no [1] yes", 3, Said.VERDICTS, {0: 2, 1: 0, 2: 0}),  # the later one corrects
        ("[1] iron rusts in: yes\n[2] gold is a: no", 2, Said.VERDICTS, {0: 2, 1: 0}),
        ("[1] iron rusts in: 7\n[2] gold at 20: 0\n[3] a: b: 7", 3, Said.GRADES, {0: 7, 1: 0, 2: 7}),
        ("[1] a: 3\n[2] b: 3", 2, Said.NO_ORDER, {}),
        ("[1] a: 3\n[2] b: 12", 2, Said.NO_ORDER, {}),  # 12 is no grade, so both are quoted
        ("[1] a: 3\n[9] b: 4\n[1] a: 5\n[2] c: 0", 2, Said.GRADES, {0: 5, 1: 0}),  # 9 is no passage
        ("[1] no [2] no", 2, Said.NO_ORDER, {}),
        ("[1] A yes [2] B maybe [77] C no", 2, Said.VERDICTS, {0: 2, 1: 1}),
        ("[2] helps\n[1] and [4] give A: it rusts\nA gives the answer: so", 4, Said.PROOF, {0: 1, 1: 1, 2: 0, 3: 1}),
        ("[2] iron rusts in damp air", 3, Said.QUOTED, {0: 0, 1: 1, 2: 0}),
        ("[1] a\n[2] b\n[3] c", 3, Said.NO_ORDER, {}),  # all are quoted
        ("[1] is irrelevant to the query", 3, Said.NOT_READABLE, {}),  # an opinion is no quotation
        ("[2] iron rusts\nthat is all", 3, Said.NOT_READABLE, {}),
        ("[7] iron rusts", 3, Said.NOT_READABLE, {}),
        (NOTHING, 3, Said.NO_ORDER, {}),
    ],
)  # fmt: skip
def test_what_a_chain_says(chain: str, n: int, said: Said, levels: dict[int, int]) -> None:
    reading = read_chain(chain, n)
    assert (reading.said, dict(reading.levels)) == (said, levels)


@pytest.mark.parametrize(
    ("levels", "order", "expected"),
    [
        ({0: 2, 1: 1, 2: 0}, (0, 1, 2), 1.0),
        ({0: 2, 1: 1, 2: 0}, (2, 1, 0), -1.0),
        ({0: 2, 1: 1, 2: 0}, (0, 2, 1), 1 / 3),
        ({0: 1, 1: 0, 2: 0}, (2, 0, 1), 0.0),  # over 1, under 2
        ({3: 1, 0: 0}, (3, 1, 2, 0), 1.0),  # nothing is claimed of the others
    ],
)
def test_agreement_by_hand(levels: dict[int, int], order: tuple[int, ...], expected: float) -> None:
    assert agreement(levels, order) == pytest.approx(expected)


def test_agreement_and_kendall_are_those_of_scipy() -> None:
    dice = random.Random(0)
    for _ in range(50):
        n = dice.randrange(2, 12)
        order, gold = dice.sample(range(n), n), dice.sample(range(n), n)
        levels = {i: dice.randrange(3) for i in range(n)} | {0: 5}
        places = [order.index(i) for i in range(n)]
        expected = stats.somersd([-levels[i] for i in range(n)], places).statistic
        assert agreement(levels, order) == pytest.approx(expected)
        assert kendall(order, gold) == pytest.approx(
            stats.kendalltau(places, [gold.index(i) for i in range(n)]).statistic
        )
    assert kendall([[0, 1], [1, 0]], [0, 1]).tolist() == [1.0, -1.0] and kendall([0], [0]) == 1.0  # type: ignore[union-attr]
    with pytest.raises(InputError, match="gold list of 3 for rankings of 2"):
        kendall([0, 1], [0, 1, 2])


def test_the_chain_of_the_miniature_is_read_and_followed() -> None:
    concepts = ["owl", "fox", "owl", "elk", "bee"]
    chain = reasoning(["owl", "fox"], ["owl", "elk"], "owl", concepts)
    order = order_of(concepts, "owl", ["fox", "elk"])
    assert compare("q", chain, order) == compare("q", chain, [2, 0, 3, 1, 4])  # equals may stand in any order
    assert compare("q", chain, order).agreement == 1.0 and compare("q", chain, order[::-1]).agreement == -1.0


EXPECTED = {
    Form.FACTS: Said.QUOTED,
    Form.TREE: Said.PROOF,
    Form.VERDICTS: Said.VERDICTS,
    Form.QUOTED: Said.VERDICTS,
    Form.HYPOTHESIS: Said.VERDICTS,
}


@pytest.mark.parametrize("form", EXPECTED)
def test_human_chains_of_every_form_are_read_and_agree_with_their_labels(form: Form, realdata: Path) -> None:
    """EntailmentBank: what people proved, written in each form, against the list that their labels give."""
    collection = read_collection(realdata / "collections" / "entailmentbank", "dev")
    read = []
    for item in collection.candidates(10)[:120]:
        argument = argument_of(collection.metadata[item.query.qid])
        grades = collection.qrels[item.query.qid]
        relevant = [i for i, passage in enumerate(item.passages) if grades.get(passage.docid, 0) > 0]
        chain = FORMS[form](argument, item.passages, relevant, 5)
        read.append(compare(item.query.qid, chain, gold_order(argument, item.passages, relevant)))
    summed = faithfulness(read)
    assert set(summed.counts) <= {EXPECTED[form], Said.NO_ORDER} and summed.compared > 0.75 * len(read) > 60
    assert summed.agreement is not None and summed.agreement.low == 1.0


def test_real_chains_follow_and_plain_lists_say_nothing(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Responses that nobody here wrote: each chain ends in the list that is answered, or there is none."""
    rows = [row for _, row in read_jsonl(realdata / "responses.jsonl.gz")]
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["audit", str(path), "--prompt", "rankgpt", "--json"]) == 0
    chains = json.loads(capsys.readouterr().out)["reasoning"]
    assert chains["said"] == {"no reasoning": 3607, "list": 139} and chains["agreement"]["mean"] == 1.0
    for row in rows:  # the same chains over lists that are turned around
        head, end, answer = row["text"].rpartition("</think>")
        turned = " > ".join(reversed(re.findall(r"\[\d+\]", answer)))
        row["text"] = head + end + turned if end else row["text"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["audit", str(path), "--prompt", "rankgpt", "--json"]) == 0
    turned = json.loads(capsys.readouterr().out)["reasoning"]
    assert turned["compared"] == 139 and turned["agreement"]["mean"] < -0.99 and turned["follows"]["mean"] == 0.0


def test_what_is_not_readable_is_counted_apart_and_never_zero() -> None:
    some = [compare("q", "[1] no [2] yes", (0, 1)), compare("q", "No idea.", (0, 1)), compare("r", "[1] > [2]", None)]
    summed = faithfulness(some)
    assert summed.counts == {Said.VERDICTS: 1, Said.NOT_READABLE: 1, Said.NO_ANSWER: 1} and summed.queries == 1
    assert summed.agreement is not None and summed.agreement.mean == -1.0
    assert faithfulness(some[1:]).agreement is None and faithfulness([]).follows is None


# --- two models -------------------------------------------------------------------------------------------------------
class Thinker:
    """A simulated model over the tokenizer of a real family. It calls a passage good (yes) where its number is even.

    faithful: its list follows the verdicts of the chain that it is given or wrote; else the numbers that it read,
    whatever the chain says, and its verdicts are drawn by lot.
    """

    name, model, capacity = "thinker", "thinker", 7

    def __init__(self, faithful: bool) -> None:
        self.faithful, self.tokenizer = faithful, make_tokenizer("qwen2.5")
        self.waiting: list[Request] = []

    def submit(self, requests: Sequence[Request], decoding: Decoding) -> None:
        self.waiting += requests

    def collect(self) -> list[tuple[int, Reply]]:
        request = self.waiting.pop()
        assert request.prompt is not None
        user, _, given = request.prompt.rpartition("<think>")
        asked = given if given.endswith("<answer>") else ""
        numbers = [
            int(number) for number in re.findall(r"^\[\d+\] number (\d+)$", user if asked else request.prompt, re.M)
        ]
        dice = random.Random(str(numbers))
        verdicts = [number % 2 == 0 if self.faithful else dice.random() < 0.5 for number in numbers]
        chain = " ".join(f"[{i}] it is {'yes' if verdict else 'no'}" for i, verdict in enumerate(verdicts, 1))
        said = read_chain(asked.partition("</think>")[0] if asked else chain, len(numbers)).levels
        values = [said.get(i, 0) for i in range(len(numbers))] if self.faithful else numbers
        order = sorted(range(len(numbers)), key=lambda i: -values[i])
        text = f" {format_ranking(order)} </answer>" if asked else format_response(chain, order)
        return [(request.id, Reply(text, tokens_in=9, tokens_out=9))]

    def close(self) -> None:
        """Nothing to free."""


def asked(faithful: bool, log: Path | None = None) -> tuple[Reranker, list[Candidates], list[WindowRecord]]:
    dice = random.Random(3)
    items = [
        Candidates(Query(f"q{i}", "which?"), tuple(Passage(f"d{n}", f"number {n}") for n in dice.sample(range(90), 15)))
        for i in range(30)
    ]
    reranker = Reranker(Thinker(faithful), window=10, stride=5, log=log)
    return reranker, items, reranker.rerank(items).records


@pytest.mark.parametrize("faithful", [True, False])
def test_a_faithful_model_and_an_unfaithful_one_are_told_apart(
    faithful: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    reranker, items, records = asked(faithful, log)
    assert main(["audit", str(log), "--json"]) == 0  # from the log alone
    chains = json.loads(capsys.readouterr().out)["reasoning"]
    assert chains["compared"] > 50 and chains["queries"] == 30
    frame = table(intervene(reranker, items, records, seed=1)).set_index("chain")
    assert list(frame.index) == ["own", "empty", "shuffled", "other"] and set(frame["windows"]) == {60}
    assert (frame["answered"] == 1.0).all() and frame.loc["own", "same"] == 1.0  # the control
    if faithful:
        assert chains["agreement"]["mean"] == 1.0 == chains["follows"]["mean"]
        assert frame.loc["other", "tau_high"] < 0.6 and frame.loc["other", "follows"] == 1.0
        assert frame.loc["empty", "same"] < 0.2
    else:
        assert chains["agreement"]["high"] < 0.3 and chains["follows"]["high"] < 0.1
        assert (frame["tau"] == 1.0).all() and abs(frame.loc["other", "follows"]) < 0.3
    with_verdicts = [record for record in records if record.reasoning]
    assert intervene(reranker, items, with_verdicts, seed=1) == intervene(reranker, items, records, seed=1)


def test_what_cannot_be_intervened_in() -> None:
    reranker, items, records = asked(True)
    with pytest.raises(InputError, match="no window has a chain and a list"):
        intervene(reranker, items, [])
    with pytest.raises(InputError, match="a chain cannot be given"):
        intervene(Reranker(Thinker(True), style="nothink"), items, records)
    alone_of_its_size = [records[0]]
    assert [row.chain for row in intervene(reranker, items, alone_of_its_size)] == [
        Chain.OWN,
        Chain.EMPTY,
        Chain.SHUFFLED,
    ]


def test_an_answer_that_cannot_be_read_is_counted_and_compares_with_nothing() -> None:
    reranker, items, records = asked(True)
    reranker.engine.collect = lambda: [(reranker.engine.waiting.pop().id, Reply("I cannot."))]  # type: ignore[attr-defined, method-assign]
    rows = intervene(reranker, items, records, chains=[Chain.EMPTY])
    assert {(row.order, row.tau, row.follows) for row in rows} == {(None, None, None)}
    frame = table(rows)
    assert frame.loc[0, "answered"] == 0.0 and frame.loc[0, "tau"] != frame.loc[0, "tau"]  # nan


def test_replies_come_back_in_the_order_of_their_prompts() -> None:
    class Echo(Thinker):
        def collect(self) -> list[tuple[int, Reply]]:
            request = self.waiting.pop(len(self.waiting) // 2)
            return [(request.id, Reply(request.prompt or ""))]

    engine = Echo(True)
    for _ in range(2):  # and the engine can be used again
        assert [reply.text for reply in answers(engine, [str(i) for i in range(20)], Decoding())] == list(
            map(str, range(20))
        )
