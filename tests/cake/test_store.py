"""The disk store: what goes in comes out bit by bit, and what was tampered with is refused by name."""

import os
import threading
import types
from functools import partial

import pytest
import torch

from workbench.cake import vllm_loader
from workbench.cake.store import HEADER_BYTES, DiskStore, Layout, StoreError, TokenBucket, grain_keys, in_memory
from workbench.cake.vllm_records import Save

LAYOUT = Layout(layers=2, kv_heads=2, tokens=16, head_dim=8, dtype="float32")
IDS = list(range(100, 100 + 16 * 6 + 5))


def kv(seed: int) -> torch.Tensor:
    return torch.randn(LAYOUT.shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path):
    return DiskStore(tmp_path / "kv", LAYOUT, "model-a")


def fill(store, ids=IDS):
    prompt = store.prompt(ids)
    for i in range(len(prompt.stored)):
        prompt.write(i, kv(i))
    return store.prompt(ids)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("cold", [False, True])
def test_bits_survive(tmp_path, dtype, cold):
    layout = Layout(2, 2, 16, 8, dtype)
    store = DiskStore(tmp_path, layout, "m", cold=cold, sync=True)
    prompt = store.prompt(IDS)
    assert prompt.stored == [False] * 6  # whole grains only
    sent = kv(1).to(getattr(torch, dtype))
    prompt.write(3, sent)
    again = DiskStore(tmp_path, layout, "m", cold=cold).prompt(IDS)
    assert again.stored == [False, False, False, True, False, False]
    assert torch.equal(again.read(3).view(torch.uint8), sent.view(torch.uint8))


def test_keys_follow_prefix_model_and_layout():
    base = grain_keys(IDS, LAYOUT, "model-a")
    changed = IDS.copy()
    changed[40] += 1  # inside grain 2
    other = grain_keys(changed, LAYOUT, "model-a")
    assert other[:2] == base[:2] and not set(other[2:]) & set(base)
    assert not set(grain_keys(IDS, LAYOUT, "model-b")) & set(base)
    assert not set(grain_keys(IDS, Layout(2, 2, 16, 8, "bfloat16"), "model-a")) & set(base)


def damage(path, how):
    raw = bytearray(path.read_bytes())
    if how == "truncated":
        raw = raw[:-100]
    elif how == "header cut":
        raw = raw[:100]
    elif how == "payload bit":
        raw[HEADER_BYTES + 77] ^= 1
    elif how == "header bit":
        raw[30] ^= 1
    elif how == "empty":
        raw = bytearray()
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("truncated", "truncated"),
        ("header cut", "truncated"),
        ("payload bit", "corrupt"),
        ("header bit", "corrupt"),
        ("empty", "truncated"),
    ],
)
def test_damage_is_named(store, how, cause):
    prompt = fill(store)
    damage(store.path(prompt.keys[2]), how)
    with pytest.raises(StoreError) as caught:
        prompt.read(2)
    assert caught.value.cause == cause and prompt.keys[2].hex() in str(caught.value)
    assert torch.equal(prompt.read(3), kv(3))  # the others are untouched


def test_every_byte_of_the_header_and_payload_is_covered(store):
    """Any single flipped byte that means something is found (control: the untouched file reads)."""
    prompt = fill(store)
    path = store.path(prompt.keys[0])
    good = path.read_bytes()
    prompt.read(0)
    for at in [*range(0, 168, 3), HEADER_BYTES, len(good) - 1]:
        bad = bytearray(good)
        bad[at] ^= 0x40
        path.write_bytes(bad)
        with pytest.raises(StoreError):
            prompt.read(0)


def test_other_version_and_foreign_files_are_refused(store, tmp_path):
    prompt = fill(store)
    store.path(prompt.keys[1]).replace(store.path(prompt.keys[2]))
    with pytest.raises(StoreError, match="another prompt") as caught:
        prompt.read(2)
    assert caught.value.cause == "foreign"
    with pytest.raises(StoreError) as caught:
        prompt.read(1)
    assert caught.value.cause == "missing"


def test_version_is_checked(store, monkeypatch):
    prompt = fill(store)
    monkeypatch.setattr("workbench.cake.store.VERSION", 2)
    with pytest.raises(StoreError, match="delete the store") as caught:
        prompt.read(0)
    assert caught.value.cause == "version"


def test_a_failed_write_leaves_nothing(store, monkeypatch):
    prompt = store.prompt(IDS)
    monkeypatch.setattr("os.utime", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=r"KV store in .*No space.*set TMPDIR"):
        prompt.write(0, kv(0))
    assert list(store.folder.iterdir()) == []


def test_wrong_shape_is_refused(store):
    with pytest.raises(ValueError, match="does not fit"):
        store.prompt(IDS).write(0, torch.zeros(1))


@pytest.mark.parametrize(
    ("eviction", "kept"), [("head-last", [True] * 3 + [False] * 3), ("head-first", [False] * 3 + [True] * 3)]
)
def test_eviction_inside_a_context(tmp_path, eviction, kept):
    size = (LAYOUT.nbytes + HEADER_BYTES) / 1e6
    store = DiskStore(tmp_path, LAYOUT, "m", limit_mb=3.5 * size, eviction=eviction)
    prompt = store.prompt(IDS)
    for i in range(6):
        prompt.write(i, kv(i))
    assert store.used_mb() <= 3.5 * size
    assert store.prompt(IDS).stored == kept


@pytest.mark.parametrize("eviction", ["head-last", "head-first"])
def test_what_cannot_be_read_goes_first(tmp_path, eviction):
    size = (LAYOUT.nbytes + HEADER_BYTES) / 1e6
    store = DiskStore(tmp_path, LAYOUT, "m", limit_mb=4.5 * size, eviction=eviction)
    prompt = store.prompt(IDS)
    for i in range(4):
        prompt.write(i, kv(i))
    bad = store.path(prompt.keys[1])
    stamp = bad.stat().st_mtime_ns
    bad.write_bytes(b"not a grain")
    os.utime(bad, ns=(stamp, stamp))  # of the same context still
    for i in (4, 5):
        prompt.write(i, kv(i))
    assert not bad.exists()
    assert sum(store.prompt(IDS).stored) == 4


def test_a_saver_whose_disk_hangs_is_left_behind(monkeypatch):
    """It is not waited for although its queue is full; what waits is written should the disk come back."""
    back = threading.Event()
    prompt = types.SimpleNamespace(write=lambda grain, kv: back.wait(60))
    for name, value in {"QUEUED_GRAINS": 2, "FULL_S": 0.1, "JOIN_S": 0.1}.items():
        monkeypatch.setattr(vllm_loader, name, value)
    kv = types.SimpleNamespace(read=lambda blocks: None)
    saver = vllm_loader.Saver(kv, lambda cold, epoch: types.SimpleNamespace(prompt=lambda ids: prompt))
    monkeypatch.setattr(saver, "flush", partial(saver.flush, 0.1))
    for grain in range(4):  # one is being written, two wait, one is not taken
        saver.save(Save("r", IDS, [grain], [[grain]]), "")
    ending = threading.Thread(target=saver.shutdown, daemon=True)
    ending.start()
    ending.join(5)
    assert not ending.is_alive()
    back.set()
    monkeypatch.undo()
    saver.shutdown()
    assert saver.counts == {"saved": 3}
    saver._thread.join(5)
    assert not saver._thread.is_alive()


def test_a_full_store_is_not_looked_through_at_every_write(tmp_path, monkeypatch):
    """A twentieth is freed in one go; a second writer to the folder is still noticed."""
    size = LAYOUT.nbytes + HEADER_BYTES
    store, other = DiskStore(tmp_path, LAYOUT, "m", limit_mb=40.5 * size / 1e6), DiskStore(tmp_path, LAYOUT, "m")
    counted, look = [], store._files
    monkeypatch.setattr(store, "_files", lambda: counted.append(1) or look())
    long = list(range(100 * LAYOUT.tokens))
    for i in range(100):
        store.prompt(long).write(i, kv(i % 6))
        assert store.used_mb() * 1e6 <= 40.5 * size
    assert len(counted) - 100 <= 1 + 60 / 3  # used_mb counts too
    many = [t + 10**6 for t in range(60 * LAYOUT.tokens)]
    for i in range(60):
        other.prompt(many).write(i, kv(i % 6))
    for i in range(300):
        store.prompt(long).write(i % 100, kv(i % 6))
    assert store.used_mb() * 1e6 <= 40.5 * size


def test_the_context_used_last_stays(tmp_path):
    size = (LAYOUT.nbytes + HEADER_BYTES) / 1e6
    store = DiskStore(tmp_path, LAYOUT, "m", limit_mb=12.5 * size)
    other = [t + 1000 for t in IDS]
    third = [t + 2000 for t in IDS]
    fill(store)
    fill(store, other)
    store.prompt(IDS)  # used again: the other one is now the oldest
    fill(store, third)
    assert all(store.prompt(IDS).stored) and not any(store.prompt(other).stored)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="KV store folder"):
        DiskStore(tmp_path / "file" / "kv", LAYOUT, "m")


@pytest.mark.parametrize("cold", [True, False])
def test_a_cold_store_drops_its_pages_first(store, monkeypatch, cold):
    dropped = []
    monkeypatch.setattr("os.posix_fadvise", lambda _fd, *how: dropped.append(how))
    prompt = fill(store)
    store.cold = cold
    prompt.read(1)
    assert dropped == ([(0, 0, os.POSIX_FADV_DONTNEED)] if cold else [])


def test_memory_is_not_taken_for_a_disk(tmp_path):
    (tmp_path / "in memory").mkdir()
    mounts = tmp_path / "mounts"
    kept = str(tmp_path / "in memory").replace(" ", "\\040")
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\ntmpfs {kept} tmpfs rw 0 0\n")
    assert in_memory(tmp_path / "in memory" / "kv", mounts)
    assert not in_memory(tmp_path / "kv", mounts) and not in_memory(tmp_path, tmp_path / "no such file")


def test_bucket_adds_up(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 50.0)
    bucket = TokenBucket(10.0)
    first, second = bucket.reserve(1_000_000), bucket.reserve(2_000_000)
    assert (first, second) == (pytest.approx(50.1), pytest.approx(50.3))
    assert TokenBucket(0.0).reserve(10**12) == 50.0
    assert TokenBucket(10.0, latency_s=2.0).reserve(1_000_000) == pytest.approx(52.1)
