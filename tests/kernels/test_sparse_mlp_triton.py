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
import json, torch
from workbench.kernels import sparse_mlp as sm
from workbench.kernels.sparse_mlp import triton as kernels

assert kernels.INTERPRETED

def layer(hidden, experts, dtype):
    gate, up = torch.randn(2, experts * 32, hidden) / hidden**0.5
    down = torch.randn(hidden, experts * 32) / (experts * 32) ** 0.5
    return sm.pack(gate, up, down, torch.randperm(experts * 32).view(-1, 32), dtype)

def off(packed, x, active, union):
    y = sm.sparse_mlp(x, packed, active, backend="triton", union=union)
    right = sm.sparse_mlp(x, packed, active, backend="reference", union=union)
    assert not y[~(active.any(dim=0).expand_as(active) if union else active).any(dim=1)].any()
    return float((y - right).abs().max() / max(float(right.abs().max()), 1e-6))

def check(dtype):
    limit = 2e-6 if dtype == torch.float32 else 1e-3  # an activation next to a tie may round the other way
    checked = 0
    # a program takes 32 columns in float32 and 64 in bfloat16: less than one, and whole ones with a rest
    for hidden, experts in ((40, 3), (72, 5)):
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
                    assert worst < limit, (dtype, hidden, rows, mask, union, worst)
                    checked += 1
    # control: with one expert of one row left out the answer is far off
    other = active.clone()
    other[0, 0] = ~other[0, 0]
    y = sm.sparse_mlp(x, packed, other, backend="triton") - sm.sparse_mlp(x, packed, active, backend="reference")
    assert float(y.abs().max()) > 10 * limit
    for bad, says in ((torch.randn(17, hidden), "1 to 16 rows"),):
        try: sm.sparse_mlp(bad, packed, torch.ones(17, experts, dtype=torch.bool), backend="triton")
        except ValueError as error: assert says in str(error)
        else: raise AssertionError(says)
    return checked

told = {}
for name in ("float32", "bfloat16"):
    torch.manual_seed(0)
    try: told[name] = check(getattr(torch, name))
    except AssertionError as error: told[name] = f"{error!r}"
print(json.dumps(told))
"""


COMPILED = """
import json, torch
from workbench.kernels import sparse_mlp as sm
from workbench.kernels.sparse_mlp import triton_build

packed = sm.pack(*torch.ones(2, 32, 8), torch.ones(8, 32))
try: refused = str(sm.sparse_mlp(torch.ones(1, 8), packed, torch.ones(1, 1, dtype=torch.bool), backend="triton"))
except ValueError as error: refused = str(error)
print(json.dumps({"refused": refused} | {target: triton_build.build(target) for target in triton_build.TARGETS}))
"""


def said_by(code, **environment):
    """What a process of its own prints: it decides at import whether Triton compiles or interprets."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def interpreted():
    return said_by(IN_INTERPRETER, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def compiled():
    return said_by(COMPILED)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_interpreter_agrees_with_the_definition(interpreted, dtype):
    assert interpreted[dtype] == 64


@pytest.mark.slow
@pytest.mark.parametrize("target", triton_build.TARGETS)
def test_kernels_compile_without_a_gpu(compiled, target):
    rows = compiled[target]
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


@pytest.mark.slow
def test_without_a_gpu_or_the_interpreter_it_says_so(compiled):
    assert "TRITON_INTERPRET=1" in compiled["refused"]
    assert sm.NEURONS == 32
