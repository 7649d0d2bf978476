"""What a measured run is expected to take, before it runs: seconds until a ladder is ready, way by way. Modelled.

    seconds = fixed + weights * layers + one + one_layer * layers            the first compilation
                    + many + many_layer * layers                             one for all further sizes, after batch 1
                    + slower * a first step of each size

Where every size is compiled by itself (dynamic=False), the first line's compilation counts for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from workbench.foundry.config import LAYERS, FoundryConfig, ladder

# SmolLM2-135M, float32, one thread of a shared AMD EPYC with AVX2: one layer as in benchmarks/foundry.csv, captures of
# six (61 s) and thirty layers (237 s beside other work) for what a further layer costs to compile; the warm cache's two
# layers against one
SOURCE = "cost model fitted to SmolLM2-135M with 1, 6 and 30 layers, one thread of an AMD EPYC with AVX2"
MOST = 24  # sizes of the curves


@dataclass(frozen=True)
class Cost:
    """Seconds of a way: once, for the weights of a layer, and to compile the step for one size and for any size."""

    fixed_s: float
    weights_s: float = 0.0
    one_s: float = 0.0
    one_layer_s: float = 0.0
    many_s: float = 0.0
    many_layer_s: float = 0.0
    slower: float = 1.0  # a step over ours


COSTS: dict[str, Cost] = {
    "foundry": Cost(0.9, 0.02),
    "cold": Cost(6.0, 0.02, 21.2, 1.8, 14.4, 2.2, 1.10),
    "warm": Cost(4.8, 0.02, 2.2, 1.6, 0.8, 0.5, 1.12),
    "aoti": Cost(11.6, 0.02, slower=1.20),
    "eager": Cost(4.7, 0.02, slower=1.02),
}
STEP_S = (0.00215, 0.000203)  # of a layer: at batch 0, and more for each sequence
OUTPUT = 8.0  # the output layer counts as so many layers


def step_s(layers: int, batch: int) -> float:
    """A step of ours."""
    return (layers + OUTPUT) * (STEP_S[0] + STEP_S[1] * batch)


def curves(config: FoundryConfig) -> dict[str, list[tuple[float, float]]]:
    """Way -> (sizes of the ladder, seconds until they are ready)."""
    longer = ladder(1 + max(MOST, config.ladder))
    sizes = config.sizes if config.batches.strip() else longer[:-1] if config.single else longer[1:]
    layers = config.depth if config.model != "tiny" else LAYERS["tiny"]
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in COSTS}
    for count in range(1, len(sizes) + 1):
        steps = sum(step_s(layers, batch) for batch in sizes[:count])
        for way, cost in COSTS.items():
            compiled = (cost.one_s + cost.one_layer_s * layers) * (1 if config.dynamic else count)
            if config.dynamic and count > 1 and sizes[0] == 1:
                compiled += cost.many_s + cost.many_layer_s * layers
            seconds = cost.fixed_s + cost.weights_s * layers + compiled + cost.slower * steps
            found[way].append((float(count), seconds))
    return found
