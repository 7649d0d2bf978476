"""Weights laid out once for products of few rows: what decoding does, where reading the weights is all the time.

`fn.linear` rearranges nothing and pays for it above one row. oneDNN's packed layout, 1 thread of an Intel Xeon with
AMX, the layers of SmolLM2-135M, microseconds per token and layer (packed against not; the machine was shared):

    tokens     1           4          16         64         256
    bf16   386 / 546   95 / 150   25 / 38    10 / 16    6.3 / 7.3
    fp32   774 / 591  236 / 342  157 / 189   95 / 114    41 / 41

So everything that decodes takes the packed layout. With it a row has the same bits whatever stands beside it; as
measured for the shapes of SmolLM2 and of tiny:

    fp32   1 to 600 rows, when a row alone is doubled: oneDNN sums inputs beyond 1,024 in another order for one row
    bf16   1 to 128 rows, with the layout for one row (the layouts for more change their sums at 33 rows), on a
           processor with bf16 products; where oneDNN emulates them (plain AVX-512), sums change with the rows

The exception is fp32 at few rows: at 1, 2 and 3 a whole step takes 64, 67 and 72 ms packed and 51, 61 and 67 ms not on
that processor, and there packed wins from 4 on. On an AMD EPYC with AVX2 it wins from 2 on (84 against 124 ms). So who
does not ask for the same bits (`exact=False`) gets the product that was faster here when both were timed.

Where oneDNN is not there (or does not do the dtype), `fn.linear` takes over, and none of this is promised.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as fn

from workbench.lm.dtype import fast_dtype

if TYPE_CHECKING:
    from workbench.lm.model import LM, Layer

Product = Callable[[Tensor], Tensor]  # x [n, inputs] -> [n, outputs]

ROWS_HINT = {torch.float32: 4, torch.bfloat16: 1}  # the rows that oneDNN is told to lay out for: see above
ONE_ROW_INPUTS = 1024  # above: one row is summed in another order than two


def exact_rows(dtype: torch.dtype) -> int:
    """Up to how many rows a row's bits do not depend on the others'; 1 where they do from the second row on."""
    if not available(dtype):
        return 1
    if dtype == torch.bfloat16:
        return 128 if fast_dtype() == "bfloat16" else 1
    return 600


MOST_PLAIN = {torch.float32: 3}  # rows up to which the plain product may be faster: see above
TIMED, TIMES = (3072, 576), 7  # weights that are timed, one of SmolLM2's largest; how often
COPIES = 6  # more than caches hold: decoding reads weights from memory


class PackedLayer:
    """The matrix products of one layer; the norms stay where they are."""

    def __init__(self, layer: Layer, make: Callable[[Tensor], Product]) -> None:
        self.attn_norm, self.mlp_norm = layer.attn_norm, layer.mlp_norm
        self.qkv, self.out = make(layer.qkv), make(layer.out)
        self.gate_up, self.down = make(layer.gate_up), make(layer.down)


class Products:
    """All products of a model, made of its weights by `make`."""

    def __init__(self, layers: list[Layer], head: Tensor, make: Callable[[Tensor], Product]) -> None:
        self.layers = [PackedLayer(layer, make) for layer in layers]
        self.head = make(head)


class Packed:
    """The products of a model in a second copy of its weights, and the plain ones beside them."""

    def __init__(self, layers: list[Layer], head: Tensor) -> None:
        self.packed, self.plain = Products(layers, head, product), Products(layers, head, _plain)
        self.dtype = head.dtype

    def at(self, tokens: int, exact: bool) -> Products:
        """What a step of so many tokens multiplies with: the same for every width if it shall be exact."""
        return self.plain if not exact and tokens <= plain_rows(self.dtype) else self.packed


_making = threading.Lock()


def packed(model: LM) -> Packed:
    """The packed weights of `model`, made when first asked for: about 0.3 s and once more the memory of the weights."""
    with _making:
        if model.packed is None:
            model.packed = Packed(model.layers, model.embed)
        return model.packed


@lru_cache
def plain_rows(dtype: torch.dtype) -> int:
    """Rows up to which the plain product is faster than the packed one here: timed once a process, in half a second."""
    if not available(dtype):
        return MOST_PLAIN.get(dtype, 0)
    for rows in range(1, MOST_PLAIN.get(dtype, 0) + 1):
        plain_s, packed_s = _timed(dtype, rows)
        if plain_s >= packed_s:
            return rows - 1
    return MOST_PLAIN.get(dtype, 0)


def _timed(dtype: torch.dtype, rows: int) -> tuple[float, float]:
    """Seconds of the plain and the packed product of so many rows, interleaved, medians."""
    weights = [torch.randn(TIMED).to(dtype) for _ in range(COPIES)]
    x = torch.randn(rows, TIMED[1]).to(dtype)
    sides = [[_plain(w) for w in weights], [_onednn(w) for w in weights]]
    seconds: list[list[float]] = [[], []]
    for _ in range(TIMES):
        for side, took in zip(sides, seconds, strict=True):
            began = time.perf_counter()
            for multiply in side:
                multiply(x)
            took.append(time.perf_counter() - began)
    return median(seconds[0]), median(seconds[1])


@lru_cache
def available(dtype: torch.dtype) -> bool:
    """True when oneDNN packs weights of `dtype` here and the product is right."""
    if dtype not in ROWS_HINT or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, generator=draw).to(dtype)
    x = torch.randn(2, 64, generator=draw).to(dtype)
    try:
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        found = _onednn(weight)(x)
    except (AttributeError, RuntimeError):  # a torch without these operators, or without oneDNN behind them
        return False
    return torch.allclose(found.float(), fn.linear(x, weight).float(), rtol=0.02, atol=0.1)


def product(weight: Tensor) -> Product:
    """The product with `weight`, [outputs, inputs]: packed where that is possible."""
    if not available(weight.dtype):
        return _plain(weight)
    return _onednn(weight)


def _plain(weight: Tensor) -> Product:
    return lambda x: fn.linear(x, weight)


def _onednn(weight: Tensor) -> Product:
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_HINT[weight.dtype])
    multiply = torch.ops.mkldnn._linear_pointwise
    if weight.shape[1] <= ONE_ROW_INPUTS:
        return lambda x: multiply(x, laid_out, None, "none", [], "")

    def never_alone(x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            return multiply(x, laid_out, None, "none", [], "")
        return multiply(x.expand(2, -1).contiguous(), laid_out, None, "none", [], "")[:1]

    return never_alone
