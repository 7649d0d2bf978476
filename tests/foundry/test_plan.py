"""Edges and packing of recorded calls, on random graphs, against what they must mean."""

from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.foundry.graph import READ, WRITE
from workbench.foundry.plan import Call, Operand, edges, pack, template_of, uninitialised

operands = st.builds(
    Operand,
    buffer=st.integers(0, 5),
    offset=st.sampled_from([0, 8, 16]),
    extent=st.sampled_from([8, 16]),
    access=st.sampled_from([READ, WRITE, READ | WRITE]),
)
recorded = st.lists(st.lists(operands, min_size=1, max_size=4), min_size=1, max_size=12).map(
    lambda rows: [Call("fill", None, tuple(row), str(i)) for i, row in enumerate(rows)]
)
SIZES = {2: 32, 3: 64, 4: 96, 5: 128}  # 0 and 1 have their place already


def conflict(a, b):
    return any(
        x.buffer == y.buffer
        and x.offset < y.offset + y.extent
        and y.offset < x.offset + x.extent
        and (x.access | y.access) & WRITE
        for x in a.operands
        for y in b.operands
    )


def reachable(n, found):
    above = [set() for _ in range(n)]
    for before, after in sorted(found, key=lambda e: e[1]):
        above[after] |= {before} | above[before]
    return above


@settings(max_examples=200, deadline=None)
@given(calls=recorded)
def test_edges_order_every_conflict_and_none_is_spare(calls):
    found = edges(calls)
    above = reachable(len(calls), found)
    for i, call in enumerate(calls):
        for j in range(i):
            assert not conflict(calls[j], call) or j in above[i]
    for edge in found:
        assert conflict(calls[edge[0]], calls[edge[1]])
        assert edge[0] not in reachable(len(calls), [e for e in found if e != edge])[edge[1]]


@settings(max_examples=200, deadline=None)
@given(calls=recorded, last=st.sets(st.sampled_from([2, 3, 4, 5])))
def test_buffers_that_live_at_once_lie_apart(calls, last):
    touched = {o.buffer for c in calls for o in c.operands}
    last &= touched
    placed = pack(calls, SIZES, sorted(last))
    assert placed.keys() == touched & SIZES.keys()
    life = {b: [i for i, c in enumerate(calls) if any(o.buffer == b for o in c.operands)] for b in placed}
    for a in placed:
        assert placed[a] % 64 == 0
        for b in placed:
            end_a = len(calls) if a in last else life[a][-1]
            end_b = len(calls) if b in last else life[b][-1]
            if a < b and life[a][0] <= end_b and life[b][0] <= end_a:
                assert placed[a] + SIZES[a] <= placed[b] or placed[b] + SIZES[b] <= placed[a]


def test_a_chain_needs_two_buffers():
    """Memory of dead buffers is used again: ten buffers of 64 bytes in a chain take 128."""
    calls = [Call("copy", None, (Operand(i + 1, 0, 64, WRITE), Operand(i, 0, 64, READ), 64), "") for i in range(10)]
    placed = pack(calls, dict.fromkeys(range(11), 64), [10])
    assert max(placed.values()) + 64 == 128


def test_what_nobody_wrote_is_noticed():
    calls = [Call("copy", None, (Operand(1, 0, 8, WRITE), Operand(2, 0, 8, READ), 8), "lost")]
    assert uninitialised(calls, {1: 8, 2: 8}) == ["lost"]
    assert uninitialised(calls, {1: 8}) == []


def test_sizes_and_addresses_are_no_part_of_a_template():
    def graph(n, offset):
        return [Call("copy", None, (Operand(1, offset, n, WRITE), Operand(0, 0, n, READ), n), f"of {n}")]

    assert template_of(graph(8, 0)).key == template_of(graph(64, 128)).key
    other = [Call("copy", None, (Operand(1, 0, 8, WRITE), Operand(0, 0, 8, READ), 8), "")] * 2
    assert template_of(other).key != template_of(graph(8, 0)).key
