"""Compiles the kernels for NVIDIA and AMD GPUs: libraries to run them, and a table of what they take.

    python -m workbench.kernels.chain.gpu_build [FILE.csv]      registers, spills, shared memory, occupancy

No GPU is needed to compile and nothing is run. Compiled for sm_80 and sm_90 (with PTX for what is newer), never run on
a GPU here; compiled for gfx90a, never run there.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("gpu.cu")
TARGETS = {"sm_80": "nvcc", "sm_90": "nvcc", "gfx90a": "hipcc"}
KERNELS = ("range", "count_cuts", "write_cuts", "short_or_mid", "long_ones", "collect", "give_back")
COLUMNS = ("target", "kernel", "registers", "spill_bytes", "shared_bytes", "occupancy", "source", "compiler", "told")
THREADS = 256  # of a block
NVIDIA = {"sm_80": 164 << 10, "sm_90": 228 << 10}  # shared memory of a multiprocessor; both hold 2048 threads


LIBRARIES = {"cuda": "sm_90", "hip": "gfx90a", "double": "cpu"}  # kinds, and a target that names the compiler
COMMON = ["-O3", "-shared"]
NVCC = [
    "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off",
    "-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_80,code=compute_80",
]  # fmt: skip
HIPCC = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-x", "hip"]
HOST = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread", "-DCHAIN_BUILD=portable"]


class NoCompiler(RuntimeError):
    """The compiler for a target is not installed; the message says how to get it."""


def compiler(target: str) -> str:
    """Path of the compiler for one of TARGETS, or for "cpu". NoCompiler without one."""
    if target == "cpu":
        found = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++")
        if found is None:
            raise NoCompiler("no C++ compiler: install g++, or name one in CXX")
        return found
    name = TARGETS[target]
    fallback = "/usr/local/cuda/bin/nvcc" if name == "nvcc" else "/usr/bin/hipcc"
    path = shutil.which(name) or (fallback if Path(fallback).exists() else None)
    if path is None:
        how = "the CUDA toolkit" if name == "nvcc" else "hipcc (Debian 12: tools/setup.sh hipcc)"
        raise NoCompiler(f"no {name} to compile for {target}: install {how}")
    return path


def library(kind: str, folder: Path | None = None) -> Path:
    """The library that runs the kernels on "cuda", "hip" or the "double", compiled when it is not yet in `folder`.

    Its name holds a hash of all sources, flags and the compiler's version. `folder` defaults to the user's cache.
    WORKBENCH_HIP_ARCH names another AMD architecture than gfx90a. NoCompiler, or RuntimeError: what the compiler said.
    """
    path = compiler(LIBRARIES[kind])
    flags = {"cuda": NVCC, "hip": [f"--offload-arch={hip_arch()}", *HIPCC], "double": HOST}[kind]
    sources = [SOURCE.with_name(name) for name in ("gpu_library.cu", "plan.cpp")]
    given: list[str] = [str(each) for each in sources]
    if kind == "double":
        given = [*given[1:], str(SOURCE.with_name("one_source_cpu.cpp")), "-x", "c++", given[0]]
    digest = hashlib.sha256(" ".join([kind, version(path), *COMMON, *flags]).encode())
    for each in sorted([*SOURCE.parent.glob("*.h"), *sources, SOURCE.with_name("one_source_cpu.cpp")]):
        digest.update(each.name.encode() + b"\0" + each.read_bytes())
    made = (folder or cache()) / f"chain-{kind}-{digest.hexdigest()[:16]}.so"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as own:  # two processes may compile at once
            _run([path, *COMMON, *flags, *given, "-o", f"{own}/made.so"])
            Path(own, "made.so").replace(made)
    return made


def hip_arch() -> str:
    """AMD's name of the GPU that HIP is compiled for."""
    return os.environ.get("WORKBENCH_HIP_ARCH") or "gfx90a"


def cache() -> Path:
    """Where libraries are kept: chain/ in $WORKBENCH_CACHE, else in the user's cache folder."""
    if own := os.environ.get("WORKBENCH_CACHE"):
        return Path(own).expanduser() / "chain"
    import platformdirs

    return platformdirs.user_cache_path("ml-systems-workbench", appauthor=False) / "chain"


def build(target: str, folder: Path) -> list[dict[str, Any]]:
    """Compile for one target into `folder`; one row of COLUMNS per kernel. RuntimeError: what the compiler said."""
    path, out = compiler(target), folder / f"chain_{target}.bin"
    common = ["-std=c++17", "-O3", "-o", str(out), str(SOURCE)]
    if TARGETS[target] == "nvcc":
        said = _run([path, f"-arch={target}", "-cubin", "-Xptxas", "-v", *common])
        rows = _nvidia(target, said)
    else:
        remarks = "-Rpass-analysis=kernel-resource-usage"
        said = _run([path, f"--offload-arch={target}", "-x", "hip", "--cuda-device-only", remarks, "-c", *common])
        rows = _amd(said)
    if sorted(row["kernel"] for row in rows) != sorted(KERNELS) or not out.stat().st_size:
        raise RuntimeError(f"{target}: not every kernel is in what the compiler said:\n{said}")
    told = f"compiled for {target}, " + ("never run there" if target.startswith("gfx") else "not run here")
    return [row | {"target": target, "compiler": version(path), "told": told} for row in rows]


def version(path: str) -> str:
    """Name and version of a compiler."""
    said = _run([path, "--version"])
    found = re.search(r"release [\d.]+, V([\d.]+)|HIP version: (\S+)", said)
    return f"{Path(path).name} {next(filter(None, found.groups())) if found else 'of unknown version'}"


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"HIP_PLATFORM": "amd"}, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout + done.stderr


def _nvidia(target: str, said: str) -> list[dict[str, Any]]:
    rows = []
    for part in said.split("Compiling entry function ")[1:]:
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers, shared = re.search(r"Used (\d+) registers", part), re.search(r"(\d+) bytes smem", part)
        if not spills or not registers:
            raise RuntimeError(f"{target}: cannot read what ptxas said:\n{part}")
        taken, smem = int(registers[1]), int(shared[1]) if shared else 0
        granule = -(-taken * 32 // 256) * 256 * THREADS // 32  # registers are given to warps, 256 at a time
        blocks = min(2048 // THREADS, 65536 // granule, NVIDIA[target] // (smem + 1024))
        rows.append({
            "kernel": part.split("'")[1].removeprefix("chain_"), "registers": taken, "shared_bytes": smem,
            "spill_bytes": int(spills[1]) + int(spills[2]), "source": "modelled from registers and shared memory",
            "occupancy": f"{blocks * THREADS / 2048:.0%} of threads, {blocks} blocks a multiprocessor",
        })  # fmt: skip
    return rows


def _amd(said: str) -> list[dict[str, Any]]:
    rows = []
    for part in said.split("Function Name: ")[1:]:
        told = {key: int(number) for key, number in re.findall(r"remark:\s+([A-Za-z ]+?)(?: \[[^]]*\])?: (\d+) ", part)}
        groups = (64 << 10) // told["LDS Size"] if told["LDS Size"] else 32  # that a compute unit's memory holds
        waves = min(told["Occupancy"], groups * THREADS // 64 // 4)  # on each of its four SIMDs
        rows.append({
            "kernel": part.split()[0].removeprefix("chain_"), "registers": told["VGPRs"],
            "spill_bytes": 4 * (told["VGPRs Spill"] + told["SGPRs Spill"]), "shared_bytes": told["LDS Size"],
            "occupancy": f"{waves} of 8 waves a SIMD", "source": "told by the compiler, or what shared memory allows",
        })  # fmt: skip
    return rows


def main() -> None:
    """Print the table, and write it to the file given."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            try:
                rows += build(target, Path(folder))
            except NoCompiler as error:
                sys.stderr.write(f"{error}\n")
    where = Path(sys.argv[1]).open("w", newline="", encoding="utf-8") if len(sys.argv) > 1 else sys.stdout  # noqa: SIM115
    with where:
        writer = csv.DictWriter(where, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
