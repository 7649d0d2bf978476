"""What measures the artifacts: each row once, every step, and no arm that is not at its end."""

import csv
import json

import pytest
from lte_toys import tiny_sparse, toy

from workbench.lte import evaluate, measure_artifacts, posthoc
from workbench.lte.schedule import Step, TrainConfig
from workbench.lte.train_artifacts import RECIPES


def test_the_book_measures_a_row_once_and_goes_on(tmp_path):
    sparse, task = tiny_sparse(), toy()
    sparse.set_mode("hard")
    asked = []

    def made():
        asked.append(1)
        found = evaluate.measure(sparse, task, task.examples("test"))
        return found, found.mean_sparsity

    for _ in range(2):  # the second finds the first's rows on disk
        book = measure_artifacts.Book(tmp_path / "new" / "results.json", "sentiment", 0)
        book.row("dense", made)
        book.row("lte", made)
    assert len(asked) == 2
    summary = book.summarised()
    assert summary["lte_minus_dense"]["value"] == 0
    assert summary["goal_met"] is False  # nothing is left out by a fresh router
    assert json.loads((tmp_path / "new" / "results.json").read_text())["summary"] == summary


def test_rows_of_another_machine_type_or_seed_are_not_kept(tmp_path, monkeypatch):
    sparse, task = tiny_sparse(), toy()
    found = evaluate.measure(sparse, task, task.examples("valid"))
    file = tmp_path / "results.json"

    def names(seed=0):
        return list(measure_artifacts.Book(file, "sentiment", seed).content["rows"])

    measure_artifacts.Book(file, "sentiment", 0).row("one", lambda: (found, 0.0))
    assert names() == ["one"]
    assert names(seed=1) == []
    for owner, name in ((measure_artifacts, "_processor"), (measure_artifacts.lm, "fast_dtype")):
        with monkeypatch.context() as other:
            other.setattr(owner, name, lambda: "another")
            assert names() == []
    assert names() == ["one"]  # a book that was only opened has written nothing
    book = measure_artifacts.Book(file, "sentiment", 1)
    book.row("two", lambda: (found, 0.0))
    kept = json.loads(file.read_text())
    assert (list(kept["rows"]), list(kept["answers"]), kept["seed"]) == (["two"], ["two"], 1)


def test_what_thins_a_dense_arm_is_forgotten_with_it(tmp_path):
    own = {"dense": ["dense", "dense on the same examples"], "lte": ["lte", "lte tau 0.3", "lte all experts"]}
    thinned = [f"{method} {share}" for method in posthoc.METHODS for share in measure_artifacts.SPARSITIES]
    every = [*own["dense"], *own["lte"], *thinned, "untrained", "base on the same examples"]
    for arm, left in (("dense", [*own["lte"], *every[-2:]]), ("lte", [*own["dense"], *thinned, *every[-2:]])):
        book = measure_artifacts.Book(tmp_path / "results.json", "sentiment", 0)
        book.content |= {"rows": {name: {} for name in every}, "answers": dict.fromkeys(every, "1")}
        book.forget(arm)
        assert list(book.content["rows"]) == list(book.content["answers"]) == left


def test_a_row_that_cannot_be_written_loses_none_before(tmp_path, monkeypatch):
    sparse, task = tiny_sparse(), toy()
    found = evaluate.measure(sparse, task, task.examples("valid"))
    book = measure_artifacts.Book(tmp_path / "results.json", "sentiment", 0)
    book.row("one", lambda: (found, 0.0))
    before = (tmp_path / "results.json").read_text()

    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)  # all is written aside by then
    with pytest.raises(KeyboardInterrupt):
        book.row("two", lambda: (found, 0.0))
    assert (tmp_path / "results.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_curves_hold_every_step_and_keep_the_other_arm(tmp_path):
    steps = [Step(i, "warm", 1.0 / i, 0.5, 0.0, 1.0, None if i % 2 else 0.75, 0.1) for i in range(1, 5)]
    for arm, done in (("lte", steps), ("dense", steps[:1]), ("dense", steps[:2])):  # an arm's new steps replace its old
        measure_artifacts.write_curves(tmp_path / "c.csv", arm, done)
    with (tmp_path / "c.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [r["arm"] for r in rows] == ["dense"] * 2 + ["lte"] * 4
    assert rows[4]["loss"] == "0.33333"
    assert [r["score"] for r in rows[2:4]] == ["", "0.75"]


def test_an_arm_that_is_not_at_its_end_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_artifacts, "prepare", lambda task, arm, seed: (tiny_sparse(), toy()))
    monkeypatch.setattr(measure_artifacts, "runs", lambda: tmp_path)
    short = TrainConfig(warm_steps=1, soft_steps=1, hard_steps=1)
    monkeypatch.setattr(type(RECIPES["sentiment"]), "config", lambda self, arm, seed: short)
    with pytest.raises(RuntimeError, match="the lte arm of sentiment is at step 1 of 3: train it first, to its end"):
        measure_artifacts.save_arm("sentiment", "lte", 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
