"""Prompts have the asked length, differ by seed and can be told again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import lm


@given(tokens=st.integers(1, 2000), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_exactly_as_many_tokens_as_asked_for(tiny, tokens, seed):
    ids = lm.prompt(tiny, tokens, seed)
    assert len(ids) == tokens
    assert ids == lm.prompt(tiny, tokens, seed)


def test_seeds_differ_early(tiny):
    starts = {tuple(lm.prompt(tiny, 100, seed)[:40]) for seed in range(20)}
    assert len(starts) == 20


def test_the_question_is_answered_in_the_text(tiny):
    text = tiny.tokenizer.decode(lm.prompt(tiny, 4000, 1))
    warehouse = text.split("What colour is the key of the ")[1].split(" warehouse")[0]
    assert f"the key of the {warehouse} warehouse is " in text
    assert text.endswith("Answer: The key is")


@pytest.mark.parametrize("tokens", [0, 16385])
def test_impossible_lengths_are_named(tiny, tokens):
    with pytest.raises(ValueError, match="1 to 16384 tokens"):
        lm.prompt(tiny, tokens)


@given(st.text(max_size=40))
def test_the_toy_tokenizer_keeps_any_text(tiny, text):
    text = text.encode(errors="ignore").decode()
    assert tiny.tokenizer.decode(tiny.tokenizer.encode(text)) == text
