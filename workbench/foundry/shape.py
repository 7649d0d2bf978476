"""The decode step that is captured, without torch: its sizes, and where its tensors lie in the arena."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from workbench.foundry.archive import refuse
from workbench.foundry.graph import Role, Tensor

BASE = 0x600000000000
HUGE = 2 << 20  # bytes of a large page: weights end on one, so that what is frozen shares none
ALIGN = 64


@dataclass(frozen=True)
class Shape:
    """A Llama's decode step in fp32 over a KV cache of `capacity` tokens for each of `slots` sequences."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int
    vocab: int
    norm_eps: float
    capacity: int
    slots: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Shape:
        """From a manifest. Refused when a field is missing or no positive number."""
        given = {f.name: raw.get(f.name) for f in fields(cls)}
        for name, value in given.items():
            kind, limit = (float, 1.0) if name == "norm_eps" else (int, 2**12 if name == "layers" else 2**24)
            if type(value) is not kind or not 0 < value < limit:
                refuse("malformed", f"model.{name} is no {kind.__name__} between 0 and {limit}: {value!r}")
        return cls(**given)  # type: ignore[arg-type]

    def weights(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of what no step changes, in the order of the arena."""
        width, half = self.heads * self.head_dim, self.head_dim // 2
        yield "embed", (self.vocab, self.hidden)
        yield "norm", (self.hidden,)
        yield "cos", (self.capacity, half)
        yield "sin", (self.capacity, half)
        for i in range(self.layers):
            yield f"{i}.attn_norm", (self.hidden,)
            yield f"{i}.qkv", (width + 2 * self.kv_heads * self.head_dim, self.hidden)
            yield f"{i}.out", (self.hidden, width)
            yield f"{i}.mlp_norm", (self.hidden,)
            yield f"{i}.gate_up", (2 * self.inner, self.hidden)
            yield f"{i}.down", (self.hidden, self.inner)

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that have their place before any graph is captured: weights, then KV, then inputs."""
        made: list[Tensor] = []

        def put(name: str, role: Role, dtype: str, shape: tuple[int, ...], align: int = ALIGN) -> None:
            end = made[-1].offset + made[-1].nbytes if made else 0
            made.append(Tensor(name, role, dtype, shape, end + -end % align))

        for name, shape in self.weights():
            put(name, "weight", "float32", shape)
        for i in range(self.layers):
            for which in "kv":
                shape = (self.slots, self.kv_heads, self.capacity, self.head_dim)
                put(f"{i}.{which}", "state", "float32", shape, HUGE if i == 0 and which == "k" else ALIGN)
        for name in ("ids", "positions"):
            put(name, "input", "int64", (self.slots,))
        return tuple(made)

    def weight_bytes(self) -> int:
        """Bytes of the arena that hold weights: [0, weight_bytes)."""
        return next(t.offset for t in self.tensors() if t.role == "state")

    def scratch(self) -> int:
        """Offset at which graphs may put their own buffers."""
        last = self.tensors()[-1]
        end = last.offset + last.nbytes
        return end + -end % HUGE
