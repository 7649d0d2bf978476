"""The embedded engine on real forwards and real files: equal to computing alone, whatever happens to the store."""

import shutil
import threading

import pytest
import torch

from workbench import lm
from workbench.cake.costs import Costs
from workbench.cake.engine import Embedded, Stalled, Stopped, save_prompt
from workbench.cake.policy import Policy, Wait
from workbench.cake.store import DiskStore, Layout, StoreError

GRAIN, STEP, TOKENS = 64, 256, 1601
COSTS = Costs(1e-3, 1e-5, 1e-9, 1e-5)
SLOW_COMPUTE = Costs(1e-3, 1e-4, 1e-9, 1e-5)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return lm.load("tiny", dtype="float32")


@pytest.fixture(scope="module")
def ids(model):
    return lm.prompt(model, TOKENS, 0)


def layout_of(model):
    c = model.config
    return Layout(c.layers, c.kv_heads, GRAIN, c.head_dim, "float32")


@pytest.fixture(scope="module")
def filled(model, ids, tmp_path_factory):
    """A store that holds the prompt, and compute-only's logits and KV."""
    store = DiskStore(tmp_path_factory.mktemp("kv"), layout_of(model), model.fingerprint)
    alone = Embedded(model, store).restore([ids], Policy(COSTS, STEP, 1, "compute"))[0]
    assert alone.loaded_tokens == 0
    assert save_prompt(store, ids, alone.cache) == TOKENS // GRAIN
    return store, alone


@pytest.fixture
def store(filled, model, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(filled[0].folder, tmp_path / "kv")
    return DiskStore(tmp_path / "kv", layout_of(model), model.fingerprint)


def restore(model, store, ids, mode="cake", costs=SLOW_COMPUTE, link=20.0, **kw):
    return Embedded(model, store, link).restore([ids], Policy(costs, STEP, 1, mode, **kw))[0]


def same(restored, alone):
    return float((restored.logits - alone.logits).abs().max()) <= 1e-4


@pytest.mark.parametrize("mode", ["cake", "load", "compute"])
def test_equal_to_compute_only(model, store, ids, filled, mode):
    got = restore(model, store, ids, mode)
    assert same(got, filled[1]) and not got.failures
    if mode != "compute":
        assert got.loaded_tokens > 0
    kv, want = got.cache.read(0, TOKENS), filled[1].cache.read(0, TOKENS)
    assert torch.allclose(kv, want, atol=1e-5)


def test_bits_are_equal_where_the_order_of_arithmetic_is(model, store, ids, filled, tmp_path):
    """Beside a full store every mode ends a pass where the stored part ends: the last pass is the same, to the bit.

    The store is filled by such passes: some processors round a row otherwise in a pass of another length.
    """
    alone, whole = restore(model, store, ids, "compute"), TOKENS // GRAIN * GRAIN
    exact = DiskStore(tmp_path / "exact", layout_of(model), model.fingerprint)
    save_prompt(exact, ids, alone.cache)
    got = restore(model, exact, ids, "load", link=None)
    assert got.loaded_tokens == whole
    assert torch.equal(got.logits, alone.logits)
    assert torch.equal(got.cache.read(0, TOKENS), alone.cache.read(0, TOKENS))
    assert not torch.equal(alone.logits, filled[1].logits)  # the control: a last pass cut elsewhere rounds otherwise
    assert same(alone, filled[1])


def test_corrupted_kv_changes_the_output(model, store, ids, filled):
    """Control: KV that is wrong but passes every check gives other logits, so equality above means something."""
    prompt = store.prompt(ids)
    noise = torch.randn(store.layout.shape, generator=torch.Generator().manual_seed(1))
    prompt.write(20, noise)
    assert not same(restore(model, store, ids, "load"), filled[1])


@pytest.mark.parametrize("mode", ["cake", "load"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "missing", "all gone"])
def test_damage_becomes_compute_exactly(model, store, ids, filled, mode, damage):
    prompt = store.prompt(ids)
    victim = store.path(prompt.keys[22])
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-7])
    elif damage == "corrupt":
        raw = bytearray(victim.read_bytes())
        raw[5000] ^= 255
        victim.write_bytes(raw)
    elif damage == "missing":
        victim.unlink()
    else:
        shutil.rmtree(store.folder)
    got = restore(model, store, ids, mode)
    assert same(got, filled[1])
    if damage in ("truncated", "corrupt"):
        assert got.failures == {damage: 1}
    if damage == "all gone":
        assert got.loaded_tokens == 0


def test_store_deleted_during_the_restore(model, store, ids, filled):
    """The first read deletes everything: what was looked up is gone, the answer is the same."""

    class Vanishing(DiskStore):
        def prompt(self, ids):
            found = super().prompt(ids)
            read = found.read

            def read_and_delete(grain):
                kv = read(grain)
                shutil.rmtree(self.folder, ignore_errors=True)
                return kv

            found.read = read_and_delete
            return found

    gone = Vanishing(store.folder, store.layout, model.fingerprint)
    got = restore(model, gone, ids, "load")
    assert same(got, filled[1]) and got.failures["missing"] > 0 and got.loaded_tokens == GRAIN


def test_a_dead_loader_is_named_and_computed_around(model, store, ids, filled):
    class Dying(DiskStore):
        def prompt(self, ids):
            found = super().prompt(ids)

            def read(grain):
                raise MemoryError("out of buffers")

            found.read = read
            return found

    got = restore(model, Dying(store.folder, store.layout, model.fingerprint), ids)
    assert same(got, filled[1])
    assert any("loader died: MemoryError" in cause for cause in got.failures)


def test_a_late_load_is_hedged(model, store, ids, filled):
    """Every read hangs from the first on: compute takes its grain over and the late bytes are thrown away."""
    hung = threading.Event()

    class Hanging(DiskStore):
        def prompt(self, ids):
            found = super().prompt(ids)
            read = found.read

            def slow(grain):
                hung.wait(20)
                return read(grain)

            found.read = slow
            return found

    hanging = Hanging(store.folder, store.layout, model.fingerprint)
    got = restore(model, hanging, ids, link=None, costs=COSTS)
    hung.set()
    assert same(got, filled[1]) and got.hedged >= 1 and got.loaded_tokens == 0


class Hung:
    """A store of which one read never answers while the test lasts."""

    def __init__(self, store, grain):
        self.store, self.layout, self.grain, self.let_go = store, store.layout, grain, threading.Event()

    def prompt(self, ids):
        prompt, read = self.store.prompt(ids), self.store.prompt(ids).read

        def hangs(grain):
            if grain == self.grain:
                self.let_go.wait(30)
            return read(grain)

        prompt.read = hangs
        return prompt


def test_a_read_that_hangs_is_given_up_and_computed(model, store, ids, filled, monkeypatch):
    """Load-only never takes a grain over: without giving up it would wait for ever."""
    monkeypatch.setattr("workbench.cake.engine.STALL_S", 0.3)
    hung = Hung(store, 20)
    try:
        got = Embedded(model, hung).restore([ids], Policy(COSTS, STEP, 1, "load"))[0]
        assert same(got, filled[1])
        assert got.failures["stalled"] == 1
        assert got.met_at == 21 * GRAIN
    finally:
        hung.let_go.set()


def test_a_restore_that_never_moves_is_named(model, store, ids, monkeypatch):
    monkeypatch.setattr("workbench.cake.engine.STALL_S", 0.2)
    monkeypatch.setattr("workbench.cake.policy.Policy.compute_step", lambda *_: Wait(0.01))
    with pytest.raises(Stalled, match=r"no grain was computed or loaded for 0 s; waiting for the prompt at token 0"):
        restore(model, store, ids, "compute")


def test_late_bytes_are_not_written(model, store, ids, filled):
    """A read returns wrong KV after compute took its grain over: the cache keeps what was computed."""
    go, landed = threading.Event(), threading.Event()

    class Late(DiskStore):
        def prompt(self, ids):
            found = super().prompt(ids)

            def wrong(grain):
                go.wait(20)
                return torch.ones(self.layout.shape)

            found.read = wrong
            return found

    def emit(span):
        if span.lane == "load":
            landed.set()
        elif str(span.why.get("reason")).startswith("hedge"):  # compute stands here until the loader is done with it
            go.set()
            assert landed.wait(20)

    late = Late(store.folder, store.layout, model.fingerprint)
    got = Embedded(model, late, emit=emit).restore([ids], Policy(COSTS, STEP, 1))[0]
    assert got.hedged >= 1 and landed.is_set() and got.loaded_tokens == 0
    assert torch.allclose(got.cache.read(0, TOKENS), filled[1].cache.read(0, TOKENS), atol=1e-5)


def test_both_sides_learn_what_they_cost(model, store, ids):
    """Believed far too fast: after a restore the ledger says slower on both sides (before it, nothing)."""
    seen = {}

    class Watching(Policy):
        def load_step(self, job, now_s):
            seen.setdefault("before", (job.ledger.gauge("compute_scale"), job.ledger.gauge("load_scale")))
            seen["ledger"] = job.ledger
            return super().load_step(job, now_s)

    believed = Costs(1e-4, 1e-7, 0.0, 1e-7)
    Embedded(model, store, 4.0).restore([ids], Watching(believed, STEP, 1))
    assert seen["before"][1] == 0.0
    assert seen["ledger"].compute_scale > 1 and seen["ledger"].load_scale() > 1


def test_the_link_is_kept_to(model, store, ids):
    """Bytes never arrive sooner than the link brings them, whatever else the machine does (control: no link)."""
    nbytes = TOKENS // GRAIN * store.layout.nbytes
    assert restore(model, store, ids, "load", link=4.0).ttft_s >= nbytes / 4e6
    assert sum(s for _, s in restore(model, store, ids, "load", link=None).reads) < nbytes / 4e6


def test_a_read_that_is_not_used_says_so(model, store, ids):
    """Of a damaged grain the timeline shows the read, and that nothing of it was kept (control: of the others not)."""
    prompt = store.prompt(ids)
    store.path(prompt.keys[22]).write_bytes(b"")
    spans = []
    Embedded(model, store, emit=spans.append).restore([ids], Policy(COSTS, STEP, 1, "load"))
    unused = {s.label: s.why.get("unused_grains", 0) for s in spans if s.lane == "load"}
    assert unused.pop(f"[{22 * GRAIN}:{23 * GRAIN}]") == 1 and not any(unused.values())


def test_prefix_that_diverges_inside_a_grain(model, store, ids):
    other = ids.copy()
    at = 10 * GRAIN + 7
    other[at] = (other[at] + 1) % model.config.vocab
    got = restore(model, store, other, "load")
    alone = restore(model, store, other, "compute")
    assert got.loaded_tokens == 10 * GRAIN and same(got, alone)


def test_two_requests_share_a_prefix(model, store, ids, filled):
    other = ids[:1200] + lm.prompt(model, 401, 9)
    both = Embedded(model, store, 20.0).restore([ids, other], Policy(SLOW_COMPUTE, STEP, 1))
    alone = restore(model, store, other, "compute")
    assert same(both[0], filled[1]) and same(both[1], alone)
    assert both[1].loaded_tokens <= 1200 // GRAIN * GRAIN


@pytest.mark.parametrize("tokens", [GRAIN, GRAIN + 1, 2 * GRAIN, 2 * GRAIN - 1, STEP, STEP + 1])
@pytest.mark.parametrize("mode", ["cake", "load"])
def test_edges_of_grains_and_steps(model, tmp_path, tokens, mode):
    store = DiskStore(tmp_path, layout_of(model), model.fingerprint)
    ids = lm.prompt(model, tokens, 3)
    alone = restore(model, store, ids, "compute")
    save_prompt(store, ids, alone.cache)
    assert same(restore(model, store, ids, mode), alone)


def test_another_model_reads_nothing(model, store, ids):
    other = lm.load("tiny", dtype="float32", seed=7)
    stranger = DiskStore(store.folder, store.layout, other.fingerprint)
    assert not any(stranger.prompt(ids).stored)
    assert restore(other, stranger, ids).loaded_tokens == 0


@pytest.mark.parametrize("mode", ["cake", "load", "compute"])
def test_stop_ends_a_restore(model, store, ids, mode):
    stop = threading.Event()
    engine = Embedded(model, store, 0.2, emit=lambda _span: stop.set() if mode == "cake" else None, stop=stop)
    slow = Costs(1e-3, 1e-1, 1e-9, 1e-5)
    if mode == "load":
        threading.Timer(0.15, stop.set).start()
    elif mode == "compute":
        stop.set()
    with pytest.raises((Stopped, lm.Stopped)):
        engine.restore([ids], Policy(slow, STEP, 1, mode))
    assert not any(t.name == "cake-load" for t in threading.enumerate())


def test_store_error_carries_its_cause():
    assert StoreError("missing", "x").cause == "missing"
