"""Compiles the Triton kernels for GPUs that are not here, and tells what they take.

    python -m workbench.kernels.sparse_mlp.triton_build [FILE.csv]

No GPU is needed and nothing is run: compiled for sm_90, gfx90a and gfx942, never run on a GPU here. Not under
TRITON_INTERPRET=1, which leaves nothing to compile.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TARGETS = {"sm_90": ("cuda", 90, 32), "gfx90a": ("hip", "gfx90a", 64), "gfx942": ("hip", "gfx942", 64)}
COLUMNS = (
    "target", "kernel", "dtype", "rows", "registers", "spill_bytes", "shared_bytes", "matrix_instructions", "compiler",
    "told",
)  # fmt: skip
CASES = [(kernel, dtype, rows) for kernel in ("gate_up", "down") for dtype in ("bf16", "fp32") for rows in (1, 16)]
HIDDEN, EXPERTS, WARPS = 4096, 344, 4  # the width and experts of a 7B model's layer; warps (waves) of a program


def build(target: str) -> list[dict[str, Any]]:
    """Compile every kernel for one of TARGETS; one row of COLUMNS each. RuntimeError when there is no machine code."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 leaves nothing to compile: unset it")
    return [compiled(target, *case) for case in [("compact", "int8", 16), *CASES]]


def compiled(target: str, kernel: str, dtype: str, rows: int) -> dict[str, Any]:
    """One row of COLUMNS. `dtype` is that of the weights, `rows` the rows of a program."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from workbench.kernels.sparse_mlp import triton as kernels

    signature, constants = _signature(kernel, dtype, rows)
    source = ASTSource(fn=getattr(kernels, kernel), signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget(*TARGETS[target]), options={"num_warps": WARPS})
    read = _nvidia if target.startswith("sm_") else _amd
    told = f"compiled for {target}, never run on a GPU here"
    return {
        "target": target, "kernel": kernel, "dtype": dtype, "rows": rows, "shared_bytes": int(made.metadata.shared),
        "compiler": f"triton {triton.__version__}", "told": told, **read(made.asm, target),
    }  # fmt: skip


def _signature(kernel: str, dtype: str, rows: int) -> tuple[dict[str, str], dict[str, Any]]:
    import torch

    from workbench.kernels.sparse_mlp import triton as kernels

    lists = {"used": "*i32", "count": "*i32"}
    if kernel == "compact":
        given = {"active": "*i8", **lists, "rows": "i32", "experts": "i32", "keep": "*i8"}
        constants: dict[str, Any] = {"union": False, "ROW_BLOCK": rows, "BLOCK": 512}
    else:
        step = kernels.block(HIDDEN, {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype])
        constants = {"ROW_BLOCK": rows, "NEURON": kernels.NEURONS, "WIDE": False, "BLOCK": step}
        sizes = {"rows": "i32", "hidden": "i32"}
        if kernel == "gate_up":
            weights = dict.fromkeys(("x", "gate", "up", "h"), f"*{dtype}")
            given = {**weights, **lists, "keep": "*i8", **sizes, "experts": "i32"}
        else:
            given = {"h": f"*{dtype}", "weights": f"*{dtype}", **lists, "partial": "*fp32", **sizes, "shares": "i32"}
    order = getattr(kernels, kernel).arg_names
    types = given | dict.fromkeys(constants, "constexpr")
    return {name: types[name] for name in order}, constants


def _nvidia(asm: dict[str, Any], target: str) -> dict[str, Any]:
    """What ptxas, Triton's own, says of the kernel's PTX."""
    import triton.backends.nvidia as backend

    if not asm.get("cubin"):
        raise RuntimeError(f"{target}: no machine code")
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(asm["ptx"], encoding="utf-8")
        found = re.search(r"\.target (\S+?)[,\s]", asm["ptx"])
        program = Path(backend.__file__).parent / "bin" / "ptxas"
        command = [str(program), "-v", f"-arch={found[1] if found else target}", str(ptx), "-o", f"{folder}/out"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if not registers or not spills:
        raise RuntimeError(f"{target}: cannot read what ptxas said:\n{said}")
    names = sorted(set(re.findall(r"\b(?:wgmma\.mma_async|mma\.sync)\S*?(?:m\d+n\d+k\d+)", asm["ptx"])))
    return {
        "registers": int(registers[1]), "spill_bytes": int(spills[1]) + int(spills[2]),
        "matrix_instructions": " ".join(names) or "none",
    }  # fmt: skip


def _amd(asm: dict[str, Any], target: str) -> dict[str, Any]:
    """What the assembly's own notes say of the kernel."""
    if not asm.get("hsaco"):
        raise RuntimeError(f"{target}: no machine code")
    text = asm["amdgcn"]

    def note(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", text)
        if not found:
            raise RuntimeError(f"{target}: the assembly does not tell its {name}")
        return int(found[1])

    names = sorted(set(re.findall(r"\bv_mfma_\w+", text)))
    return {
        "registers": note("vgpr_count"), "spill_bytes": 4 * (note("vgpr_spill_count") + note("sgpr_spill_count")),
        "matrix_instructions": " ".join(names) or "none",
    }  # fmt: skip


def main() -> None:
    """Print the table, and write it to the file given."""
    rows = [row for target in TARGETS for row in build(target)]
    where = Path(sys.argv[1]).open("w", newline="", encoding="utf-8") if len(sys.argv) > 1 else sys.stdout  # noqa: SIM115
    with where:
        writer = csv.DictWriter(where, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
