"""Fields of several lines on the command line: typed, or from a file."""

import pytest
import typer
from graph_toy import PLAN, Graphed

from workbench import flags


def given(name, text):
    return flags._given(name, text, Graphed.model_fields[name])


def test_a_graph_is_typed_or_read_from_a_file(tmp_path):
    (tmp_path / "plan.txt").write_text(PLAN + "\n")
    assert given("plan", r"1: a?\n2 <- 1: b?") == "1: a?\n2 <- 1: b?"
    assert given("plan", f"@{tmp_path / 'plan.txt'}") == PLAN
    assert given("plan", "none") is None


def test_a_text_keeps_its_backslashes(tmp_path):
    (tmp_path / "query.txt").write_text("one\ntwo\\n é\n", encoding="utf-8")
    assert given("query", r"what is \nabla?") == r"what is \nabla?"
    assert given("query", f"@{tmp_path / 'query.txt'}") == "one\ntwo\\n é"
    assert given("query", "@@home") == "@home"
    assert given("tag", "@home") == "@home"  # one line: nothing is read


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(typer.BadParameter, match="No such file"):
        given("query", f"@{tmp_path / 'none'}")
    with pytest.raises(typer.BadParameter, match="not UTF-8"):
        given("query", f"@{tmp_path / 'bytes'}")


def test_help_says_so():
    assert "@FILE" in flags._option("query", Graphed.model_fields["query"]).annotation.__metadata__[0].help
    assert "@FILE" not in flags._option("tag", Graphed.model_fields["tag"]).annotation.__metadata__[0].help
