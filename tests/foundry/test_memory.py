"""Weights on their way between a file and an arena: whole, checked, or refused."""

import errno

import pytest

from workbench import aside
from workbench.foundry import memory
from workbench.foundry.archive import Refused

N = 3 << 20  # bytes: no whole number of chunks of the readers below


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CHUNK", 1_000_000)
    arena = memory.make_arena(0x630000000000, 1 << 22)
    arena.view(0, N)[:] = bytes(i * 31 % 251 for i in range(4096)) * (N // 4096)
    return memory.store_weights(arena, N, tmp_path), bytes(arena.view(0, N)), tmp_path


def cause(about, folder):
    with pytest.raises(Refused) as caught:
        memory.load_weights(memory.make_arena(0x630000000000, 1 << 22), about, folder)
    return caught.value.cause


def test_there_and_back(stored):
    about, raw, folder = stored
    arena = memory.make_arena(0x640000000000, 1 << 22)
    memory.load_weights(arena, about, folder)
    assert bytes(arena.view(0, N)) == raw
    assert set(bytes(arena.view(N, 1 << 20))) == {0}
    assert [p.name for p in folder.iterdir()] == [about["file"]]


def test_refused(stored):
    about, raw, folder = stored
    path = folder / about["file"]
    for content, expected in (
        (raw[:-1], "truncated"),
        (raw + b"x", "weights"),
        (raw[:2_500_000] + b"\x00\xff" + raw[2_500_002:], "weights"),
        (None, "weights"),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        else:
            path.mkdir()
        assert cause(about, folder) == expected
    for changed in ({"file": "../" + about["file"]}, {"file": 3}, {"bytes": 1 << 40}, {"bytes": True}, {"file": None}):
        assert cause(about | changed, folder) == "malformed"


def test_disk_full(stored, tmp_path, monkeypatch):
    about, _, folder = stored
    (folder / about["file"]).unlink()
    arena, real = memory.make_arena(0x640000000000, 1 << 22), open

    def full(name, mode="r", **more):
        real(name, mode).close()
        return real("/dev/full", "wb", **more)

    monkeypatch.setattr(aside, "open", full, raising=False)
    with pytest.raises(OSError, match="free some space") as caught:
        memory.store_weights(arena, N, folder)
    assert caught.value.errno == errno.ENOSPC
    assert list(folder.iterdir()) == []


def test_no_room_for_an_arena():
    with pytest.raises(Refused) as caught:
        memory.make_arena(0x640000000000, 1 << 47)
    assert caught.value.cause == "memory"
