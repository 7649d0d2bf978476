"""A graph as lines of text: what it reads, what it refuses, and that it reads back what it wrote."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.dag import DagError, Vertex, read, read_line, write

TEXT = """1: What does the first source say?
2 [12]: What does the second source say?
3 <- 1, 2 [48]: What do both agree on?"""


def test_a_graph():
    vertices = read(TEXT)
    assert vertices == [
        Vertex(1, "What does the first source say?"),
        Vertex(2, "What does the second source say?", (), 12),
        Vertex(3, "What do both agree on?", (1, 2), 48),
    ]
    assert write(vertices) == TEXT


def test_white_space_and_order_of_needs_do_not_matter():
    loose = "\n 1:a \n\n\t2  <-1:b\n3<- 2 ,1, 2[ 5 ] :  c: [d] <- 1 \n\n"
    assert read(loose) == [Vertex(1, "a"), Vertex(2, "b", (1,)), Vertex(3, "c: [d] <- 1", (1, 2), 5)]
    assert read("") == read(" \n") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 a", "line 1: '1 a' is not a line like"),
        ("1:", "line 1: '1:' is not a line like"),
        ("a: b", "line 1"),
        ("1 <- : b", "line 1"),
        ("1: a\n\n2 <- 1,: b", "line 3"),
        ("1: a\n2 [x]: b", "line 2"),
        ("1: a\n2 [-5]: b", "line 2"),
        ("2: a", "line 1: id 2, where 1 is next"),
        ("1: a\n1: b", "line 2: id 1, where 2 is next"),
        ("1: a\n3: b", "line 2: id 3, where 2 is next"),
        ("1 <- 1: a", "line 1: 1 needs 1, and only earlier ids"),
        ("1: a\n2 <- 3: b\n3: c", "line 2: 2 needs 3, and only earlier ids"),
        ("1: a\n2 <- 0: b", "line 2: 2 needs 0"),
    ],
)
def test_what_is_no_graph_names_its_line(text, said):
    with pytest.raises(DagError) as error:
        read(text)
    assert str(error.value).startswith(said)
    assert isinstance(error.value, ValueError)


def test_one_line_may_have_any_id():
    assert read_line("7 <- 9, 7: x") == Vertex(7, "x", (7, 9))


LABELS = st.text(min_size=1, max_size=40).map(lambda s: " ".join(s.split())).filter(bool)


@st.composite
def graphs(draw):
    labels = draw(st.lists(LABELS, max_size=12))
    weights = st.none() | st.integers(0, 999_999)
    return [
        Vertex(
            i, label, tuple(sorted(draw(st.sets(st.integers(1, i - 1)) if i > 1 else st.just(set())))), draw(weights)
        )
        for i, label in enumerate(labels, 1)
    ]


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_what_is_written_reads_back(vertices):
    assert read(write(vertices)) == vertices


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["1", "2", ":", "<-", ",", "[", "]", "\n", " ", "a", "²", "٣"])).map("".join)
)
@example("1 <- " + "1," * 5000 + "x")
@example("9" * 5000 + ": a")
@example("1 [" + "9" * 5000 + "]: a")
def test_anything_is_a_graph_or_a_dag_error(text):
    try:
        vertices = read(text)
    except DagError:
        return
    assert [v.id for v in vertices] == list(range(1, len(vertices) + 1))
    assert all(0 < n < v.id for v in vertices for n in v.needs)
