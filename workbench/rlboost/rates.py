"""What engines, trainer and network of the paper's setting do in a second: calibrated constants, each said to be one.

    a decode step takes  fixed + n each + n L token  seconds for n requests of mean context L

The three terms are a roofline of two H100 (weights once, arithmetic, KV cache) times a scale. Scale and training time
are calibrated, two numbers a model, and on nothing but the seeding windows that the authors' public code starts from
(SEEDED_S, ten numbers): with them the trainer and the instances wait equally long. None of the paper's throughputs,
costs or ablations went in; all of these are predicted. For 32B there is no table, so its two numbers are 14B's, the
time by size over the reserved GPUs. Lengths are assumed: a lognormal, cut at the paper's 14K.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import lru_cache

# Windows of the release (Terra-Flux/PolyRL at 836120a), s, by number of instances; 5 s is its floor.
SEEDED_S = {
    "Qwen3-8B": {1: 190.0, 2: 160.0, 3: 105.0, 4: 70.0},
    "Qwen3-14B": {1: 346.0, 2: 212.0, 3: 145.0, 4: 60.0, 5: 8.0, 6: 5.0},
}
# Calibrated on a grid of 0.01 and 5 s: where claims.misfit is least, which is 20 s for 8B and 17 s for 14B.
TRAIN_8B_S, SCALE_8B = 165.0, 0.77
TRAIN_14B_S, SCALE_14B = 545.0, 1.17
MEAN_TOKENS = 5000  # assumed: KV cache of a running request, with what an engine keeps free for those that grow
PROMPT, LEAST = 200, 8  # assumed: tokens of a prompt, and of the shortest response
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
    billions: float, kv_bytes: float, gpus: int = 2, overhead_s: float = 0.008, mean_tokens: int = MEAN_TOKENS
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

    def __post_init__(self) -> None:
        if not (0 < self.mean < math.inf and 0 <= self.sigma < 5):
            raise ValueError(f"a mean is above 0 tokens and sigma from 0 to 5, not {self.mean} and {self.sigma}")
        if self.most < LEAST:
            raise ValueError(f"the longest response has {LEAST} tokens or more, not {self.most}")

    def draw(self, number: int, seed: int) -> list[int]:
        """Lengths of so many responses: the same seed, the same lengths."""
        lot, mu = random.Random(seed), math.log(self.mean) - self.sigma**2 / 2
        return [max(LEAST, min(self.most, round(lot.lognormvariate(mu, self.sigma)))) for _ in range(number)]

    def drawn_mean(self) -> float:
        """Mean tokens after the cut, over a draw large enough."""
        return _moments(self)[0]

    def mean_context(self) -> float:
        """Tokens that a running request holds, over time, where long ones run for longer: E[L^2] / 2 E[L] + prompt."""
        first, second = _moments(self)
        return second / (2 * first) + PROMPT


@lru_cache(maxsize=64)
def _moments(lengths: Lengths) -> tuple[float, float]:
    drawn = lengths.draw(4096, 12345)
    return sum(drawn) / len(drawn), sum(n * n for n in drawn) / len(drawn)


@dataclass(frozen=True)
class Model:
    """A model of the paper on its machines. `train_s`: training one step on the reserved machines, s.

    local_engines: of the reserved machines, in units of an instance. scale: of the roofline, calibrated.
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
        """Of one engine of two GPUs, at the lengths of the paper."""
        return self.engine(Lengths())

    def engine(self, lengths: Lengths) -> Curve:
        """Of one engine of two GPUs: its KV cache holds as many requests as their contexts allow."""
        tokens = round(MEAN_TOKENS * lengths.mean_context() / Lengths().mean_context())
        return roofline(self.billions, self.kv_bytes, mean_tokens=tokens).scaled(self.scale)

    @property
    def train_token_s(self) -> float:
        """Training a token on the reserved machines, s: a step of the paper has 1,024 responses."""
        return self.train_s / (1024 * Lengths().drawn_mean())


# Qwen3: layers x KV heads x 128 x (key, value) x 2 bytes; 4, 4 and 8 reserved engines are nodes of 8, 8 and 16 GPUs.
# That 8B's scale is below 1 says that its responses are shorter than assumed, not that an H100 beats its memory.
MODELS = {
    "Qwen3-8B": Model("Qwen3-8B", 8.2, 36 * 8 * 128 * 2 * 2, 4, TRAIN_8B_S, SCALE_8B, 16.4),
    "Qwen3-14B": Model("Qwen3-14B", 14.8, 40 * 8 * 128 * 2 * 2, 4, TRAIN_14B_S, SCALE_14B, 29.6),
    "Qwen3-32B": Model("Qwen3-32B", 32.8, 64 * 8 * 128 * 2 * 2, 8, TRAIN_14B_S * 32.8 / 14.8 / 2, SCALE_14B, 65.6),
}
INSTANCE_GB_S, SENDER_GB_S = 50 / 8, 200 / 8  # the paper's vNIC of an instance, and the reserved node's front-end NIC
