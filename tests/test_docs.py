"""The pages of docs/: every name exists, every example runs, every command parses, every claim of form holds."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import re
import shlex
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from rrlib.chain.params import load_profile
from rrlib.cli import commands, main
from rrlib.miniature.sketch import sketch
from rrlib.miniature.teacher import ErrorRates
from rrlib.strategies import STRATEGIES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = (
    "method",
    "formats",
    "profiles",
    "adding-a-domain",
    "adding-a-strategy",
    "strategies",
    "adding-an-engine",
    "faq",
    "teaching",
    "thinking",
    "architecture",
    "results",
    "serving",
    "adapters",
    "confidence",
    "faithfulness",
    "many-machines",
    "install",
    "costs",
    "commands",
    "miniature",
    "development",
    "README",
    "world",
    "glossary",
    "papermill",
    "coming-from",
)
SHORT = ("adding-a-domain", "adding-a-strategy", "adding-an-engine")
NAME = re.compile(r"`(rrlib(?:\.\w+)*):([\w.]+)`")


def text_of(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def fenced(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


def named(module: str, name: str) -> Any:
    return reduce(getattr, name.split("."), importlib.import_module(module))


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")])
def test_the_examples_run_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rrlib.strategies.STRATEGIES", STRATEGIES)
    known = dict(STRATEGIES)
    try:
        names: dict[str, Any] = {"__name__": f"docs_{page}"}
        for number, block in enumerate(fenced(page, "python"), 1):
            exec(compile(block, f"docs/{page}.md, block {number}", "exec"), names)
    finally:
        STRATEGIES.clear()
        STRATEGIES.update(known)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES)
def test_named_functions_exist(page: str) -> None:
    for module, name in NAME.findall(text_of(page)):
        assert named(module, name) is not None


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_commands_exist(page: str) -> None:
    text = text_of(page)
    # The profiles have a test of their own, which says what to add where a row is missing.
    for path in re.findall(r"`((?:rrlib|notebooks|tests|docs|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or (ROOT / f"{path}.py").exists(), path
    for command in re.findall(r"`rrlib (\w+)", text):
        assert command in commands(), command
    assert not re.search(r"""["'(\s`]/(home|root|tmp|work|Users|mnt|data)\b""", text)


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_parse(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from rrlib.cli import build_app

    group: Any = typer.main.get_command(build_app())  # type: ignore[arg-type]
    for line in "\n".join(fenced(page, "bash")).replace("\\\n", " ").splitlines():
        if line.startswith("rrlib "):
            words = shlex.split(line, comments=True)
            command = group.commands[words[1]]
            command.make_context(words[1], words[2:], resilient_parsing=False)


def test_the_method_quotes_lines_that_are_in_the_code() -> None:
    rows = re.findall(r"^\|[^|]+\|[^|]+\| `(rrlib[\w.]*):([\w.]+)` \| `(.+)` \|$", text_of("method"), re.MULTILINE)
    assert len(rows) >= 12
    for module, name, line in rows:
        assert line in inspect.getsource(named(module, name)), f"{module}:{name} does not hold: {line}"


def test_the_index_has_a_line_for_every_page_and_no_other() -> None:
    lines = re.findall(r"^- \[([\w-]+)\.md\]\(([\w-]+)\.md\): \S", text_of("README"), re.MULTILINE)
    assert all(name == target for name, target in lines)
    pages = sorted(path.stem for path in DOCS.glob("*.md") if path.stem != "README")
    assert sorted(name for name, _ in lines) == pages, "one line a page in docs/README.md"


def test_links_between_the_pages_lead_somewhere() -> None:
    for path in DOCS.glob("*.md"):
        for target in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", path.read_text(encoding="utf-8")):
            assert (DOCS / target).is_file(), f"{path.name}: {target}"


def test_no_word_of_the_glossary_is_explained_twice() -> None:
    words = re.findall(r"\*\*([^*]+)\*\*", text_of("glossary"))
    assert len(words) > 60 and [word for word in set(words) if words.count(word) > 1] == []


@pytest.mark.parametrize("notebook", ["00_tour", "01_synthesis"])
def test_the_world_is_told_alike_everywhere_and_drawn_by_code(notebook: str) -> None:
    """The sentences of docs/world.md, word for word; its drawing has the words of the notebooks' sketch."""
    text = " ".join("\n".join(_markdown(notebook)).split())
    for line in text_of("world").split("## In five lines")[1].split("```")[0].split("\n- ")[1:]:
        assert " ".join(line.split()) in text
    assert "world_drawing(sketch(" in (ROOT / "notebooks" / f"{notebook}.py").read_text(encoding="utf-8")
    (drawing,), drawn, rates = fenced("world", "text"), sketch(), ErrorRates()
    for name in (*drawn.rivals, drawn.concept, drawn.topic):
        assert name in drawing
    assert f"for {rates.systematic:.0%} of the pairs" in text and f"and {rates.wrong_belief:.0%} of its other" in text


def test_ten_questions_name_the_sections_that_answer_them() -> None:
    """Of 00 to 03 alone; each section is there, and asks or explains before the next one begins."""
    page = " ".join(text_of("teaching").split("## Ten questions")[1].split("\n## ")[0].split())
    questions = re.findall(r"(\d+)\. ([^?]+\?) \(`(\w+)`, \*([^*]+)\*\)", page)
    assert [int(number) for number, *_ in questions] == list(range(1, 11))
    assert {notebook for _, _, notebook, _ in questions} == {"00_tour", "01_synthesis", "02_sft", "03_rl"}
    for _, question, notebook, section in questions:
        headings = [line.lstrip("# ") for text in _markdown(notebook) for line in text.splitlines() if line[:2] == "##"]
        assert section in headings, f"{question}: {notebook} has no section {section!r}"


def _markdown(notebook: str) -> list[str]:
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]


@pytest.mark.parametrize("page", SHORT)
def test_how_to_add_something_is_under_a_page(page: str) -> None:
    text = text_of(page)
    assert len(text.splitlines()) <= 75 and len(text.split()) <= 600
    assert fenced(page, "python")


def test_the_profiles_page_lists_every_profile_as_it_is() -> None:
    text = text_of("profiles")
    rows = dict(re.findall(r"^\| `params/([\w.-]+)\.yaml` \| (.+?) \|$", text, re.MULTILINE))
    for path in sorted((ROOT / "params").glob("*.yaml")):
        hardware = str(yaml.safe_load(path.read_text(encoding="utf-8")).get("hardware", ""))
        assert path.stem in rows, f"add to docs/profiles.md: | `params/{path.name}` | what it is | {hardware} |"
        assert rows[path.stem].endswith(f"| {hardware}"), f"{path.stem}: its hardware is {hardware!r}"
    (example,) = fenced("profiles", "yaml")
    target = ROOT / "params" / "smoke.yaml"
    assert target.is_file() and "shared:" in example


def test_the_profile_of_the_page_is_a_profile(tmp_path: Path) -> None:
    (example,) = fenced("profiles", "yaml")
    (tmp_path / "mine.yaml").write_text(example)
    assert load_profile(tmp_path / "mine.yaml").sections["01_synthesis"]["alpha"] == 0.5


def test_every_answer_of_the_faq_cites_where_it_was_asked() -> None:
    entries = re.split(r"^## ", text_of("faq"), flags=re.MULTILINE)[1:]
    cited = [re.findall(r"\b[\w.-]+/[\w.-]+#\d+\b", entry) for entry in entries]
    assert len(entries) >= 10 and sum(map(bool, cited)) >= len(entries) - 1
    assert len({c for found in cited for c in found}) >= 25
    assert all(entry.splitlines()[0].endswith(("?", ".")) for entry in entries)


def test_the_log_of_experiments_has_dated_sections_and_negative_results() -> None:
    _, *sections = re.split(r"^## (?!Adding)", text_of("experiments"), flags=re.MULTILINE)
    heads = [section.splitlines()[0] for section in sections]
    assert len(sections) >= 39 and all(re.match(r"(\d{4}-\d\d-\d\d|Before \d{4}-\d\d-\d\d): .+\?$", h) for h in heads)
    for section in sections:
        labels = re.findall(r"^\*\*(.+?)\.\*\* \S|^\*\*(Command)\.\*\*$", section, re.MULTILINE)
        assert ["".join(pair) for pair in labels] in (
            ["Command", "Result", "What it changed"],
            ["Set-up", "Result", "What it changed"],
        ), section
    assert sum("**negative**" in section for section in sections) >= 3
    dates = [head[:10] for head in heads if head[0].isdigit()]
    assert dates == sorted(dates, reverse=True), "newest first"
    assert all(head.startswith("Before") for head in heads[len(dates) :])


def test_the_plans_add_up() -> None:
    tables = re.split(r"^## ", text_of("teaching"), flags=re.MULTILINE)[1:3]
    for table, minutes in zip(tables, (60, 180), strict=True):
        spans = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+)-(\d+) \|", table, re.MULTILINE)]
        assert spans[0][0] == 0 and spans[-1][1] == minutes
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))


def test_the_lesson_command_of_the_teaching_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in fenced("teaching", "bash")[0].splitlines() if line.startswith("rrlib lesson")]
    assert main(line.split("#")[0].split()[1:]) == 0
    assert (tmp_path / "outputs" / "lesson" / "README.md").is_file()
