"""docs/eighth-system.md: its example is a system like any other, and what the page shows is what the example holds."""

import random
import re
from itertools import permutations
from pathlib import Path

import contract_checks as checks
import pytest

import workbench
from workbench import records, runner, system

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs/eighth-system.md").read_text()


@pytest.fixture(scope="module")
def belady():
    """The example under workbench and in the catalogue, as if its folder lay there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench, "__path__", [*workbench.__path__, str(HERE)])
        patch.setattr(system, "NAMES", (*system.NAMES, "belady"))
        patch.setattr(records, "NAMES", system.NAMES)
        system.systems.cache_clear()
        yield system.system("belady")
    system.system.cache_clear()
    system.systems.cache_clear()


@pytest.fixture(scope="module")
def subject(belady, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
        yield checks.Subject(belady)


@pytest.fixture(autouse=True)
def own_home():
    """The runs of a subject are made once: their home is the subject's."""


@pytest.mark.parametrize("check", checks.ALL, ids=lambda c: c.__name__)
def test_contract(subject, check):
    check(subject)


def test_published_numbers_come_out(belady):
    claims = runner.run("belady", preset="paper").claims()
    assert [(claim.paper, claim.ours) for claim in claims] == [(9.0, 9.0), (10.0, 10.0)]
    assert [claim.ours for claim in runner.run("belady", preset="tiny").claims()] == [None, None]


def misses(name, trace, frames):
    from workbench.belady.replace import POLICIES

    return sum(POLICIES[name](trace, frames))


def least(trace, frames, memory=frozenset()):
    """The definition: the fewest misses over all choices."""
    if not trace:
        return 0
    page, rest = trace[0], trace[1:]
    if page in memory:
        return least(rest, frames, memory)
    if len(memory) < frames:
        return 1 + least(rest, frames, memory | {page})
    return 1 + min(least(rest, frames, memory - {gone} | {page}) for gone in memory)


def test_opt_is_the_least_and_the_others_are_not(belady):
    draw = random.Random(0)
    worse = 0
    for _ in range(60):
        trace = tuple(draw.randrange(5) for _ in range(10))
        fewest = least(trace, 3)
        assert misses("opt", trace, 3) == fewest
        worse += misses("lru", trace, 3) > fewest  # the control
    assert worse > 20


def test_lru_never_gains_by_less_memory_but_fifo_does(belady):
    from workbench.belady.replace import ANOMALY

    assert misses("fifo", ANOMALY, 4) > misses("fifo", ANOMALY, 3)
    assert all(misses("lru", trace, 3) <= misses("lru", trace, 2) for trace in permutations(ANOMALY[:6]))


def test_a_memory_for_everything_is_refused(belady):
    with pytest.raises(ValueError, match="frames: a memory that holds every page has nothing to choose"):
        belady.make("tiny", frames=64)


def test_the_page_shows_the_example_as_it_is():
    files = [path.read_text() for path in (HERE / "belady").glob("*.py")]
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        for part in block.split("    ...\n"):  # where the page leaves lines out
            assert any(part.strip("\n") in text for text in files), part
