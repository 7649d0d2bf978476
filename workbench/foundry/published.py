"""What Foundry's paper (arXiv 2604.06664) reports of starting up, as data; nothing here is ours.

Abstract and introduction were read in the paper; tables and figures in notes of readers that quote it and agree with
each other. Figures are not cited by number for that reason, but by section. The setting: 8 H200, vLLM 0.11.2, a decode
graph for every batch size from 1 to 512, torch.compile's cache warm; loading weights and starting processes are left
out. Layers and sizes are those of the models' public configurations.
"""

from __future__ import annotations

from dataclasses import dataclass

GRAPHS = 512  # batch sizes 1 to 512
LATENCY = "evaluation, initialisation latency"
PER_GRAPH = "evaluation, cost per graph"
TEMPLATED = "evaluation, templates"
STORED = "evaluation, storage"
RESTORED = "evaluation, process checkpoints"


@dataclass(frozen=True)
class Initialisation:
    """Seconds of initialisation with so many ranks: vLLM with graphs, and Foundry; `cut` in per cent as printed."""

    model: str
    ranks: int
    vllm_s: float
    foundry_s: float
    cut: float


INITIALISATION = (  # where the paper gives a range over ranks, its ends are taken for the fewest and the most
    Initialisation("Llama3-8B", 1, 28.0, 1.3, 95.0),
    Initialisation("Gemma3-12B", 1, 45.0, 2.0, 95.0),
    Initialisation("Qwen3-14B", 1, 36.0, 1.7, 95.0),
    Initialisation("Qwen3-14B", 8, 48.0, 1.8, 96.0),
    Initialisation("Qwen3-30B-A3B", 2, 112.0, 2.7, 97.0),
    Initialisation("Qwen3-30B-A3B", 8, 154.0, 2.8, 98.0),
    Initialisation("Qwen3-235B-A22B", 8, 650.0, 3.9, 99.0),
)
EAGER_S = {"Qwen3-235B-A22B": 62.0}

# Range over models, milliseconds of one graph. Which models the ends belong to is not in our sources: the least is
# taken for Qwen3-14B (Llama's 28 s / 512 would be below it), the most for Qwen3-30B-A3B with two ranks.
CAPTURE_MS = (59.7, 198.6)
BUILD_MS = (31.1, 69.5)
UPDATE_MS = (0.98, 2.89)
BUILD_OVER = (1.9, 2.9)  # times faster than capture
BUILD_EVERY_S = 35.6  # all 512 by graph APIs, one after another

TEMPLATES = {"Qwen3-14B": 22, "Qwen3-235B-A22B": 12}
ON_DEMAND = 95.0  # per cent of graphs without an executable of their own, at least
ARCHIVE_GB = {"Llama3-8B": 0.976, "Gemma3-12B": 1.3, "Qwen3-14B": 1.1, "Qwen3-235B-A22B": 2.2}
BINARIES_GB = {"Qwen3-235B-A22B": 1.4}
CHECKPOINT_S = (5.7, 6.1)  # CUDA-checkpoint and CRIU, one GPU, weights and KV released before
CHECKPOINT_OVER = (2.6, 4.4)  # its restore over Foundry's
SLOWEST_ONE_GPU_S = 2.3  # Foundry's, beside the checkpoints
# The public code's own demonstration, with a later vLLM: Qwen3-30B-A3B in FP8, EP2, 256 graphs; "about", seconds.
CODE = "public code, its README"
CODE_GRAPHS, CODE_VLLM_S, CODE_FOUNDRY_S = 256, 30.0, 1.0


@dataclass(frozen=True)
class Audit:
    """Somebody else's whole start, seconds: what graphs were of it. Second-hand, for the size of things only."""

    what: str
    total_s: float
    weights_s: float | None
    compile_s: float | None
    graphs_s: float
    prefill_graphs_s: float  # of graphs_s: what Foundry does not cover
    note: str

    @property
    def spared(self) -> float:
        """Share of the whole, 0 to 1, that decode graphs out of an archive could have spared at most."""
        return (self.graphs_s - self.prefill_graphs_s) / self.total_s


AUDITS = (
    Audit("a practitioner's cold start", 1124.0, None, 13.0, 17.8, 0.0, "577 s of it extracted the container's image"),
    Audit("servekit, Llama 70B, TP4", 826.0, 644.0, None, 115.0, 83.0, "weights 78 % of the whole"),
)
