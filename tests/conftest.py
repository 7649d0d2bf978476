"""Every test gets its own history and one compute thread; fast tests run first; in CI a skipped test is a failure."""

import importlib.util
import os
import tempfile
import threading
import time
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

LAST = ("model", "slow", "notebook", "browser", "lmcache", "vllm")  # dear tests, in the order they run
MAY_SKIP = "gpu"
# What takes minutes, longest first: begun last, it would be waited for by a process that has nothing left to do.
LONG = ("notebooks/04", "ray", "tests/cake/test_vllm_bench", "notebooks/05", "tests/plato/test_endpoint_vllm",
        "tests/browser/test_every_panel",
        "tests/rlboost/test_vllm", "tests/plato/test_quality", "notebooks/06", "notebooks/09", "notebooks/01",
        "notebooks/03", "notebooks/07", "tests/browser", "tests/contract/test_soak",
        "tests/plato/test_vllm", "tests/hetermoe", "tests/foundry", "tests/plato", "tests/cake", "notebooks",
        "tests/kernels", "tests/contract")  # fmt: skip
RAY = ("tests/rlboost/test_kuberay", "tests/rlboost/test_live", "tests/rlboost/test_manager", "notebooks/02_rlboost")


LATE_S = 40  # before the end that TESTS_END names: what is running and what took longest is told
_running, _took = {}, Counter()  # {test: since when}, {unit: s}


def pytest_configure(config):
    """The kernels of notebooks inherit this: they too write their runs somewhere else than the user's history."""
    if config.option.collectonly:
        return
    home = tempfile.TemporaryDirectory(prefix="workbench-test-home-")
    config.add_cleanup(home.cleanup)
    os.environ["WORKBENCH_HOME"] = home.name
    if "TESTS_END" in os.environ and not hasattr(config, "workerinput"):
        late = threading.Timer(float(os.environ["TESTS_END"]) - LATE_S - time.time(), _tell_late, [config])
        late.daemon = True
        late.start()
        config.add_cleanup(late.cancel)


def pytest_runtest_logstart(nodeid):
    _running[nodeid] = time.time()


def pytest_runtest_logreport(report):
    _took[_unit(report.nodeid)] += report.duration
    if report.when == "teardown":
        _running.pop(report.nodeid, None)


def _tell_late(config):
    """Dots alone do not say where an hour went."""
    now = time.time()
    longest = ", ".join(f"{unit} {s:.0f} s" for unit, s in _took.most_common(12))
    running = ", ".join(f"{test} for {now - since:.0f} s" for test, since in list(_running.items()))
    report = config.pluginmanager.get_plugin("terminalreporter")  # whose output is not captured
    report.write(f"\nlate. running: {running or 'nothing'}\nlongest so far: {longest}\n", flush=True)


def pytest_collection_modifyitems(config, items):
    lacking = [name for name in ("vllm", "lmcache") if importlib.util.find_spec(name) is None]
    for item in items:
        for name in lacking:
            if item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{name} is not installed: make setup"))
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(900))  # one cell; a cell may be a whole measurement
    in_parallel = hasattr(config, "workerinput")
    items.sort(key=_length if in_parallel else _dearness)  # stable: within one kind, files stay together


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files of tests on one process, and all that start Ray on the same one: two at once are late."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return _unit(nodeid)

    config.option.loadscopereorder = False  # as they are sorted here, not by how many tests a file has
    return Scheduler(config, log)


def _unit(nodeid):
    """What one process runs as a whole: a file, or all of Ray."""
    return "ray" if nodeid.startswith(RAY) else nodeid.split("::", 1)[0]


def _length(item):
    unit = _unit(item.nodeid)
    return next((at for at, long in enumerate(LONG) if unit.startswith(long)), len(LONG))


def _dearness(item):
    marks = {mark.name for mark in item.iter_markers()}
    if item.path.suffix == ".ipynb":
        marks.add("notebook")
    return max((LAST.index(mark) + 1 for mark in marks if mark in LAST), default=0)


def _must_run(report, item):
    """In CI a skip becomes a failure, so that nothing goes untested unseen."""
    unseen = report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker(MAY_SKIP) is None
    if unseen and os.environ.get("CI", "").lower() in ("1", "true"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where every test must run: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if item.path.suffix != ".ipynb":  # cells tagged nbval-skip are named in their notebook
        _must_run(report, item)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if isinstance(collector, pytest.File):
        _must_run(report, collector)
    return report


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path_factory.mktemp("home")))
