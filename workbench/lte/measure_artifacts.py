"""What the trained artifacts are worth, written beside them: results.json and curves.csv.

Every row is measured once and kept, so that a run that was ended goes on with the next row. All of it is on the
held-out part; post-hoc methods work on the model that was fine-tuned dense, with the same steps and batches.
"""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from workbench import aside, lm
from workbench.lm.files import manifest
from workbench.lte import activity, evaluate, lora, posthoc, save
from workbench.lte.arms import calibrated, make_task
from workbench.lte.config import TEXT
from workbench.lte.data import Example
from workbench.lte.recorded import BARE
from workbench.lte.schedule import Step
from workbench.lte.shelf import ARTIFACTS
from workbench.lte.sparse_model import SparseModel
from workbench.lte.tasks import PROMPT, LanguageModelling, Sentiment
from workbench.lte.train import train
from workbench.lte.train_artifacts import RECIPES, base_model, groupings, prepare, runs, say

TAUS = (0.3, 0.4, 0.45, 0.55, 0.6, 0.7, 0.8)
SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MOST = {"sentiment": 300, "news": 96}  # of a task's examples, for rows beside the two arms
ARMS_SEE = {"sentiment": 4000, "news": 96}  # by the two arms: all there is of sentiment
Row = dict[str, Any]


def run(action: str, name: str, arm: str, seed: int) -> None:
    """`finish`: save this arm and measure both. `posthoc`: measure what needs no training, at the same sparsities."""
    folder, task = ARTIFACTS / RECIPES[name].name, RECIPES[name].task
    book = Book(folder / "results.json", task, seed)
    if action == "finish" and arm == "bare":
        book.forget(arm)
        bare, made, _ = at_its_end(name, arm, seed)
        book.row(BARE, lambda: _measured(bare, made, made.examples("test")[: ARMS_SEE[task]]))
    elif action == "finish":
        source = RECIPES[name].dense_of or name if arm == "dense" else name
        write_curves(folder / "curves.csv", arm, save_arm(source, arm, seed, folder))
        if arm == "lte":
            write_activity(folder, task)
        book.forget(arm)
        measure_arms(book, folder, task)
    else:
        measure_posthoc(book, folder, name, seed)
    say(json.dumps(book.summarised(), indent=1))


def at_its_end(name: str, arm: str, seed: int) -> tuple[SparseModel, Sentiment | LanguageModelling, list[Step]]:
    """The arm as its last checkpoint has it, its task, its steps. RuntimeError when it is not trained to its end."""
    sparse, made = prepare(name, arm, seed)
    config = RECIPES[name].config(arm, seed)
    steps: list[Step] = []
    for step in train(sparse, made, config, runs() / f"{name}-{arm}-{seed}", seen=steps):
        raise RuntimeError(
            f"the {arm} arm of {name} is at step {step.step} of {config.steps}: train it first, to its end"
        )
    return sparse, made, steps


def save_arm(name: str, arm: str, seed: int, folder: Path) -> list[Step]:
    """The arm's last checkpoint as an artifact; returns its steps. RuntimeError when it is not trained to its end."""
    sparse, made, steps = at_its_end(name, arm, seed)
    base = manifest(lm.path("smollm2"))["fingerprint"]
    own = calibrated(sparse, made)
    offset = own.offset if isinstance(own, Sentiment) else 0.0
    info = {
        "offset": offset,
        "arm": arm,
        "base": base,
        "task": RECIPES[name].task,
        "seed": seed,
        "config": asdict(RECIPES[name].config(arm, seed)),
        "model": "SmolLM2-135M",
    }
    save.save(folder / arm, sparse, info)
    return steps


def write_curves(file: Path, arm: str, steps: list[Step]) -> None:
    """Every step of both arms as CSV; those of the other arm stay."""
    names = ["step", "stage", "loss", "task_loss", "sparsity", "eta", "score"]
    rows: dict[str, list[list[str]]] = {"dense": [], "lte": []}
    if file.is_file():
        with file.open(newline="") as stream:
            for row in list(csv.reader(stream))[1:]:
                rows[row[0]].append(row)
    rows[arm] = [[arm, *(_cell(asdict(step)[n]) for n in names)] for step in steps]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["arm", *names], *rows["dense"], *rows["lte"]])


def _cell(value: str | float | None) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def write_activity(folder: Path, task: str) -> None:
    """The experts of the text that stands in the form, so that the slider has something to threshold before any run."""
    model, tokens = base_model()
    activity.write(
        folder,
        activity.run_text(
            save.load(folder / "lte", model), tokens, PROMPT.format(text=TEXT) if task == "sentiment" else TEXT
        ),
    )


class Book:
    """results.json: rows by name, each measured once; with what they were measured on."""

    def __init__(self, file: Path, task: str, seed: int) -> None:
        self.file = file
        machine = f"{_processor()}, 1 thread, torch {torch.__version__}, {lm.fast_dtype()}"
        fresh = {"format": 1, "task": task, "seed": seed, "measured_on": machine, "rows": {}, "answers": {}}
        self.content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else fresh
        if any(self.content[key] != fresh[key] for key in ("measured_on", "seed")):
            self.content = fresh  # rows of another machine, type or seed cannot stand beside new ones

    def row(self, name: str, made: Callable[[], tuple[evaluate.Measured, float]]) -> None:
        """Measure `name` unless it is there; `made` returns what was measured and the sparsity, of neurons."""
        if name in self.content["rows"]:
            return
        found, sparsity = made()
        if found.right:
            value, unit = evaluate.proportion(found.right), "accuracy"
            self.content["answers"][name] = "".join("01"[right] for right in found.right)
        else:
            value, unit = evaluate.perplexity(found.nll), "perplexity"
        row = {"unit": unit, **asdict(value), "sparsity": sparsity, "unread": found.unread}
        if any(found.sparsity):
            row["layers"] = [round(s, 4) for s in found.sparsity]
        self.content["rows"][name] = _short(row)
        self._write()
        say(f"{name}: {unit} {value.value:.4f} [{value.low:.4f}, {value.high:.4f}] at {sparsity:.3f}")

    def forget(self, arm: str) -> None:
        """This arm was trained anew: what was measured of the last one is void, and of the dense one what thins it."""
        void = (f"{arm} ", *(f"{method} " for method in posthoc.METHODS if arm == "dense"))
        for part in ("rows", "answers"):
            own = self.content[part]
            self.content[part] = {n: v for n, v in own.items() if n != arm and not n.startswith(void)}

    def summarised(self) -> Row:
        """The two arms side by side, and whether the goal was met: 80 % of the FFN left out, within 2 points."""
        rows, answers = self.content["rows"], self.content["answers"]
        if not {"lte", "dense"} <= set(rows):
            return {}
        found: Row = {"sparsity": rows["lte"]["sparsity"], "lte": rows["lte"]["value"], "dense": rows["dense"]["value"]}
        if {"lte", "dense"} <= set(answers):
            pair = [[mark == "1" for mark in answers[name]] for name in ("lte", "dense")]
            gap = asdict(evaluate.difference(*pair))
            found["lte_minus_dense"] = _short(gap)
            found["goal_met"] = bool(found["sparsity"] >= 0.8 and gap["value"] >= -0.02)
        self.content["summary"] = found
        self._write()
        return found

    def _write(self) -> None:
        """Replace the file as a whole: a kill in between leaves the rows before."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with aside.whole(self.file) as out:
            out.write((json.dumps(self.content, indent=1) + "\n").encode())


def measure_arms(book: Book, folder: Path, task: str) -> None:
    """Both artifacts as saved, on held-out texts; LTE at other thresholds; the model before any training."""
    model, tokens = base_model()
    made = make_task(task, tokens)
    held_out = made.examples("test")[: ARMS_SEE[task]]
    some = _some(held_out, task)
    dense = save.load(folder / "dense", model)
    book.row("dense", lambda: _measured(dense, made, held_out))
    lora.remove(dense.to_dense(merge=False))
    untrained = SparseModel(model, dense.groupings)
    book.row("untrained", lambda: _measured(untrained, made, some))
    untrained.to_dense(merge=False)
    lte = save.load(folder / "lte", model)
    book.row("lte", lambda: _measured(lte, made, held_out))
    for tau in TAUS:
        lte.set_tau(tau)
        book.row(f"lte tau {tau}", lambda: _measured(lte, made, some))
    lte.set_mode("dense")
    book.row("lte all experts", lambda: _measured(lte, made, some))


def measure_posthoc(book: Book, folder: Path, name: str, seed: int) -> None:
    """Each post-hoc method on the dense arm, or on the base model where no arm is trained; k-means blocks."""
    model, tokens = base_model()
    made = make_task(RECIPES[name].task, tokens)
    cut = groupings(model, name, made, seed)
    tuned = (folder / "dense" / save.CONFIG).is_file()
    sparse = save.load(folder / "dense", model) if tuned else SparseModel(model, cut)
    for layer, group in zip(sparse.layers, cut):
        layer.grouping = group
    some = _some(made.examples("test"), RECIPES[name].task)
    batches = [made.batch(i, 16, seed).ids for i in range(4)]
    book.row(f"{'dense' if tuned else 'base'} on the same examples", lambda: _measured(sparse, made, some))
    target = RECIPES[name].left_out
    order = sorted({*SPARSITIES, target}, key=lambda s: (abs(s - target), s))  # the target first
    for sparsity in order:
        for method in posthoc.METHODS:
            book.row(f"{method} {sparsity}", partial(_thinned, sparse, made, some, method, sparsity, batches))


def _measured(
    sparse: SparseModel, task: Sentiment | LanguageModelling, examples: Sequence[Example]
) -> tuple[evaluate.Measured, float]:
    found = evaluate.measure(sparse, calibrated(sparse, task), examples)  # each row's own offset, whatever the method
    return found, found.mean_sparsity


def _thinned(
    sparse: SparseModel,
    task: Sentiment | LanguageModelling,
    examples: Sequence[Example],
    method: posthoc.Method,
    sparsity: float,
    batches: Sequence[torch.Tensor],
) -> tuple[evaluate.Measured, float]:
    with posthoc.thinned(sparse, method, sparsity, batches) as layers:
        found = evaluate.measure(sparse, calibrated(sparse, task), examples)
    return replace(found, unread=posthoc.unread(layers)), posthoc.measured_sparsity(layers)


def _some(examples: Sequence[Example], task: str) -> list[Example]:
    """The first of the held-out examples, in their own order: the split is by hash, so this is no choice."""
    return list(examples[: MOST[task]])


def _short(row: Row) -> Row:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}


def _processor() -> str:
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({os.cpu_count()} processors)"
    return platform.processor() or platform.machine()
