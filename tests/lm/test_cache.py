"""The cache as a record of positions: what is copied, what is refused, and that loading beside computing is safe."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.lm.cache import KVCache
from workbench.lm.rope import Rope

LAYERS, KV_HEADS, DIM, CAPACITY = 2, 2, 8, 24
ROPE = Rope(DIM, 10000.0, 256)


def new_cache(capacity=CAPACITY, dtype=torch.float32):
    return KVCache(LAYERS, KV_HEADS, capacity, ROPE, dtype)


def kv(tokens, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, 2, KV_HEADS, tokens, DIM, generator=draw).to(dtype)


@given(st.lists(st.tuples(st.integers(0, CAPACITY - 1), st.integers(1, CAPACITY)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_injections_land_where_they_should_and_nowhere_else(spans):
    cache, shadow, filled = new_cache(), torch.zeros(LAYERS, 2, KV_HEADS, CAPACITY, DIM), set()
    for i, (start, tokens) in enumerate(spans):
        part = kv(tokens, seed=i)
        if start + tokens > CAPACITY:
            with pytest.raises(ValueError, match="no such span"):
                cache.inject(start, part)
            continue
        cache.inject(start, part)
        shadow[:, :, :, start : start + tokens] = part
        filled |= set(range(start, start + tokens))
    assert cache.length == max(filled, default=-1) + 1
    for layer in range(LAYERS):
        assert torch.equal(cache.k[layer], shadow[layer, 0])
        assert torch.equal(cache.v[layer], shadow[layer, 1])
    for start in range(CAPACITY):
        assert cache.holds(start, start + 1) == (start in filled)
        if start in filled:
            assert torch.equal(cache.read(start, start + 1), shadow[:, :, :, start : start + 1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (kv(3)[:1], "does not fit this cache"),
        (kv(3)[:, :1], "does not fit this cache"),
        (kv(3)[..., :4], "does not fit this cache"),
        (kv(3)[0], "does not fit this cache"),
        (kv(3)[:, :, :, :0], "tokens >= 1"),
        (kv(3, dtype=torch.bfloat16), "bfloat16"),
        (kv(CAPACITY + 1), "no such span"),
    ],
)
def test_injecting_what_does_not_fit_changes_nothing(wrong, says):
    cache = new_cache()
    with pytest.raises(ValueError, match=says):
        cache.inject(0, wrong)
    assert cache.length == 0
    assert not any(t.any() for t in cache.k)


def test_reading_needs_a_filled_span():
    cache = new_cache()
    cache.inject(4, kv(4))
    with pytest.raises(ValueError, match="position 3 holds no KV"):
        cache.read(3, 6)
    with pytest.raises(ValueError, match="position 8 holds no KV"):
        cache.read(5, 9)
    for start, end in ((5, 5), (6, 5), (-1, 3), (5, CAPACITY + 1)):
        with pytest.raises(ValueError, match="no such span"):
            cache.read(start, end)
    copied = cache.read(4, 8)
    assert copied.is_contiguous()
    copied.zero_()
    assert cache.k[0][:, 4:8].any()  # a copy, not a view


def test_a_fork_goes_its_own_way():
    cache = new_cache()
    cache.inject(0, kv(10))
    twin = cache.fork(12)
    twin.inject(10, kv(2, seed=1))
    twin.k[0][:, 0] = 7
    assert (cache.length, twin.length, twin.capacity) == (10, 12, 12)
    assert torch.equal(cache.read(0, 10), kv(10))
    assert torch.equal(twin.read(1, 10), kv(10)[:, :, :, 1:])
    with pytest.raises(ValueError, match="does not fit a capacity of 9"):
        cache.fork(9)


def test_no_cache_is_longer_than_the_models_positions():
    """Beyond them there is no rotation: a slice of the table would come out short, or broadcast without a word."""
    longest = new_cache(ROPE.max_position)
    assert longest.fork().capacity == ROPE.max_position
    for make in (lambda: new_cache(ROPE.max_position + 1), lambda: longest.fork(ROPE.max_position + 1)):
        with pytest.raises(ValueError, match="1 to 256 tokens, the model's positions, not 257"):
            make()
    longest.inject(0, kv(ROPE.max_position - 3))
    tail = new_cache()
    tail.inject(0, kv(4))
    assert longest.concatenate(tail, start=1).length == ROPE.max_position
    with pytest.raises(ValueError, match="257 tokens do not fit the model's 256 positions"):
        longest.concatenate(tail)


def test_a_fork_keeps_the_holes():
    cache = new_cache()
    cache.inject(6, kv(2))
    assert not cache.fork().holds(0, 1)
    assert cache.fork().holds(6, 8)


def test_crop_forgets():
    cache = new_cache()
    cache.inject(0, kv(10))
    cache.crop(6)
    assert cache.length == 6
    assert not cache.holds(5, 7)
    cache.crop(20)
    assert cache.length == 6
    for length in (-1, CAPACITY + 1):
        with pytest.raises(ValueError, match="cannot crop"):
            cache.crop(length)


@given(st.integers(0, 12), st.integers(0, 12), st.data())
@settings(max_examples=40, deadline=None)
def test_concatenate_keeps_every_value_and_turns_keys_to_their_new_place(mine, theirs, data):
    start = data.draw(st.integers(0, theirs))
    first, second = new_cache(), new_cache()
    if mine:
        first.inject(0, kv(mine))
    if theirs:
        second.inject(0, kv(theirs, seed=1))
    joined = first.concatenate(second, start)
    total = mine + theirs - start
    assert joined.length == total
    if mine:
        assert torch.equal(joined.read(0, mine), kv(mine))
    if theirs - start:
        tail, appended = joined.read(mine, total), second.read(start, theirs)
        assert torch.equal(tail[:, 1], appended[:, 1])
        back = ROPE.shift(tail[:, 0], start - mine)
        assert torch.allclose(back, appended[:, 0], atol=1e-5)
        assert torch.equal(tail[:, 0], appended[:, 0]) == (start == mine)  # moved keys do change


def test_moved_keys_are_those_of_the_new_place(tiny, prompt_ids):
    """Layer 0 sees only token and position, so there moved KV must equal KV computed in the new place."""
    there, here = tiny.new_cache(100), tiny.new_cache(100)
    tiny.forward(prompt_ids[40:60], there, 0)
    tiny.forward(prompt_ids[:60], here, 0)
    prefix = here.fork()
    prefix.crop(40)
    joined = prefix.concatenate(there)
    assert torch.allclose(joined.k[0][:, :60], here.k[0][:, :60], atol=1e-4)
    assert torch.allclose(joined.v[0][:, :60], here.v[0][:, :60], atol=1e-4)
    assert not torch.allclose(there.k[0][:, :20], here.k[0][:, 40:60], atol=1e-2)


def test_concatenate_refuses_strangers():
    cache, other = new_cache(), new_cache(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="bfloat16"):
        cache.concatenate(other)
    with pytest.raises(ValueError, match="two different models"):
        cache.concatenate(KVCache(LAYERS + 1, KV_HEADS, 4, ROPE, torch.float32))
    with pytest.raises(ValueError, match="cannot append from position 1"):
        cache.concatenate(new_cache(), 1)
    cache.inject(2, kv(2))
    with pytest.raises(ValueError, match="position 0 holds no KV"):
        cache.concatenate(new_cache())


def test_loading_the_end_while_the_front_is_computed(tiny, prompt_ids):
    """What CAKE does: a loader injects from the back while the forward fills from the front, in one cache."""
    whole = tiny.new_cache(300)
    for start in range(0, 300, 20):
        expected = tiny.forward(prompt_ids[start : start + 20], whole, start)
    stored = whole.read(0, 300)
    for _ in range(3):
        cache, failed = tiny.new_cache(300), []
        addresses = [t.data_ptr() for t in (*cache.k, *cache.v)]

        def load(cache=cache, failed=failed):
            try:
                for start in range(270, 140, -10):
                    cache.inject(start, stored[:, :, :, start : start + 10])
            except ValueError as error:
                failed.append(error)

        loader = threading.Thread(target=load)
        loader.start()
        for start in range(0, 140, 20):
            tiny.forward(prompt_ids[start : start + 20], cache, start, logits=None)
        loader.join(timeout=30)
        assert not loader.is_alive()
        assert not failed
        cache.inject(140, stored[:, :, :, 140:150])
        assert torch.equal(cache.read(0, 280), stored[:, :, :, :280])
        assert torch.equal(tiny.forward(prompt_ids[280:], cache, 280), expected)
        assert addresses == [t.data_ptr() for t in (*cache.k, *cache.v)]


def test_an_empty_cache_needs_room():
    with pytest.raises(ValueError, match="holds 1 to 256 tokens"):
        new_cache(0)
