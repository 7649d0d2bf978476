"""Plato's branches under LTE: do siblings of a plan need the same experts more than unrelated prompts do?

    model = union.trained()                 SmolLM2-135M, and beside it the same with the shipped routers
    found = union.measure(model)            siblings of a plan, as many strangers, copies

A row of a batch has a mask of its own, and a sparse kernel reads the union of them, so that sparsity falls with the
width (LTE, arXiv 2402.06126). Plato (its parts decoded side by side) is what makes a single user's batch wide. Its
branches share query and prefix; if that made them need the same experts, the two would go together better than chance.

    union(w) = share of experts that at least one of w rows needs at a step, mean over steps, groups of w and layers
    by layer   1 - product over the rows of what each leaves out, mean as above      rows that agree by chance alone
    by expert  1 - mean over layers, experts of (1 - p_e)^w      p_e: how often expert e is needed, over all rows, steps

Between the two lies what is popular with everybody; only what is beyond the second is agreement of these very rows.

The shipped routers are trained on sentences of reviews, and the model with them writes nothing but empty lines. So the
dense model writes the answers, greedily, and the sparse one runs the same tokens: its masks are what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from workbench.lm.threads import compute_threads
from workbench.plato.examples import EXAMPLES, Example
from workbench.plato.graph import Node

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.lm import LM
    from workbench.lte.sparse_model import SparseModel

Rows = Literal["siblings", "strangers", "copies", "lots"]
Masks = np.ndarray[Any, np.dtype[np.bool_]]  # [rows, tokens, layers, experts]
WIDTHS = (1, 2, 4, 8)
STRANGERS = tuple(  # beside the other plans: a query about one thing each, and its first part
    Example(query, f"1: {ask}", "a stranger")
    for query, ask in {
        "My laptop gets loud and slow after an hour of video calls. What can I try before I bring it to a shop?": (
            "Why does a laptop slow down when it gets hot?"
        ),
        "I have a month to learn enough Portuguese for Lisbon. Where should I begin, and how much time does it take?": (
            "Which words are worth learning first?"
        ),
        "Our football club of twelve-year-olds has lost eight games in a row. What can their coach do about it?": (
            "What does a coach say after eight defeats?"
        ),
        "Explain to a new colleague how our library lends books to schools and gets all of them back in time.": (
            "How does a school borrow a box of books?"
        ),
        "Two neighbours quarrel about a hedge that has grown too high. Help them to write a fair agreement about it.": (
            "What does each of the neighbours want?"
        ),
        "Write the rules of a small card game that four children can learn in five minutes on a long train ride.": (
            "How are the cards dealt at the start?"
        ),
        "My sourdough bread comes out flat and heavy every time. Find the likely mistakes and how to avoid them.": (
            "How can one tell that a dough has risen enough?"
        ),
        "Describe how a letter travelled from London to Calcutta in the year 1850, and how long each leg took.": (
            "By which ship did such a letter leave London?"
        ),
    }.items()
)


@dataclass(frozen=True)
class Trained:
    """What writes the answers, and what runs them with few experts."""

    writer: LM
    sparse: SparseModel


@dataclass(frozen=True)
class Row:
    """One set of rows at one width in one layer (-1: the mean over layers). Shares left out, 0 to 1."""

    rows: Rows
    width: int
    layer: int
    sparsity: float
    by_layer: float  # expected of rows that are independent and alike in nothing but how many experts they need
    by_expert: float  # expected of independent rows to which the same experts are popular


@dataclass(frozen=True)
class Union:
    """Union sparsity of siblings, strangers, copies and of experts drawn by lot: measured, expectations computed."""

    table: tuple[Row, ...]
    texts: dict[str, tuple[str, ...]]  # the answers
    pairs: dict[str, tuple[float, ...]]  # union sparsity of each pair of rows, mean over steps and layers
    same_token: dict[str, float]  # share of steps at which two rows say the same token
    plan: str
    tokens: int  # decoded by each row

    def sparsity(self, rows: Rows, width: int, layer: int = -1) -> float:
        """Share of experts that no row of a step needs."""
        return self._row(rows, width, layer).sparsity

    def of_chance(self, rows: Rows, width: int) -> float:
        """Experts that rows of a step need together, over what as dense rows would that agree by chance alone."""
        row = self._row(rows, width)
        return (1 - row.sparsity) / (1 - row.by_layer)

    def _row(self, rows: Rows, width: int, layer: int = -1) -> Row:
        return next(r for r in self.table if (r.rows, r.width, r.layer) == (rows, width, layer))

    @property
    def widths(self) -> list[int]:
        return sorted({r.width for r in self.table})

    @property
    def controls_hold(self) -> bool:
        """Copies are as sparse as one of them at every width; lots are what independence expects, within 0.005."""
        one = self.sparsity("copies", 1)
        lots = [self._row("lots", w) for w in self.widths]
        return all(abs(self.sparsity("copies", w) - one) < 1e-9 for w in self.widths) and all(
            abs(r.sparsity - r.by_layer) < 0.005 for r in lots
        )

    def to_frame(self) -> pd.DataFrame:
        """A row for each set, width and layer."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.table])

    def sentence(self) -> str:
        """What was found."""
        wide = self.widths[-1]
        sib, other = self._row("siblings", wide), self._row("strangers", wide)
        gain = 100 * (sib.sparsity - other.sparsity)
        one = 100 * (self.sparsity("siblings", 1) - self.sparsity("strangers", 1))
        popular = [100 * (1 - r.sparsity) / (1 - r.by_expert) for r in (sib, other)]
        return (
            f"At width {wide} no row needs {100 * sib.sparsity:.1f} % of the experts where rows are siblings of a plan "
            f"and {100 * other.sparsity:.1f} % where they are strangers: {gain:+.1f} points, {one:+.1f} of them there "
            f"at width 1 already. Together they need {100 * self.of_chance('siblings', wide):.0f} and "
            f"{100 * self.of_chance('strangers', wide):.0f} % of what rows would that agree by chance alone, and "
            f"{popular[0]:.0f} and {popular[1]:.0f} % of what independent rows would to which the same experts are "
            f"popular (measured; expectations computed)."
        )

    def figure(self) -> go.Figure:
        """Sparsity over width, and by layer at the widest."""
        from workbench.combine.figures import unions

        return unions(self)


def trained(task: Literal["sentiment", "news"] = "sentiment") -> Trained:
    """SmolLM2-135M as it is, and with the routers and adapters that are shipped for `task`; float32."""
    from workbench import lm
    from workbench.lte import save
    from workbench.lte.arms import load_smollm2
    from workbench.lte.shelf import ARTIFACTS, FOLDERS

    base, _ = load_smollm2("float32")
    return Trained(lm.load("smollm2", "float32"), save.load(ARTIFACTS / FOLDERS[task] / "lte", base))


@compute_threads(1)
def measure(model: Trained, plan: str = "eight", tokens: int = 24, seed: int = 0) -> Union:
    """Write the parts of `plan` that need nothing, and as many strangers'; run them, and one sibling as its own copy.

    plan: a name of workbench.plato.examples.EXAMPLES. A stranger's prompt has as many tokens as its sibling's.
    """
    sets = dict(zip(("siblings", "strangers"), prompts(model.writer, plan)))
    answers = {name: write(model.writer, asked, tokens) for name, asked in sets.items()}
    masks: dict[Rows, Masks] = {
        "siblings": run(model.sparse, sets["siblings"], answers["siblings"]),
        "strangers": run(model.sparse, sets["strangers"], answers["strangers"]),
        "copies": run(
            model.sparse, sets["siblings"][:1] * len(sets["siblings"]), answers["siblings"][:1] * len(sets["siblings"])
        ),
    }
    masks["lots"] = lots(masks["siblings"], seed)
    return Union(
        tuple(row for name, each in masks.items() for row in spread(name, each, WIDTHS)),
        {name: tuple(model.writer.tokenizer.decode(ids) for ids in each) for name, each in answers.items()},
        {name: tuple(pairwise(each)) for name, each in masks.items()},
        {name: _same(each) for name, each in answers.items()},
        plan,
        tokens,
    )


def prompts(model: LM, plan: str) -> tuple[list[list[int]], list[list[int]]]:
    """Prompts of a plan's siblings as Plato lays them out, and of strangers, each as long as its sibling's.

    The strangers that are least too long are taken; what is too much is cut from the beginning of a query, of all
    siblings alike. ValueError: the plan has less than two siblings, or more than there are strangers.
    """
    from workbench.plato.embedded import EmbeddedEngine
    from workbench.plato.layout import Layout

    engine = EmbeddedEngine(model)

    def lay(query: str, node: Node) -> list[int]:
        layout = Layout(engine, query)
        return [*layout.front, *layout.header(node)]

    own = EXAMPLES[plan]
    siblings = [lay(own.query, node) for node in own.plan().nodes if not node.needs]
    others = [each for name, each in EXAMPLES.items() if name not in (plan, "single", "eight")]
    asked = [lay(each.query, each.plan().nodes[0]) for each in (*others, *STRANGERS)]
    if not 2 <= len(siblings) <= len(asked):
        raise ValueError(f"plan: {plan} has {len(siblings)} parts side by side; 2 to {len(asked)} can be compared")
    system, count = _shared([siblings[0], *asked]), len(siblings)
    asked.sort(key=len)
    first = next((at for at, ids in enumerate(asked) if len(ids) >= max(map(len, siblings))), len(asked))
    chosen = asked[min(first, len(asked) - count) :][:count]
    lacking = max(0, *(len(own) - len(other) for own, other in zip(siblings, chosen)))
    siblings = [_cut(ids, system, len(ids) - lacking) for ids in siblings]
    return siblings, [_cut(ids, system, len(own)) for ids, own in zip(chosen, siblings)]


def _cut(ids: list[int], at: int, length: int) -> list[int]:
    """Without the tokens behind `at` that are too many."""
    return ids[:at] + ids[at + len(ids) - length :]


def _shared(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all of them begin."""
    return next(
        (at for at, tokens in enumerate(zip(*prompts)) if len(set(tokens)) > 1), min(len(ids) for ids in prompts)
    )


def write(model: LM, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Greedy answers of all prompts, decoded together; none of their tokens would end an answer."""
    import torch

    caches = [model.new_cache(len(ids) + tokens) for ids in prompts]
    logits = model.forward_ragged([torch.tensor(list(ids)) for ids in prompts], caches, [0] * len(caches))
    said: list[list[int]] = [[] for _ in prompts]
    for at in range(tokens):
        for own, row in zip(said, logits):
            own.append(_best(row, model.config.stop_ids))
        last = torch.tensor([own[-1] for own in said])
        if at + 1 < tokens:
            logits = model.forward_batch(last, caches, [len(ids) + at for ids in prompts])
    return said


def run(sparse: SparseModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Masks:
    """Experts that each token of the answers needs, run by the sparse model behind its prompt, all in one batch."""
    import torch

    rows = [[*asked, *said] for asked, said in zip(prompts, answers)]
    most = max(map(len, rows))
    with sparse.as_mode("hard"):
        sparse.hidden(torch.tensor([row + [0] * (most - len(row)) for row in rows]))
        gates = torch.stack(sparse.gates(), 2).numpy()  # [rows, positions, layers, experts]
    own = [each[len(asked) : len(row)] for each, asked, row in zip(gates, prompts, rows)]
    return np.stack(own) > sparse.layers[0].tau


def _best(logits: Any, without: Sequence[int]) -> int:
    """The largest logit's token, of those that do not end an answer."""
    return next(int(token) for token in logits.topk(len(without) + 1).indices if int(token) not in without)


def _same(rows: Sequence[Sequence[int]]) -> float:
    return float(np.mean([a == b for one, other in combinations(rows, 2) for a, b in zip(one, other)]))


# -- of masks alone ----------------------------------------------------------------------------------------------------


def spread(name: Rows, masks: Masks, widths: Sequence[int]) -> list[Row]:
    """Union sparsity of every group of so many rows at each step; widths beyond the rows are left out."""
    found = []
    often, idle = masks.mean(axis=(0, 1)), 1 - masks.mean(axis=3)  # [layers, experts], [rows, tokens, layers]
    for width in (w for w in widths if w <= len(masks)):
        groups = [list(group) for group in combinations(range(len(masks)), width)]
        left_out = np.mean([1 - masks[g].any(axis=0).mean(axis=(0, 2)) for g in groups], axis=0)  # [layers]
        by_layer = np.mean([idle[g].prod(axis=0).mean(axis=0) for g in groups], axis=0)
        layers = np.stack([left_out, by_layer, ((1 - often) ** width).mean(axis=1)])
        found += [Row(name, width, at, *map(float, layers[:, at])) for at in range(layers.shape[1])]
        found.append(Row(name, width, -1, *map(float, layers.mean(axis=1))))
    return found


def pairwise(masks: Masks) -> list[float]:
    """Union sparsity of each pair of rows, mean over steps and layers."""
    return [1 - float((masks[a] | masks[b]).mean()) for a, b in combinations(range(len(masks)), 2)]


def lots(masks: Masks, seed: int) -> Masks:
    """As many experts for each row, step and layer, but drawn by lot: what the expectation by layer describes."""
    draw = np.random.default_rng(seed)
    return draw.permuted(masks, axis=3)
