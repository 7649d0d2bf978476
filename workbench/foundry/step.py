"""The decode step in torch: one new token for each of b sequences over a KV cache of fixed capacity.

Written as a compiler likes it (no size depends on a value), in the ops that every way of running it shares: eager,
torch.compile, AOTInductor, and the graph captured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.foundry.shape import Shape

if TYPE_CHECKING:
    from workbench.lm import LM


def decode_step(
    shape: Shape,
    w: Mapping[str, Tensor],
    ids: Tensor,
    positions: Tensor,
    k: Sequence[Tensor],
    v: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Logits [b, vocab] fp32 and the likeliest next token [b] int64 after ids[b] at positions[b], both int64.

    k[i] and v[i] are [b, kv_heads, capacity, head_dim] fp32; the new token's KV is written into them, and it attends to
    positions 0 to its own. Weights are fp32 by the names of `Shape.weights`.
    """
    b, heads, kv, dim = ids.shape[0], shape.heads, shape.kv_heads, shape.head_dim
    x = fn.embedding(ids, w["embed"])  # [b, hidden]
    cos, sin = w["cos"][positions][:, None], w["sin"][positions][:, None]  # [b, 1, head_dim / 2]
    row, head, at = torch.arange(b)[:, None], torch.arange(kv)[None], positions[:, None]
    seen = torch.arange(shape.capacity)[None] <= at
    bias = torch.where(seen, 0.0, float("-inf")).repeat_interleave(kv, 0)[:, None]  # [b kv_heads, 1, capacity]

    def turn(t: Tensor) -> Tensor:
        first, second = t.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    def normed(t: Tensor, name: str) -> Tensor:
        return fn.rms_norm(t, (shape.hidden,), w[name], shape.norm_eps)

    for i in range(shape.layers):
        y = fn.linear(normed(x, f"{i}.attn_norm"), w[f"{i}.qkv"]).view(b, -1, dim)
        k[i][row, head, at] = turn(y[:, heads : heads + kv])
        v[i][row, head, at] = y[:, heads + kv :]
        q = (turn(y[:, :heads]) * dim**-0.5).reshape(b * kv, -1, dim)  # heads of one KV head are its rows
        scores = torch.bmm(q, k[i].view(b * kv, shape.capacity, dim).transpose(1, 2)) + bias
        mixed = torch.bmm(torch.softmax(scores, -1), v[i].view(b * kv, shape.capacity, dim))
        x = x + fn.linear(mixed.reshape(b, -1), w[f"{i}.out"])
        gate, up = fn.linear(normed(x, f"{i}.mlp_norm"), w[f"{i}.gate_up"]).chunk(2, -1)
        x = x + fn.linear(fn.silu(gate) * up, w[f"{i}.down"])
    logits = fn.linear(normed(x, "norm"), w["embed"])
    return logits, logits.argmax(-1)


def compiled_step(shape: Shape, *, dynamic: bool, backend: Any = "inductor") -> Callable[..., tuple[Tensor, Tensor]]:
    """torch.compile of step(w, ids, positions, k, v): one function, so that what one process compiled another finds.

    dynamic: batches that `mark_batch` marked share a compilation; else each size has one of its own.
    """
    torch._dynamo.config.automatic_dynamic_shapes = False  # what is marked is dynamic, and nothing else becomes so
    torch._dynamo.config.recompile_limit = 4096

    def step(w: Any, ids: Any, positions: Any, k: Any, v: Any) -> Any:
        return decode_step(shape, w, ids, positions, k, v)

    return torch.compile(step, backend=backend, dynamic=None if dynamic else False, fullgraph=True)


def mark_batch(shape: Shape, ids: Tensor, positions: Tensor, k: Sequence[Tensor], v: Sequence[Tensor]) -> None:
    """Say that the batch of these may be anything from 2 on."""
    for each in (ids, positions, *k, *v):
        torch._dynamo.mark_dynamic(each, 0, min=2, max=max(2, shape.slots))


def loaded(name: str, layers: int, seed: int) -> LM:
    """A model as lm.load gives it in fp32, of its first layers only: the weights of the others are not read."""
    from workbench import lm

    if name != "smollm2":
        return lm.load(name, seed=seed)
    from safetensors import safe_open

    from workbench.lm import files
    from workbench.lm.tokenizer import ByteTokenizer

    folder = files.path(name)
    config = lm.LMConfig.from_llama(json.loads((folder / "config.json").read_text()))
    if layers > config.layers:
        raise ValueError(f"{name} has {config.layers} layers, not {layers}")
    beyond = tuple(f"model.layers.{i}." for i in range(layers, config.layers))
    with safe_open(folder / "model.safetensors", "pt") as there:
        weights = {each: there.get_tensor(each) for each in there.keys() if not each.startswith(beyond)}  # noqa: SIM118
    about = files.manifest(folder)["fingerprint"]
    return lm.LM(name, replace(config, layers=layers), weights, torch.float32, ByteTokenizer(), about)


def shape_of(model: LM, capacity: int, slots: int, layers: int | None = None) -> Shape:
    """The shape of a loaded model's decode step, or of its first `layers` and the output layer.

    ValueError when `capacity` is beyond the model's positions, or it has fewer layers.
    """
    c = model.config
    if layers is not None and not 1 <= layers <= c.layers:
        raise ValueError(f"{model.name} has {c.layers} layers, not {layers}")
    if not 1 <= capacity <= c.max_position:
        raise ValueError(f"{model.name} has {c.max_position} positions: a capacity of {capacity} does not fit")
    return Shape(
        layers or c.layers,
        c.heads,
        c.kv_heads,
        c.head_dim,
        c.hidden,
        c.inner,
        c.vocab,
        float(c.norm_eps),
        capacity,
        slots,
    )


def weights_of(model: LM, shape: Shape) -> dict[str, Tensor]:
    """A loaded model's weights in fp32 by the names of `Shape.weights`."""
    turn = model.rope.at(torch.arange(shape.capacity))
    found = {"embed": model.embed, "norm": model.norm, "cos": turn[0][:, 0], "sin": turn[1][:, 0]}
    for i, layer in enumerate(model.layers[: shape.layers]):
        for name in ("attn_norm", "qkv", "out", "mlp_norm", "gate_up", "down"):
            found[f"{i}.{name}"] = getattr(layer, name)
    return {name: tensor.float() for name, tensor in found.items()}
