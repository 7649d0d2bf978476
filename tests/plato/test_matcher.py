"""Grammars on both tokenizers: what is allowed, what is forced, scripts, and constraints that cannot be met."""

import pytest
import torch

from workbench import lm
from workbench.lm.tokenizer import ByteTokenizer, FileTokenizer
from workbench.plato import matcher as module
from workbench.plato.engine import Constraint
from workbench.plato.matcher import ConstraintError, Matcher

LARK = r"""start: "1: " ASK "\n" "2" (" <- 1")? ": " ASK "\n\n"
ASK: /[^ \n][^\n]{2,30}/
"""
SCRIPT = "1: What is it?\n2 <- 1: Why so, Zoë?\n\n"
VOCAB = 512


def greedy(logits):
    return int(logits.argmax())


def noise(seed=0, vocab=VOCAB):
    draw = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(vocab, generator=draw)


def play(matcher, logits=None):
    """(tokens, how many of them were forced)."""
    ids, free = [], 0
    while not matcher.ended:
        forced = matcher.forced()
        ids, free = ids + forced, free + len(forced)
        if not matcher.ended:
            ids.append(matcher.pick(next(logits) if logits else None, greedy))
        assert len(ids) < 500
    return ids, free


@pytest.fixture(params=["bytes", pytest.param("smollm2", marks=pytest.mark.model)])
def tokenizer(request):
    return ByteTokenizer() if request.param == "bytes" else FileTokenizer(lm.path("smollm2"))


def test_what_is_said_is_of_the_grammar(tokenizer):
    vocab = VOCAB if isinstance(tokenizer, ByteTokenizer) else 49_200  # more than the tokenizer has: padded models
    for seed in range(5):
        ids, free = play(Matcher(tokenizer, Constraint(LARK)), noise(seed, vocab))
        text = tokenizer.decode(ids)
        assert text.startswith("1: ")
        assert text.endswith("\n\n")
        assert text.count("\n") == 3
        assert free > 3
        play(Matcher(tokenizer, Constraint(LARK, script=text)))  # as another way through the same grammar


def test_without_a_grammar_noise_says_something_else():
    """The control: the mask, not the logits, made the text above."""
    text = ByteTokenizer().decode([greedy(x) for _, x in zip(range(40), noise(), strict=False)])
    assert not text.startswith("1: ")


def test_forced_tokens_are_free_only_where_asked_for(tokenizer):
    ids, free = play(Matcher(tokenizer, Constraint(LARK, script=SCRIPT)))
    assert ids == tokenizer.encode(SCRIPT)
    assert free > 3
    same, none = play(Matcher(tokenizer, Constraint(LARK, forced=False, script=SCRIPT)))
    assert same == ids
    assert none == 0


def test_forced_tokens_have_no_alternative(tokenizer):
    """Every forced token is the only one that the mask would have let through, or canonical for the only text."""
    import llguidance

    ids, _ = play(Matcher(tokenizer, Constraint(LARK, script=SCRIPT)))
    forced = llguidance.LLMatcher(module._setup(tokenizer), LARK)
    followed = Matcher(tokenizer, Constraint(LARK, script=SCRIPT))
    at, seen = 0, 0
    while not followed.ended:
        for token in followed.forced():
            text = tokenizer.decode([token])
            only = forced.compute_ff_bytes().decode()
            assert only.startswith(text)
            assert forced.consume_token(token)
            at, seen = at + 1, seen + 1
        if not followed.ended:
            assert followed.pick(None, greedy) == ids[at]
            assert forced.consume_token(ids[at])
            at += 1
    assert seen > 3


def test_a_stop_token_ends_where_the_grammar_may():
    logits = torch.zeros(VOCAB)
    logits[257] = 9.0
    matcher = Matcher(ByteTokenizer(), Constraint("start: /a*/"))
    assert matcher.stop_ids == {257}
    assert matcher.pick(logits, greedy) == 257
    assert matcher.ended
    must = Matcher(ByteTokenizer(), Constraint("start: /aa*/"))
    assert must.pick(logits, greedy) == ord("a")  # the control: there it may not end yet
    assert not must.ended


def test_an_empty_text_ends_without_a_token():
    matcher = Matcher(ByteTokenizer(), Constraint('start: ""'))
    assert matcher.forced() == []
    assert matcher.ended


@pytest.mark.model
def test_the_stop_token_is_the_answers_not_the_documents():
    tokenizer = FileTokenizer(lm.path("smollm2"))
    assert tokenizer.decode(list(Matcher(tokenizer, Constraint("start: /a*/")).stop_ids)) == "<|im_end|>"


@pytest.mark.parametrize(
    ("lark", "script", "said"),
    [
        ('start: "a', "", "cannot be used"),
        ("start: nobody", "", "cannot be used"),
        ("start: X\nX: /a/ & /b/", "", "no way on|admits no text"),
        ('start: "ab"', "ac", "after 'a' comes 'c'"),
        ('start: "ab"', "abc", "after 'ab' comes 'c'"),
        ('start: "ab"', "a", "ends early"),
    ],
)
def test_a_constraint_that_cannot_be_met_is_named_at_once(lark, script, said):
    with pytest.raises(ConstraintError, match=said):
        Matcher(ByteTokenizer(), Constraint(lark, script=script))


def test_wrong_use_is_named():
    matcher = Matcher(ByteTokenizer(), Constraint('start: "a" | "b"'))
    with pytest.raises(ConstraintError, match="only a script"):
        matcher.pick(None, greedy)
    with pytest.raises(ConstraintError, match="does not allow"):
        matcher.pick(torch.zeros(VOCAB), lambda logits: ord("c"))
    with pytest.raises(ConstraintError, match="does not allow"):
        matcher.pick(torch.zeros(VOCAB), lambda logits: -1)
    with pytest.raises(ConstraintError, match="own tokenizer"):
        matcher.pick(torch.zeros(50), greedy)
    assert matcher.pick(torch.zeros(VOCAB), greedy) in (ord("a"), ord("b"))  # none of that moved it
    with pytest.raises(ConstraintError, match="nothing may follow"):
        matcher.pick(torch.zeros(VOCAB), greedy)

    class Other:
        def encode(self, text):
            return []

    with pytest.raises(ConstraintError, match=r"tokenizer\.json"):
        Matcher(Other(), Constraint('start: "a"'))


def test_the_tokenizer_is_prepared_once_a_process():
    assert module._setup(ByteTokenizer()) is module._setup(ByteTokenizer())
