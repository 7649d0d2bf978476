"""Files and commands that a command line names and that are not there: one line that says which, no traceback."""

import pytest

from workbench import cli


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (
            "run plato --preset tiny --plan @nowhere.txt", 2,
            "Invalid value: --plan: nowhere.txt cannot be read: No such file or directory",
        ),
        (
            "run mm2 --preset tiny --reads file --reads-file nowhere.fa", 1,
            "FileNotFoundError: nowhere.fa: No such file or directory",
        ),
        (
            "run rlboost --preset small --price-file nowhere.csv", 1,
            "ValueError: nowhere.csv cannot be read: No such file or directory",
        ),
        ("history", 2, "No such command 'history'. workbench --help lists them."),
        ("foundry", 2, "Missing command. workbench foundry --help lists them."),
        ("run mm2 --preset tiny --reads file", 2, "--reads-file: give the file of reads"),
        ("run mm2 --preset tiny --reads-file a.fa", 2, "--reads-file: goes with reads='file' alone"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(line, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    assert cli.call(line.split()) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"workbench: {said}"
