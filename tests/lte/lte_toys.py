"""A tiny Llama of Hugging Face, and a task that it learns in seconds."""

import numpy as np
import torch

from workbench.lte import lora
from workbench.lte.data import Example
from workbench.lte.grouping import kmeans_groups
from workbench.lte.sparse_model import SparseModel
from workbench.lte.tasks import Sentiment

LAYERS, HIDDEN, INNER, VOCAB = 2, 32, 128, 64


def tiny_llama(seed=0, inner=INNER, **more):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=inner,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=VOCAB,
        initializer_range=0.15,
        attn_implementation="eager",
        **more,
    )
    return LlamaForCausalLM(config).eval()


def cut(model, seed=0):
    return [kmeans_groups(b.mlp.gate_proj.weight.detach().numpy(), seed + i) for i, b in enumerate(model.model.layers)]


def tiny_sparse(seed=0, rank=4, stand_in=0):
    model = tiny_llama(seed)
    groups = cut(model)
    if rank:
        lora.add(model, rank, 2.0 * rank, seed=seed)
    return SparseModel(model, groups, seed=seed, stand_in=stand_in)


def toy(n=400, seed=0):
    """Which of two tokens, 5 or 6, a text of mixed length holds, among others."""
    draw = np.random.default_rng(seed)

    def example():
        label = int(draw.integers(2))
        ids = draw.integers(10, VOCAB, size=int(draw.integers(4, 12)))
        ids[draw.integers(len(ids))] = 5 + label
        return Example(tuple(int(i) for i in ids), label)

    parts = {"train": [example() for _ in range(n)], "valid": [example() for _ in range(64)]}
    return Sentiment({**parts, "test": [example() for _ in range(200)]}, (1, 2))
