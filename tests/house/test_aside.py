"""A file is there whole or as it was: what raises, what is full, who comes second."""

import errno
import os

import pytest

from workbench import aside


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_there_when_the_block_has_ended_and_not_before(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with aside.whole(file) as out:
        out.write(b"new")
        out.flush()
        assert file.read_bytes() == b"old"
        assert list(tmp_path.glob(aside.left(file)))  # what a kill here would leave
    assert file.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def torn(file, error):
    with aside.whole(file) as out:
        out.write(b"new")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_whatever_raises_leaves_the_old_one(tmp_path, error):
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with pytest.raises(error):
        torn(file, error)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_says_what_could_not_be_written_and_the_way_out(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = "the book: 3 MB cannot be written: No space left on device; free some space or choose another folder"
    with pytest.raises(OSError, match=said) as caught, aside.whole(tmp_path / "a", told="the book: 3 MB") as out:
        out.write(b"new")
    assert caught.value.errno == errno.ENOSPC
    gone = tmp_path / "gone" / "a"  # no space would help there
    said = "the book cannot be written: No such file or directory; choose another folder"
    with pytest.raises(OSError, match=said), aside.whole(gone, told="the book"):
        pass
    with aside.whole(tmp_path / "a", sync=False) as out:  # the control: it was the sync that failed
        out.write(b"new")
    assert names(tmp_path) == ["a"]


def test_a_name_that_is_known_at_the_end(tmp_path):
    size = []
    with aside.whole(tmp_path / "weights", name=lambda: f"{size[0]}.weights") as out:
        size.append(out.write(b"12345"))
    assert names(tmp_path) == ["5.weights"]


def test_of_two_writers_the_later_ones_stays(tmp_path):
    with aside.whole(tmp_path / "a") as one, aside.whole(tmp_path / "a") as two:
        one.write(b"one")
        two.write(b"two")
    assert (tmp_path / "a").read_bytes() == b"one"  # the inner block ended first
    assert names(tmp_path) == ["a"]


def test_no_folder_is_told(tmp_path):
    with pytest.raises(FileNotFoundError), aside.whole(tmp_path / "none" / "a"):
        pass
