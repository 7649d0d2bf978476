"""minimap2's own loops, timed: built from its source, which is not part of this project.

`WORKBENCH_MINIMAP2_SOURCE` names a folder with minimap2 2.24's sources, for example what
`pip download --no-binary :all: --no-deps mappy==2.24` brings, unpacked. Two clocks are put into lchain.c and it
is built with Debian's -O2. Only the loop over anchors counts, not backtracking.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workbench.kernels.chain import ChainParams

HEAD = """
#include <time.h>
double timed_dp = 0, timed_rmq = 0;
static double clock_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}
"""
TAIL = """
static mm128_t *copied(int64_t n, const mm128_t *from) {
    mm128_t *a = (mm128_t*)kmalloc(0, n * sizeof(mm128_t));
    memcpy(a, from, n * sizeof(mm128_t));
    return a;
}
void run_dp(int x, int y, int bw, int skip, int iter, float gap, int64_t n, const mm128_t *from) {
    int count;
    uint64_t *u;
    mm128_t *a = mg_lchain_dp(x, y, bw, skip, iter, 3, 40, gap, 0, 0, 1, n, copied(n, from), &count, &u, 0);
    kfree(0, a);
    kfree(0, u);
}
void run_rmq(int far, int near, int bw, int skip, int cap, float gap, int64_t n, const mm128_t *from) {
    int count;
    uint64_t *u;
    mm128_t *a = mg_lchain_rmq(far, near, bw, skip, cap, 3, 40, gap, 0, n, copied(n, from), &count, &u, 0);
    kfree(0, a);
    kfree(0, u);
}
"""
FILL, BACKTRACK = (
    "\t// fill the score and backtrack arrays\n",
    "\tu = mg_chain_backtrack(",
)  # begin and end of both loops


class Minimap2:
    """CPU seconds of minimap2's two loops on given anchors."""

    def __init__(self, source: Path, folder: Path) -> None:
        text = (source / "lchain.c").read_text()
        if text.count(FILL) != 2 or text.count(BACKTRACK) != 2:
            raise ValueError(f"{source} does not hold minimap2 2.24")
        include, first, second = '#include "mmpriv.h"\n', *text.split(FILL)[1:]
        parts = [text.split(FILL)[0].replace(include, include + HEAD, 1)]
        for name, part in (("timed_dp", first), ("timed_rmq", second)):
            ended = part.replace(BACKTRACK, f"\t{name} += clock_s() - began_s;\n{BACKTRACK}", 1)
            parts.append(f"\tdouble began_s = clock_s();\n{ended}")
        (folder / "timed.c").write_text("".join(parts) + TAIL)
        sources = [folder / "timed.c", source / "kalloc.c", source / "misc.c"]
        compiler = os.environ.get("CC") or shutil.which("gcc") or "cc"
        flags = ["-O2", "-w", "-fPIC", "-shared", "-DHAVE_KALLOC", f"-I{source}"]
        subprocess.run([compiler, *flags, *sources, "-o", folder / "timed.so", "-lm"], check=True)
        self._library = ctypes.CDLL(str(folder / "timed.so"))
        for name in ("run_dp", "run_rmq"):
            call = getattr(self._library, name)
            call.argtypes = [*[ctypes.c_int] * 5, ctypes.c_float, ctypes.c_int64, ctypes.c_void_p]
            call.restype = None

    def dp(self, anchors: NDArray[np.uint64], params: ChainParams) -> float:
        """CPU seconds of the first pass."""
        skip = 2**30 if params.max_skip is None else params.max_skip
        return self._timed(
            "dp", anchors, params, params.max_dist_x, params.max_dist_y, params.bw, skip, params.max_iter
        )

    def rmq(self, anchors: NDArray[np.uint64], params: ChainParams) -> float:
        """CPU seconds of the long join's DP, of anchors sorted by x."""
        skip = 2**30 if params.max_skip is None else params.max_skip
        shape = (params.max_dist_y, params.join_inner_dist, params.bw_long, skip, params.join_size_cap)
        return self._timed("rmq", anchors, params, *shape)

    def _timed(self, loop: str, anchors: NDArray[np.uint64], params: ChainParams, *shape: int) -> float:
        counter: Any = ctypes.c_double.in_dll(self._library, f"timed_{loop}")
        counter.value = 0.0
        getattr(self._library, f"run_{loop}")(*shape, float(params.penalties[0]), len(anchors), anchors.ctypes.data)
        return float(counter.value)
