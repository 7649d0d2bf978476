"""Constants of the GPU cost model, and the few published numbers of arXiv 2504.03871 that they were fitted to.

Everything else that claims.py compares is predicted with these. Constants without a published number behind them are
assumptions, and say so. None was measured here.

| constant | fitted to |
| --- | --- |
| flash["A40"], elementwise | utilisation A40 over V100, D1 on O1, without Asym-EA, 8K and 16K (table 3) |
| gemm_share | gain of the same over DistEP at 8K (table 3) |
| v100_experts | V100 keeps 80 % of an A40's speed on experts (observations) |
| flash["V100"] | A40 is 3.7 times as fast on attention at 64K (observations) |
| t4_experts | L40S is 7.0 times as fast on experts (observations) |
| t4_bandwidth, flash["T4"] | L40S is 9.9 times as fast on attention at 4K, 13.6 times at 64K (observations) |
| narrow | Asym-EA offloads nothing beyond 28K (W1) |
| ep_messages | 2 A40 + 2 V100 reach 95 % of 4 A40 under EP |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

A40_TFLOPS, L40S_TFLOPS = 149.7, 362.0
A40_FLASH = 50.3


@dataclass(frozen=True)
class Rates:
    """gemm_share: of a data sheet's dense TFLOPS that wide matrix products reach; narrow ones of width h reach
    1 / (1 + narrow / h) of that. flash: TFLOPS of the attention core. elementwise: bytes moved per hidden number of a
    token in a layer's attention side. v100_experts, t4_experts: matrix rate over A40's, L40S's. t4_bandwidth: share
    of its data sheet. ep_messages: what EP pays for its messages over their bytes on the link; checkpointing, which
    sends them again in backward, would make it up to 1.5. vocabulary: of the head, Mixtral's, assumed. message_s:
    latency, assumed none. A link carries its rate in both directions together, assumed.
    """

    gemm_share: float = 0.45
    narrow: float = 660.0
    elementwise: float = 150.0
    v100_experts: float = 0.8
    t4_experts: float = 1 / 7.0
    t4_bandwidth: float = 0.261
    ep_messages: float = 1.22
    vocabulary: int = 32_000
    message_s: float = 0.0
    flash: Mapping[str, float] = field(
        default_factory=lambda: {
            "A40": A40_FLASH,
            "V100": 11.77,
            "L40S": A40_FLASH * L40S_TFLOPS / A40_TFLOPS,  # assumed: the same share of the data sheet as A40
            "A100 40 GB": A40_FLASH * 312.0 / A40_TFLOPS,  # assumed, as are those below
            "A100 80 GB": A40_FLASH * 312.0 / A40_TFLOPS,
            "H100": A40_FLASH * 989.0 / A40_TFLOPS,
            "H200": A40_FLASH * 989.0 / A40_TFLOPS,
            "T4": 8.10,
        }
    )

    def gemm_tflops(self, name: str, sheet: float) -> float:
        """TFLOPS of wide matrix products on a GPU whose data sheet says `sheet`."""
        if name == "V100":
            return self.v100_experts * self.gemm_share * A40_TFLOPS
        if name == "T4":
            return self.t4_experts * self.gemm_share * L40S_TFLOPS
        return self.gemm_share * sheet


CALIBRATED = Rates()
