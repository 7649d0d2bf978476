"""Compiling the helper for CUPTI: a compiler that fails or does not end is one error, and leaves nothing behind."""

import subprocess

import pytest

from workbench.kernels import cupti


@pytest.fixture
def headers(monkeypatch, tmp_path):
    monkeypatch.setattr(cupti, "headers", lambda: [tmp_path])
    monkeypatch.setattr(cupti, "_compiler", lambda: "cc")


def late(command, **given):
    raise subprocess.TimeoutExpired(command, given["timeout"])


def fails(command, **given):
    return subprocess.CompletedProcess(command, 1, "", "helper.c: no such header")


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        (late, "cc did not compile the helper within 120 s: is the machine busy"),
        (fails, "the helper does not compile:\nhelper.c: no such header"),
    ],
)
def test_a_compiler_that_does_not_make_it_is_told(runs, says, headers, monkeypatch, tmp_path):
    monkeypatch.setattr(cupti.subprocess, "run", runs)
    with pytest.raises(cupti.NoHelper, match=says):
        cupti.library(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []
