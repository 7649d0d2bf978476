"""What the arms of a run are made of: downloads that can be cancelled, and the offset that goes with a threshold."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lte_toys import tiny_llama, tiny_sparse, toy

from workbench.lte import SYSTEM, arms, corpora, measure, save, shelf


class Ended(Exception):
    pass


@pytest.mark.parametrize("at", ["model", "vaderSentiment==0.5", "gensim==4.4.0"])
def test_what_is_downloaded_can_be_cancelled(monkeypatch, at):
    def beat():
        if asked[-1] == at:
            raise Ended

    def path(name, progress):
        asked.append("model")
        progress(1, 2, "fetching")

    def get(package, beat):
        asked.append(package.wanted)
        beat()

    asked = []
    monkeypatch.setattr(arms.lm, "path", path)
    monkeypatch.setattr(corpora, "get", get)
    monkeypatch.setattr(arms, "has_artifact", lambda task: True)
    arms.fetch(SYSTEM.make("tiny"), beat)
    assert asked == []  # a tiny model needs nothing
    with pytest.raises(Ended):
        arms.fetch(SYSTEM.make("small"), beat)
    assert asked[-1] == at
    asked.clear()
    arms.fetch(SYSTEM.make("train", task="sentiment"), lambda: None)
    assert asked == ["model", "vaderSentiment==0.5"]  # the other task's texts are of no use to it


def test_a_run_that_is_cancelled_while_it_downloads_ends_there(monkeypatch):
    stop = threading.Event()

    def path(name, progress):
        stop.set()
        progress(1, 2, "fetching")
        pytest.fail("it went on")

    monkeypatch.setattr(arms.lm, "path", path)
    with pytest.raises(measure.Cancelled):
        measure.measure(SYSTEM.make("small"), lambda _: None, stop)


def test_another_threshold_has_an_offset_of_its_own(monkeypatch, tmp_path):
    """The one that lies beside the model was set at 0.5; the dense arm knows no threshold."""
    for arm in ("dense", "lte"):
        sparse = tiny_sparse(stand_in=4)
        for layer in sparse.layers:
            layer.router.weight.data.normal_(generator=torch.Generator().manual_seed(3))
            layer.router.bias.data.zero_()
        save.save(tmp_path / shelf.FOLDERS["sentiment"] / arm, sparse, {"arm": arm, "base": "b", "offset": 7.5})
    monkeypatch.setattr(arms, "ARTIFACTS", tmp_path)
    monkeypatch.setattr(arms, "make_task", lambda task, tokens: toy())
    monkeypatch.setattr(arms, "manifest", lambda _: {"fingerprint": "b"})
    monkeypatch.setattr(arms.lm, "path", lambda _: Path())
    offsets = {}
    for tau in (0.5, 0.9):
        for arm in arms.shipped(SYSTEM.make("small", tau=tau), "sentiment", tiny_llama(), None):
            offsets[arm.name, tau] = arm.task.offset
            if (arm.name, tau) == ("LTE", 0.9):
                own = replace(arm.task, offset=0.0).calibrated(arm.model, arm.task.examples("valid")[:200])
    assert offsets == {("dense", 0.5): 7.5, ("LTE", 0.5): 7.5, ("dense", 0.9): 7.5, ("LTE", 0.9): own.offset}
    assert own.offset != 7.5
