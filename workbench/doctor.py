"""What this machine can and cannot do, in words, and how to get the rest. Imports no engine.

for finding in examine(): print(finding.what, finding.ok, finding.detail, finding.how)
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workbench import backends

FULL_SET_GB = 4.0  # a fresh .venv with every engine took 3.8 GB
NO_DATA = (
    "none is needed: what is not there is shipped or generated. To work on published data, set WORKBENCH_DATA to a "
    "folder with dna/ (genomes and reads, FASTA) and spot/ (traces of spot machines, JSON and CSV)"
)
MODEL_RUN_GB = 2.0  # torch, the small model in fp32 and the cache of 8k tokens, with room


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: whether it is well, what was found, and what to do where it is not.

    What is not `needed` may be absent: it is then optional, never missing.
    """

    group: str
    what: str
    ok: bool
    detail: str
    how: str = ""
    needed: bool = True

    @property
    def state(self) -> str:
        """In a word: "yes", "no", or "optional" for what is absent and not needed."""
        return "yes" if self.ok else "no" if self.needed else "optional"


def examine(*, torch: bool = False, unfetched: str = "") -> list[Finding]:
    """Everything there is to say, the machine first. With `torch`, torch itself is asked about the GPU (seconds).

    `unfetched` says why a model that was asked for could not be had: its last line is the way out.
    """
    if torch:
        import torch as _  # noqa: F401  backends asks it when it is loaded
    return [*_machine(), *_engines(), *_inputs(unfetched), *_places()]


def text(findings: Iterable[Finding]) -> str:
    """Findings as aligned lines: yes, no or optional, and the way to it under each that is not here."""
    findings = list(findings)
    width, wide = max(len(f.what) for f in findings), max(len(f.state) for f in findings)
    lines: list[str] = []
    group = ""
    for f in findings:
        if f.group != group:
            group = f.group
            lines += ["", group] if lines else [group]
        lines.append(f"  {f.what:<{width}}  {f.state:<{wide}}  {f.detail}")
        if f.how and not f.ok:
            lines.append(f"  {'':<{width}}  {'':<{wide}}  {f.how}")
    missing = [f.what for f in findings if f.state == "no"]
    lines += ["", f"Missing: {', '.join(missing)}." if missing else "Nothing is missing."]
    return "\n".join(lines)


def _machine() -> Iterable[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    free_gb = memory.available / 1e9
    yield Finding("Machine", "python", True, f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield Finding("Machine", "cores", True, f"{backends.cores()} ({backends.cpu_model()})")
    yield Finding("Machine", "vectors", True, backends.vector_level())
    yield Finding(
        "Machine",
        "memory",
        free_gb >= MODEL_RUN_GB,
        f"{memory.total / 1e9:.1f} GB, {free_gb:.1f} GB of it free",
        f"close other programs: a run with the small model takes up to {MODEL_RUN_GB:.0f} GB",
    )
    gpus = backends.gpus()
    yield Finding(
        "Machine", "GPU", bool(gpus), "; ".join(gpus) or "nvidia-smi names none",
        "none is needed: the cpu and sim backends run everywhere; the gpu extra is for machines that have one",
        needed=False,
    )  # fmt: skip


def _engines() -> Iterable[Finding]:
    for found in backends.backends().values():
        group = "Compilers" if found.name in backends.COMPILERS else "Backends and engines"
        needed = found.name not in backends.COMPILERS and (found.name != "cuda" or bool(backends.gpus()))
        yield Finding(group, found.name, found.available, found.detail, found.how, needed)
    for name, there in (("minimap2", shutil.which("minimap2")), ("mappy", backends.version("mappy"))):
        said = there or "not installed: not timed beside mm2"
        yield Finding("Backends and engines", name, bool(there), said, "tools/setup.sh minimap2", needed=False)
    native = _native()
    yield Finding("Compilers", "native kernels", not native, native or "built and loaded", "make setup")


def _native() -> str:
    """Why the C++ kernels cannot be used; "" when they can."""
    try:
        from workbench.kernels.claim import claim_table

        claim_table(1)
    except ImportError as error:
        return f"not built: {error}"
    return ""


def _inputs(unfetched: str) -> Iterable[Finding]:
    from workbench import lm

    model = lm.status()
    where = f"{model.size_mb:.0f} MB in {model.folder}" if model.present else model.problem
    how = model.how
    if unfetched and not model.present:
        *reasons, last = [line.strip() for line in unfetched.splitlines()]
        where, how = (" ".join(reasons), last) if reasons else (last, how)
    yield Finding("Inputs", "SmolLM2-135M", model.present, where, how)
    given = os.environ.get("WORKBENCH_DATA")
    folder = Path(given) if given else None
    held = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder and folder.is_dir() else []
    if folder is None:
        said = "WORKBENCH_DATA is not set"
    elif held:
        said = f"{folder}: {', '.join(held)}"
    else:
        said = f"WORKBENCH_DATA is {folder}, which holds no data"
    yield Finding("Inputs", "data", bool(held), said, NO_DATA, needed=False)


def _places() -> Iterable[Finding]:
    from workbench import records

    home = records.home()
    refused = _unwritable(home)
    yield Finding(
        "Places", "history", not refused, refused or str(home), "set WORKBENCH_HOME to a folder that can be written"
    )
    free_gb = shutil.disk_usage(_existing(home)).free / 1e9
    yield Finding(
        "Places", "disk", free_gb >= FULL_SET_GB, f"{free_gb:.1f} GB free beside the history",
        f"free some: the full set of engines takes {FULL_SET_GB:.0f} GB, a run of a cache gigabytes",
    )  # fmt: skip


def _unwritable(folder: Path) -> str:
    """Why nothing can be written to `folder` (or where it would be made); "" when it can. Leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if os.path.exists(p))  # noqa: PTH110  False where none may look
