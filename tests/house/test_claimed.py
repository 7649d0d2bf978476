"""All published numbers in one table: from records alone, newest first; what is shipped is what today's code says."""

import gzip
import json

import contract_toys as toys
import pytest

from workbench import claimed, runner, theme
from workbench.cli import call
from workbench.system import Claim, system
from workbench.ui import claims as shown


def claim(what, paper=2.0, ours=None, badge="modelled", unit="x"):
    return Claim(what=what, paper=paper, ours=ours, unit=unit, badge=badge, source="Fig. 1", note="a <note>")


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Installs a toy whose runs have these claims, by preset where they differ; nothing is shipped."""
    monkeypatch.setattr(claimed, "SHIPPED", tmp_path / "shipped")

    def install(*claims):
        toys.install(toys.with_result(claims=lambda self: list(claims)), monkeypatch)
        monkeypatch.setattr(claimed, "NAMES", ("contract_toy",))
        monkeypatch.setattr(shown, "NAMES", ("contract_toy",))
        return system("contract_toy")

    return install


def run(preset="tiny", **changes):
    return runner.run("contract_toy", preset=preset, **changes)


# -- from records ----------------------------------------------------------------------------------------------------


def test_nothing_has_run(toy):
    toy(claim("a", ours=1.0))
    found = claimed.claims()
    assert list(found) == [] == found.skipped
    assert found.to_frame().empty
    assert "0 published numbers" in found.sentence()
    assert "0 published" in shown.html(found)


def test_rows_are_of_the_newest_run_of_a_preset_and_of_no_other_settings(toy):
    toy(claim("a", ours=1.0), claim("b"))
    run(steps=7)  # of no preset
    assert len(claimed.claims()) == 0
    run()
    newest = run()
    found = claimed.claims()
    assert [(row.claim.what, row.preset, row.here) for row in found] == [("a", "tiny", True), ("b", "tiny", True)]
    assert {row.started_at for row in found} == {newest.provenance.started_at}
    assert found[0].command == "workbench run contract_toy --preset tiny"
    assert found[0].ratio == 0.5
    frame = found.to_frame()
    assert frame["how"].tolist() == ["modelled", "not tried"]
    assert frame["error_pct"].iloc[0] == -50


def test_a_claim_is_there_once_for_each_way_it_was_had():
    def source(preset, *claims):
        result = type("R", (), {"claims": lambda self: claims, "provenance": Told})()
        return claimed.Source("toy", preset, result, here=False)

    class Told:
        device, started_at, commit = "a machine", "2026-01-01", "abc"

    rows = claimed.rows([
        source("tiny", claim("a", ours=9.0, badge="measured"), claim("only tiny", ours=1.0), claim("never")),
        source("paper", claim("a", ours=1.5), claim("never")),
        source("small", claim("a", ours=1.0, badge="measured"), claim("never")),
    ])  # fmt: skip
    assert [(r.claim.what, r.claim.badge, r.claim.ours, r.preset) for r in rows] == [
        ("a", "modelled", 1.5, "paper"),
        ("never", "modelled", None, "paper"),
        ("a", "measured", 1.0, "small"),  # not that of tiny
        ("only tiny", "modelled", 1.0, "tiny"),
    ]
    found = claimed.counted(rows)
    assert (found["claims"], found["measured"], found["modelled"], found["not tried"]) == (3, 1, 2, 1)
    assert found[claimed.NEAR] == 0
    assert found["median error (%)"] == 50
    assert claimed.counted([])["median error (%)"] is None


def test_a_damaged_record_is_named_and_the_next_is_taken(toy):
    toy(claim("a", ours=1.0))
    good, bad = (runner.start("contract_toy", preset="tiny").wait(60) for _ in range(2))
    (bad.record.path / "result.json").write_text("{")
    found = claimed.claims()
    assert [row.started_at for row in found] == [good.result.provenance.started_at]
    assert len(found.skipped) == 1
    assert bad.record.id in found.skipped[0]
    assert bad.record.id in shown.html(found)


# -- shipped records -------------------------------------------------------------------------------------------------


def test_a_kept_record_comes_back_and_ones_own_goes_first(toy):
    target = toy(claim("a", ours=1.0))
    result = run()
    file = claimed.keep(target, "tiny", result)
    again = file.read_bytes()
    claimed.keep(target, "tiny", result)
    assert file.read_bytes() == again
    assert [p.name for p in claimed.SHIPPED.iterdir()] == ["contract_toy-tiny.json.gz"]
    assert [row.here for row in claimed.claims()] == [True]
    assert [row.here for row in claimed.claims(shipped=True)] == [False]
    assert claimed.claims(shipped=True).skipped == []


@pytest.mark.parametrize("damage", ["torn", "text", "settings"])
def test_a_shipped_record_that_does_not_fit_is_named(toy, damage):
    target = toy(claim("a", ours=1.0))
    file = claimed.keep(target, "tiny", run())
    data = json.loads(gzip.decompress(file.read_bytes()))
    data["config"]["steps"] = 11
    other = gzip.compress(json.dumps(data).encode())
    told = {"torn": file.read_bytes()[:-20], "text": gzip.compress(b"{"), "settings": other}[damage]
    file.write_bytes(told)
    found = claimed.claims(shipped=True)
    assert len(found) == 0
    assert len(found.skipped) == 1
    assert "contract_toy-tiny.json.gz" in found.skipped[0]
    assert ("other settings now" in found.skipped[0]) == (damage == "settings")


def test_what_is_shipped_is_whole():
    """Every record can be read by today's code and is of today's presets; each system has its paper's numbers."""
    found = claimed.claims(shipped=True)
    assert found.skipped == []
    assert set(found.to_frame()["system"]) == set(claimed.NAMES)
    assert {row.preset for row in found} >= {"small", "paper"}
    both = {"measured", "modelled"}
    assert {row.claim.badge for row in found if row.claim.ours is not None} == both
    assert not theme.problems(found.figure())
    assert len(shown.html(found)) < 150_000


@pytest.mark.parametrize("name", ["foundry", "plato", "lte"])
def test_a_simulated_record_is_what_a_run_says_now(name):
    """Of those whose paper preset takes seconds; the others' numbers are checked where they are made."""
    now = runner.run(name, preset="paper").claims()
    then = claimed.kept(system(name), "paper", []).claims()
    assert [(one.what, one.paper, one.unit, one.badge, one.fitted) for one in now] == [
        (one.what, one.paper, one.unit, one.badge, one.fitted) for one in then
    ]
    tried = [(one.ours, two.ours) for one, two in zip(now, then, strict=True) if two.ours is not None]
    assert [one for one, _ in tried] == pytest.approx([two for _, two in tried], rel=1e-6)  # another processor's sums


# -- as it is shown --------------------------------------------------------------------------------------------------


def test_the_picture_holds_every_number_within_its_axis(toy):
    toy(claim("far", 1.0, 1000.0), claim("near", 2.0, 2.0, "measured"), claim("none"), claim("below", 2.0, -1.0))
    run()
    fig = claimed.claims().figure()
    assert not theme.problems(fig)
    drawn = {trace.name: list(trace.x) for trace in fig.data}
    assert drawn == {"measured": [1.0], "modelled": [shown.FAR], "fitted": []}
    assert "1000" not in str(drawn)
    assert "1,000" in fig.data[1].text[0]  # what it is is told


def test_html_escapes_and_says_where_from(toy):
    toy(claim("<b>a</b>", ours=1.0))
    run()
    said = shown.html(claimed.claims())
    assert "<b>a</b>" not in said
    assert "&lt;b&gt;a&lt;/b&gt;" in said
    assert "workbench run contract_toy --preset tiny" in said
    assert "this machine's history" in said.replace("&#x27;", "'")


def test_the_command_prints_csv_and_names_a_wrong_system(capsys):
    assert call(["claims", "plato"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("system,claim,paper,ours,unit,error_pct,how")
    assert len(lines) > 2
    assert all(line.startswith("plato,") for line in lines[1:])
    assert call(["claims", "nobody"]) == 2
    assert "no system is called nobody" in capsys.readouterr().err


def test_what_was_not_run_is_run_and_kept(toy, capsys, monkeypatch):
    target = toy(claim("a", ours=1.0))
    monkeypatch.setattr(claimed, "FIRST", ("tiny", "small"))
    assert claimed.missing() == [("contract_toy", preset) for preset in ("tiny", "small") if preset in target.presets]
    run()
    assert ("contract_toy", "tiny") not in claimed.missing()
    told = list(claimed.run_missing(runner.follow))
    assert {why for _, _, why in told} == {""}
    assert claimed.missing() == []
    assert len(list(claimed.keep_all())) == len(list(claimed.SHIPPED.iterdir())) == 1 + len(told)


def test_a_run_that_was_not_recorded_is_told(toy, monkeypatch, tmp_path):
    """Its numbers are not in the table, which reads records."""
    toy(claim("a", ours=1.0))
    monkeypatch.setattr(claimed, "FIRST", ("tiny",))
    (tmp_path / "file").touch()
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "file"))
    [(name, preset, why)] = claimed.run_missing(runner.follow)
    assert (name, preset) == ("contract_toy", "tiny")
    assert "not recorded" in why


def test_one_that_fails_is_told_and_the_others_run(toy, monkeypatch):
    toy(claim("a", ours=1.0))
    monkeypatch.setattr(claimed, "FIRST", ("tiny",))

    def fails(run):
        raise OSError("no such machine")

    assert list(claimed.run_missing(fails)) == [("contract_toy", "tiny", "OSError: no such machine")]
