"""Stage folders: a folder with a manifest is whole; what changed is named; what was begun otherwise is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rrlib.chain import manifest
from rrlib.chain.manifest import Stage, identity, notebook_hash, open_stage, outputs_root, references, stage_state
from rrlib.disk import hash_tree, read_json
from rrlib.errors import StageError


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    path = tmp_path / "a.ipynb"
    write_notebook(path, "print(rate)")
    return path


def write_notebook(path: Path, code: str, text: str = "# Title", rate: str = "rate = 1.0  # per step") -> None:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": text},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": rate},
        {"cell_type": "code", "metadata": {}, "source": [code]},
    ]
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")


PARAMETERS: dict[str, Any] = {"run": "r", "seed": 3, "rate": 1.0, "interactive": False}


def begin(run: Path, notebook: Path, stage: str = "a", /, **more: Any) -> Stage:
    options = {key: more.pop(key) for key in ("inputs", "fresh") if key in more}
    return open_stage(run, stage, PARAMETERS | more, notebook=notebook, **options)


def finish(run: Path, notebook: Path, stage: str = "a", /, data: str = "1", **more: Any) -> Stage:
    with begin(run, notebook, stage, **more) as opened:
        opened.data_kind = "synthetic"
        opened.path("sub", "data.txt").write_text(data)
    return opened


def state(run: Path, notebook: Path, /, **more: Any) -> tuple[str, list[str]]:
    return stage_state(run, "a", identity(run, "a", PARAMETERS | more, (), notebook))


def test_the_life_of_a_stage(tmp_path: Path, notebook: Path) -> None:
    run = tmp_path / "r"
    assert state(run, notebook) == ("absent", [])
    stage = begin(run, notebook)
    assert "begun" in repr(stage) and not stage.reopened and not stage.resumed
    assert state(run, notebook) == ("begun", [])
    stage.data_kind = "simulated"
    stage.path("data.jsonl").write_text("{}\n")
    with stage.timed("work"):
        pass
    line = stage.finish(score=0.5)
    assert "a finished: 1 files" in line and "simulated" in line
    assert state(run, notebook) == ("finished", [])
    assert read_json(run / "a" / "metrics.json") == {"score": 0.5}
    written = read_json(run / "a" / "manifest.json")
    assert written["match"]["parameters"] == {"seed": 3, "rate": 1.0}  # the folder's name and widgets do not count
    record = written["record"]
    assert record["seed"] == 3 and record["data_kind"] == "simulated" and record["run"] == "r"
    assert {"versions", "device", "commit", "seconds", "timings", "finished"} <= record.keys()
    assert list(record["timings"]) == ["work"]
    assert not (run / "a" / "begun.json").exists()


def test_metrics_are_written_before_the_manifest(
    tmp_path: Path, notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    real = manifest.write_json
    monkeypatch.setattr(manifest, "write_json", lambda path, data: (names.append(path.name), real(path, data)))
    finish(tmp_path / "r", notebook)
    assert names == ["begun.json", "metrics.json", "manifest.json"]


def test_an_error_inside_leaves_the_stage_unfinished(tmp_path: Path, notebook: Path) -> None:
    with pytest.raises(RuntimeError), begin(tmp_path / "r", notebook):
        raise RuntimeError("killed")
    assert state(tmp_path / "r", notebook)[0] == "begun"
    assert begin(tmp_path / "r", notebook).resumed


def test_a_begun_stage_is_continued_with_its_data(tmp_path: Path, notebook: Path) -> None:
    begin(tmp_path / "r", notebook).path("store.jsonl").write_text("kept\n")
    again = begin(tmp_path / "r", notebook)
    assert again.resumed and again.path("store.jsonl").read_text() == "kept\n"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"rate": 2.0}, "parameters.rate: 1.0 -> 2.0"),
        ({"seed": 4}, "parameters.seed"),
        ({"more": 1}, "parameters.more"),
    ],
)
def test_begun_and_changed_is_refused_by_key_and_fresh_helps(
    change: dict[str, Any], key: str, tmp_path: Path, notebook: Path
) -> None:
    run = tmp_path / "r"
    begin(run, notebook).path("store.jsonl").write_text("old")
    with pytest.raises(StageError) as caught:
        begin(run, notebook, **change)
    assert key in str(caught.value) and "--fresh" in str(caught.value)
    assert (run / "a" / "store.jsonl").read_text() == "old"
    stage = begin(run, notebook, fresh=True, **change)
    assert not stage.resumed and not (run / "a" / "store.jsonl").exists()


def test_finished_and_changed_runs_again_and_keeps_the_old_folder_once(tmp_path: Path, notebook: Path) -> None:
    run = tmp_path / "r"
    finish(run, notebook, data="first")
    assert state(run, notebook, rate=2.0) == ("changed", ["parameters.rate: 1.0 -> 2.0"])
    finish(run, notebook, data="second", rate=2.0)
    finish(run, notebook, data="third", rate=3.0)
    assert (run / "a" / "sub" / "data.txt").read_text() == "third"
    assert (run / "a.previous" / "sub" / "data.txt").read_text() == "second"


def test_what_does_not_count_does_not_change_a_stage(tmp_path: Path, notebook: Path) -> None:
    run = tmp_path / "r"
    finish(run, notebook)
    write_notebook(notebook, "print(rate)", text="# Another title", rate="rate = 5.0  # of another default")
    assert state(run, notebook, run="other", interactive=True) == ("finished", [])


def test_code_library_references_and_lost_data_count(
    tmp_path: Path, notebook: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, model = tmp_path / "r", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    finish(run, notebook, model=str(model))
    assert state(run, notebook, model=str(model))[0] == "finished"
    (model / "config.json").write_text("{1}")
    assert state(run, notebook, model=str(model)) == (
        "changed",
        [f"references.{model}: " + _hashes(run, notebook, model)],
    )
    (model / "config.json").write_text("{}")
    write_notebook(notebook, "print(rate + 1)")
    assert state(run, notebook, model=str(model)) == ("changed", ["notebook"])
    write_notebook(notebook, "print(rate)")
    (run / "a" / "sub" / "data.txt").write_text("longer")
    assert state(run, notebook, model=str(model)) == ("changed", ["outputs.sub/data.txt"])
    (run / "a" / "sub" / "data.txt").write_text("1")
    monkeypatch.setattr(manifest, "library_hash", lambda: "another")
    assert state(run, notebook, model=str(model)) == ("changed", ["library"])


def _hashes(run: Path, notebook: Path, model: Path) -> str:
    old = read_json(run / "a" / "manifest.json")["match"]["references"][str(model)]
    return f"{old!r} -> {hash_tree(model)!r}"


def test_inputs_must_be_finished_and_count_by_their_data(tmp_path: Path, notebook: Path) -> None:
    run = tmp_path / "r"
    with pytest.raises(StageError, match="b reads a, which is not finished"):
        begin(run, notebook, "b", inputs=["a"])
    finish(run, notebook)
    second = finish(run, notebook, "b", inputs=["a"])
    assert second.data_kind == "synthetic" and second.input("a", "sub", "data.txt").read_text() == "1"
    before = read_json(run / "b" / "manifest.json")
    finish(run, notebook)  # made again with the same data: nothing changes behind it
    match = identity(run, "b", PARAMETERS, ["a"], notebook)
    assert stage_state(run, "b", match) == ("finished", [])
    finish(run, notebook, data="2")
    changes = stage_state(run, "b", identity(run, "b", PARAMETERS, ["a"], notebook))
    assert changes[0] == "changed" and changes[1][0].startswith(f"inputs.a: {before['match']['inputs']['a']!r} -> ")


def test_a_kind_inherited_from_inputs_can_be_read_and_foreign_inputs_not(tmp_path: Path, notebook: Path) -> None:
    finish(tmp_path / "r", notebook)
    stage = begin(tmp_path / "r", notebook, "b", inputs=["a"])
    with pytest.raises(StageError, match="does not read c"):
        stage.input("c")
    with pytest.raises(StageError, match="is missing"):
        stage.input("a", "none.txt")
    with pytest.raises(StageError, match="no manifest"):
        stage.manifest_of("c")


def test_finish_without_a_data_kind_is_refused(tmp_path: Path, notebook: Path) -> None:
    with pytest.raises(StageError, match="data kind"):
        begin(tmp_path / "r", notebook).finish()


def test_a_finished_stage_opens_again_and_stays_whole_until_it_finishes(tmp_path: Path, notebook: Path) -> None:
    run = tmp_path / "r"
    finish(run, notebook)
    stage = begin(run, notebook)
    assert stage.reopened and stage.path("sub", "data.txt").read_text() == "1"
    assert state(run, notebook) == ("finished", [])


def test_a_folder_with_data_and_no_beginning_is_refused(tmp_path: Path, notebook: Path) -> None:
    (tmp_path / "r" / "a").mkdir(parents=True)
    (tmp_path / "r" / "a" / "precious.txt").write_text("1")
    with pytest.raises(StageError, match=r"begun\.json is missing"):
        begin(tmp_path / "r", notebook)
    assert (tmp_path / "r" / "a" / "precious.txt").exists()


def test_a_torn_manifest_is_no_manifest(tmp_path: Path, notebook: Path) -> None:
    run = tmp_path / "r"
    finish(run, notebook)
    path = run / "a" / "manifest.json"
    path.write_text(path.read_text()[:50])
    assert state(run, notebook)[0] == "blocked"


def test_a_figure_is_saved_named_and_given_back(tmp_path: Path, notebook: Path) -> None:
    from rrlib.lesson.plots.basics import consistency_histogram

    stage = begin(tmp_path / "r", notebook)
    stage.data_kind = "real"
    figure = consistency_histogram([0.2, 0.9], 0.4)
    assert stage.figure("filter", figure) is figure
    stage.figure("filter", figure)
    stage.finish()
    assert (tmp_path / "r" / "figures" / "a_filter.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(tmp_path / "r" / "a" / "manifest.json")["figures"] == ["a_filter.png"]


def test_references_are_found_in_strings_lists_and_mappings(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    module = "tests_reference_module"
    found = references(
        {
            "corpus": str(folder),
            "list": [str(folder), 3],
            "inside": {"x": "rrlib.miniature:build"},
            "package": "package:rrlib.miniature/worlds",
            "gone": "package:rrlib.miniature/none",
            "hub": "Qwen/Qwen2.5-7B-Instruct",
            "url": "http://localhost:8000/v1",
            "module": f"{module}:thing",
            "other": "json:dumps",
            "empty": "",
        }
    )
    assert found[str(folder)] == hash_tree(folder)
    assert set(found) == {str(folder), "package:rrlib.miniature/worlds", "package:rrlib.miniature/none", "json:dumps"}
    assert found["package:rrlib.miniature/none"] == "missing"


def test_the_library_hash_is_stable_and_notebook_hash_sees_code_only(notebook: Path) -> None:
    assert manifest.library_hash() == manifest.library_hash() and len(manifest.library_hash()) == 16
    before = notebook_hash(notebook)
    write_notebook(notebook, "print(rate)", text="other", rate="rate = 9.0  # per step")
    assert notebook_hash(notebook) == before
    write_notebook(notebook, "print(rate, 1)")
    assert notebook_hash(notebook) != before


def test_outputs_go_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRLIB_OUTPUTS", str(tmp_path / "there"))
    assert outputs_root() == (tmp_path / "there").resolve()
    monkeypatch.delenv("RRLIB_OUTPUTS")
    monkeypatch.chdir(tmp_path)
    assert outputs_root() == Path(__file__).resolve().parent.parent / "outputs"
