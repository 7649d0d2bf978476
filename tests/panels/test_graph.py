"""A graph's picture: boxes in their places, few crossings, states in words, nothing that only colour tells."""

import itertools
import random
import re

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.system import MOST_VERTICES, Vertex
from workbench.ui import graph, layers
from workbench.ui.layers import arrange


def some(count, seed=1, most=3):
    dice = random.Random(seed)
    return {str(i): [str(j) for j in dice.sample(range(i), min(i, dice.randint(0, most)))] for i in range(count)}


def vertices(needs, **more):
    return [Vertex(name, f"question {name}", tuple(wanted), **more) for name, wanted in needs.items()]


graphs = st.integers(0, 30).flatmap(
    lambda n: st.tuples(*(st.sets(st.integers(0, max(i - 1, 0)), max_size=min(i, 4)) for i in range(n)))
).map(lambda rows: {str(i): [str(j) for j in wanted if j < i] for i, wanted in enumerate(rows)})  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(graphs, st.integers(1, 8))
def test_every_need_is_to_the_left_and_no_boxes_overlap(needs, most):
    laid = arrange(needs, most)
    assert set(laid.at) == set(needs)
    for name, wanted in needs.items():
        assert all(laid.at[n][0] < laid.at[name][0] for n in wanted)
    columns = {}
    for name, (column, row) in laid.at.items():
        columns.setdefault(column, []).append(row)
        assert -0.001 <= row <= laid.rows - 1 + 0.001, name
    for rows in columns.values():
        assert len(rows) <= most
        assert all(b - a >= 0.999 for a, b in itertools.pairwise(sorted(rows)))
    assert sorted(columns) == list(range(laid.columns))


@settings(max_examples=40, deadline=None)
@given(graphs)
def test_bends_pass_between_the_boxes(needs):
    laid = arrange(needs)
    boxes = {(column, row) for column, row in laid.at.values()}
    for places in laid.ways.values():
        for column, row in places[1:-1]:
            near = [abs(row - r) for c, r in boxes if c == column]
            assert min(near, default=1.0) >= 0.69


def crossings(laid):
    """Counted anew from the places alone."""
    pieces = {}
    for places in laid.ways.values():
        for (column, a), (_, b) in itertools.pairwise(places):
            pieces.setdefault(column, []).append((a, b))
    return sum((a - c) * (b - d) < 0 for rows in pieces.values() for (a, b), (c, d) in itertools.combinations(rows, 2))


def test_fewer_crossings_than_without_ordering():
    """networkx has the same layers and leaves them in the order of the nodes: straight edges, crossing freely."""
    ours = theirs = 0
    for seed in range(20):
        needs = some(14, seed, 2)
        laid = arrange(needs, most=99)
        assert crossings(laid) == laid.crossings
        ours += laid.crossings
        net = nx.DiGraph([(need, name) for name, wanted in needs.items() for need in wanted])
        net.add_nodes_from(needs)
        for at, names in enumerate(nx.topological_generations(net)):
            assert {laid.at[name][0] for name in names} == {at}
            for name in names:
                net.nodes[name]["layer"] = at
        place = nx.multipartite_layout(net, subset_key="layer")
        theirs += sum(meet(*(place[n] for n in (*e, *f))) for e, f in itertools.combinations(net.edges, 2))
    assert ours < 0.7 * theirs, (ours, theirs)


def meet(a, b, c, d):
    def side(p, q, r):
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < -1e-12 and side(c, d, a) * side(c, d, b) < -1e-12


def test_what_is_not_known_or_comes_later_is_no_edge():
    laid = arrange({"a": ["b", "a", "nobody"], "b": ["a", "a"]})
    assert list(laid.ways) == [("a", "b")]


def test_the_largest_graphs_are_laid_out_once():
    everything = {str(i): [str(j) for j in range(i)] for i in range(MOST_VERTICES)}
    for needs in (everything, some(MOST_VERTICES)):
        graph.picture(vertices(needs), title="t", serial="s")
        laid_out = layers._arrange.cache_info().misses
        graph.picture(vertices(needs), title="t", serial="s")  # ten times a second: the places are known by then
        assert layers._arrange.cache_info().misses == laid_out


def drawn(*given, **more):
    return graph.picture(given, title="Graph", serial="s", **more)


def test_boxes_are_buttons_that_say_everything_in_words():
    svg = drawn(
        Vertex("1", "What <is> it?", state="done", share=1.0, critical=True),
        Vertex("2", "And then?", ("1",), "running", 0.42, note="20 of 48 tokens"),
        Vertex("3", "Why?", ("1",)),
        Vertex("4", "Who?", ("3",), "cut", 0.3),
    )
    assert 'role="group"' in svg
    assert svg.count('role="button"') == 4
    assert re.findall(r'data-pick="(\w+)" tabindex="0"', svg) == ["1"]
    assert "<is>" not in svg
    said = re.findall(r'tabindex="-?\d" aria-label="([^"]*)"', svg)
    assert said[0] == "1: What &lt;is&gt; it?, done, needs nothing, on the critical path"
    assert said[1] == "2: And then?, running 42 %, 20 of 48 tokens, needs 1"
    assert said[3] == "4: Who?, cut 30 %, needs 3"
    assert "4 parts: 1 waiting, 1 running, 1 done, 1 cut." in svg
    for mark in graph.MARKS.values():
        assert mark in svg


def test_filling_is_the_share():
    def filled(share, state="running"):
        found = re.search(r'wb-fill" x="1.5" y="1.5" width="([\d.]+)"', drawn(Vertex("1", "a", (), state, share)))
        return float(found[1]) if found else 0.0

    whole = filled(1.0)
    assert whole > 50
    assert filled(0.25) == pytest.approx(whole / 4, abs=0.1)
    assert filled(0.1, "done") == whole
    assert filled(0.7, "waiting") == 0
    assert filled(7.0) == whole  # a share that is none still stays in its box
    assert filled(-1.0) == 0


def test_only_the_last_step_of_the_critical_path_is_thick():
    path = [Vertex("1", "a", critical=True), Vertex("2", "b", ("1",), critical=True)]
    svg = drawn(*path, Vertex("3", "c", ("1", "2"), critical=True), Vertex("4", "d", ("2",)))
    assert svg.count("wb-edge") == 4
    assert svg.count("wb-trunk") == 2  # 1 to 2 and 2 to 3, not 1 to 3
    assert drawn(Vertex("1", "a"), Vertex("2", "b", ("1",))).count("wb-trunk") == 0


def test_chosen_and_armed_are_marked_and_tab_reaches_the_chosen():
    svg = drawn(*vertices(some(5)), chosen="3", armed="2", states=False)
    assert re.findall(r'data-pick="(\w+)" tabindex="0"', svg) == ["3"]
    assert svg.count("wb-chosen") == svg.count("wb-armed") == 1
    assert "waiting" not in svg
    assert 'tabindex="0"' in drawn(*vertices(some(5)), chosen="no such")


def test_more_than_can_be_read_are_counted():
    svg = drawn(*vertices(some(MOST_VERTICES + 9)))
    assert svg.count('role="button"') == MOST_VERTICES


@given(st.text(min_size=1, max_size=80), st.floats(20, 300), st.integers(1, 3))
def test_labels_stay_in_their_boxes(text, room, lines):
    done = graph.wrap(text, room, 11.5, lines)
    assert len(done) <= lines
    assert all(graph.long(line, 11.5) <= room + 1e-6 or line == "…" for line in done)


def test_labels_break_between_words():
    assert graph.wrap("What does the source say?", 80, 11.5, 3) == ["What does", "the source", "say?"]
    assert graph.wrap("那么结果是什么呢", 60, 11.5, 2)[0] == "那么结果是"
    assert graph.fit("abcdef", 1000, 11.5) == "abcdef"
    assert graph.fit("abcdef", 30, 11.5).endswith("…")
