"""Make the trained artifacts anew: `python -m workbench.lte.train_artifacts train sentiment lte`, and so on.

    train RECIPE ARM     train an arm; killed, it goes on where it was. ARM: dense, lte, bare
    finish RECIPE ARM    write the arm's artifact and measure both arms on the held-out part; of bare its row alone
    posthoc RECIPE       measure what needs no training (CATS, TEAL, random, oracles) at the same sparsities

bare is lte without stand-ins and without the teacher's answers: what those two are worth. Shipped are sentiment and
news-65, which is compared with the dense arm of news. SmolLM2-135M on one thread with bfloat16 products: an arm takes a
quarter of an hour to three, with AVX2 alone four times that.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from workbench import lm
from workbench.lm.files import cache_root
from workbench.lm.tokenizer import FileTokenizer
from workbench.lte import lora, tasks
from workbench.lte.arms import OURS, load_smollm2, make_task
from workbench.lte.grouping import Grouping, Method
from workbench.lte.schedule import TrainConfig
from workbench.lte.sparse_model import SparseModel
from workbench.lte.sparsify import group
from workbench.lte.train import train


@dataclass(frozen=True)
class Recipe:
    """What one pair of artifacts is trained with, in both arms alike."""

    name: str  # of the artifact's folder
    task: Literal["sentiment", "news"]
    warm: int
    soft: int
    hard: int
    batch: int
    target: float
    model_lr: float = 4e-4
    stand_in: int = 0  # rank
    distil: float = 0.0
    begin: float = 0.3  # the sparsity at which stage 1 begins
    decay_from: float = 0.0
    rank: int = 8
    grouping: Method = "kmeans"
    router_start: Literal["activations", "fisher"] = "activations"
    start_batches: int = 8
    polish: int = 0
    round_targets: tuple[float, ...] = ()
    dense_of: str = ""  # the recipe whose dense arm is compared with, where that is better than this one's

    @property
    def left_out(self) -> float:
        """The sparsity that the artifact ends at."""
        return self.round_targets[-1] if self.round_targets else self.target

    def config(self, arm: str, seed: int) -> TrainConfig:
        return replace(
            OURS,
            arm="dense" if arm == "dense" else "lte",
            target=self.target,
            warm_steps=self.warm,
            soft_steps=self.soft,
            hard_steps=self.hard,
            batch=self.batch,
            model_lr=self.model_lr,
            decay_from=self.decay_from,
            router_lr=1e-3,
            router_start=self.router_start,
            start_batches=self.start_batches,
            polish_steps=self.polish,
            round_targets=self.round_targets,
            distil=0.0 if arm == "bare" else self.distil,
            controller=replace(OURS.controller, start=self.begin),
            validate_every=150,
            validate_on=24 if self.task == "news" and arm != "dense" else 200,  # windows are dear to score
            checkpoint_every=50,
            seed=seed,
        )


NEWS = Recipe(
    "news-70",
    "news",
    warm=150,
    soft=60,
    hard=420,
    batch=4,
    target=0.72,
    model_lr=1e-3,
    stand_in=32,
    distil=1.0,
    begin=0.6,
    decay_from=0.5,
    grouping="sized",
    start_batches=24,
)
RECIPES = {
    "sentiment": Recipe(
        "sentiment-80",
        "sentiment",
        warm=900,  # the teacher is the model at its end: a poor one would be the sparse model's ceiling
        soft=350,
        hard=550,
        batch=16,
        target=0.82,
        model_lr=6e-4,
        stand_in=32,
        distil=1.0,
        begin=0.7,
        decay_from=0.5,
    ),
    "news": NEWS,
    "news-65": replace(
        NEWS,
        name="news-65",
        warm=300,
        hard=1140,
        target=0.5,
        begin=0.5,
        grouping="fisher",
        router_start="fisher",
        polish=1200,
        round_targets=(0.5, 0.5, 0.5, 0.5, 0.65),  # a model that does with half is where the rest begins
        dense_of="news",  # trained as long as this one's it learns its texts by heart: see docs/decisions.md
    ),
}


def base_model() -> tuple[Any, FileTokenizer]:
    """SmolLM2-135M in the type that is fast on this machine, and its tokenizer."""
    return load_smollm2(lm.fast_dtype())


def groupings(model: Any, name: str, made: tasks.Sentiment | tasks.LanguageModelling, seed: int) -> list[Grouping]:
    """The recipe's grouping of the untrained model; kept in the cache, for it takes some seconds of processor time."""
    method = RECIPES[name].grouping
    kept = runs() / (f"kmeans-{seed}.json" if method == "kmeans" else f"{method}-{name}-{seed}.json")
    if kept.is_file():
        return [np.array(g) for g in json.loads(kept.read_text())]
    found = group(model, method, seed, [made.batch(i, 8, seed).ids for i in range(6)])
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([g.tolist() for g in found]))
    return found


def runs() -> Path:
    """Where checkpoints and intermediate results of these runs lie: the user's cache."""
    return cache_root() / "lte"


def prepare(name: str, arm: str, seed: int) -> tuple[SparseModel, tasks.Sentiment | tasks.LanguageModelling]:
    """An arm's untrained model with its adapters, and its task."""
    recipe = RECIPES[name]
    model, tokens = base_model()
    made = make_task(recipe.task, tokens)
    cut = groupings(model, name, made, seed)
    lora.add(model, recipe.rank, 2.0 * recipe.rank, seed=seed)
    stand_in = recipe.stand_in if arm == "lte" else 0
    return SparseModel(model, cut, seed=seed, stand_in=stand_in), made


def train_arm(name: str, arm: str, seed: int) -> None:
    """Train one arm, or go on with it, telling each step."""
    sparse, made = prepare(name, arm, seed)
    config = RECIPES[name].config(arm, seed)
    for s in train(sparse, made, config, runs() / f"{name}-{arm}-{seed}"):
        score = "" if s.score is None else f"  {made.unit} {s.score:.4f}"
        say(f"{s.step}/{config.steps} {s.stage}: loss {s.task_loss:.3f} sparse {s.sparsity:.3f} eta {s.eta:.2f}{score}")


def say(line: str) -> None:
    """A line of progress."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m workbench.lte.train_artifacts", description=__doc__)
    parser.add_argument("action", choices=["train", "finish", "posthoc"])
    parser.add_argument("recipe", nargs="?", default="sentiment", choices=sorted(RECIPES))
    parser.add_argument("arm", nargs="?", default="lte", choices=["lte", "dense", "bare"])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.action == "train":
        train_arm(asked.recipe, asked.arm, asked.seed)
    else:
        from workbench.lte import measure_artifacts

        measure_artifacts.run(asked.action, asked.recipe, asked.arm, asked.seed)


if __name__ == "__main__":
    main()
