"""Text in pieces: ids that two threads give out, characters that come in halves, stop texts that may have begun."""

import threading
import time

import pytest

from workbench.plato.pieces import Words, mended, stopped, unsure


def test_two_threads_never_get_one_id_for_two_texts(monkeypatch):
    """Prompts are cut on one thread while answers come on another."""

    class Slow(list):
        def __len__(self):
            found = super().__len__()
            time.sleep(0.002)  # where another thread gets its turn
            return found

    words = Words()
    monkeypatch.setattr(words, "_texts", Slow(words._texts))
    texts = [[f"{name}{k}" for k in range(20)] for name in "ab"]
    threads = [threading.Thread(target=lambda own: [words.id(text) for text in own], args=(own,)) for own in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    for text in texts[0] + texts[1]:
        assert words.decode([words.id(text)]) == text


@pytest.mark.parametrize(
    ("text", "last", "found"),
    [
        ("", False, ""),
        ("plain \u00e4 \U0001f600", False, "plain \u00e4 \U0001f600"),
        ("a \ud83d", False, "a \ud83d"),  # its other half may still come
        ("a \ud83d\ude00", False, "a \U0001f600"),
        ("a \ud83d", True, "a \ufffd"),
        ("\ude00 b", False, "\ufffd b"),
        ("\ud83dx", False, "\ufffdx"),
        ("\ud83d\ud83d\ude00", False, "\ufffd\U0001f600"),
    ],
)
def test_halves_of_characters(text, last, found):
    assert mended(text, last) == found


def test_what_waits_for_the_next_event():
    stops = ("\n\n", "\nPart ")
    assert [unsure(text, stops) for text in ("a", "a\n", "a\nPar", "a\nPart ", "a\ud83d")] == [0, 1, 4, 0, 1]
    assert stopped("a\nPart 2\n\n", stops, "") == ("a", "stop")
    assert stopped("a\nPar", stops, "budget") == ("a\nPar", "budget")
