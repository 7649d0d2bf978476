"""A stand-in for what is left out: a linear map of low rank that runs beside the chosen experts, for every token.

    FFN(x) = W_down (h * spread(G(x) > tau)) + B A x + c        A [rank, hidden], B [hidden, rank], c [hidden]

Much of what the experts that a token does not need would have added is nearly linear in x, and small maps carry it:
rank 16 is 0.7 % of SmolLM2's FFN. It is ours, an option; the paper leaves nothing in place of what it leaves out.
(Adapters beside an FFN: He et al. 2022; here one is solved for, layer by layer, before anything is trained.)

    target of layer l = states of the dense model behind l - states of the sparse one, its layers before already mended
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from workbench.lte.data import Batch
    from workbench.lte.sparse_model import SparseMLP, SparseModel

RIDGE = 1e-3  # over the mean square of an input


class StandIn(nn.Module):
    """B A x + c of x [..., hidden]; zero until it is solved for. Parameters are float32 and computed in x's dtype."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__()
        if not 1 <= rank <= hidden:
            raise ValueError(f"a stand-in's rank lies between 1 and the {hidden} of a hidden state, not {rank}")
        self.a = nn.Parameter(torch.zeros(rank, hidden))
        self.b = nn.Parameter(torch.zeros(hidden, rank))
        self.c = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(x, self.a.to(x.dtype))
        return nn.functional.linear(low, self.b.to(x.dtype), self.c.to(x.dtype))

    @property
    def rank(self) -> int:
        return len(self.a)


def cost(rank: int, hidden: int, inner: int) -> float:
    """Its multiplications as a share of a whole gated MLP's."""
    return 2 * rank * hidden / (3 * hidden * inner)


@torch.no_grad()
def fit_stand_ins(model: SparseModel, batch: Batch) -> None:
    """Solve for every layer's stand-in on the texts of `batch`, routers as they are, by reduced-rank regression.

    The model runs twice, dense and in hard mode. A layer's router is moved so that it leaves out on the mended states
    what it leaves out on the dense ones: else the layers before would change its sparsity. Errors are relative to the
    token's state, as in teacher.py. ValueError where the model has no stand-ins, or the texts too few tokens.
    """
    if not model.stand_ins():
        raise ValueError("this model has no stand-ins: make it with SparseModel(..., stand_in=rank)")
    tokens, hidden = int(batch.keep.sum()), model.layers[0].router.weight.shape[1]
    if tokens < 2 * hidden:
        raise ValueError(f"{tokens} tokens are too few to solve for maps of {hidden} inputs: give {2 * hidden} or more")
    shares: list[float] = []
    wanted: list[Tensor] = []

    def asked(at: int, x: Tensor) -> None:
        shares.append(float((model.layers[at].router.logits(x[batch.keep]) <= 0).float().mean()))

    def carried(at: int, states: Tensor) -> None:  # noqa: ARG001
        wanted.append(states[batch.keep])

    with model.as_mode("dense"), _watched(model, asked, carried):
        model.hidden(batch.ids)
    inputs: dict[str, Tensor] = {}

    def enters(at: int, x: Tensor) -> None:
        inputs["x"] = x[batch.keep]
        layer = model.layers[at]
        logits = layer.router.logits(inputs["x"]).flatten().sort().values
        layer.router.bias.sub_(logits[min(len(logits) - 1, max(0, round(shares[at] * len(logits)) - 1))])

    def leaves(at: int, states: Tensor) -> Tensor:
        layer, kept = model.layers[at], states[batch.keep].float()
        solve(layer, inputs["x"].float(), wanted[at].float() - kept, 1 / wanted[at].float().norm(dim=1, keepdim=True))
        assert layer.stand_in is not None
        mended = states.clone()
        mended[batch.keep] += layer.stand_in(inputs["x"]).to(states.dtype)
        return mended

    for layer in model.layers:  # what was there before is not mended twice
        assert layer.stand_in is not None
        for parameter in layer.stand_in.parameters():
            parameter.zero_()
    with model.as_mode("hard"), _watched(model, enters, leaves):
        model.hidden(batch.ids)


def solve(layer: SparseMLP, x: Tensor, missing: Tensor, weight: Tensor) -> None:
    """Set the layer's stand-in to the map of its rank that leaves least of `missing` [tokens, hidden], given x.

    weight [tokens, 1] is what a token's error counts. The rank's directions are those of the full solution's outputs.
    """
    assert layer.stand_in is not None
    ones = torch.ones(len(x), 1)
    inputs = torch.cat([x, ones], dim=1) * weight
    gram = inputs.T @ inputs
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram))
    full = torch.linalg.solve(gram, inputs.T @ (missing * weight))  # [hidden + 1, hidden]
    fitted = (x * weight) @ full[:-1]
    directions = torch.linalg.eigh(fitted.T @ fitted).eigenvectors[:, -layer.stand_in.rank :]  # [hidden, rank]
    a, b = (full[:-1] @ directions).T, directions
    even = (a.norm(dim=1) / b.norm(dim=0)).clamp_min(1e-12).sqrt()  # both sides learn at one rate
    layer.stand_in.a.copy_(a / even[:, None])
    layer.stand_in.b.copy_(b * even)
    layer.stand_in.c.copy_(full[-1])


@contextmanager
def _watched(
    model: SparseModel, enters: Callable[[int, Tensor], None], leaves: Callable[[int, Tensor], Tensor | None]
) -> Iterator[None]:
    """Call `enters` with what each MLP is given and `leaves` with each block's states, which it may replace."""

    def entering(at: int) -> Callable[..., None]:
        return lambda module, given: enters(at, given[0])  # noqa: ARG005  a hook's arguments

    def leaving(at: int) -> Callable[..., Any]:
        def look(module: object, given: object, out: Tensor | tuple[Tensor, ...]) -> Any:  # noqa: ARG001
            states = leaves(at, out if isinstance(out, Tensor) else out[0])
            if states is None:
                return None
            return states if isinstance(out, Tensor) else (states, *out[1:])

        return look

    hooks = [layer.register_forward_pre_hook(entering(at)) for at, layer in enumerate(model.layers)]
    hooks += [block.register_forward_hook(leaving(at)) for at, block in enumerate(model.blocks)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
