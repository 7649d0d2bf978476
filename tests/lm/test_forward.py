"""The forward against transformers' own, and against itself: chunked, injected, batched, stopped."""

import time
from dataclasses import replace

import pytest
import torch
import transformers

from workbench import lm
from workbench.lm.tiny import CONFIG, tiny_weights

TOLERANCE = 1e-4  # fp32, absolute, plus the same share of the logit


def close(a, b):
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def chunked(model, ids, sizes):
    """Prefill in chunks of the given sizes: the cache, and the logits of the last token."""
    cache, start, logits = model.new_cache(len(ids)), 0, None
    for size in sizes:
        logits = model.forward(ids[start : start + size], cache, start)
        start += size
    assert start == len(ids)
    return cache, logits


def reference(weights, ids):
    shape = {key: value for key, value in CONFIG.items() if key != "model_type"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, attn_implementation="eager")).eval()
    tied = {"lm_head.weight": weights["model.embed_tokens.weight"]}
    model.load_state_dict(weights | tied)
    with torch.no_grad():
        return model(ids[None]).logits[0]


def test_logits_equal_transformers(tiny, prompt_ids):
    expected = reference(tiny_weights(0), prompt_ids)
    logits = tiny.forward(prompt_ids, tiny.new_cache(300), 0, logits="all")
    assert expected.std() > 0.5  # they are logits worth comparing
    assert close(logits, expected)


def test_a_slightly_different_model_does_not_equal_it(tiny, prompt_ids):
    weights = tiny_weights(0)
    weights["model.layers.1.self_attn.k_proj.weight"] *= 1.01
    logits = tiny.forward(prompt_ids, tiny.new_cache(300), 0, logits="all")
    assert not close(logits, reference(weights, prompt_ids))


@pytest.mark.parametrize("sizes", [[100, 100, 100], [1, 298, 1], [37, 163, 100], [128, 128, 44], [299, 1]])
def test_chunked_prefill_equals_whole(tiny, prompt_ids, sizes):
    whole, expected = chunked(tiny, prompt_ids, [300])
    cache, logits = chunked(tiny, prompt_ids, sizes)
    assert close(logits, expected)
    assert close(cache.read(0, 300), whole.read(0, 300))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_chunking_gives_the_same_bits(dtype, prompt_ids):
    model = lm.load("tiny", dtype)
    first, logits = chunked(model, prompt_ids, [128, 128, 44])
    again, logits_again = chunked(model, prompt_ids, [128, 128, 44])
    assert torch.equal(logits, logits_again)
    assert torch.equal(first.read(0, 300), again.read(0, 300))


@pytest.mark.parametrize("logits", [None, "last", "all"])
def test_kv_does_not_depend_on_which_logits_are_asked_for(tiny, prompt_ids, logits):
    cache = tiny.new_cache(300)
    out = tiny.forward(prompt_ids, cache, 0, logits=logits)
    expected = tiny.new_cache(300)
    whole = tiny.forward(prompt_ids, expected, 0, logits="all")
    assert torch.equal(cache.read(0, 300), expected.read(0, 300))
    if logits is None:
        assert out is None
    else:
        assert close(out, whole[-1] if logits == "last" else whole)


@pytest.mark.parametrize("past", [256, 4096 + 5])
def test_bf16_is_near_fp32(past):
    """Both block sizes of the bf16 route; the bound is a tenth of the logits' own spread."""
    exact, rounded = lm.load("tiny"), lm.load("tiny", "bfloat16")
    ids = torch.tensor(lm.prompt(exact, past + 150, seed=1))
    a, b = exact.new_cache(len(ids)), rounded.new_cache(len(ids))
    exact.forward(ids[:past], a, 0, logits=None)
    b.inject(0, a.read(0, past).bfloat16())
    expected = exact.forward(ids[past:], a, past, logits="all")
    logits = rounded.forward(ids[past:], b, past, logits="all")
    assert (logits - expected).abs().mean() < 0.1 * expected.std()
    b.mark(0, past, filled=True)
    b.v[0][:, : past // 2] = 0  # the bound would notice half of one layer's past missing
    blind = rounded.forward(ids[past:], b, past, logits="all")
    assert (blind - expected).abs().mean() > 0.1 * expected.std()


def test_injected_kv_gives_the_same_bits_and_corrupted_kv_does_not(tiny, prompt_ids):
    cache, logits = chunked(tiny, prompt_ids, [200, 100])
    kv = cache.read(0, 200)
    injected = tiny.new_cache(300)
    injected.inject(120, kv[:, :, :, 120:].clone())
    injected.inject(0, kv[:, :, :, :120].clone())
    assert torch.equal(tiny.forward(prompt_ids[200:], injected, 200), logits)

    wrong = kv.clone()
    wrong[:, :, :, 50] += 1.0  # one token of 200
    corrupted = tiny.new_cache(300)
    corrupted.inject(0, wrong)
    changed = (tiny.forward(prompt_ids[200:], corrupted, 200) - logits).abs().max()
    assert changed > 1000 * TOLERANCE


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_layers_kv_matters(tiny, prompt_ids, layer):
    cache, logits = chunked(tiny, prompt_ids, [299, 1])
    cache.v[layer][:, :299] = cache.v[layer][:, :299].roll(1, dims=1)  # each token gets its neighbour's value
    assert (tiny.forward(prompt_ids[299:], cache, 299) - logits).abs().max() > 100 * TOLERANCE


def test_a_batch_gives_each_sequence_its_own_logits(tiny):
    ids = [torch.tensor(lm.prompt(tiny, n, seed=n)) for n in (5, 90, 300)]
    alone, caches, positions = [], [], []
    for own in ids:
        cache, _ = chunked(tiny, own, [len(own)])
        caches.append(cache.fork(len(own) + 1))
        positions.append(len(own))
        alone.append(tiny.forward(own[:1], cache.fork(len(own) + 1), len(own)))
    tokens = torch.stack([own[0] for own in ids])
    together = tiny.forward_batch(tokens, caches, positions)
    assert close(together, torch.stack(alone))
    assert [cache.length for cache in caches] == [6, 91, 301]
    assert not close(together[0], together[1])


def test_stop_ends_a_forward_before_its_next_layer(tiny, prompt_ids):
    cache, asked = tiny.new_cache(300), []

    def stop():
        asked.append(time.perf_counter())
        return len(asked) == 2

    with pytest.raises(lm.Stopped, match="before layer 1 of 3"):
        tiny.forward(prompt_ids, cache, 0, stop=stop)
    assert len(asked) == 2
    assert cache.length == 0  # half-written positions are not taken for KV
    assert close(tiny.forward(prompt_ids, cache, 0), chunked(tiny, prompt_ids, [300])[1])


@pytest.mark.parametrize(
    ("ids", "start", "says"),
    [
        (torch.zeros(0, dtype=torch.int64), 0, r"n >= 1"),
        (torch.zeros(3), 0, "int64"),
        (torch.zeros(2, 2, dtype=torch.int64), 0, r"\[n\] int64"),
        (torch.tensor([512]), 0, "0 to 511"),
        (torch.tensor([-1]), 0, "0 to 511"),
        (torch.tensor([1]), 8, "do not fit a cache of 8"),
        (torch.tensor([1]), -1, "do not fit"),
        (torch.tensor([1]), 4, "before 4 holds KV"),
    ],
)
def test_bad_input_is_named(tiny, ids, start, says):
    with pytest.raises(ValueError, match=says):
        tiny.forward(ids, tiny.new_cache(8), start)


def test_bad_batches_and_caches_are_named(tiny):
    cache = tiny.new_cache(8)
    with pytest.raises(ValueError, match="share one cache"):
        tiny.forward_batch(torch.tensor([1, 2]), [cache, cache], [0, 0])
    with pytest.raises(ValueError, match="must be equal"):
        tiny.forward_batch(torch.tensor([1, 2]), [cache], [0, 0])
    with pytest.raises(ValueError, match="not made for"):
        tiny.forward(torch.tensor([1]), lm.load("tiny", "bfloat16").new_cache(8), 0)
    with pytest.raises(ValueError, match="16384 positions"):
        tiny.new_cache(16385)


def test_positions_that_the_model_does_not_have_are_refused(tiny):
    """Past them the table of rotations ends: one token too far would be turned by nothing, or by another's angle."""
    short = lm.LM(
        "short", replace(tiny.config, max_position=40), tiny_weights(0), torch.float32, tiny.tokenizer, "same weights"
    )
    ids = torch.ones(30, dtype=torch.int64)
    longer = tiny.new_cache(60)  # another model's cache, that would hold them
    short.forward(ids, longer, 0)
    short.forward(ids[:10], longer, 30)
    with pytest.raises(ValueError, match=r"short has 40 positions: 40\.\.41 do not fit"):
        short.forward(ids[:1], longer, 40)
    with pytest.raises(ValueError, match="do not fit"):
        short.forward_batch(ids[:1], [longer], [40])
    assert tiny.forward(ids[:1], longer, 40) is not None


def test_fingerprints_tell_weights_and_dtypes_apart(tiny):
    others = [lm.load("tiny", seed=1), lm.load("tiny", "bfloat16")]
    assert lm.load("tiny").fingerprint == tiny.fingerprint
    assert len({tiny.fingerprint, *(other.fingerprint for other in others)}) == 3
    assert tiny.kv_bytes_per_token == tiny.new_cache(10).nbytes // 10


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="there are smollm2 and tiny"):
        lm.load("gpt")
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        lm.load("tiny", "float16")
