"""What an LTE run found: scores of both arms, kernel and decode times, union of a batch, the experts of a text."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from workbench.held import Held
from workbench.lte.config import LteConfig
from workbench.system import Badge, Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

What = Literal["score", "kernel", "decode", "share", "union", "train", "model"]
ALL, CHANCE, TORCH = "every expert", "experts by chance", "torch"
COLUMNS = {
    "what": "score: on held-out text; kernel: all FFNs of one token; decode: whole tokens; share: a part of a dense "
    "token; union: experts that a batch needs; train: a step; model: a modelled token",
    "name": "which arm, method or kernel",
    "x": "sparsity (share of the FFN's neurons left out); of a union the batch, of a training the step",
    "value": "the number",
    "low": "lower end of its 95 % interval, where there is one",
    "high": "upper end",
    "unread": "of a score: the share of the FFNs' weights that need not be read, what chooses counted as read",
    "unit": "what the number counts",
    "badge": "measured or modelled",
    "source": "this run, or the machine on which the shipped curves were recorded",
}
THIS_RUN = "this run"
BADGES: Mapping[str, Badge] = {"amdahl_ceiling": "modelled"}  # it follows from measured shares by Amdahl's law
# Largest difference of logits as a share of the largest one: sums in another order. A gate within rounding of the
# threshold may fall on the other side in bfloat16, which moves logits more than rounding does: on twelve held-out texts
# of each shipped model by 0.05 to 0.28, where other experts move them by 0.6 to 2.2.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}


class Base(BaseModel):
    """Frozen, and no field that is not named."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Row(Base):
    """One number of the table."""

    what: What
    name: str
    x: float
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    unread: float | None = None
    badge: Badge = "measured"
    source: str = THIS_RUN


class Activity(Base):
    """Gates of one text in steps of 1/255: bytes [layers, tokens, experts] in base64, and their threshold."""

    words: list[str]
    layers: int
    experts: int
    gates: str
    tau: float

    @classmethod
    def of(cls, gates: np.ndarray[Any, Any], words: Sequence[str], tau: float) -> Activity:
        """Gates [layers, tokens, experts] in [0, 1]."""
        layers, tokens, experts = gates.shape
        if len(words) != tokens:
            raise ValueError(f"{len(words)} words for {tokens} tokens")
        coded = base64.b64encode(np.round(gates * 255).astype(np.uint8).tobytes()).decode()
        return cls(words=list(words), layers=layers, experts=experts, gates=coded, tau=tau)

    def array(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """[layers, tokens, experts] in [0, 1]."""
        flat = np.frombuffer(base64.b64decode(self.gates), np.uint8).astype(np.float32) / np.float32(255)
        return flat.reshape(self.layers, len(self.words), self.experts)

    def active(self, tau: float | None = None) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which experts run: [layers, tokens, experts]."""
        found: np.ndarray[Any, np.dtype[np.bool_]] = self.array() > (self.tau if tau is None else tau)
        return found


class LteResult(Result):
    """A sparse model beside its dense twin, or (backend sim) what its sparsity would save."""

    config: LteConfig
    rows: list[Row]
    activity: Activity | None = None
    strokes: list[Held] = Field(default_factory=list)
    answers_hash: str = ""  # of every answer of the LTE arm on the held-out examples
    decode_max_diff: float = 0.0  # of logits, sparse decode against the definition, as a share of the largest
    control_max_diff: float = 0.0  # the same with other experts
    recorded_on: str = ""  # the machine of the shipped curves
    notes: list[str] = Field(default_factory=list)

    def found(self, what: What, name: str, unit: str = "", here: bool = True) -> list[Row]:
        """Rows by their keys, in order; `here`: of this run, not recorded before."""
        own = [r for r in self.rows if (r.what, r.name) == (what, name) and (not unit or r.unit == unit)]
        return [r for r in own if (r.source == THIS_RUN) == here]

    def one(self, what: What, name: str, unit: str = "") -> float:
        """The only such number of this run; nan where there is none."""
        rows = self.found(what, name, unit)
        return rows[0].value if rows else math.nan

    def summary(self) -> dict[str, float]:
        sparsity = [r.x for r in self.found("score", "LTE")]
        numbers = {
            "sparsity": sparsity[0] if sparsity else math.nan,
            "accuracy": self.one("score", "LTE", "accuracy"),
            "dense_accuracy": self.one("score", "dense", "accuracy"),
            "perplexity": self.one("score", "LTE", "perplexity"),
            "dense_perplexity": self.one("score", "dense", "perplexity"),
            "chance_accuracy": self.one("score", CHANCE, "accuracy"),
            "kernel_speedup_vs_self_dense": self._kernel(ALL) / self._kernel("as routed"),
            "kernel_speedup_vs_torch": self._kernel(TORCH) / self._kernel("as routed"),
            "linear_fraction": self.linear_fraction,
            "decode_tok_s": self.one("decode", "sparse"),
            "dense_decode_tok_s": self.one("decode", "dense"),
            "torch_decode_tok_s": self.one("decode", TORCH),
            "amdahl_ceiling": self.one("share", "Amdahl ceiling"),
            "decode_speedup": self.one("decode", "sparse") / self.one("decode", "dense"),
            "exact": self.exact if self.measured else math.nan,
            "latency_cut_pct": self.one("model", "latency cut"),
        }
        return {name: value for name, value in numbers.items() if not math.isnan(value)}

    @property
    def exact(self) -> float:
        """1 where sparse decoding gives the definition's logits within TOLERANCE and other experts do not; else 0."""
        room = TOLERANCE[self.config.weights]
        return float(self.decode_max_diff <= room < self.control_max_diff > 2 * self.decode_max_diff)

    def _kernel(self, name: str) -> float:
        return self.one("kernel", name, "ms")

    @property
    def linear_fraction(self) -> float:
        """Speed over itself dense as a share of 1 / (experts in use), with the trained routers' masks."""
        rows = self.found("kernel", "as routed", "ms")
        return self._kernel(ALL) * (1 - rows[0].x) / rows[0].value if rows else math.nan

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        table = pd.DataFrame([r.model_dump() for r in self.rows], columns=list(COLUMNS))
        return table.astype({"low": float, "high": float, "unread": float})

    def figure(self) -> go.Figure:
        from workbench.lte.figures import modelled, overview

        return overview(self) if self.measured else modelled(self)

    def experts(self) -> go.Figure:
        """Layer by expert, token by token, of the text. ValueError where no text was run."""
        from workbench.lte.figures import token_by_token

        if self.activity is None:
            raise ValueError("no text was run: a simulated run has no model")
        return token_by_token(self.activity)

    def training(self) -> go.Figure:
        """Loss and sparsity over the steps. ValueError where nothing was trained in this run."""
        from workbench.lte.figures import training

        if not any(r.what == "train" for r in self.rows):
            raise ValueError(
                "nothing was trained in this run; the shipped model's curves are in the table of artifacts"
            )
        return training(self)

    @property
    def score(self) -> str:
        """What the drawn pair is scored by; the other pair of models is scored beside it."""
        return "perplexity" if self.config.task == "news" and self.config.model != "tiny" else "accuracy"

    def sentence(self) -> str:
        s, score = self.summary(), self.score
        if not self.measured:
            return (
                f"Modelled for {self.config.sim_model} on {self.config.sim_device}, from bytes read: with half of the "
                f"FFN left out a token takes {s['latency_cut_pct']:.0f} % less time."
            )
        c = self.config
        on = f"{c.examples} held-out sentences" if score == "accuracy" else f"{c.windows} held-out windows"
        two = f"{score} {_digits(s[score])} on {on} where the dense arm has {_digits(s[f'dense_{score}'])}"
        said = (
            f"Measured on {self.provenance.device}, one thread: {100 * s['sparsity']:.0f} % of the FFN left out, {two}"
        )
        if "decode_tok_s" in s:
            said += (
                f"; {s['decode_tok_s']:.1f} tokens/s where the same kernels dense make {s['dense_decode_tok_s']:.1f} "
                f"(Amdahl's ceiling {s['amdahl_ceiling']:.2f}x)"
            )
        return said + "."

    def decided(self) -> dict[str, Any]:
        scores = [(r.name, r.unit, round(r.value, 4)) for r in self.rows if r.what == "score" and r.source == THIS_RUN]
        masks = self.activity.gates if self.activity else ""
        modelled = [(r.name, r.x, r.value) for r in self.rows if r.badge == "modelled"] if not self.measured else []
        return {
            "answers": self.answers_hash,
            "scores": scores,
            "gates": masks,
            "modelled": modelled,
            "seed": self.config.seed,
        }

    def spans(self) -> list[Span]:
        return [stroke.span() for stroke in self.strokes]

    def claims(self) -> list[Claim]:
        from workbench.lte.claims import claims

        return claims(self)


def _digits(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"
