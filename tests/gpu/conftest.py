"""Tests of this folder run on a GPU. Where there is none nothing is collected: a skipped test is a failure in CI."""

from workbench.kernels.chain import gpu

DEVICES = [kind for kind in gpu.KINDS if not gpu.missing(kind)]
collect_ignore_glob = [] if DEVICES else ["test_*.py"]


def pytest_generate_tests(metafunc):
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", DEVICES)
