"""What engines, trainer and network of the paper's setting do in a second: fitted constants, each said to be one.

    a decode step takes  fixed + n each + n L token  seconds for n requests of mean context L

The three terms are a roofline of two H100 (weights once, arithmetic, KV cache) times one fitted scale. Fitted are that
scale and the training time, both from two published numbers for 14B (section 1.6 of our notes: T_train 528 s, and
1.37x with one instance, which gives a co-located step of 1,197 s); lengths are a lognormal whose mean is assumed. All
else the simulator predicts.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

TRAIN_S = 485.0  # fitted, 14B: with six instances a step takes 532 s
SCALE = 1.27  # fitted: a co-located step of 14B takes 1,197 s
H100_TB_S, H100_TFLOPS, USE = 3.35, 989.0, 0.5  # memory, dense FP16, share of the arithmetic that decoding reaches


@dataclass(frozen=True)
class Curve:
    """Step time of an engine in seconds; `slots` requests fit its KV cache at the mean length; prefill in tokens/s."""

    fixed_s: float
    each_s: float
    token_s: float
    slots: int
    prefill_tok_s: float

    def step_s(self, batch: int, mean_context: float) -> float:
        """Seconds of one step of `batch` requests: each gains a token."""
        return self.fixed_s + batch * (self.each_s + self.token_s * mean_context)

    def scaled(self, factor: float) -> Curve:
        """The same engine, slower by `factor` in every term."""
        return replace(
            self, fixed_s=self.fixed_s * factor, each_s=self.each_s * factor, token_s=self.token_s * factor,
            prefill_tok_s=self.prefill_tok_s / factor,
        )  # fmt: skip


def roofline(
    billions: float, kv_bytes: float, gpus: int = 2, overhead_s: float = 0.008, mean_tokens: int = 5000
) -> Curve:
    """An engine of `gpus` H100 for a dense model in 16 bits."""
    memory, flops = gpus * H100_TB_S * 1e12, gpus * H100_TFLOPS * 1e12 * USE
    weights = 2e9 * billions
    room = 0.6 * gpus * 80e9 - weights  # SGLang runs at a memory fraction of 0.6 there
    return Curve(
        fixed_s=weights / memory + overhead_s,
        each_s=2e9 * billions / flops,
        token_s=kv_bytes / memory,
        slots=max(8, int(room / (kv_bytes * mean_tokens))),
        prefill_tok_s=flops / (2e9 * billions),
    )


@dataclass(frozen=True)
class Lengths:
    """Tokens of responses: lognormal, cut at `most`."""

    mean: float = 6500.0
    sigma: float = 0.65
    most: int = 14_000

    def draw(self, number: int, seed: int) -> list[int]:
        """Lengths of so many responses: the same seed, the same lengths."""
        lot, mu = random.Random(seed), math.log(self.mean) - self.sigma**2 / 2
        return [max(8, min(self.most, round(lot.lognormvariate(mu, self.sigma)))) for _ in range(number)]


@dataclass(frozen=True)
class Model:
    """A model of the paper on its machines. `train_s`: training one step on the reserved machines, s.

    local_engines: of the reserved machines, in units of an instance. scale: of the roofline, fitted.
    """

    name: str
    billions: float
    kv_bytes: float
    local_engines: int
    train_s: float
    scale: float
    weights_gb: float

    @property
    def curve(self) -> Curve:
        """Of one engine of two GPUs."""
        return roofline(self.billions, self.kv_bytes).scaled(self.scale)


# Qwen3: layers x KV heads x 128 x (key, value) x 2 bytes. train_s of 14B is fitted; of 8B and 32B it is scaled by size
# over the reserved GPUs (8, 8 and 16), so their step times are predicted.
MODELS = {
    "Qwen3-8B": Model("Qwen3-8B", 8.2, 36 * 8 * 128 * 2 * 2, 4, TRAIN_S * 8.2 / 14.8, SCALE, 16.4),
    "Qwen3-14B": Model("Qwen3-14B", 14.8, 40 * 8 * 128 * 2 * 2, 4, TRAIN_S, SCALE, 29.6),
    "Qwen3-32B": Model("Qwen3-32B", 32.8, 64 * 8 * 128 * 2 * 2, 8, TRAIN_S * 32.8 / 14.8 / 2, SCALE, 65.6),
}
INSTANCE_GB_S, SENDER_GB_S = 50 / 8, 200 / 8  # the paper's vNIC of an instance, and the reserved node's front-end NIC
