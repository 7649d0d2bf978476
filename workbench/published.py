"""A published number beside ours: what every system's claims.py yields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.system import Claim


@dataclass(frozen=True)
class Published:
    """`value`, ours, is predicted unless `fitted`; `note` says what was assumed.

    unit: % has errors in points over 100, every other (x, instances, ranks, K tokens, s) relative ones; those of a
    saved time are relative to `whole`, the time it was saved of.
    """

    what: str
    paper: float
    value: float
    unit: str
    source: str
    fitted: bool = False
    note: str = ""
    whole: float = 0.0

    @property
    def error(self) -> float:
        """Ours less the published: of 1.37 x relative to 1.37, of per cent in points over 100."""
        off = self.value - self.paper
        return off / 100 if self.unit == "%" else off / (self.whole or self.paper)

    def cells(self) -> dict[str, Any]:
        """A row of a table: paper and ours in `unit`; error relative, of per cent in points, both in %."""
        return {
            "number": self.what, "paper": self.paper, "ours": round(self.value, 2), "unit": self.unit,
            "error (%)": round(100 * self.error), "how": "fitted" if self.fitted else "predicted",
            "source": self.source,
        }  # fmt: skip

    def claim(self) -> Claim:
        """As a claim of a result: modelled, with how it was had and how far off it is in the note."""
        off = f"{100 * self.error:+.0f} {'points' if self.unit == '%' else '%'}"
        note = f"{'fitted' if self.fitted else 'predicted'}, {off}" + (f"; {self.note}" if self.note else "")
        return Claim(
            what=self.what, paper=self.paper, ours=self.value, unit=self.unit, badge="modelled", source=self.source,
            note=note, fitted=self.fitted,
        )  # fmt: skip
