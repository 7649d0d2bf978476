"""A small decoder-only mixture of experts for training: one class for a single process and for every rank of a plan.

    model = MoE(MoEConfig(layers=4, experts=8))                       the whole model
    part  = MoE(config, attention=True, held=[(0,), (), (2, 5), ()])  attention side and the experts a rank holds
    h, y, logits = block(x)                    residual stream, what gate and experts read, what the gate says

Layer: h = x + Attention(RMSNorm(x)); y = RMSNorm(h); out = h + sum over the top k of g_e(y) SwiGLU_e(y). Each parameter
is drawn from a generator of (seed, its name), so a part has the same numbers as the whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from workbench.hetermoe.plan import Plan, PlanError, fingerprint

Kernel = Literal["fused", "naive"]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
ROPE_BASE = 10_000.0
EPS = 1e-6


@dataclass(frozen=True)
class MoEConfig:
    """Shapes of a model. PlanError for what cannot be.

    hidden: width, heads times an even number. ffn: inner width of an expert. tied: the head is the embedding.
    gate_bias: gates have one, as where an expert is to be made more or less likely.
    """

    vocab: int = 64
    hidden: int = 32
    layers: int = 2
    heads: int = 2
    experts: int = 4
    top_k: int = 2
    ffn: int = 64
    tied: bool = True
    gate_bias: bool = False
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        for name in ("vocab", "hidden", "layers", "heads", "experts", "top_k", "ffn"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is a whole number from 1, not {getattr(self, name)!r}")
        if self.hidden % (2 * self.heads):
            raise PlanError(f"hidden {self.hidden} is not {self.heads} heads of an even width: rotary pairs need one")
        if self.top_k > self.experts:
            raise PlanError(f"top-{self.top_k} of {self.experts} experts: lower top_k or give the layer more experts")
        if self.dtype not in DTYPES:
            raise PlanError(f"dtype is {' or '.join(DTYPES)}, not {self.dtype!r}")

    @property
    def key(self) -> str:
        """`Plan.model_key` of this model: its shapes, not its seed."""
        return fingerprint(**asdict(replace(self, seed=0)))

    def fits(self, plan: Plan) -> None:
        """PlanError where the plan is for another model."""
        plan.require(self.key)
        for name in ("layers", "experts", "top_k"):
            if getattr(plan, name) != getattr(self, name):
                raise PlanError(f"the plan has {name} {getattr(plan, name)}, the model {getattr(self, name)}")


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS))


class Attention(nn.Module):
    """Causal self-attention with rotary positions, [rows, tokens, hidden].

    kernel: "fused", torch's blockwise kernel; "naive", scores written out, as on a device without one.
    """

    def __init__(self, config: MoEConfig, kernel: Kernel) -> None:
        super().__init__()
        if kernel not in get_args(Kernel):
            raise PlanError(f"attention_kernel is {' or '.join(get_args(Kernel))}, not {kernel!r}")
        self.heads, self.kernel = config.heads, kernel
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        parts = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each [rows, heads, tokens, width / heads]
        q, k = _rotated(q), _rotated(k)
        if self.kernel == "fused":
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            ahead = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
            mixed = torch.softmax(scores.masked_fill(ahead, -math.inf), -1) @ v
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(rows, tokens, width))
        return out


class Block(nn.Module):
    """The attention side of a layer: x -> (h, y, logits of the gate), those [rows tokens, experts]."""

    def __init__(self, config: MoEConfig, kernel: Kernel) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(config.hidden), RMSNorm(config.hidden)
        self.attention = Attention(config, kernel)
        self.gate = nn.Linear(config.hidden, config.experts, bias=config.gate_bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = x + self.attention(self.norm1(x))
        y = self.norm2(h)
        return h, y, self.gate(y.flatten(0, 1))


class Expert(nn.Module):
    """SwiGLU on tokens of any number, also none: [tokens, hidden] -> the same."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden, config.ffn, bias=False)
        self.up = nn.Linear(config.hidden, config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class MoE(nn.Module):
    """The model or a part of it. `held[layer]`: the experts that are here; None, all. attention: the rest too."""

    def __init__(
        self,
        config: MoEConfig,
        attention_kernel: Kernel = "fused",
        attention: bool = True,
        held: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.kernel = config, attention_kernel
        held = [range(config.experts)] * config.layers if held is None else held
        self.blocks = nn.ModuleList()
        if attention:
            self.embed = nn.Embedding(config.vocab, config.hidden)
            self.blocks.extend(Block(config, attention_kernel) for _ in range(config.layers))
            self.norm = RMSNorm(config.hidden)
            self.head = nn.Linear(config.hidden, config.vocab, bias=False)
        self.experts = nn.ModuleList(nn.ModuleDict({str(e): Expert(config) for e in row}) for row in held)
        self.to(DTYPES[config.dtype])
        self.reset()
        self.tie()

    def tie(self) -> None:
        """One storage, two gradients (`tied_gradient` adds them): again after a move to a device, which copies."""
        if self.config.tied and len(self.blocks):
            self.head.weight = nn.Parameter(self.embed.weight.detach())

    def reset(self) -> None:
        """Parameters as at the start: N(0, 0.02) from (seed, name), outputs over sqrt(2 layers), norms 1, bias 0."""
        for name, p in self.named_parameters():
            if p.dim() == 1:
                p.data.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            number = int.from_bytes(hashlib.sha256(f"{self.config.seed} {name}".encode()).digest()[:7], "big")
            drawn = torch.randn(p.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            out = name.endswith(("attention.out.weight", "down.weight"))
            p.data.copy_(drawn * 0.02 / (math.sqrt(2 * self.config.layers) if out else 1.0))

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """What an optimizer updates: a tied head is the embedding and not named."""
        return {n: p for n, p in self.named_parameters() if not (self.config.tied and n == "head.weight")}

    def expert(self, layer: int, number: int) -> Expert:
        """The expert, which must be held here."""
        found = self.experts[layer][str(number)]  # type: ignore[index]
        assert isinstance(found, Expert)
        return found

    def logits(self, x: Tensor) -> Tensor:
        """Norm and head, [rows, tokens, vocab]."""
        out: Tensor = self.head(self.norm(x))
        return out

    def loss(self, x: Tensor, targets: Tensor, tokens: int) -> Tensor:
        """Cross-entropy summed over these rows, over the tokens of the whole step, so that parts add up to its mean."""
        return functional.cross_entropy(self.logits(x).flatten(0, 1), targets.flatten(), reduction="sum") / tokens

    def tied_gradient(self) -> None:
        """Add the head's gradient to the embedding's, in this order on every rank; nothing for an untied model."""
        if self.config.tied and len(self.blocks) and self.head.weight.grad is not None:
            assert self.embed.weight.grad is not None
            self.embed.weight.grad.add_(self.head.weight.grad)
            self.head.weight.grad = None

    def zero_missing(self) -> None:
        """An expert that saw no token has gradient 0, not none: AdamW must do the same with it everywhere."""
        for p in self.parameters_by_name().values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)


def held_by(plan: Plan, rank: int) -> list[tuple[int, ...]]:
    """Experts of each layer on a rank."""
    return [plan.experts_of(rank, layer) for layer in range(plan.layers)]


def part(config: MoEConfig, plan: Plan, rank: int, kernel: Kernel) -> MoE:
    """What a rank of the plan holds: attention ranks replicate the attention side, experts lie with their owner."""
    config.fits(plan)
    return MoE(config, kernel, attention=rank < plan.attention, held=held_by(plan, rank))


def attention_side(model: MoE) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that attention ranks replicate, in one order on all of them."""
    return ((n, p) for n, p in model.parameters_by_name().items() if not n.startswith("experts."))


def _rotated(x: Tensor) -> Tensor:
    """Rotary positions on [..., tokens, width]."""
    tokens, width = x.shape[-2:]
    rate = ROPE_BASE ** (-torch.arange(0, width, 2, dtype=torch.float64, device=x.device) / width)
    angle = torch.arange(tokens, dtype=torch.float64, device=x.device)[:, None] * rate  # [tokens, width / 2]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
