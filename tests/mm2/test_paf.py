"""A hit's line is minimap2's, and comes back as the same hit."""

import dataclasses
import io

import pytest

from workbench.mm2.paf import Hit, parse, read_paf, write_paf

LINE = (
    "76a5b578\t21845\t108\t21602\t-\tK-12-MG1655\t4639675\t1838983\t1862697\t4851\t23754\t60\t"
    "tp:A:P\tcm:i:477\ts1:i:4352\ts2:i:0\tdv:f:0.0066\trl:i:0"
)
HIT = Hit(
    *("76a5b578", 21845, 108, 21602, "-", "K-12-MG1655", 4639675, 1838983, 1862697, 4851, 23754, 60),
    primary=True, anchors=477, score=4352, second=0, divergence=0.0066, repetitive=0,
)  # fmt: skip


def test_a_line_of_minimap2():
    assert HIT.paf() == LINE
    assert parse(LINE) == HIT


@pytest.mark.parametrize(
    ("change", "tags"),
    [
        ({"primary": False}, "tp:A:S\tcm:i:477\ts1:i:4352\tdv:f:0.0066\trl:i:0"),
        ({"divergence": 0.0}, "tp:A:P\tcm:i:477\ts1:i:4352\ts2:i:0\tdv:f:0\trl:i:0"),
        ({"divergence": -1.0}, "tp:A:P\tcm:i:477\ts1:i:4352\ts2:i:0\trl:i:0"),
        ({"divergence": 0.00004}, "tp:A:P\tcm:i:477\ts1:i:4352\ts2:i:0\tdv:f:0.0000\trl:i:0"),
        ({"repetitive": 75, "second": 9}, "tp:A:P\tcm:i:477\ts1:i:4352\ts2:i:9\tdv:f:0.0066\trl:i:75"),
    ],
)
def test_tags(change, tags):
    assert "\t".join(dataclasses.replace(HIT, **change).paf().split("\t")[12:]) == tags


def test_written_and_read(tmp_path):
    hits = [HIT, dataclasses.replace(HIT, query="\udcff", strand="+", primary=False)]
    with (tmp_path / "x.paf").open("wb") as file:
        assert write_paf(hits, file) == 2
    assert (tmp_path / "x.paf").read_bytes().splitlines()[1].startswith(b"\xff\t")
    assert list(read_paf(tmp_path / "x.paf")) == hits


def test_hits_are_written_as_they_come():
    out, seen = io.BytesIO(), []

    def hits():
        for _ in range(3):
            seen.append(out.getvalue().count(b"\n"))
            yield HIT

    write_paf(hits(), out)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("line", ["", "a\tb", LINE.replace("\t-\t", "\t?\t"), LINE.replace("21845", "x")])
def test_what_is_no_paf_is_told(tmp_path, line):
    (tmp_path / "x.paf").write_text(f"{LINE}\n{line}\n")
    with pytest.raises(ValueError, match=r"x.paf, line 2: not PAF"):
        list(read_paf(tmp_path / "x.paf"))
