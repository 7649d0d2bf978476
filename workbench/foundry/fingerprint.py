"""What a captured graph depends on beyond its archive, found out without importing torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import mmap
import os
import platform
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Of the flags of an x86 processor, those that compilers and BLAS choose loops by. Others (virtualisation, mitigations)
# come and go with kernels and hypervisors.
_VECTOR = ("sse", "ssse", "avx", "fma", "f16c", "bmi", "amx", "vaes", "vpclmul", "gfni", "popcnt", "movbe")
_VECTOR_ARM = ("asimd", "sve", "bf16", "i8mm", "fphp", "sme")
_NOT = ("smep",)  # begins like one and is a protection of the kernel
ENVIRONMENT = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ATEN_CPU_CAPABILITY")


class NoLibrary(RuntimeError):
    """The library that graphs call is not installed, or is none that can be identified."""


def machine() -> dict[str, Any]:
    """Fingerprint of this machine and its torch. NoLibrary when there is no torch."""
    cpu = _cpu()
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu_vendor": cpu["vendor"],
        "cpu_model": cpu["model"],
        "cpu_features": cpu["features"],
        "page_bytes": mmap.PAGESIZE,
        "torch": _torch_version(),
        "torch_cpu_build": build_id(torch_cpu()),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words, what of an archive's fingerprint this machine does not match. The model's name alone is no reason."""
    found = []
    for name, mine in now.items():
        if name in ("cpu_model", "cpu_features") or then.get(name) == mine:
            continue
        found.append(f"{name} was {then.get(name)!r} and is {mine!r}")
    had, have = (set(map(str, each.get("cpu_features") or ())) for each in (then, now))
    if had != have:
        lost, new = ", ".join(sorted(had - have)) or "none", ", ".join(sorted(have - had)) or "none"
        found.append(f"processor features differ: missing here {lost}; here and not there {new}")
    return found


@functools.cache
def torch_cpu() -> Path:
    """Path of torch's CPU library. NoLibrary when torch is not installed."""
    spec = importlib.util.find_spec("torch")  # finds the folder, runs nothing of it
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "lib" / "libtorch_cpu.so"
        if path.exists():
            return path
    raise NoLibrary("no libtorch_cpu.so here: make setup installs torch; graphs were captured over it")


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise NoLibrary("torch is not installed: make setup") from None


@functools.cache
def _cpu() -> dict[str, Any]:
    found = {"vendor": "", "model": "", "features": []}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(":"))
        if name in ("vendor_id", "CPU implementer"):
            found["vendor"] = found["vendor"] or value
        elif name in ("model name", "CPU part"):
            found["model"] = found["model"] or value
        elif name in ("flags", "Features") and not found["features"]:
            found["features"] = sorted(
                f for f in value.split() if f.startswith(_VECTOR + _VECTOR_ARM) and f not in _NOT
            )
    return found


def build_id(path: Path) -> str:
    """The linker's build id of an ELF file, hex. NoLibrary when it has none."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if head[:6] != b"\x7fELF\x02\x01":
                raise NoLibrary(f"{path.name} is no 64-bit little-endian ELF file")
            offset, entry, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
            file.seek(offset)
            headers = file.read(entry * count)
            for i in range(count):
                kind, _, at, _, _, size = struct.unpack_from("<IIQQQQ", headers, i * entry)
                if kind == 4:  # PT_NOTE
                    file.seek(at)
                    if found := _note(file.read(min(size, 1 << 16))):
                        return found
    except (OSError, struct.error) as error:
        raise NoLibrary(f"{path} cannot be read as an ELF file: {error}") from error
    raise NoLibrary(f"{path.name} has no build id, so that one build could not be told from another")


def _note(raw: bytes) -> str:
    at = 0
    while at + 12 <= len(raw):
        name, size, kind = struct.unpack_from("<III", raw, at)
        start = at + 12 + name + -name % 4
        if kind == 3 and raw[at + 12 : at + 16] == b"GNU\0":
            return raw[start : start + size].hex()
        at = start + size + -size % 4
    return ""
