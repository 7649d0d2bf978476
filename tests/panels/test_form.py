"""The form is the config: a widget for each type, exact values, and errors beside the field that they name."""

import graph_toy
import ipywidgets as widgets
import pytest
import toy
from pydantic.fields import FieldInfo

from workbench.system import systems
from workbench.ui.fields import Field
from workbench.ui.fold import Fold
from workbench.ui.form import Form
from workbench.ui.view import PANE


@pytest.fixture
def form(system):
    return Form(system)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chunks", widgets.IntSlider),
        ("link_mb_s", widgets.FloatText),
        ("mode", widgets.Dropdown),
        ("check", widgets.Checkbox),
        ("tag", widgets.Text),
        ("pause_s", widgets.FloatSlider),
        ("seed", widgets.IntText),
    ],
)
def test_widget_follows_the_type(form, name, kind):
    assert type(form.fields[name].input) is kind


def test_every_setting_has_its_help_and_dear_ones_wait_for_release(form):
    for name, info in toy.Toy.model_fields.items():
        texts = [w.value for w in form.fields[name].children if isinstance(w, widgets.HTML)]
        assert any((info.description or "") in text for text in texts)
        assert getattr(form.fields[name].input, "continuous_update", False) is False


@pytest.mark.parametrize(
    "config",
    [
        toy.Toy(),
        toy.Toy(chunks=300, link_mb_s=0.123456789, mode="load", check=False, tag="a 'b' <c>", pause_s=0.333333, seed=9),
        toy.Toy(link_mb_s=999.99),
    ],
)
def test_loaded_config_comes_back_exactly(form, config):
    form.load(config)
    assert form.config == config


def test_none_has_its_meaning_in_words(form):
    field = form.fields["link_mb_s"]
    assert field._none.description == "not throttled"
    assert form.config.link_mb_s is None
    assert field.input.disabled
    field._none.value = False
    field.input.value = 30
    assert form.config.link_mb_s == 30
    assert not field.input.disabled


@pytest.mark.parametrize("value", [999.99, 0.123456789, 123.456789])
def test_a_typed_number_is_taken_as_it_was_typed(form, value):
    field = form.fields["link_mb_s"]
    field._none.value = False
    field.input.value = value
    assert form.config.link_mb_s == value


def test_a_slid_number_is_rounded(form):
    form.fields["pause_s"].input.value = 0.30000000000000004
    assert form.config.pause_s == 0.3


@pytest.mark.parametrize("length", [16_384, 32_768])
def test_a_slid_number_keeps_the_digits_that_the_slider_shows(length):
    hetermoe = Form(systems()["hetermoe"])
    slider = hetermoe.fields["length"].input
    slider.value = length
    assert hetermoe.config.length == length
    slider.value = slider.base**slider.max  # End
    assert hetermoe.errors == {}
    assert hetermoe.config.length == 65_536


def test_a_literal_that_is_none_is_named_beside_its_field():
    field = Field("sizes", FieldInfo(annotation=tuple[int, ...], default=(1,)))
    for text in ("{[]}", "(1", "one"):  # a set of lists cannot be
        field.input.value = text
        with pytest.raises(ValueError, match="not a plain value"):
            _ = field.value
    field.input.value = "(1, 2)"
    assert field.value == (1, 2)


def test_a_screen_reader_is_told_the_visible_label(system):
    """ui/view.js gives its text to all inputs of a field, as a browser test asks; parts of an editor have names."""
    for name, info in graph_toy.Graphed.model_fields.items():
        field = Field(name, info)
        named = [child for child in field.children if 'class="wb-fieldname"' in str(getattr(child, "value", ""))]
        assert named == ([] if field.wide else [field.children[0]])
    assert 'querySelectorAll(".wb-field, .wb-scrub")' in PANE
    assert '".wb-fieldname")?.textContent' in PANE


def test_wrong_value_is_named_beside_its_field(form):
    field = form.fields["link_mb_s"]
    field._none.value = False
    field.input.value = 5000
    assert "less than or equal to 1000" in field.error
    assert "link_mb_s" in field._error.value
    assert [name for name, f in form.fields.items() if f.error] == ["link_mb_s"]
    with pytest.raises(ValueError, match=r"link_mb_s: .*1000"):
        _ = form.config
    field.input.value = 500
    assert field.error == ""
    assert form.config.link_mb_s == 500


def test_error_of_several_fields_stands_over_the_form(form):
    form.fields["mode"].input.value = "load"
    form.fields["chunks"].input.value = 301
    assert "at most 300" in form._general.value
    form.fields["chunks"].input.value = 300
    assert form._general.value == ""


def test_preset_follows_and_leads(form, system):
    form.preset.value = "small"
    assert form.config == system.presets["small"]
    form.fields["chunks"].input.value = 7
    assert form.preset.value == "(changed)"
    form.fields["chunks"].input.value = 12
    assert form.preset.value == "small"


def test_advanced_settings_are_folded(form):
    groups = [child for child in form.children if isinstance(child, Fold)]
    assert [group.title for group in groups] == ["Advanced"]
    assert (groups[0].unfolded, groups[0].body.layout.display) == (False, "none")
    groups[0].head._handle_custom_msg({"pick": "fold"}, [])
    assert (groups[0].unfolded, groups[0].body.layout.display) == (True, "")
    assert 'aria-expanded="true"' in groups[0].head.html


def test_other_config_is_refused(form):
    from workbench.system import Config

    with pytest.raises(TypeError, match="toy takes a Toy, not Config"):
        form.load(Config())


def test_check_over_several_fields_may_name_the_one_to_change(form):
    form.fields["fail_at"].input.value = 500
    form.fields["chunks"].input.value = 9
    assert form.fields["fail_at"].error == "must be a chunk below 400"
    assert form._general.value == ""
