"""A result in a terminal: claims with their error, notes below them by number."""

import contract_toys as toys
import pytest

from workbench import bar, runner, terminal
from workbench.system import Claim

LONG = "measured on one prompt " * 12


def claim(what, paper=2.0, ours=None, note=""):
    return Claim(what=what, paper=paper, ours=ours, unit="x", badge="modelled", source="Fig. 1", note=note)


def words(monkeypatch, claims, columns="80"):
    monkeypatch.setenv("COLUMNS", columns)
    kind = toys.with_result(claims=lambda self: claims)
    toys.install(kind, monkeypatch)
    return terminal.words("Toy", runner.run("contract_toy", preset="tiny"))


@pytest.mark.parametrize(
    ("paper", "ours", "error"),
    [
        *[(2.0, 2.5, 25), (2.0, 1.0, -50), (2.0, 2.0, 0), (-2.0, -1.0, 50)],
        *[(2.0, None, None), (0.0, 1.0, None), (2.0, float("nan"), None), (2.0, float("inf"), None)],
    ],
)
def test_error_is_ours_against_the_papers(paper, ours, error):
    assert terminal.error_pct(claim("a", paper, ours)) == error


def test_of_per_cent_the_error_is_in_points(monkeypatch):
    two = Claim(what="gain", paper=2.0, ours=10.9, unit="%", badge="modelled", source="Fig. 1")
    assert terminal.error_pct(two) == pytest.approx(8.9)  # not four times as much
    assert "+8.9 points" in words(monkeypatch, [two])


def test_claims_have_an_error_and_their_notes(monkeypatch):
    said = words(
        monkeypatch,
        [claim("faster", 2.0, 2.5, LONG), claim("slower", 2.0, 1.9), claim("bigger", 4.0, None, "not tried"),
         claim("again", 2.0, 2.0, LONG)],
    )  # fmt: skip
    lines = said.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("claim of Toy"))
    head, faster, slower, bigger, again = lines[at], *lines[at + 2 : at + 6]
    place = head.index("error")
    assert [line[place : place + 9].strip() for line in (faster, slower, bigger, again)] == [
        "+25.0 %", "-5.0 %", "", "+0.0 %",
    ]  # fmt: skip
    assert [line.split("  ")[0] for line in (faster, slower, bigger, again)] == [
        "faster [1]", "slower", "bigger [2]", "again [1]",
    ]  # fmt: skip
    notes = lines[at + 7 : lines.index("", at + 7)]
    assert lines[at + 6] == ""
    assert notes[0].startswith("[1] measured on one prompt")
    assert all(len(line) <= 80 for line in notes)
    assert all(line.startswith(("    m", "    o", "    p")) for line in notes[1:-1])
    assert " ".join(line.strip() for line in notes[:-1]) == f"[1] {LONG}".strip()
    assert notes[-1] == "[2] not tried"


def test_no_notes_leave_no_gap(monkeypatch):
    assert "\n\n\n" not in words(monkeypatch, [claim("faster", ours=1.0)])
    assert "[1]" not in words(monkeypatch, [claim("faster", ours=1.0)])


def test_a_narrow_terminal_is_wrapped_for(monkeypatch):
    said = words(monkeypatch, [claim("faster", note=LONG)], columns="40")
    notes = said[said.index("\n[1] ") + 1 :].split("\n\n")[0].splitlines()
    assert len(notes) > 4
    assert max(map(len, notes)) <= 40


def test_what_counts_up_is_a_line_every_five_seconds(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: clock[0])
    lines = bar.LinesBar("toy")
    for at in range(12):
        clock[0] = at
        lines.update(at / 12, f"calibrating, {at + 1:,} of 1,000")
    lines.update(1.0, "writing")  # another thing is said at once
    said = capsys.readouterr().err.splitlines()
    assert [line.split("% ")[1] for line in said] == [
        *(f"calibrating, {n} of 1,000" for n in (1, 6, 11)),
        "writing",
    ]
