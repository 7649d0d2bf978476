"""The decode step of `step.py` as what is captured on a GPU: SmolLM2's, or a random model's of any shape."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from workbench.foundry.cuda_graph import Probe
from workbench.foundry.graph import Tensor
from workbench.foundry.shape import Shape

if TYPE_CHECKING:
    from workbench.lm import LM

FILLED = 4  # sequences of a probe with something in their KV


@dataclass(frozen=True)
class Step:
    """The decode step of `step.py`, in fp32, as a Subject. `weights` by the names of Shape.weights, on any device."""

    name: str
    shape: Shape
    weights: Mapping[str, torch.Tensor]
    run: Callable[..., tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(
        cls, model: LM, sizes: Sequence[int], *, capacity: int = 256, layers: int | None = None, compiled: bool = False
    ) -> Step:
        """A loaded model's step, or its first layers'. compiled: through torch.compile, whose kernels are Triton's."""
        from workbench.foundry.step import shape_of, weights_of

        shape = shape_of(model, capacity, max(sizes), layers)
        return cls(model.name, shape, weights_of(model, shape), _decode(compiled=compiled))

    @classmethod
    def random(cls, shape: Shape, *, seed: int = 0, compiled: bool = False) -> Step:
        """A model of any shape with random weights, small enough that nothing overflows."""
        draw = torch.Generator().manual_seed(seed)
        weights = {name: torch.randn(dims, generator=draw) * 0.02 for name, dims in shape.weights()}
        return cls("random", shape, weights, _decode(compiled=compiled))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """As shape.py lays them out."""
        return self.shape.tensors()

    def about(self) -> Mapping[str, Any]:
        return {"name": self.name, **self.shape.to_dict()}

    def fill(self, place: Mapping[str, torch.Tensor]) -> None:
        for name, value in self.weights.items():
            place[name].copy_(value)

    def step(self, place: Mapping[str, torch.Tensor], size: int) -> Mapping[str, torch.Tensor]:
        weights = {name: place[name] for name, _ in self.shape.weights()}
        k, v = ([place[f"{i}.{which}"][:size] for i in range(self.shape.layers)] for which in "kv")
        logits, following = self.run(self.shape, weights, place["ids"][:size], place["positions"][:size], k, v)
        return {"logits": logits, "next": following}

    def probe(self, size: int) -> Probe:
        """The first FILLED sequences stand somewhere in their KV, the first one at its end; the others at its start.

        So of a large batch little KV has to be written and read back, whatever its size.
        """
        draw, some = random.Random(f"cuda {size}"), min(size, FILLED)
        ids = [draw.randrange(self.shape.vocab) for _ in range(size)]
        positions = [self.shape.capacity - 1, *(draw.randrange(self.shape.capacity) for _ in range(some - 1))]
        raw = array("q", [*ids, *positions, *[0] * (size - some)]).tobytes()
        of_one = [(t.name, t.nbytes // t.shape[0]) for t in self.tensors if t.role == "state"]
        fills, kept = (tuple((name, n * count) for name, n in of_one) for count in (some, size))
        return Probe(fills, (("ids", 8 * size), ("positions", 8 * size)), raw, "", kept)


def _decode(*, compiled: bool) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    from workbench.foundry.step import decode_step

    call = torch.compile(decode_step, dynamic=False, fullgraph=True) if compiled else decode_step

    def run(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if not compiled:
            with _Capturable():
                return call(*arguments)
        with torch._dynamo.config.patch(recompile_limit=4096):  # one compilation a size
            return call(*arguments)

    return run


class _Capturable(TorchFunctionMode):
    """torch.where between two numbers copies them to the device, which no capture allows; a filled mask does not."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.where and len(args) == 3 and not any(isinstance(a, torch.Tensor) for a in args[1:]):
            seen, yes, no = args
            return torch.full(seen.shape, yes, device=seen.device).masked_fill(~seen, no)
        return func(*args, **(kwargs or {}))
