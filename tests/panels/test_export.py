"""Exports are whole, need no network and can be read again; plain results and comparisons say how numbers were had."""

import base64
import json
import re
from typing import get_args

import pandas as pd
import pytest
import toy

import workbench as wb
from workbench import records, theme
from workbench.runner import Run
from workbench.system import Badge
from workbench.ui import export, show
from workbench.ui.compare import compare

FETCHES = re.compile(
    r"""<(?:script|link|img|iframe|source|object)\b[^>]*?(?:src|href|data)\s*=\s*["']?\s*(?:https?:)?//"""
)


@pytest.fixture
def results(system):
    return [Run(system, toy.Toy(chunks=n, tag="</script><b>"), record=False).start().wait(30).result for n in (4, 9)]


def test_report_is_one_offline_page(results):
    page = export.report(results)
    outside = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    assert not FETCHES.search(page)
    assert "http" not in outside.replace('http-equiv="Content-Security-Policy"', "")
    assert page.count("plotly.js v") == 1  # the library's own banner
    assert "default-src 'none'" in page
    assert page.count('class="plotly-graph-div"') == 2
    for said in ("4 chunks were had", "The paper&#x27;s numbers" if "&#x27;s numbers" in page else "paper's numbers"):
        assert said in outside
    assert all(
        word in outside for word in ("measured", "modelled", "2.6&nbsp;×", "not tried here", "a toy", "Settings")
    )


def test_fetch_pattern_would_find_a_fetch():
    assert FETCHES.search('<script src="https://cdn.example/plotly.js">')
    assert FETCHES.search("<link rel=x href='//cdn.example/a.css'>")


def test_downloads_in_the_page_are_the_files(results):
    page = export.report(results[:1])
    data = dict(re.findall(r'download="toy(\.[a-z.]+)" href="data:[a-z/]+;base64,([^"]+)"', page))
    assert set(data) == {".csv", ".json", ".trace.json"}
    trace = json.loads(base64.b64decode(data[".trace.json"]))
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(spans) == 4
    assert spans[0]["args"]["choice"] == "compute"


def test_files_can_be_read_again(results, system, tmp_path):
    result = results[0]
    read = records.read_result(system, export.save(result, tmp_path / "a.json").read_text())
    assert read == result
    table = pd.read_csv(export.save(result, tmp_path / "a.csv"))
    pd.testing.assert_frame_equal(table, result.to_frame())
    assert json.loads(export.save(result, tmp_path / "a.trace.json").read_text())["traceEvents"]
    assert "Toy: two lanes race" in export.save(result, tmp_path / "a.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.html", "a.json", "a.trace.json"]
    with pytest.raises(ValueError, match="saved as"):
        export.save(result, tmp_path / "a.doc")


def test_failed_save_leaves_the_old_file_alone(results, tmp_path, monkeypatch):
    path = export.save(results[0], tmp_path / "a.csv")
    before = path.read_text()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export.save(results[1], path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_result_bundle_has_all_forms_and_is_stable(results):
    one, two = show.mimebundle(results[0]), show.mimebundle(results[0])
    assert one == two
    assert set(one) == {"text/plain", "text/html", show.PLOTLY}
    assert json.dumps(one).count('"uid"') == 0
    assert len(json.dumps(one[show.PLOTLY])) < 200_000
    assert "speedup 1.6" in one["text/plain"]
    assert "&lt;last&gt;" in one["text/html"]
    assert "modelled" in one["text/html"]


def test_result_shows_as_two_plain_outputs(results, capsys):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.testing.globalipapp import start_ipython  # noqa: F401  its capture needs a shell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    with capture_output() as said:
        results[0]._ipython_display_()
    InteractiveShell.clear_instance()
    assert [sorted(o.data) for o in said.outputs] == [["text/html", "text/plain"], [show.PLOTLY, "text/plain"]]


def test_comparison_has_ratio_badges_and_differences(results, system):
    run = Run(system, toy.Toy(chunks=9, seed=1)).start().wait(30)
    both = wb.compare(results[0], run)
    frame = both.to_frame().set_index("number")
    assert list(frame.columns) == ["a", "b", "ratio", "badge_a", "badge_b"]
    assert frame.loc["chunks", "ratio"] == pytest.approx(9 / 4)
    assert frame.loc["speedup", "badge_b"] == "modelled"
    assert set(both.differences()) == {"seed", "chunks", "tag"}
    assert "chunks = 4 (a), 9 (b)" in both.sentence()
    assert theme.problems(both.figure()) == []
    assert "text/html" in both._repr_mimebundle_()
    assert compare(run.record, run).differences() == {}


def test_one_name_with_and_without_a_unit_is_two_rows(results, monkeypatch):
    """As mm2's pairs and pairs a second: bars of one label would lie upon each other."""
    monkeypatch.setattr(toy.ToyResult, "summary", lambda self: {"pairs": 8.0, "pairs_per_s": 2.0})
    both = compare(*results[:2])
    (bars,) = both.figure().data
    assert list(bars.y) == ["pairs", "pairs (/s)"]
    assert [line.split("  ")[0] for line in str(both).splitlines()[4:]] == ["pairs", "pairs (/s)"]
    assert "pairs (/s)" in both.html()


def test_comparison_is_text_outside_a_notebook(results, system):
    run = Run(system, toy.Toy(chunks=9, seed=1)).start().wait(30)
    said = str(wb.compare(results[0], run)).splitlines()
    assert repr(wb.compare(results[0], run)).splitlines() == said
    assert said[0].startswith("Settings that differ: ")
    assert "chunks = 4 (a), 9 (b)" in said[0]
    table = [re.split(r"  +", line) for line in said[2:]]
    assert table[0] == ["number", "a", "b", "b / a", "how it was had"]
    assert ["speedup", "1.6", "1.6", "1 x", "modelled"] in table
    assert ["chunks", "4", "9", "2.25 x", "measured"] in table
    three = str(wb.compare(results[0], run, results[1], names=["x", "y", "z"])).splitlines()
    assert re.split(r"  +", three[2]) == ["number", "x", "y", "z", "y / x", "z / x", "how it was had"]


@pytest.mark.parametrize("name", get_args(Badge))
def test_every_badge_has_a_look_that_can_be_read_and_a_meaning(name, results):
    ink, ground, meaning = show._BADGES[name]
    assert theme.contrast(ink, ground) >= 4.5
    assert f'title="{meaning}"' in show.badge(name)
    assert len({look[2] for look in show._BADGES.values()}) == len(get_args(Badge))
    assert show.badge(name) in export.report([results[0]]), "the legend leaves it out"


def test_a_setting_among_the_numbers_wears_set(results):
    told = results[0].provenance.model_copy(update={"badges": results[0].provenance.badges | {"chunks": "set"}})
    shown = results[0].model_copy(update={"provenance": told})
    assert 'title="as asked, neither measured nor modelled">set<' in show.summary_html(shown)
    assert 'title="as asked, neither measured nor modelled">set<' in compare(shown, shown).html()


def test_comparison_refuses_what_it_cannot_compare(results, system):
    class Other(toy.ToyResult):
        pass

    other = Other(**results[0].model_dump() | {"config": results[0].config, "provenance": results[0].provenance})
    with pytest.raises(ValueError, match=r"different systems.*Other, ToyResult"):
        compare(results[0], other)
    failed = Run(system, toy.Toy(fail_at=1), record=False).start().wait(30)
    with pytest.raises(ValueError, match="is failed: it has no result"):
        compare(results[0], failed)
    with pytest.raises(TypeError, match="not int"):
        compare(results[0], 3)


def test_large_files_are_not_put_into_links(results, monkeypatch):
    monkeypatch.setattr(export, "MOST_LINK", 10)
    said = export.links(results[0], "toy")
    assert "too large for a link; save the result as CSV" in said
    assert "base64" not in said
    assert 'href="a%20b.csv"' in export.links(results[0], "toy", beside="a b")


def test_a_report_has_its_files_beside_it(results, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MOST_LINK", 400)  # the table is smaller, JSON and trace are larger
    paths = export.save_report(results, tmp_path / "r.html", {"Other": "the <disk> is full"})
    assert sorted(paths) == sorted(tmp_path.iterdir())
    assert [p.name for p in paths[:3]] == ["r.html", "r-toy.csv", "r-toy.json"]
    page = paths[0].read_text()
    linked = re.findall(r'href="(r-[^"]+)"', page)
    assert linked == ["r-toy.json", "r-toy.trace.json", "r-toy-2.json", "r-toy-2.trace.json"]
    assert all((tmp_path / name).exists() for name in linked)
    assert "No result:</b> the &lt;disk&gt; is full" in page
    assert pd.read_csv(tmp_path / "r-toy-2.csv").shape == (9, 2)
