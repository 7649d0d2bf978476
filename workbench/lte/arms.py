"""The two arms of a run, one after the other on one base model: fine-tuned dense, and trained to leave experts out.

    for arm in shipped(config): ...      loaded from the artifacts that lie beside this file
    trained(config, on_step)             both trained now, on the same batches

An arm is good until the next one is asked for: both share the base model's weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from workbench import lm
from workbench.lm.files import manifest
from workbench.lm.tokenizer import FileTokenizer
from workbench.lte import lora, save, tasks, toy
from workbench.lte.config import LteConfig
from workbench.lte.data import Encoder
from workbench.lte.losses import SeparabilityOptions
from workbench.lte.shelf import ARTIFACTS, FOLDERS
from workbench.lte.sparse_model import SparseModel
from workbench.lte.sparsify import group
from workbench.lte.train import Step, TrainConfig, train

WINDOW = 128  # tokens of the language-modelling windows
Name = Literal["dense", "LTE"]
OnStep = Callable[[Name, Step, int], None]  # the arm, its step, steps in all


@dataclass(frozen=True)
class Arm:
    """A model ready to run in its own mode, its task, and what encodes text for it."""

    name: Name
    model: SparseModel
    task: tasks.Sentiment | tasks.LanguageModelling
    tokens: Encoder


def shipped(config: LteConfig, task: Literal["sentiment", "news"], base: Any, tokens: Encoder) -> Iterator[Arm]:
    """Both shipped arms of `task` on the model `base`. ArtifactError says what is wrong with a file."""
    folder, made = ARTIFACTS / FOLDERS[task], make_task(task, tokens)
    known = manifest(lm.path("smollm2"))["fingerprint"]
    dense = save.load(folder / "dense", base, known)
    try:
        yield Arm("dense", dense, made, tokens)
    finally:
        lora.remove(dense.to_dense(merge=False))
    lte = save.load(folder / "lte", base, known)
    lte.set_tau(config.tau)
    try:
        yield Arm("LTE", lte, made, tokens)
    finally:
        lora.remove(lte.to_dense(merge=False))


def trained(config: LteConfig, on_step: OnStep) -> Iterator[Arm]:
    """Train the dense arm, yield it; train LTE from the same start on the same batches, yield it."""
    base, tokens = base_model(config)
    made = toy.toy_task(config.seed) if config.model == "tiny" else make_task(config.task, tokens)
    names: tuple[Name, Name] = ("dense", "LTE")
    for name in names:
        model = copy.deepcopy(base) if name == "dense" else base
        asked = train_config(config, name)
        batches = [made.batch(i, config.batch, config.seed).ids for i in range(2)]
        groups = group(model, config.grouping, config.seed, batches)
        if config.tune == "lora":
            lora.add(model, config.rank, 2.0 * config.rank, seed=config.seed)
        sparse = SparseModel(model, groups, seed=config.seed)
        for step in train(sparse, made, asked):
            on_step(name, step, asked.steps)
        if name == "LTE":
            sparse.set_tau(config.tau)
        yield Arm(name, sparse, made, tokens)


def train_config(config: LteConfig, name: Name) -> TrainConfig:
    """The trainer's settings for one arm."""
    tiny = config.model == "tiny"
    found = TrainConfig(
        arm="dense" if name == "dense" else "lte",
        target=config.target,
        warm_steps=config.warm_steps,
        soft_steps=config.soft_steps,
        hard_steps=config.hard_steps,
        batch=config.batch,
        tune=config.tune,
        straight_from=0.5,
        separability=replace(SeparabilityOptions(), weight=config.separability),
        validate_every=30 if tiny else 40,
        validate_on=64 if tiny else 100,
        seed=config.seed,
    )
    return replace(found, model_lr=1e-2, router_lr=5e-2) if tiny else found


def make_task(task: str, tokens: Encoder) -> tasks.Sentiment | tasks.LanguageModelling:
    """The task by its name; TextUnavailable where its texts cannot be had."""
    return tasks.sentiment(tokens) if task == "sentiment" else tasks.language_modelling(tokens, WINDOW)


def base_model(config: LteConfig) -> tuple[Any, Encoder]:
    """The model as transformers loads it, before any training, and what encodes its text."""
    if config.model == "tiny":
        return toy.toy_model(config.seed), toy.ToyTokens()
    return load_smollm2(config.weights)


def load_smollm2(dtype: str) -> tuple[Any, FileTokenizer]:
    """SmolLM2-135M-Instruct in the dtype, from the cache (fetched at the first use)."""
    from transformers import AutoModelForCausalLM

    folder = lm.path("smollm2")
    # eager: at 30 tokens a text the fused attention's backward takes longer than the rest of attention together
    how = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, **how).eval(), FileTokenizer(folder)
