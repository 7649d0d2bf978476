"""Files that a command line names and that are not there: one line, with the flag or the file, and no traceback."""

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
        ("run mm2 --preset tiny --reads file", 2, "--reads-file: give the file of reads"),
        ("run mm2 --preset tiny --reads-file a.fa", 2, "--reads-file: goes with reads='file' alone"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_there(line, code, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path))
    assert cli.call(line.split()) == code
    assert capsys.readouterr().err.splitlines()[-1] == f"workbench: {said}"
