"""The two arms of a run, one after the other on one base model: fine-tuned dense, and trained to leave experts out.

    for arm in shipped(config): ...      loaded from the artifacts that lie beside this file
    trained(config, on_step)             both trained now, on the same batches

An arm is good until the next one is asked for: both share the base model's weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch

from workbench import lm
from workbench.lm.files import cache_root, manifest
from workbench.lm.tokenizer import FileTokenizer
from workbench.lte import corpora, lora, save, tasks, toy, zero_run
from workbench.lte.config import LEARN, LteConfig
from workbench.lte.controller import ControllerOptions
from workbench.lte.data import Encoder
from workbench.lte.losses import SeparabilityOptions
from workbench.lte.routers import TAU
from workbench.lte.schedule import Step, TrainConfig
from workbench.lte.shelf import ARTIFACTS, FOLDERS, has_artifact
from workbench.lte.sparse_model import SparseModel
from workbench.lte.sparsify import group
from workbench.lte.train import train

LEARNT = ("seed", "task", *(n for n, f in LteConfig.model_fields.items() if f.json_schema_extra == LEARN))
CALIBRATED = 200  # texts of the validation part on which an offset is set
WINDOW = 128  # tokens of the language-modelling windows
OURS = TrainConfig(  # options of ours that every model is trained with, here and for the shelf
    straight_from=0.0,
    router_start="activations",
    teach=3.0,
    controller=ControllerOptions(steer="bias", rise=0.6, hold=1.0, eta=0.1),
)
Name = Literal["dense", "LTE"]
OnStep = Callable[[Name, Step | None, int], None]  # the arm, its step, steps in all
Task = tasks.Sentiment | tasks.LanguageModelling


@dataclass(frozen=True)
class Arm:
    """A model ready to run in its own mode, its task, and what encodes text for it."""

    name: Name
    model: SparseModel
    task: Task
    tokens: Encoder

    def prompt(self, text: str) -> str:
        """The text as this model was trained to read it."""
        return self.task.prompt.format(text=text) if isinstance(self.task, tasks.Sentiment) else text


def shipped(config: LteConfig, task: Literal["sentiment", "news"], base: Any, tokens: Encoder) -> Iterator[Arm]:
    """Both shipped arms of `task` on the model `base`. ArtifactError says what is wrong with a file."""
    folder, made = ARTIFACTS / FOLDERS[task], make_task(task, tokens)
    known = manifest(lm.path("smollm2"))["fingerprint"]
    dense = save.load(folder / "dense", base, known)
    try:
        yield Arm("dense", dense, with_offset(made, folder / "dense"), tokens)
    finally:
        lora.remove(dense.to_dense(merge=False))
    lte = save.load(folder / "lte", base, known)
    lte.set_tau(config.tau)
    task_of_lte = with_offset(made, folder / "lte")
    if config.tau != TAU:  # another threshold, another model
        task_of_lte = calibrated(lte, task_of_lte)
    try:
        yield Arm("LTE", lte, task_of_lte, tokens)
    finally:
        lora.remove(lte.to_dense(merge=False))


def calibrated(model: SparseModel, task: Task, texts: int = CALIBRATED) -> Task:
    """A task of two words with its offset set for this model on the validation part; another task as it is."""
    return task.calibrated(model, task.examples("valid")[:texts]) if isinstance(task, tasks.Sentiment) else task


def with_offset(task: Task, folder: Path) -> Task:
    """A task of two words with the offset that was set for this arm on the validation part."""
    if not isinstance(task, tasks.Sentiment):
        return task
    return replace(task, offset=float(save.read(folder)[0].get("offset", 0.0)))


def trained(config: LteConfig, on_step: OnStep) -> Iterator[Arm]:
    """Train the dense arm, yield it; train LTE from the same start on the same batches, yield it.

    With config.zero on several processes; `on_step` is called with None while nothing comes from them.
    """
    names: tuple[Name, Name] = ("dense", "LTE")
    for name in names:
        sparse, made, asked, tokens = untrained(config, name)
        folder = kept_in(config, name)
        if config.zero == "off":
            before: list[Step] = []  # of a run that was stopped
            going = train(sparse, made, asked, folder, before)
            first = next(going, None)
            for step in chain(before, [first] if first else [], going):
                on_step(name, step, asked.steps)
        else:
            _by_ranks(config, name, sparse, on_step, asked.steps, folder)
        if name == "LTE":
            sparse.set_tau(config.tau)
        yield Arm(name, sparse, calibrated(sparse, made), tokens)


def untrained(config: LteConfig, name: Name) -> tuple[SparseModel, Task, TrainConfig, Encoder]:
    """What one arm starts from: the cut model with its adapters, the task, the trainer's settings, the tokenizer."""
    model, tokens = base_model(config)
    made = toy.toy_task(config.seed) if config.model == "tiny" else make_task(config.task, tokens)
    batches = [made.batch(i, config.batch, config.seed).ids for i in range(2)]
    groups = group(model, config.grouping, config.seed, batches)
    if config.tune == "lora":
        lora.add(model, config.rank, 2.0 * config.rank, seed=config.seed)
    sparse = SparseModel(model, groups, seed=config.seed, stand_in=config.stand_in if name == "LTE" else 0)
    return sparse, made, train_config(config, name), tokens


def kept_in(config: LteConfig, name: Name) -> Path | None:
    """Where an arm's checkpoints lie: the user's cache, by what is trained; None for the tiny model."""
    if config.model == "tiny":
        return None
    trained = {n: v for n, v in config.model_dump(mode="json").items() if n in LEARNT}
    digest = hashlib.sha256(json.dumps(trained | {"dtype": config.weights}, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / "lte" / f"run-{digest}" / name


def _by_ranks(
    config: LteConfig, name: Name, sparse: SparseModel, on_step: OnStep, steps: int, folder: Path | None
) -> None:
    """Train on several processes and take over what they found."""
    going = zero_run.run(config, name, folder)
    try:
        while True:
            on_step(name, next(going), steps)
    except StopIteration as done:
        own = sparse.model_parameters(config.tune) | sparse.router_parameters() | sparse.stand_ins()
        with torch.no_grad():
            for key, value in done.value.items():
                own[key].copy_(value)
    finally:
        going.close()
    sparse.set_mode("dense" if name == "dense" else "hard")


def train_config(config: LteConfig, name: Name) -> TrainConfig:
    """The trainer's settings for one arm."""
    tiny = config.model == "tiny"
    found = replace(
        OURS,
        arm="dense" if name == "dense" else "lte",
        target=config.target,
        warm_steps=config.warm_steps,
        soft_steps=config.soft_steps,
        hard_steps=config.hard_steps,
        batch=config.batch,
        clip=config.clip,
        checkpoint_every=config.checkpoint_every,
        tune=config.tune,
        teach=OURS.teach if config.teach else 0.0,
        distil=1.0 if config.teach else 0.0,
        controller=replace(OURS.controller, start=min(0.7, config.target) if config.stand_in else 0.3),
        separability=replace(SeparabilityOptions(), weight=config.separability),
        validate_every=30 if tiny else 40,
        validate_on=64 if tiny else 100,
        seed=config.seed,
    )
    return replace(found, model_lr=1e-2, router_lr=5e-3) if tiny else replace(found, router_lr=5e-4)


def make_task(task: str, tokens: Encoder) -> Task:
    """The task by its name; TextUnavailable where its texts cannot be had."""
    return tasks.sentiment(tokens) if task == "sentiment" else tasks.language_modelling(tokens, WINDOW)


def base_model(config: LteConfig) -> tuple[Any, Encoder]:
    """The model as transformers loads it, before any training, and what encodes its text."""
    if config.model == "tiny":
        return toy.toy_model(config.seed), toy.ToyTokens()
    return load_smollm2(config.weights)


def fetch(config: LteConfig, beat: Callable[[], None]) -> None:
    """Model and texts into the cache, where they are not yet; `beat` is called meanwhile and may raise to end it."""
    if config.model == "tiny":
        return
    lm.path("smollm2", progress=lambda *_: beat())
    both = config.use == "shipped"
    for package, task in ((corpora.VADER, "sentiment"), (corpora.GENSIM, "news")):
        if config.task == task or (both and has_artifact(task)):
            corpora.get(package, beat)


def load_smollm2(dtype: str) -> tuple[Any, FileTokenizer]:
    """SmolLM2-135M-Instruct in the dtype, from the cache (fetched at the first use)."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes half a second; a run tells its own progress

    folder = lm.path("smollm2")
    # eager: at 30 tokens a text the fused attention's backward takes longer than the rest of attention together
    how = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, **how).eval(), FileTokenizer(folder)
