"""The Triton kernels: right in Triton's interpreter, and compiled for GPUs that are not here. Never run on one."""

import csv
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

from workbench.kernels import sparse_mlp as sm
from workbench.kernels.sparse_mlp import triton_build

IN_INTERPRETER = """
import sys, torch
from workbench.kernels import sparse_mlp as sm
from workbench.kernels.sparse_mlp import triton as kernels

assert kernels.INTERPRETED
torch.manual_seed(0)
checked = 0
def layer(hidden, experts, dtype):
    gate, up = torch.randn(2, experts * 32, hidden) / hidden**0.5
    down = torch.randn(hidden, experts * 32) / (experts * 32) ** 0.5
    return sm.pack(gate, up, down, torch.randperm(experts * 32).view(-1, 32), dtype)

def off(packed, x, active, union):
    y = sm.sparse_mlp(x, packed, active, backend="triton", union=union)
    right = sm.sparse_mlp(x, packed, active, backend="reference", union=union)
    assert not y[~(active.any(dim=0).expand_as(active) if union else active).any(dim=1)].any()
    return float((y - right).abs().max() / max(float(right.abs().max()), 1e-6))

dtype = getattr(torch, sys.argv[1])
limit = 2e-6 if dtype == torch.float32 else 1e-3  # an activation next to a tie may round the other way
for hidden, experts in ((40, 3), (144, 5)):
    packed = layer(hidden, experts, dtype)
    for rows in (1, 2, 7, 16):
        x = torch.randn(rows, hidden)
        for mask in ("zero", "all", "single", "per row"):
            active = torch.zeros(rows, experts, dtype=torch.bool)
            if mask == "all": active[:] = True
            if mask == "single": active[rows // 2, 1] = True
            if mask == "per row": active = torch.rand(rows, experts) < 0.4
            for union in (False, True):
                worst = off(packed, x, active, union)
                assert worst < limit, (hidden, rows, mask, union, worst)
                checked += 1
# control: with one expert of one row left out the answer is far off
other = active.clone()
other[0, 0] = ~other[0, 0]
y = sm.sparse_mlp(x, packed, other, backend="triton") - sm.sparse_mlp(x, packed, active, backend="reference")
assert float(y.abs().max()) > 10 * limit
for bad, says in ((torch.randn(17, 144), "1 to 16 rows"),):
    try: sm.sparse_mlp(bad, packed, torch.ones(17, 5, dtype=torch.bool), backend="triton")
    except ValueError as error: assert says in str(error)
    else: raise AssertionError(says)
print(checked)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_interpreter_agrees_with_the_definition(dtype):
    done = subprocess.run(
        [sys.executable, "-c", IN_INTERPRETER, dtype], capture_output=True, text=True, timeout=280,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 64


@pytest.mark.slow
@pytest.mark.parametrize("target", triton_build.TARGETS)
def test_kernels_compile_without_a_gpu(target):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = "import json; from workbench.kernels.sparse_mlp import triton_build as b; "
    code += f"print(json.dumps(b.build({target!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 9
    for row in rows:
        assert set(row) == set(triton_build.COLUMNS)
        assert 0 < row["registers"] <= 512
        assert row["spill_bytes"] <= 128
        assert row["shared_bytes"] <= 64 << 10
        matrix = row["rows"] == 16 and row["kernel"] != "compact" and row["dtype"] == "bf16"
        assert not matrix or row["matrix_instructions"] != "none"
        assert row["told"].endswith("never run on a GPU here")


def test_the_recorded_table_is_of_these_kernels():
    from workbench import backends

    with (backends.ROOT / "benchmarks" / "sparse_mlp_gpu_build.csv").open(newline="", encoding="utf-8") as kept:
        rows = list(csv.DictReader(kept))
    assert [(r["target"], r["kernel"], r["dtype"], int(r["rows"])) for r in rows] == [
        (target, *case) for target in triton_build.TARGETS for case in [("compact", "int8", 16), *triton_build.CASES]
    ]


def test_without_a_gpu_or_the_interpreter_it_says_so():
    code = (
        "import torch; from workbench.kernels import sparse_mlp as s;"
        "p = s.pack(*torch.ones(2, 32, 8), torch.ones(8, 32));"
        "s.sparse_mlp(torch.ones(1, 8), p, torch.ones(1, 1, dtype=torch.bool), backend='triton')"
    )
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert "TRITON_INTERPRET=1" in done.stderr
    assert sm.NEURONS == 32
