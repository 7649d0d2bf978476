"""What the machine really takes: the cost model of an engine, fitted to its own passes and reads as they happen."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from workbench.cake.costs import Costs, fit_compute
from workbench.cake.ledger import SMOOTH, Ledger
from workbench.cake.policy import Why

KEPT = 128  # passes that a fit looks back on
REFIT = 8  # passes between two fits
FIRST_FIT = 4
GUESS = Costs(step_s=0.01, token_s=0.001, pair_s=1e-7, load_token_s=1.0)
RAW_MB_S = 500.0  # believed of a store without a throttle, until it was read from


class Learner:
    """Costs of one engine. Given ones stay as they are; others follow the passes that ran alone."""

    def __init__(self, given: Costs | None = None) -> None:
        import scipy.optimize  # noqa: F401  takes half a second: now, not during a request

        self.costs = given or GUESS
        self.fixed = given is not None
        self._alone: deque[tuple[int, int, float]] = deque(maxlen=KEPT)
        self._beside: deque[tuple[int, int, float]] = deque(maxlen=KEPT)
        self._new = 0
        self._raw: dict[bool, float] = {}

    def learn_pass(self, start: int, tokens: int, seconds: float, *, beside_load: bool) -> None:
        """One pass over one request took so long."""
        if self.fixed:
            return
        (self._beside if beside_load else self._alone).append((start, tokens, seconds))
        self._new += 1
        known = self._alone if len(self._alone) >= FIRST_FIT else self._beside
        if len(known) == FIRST_FIT or (len(known) > FIRST_FIT and self._new >= REFIT):
            self.fit()

    def fit(self) -> None:
        """Fit the compute curve to the passes so far."""
        known = list(self._alone if len(self._alone) >= FIRST_FIT else self._beside)
        if len(known) < FIRST_FIT:
            return
        self._new = 0
        step_s, token_s, pair_s = fit_compute(known)
        self.costs = replace(self.costs, step_s=step_s, token_s=token_s, pair_s=pair_s)

    def learn_read(self, link_mb_s: float, cold: bool, token_s: float) -> None:
        """One read of an unthrottled store took so long per token."""
        if not link_mb_s:
            self._raw[cold] = (1 - SMOOTH) * self._raw.get(cold, token_s) + SMOOTH * token_s

    def load_token_s(self, link_mb_s: float, cold: bool, token_bytes: int) -> float:
        """Seconds per token that loading should take: the link's, never below the disk's own."""
        raw = self._raw.get(cold, token_bytes / (RAW_MB_S * 1e6))
        return max(token_bytes / (link_mb_s * 1e6), raw) if link_mb_s else raw

    def scale(self, ledger: Ledger, why: Why, seconds: float) -> None:
        """A pass of one request took so long: its ledger keeps the ratio to what the decision believed."""
        ledger.learn_pass(why.get("compute_s"), seconds)
