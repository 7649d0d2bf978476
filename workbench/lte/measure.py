"""A measured run: both arms scored on held-out text, the control, the text's experts, kernel, decode, unions."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from workbench.held import Held
from workbench.lm.threads import compute_threads
from workbench.lte import activity, arms, decode, evaluate, recorded, shelf, speed, tasks, toy
from workbench.lte.arms import Arm, Name
from workbench.lte.config import LteConfig
from workbench.lte.data import Example
from workbench.lte.result import CHANCE, THIS_RUN, Activity, LteResult, Row
from workbench.lte.schedule import Step
from workbench.lte.sparse_model import SparseModel
from workbench.lte.work import stamped
from workbench.system import Event, Note, Point, Progress

BATCHES = (1, 2, 4, 8, 16)
TEXTS = 48  # held-out texts whose last tokens are routed for masks and unions
SLICE = 16  # examples scored between two looks at cancel
Say = Callable[[Event], None]
Places = dict[Name, tuple[float, float]]
Task = tasks.Sentiment | tasks.LanguageModelling


class Cancelled(RuntimeError):
    """The run was cancelled; its generator is closed, so that nobody hears this."""


def measure(config: LteConfig, say: Say, stop: threading.Event) -> LteResult:
    """Run it all. TextUnavailable, ModelUnavailable, ArtifactError, Diverged and ValueError say what is missing."""
    with compute_threads(1):
        return _Run(config, say, stop).whole()


class _Run:
    """What a run has found so far."""

    def __init__(self, config: LteConfig, say: Say, stop: threading.Event) -> None:
        self.config, self._say, self.stop = config, say, stop
        self.began, self.share = time.monotonic(), 0.0
        self.rows: list[Row] = []
        self.strokes: list[Held] = []
        self.notes: list[str] = []
        self.answers = hashlib.sha256()
        self.activity: Activity | None = None
        self.exact, self.control = 0.0, 0.0

    def whole(self) -> LteResult:
        """Train where asked, score, look at the text, time; then put the result together."""
        config = self.config
        self.tell(0.0, "looking for the model and the texts")
        arms.fetch(config, self.look)
        if config.use == "train":
            self._pair(arms.trained(config, self._step), {"dense": (0.3, 0.33), "LTE": (0.63, 0.7)}, drawn=True)
        else:
            self._shipped()
        self.tell(1.0, "done")
        rows = [*self.rows, *(recorded.rows() if config.model != "tiny" else [])]
        facts = {
            "rows": rows, "strokes": self.strokes, "notes": self.notes, "activity": self.activity,
            "answers_hash": self.answers.hexdigest()[:16], "recorded_on": recorded.machine(),
            "decode_max_diff": self.exact, "control_max_diff": self.control,
        }  # fmt: skip
        return stamped(config, "cpu", time.monotonic() - self.began, facts)

    def _shipped(self) -> None:
        """The shipped models: the one asked for is drawn and timed, the other one scored beside it."""
        config = self.config
        if not shelf.has_artifact(config.task):
            raise ValueError(f"no model is shipped for task {config.task!r} in {shelf.ARTIFACTS}: take use='train'")
        self.tell(0.01, "loading SmolLM2")
        base, tokens = arms.base_model(config)
        other: Literal["sentiment", "news"] = "news" if config.task == "sentiment" else "sentiment"
        places: Places = {"dense": (0.08, 0.22), "LTE": (0.22, 0.36)}
        self._pair(arms.shipped(config, config.task, base, tokens), places, drawn=True)
        if shelf.has_artifact(other):
            places = {"dense": (0.72, 0.85), "LTE": (0.85, 0.99)}
            self._pair(arms.shipped(config, other, base, tokens), places, drawn=False)

    def _pair(self, made: Iterator[Arm], places: Places, *, drawn: bool) -> None:
        """Score both arms, each between its two shares of the run; the drawn pair's sparse one is looked at closely."""
        try:
            for arm in made:
                self._score(arm, *places[arm.name])
                if drawn and arm.name == "LTE":
                    self._closely(arm, places[arm.name][1])
        finally:
            made.close()  # type: ignore[attr-defined]

    def _step(self, name: Name, step: Step | None, steps: int) -> None:
        """A step of training as the panel shows it; None: still waiting for one."""
        self.look()
        if step is None:
            return
        part = {"dense": 0.0, "LTE": 0.33}[name]
        self.tell(part + 0.3 * step.step / steps, f"training {name}, step {step.step} of {steps}, {step.stage}")
        row = partial(Row, what="train", x=float(step.step))
        self.rows.append(row(name=name, value=step.task_loss, unit="loss (nats)"))
        self._say(Point(f"{name}: task loss (nats)", float(step.step), step.task_loss))
        if name == "LTE":
            self.rows.append(row(name=name, value=step.sparsity, unit="sparsity"))
            self._say(Point("LTE: left out (share)", float(step.step), step.sparsity))
        if step.score is not None:
            self.rows.append(row(name=name, value=step.score, unit="held-out score"))
            self._say(Point(f"{name}: held-out score (1)", float(step.step), step.score))

    def _score(self, arm: Arm, start: float, end: float) -> None:
        """Accuracy or perplexity on held-out text, and for the sparse arm the control: as many experts by lot."""
        with self.lane("scoring", f"{arm.name}", "compute"):
            found = self._measured(arm, arm.task, start, end, arm.name)
        if arm.name == "LTE":
            self.answers.update(repr((found.right, [round(v, 4) for v in found.nll])).encode())
            with self.lane("scoring", "control: experts by lot", "oracle"), by_lot(arm.model, self.config.seed):
                self._measured(arm, arms.calibrated(arm.model, arm.task, 2 * TEXTS), end, end, CHANCE)
        if self.config.model == "tiny" and isinstance(arm.task, tasks.Sentiment):
            self._measured(arm, toy.toy_language(arm.task), end, end, arm.name)

    def _measured(self, arm: Arm, task: Task, start: float, end: float, name: str) -> evaluate.Measured:
        most = self.config.examples if isinstance(task, tasks.Sentiment) else self.config.windows
        examples = task.examples("test")[:most]
        parts: list[evaluate.Measured] = []
        for at in range(0, len(examples), SLICE):
            self.tell(start + (end - start) * at / len(examples), f"scoring {name} on held-out text")
            parts.append(evaluate.measure(arm.model, task, examples[at : at + SLICE]))
        found = _joined(parts, [len(examples[at : at + SLICE]) for at in range(0, len(examples), SLICE)])
        self.rows.append(score_row(name, found))
        return found

    def _closely(self, arm: Arm, end: float) -> None:
        """What is looked at of the sparse model: its experts for the text, its kernels, its decoding, its unions."""
        config, model = self.config, arm.model
        self.tell(end, "routing the text")
        with self.lane("text", "experts of the text", "plan"):
            self.activity = activity.run_text(model, arm.tokens, arm.prompt(config.text))
        activity.remember(config, self.activity)
        texts = [torch.tensor([e.ids]) for e in some(arm.task.examples("test"), TEXTS)]
        inputs, masks = speed.seen(model, texts, TEXTS)
        gates = [np.stack([m[0].float().numpy() for m in token]) for token in masks]
        for size, measured, independent in activity.union(gates, 0.5, BATCHES):
            self.rows.append(Row(what="union", name="measured", x=size, value=measured, unit="share of experts"))
            row = Row(what="union", name="independent", x=size, value=independent, unit="share of experts")
            self.rows.append(row.model_copy(update={"badge": "modelled"}))
        layers = speed.Layers(model, config.weights)
        with self.lane("kernel", "all FFNs of a token, interleaved", "compute"):
            self._kernel(layers, inputs, masks, end)
        self._decode(arm, end + 0.15)

    def _kernel(self, layers: speed.Layers, inputs: list[list[Tensor]], masks: list[list[Tensor]], at: float) -> None:
        timing = speed.timed(layers, inputs, masks, self.config.rounds)
        while True:
            try:
                share = next(timing)
            except StopIteration as done:
                self.rows += done.value
                return
            self.tell(at + 0.1 * share, "timing the kernel on fresh masks")

    def _decode(self, arm: Arm, at: float) -> None:
        """Whole tokens, dense and sparse in turn, checked against the definition."""
        config = self.config
        lm = decode.SparseLM(arm.model, arm.tokens, config.weights)
        ids = arm.tokens.encode(arm.prompt(config.text))
        self.exact, self.control = decode.against_definition(lm, arm.model, ids)
        timing = decode.measure(lm, ids, config.new_tokens, config.rounds)
        with self.lane("decode", "dense and sparse in turn", "decode"):
            while True:
                try:
                    share = next(timing)
                except StopIteration as done:
                    found: decode.Decoding = done.value
                    break
                self.tell(at + 0.18 * share, "decoding, dense and sparse in turn")
        left_out = 1 - found.active_share
        for way, speed_s in found.tok_s.items():
            x = left_out if way == "sparse" else 0.0
            self.rows.append(Row(what="decode", name=way, x=x, value=speed_s, unit="tokens/s"))
            share = found.ffn_share[way]
            self.rows.append(Row(what="share", name=f"FFN, {way}", x=x, value=share, unit="share of a token"))
        row = Row(what="share", name="Amdahl ceiling", x=left_out, value=found.ceiling, unit="x", badge="modelled")
        self.rows.append(row)

    @contextmanager
    def lane(self, lane: str, label: str, kind: str) -> Iterator[None]:
        """A span around what is done."""
        began = time.monotonic() - self.began
        yield
        stroke = Held(lane=lane, start_s=began, end_s=time.monotonic() - self.began, label=label, kind=kind)
        self.strokes.append(stroke)
        self._say(stroke.span())

    def tell(self, share: float, note: str) -> None:
        """Progress, which never goes back; raises when the run was cancelled."""
        self.look()
        self.share = max(self.share, min(1.0, share))
        self._say(Progress(self.share, 1.0, note))

    def look(self) -> None:
        """Cancelled is raised when the run was."""
        if self.stop.is_set():
            raise Cancelled

    def note(self, text: str) -> None:
        """Said now, and kept."""
        self.notes.append(text)
        self._say(Note(text))


def score_row(name: str, found: evaluate.Measured, source: str = THIS_RUN) -> Row:
    """A score with its interval, at the sparsity it was measured at."""
    value = evaluate.proportion(found.right) if found.right else evaluate.perplexity(found.nll)
    unit = "accuracy" if found.right else "perplexity"
    at = found.mean_sparsity
    return Row(
        what="score", name=name, x=at, value=value.value, unit=unit, low=value.low, high=value.high,
        unread=found.unread, source=source,
    )  # fmt: skip


def some(examples: Sequence[Example], most: int) -> list[Example]:
    """The first examples: parts are cut by hash, so this is no choice."""
    return list(examples[:most])


@contextmanager
def by_lot(model: SparseModel, seed: int) -> Iterator[None]:
    """As many experts for each token as its router would take, but drawn by lot: what routing has to beat."""
    lot = torch.Generator().manual_seed(seed)

    def choose(gates: Tensor, tau: float) -> Tensor:
        many = (gates > tau).sum(dim=-1, keepdim=True)
        order = torch.rand(gates.shape, generator=lot).argsort(dim=-1).argsort(dim=-1)
        return (order < many).to(gates.dtype)

    before = [layer.chosen for layer in model.layers]
    for layer in model.layers:
        layer.chosen = choose
    try:
        yield
    finally:
        for layer, kept in zip(model.layers, before):
            layer.chosen = kept


def _joined(parts: Sequence[evaluate.Measured], counts: Sequence[int]) -> evaluate.Measured:
    """Parts of one held-out set as one; sparsity weighed by examples."""
    sparsity = np.average([p.sparsity for p in parts], axis=0, weights=counts)
    right = list(chain.from_iterable(p.right for p in parts))
    nll = list(chain.from_iterable(p.nll for p in parts))
    unread = float(np.average([p.unread for p in parts], weights=counts))
    return evaluate.Measured(right, nll, [float(v) for v in sparsity], unread)
