"""The replay loop against its definition, what it refuses before anything runs, and what a failing kernel becomes."""

import shutil
import struct
import subprocess
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels import replay
from workbench.kernels.replay import COPY, FILL, GEMM, KERNEL, READ, WRITE, reference

BASE, SIZE, HALF = 0x610000000000, 1 << 16, 1 << 15
ONE = 0x3F800000


@pytest.fixture(scope="module")
def functions():
    from workbench.foundry.fingerprint import torch_cpu

    blas = replay.Library(str(torch_cpu()), True)  # the library alone: torch is not imported
    libc, cxx = replay.Library("libc.so.6"), replay.Library("libstdc++.so.6")
    return {
        "sgemm": blas.address("sgemm_"),
        "memmove": libc.address("memmove"),
        "throw": cxx.address("_ZSt17__throw_bad_allocv"),
    }


def packed(*words):
    return struct.pack(f"<{len(words)}Q", *words)


def program(arena, calls):
    """calls: (kind, function, slots, {position: (access, extent)}) -> Program, its nodes, its one parameter set."""
    nodes, words, pointers, extents = [], [], [], []
    for kind, function, slots, marked in calls:
        nodes.append((kind, len(words), len(slots), function))
        pointers += [(len(words) + p, access) for p, (access, _) in sorted(marked.items())]
        extents += [extent for _, (_, extent) in sorted(marked.items())]
        words += slots
    made = replay.Program(arena, nodes, pointers)
    return made, nodes, packed(*words), packed(*extents)


def gemm(function, a, b, c, m, n, k, *, ta="n", tb="n", beta=0, count=1, extent=None):
    lda, ldb = (k if ta == "t" else m), (n if tb == "t" else k)
    jumps = (m * k, k * n, m * n) if count > 1 else (0, 0, 0)
    slots = [ord(ta), ord(tb), m, n, k, ONE, a, lda, b, ldb, beta, c, m, count, *jumps]
    sizes = [4 * count * x for x in (m * k, k * n, m * n)]
    if extent is not None:
        sizes = [extent] * 3
    return GEMM, function, slots, {6: (READ, sizes[0]), 8: (READ, sizes[1]), 11: (READ | WRITE, sizes[2])}


def copy(to, source, n, extent=None):
    return COPY, 0, [to, source, n], {0: (WRITE, extent or n), 1: (READ, n)}


@st.composite
def calls(draw):
    """A few nodes over two halves of the arena: one is read and one is written."""
    made = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from([KERNEL, GEMM, COPY, FILL]))
        n = draw(st.integers(1, 512))
        source, to = BASE + 64 * draw(st.integers(0, 200)), BASE + HALF + 64 * draw(st.integers(0, 200))
        if kind == KERNEL:
            made.append((KERNEL, "memmove", [to, source, n], {0: (WRITE, n), 1: (READ, n)}))
        elif kind == COPY:
            made.append(copy(to, source, n))
        elif kind == FILL:
            made.append((FILL, 0, [to, draw(st.integers(0, 255)), n], {0: (WRITE, n)}))
        else:
            m, n, k = (draw(st.integers(1, 9)) for _ in range(3))
            ta, tb, count = draw(st.sampled_from("nt")), draw(st.sampled_from("nt")), draw(st.integers(1, 3))
            beta = draw(st.sampled_from([0, ONE]))
            made.append(gemm("sgemm", source, source + 2048, to, m, n, k, ta=ta, tb=tb, beta=beta, count=count))
    return made


@settings(max_examples=150, deadline=None)
@given(calls=calls())
def test_native_equals_reference(functions, calls):
    arena = replay.Arena(BASE, SIZE)
    assert not arena.relocated
    view = arena.view(0, SIZE)
    start = struct.pack(f"<{SIZE // 4}f", *((i * 7919 % 1000) / 500 - 1 for i in range(SIZE // 4)))
    made, nodes, slots, extents = program(arena, [(k, functions.get(f, 0), s, p) for k, f, s, p in calls])
    view[:] = start
    made.replay(made.add(slots, extents))
    native = bytes(view)
    view[:] = start
    reference.replay(nodes, slots)
    assert native == bytes(view)
    assert native[:HALF] == start[:HALF]


A, B, C = BASE, BASE + 4096, BASE + 8192


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (copy(BASE + SIZE - 8, A, 16), "leave the arena"),
        (copy(BASE - 8, A, 16), "leave the arena"),
        (copy(2**64 - 8, A, 16), "leave the arena"),
        (copy(C, A, 16, extent=2**64 - 1), "leave the arena"),
        (copy(C, A, 32, extent=16), "copies more"),
        (copy(BASE + HALF, A, 16), "weights"),
        ((FILL, 0, [C, 0, 64], {0: (WRITE, 32)}), "fills more"),
        (gemm("sgemm", A, B, C, 4, 4, 4, extent=60), "larger than its extent"),
        (gemm("sgemm", A, B, C, 4, 2**31, 4, extent=64), "sizes are 1 to"),
        (gemm("sgemm", A, B, C, 4, 4, 4, ta="x"), "transposition"),
        (gemm("sgemm", A, B, C, 0, 4, 4, extent=64), "sizes are 1 to"),
        ((COPY, 0, [C, A, 8], {0: (READ, 8), 1: (READ, 8)}), "not marked"),
        ((COPY, 0, [C, A, 8], {0: (WRITE, 8)}), "not marked"),
        ((COPY, 1, [C, A, 8], {0: (WRITE, 8), 1: (READ, 8)}), "function missing or too many"),
        ((KERNEL, 0, [C], {0: (WRITE, 8)}), "function missing or too many"),
        ((KERNEL, "memmove", [0] * 65, {}), "wrong number"),
        ((7, 0, [], {}), "unknown kind"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_refused_before_it_runs(functions, call, why):
    arena = replay.Arena(BASE, SIZE)
    arena.freeze(HALF, HALF)
    before = bytes(arena.view(0, SIZE))
    kind, function, slots, marked = call

    def run():
        made, _, raw, extents = program(arena, [(kind, functions.get(function, function), slots, marked)])
        made.replay(made.add(raw, extents))

    with pytest.raises((ValueError, IndexError, RuntimeError), match=why):
        run()
    assert bytes(arena.view(0, SIZE)) == before


def test_a_kernel_that_throws_is_an_error_with_its_node(functions):
    arena = replay.Arena(BASE, SIZE)
    made, _, slots, extents = program(arena, [copy(C, A, 8), (KERNEL, functions["throw"], [], {}), copy(C, A, 8)])
    index = made.add(slots, extents)
    with pytest.raises(RuntimeError, match=r"node 1: .*bad_alloc"):
        made.replay(index)
    with pytest.raises(IndexError):
        made.replay(index + 1)


def test_a_taken_base_gives_another_of_the_same_alignment():
    first = replay.Arena(BASE, SIZE)
    second = replay.Arena(BASE, SIZE)
    assert (first.base, first.relocated, second.relocated) == (BASE, False, True)
    assert second.base % (2 << 20) == 0
    second.view(0, SIZE)[:] = b"x" * SIZE
    assert set(bytes(first.view(0, SIZE))) == {0}
    for base, size in ((1, SIZE), (BASE, 0), (BASE, 100), (BASE, 2**60)):
        with pytest.raises(ValueError, match="arena"):
            replay.Arena(base, size)
    with pytest.raises(IndexError):
        first.view(SIZE - 1, 2)


def test_a_view_keeps_its_arena():
    view = replay.Arena(BASE, SIZE).view(0, SIZE)
    view[5] = 7
    assert (view[5], view.nbytes) == (7, SIZE)


def test_images_from_memory_are_not_taken_for_each_other(tmp_path):
    """The loader knows files by name and a descriptor's number is soon used again."""
    compiler = shutil.which("cc") or shutil.which("g++")
    arena, found = replay.Arena(BASE, SIZE), []
    for i in (1, 2, 3):
        (tmp_path / "k.c").write_text(f"void kernel(long *p) {{ *p = {i}; }}")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", tmp_path / "k.so", tmp_path / "k.c"], check=True, timeout=60
        )
        found.append(replay.Library.from_bytes((tmp_path / "k.so").read_bytes(), f"k{i}"))
    calls = [(KERNEL, each.address("kernel"), [A + 8 * i], {0: (WRITE, 8)}) for i, each in enumerate(found)]
    made, _, slots, extents = program(arena, calls)
    made.replay(made.add(slots, extents))
    assert struct.unpack("<3q", arena.view(0, 24)) == (1, 2, 3)
    with pytest.raises(RuntimeError, match="library"):
        replay.Library.from_bytes(b"no ELF", "bad")
    with pytest.raises(RuntimeError, match="no symbol"):
        found[0].address("missing")


def test_one_replay_at_a_time_in_an_arena():
    """Of two threads that want one arena at once, one replays and the other is told."""
    arena = replay.Arena(BASE, 1 << 26)
    made, _, slots, extents = program(arena, [copy(BASE + (1 << 25), BASE, 1 << 25)] * 100)
    index, together, said = made.add(slots, extents), threading.Barrier(2, timeout=30), []

    def run():
        together.wait()
        try:
            made.replay(index)
            said.append("replayed")
        except RuntimeError as error:
            said.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(said) == ["replay: another thread is replaying in this arena", "replayed"]
