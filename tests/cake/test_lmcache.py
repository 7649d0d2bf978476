"""LMCache as a store: the same bits back from each tier, and a named error for what is not there or not right."""

import pytest
import torch

pytest.importorskip("lmcache", reason="LMCache is not installed: make setup")

from workbench import lm
from workbench.cake import lmcache
from workbench.cake.costs import Costs
from workbench.cake.engine import Embedded, save_prompt
from workbench.cake.lmcache import open_lmcache
from workbench.cake.policy import Policy
from workbench.cake.store import Layout, StoreError

pytestmark = [pytest.mark.lmcache, pytest.mark.timeout(240)]

LAYOUT = Layout(3, 2, 64, 32, "bfloat16")
IDS = list(range(1000))


@pytest.fixture(scope="module", params=["ram", "disk", "server"])
def store(request, tmp_path_factory):
    made = open_lmcache(request.param, LAYOUT, "model a", tmp_path_factory.mktemp(request.param))
    yield made
    made.close()


def grain(seed):
    return torch.randn(LAYOUT.shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def test_what_was_written_is_read_to_the_bit(store):
    prompt = store.prompt(IDS)
    for i in range(4):
        prompt.write(i, grain(i))
    again = store.prompt(IDS)
    assert again.stored == [True] * 4 + [False] * 11
    for i in (3, 1, 2, 0):  # from the back, one by one
        assert torch.equal(again.read(i), grain(i))
    assert not torch.equal(again.read(1), grain(0))


def test_a_prompt_that_diverges_inside_a_grain_matches_what_is_before(store):
    store.prompt(IDS).write(0, grain(0))
    store.prompt(IDS).write(1, grain(1))
    other = IDS[:100] + [7] * 900
    assert store.prompt(other).stored[:3] == [True, False, False]


def test_another_model_finds_nothing(store, tmp_path):
    store.prompt(IDS).write(0, grain(0))
    if store.tier == "server":
        other = open_lmcache("server", LAYOUT, "model b", tmp_path, server=store.server.address)
        same = lmcache.LMCacheStore("server", LAYOUT, "model a", tmp_path, store.server.address, None)
        assert same.prompt(IDS).stored[0]  # the control: the same model does, in another engine, from the server
        assert torch.equal(same.prompt(IDS).read(0), grain(0))
        same.close()
    else:
        other = open_lmcache(store.tier, LAYOUT, "model b", tmp_path)
    assert not any(other.prompt(IDS).stored)
    other.close()


def test_a_grain_can_be_replaced(store):
    prompt = store.prompt(IDS)
    prompt.write(5, grain(5))
    prompt.write(5, grain(6))
    assert torch.equal(store.prompt(IDS).read(5), grain(6))


def test_a_missing_grain_is_named(store):
    with pytest.raises(StoreError, match="has no grain 12") as error:
        store.prompt(IDS).read(12)
    assert error.value.cause == "missing"


def test_kv_that_changed_in_the_tier_is_refused(store, tmp_path):
    """LMCache itself would give it out: the checksum is ours."""
    prompt = store.prompt(IDS)
    prompt.write(2, grain(2))
    if store.tier == "disk":
        for path in store._folder.rglob("*.pt"):
            content = bytearray(path.read_bytes())
            content[100] ^= 1
            path.write_bytes(content)
    elif store.tier == "ram":
        found = store.engine.storage_manager.get(store.key(prompt.keys[2]))
        found.tensor.flatten()[100] += 1
        found.ref_count_down()
    else:
        write_unsealed(store, tmp_path, 2, grain(2))  # another writer, whose bytes went wrong on their way
    with pytest.raises(StoreError) as error:
        prompt.read(2)
    assert error.value.cause == "corrupt"
    prompt.write(2, grain(2))
    assert torch.equal(prompt.read(2), grain(2))


def write_unsealed(store, folder, at, kv):
    """What another engine would leave on the same server when a bit of a grain flips after it was sealed."""
    other = lmcache.LMCacheStore("server", LAYOUT, "model a", folder, store.server.address, None)
    seal = other._connector.from_gpu

    def flips(memory_obj, start, end, **kwargs):
        seal(memory_obj, start, end, **kwargs)
        lmcache._bytes(other._connector._view(memory_obj)[1, 2, 5])[0] ^= 1

    other._connector.from_gpu = flips
    other.prompt(IDS).write(at, kv)
    other.close()


def test_kv_of_another_shape_is_refused(store):
    with pytest.raises(ValueError, match="does not fit the store"):
        store.prompt(IDS).write(0, torch.zeros(1))


def test_one_store_a_process(store, tmp_path):
    """The scheduler's side and the worker's see the same LMCache, whose index is its own."""
    other = open_lmcache(store.tier, LAYOUT, "model a", tmp_path)
    assert other is store
    other.close()
    store.prompt(IDS).write(0, grain(0))  # still open


def test_a_server_that_is_gone_is_a_miss_or_a_named_error(tmp_path):
    store = open_lmcache("server", LAYOUT, "gone", tmp_path)
    prompt = store.prompt(IDS)
    prompt.write(0, grain(0))
    lmcache.leash.end(store.server.process)
    with pytest.raises(StoreError):
        prompt.read(0)
    assert not any(store.prompt(IDS[:128]).stored)
    store.close()


def test_an_unknown_tier_is_named(tmp_path):
    with pytest.raises(ValueError, match="not 'tape'"):
        open_lmcache("tape", LAYOUT, "x", tmp_path)


@pytest.mark.parametrize("tier", ["ram", "disk", "server"])
def test_the_embedded_engine_restores_from_it(tier, tmp_path):
    torch.set_num_threads(1)
    model = lm.load("tiny", dtype="float32")
    ids = lm.prompt(model, 1601, 0)
    c = model.config
    store = open_lmcache(tier, Layout(c.layers, c.kv_heads, 64, c.head_dim, "float32"), model.fingerprint, tmp_path)
    try:
        costs = Costs(1e-3, 1e-4, 1e-9, 1e-5)
        alone = Embedded(model, store).restore([ids], Policy(costs, 256, 1, "compute"))[0]
        assert save_prompt(store, ids, alone.cache) == 25
        both = Embedded(model, store, 20.0).restore([ids], Policy(costs, 256, 1, "cake"))[0]
        assert both.loaded_tokens > 0
        assert float((both.logits - alone.logits).abs().max()) <= 1e-4
        prompt = store.prompt(ids)
        prompt.write(24, torch.randn_like(prompt.read(24)))  # the control: noise with a right checksum shows
        noisy = Embedded(model, store).restore([ids], Policy(costs, 256, 1, "load"))[0]
        assert float((noisy.logits - alone.logits).abs().max()) > 1e-2
    finally:
        store.close()
