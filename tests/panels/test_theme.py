"""Colours hold their contrast on both themes, figures that lack something are told so, numbers read well."""

import math

import plotly.graph_objects as go
import pytest

from workbench import theme


def test_contrast_is_wcag():
    assert theme.contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert theme.contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("surface", theme.SURFACES.values(), ids=theme.SURFACES)
@pytest.mark.parametrize("colour", theme.PALETTE)
def test_series_colours_hold_3_to_1(colour, surface):
    assert theme.contrast(colour, surface) >= 3


@pytest.mark.parametrize("original", ["#F0E442", "#E69F00", "#56B4E9"])
def test_the_colours_that_were_changed_would_fail(original):
    assert theme.contrast(original, theme.SURFACES["light"]) < 3


def test_text_of_figures_holds_4_5_to_1():
    assert min(theme.contrast(ink, theme.PAPER) for ink in (theme.INK, theme.QUIET)) >= 4.5


def test_series_differ_without_colour():
    looks = {(s.dash, s.marker) for s in theme.STYLES}
    assert len(looks) == len(theme.STYLES) == len({s.pattern for s in theme.STYLES})


def test_kinds_keep_their_look():
    assert theme.kind("compute") == theme.series(0)
    assert theme.kind("something new") == theme.kind("something new")


def test_kinds_of_one_picture_differ():
    one_query = ("plan", "prefill", "decode", "reuse", "wait", "plain", "join")
    assert len({theme.kind(name) for name in one_query}) == len(one_query)


def test_finish_makes_a_figure_fit_to_show():
    bare = go.Figure(go.Scatter(x=[1], y=[2]))
    assert len(theme.problems(bare)) == 4
    done = theme.finish(bare, "TTFT", "TTFT falls as the link gets faster.", x="link (MB/s)", y="TTFT (s)")
    assert theme.problems(done) == []
    assert done.layout.meta["text"].startswith("TTFT falls")
    assert theme.problems(go.Figure(go.Pie(values=[1]))) == ["no title", 'no text alternative in layout.meta["text"]']


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.5, "1,234"),
        (0.01234, "0.0123"),
        (3.0, "3"),
        (99.96, "100"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (2e-6, "2.00e-06"),
    ],
)
def test_numbers(value, text):
    assert theme.number(value) == text


def test_names_carry_units():
    assert theme.label("link_mb_s") == "link (MB/s)"
    assert theme.label("exact") == "exact"
    assert theme.quantity("compute_only_ttft_s", 1.234) == "1.23 s"
