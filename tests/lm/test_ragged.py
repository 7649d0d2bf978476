"""Rows of any length in one pass: as `forward` computes them, and to the bit the same alone and in company."""

import pytest
import torch

from workbench import lm
from workbench.lm import packed
from workbench.lm.threads import compute_threads
from workbench.lm.tiny import tiny_weights

TOLERANCE = 1e-4  # fp32, absolute, plus the same share of the logit
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def close(a, b):
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def prompts(model, lengths):
    return [torch.tensor(lm.prompt(model, n, seed=n)) for n in lengths]


def filled(model, ids, more):
    """A cache that holds `ids`, with room for `more`."""
    cache = model.new_cache(len(ids) + more)
    model.forward(ids, cache, 0, logits=None)
    return cache


class Rows:
    """Rows of `lengths` tokens over contexts of their own; every pass starts from fresh forks."""

    def __init__(self, model, lengths, contexts):
        self.model, self.starts = model, list(contexts)
        self.ids = [own[:n] for own, n in zip(prompts(model, [120 + n for n in lengths]), lengths, strict=True)]
        self.bases = [filled(model, own, 200) for own in prompts(model, contexts)]

    def run(self, which, pad_to=None):
        """Logits [len(which), vocab], and the KV that the rows wrote."""
        caches = [self.bases[r].fork() for r in which]
        ids, starts = [self.ids[r] for r in which], [self.starts[r] for r in which]
        logits = self.model.forward_ragged(ids, caches, starts, pad_to=pad_to)
        return logits, [c.read(s, s + len(i)) for c, s, i in zip(caches, starts, ids, strict=True)]


LENGTHS, CONTEXTS = (1, 1, 96, 1, 2, 1, 7, 1), (40, 90, 30, 200, 64, 257, 100, 13)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def rows(request):
    return Rows(lm.load("tiny", request.param), LENGTHS, CONTEXTS)


def test_a_row_has_the_same_bits_alone_and_in_any_company(rows):
    """The row's logits and its KV; the company counts, decodes, and brings a prompt of 96 tokens."""
    alone = [rows.run([r]) for r in range(len(LENGTHS))]
    for company in ([0, 1], [3, 0, 5], [2, 0], [7, 6, 5, 4, 3, 2, 1, 0], [4, 6], [1, 3, 5, 7]):
        logits, kv = rows.run(company)
        for at, r in enumerate(company):
            assert torch.equal(logits[at], alone[r][0][0])
            assert torch.equal(kv[at], alone[r][1][0])
    assert not torch.equal(alone[0][0], alone[1][0])  # they are rows worth telling apart


def test_a_row_that_is_alone_has_the_bits_of_decoding(rows):
    """Logits of its last token, and its KV, against a pass for each token; in one block it has others (the control)."""
    r, model = 2, rows.model
    ids, start = rows.ids[r], rows.starts[r]
    cache = rows.bases[r].fork()
    for at, token in enumerate(ids, start):
        expected = model.forward_ragged([token[None]], [cache], [at])[0]
    written = cache.read(start, start + len(ids))

    def company(alone):
        caches = [rows.bases[n].fork() for n in (0, r, 6)]
        given = [rows.ids[n] for n in (0, r, 6)], caches, [rows.starts[n] for n in (0, r, 6)]
        return model.forward_ragged(*given, alone=alone)[1], caches[1].read(start, start + len(ids))

    logits, kv = company([False, True, False])
    assert torch.equal(logits, expected)
    assert torch.equal(kv, written)
    assert not torch.equal(company(())[1], written)


def test_compute_threads_are_as_before_afterwards():
    """Also where what ran inside failed, and inside one another."""
    before = torch.get_num_threads()
    with compute_threads(before + 2):
        assert torch.get_num_threads() == before + 2
        inside = compute_threads(1)(torch.get_num_threads)
        assert inside() == 1
        with pytest.raises(KeyError):
            compute_threads(1)({}.__getitem__)("nothing")
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


def test_padding_changes_no_bit(rows):
    for which in ([0], [0, 1, 3], [4, 6], list(range(len(LENGTHS)))):
        logits, kv = rows.run(which)
        padded, padded_kv = rows.run(which, pad_to=120)
        assert padded.shape == logits.shape
        assert torch.equal(padded, logits)
        assert all(torch.equal(a, b) for a, b in zip(padded_kv, kv, strict=True))
        assert torch.equal(rows.run(which, pad_to=1)[0], logits)  # less than there is: no padding


def test_a_row_depends_on_its_own_kv_and_on_no_other(rows):
    logits, _ = rows.run([0, 1])
    values = rows.bases[1].v[1]
    before = values.clone()
    values[:, :60] = values[:, :60].roll(1, dims=1)  # each token gets its neighbour's value
    try:
        changed, _ = rows.run([0, 1])
    finally:
        values.copy_(before)
    assert torch.equal(changed[0], logits[0])
    assert (changed[1] - logits[1]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("pad_to", [None, 16])
def test_rows_equal_forward(tiny, pad_to):
    rows = Rows(tiny, LENGTHS, CONTEXTS)
    together, kv = rows.run(range(len(LENGTHS)), pad_to)
    for r, (ids, base, start) in enumerate(zip(rows.ids, rows.bases, rows.starts, strict=True)):
        cache = base.fork()
        assert close(together[r], tiny.forward(ids, cache, start))
        assert close(kv[r], cache.read(start, start + len(ids)))
    assert not close(together[0], together[1])


def test_prompts_from_nothing_equal_forward(tiny):
    ids = prompts(tiny, [5, 90, 300])
    caches = [tiny.new_cache(300) for _ in ids]
    logits = tiny.forward_ragged(ids, caches, [0, 0, 0])
    assert [cache.length for cache in caches] == [5, 90, 300]
    for own, found in zip(ids, logits, strict=True):
        assert close(found, tiny.forward(own, tiny.new_cache(300), 0))


def test_a_batch_is_a_pass_of_one_token_each(tiny):
    rows = Rows(tiny, (1, 1, 1), (10, 200, 30))
    logits, _ = rows.run([0, 1, 2])
    caches = [base.fork() for base in rows.bases]
    assert torch.equal(tiny.forward_batch(torch.cat(rows.ids), caches, rows.starts), logits)


def test_long_contexts_take_the_other_route_in_bf16():
    """Beyond 4,096 keys a single bf16 query runs through two products: near fp32, and alone as in company."""
    exact, rounded = lm.load("tiny"), lm.load("tiny", "bfloat16")
    base = filled(exact, torch.tensor(lm.prompt(exact, 4200, seed=1)), 8)
    short = rounded.new_cache(4208)
    short.inject(0, base.read(0, 4200).bfloat16())
    ids, other = torch.tensor([65]), Rows(rounded, (1,), (20,))
    alone = rounded.forward_ragged([ids], [short.fork()], [4200])
    beside = rounded.forward_ragged([other.ids[0], ids], [other.bases[0].fork(), short.fork()], [20, 4200])
    expected = exact.forward(ids, base, 4200)
    assert torch.equal(alone[0], beside[1])
    assert (alone[0] - expected).abs().mean() < 0.1 * expected.std()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_onednn_the_plain_product_takes_over(dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    packed.available.cache_clear()
    try:
        assert not packed.available(DTYPES[dtype])
        plain = lm.load("tiny", dtype)
        fallback, _ = Rows(plain, (1, 1, 9), (40, 90, 30)).run([0, 1, 2])
        assert plain.packed is not None
    finally:
        packed.available.cache_clear()
    monkeypatch.undo()
    if dtype == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert not packed.available(torch.bfloat16)  # a processor with AVX2 alone
    else:
        assert packed.available(DTYPES[dtype])  # this machine packs: else the tests above show nothing
    usual, _ = Rows(lm.load("tiny", dtype), (1, 1, 9), (40, 90, 30)).run([0, 1, 2])
    bound = TOLERANCE if dtype == "float32" else 0.05
    assert torch.allclose(fallback, usual, rtol=bound, atol=bound)


def test_a_product_that_is_wrong_is_not_taken(monkeypatch):
    monkeypatch.setattr(packed, "_onednn", lambda weight: lambda x: torch.zeros(len(x), len(weight)))
    packed.available.cache_clear()
    try:
        assert not packed.available(torch.float32)
    finally:
        packed.available.cache_clear()
    assert not packed.available(torch.float16)  # never measured


@pytest.mark.parametrize("shape", [(576, 1536), (64, 1024), (2048, 4096)])
def test_wide_inputs_keep_a_rows_bits(shape):
    """The shapes on both sides of the bound above which one row alone would be summed in another order."""
    draw = torch.Generator().manual_seed(3)
    multiply = packed.product(torch.randn(shape, generator=draw))
    x = torch.randn(64, shape[1], generator=draw)
    whole = multiply(x)
    assert all(torch.equal(multiply(x[n : n + 1])[0], whole[n]) for n in range(0, 64, 9))
    assert all(torch.equal(multiply(x[:n]), whole[:n]) for n in (2, 3, 17, 33))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_does_not_need_the_bits_gets_the_plain_product_for_few_fp32_tokens(dtype, monkeypatch):
    monkeypatch.setattr(packed, "plain_rows", lambda asked: 3 if asked == torch.float32 else 0)  # as if measured so
    model = lm.load("tiny", dtype)
    taken = []
    made = packed.packed(model)
    at, made.at = made.at, lambda tokens, exact: taken.append(at(tokens, exact)) or taken[-1]
    rows = Rows(model, (1,) * 4, (40, 90, 30, 200))
    for n in (1, 3, 4):
        caches = [base.fork() for base in rows.bases[:n]]
        loose = model.forward_ragged(rows.ids[:n], caches, rows.starts[:n], exact=False)
        bound = TOLERANCE if dtype == "float32" else 0.0
        assert torch.allclose(loose, rows.run(range(n))[0], rtol=bound, atol=bound)
    plain = [products is made.plain for products in taken]
    assert plain == [dtype == "float32", False] * 2 + [False, False]


def test_the_weights_are_packed_when_first_wanted(tiny_again):
    assert tiny_again.packed is None
    tiny_again.forward(torch.tensor([1]), tiny_again.new_cache(4), 0)
    assert tiny_again.packed is None  # prefill alone needs no second copy
    tiny_again.forward_ragged([torch.tensor([1])], [tiny_again.new_cache(4)], [0])
    made = tiny_again.packed
    tiny_again.forward_ragged([torch.tensor([1])], [tiny_again.new_cache(4)], [0])
    assert made is not None
    assert tiny_again.packed is made


@pytest.fixture
def tiny_again(tiny):
    return lm.LM("again", tiny.config, tiny_weights(0), torch.float32, tiny.tokenizer, "same weights")


def test_bad_rows_are_named_before_any_work(tiny):
    token, cache, other = torch.tensor([1]), tiny.new_cache(8), tiny.new_cache(8)
    for ids, caches, starts, says in [
        ([], [], [], "at least one row"),
        ([token], [cache], [0, 1], "must be equal"),
        ([token, token], [cache, cache], [0, 0], "share one cache"),
        ([token, torch.tensor([512])], [cache, other], [0, 0], "0 to 511"),
        ([token, token], [cache, other], [0, 3], "before 3 holds KV"),
        ([token, torch.ones(9, dtype=torch.int64)], [cache, other], [0, 0], "do not fit a cache of 8"),
    ]:
        with pytest.raises(ValueError, match=says):
            tiny.forward_ragged(ids, caches, starts)
        assert cache.length == other.length == 0
    with pytest.raises(ValueError, match=r"\[b\] int64"):
        tiny.forward_batch(token[None], [cache], [0])


def test_a_fork_may_take_the_front_alone(tiny):
    ids = prompts(tiny, [60])[0]
    base = filled(tiny, ids, 4)
    front = base.fork(80, 40)
    assert (front.length, front.capacity) == (40, 80)
    assert torch.equal(front.read(0, 40), base.read(0, 40))
    front.k[0][:, 3] = 0
    assert base.k[0][:, 3].abs().sum() > 0  # nothing is shared
    with pytest.raises(ValueError, match="a fork of 61 tokens cannot be taken of a cache that has 60"):
        base.fork(80, 61)
    with pytest.raises(ValueError, match="does not fit a capacity of 30"):
        base.fork(30, 40)


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_real_models_rows_keep_their_bits(smollm2, dtype):
    """fp32, and bf16 where the processor has products for it; in fp32 also that the numbers are `forward`'s."""
    model = smollm2 if dtype == "float32" else lm.load("smollm2", dtype)
    exact = packed.exact_rows(model.dtype) > 100
    lengths, contexts = ((1, 96, 1, 1, 5), (100, 20, 257, 31, 64)) if exact else ((1, 8, 1, 1, 5), (20, 5, 33, 9, 12))
    rows = Rows(model, lengths, contexts)  # without products for the type a token takes a second
    alone = [rows.run([r]) for r in range(5)]
    for company in ([0, 2], [0, 2, 3], [4, 3, 2, 1, 0]):
        logits, kv = rows.run(company, pad_to=4)
        for at, r in enumerate(company):
            if exact:
                assert torch.equal(logits[at], alone[r][0][0])
                assert torch.equal(kv[at], alone[r][1][0])
            else:  # nothing is promised to the bit: the same up to what bf16 rounds
                assert (logits[at] - alone[r][0][0]).abs().max() < 1.5
    if dtype == "float32":
        for r in range(5):
            expected = model.forward(rows.ids[r], rows.bases[r].fork(), rows.starts[r])
            assert close(alone[r][0][0], expected)


def test_the_plain_product_is_taken_where_it_was_faster(monkeypatch):
    """Up to the first number of rows at which the packed one is; with equal bits asked for, never."""
    for plain, wins in (((1.0, 1.0, 1.0), 3), ((1.0, 9.0, 1.0), 1), ((9.0, 1.0, 1.0), 0)):
        monkeypatch.setattr(packed, "_timed", lambda _, rows, plain=plain: (plain[rows - 1], 2.0))
        packed.plain_rows.cache_clear()
        found = packed.Packed([], torch.randn(8, 8))
        assert [found.at(rows, False) is found.plain for rows in range(1, 5)] == [rows <= wins for rows in range(1, 5)]
        assert not any(found.at(rows, True) is found.plain for rows in range(1, 5))
    packed.plain_rows.cache_clear()
