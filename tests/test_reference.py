"""`rrlib html --api`: the docstrings of every public module as pages that fetch nothing and name no machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rrlib.errors import InputError
from rrlib.lesson.reference import build_reference, public_modules
from rrlib.reward import MultiViewReward

ROOT = Path(__file__).resolve().parent.parent
FETCHED = re.compile(r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//""")


def test_every_module_of_the_map_is_public_and_every_public_module_on_the_map() -> None:
    map_of_the_house = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {path[:-3].replace("/", ".") for path in re.findall(r"`(rrlib/[\w/]+\.py)`", map_of_the_house)}
    named = {name.removesuffix(".__init__") for name in named if not name.endswith(".__main__")}
    assert named - set(public_modules()) == set() and len(named) > 150


def test_a_page_holds_signature_docstring_and_no_folder_of_this_machine(tmp_path: Path) -> None:
    names = ["rrlib.reward", "rrlib.lesson.reference", "rrlib.checkpoints"]
    pages = build_reference(tmp_path, names)
    assert pages == [tmp_path / f"{name.replace('.', '/')}.html" for name in names]
    text = pages[0].read_text(encoding="utf-8")
    assert "MultiViewReward" in text and str(MultiViewReward.__doc__).split(".")[0].split("\n")[0][:40] in text
    for path in [*tmp_path.rglob("*.html"), tmp_path / "search.js"]:
        written = path.read_text(encoding="utf-8")
        assert str(ROOT) not in written and not FETCHED.search(written), path


def test_a_module_that_cannot_be_imported_is_named_and_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rrlib.metrics", None)
    with pytest.raises(InputError, match=r"no page for 1 of 2 modules: rrlib\.metrics \(.*make env"):
        build_reference(tmp_path, ["rrlib.metrics", "rrlib.errors"])
    assert [page.name for page in tmp_path.glob("rrlib/*.html")] == ["errors.html"]


def test_without_pdoc_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pdoc", None)
    with pytest.raises(InputError, match=r"pdoc is not installed.*make env"):
        build_reference(tmp_path)


@pytest.mark.slow
def test_the_command_writes_a_page_for_every_public_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rrlib", "html", "--api", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{len(public_modules())} pages, from {tmp_path / 'index.html'}\n"
    written = {page.relative_to(tmp_path).with_suffix("").as_posix() for page in tmp_path.rglob("*.html")}
    assert written == {name.replace(".", "/") for name in public_modules()} | {"index"}
