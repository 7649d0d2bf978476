"""What the processes of a run are told: everything that decides its numbers, and how it is carried out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from workbench.hetermoe.data import Data, Given, Markov, shards
from workbench.hetermoe.layout import Layout
from workbench.hetermoe.model import Kernel, MoEConfig
from workbench.hetermoe.pace import checked, paced
from workbench.hetermoe.plan import Plan, PlanError
from workbench.hetermoe.transport import Asked
from workbench.hetermoe.update import Adam


@dataclass(frozen=True)
class Job:
    """A run. PlanError for what cannot be run.

    steps: the number that the run ends at, resumed or not. rows, tokens: of a step's batch, over all ranks. kernels:
    the attention kernel of each attention rank. recompute: activations are computed again in the backward. zero: ZeRO
    stage 1 over attention ranks. groups: copies of the plan, data-parallel. weights: start values, ids: the caller's
    tokens, both safetensors files. folder: of checkpoints, one every so many steps. cores: processors of each rank, or
    empty. timeout_s: for one collective. out: where the trained parameters go. pace: factors by which ranks are slowed
    down on purpose, one each, or empty. transport: as in transport.choose.
    """

    model: MoEConfig
    plan: Plan
    steps: int
    rows: int
    tokens: int
    kernels: tuple[Kernel, ...]
    adam: Adam = field(default_factory=Adam)
    data_seed: int = 0
    recompute: bool = False
    zero: bool = False
    groups: int = 1
    weights: str = ""
    ids: str = ""
    folder: str = ""
    every: int = 0
    cores: tuple[tuple[int, ...], ...] = ()
    threads: int = 1
    timeout_s: float = 60.0
    out: str = ""
    pace: tuple[float, ...] = ()
    transport: Asked = "auto"

    def __post_init__(self) -> None:
        self.model.fits(self.plan)
        for name in ("steps", "rows", "tokens", "groups", "threads"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is a whole number from 1, not {getattr(self, name)!r}")
        if not self.timeout_s > 0:
            raise PlanError(f"timeout_s must be above 0, not {self.timeout_s}")
        attention = self.plan.attention * self.groups
        shards(self.rows, self.plan.micro_batches, attention)
        if len(self.kernels) != attention:
            raise PlanError(f"{len(self.kernels)} attention kernels for {attention} attention ranks: name one for each")
        for kernel in self.kernels:
            if kernel not in get_args(Kernel):
                raise PlanError(f"attention_kernel is {' or '.join(get_args(Kernel))}, not {kernel!r}")
        if self.cores and len(self.cores) != self.world:
            raise PlanError(f"cores are named for {len(self.cores)} of {self.world} ranks: name them for each or none")
        if self.pace and len(self.pace) != self.world:
            raise PlanError(f"paces are named for {len(self.pace)} of {self.world} ranks: name them for each or none")
        for factor in self.pace:
            checked(factor)
        if self.transport not in get_args(Asked):
            raise PlanError(f"transport is {', '.join(get_args(Asked))}, not {self.transport!r}")
        if self.every and not self.folder:
            raise PlanError("checkpoints need a folder")

    @property
    def world(self) -> int:
        """Processes."""
        return self.plan.world * self.groups

    def role(self, rank: int) -> str:
        """What a rank is, in words, and that it is paced where it is."""
        return paced(Layout(self.plan, self.groups, rank).role, self.pace[rank] if self.pace else 1.0)

    def data(self) -> Data:
        """Where batches come from."""
        if not self.ids:
            return Markov(self.model.vocab, self.data_seed)
        from safetensors.torch import load_file

        return Given(load_file(self.ids)["ids"], self.model.vocab)

    def to_json(self) -> str:
        """For `from_json`, in another process."""
        return json.dumps({**asdict(self), "plan": self.plan.to_json()})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job of `to_json`."""
        given: dict[str, Any] = json.loads(text)
        given["model"] = MoEConfig(**given["model"])
        given["plan"] = Plan.from_json(given["plan"])
        adam = given["adam"]
        given["adam"] = Adam(**{**adam, "betas": tuple(adam["betas"])})
        given["cores"] = tuple(tuple(c) for c in given["cores"])
        given["kernels"], given["pace"] = tuple(given["kernels"]), tuple(given["pace"])
        assert set(given) == {f.name for f in fields(cls)}
        return cls(**given)


def kernels_of(given: Kernel | Sequence[Kernel], ranks: int) -> tuple[Kernel, ...]:
    """One for each attention rank, from one for all or from all."""
    return (given,) * ranks if isinstance(given, str) else tuple(given)
