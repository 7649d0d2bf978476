"""What a run found: numbers, table, sentence, figure, and the published numbers beside ours."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from workbench.belady.config import BeladyConfig
from workbench.held import Held
from workbench.system import Claim, Result, Span

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NAMES = {"fifo": "first in, first out", "lru": "least recently used", "opt": "needed latest (knows the future)"}
FAULTS = {3: 9.0, 4: 10.0}  # of FIFO on the twelve requests, by frames
SOURCE = "Belady, Nelson and Shedler 1969: the anomaly"


class Row(BaseModel):
    """One replay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str
    frames: int
    misses: int
    requests: int
    seconds: float  # of the processor

    @property
    def ratio(self) -> float:
        """Misses over requests."""
        return self.misses / self.requests


class BeladyResult(Result):
    """Misses of every policy over one trace."""

    config: BeladyConfig
    rows: list[Row]
    held: list[Held]

    def of(self, policy: str) -> Row:
        """The replay of a policy with the config's memory."""
        return next(row for row in self.rows if (row.policy, row.frames) == (policy, self.config.frames))

    def summary(self) -> dict[str, float]:
        mine, best = self.of(self.config.policy), self.of("opt")
        return {
            "miss_ratio": mine.ratio,
            "opt_miss_ratio": best.ratio,
            "over_opt": mine.misses / best.misses,
            "request_us": 1e6 * mine.seconds / mine.requests,
        }

    def to_frame(self) -> "pd.DataFrame":
        import pandas as pd

        rows = [(r.policy, r.frames, r.misses, r.ratio, 1e6 * r.seconds / r.requests) for r in self.rows]
        return pd.DataFrame(rows, columns=["policy", "frames", "misses", "miss_ratio", "request_us"])

    def figure(self) -> "go.Figure":
        import plotly.graph_objects as go

        from workbench import theme

        fig = go.Figure()
        for at, (policy, name) in enumerate(NAMES.items()):
            fig.add_bar(x=[self.of(policy).ratio], y=[name], orientation="h", name=name, **theme.series(at).bar())
        fig.update_layout(showlegend=False)
        title = f"Misses with {self.config.frames} frames (measured)"
        return theme.finish(fig, title, self.sentence(), x="misses over requests (1)", y="policy (name)", height=300)

    def spans(self) -> list[Span]:
        return [one.span() for one in self.held]

    def sentence(self) -> str:
        s, c = self.summary(), self.config
        return (
            f"Measured on {self.provenance.device}: with {c.frames} frames {100 * s['miss_ratio']:.1f} % of the "
            f"requests miss under {c.policy}, {s['over_opt']:.2f} times what no policy can go below."
        )

    def decided(self) -> dict[str, Any]:
        return {"misses": {f"{row.policy} {row.frames}": row.misses for row in self.rows}}

    def claims(self) -> list[Claim]:
        told = self.config.trace == "anomaly"
        counted = {row.frames: float(row.misses) for row in self.rows if row.policy == "fifo"} if told else {}
        return [
            Claim(
                what=f"faults of FIFO with {frames} frames", paper=paper, ours=counted.get(frames), unit="faults",
                badge="measured", source=SOURCE,
            )
            for frames, paper in FAULTS.items()
        ]  # fmt: skip
