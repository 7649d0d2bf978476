"""What is wrong with settings, in words: from Python by the field's name, on the command line by its flag."""

import json
from typing import Literal

import contract_toys as toys
import pytest
from pydantic import Field, ValidationError, model_validator

import workbench as wb
from workbench import flags, runner
from workbench.system import ConfigError, system
from workbench.ui.form import Form, plain


class Linked(toys.Toy):
    backend: Literal["auto", "cpu"] = Field("auto", description="Where the work runs")

    @model_validator(mode="after")
    def _fits(self):
        if self.steps > 900 and self.check:
            raise ValueError("steps: checks take at most 900: leave them out")
        if self.mode == "one" and not self.check:
            raise ValueError("one side is always checked: or take both")
        return self


TOY = toys.with_config(Linked)
CASES = [  # changes -> from Python, on the command line
    (
        {"steps": 0},
        "contract_toy: steps: Input should be greater than or equal to 1 (you gave 0)",
        "--steps: Input should be greater than or equal to 1, not 0",
    ),
    (
        {"steps": 901},
        "contract_toy: steps: checks take at most 900: leave them out",
        "--steps: checks take at most 900: leave them out",
    ),
    (
        {"mode": "one", "check": False},
        "contract_toy: one side is always checked: or take both",
        "one side is always checked: or take both",
    ),
    (
        {"steps": "a" * 200},
        "contract_toy: steps: Input should be a valid integer, unable to parse string as an integer (you gave '"
        + "a" * 76 + "...)",
        "--steps: Input should be a valid integer, unable to parse string as an integer, not '" + "a" * 76 + "...",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "python", "line"), CASES)
def test_a_wrong_setting_is_a_line(changes, python, line):
    with pytest.raises(ConfigError) as caught:
        TOY.make("tiny", **changes)
    assert str(caught.value) == python
    assert flags.wrong(caught.value) == line
    assert caught.value.__suppress_context__, "the traceback tells pydantic's story as well"
    assert {"loc", "msg", "input"} <= set(caught.value.errors()[0])


def test_every_wrong_setting_is_named():
    with pytest.raises(ConfigError) as caught:
        TOY.make("tiny", steps=0, factor=-1)
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == [" steps", " factor"]
    assert [error["loc"] for error in caught.value.errors()] == [("steps",), ("factor",)]
    assert plain(caught.value).startswith("steps: Input should be")
    assert "; factor: Input should be greater than 0" in plain(caught.value)


def test_flags_and_form_say_the_same_of_a_check_over_several_fields():
    form = Form(TOY, Linked())
    form.fields["steps"].value = 901
    assert form.errors == {"steps": "checks take at most 900: leave them out"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: wb.run("cake", link_mb_s=-1),
        lambda: wb.run("cake", wb.systems()["cake"].presets["tiny"], link_mb_s=-1),
        lambda: wb.start("cake", preset="tiny", link_mb_s=-1),
        lambda: wb.open("cake", link_mb_s=-1),
        lambda: runner.from_code('wb.run("cake", link_mb_s=-1)'),
    ],
)
def test_every_way_to_a_config_says_it_so(make):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == "cake: link_mb_s: Input should be greater than or equal to 0 (you gave -1)"


def test_a_setting_is_read_by_its_name_of_before():
    """Records are of then; a form, a flag and a call know the name of now alone in what they say."""
    for name, old in (("cake", "sim_hardware"), ("plato", "sim_machine")):
        config = system(name).config
        default = config()
        assert config(**{old: default.sim_device}) == default
        assert config.model_validate_json(json.dumps({old: default.sim_device})) == default
        assert system(name).make("paper", **{old: default.sim_device}).sim_device == default.sim_device
        assert old not in default.model_dump()
        with pytest.raises(ValidationError, match=old):
            config(**{old: default.sim_device, "sim_device": default.sim_device})
        with pytest.raises(ValidationError, match="sim_device"):
            config(**{old: "an abacus"})
    with pytest.raises(ValidationError, match="sim_hardware"):
        system("lte").config(sim_hardware="A100")
