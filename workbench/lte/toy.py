"""A model of random weights and a task that it learns in a second: which of two tokens a text holds. For tests.

The task is real and so is the training; only nobody wrote the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from workbench.lte.data import Example, Part
from workbench.lte.tasks import LanguageModelling, Sentiment

LAYERS, HIDDEN, INNER, VOCAB = 2, 32, 128, 64
FIRST_WORD = 10  # tokens below are marks: 1 and 2 are the answers, 5 and 6 decide


class ToyTokens:
    """Text to ids by bytes, folded into the words of the tiny vocabulary."""

    def encode(self, text: str) -> list[int]:
        """One id for each byte of UTF-8, 10 to 63."""
        return [FIRST_WORD + b % (VOCAB - FIRST_WORD) for b in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """Ids as numbers."""
        return " ".join(map(str, ids))


def toy_model(seed: int) -> Any:
    """A Llama of Hugging Face with two layers and random weights, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    try:
        made = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=HIDDEN,
                intermediate_size=INNER,
                num_hidden_layers=LAYERS,
                num_attention_heads=2,
                num_key_value_heads=1,
                vocab_size=VOCAB,
                initializer_range=0.15,
                tie_word_embeddings=True,
                attn_implementation="eager",
            )
        )
    finally:
        torch.random.set_rng_state(state)
    return made.eval()


def toy_task(seed: int) -> Sentiment:
    """Texts of 4 to 11 tokens; the label says whether token 5 or token 6 is among them."""
    draw = np.random.default_rng(seed)

    def example() -> Example:
        label = int(draw.integers(2))
        ids = draw.integers(FIRST_WORD, VOCAB, size=int(draw.integers(4, 12)))
        ids[draw.integers(len(ids))] = 5 + label
        return Example(tuple(int(i) for i in ids), label)

    sizes: dict[Part, int] = {"train": 400, "valid": 64, "test": 200}
    return Sentiment({part: [example() for _ in range(n)] for part, n in sizes.items()}, (1, 2))


def toy_language(task: Sentiment) -> LanguageModelling:
    """The same texts, to be predicted word by word: chance, so a perplexity near the vocabulary's size."""
    return LanguageModelling(task.parts)
