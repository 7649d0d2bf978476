"""A live run: what it is asked (Plan), what a step gives (LiveStep), who makes machines come and go (World)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from workbench.lm.dtype import Dtype
from workbench.rlboost.rewards import TASKS
from workbench.rlboost.spot import Kind

if TYPE_CHECKING:
    from workbench.rlboost.live import Live


@dataclass(frozen=True)
class Plan:
    """What is trained. `prompts` times `group` responses a step, of at most `most` tokens; micro_batch in responses.

    seeding: the reserved machine rolls out for a window first, else not while others are there. memory: the window of a
    number of instances met before is taken up. balance: waiting responses move between instances.
    migrate: responses of a lost instance go on from their tokens, else they begin anew. pull: a step begins while
    instances still pull its weights, else it waits for all of them (synchronous transfer).
    cap: no more instances are held than pay. engine: of the instances; the reserved machine has the embedded one.
    """

    model: str = "tiny"
    dtype: Dtype = "float32"
    task: str = "letters"
    steps: int = 8
    prompts: int = 4
    group: int = 8
    most: int = 16
    micro_batch: int = 8
    slots: int = 8
    lr: float = 3e-3
    temperature: float = 1.0
    seed: int = 0
    ordered: bool = False
    first_seed_s: float = 1.0
    seeding: bool = True
    memory: bool = True
    balance: bool = True
    migrate: bool = True
    pull: bool = True
    cap: bool = True
    engine: Kind = "embedded"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"no task is called {self.task!r}; there are {', '.join(TASKS)}")
        if min(self.steps, self.prompts, self.most, self.micro_batch, self.slots) < 1 or self.group < 2:
            raise ValueError("steps, prompts, most, micro_batch and slots are 1 or more, group 2 or more")
        if self.engine == "vllm" and self.model == "tiny":
            raise ValueError("engine: the tiny model's heads are smaller than vLLM takes; take model='smollm2'")
        if not self.temperature > 0:
            raise ValueError("temperature is above 0: without chance all responses of a group are the same one")

    @property
    def responses(self) -> int:
        """Of a step."""
        return self.prompts * self.group


@dataclass(frozen=True)
class LiveStep:
    """One step, measured. Seconds of wall time."""

    step: int
    seconds: float
    t_seed_s: float
    n_prem: float  # most instances that pay, as it is known after the step; inf while nothing is known
    instances: float  # active, mean over the step
    tokens: int
    reward: float  # mean
    migrations: int
    recomputed_tokens: int  # prompts and responses whose KV was computed again elsewhere
    discarded_tokens: int  # made twice, where nothing migrates
    lost_instances: int
    refused_pieces: int
    wait_train_s: float
    train_s: float
    lost_tokens: int  # by the ledger
    duplicated_tokens: int
    tokens_digest: str
    weights_digest: str


class World(Protocol):
    """Where nodes come and go (chaos.py): it is asked before each step, outside its time, and between its turns."""

    def before(self, live: Live) -> None: ...

    def between(self, live: Live) -> None: ...
