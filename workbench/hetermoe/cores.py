"""What a core of a processor takes, by its model's shape: for a picture before anything was measured.

    profile = assumed(layers=3, hidden=256, ffn=768, experts=8, top_k=2)        devices "new" and "old"

Rates were measured once by measure.py on one core of an AMD EPYC with AVX2 (float32, the preset small); a run measures
its own. The old kind writes attention's scores out, the new one has a fused kernel; all else is alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.hetermoe.profile import Curve, Device, Memory, Profile, Surface

BYTES = 4  # of a number
VOCABULARY = 64
GIGA = 1e9


@dataclass(frozen=True)
class CoreRates:
    """GFLOP/s of matrix products, of fused attention's core (half of the scores) and of the naive one (all of them).

    elementwise_s: per number of a token's state in a layer, for norms, rotation and sorting. message_gb_s, message_s:
    of gloo between two processes; message_share: of a core, of sender and receiver alike.
    """

    gemm: float = 45.0
    fused: float = 22.0
    naive: float = 16.0
    elementwise_s: float = 6e-9
    message_gb_s: float = 1.2
    message_s: float = 4e-4
    message_share: float = 0.7
    back: float = 2.1
    naive_back: float = 1.9


RATES = CoreRates()


def assumed(
    layers: int, hidden: int, ffn: int, experts: int, top_k: int, rates: CoreRates = RATES
) -> Profile:  # fmt: skip
    """Modelled; of any model, as it has no key."""
    lengths = (64, 65_536)

    def side(length: int, naive: bool) -> Curve:
        core = 4 * length * hidden / rates.naive if naive else 2 * length * hidden / rates.fused
        products = (8 * hidden**2 + 2 * hidden * experts) / rates.gemm
        token_s = (products + core) / GIGA + rates.elementwise_s * hidden * (3 + top_k)
        return Curve(((1024.0, 1024 * token_s),))

    expert = Curve(((1024.0, 1024 * 6 * hidden * ffn / rates.gemm / GIGA),))
    head = Curve(((1024.0, 1024 * 2 * hidden * VOCABULARY / rates.gemm / GIGA),))
    devices = tuple(
        Device(
            name, Surface(lengths, tuple(side(n, naive) for n in lengths)), expert, head,
            attention_backward=rates.naive_back if naive else rates.back, expert_backward=rates.back,
        )
        for name, naive in (("new", False), ("old", True))
    )  # fmt: skip
    message = Curve(((1.0, rates.message_s), (GIGA, rates.message_s + 1 / rates.message_gb_s)))
    weights = BYTES * 3.0 * hidden * ffn
    shared = BYTES * (layers * (4 * hidden**2 + hidden * experts) + VOCABULARY * hidden)
    note = "assumed rates of one core; a run measures its own"
    memory = Memory(weights, shared)
    return Profile("", devices, message, BYTES * hidden, memory, "modelled", note, core_share=rates.message_share)
