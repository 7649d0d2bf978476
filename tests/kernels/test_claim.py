"""The native claim table against its definition, and under threads and processes: every grain claimed exactly once."""

import multiprocessing
import sys
import threading
import time
from collections import Counter
from multiprocessing import shared_memory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.kernels.claim import claim_table, nbytes

GRAINS = 20_000

steps = st.lists(
    st.one_of(
        st.tuples(st.just("claim_front"), st.integers(0, 9)),
        st.tuples(st.just("claim_back"), st.integers(0, 9), st.integers(0, 40)),
        st.tuples(st.just("swap_state"), st.integers(0, 29), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("stop")),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(grains=st.integers(0, 30), calls=steps)
def test_native_equals_reference(grains, calls):
    native, reference = claim_table(grains, backend="native"), claim_table(grains, backend="reference")
    for name, *args in calls:
        if name == "swap_state" and args[0] >= grains:
            continue
        assert getattr(native, name)(*args) == getattr(reference, name)(*args), (name, args)
        assert (native.front, native.back) == (reference.front, reference.back)
    assert native.states() == reference.states()
    assert len(native) == len(reference) == grains
    assert [native.get_state(g) for g in range(grains)] == list(reference.states())


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_the_ends_meet(backend):
    table = claim_table(10, backend=backend)
    assert table.claim_front(3) == (0, 3)
    assert table.claim_back(4) == (6, 4)
    assert table.claim_back(4, floor=5) == (5, 1)
    assert table.claim_front(9) == (3, 2)
    assert table.claim_front(1)[1] == table.claim_back(1)[1] == 0


class Racy:
    """A claim table without atomic steps: what the exactly-once checks must catch."""

    def __init__(self, grains):
        self.front, self.back = 0, grains

    def claim_front(self, want):
        start, take = self.front, min(want, self.back - self.front)
        time.sleep(0)  # another thread may come between the look and the step
        self.front = start + take
        return start, take

    def claim_back(self, want, floor=0):
        end, take = self.back, min(want, self.back - self.front)
        time.sleep(0)
        self.back = end - take
        return end - take, take


def claim_all(table, from_back, want, out):
    while True:
        start, n = table.claim_back(want) if from_back else table.claim_front(want)
        if n == 0:
            return
        out.extend(range(start, start + n))


def by_threads(table, threads=4):
    got = [[] for _ in range(threads)]
    work = [threading.Thread(target=claim_all, args=(table, i % 2, 1 + i, got[i])) for i in range(threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for each in work:
            each.start()
        for each in work:
            each.join(60)
    finally:
        sys.setswitchinterval(interval)
    return Counter(grain for part in got for grain in part)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_threads_claim_each_grain_once(backend):
    assert by_threads(claim_table(GRAINS, backend=backend)) == Counter(range(GRAINS))


def test_a_table_that_is_not_atomic_is_caught():
    assert by_threads(Racy(GRAINS)) != Counter(range(GRAINS))


class RacyShared:
    """The same word in shared memory, read and written in two steps."""

    def __init__(self, buffer, grains, create):
        self.word = buffer.cast("I")
        if create:
            self.word[2], self.word[3] = 0, grains

    def claim_front(self, want):
        start, take = self.word[2], min(want, self.word[3] - self.word[2])
        self.word[2] = start + take
        return start, take

    def claim_back(self, want, floor=0):
        take = min(want, self.word[3] - self.word[2])
        self.word[3] -= take
        return self.word[3], take

    def release(self):
        self.word.release()


def open_table(kind, buffer, grains, create):
    if kind == "native":
        return claim_table(grains, buffer, create=create)
    return RacyShared(buffer, grains, create)


def claim_shared(name, kind, grains, from_back, gate, answers):
    shared = shared_memory.SharedMemory(name=name)
    table, got = open_table(kind, shared.buf, grains, False), []
    gate.wait(60)
    claim_all(table, from_back, 1, got)
    table.release()
    shared.close()
    answers.put(got)


def by_processes(kind, from_back, grains):
    """Claims of two processes on one table in shared memory."""
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    shared = shared_memory.SharedMemory(create=True, size=nbytes(grains))
    try:
        table = open_table(kind, shared.buf, grains, True)
        gate, answers = context.Barrier(2), context.Queue()
        work = [
            context.Process(target=claim_shared, args=(shared.name, kind, grains, back, gate, answers))
            for back in from_back
        ]
        for each in work:
            each.start()
        claims = Counter(grain for _ in work for grain in answers.get(timeout=120))
        for each in work:
            each.join(30)
        table.release()
        return claims
    finally:
        shared.close()
        shared.unlink()


@pytest.mark.parametrize("from_back", [(False, True), (False, False), (True, True)], ids=["ends", "front", "back"])
def test_processes_claim_each_grain_once(from_back):
    grains = 200_000  # long enough that both processes are at it together
    assert by_processes("native", from_back, grains) == Counter(range(grains))


def test_processes_on_a_word_that_is_not_atomic_are_caught():
    """The control of the test above: the same two processes, two steps instead of one."""
    for _ in range(5):
        if by_processes("racy", (False, False), 200_000) != Counter(range(200_000)):
            return
    pytest.fail("two processes never collided: the check above proves nothing")


def test_states_are_swapped_once():
    table, wins = claim_table(500), []

    def swap():
        wins.extend(g for g in range(500) if table.swap_state(g, 0, 1))

    work = [threading.Thread(target=swap) for _ in range(4)]
    for each in work:
        each.start()
    for each in work:
        each.join(60)
    assert sorted(wins) == list(range(500))
    assert table.states() == b"\x01" * 500


@pytest.mark.parametrize(
    ("buffer", "create", "said"),
    [
        (bytearray(nbytes(8) - 1), True, "smaller than 64 bytes"),
        (bytearray(nbytes(8)), False, "holds no claim table"),
        (memoryview(bytearray(nbytes(8) + 1))[1:], True, "aligned"),
    ],
)
def test_bad_buffers_are_named(buffer, create, said):
    with pytest.raises(ValueError, match=said):
        claim_table(8, buffer, create=create)


def test_a_read_only_buffer_is_refused():
    with pytest.raises(BufferError):
        claim_table(8, bytes(nbytes(8)))


def test_another_size_is_named():
    buffer = bytearray(nbytes(8))
    table = claim_table(8, buffer)
    assert claim_table(8, buffer, create=False).claim_front(2) == (0, 2)
    assert table.front == 2  # both look at the same memory
    with pytest.raises(ValueError, match="number of grains differs"):
        claim_table(7, buffer, create=False)


def test_no_such_grain():
    with pytest.raises(IndexError, match="no such grain"):
        claim_table(3).get_state(3)


def test_release_gives_the_buffer_back():
    buffer = bytearray(nbytes(8))
    table = claim_table(8, buffer)
    with pytest.raises(BufferError):
        buffer.extend(b"x")
    table.release()
    buffer.extend(b"x")
    for call in (table.states, table.stop, lambda: table.claim_front(1), lambda: len(table)):
        with pytest.raises(RuntimeError, match="after release"):
            call()
