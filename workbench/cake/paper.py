"""CAKE's published numbers (arXiv 2410.03065, ICML 2025) and the cost models calibrated on them.

Table 3, LongAlpaca-13B at 16k tokens: speed-up over load-only and over compute-only, per hardware, share of the
GPU, and bandwidth. Of each row only the quotient of the two columns (load time over compute time) calibrates the
model; the speed-ups themselves, what CAKE's schedule makes of it, are then predicted and compared. Other models are
scaled from it: KV bytes as the paper gives them, computing by size (`scaled_to`, an assumption).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from workbench.cake.costs import Costs

GBPS = (7, 25, 32, 56, 100)
TOKENS = 16_000
STEP, GRAIN = 512, 128  # compute budget and I/O chunk, section 4
CALIBRATED = "LongAlpaca-13B"  # the model of table 3
KV_BYTES = {"LongAlpaca-7B": 512_000, CALIBRATED: 800_000, "Llama-3.1-8B": 128_000, "Llama-3.1-70B": 320_000}
# parameters, and layers x hidden width, from the published model configs
SIZES = {
    "LongAlpaca-7B": (6.74e9, 32 * 4096),
    CALIBRATED: (13.02e9, 40 * 5120),
    "Llama-3.1-8B": (8.03e9, 32 * 4096),
    "Llama-3.1-70B": (70.6e9, 80 * 8192),
}

# (hardware, share of the GPU in percent): (over load-only, over compute-only) at each of GBPS
TABLE_3: dict[tuple[str, float], tuple[tuple[float, float], ...]] = {
    ("A100", 12.5): ((1.57, 2.85), (1.14, 7.22), (1.10, 8.95), (1.03, 14.06), (1.02, 23.59)),
    ("A100", 50.0): ((3.35, 1.46), (1.68, 2.55), (1.55, 3.01), (1.30, 4.26), (1.17, 6.48)),
    ("A100", 100.0): ((5.62, 1.21), (2.41, 1.81), (2.00, 1.91), (1.69, 2.71), (1.30, 3.52)),
    ("H100", 50.0): ((4.13, 1.38), (1.94, 2.25), (1.72, 2.55), (1.45, 3.62), (1.27, 5.34)),
    ("H100", 100.0): ((7.13, 1.17), (2.74, 1.56), (2.40, 1.75), (1.84, 2.25), (1.49, 3.08)),
    ("2xA100", 12.5): ((1.87, 2.18), (1.25, 5.06), (1.18, 6.12), (1.09, 9.54), (1.04, 15.27)),
    ("2xA100", 100.0): ((8.10, 1.10), (3.03, 1.43), (2.63, 1.59), (1.97, 2.00), (1.54, 2.64)),
}
# Figure 4, chunk 512: milliseconds of a chunk at position 0 and at chunk 65
CHUNK_MS = {"A100": (40.0, 120.0), "2xA100": (40.0, 120.0), "H100": (30.0, 110.0)}
PASS_SHARE = 0.05  # of a first chunk that does not depend on its size: assumed, the paper gives no figure


@dataclass(frozen=True)
class Cell:
    """One entry of table 3."""

    hardware: str
    share: float
    gbps: int
    over_load: float
    over_compute: float


def cells() -> list[Cell]:
    """All entries of table 3 that the paper prints and the dossier holds."""
    return [
        Cell(hardware, share, gbps, *pair)
        for (hardware, share), row in TABLE_3.items()
        for gbps, pair in zip(GBPS, row, strict=True)
    ]


def load_token_s(gbps: float, kv_bytes: float = KV_BYTES[CALIBRATED]) -> float:
    """Seconds to load one token's KV over a link of `gbps` Gbit/s."""
    return kv_bytes / (gbps * 1e9 / 8)


@cache
def calibrated(hardware: str, share: float, model: str = CALIBRATED) -> Costs:
    """Cost model of a row of table 3, at 1 Gbit/s: curve from figure 4, height from the row's own quotients.

    A share that the table lacks (H100 at 12.5 %) is as much slower than 50 % as it is on the A100.
    """
    if (hardware, share) not in TABLE_3:
        slower = compute_only_s("A100", share) / compute_only_s("A100", 50.0)
        return scaled_to(calibrated(hardware, 50.0).scaled(compute=slower), model)
    first, last = CHUNK_MS[hardware]
    pair = (last - first) / (65 * STEP * STEP)
    shape = Costs(first * PASS_SHARE, first * (1 - PASS_SHARE) / STEP, pair, 0.0)
    scaled = shape.scaled(compute=compute_only_s(hardware, share) / shape.compute_range_s(0, TOKENS, STEP))
    return scaled_to(Costs(scaled.step_s, scaled.token_s, scaled.pair_s, load_token_s(1.0)), model)


def compute_only_s(hardware: str, share: float) -> float:
    """Seconds to compute 16k tokens on a row's hardware: the geometric mean of what its five quotients say."""
    row = TABLE_3[hardware, share]
    quotients = [over_load / over_compute for over_load, over_compute in row]  # load-only over compute-only time
    totals = [load_token_s(g) * TOKENS / q for g, q in zip(GBPS, quotients, strict=True)]
    return float(np.exp(np.mean(np.log(totals))))


def scaled_to(costs: Costs, model: str) -> Costs:
    """The calibrated model's costs as another's. Assumed: passes and tokens by parameters, pairs by layers x width.

    So FP8 weights (Llama-3.1-70B in the paper) count like 16-bit ones: they may be up to twice as fast.
    """
    size, width = (mine / base for mine, base in zip(SIZES[model], SIZES[CALIBRATED], strict=True))
    load = KV_BYTES[model] / KV_BYTES[CALIBRATED]
    return Costs(costs.step_s * size, costs.token_s * size, costs.pair_s * width, costs.load_token_s * load)


def costs_at(hardware: str, share: float, gbps: float, model: str = CALIBRATED) -> Costs:
    """The row's cost model over a link of `gbps` Gbit/s."""
    return calibrated(hardware, share, model).scaled(load=1.0 / gbps)
