"""The checks themselves: a good toy passes all of them, and each catches the toys that break its rule."""

import contract_checks as checks
import contract_toys as toys
import offer_checks
import pytest

CAUGHT = (AssertionError, ValueError, TypeError, AttributeError, pytest.fail.Exception)
BROKEN = [(check, toy, i) for check, bad in toys.BAD.items() for i, toy in enumerate(bad)]


@pytest.fixture(scope="module")
def good():
    return checks.Subject(toys.GOOD)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path_factory.getbasetemp() / "controls-home"))


def test_every_check_has_a_control():
    assert set(toys.BAD) == {check.__name__ for check in checks.ALL}


@pytest.mark.parametrize("check", checks.ALL, ids=lambda c: c.__name__)
def test_good_toy_passes(good, check, monkeypatch):
    toys.install(toys.GOOD, monkeypatch)
    check(good)


def test_a_result_with_infinity_and_nan_reopens(monkeypatch):
    toys.install(toys.UNBOUNDED, monkeypatch)
    unbounded = checks.Subject(toys.UNBOUNDED)
    assert "inf" in repr(unbounded.result)
    checks.disk(unbounded)


def test_a_toy_that_is_acted_in_holds_to_the_contract(monkeypatch):
    toys.install(toys.OFFERING, monkeypatch)
    subject = checks.Subject(toys.OFFERING)
    for check in checks.ALL:
        check(subject)
    _, chosen = offer_checks.acted(toys.OFFERING)
    assert set(chosen) == {"more", "stop"}  # one of each group


def test_a_setting_may_stand_in_the_summary(monkeypatch):
    def sets(config):
        made = yield from toys.work(config)
        told = made.provenance.model_copy(update={"badges": made.provenance.badges | {"steps": "set"}})
        return made.model_copy(update={"provenance": told})

    asked = toys.but(work=sets)
    toys.install(asked, monkeypatch)
    subject = checks.Subject(asked)
    for check in (checks.summary, checks.disk, checks.provenance):
        check(subject)
    assert subject.first.record.result().provenance.badges["steps"] == "set"


@pytest.mark.parametrize(("check", "toy", "i"), BROKEN, ids=[f"{c}-{i}" for c, _, i in BROKEN])
def test_broken_toy_is_caught(check, toy, i, monkeypatch):
    toys.install(toy, monkeypatch)
    with pytest.raises(CAUGHT):
        getattr(checks, check)(checks.Subject(toy))
