"""What the conductor asks of an engine: sequences of tokens, decoded together, that share the KV of common prefixes.

embedded.py    the step loop over workbench.lm       vllm_engine.py   vLLM, asynchronous
sim.py         the same on a virtual clock           endpoint.py      any OpenAI-compatible server
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from workbench.lm.tokenizer import Tokenizer

Ended = Literal["", "budget", "stop", "constraint", "cancelled", "failed"]


class EngineError(RuntimeError):
    """The engine cannot go on; the message names the cause and the way out."""


class ContextOverflow(ValueError):
    """A sequence would not fit the model's positions."""


def proper_text(text: str) -> str:
    """`text`, if it is one. ValueError for half of a surrogate pair: no tokenizer and no server takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is half of a surrogate pair, which is no text: replace or remove it"
        ) from None
    return text


class Words:
    """Text and token ids of an engine that has a chat model's tokenizer."""

    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids. ValueError for text that is none: half of a surrogate pair."""
        return self.tokenizer.encode(proper_text(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self.tokenizer.decode(ids)

    def chat(self, system: str, user: str) -> list[int]:
        """Token ids of a conversation up to where the answer begins."""
        messages = [{"role": "system", "content": proper_text(system)}, {"role": "user", "content": proper_text(user)}]
        return self.tokenizer.chat(messages)


@dataclass(frozen=True)
class Constraint:
    """What a sequence may say: a grammar in llguidance's Lark, after which it ends.

    forced: a token that alone is possible is taken without a model step of its own. script: what it says in the end,
    where that is known before: each token still costs its step, as if the model had chosen it, unless the grammar alone
    left no choice. "" lets the model choose. schema: much the same as a JSON schema, for servers that know no Lark.
    """

    lark: str
    forced: bool = True
    script: str = ""
    schema: str = ""


@dataclass(frozen=True)
class Ask:
    """One sequence to decode.

    ids: the whole prompt, [n] token ids; the engine reuses the KV of the longest prefix that it still holds (share).
    budget: most tokens to decode; 0 only computes the prompt's KV, so that others may share it.
    whole: decode exactly `budget` tokens, whatever ends an answer. stop: texts that end an answer; what has been said
    from the first of them on is not part of it.
    """

    name: str
    ids: tuple[int, ...]
    budget: int
    constraint: Constraint | None = None
    whole: bool = False
    stop: tuple[str, ...] = ()
    share: bool = True

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError(f"{self.name}: a sequence has at least one token before what it decodes")
        if self.budget < 0:
            raise ValueError(f"{self.name}: the budget must be 0 tokens or more, not {self.budget}")


@dataclass(frozen=True)
class Out:
    """What one step gave one sequence: the tokens it gained, and how it ended ("" while it goes on).

    The first Out of a sequence also says how many tokens of its prompt were reused and how many were computed.
    `dropped`: tokens at the end of all it gained that are no part of the answer (a stop text that came in pieces).
    """

    name: str
    ids: tuple[int, ...]
    ended: Ended = ""
    said: str = ""  # why, where it failed
    reused: int = 0
    prefilled: int = 0
    dropped: int = 0


@dataclass
class Counts:
    """What an engine has done since it was opened or last reset. Tokens, except where named."""

    steps: int = 0  # passes over the weights
    decoded: int = 0  # tokens chosen by a step of the model
    forced: int = 0  # tokens that a constraint left no choice about, taken without a step
    prefilled: int = 0  # prompt tokens whose KV was computed
    reused: int = 0  # prompt tokens whose KV was there
    widths: list[int] = field(default_factory=list)  # rows of each step
    tokens: list[int] = field(default_factory=list)  # tokens of each step, over all rows


class Engine(Protocol):
    """Decodes sequences in steps. One thread. Not every engine's step is one pass: a server's is what has come since.

    `start` raises ContextOverflow before any work. A name is free again once its sequence has ended. After `close`
    nothing is left: threads, processes, memory.
    """

    counts: Counts

    def now_s(self) -> float:
        """Seconds on the engine's clock: real time, or virtual."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def chat(self, system: str, user: str) -> list[int]:
        """Token ids of a conversation up to where the answer begins."""
        ...

    def room(self) -> int:
        """Most tokens of one sequence, prompt and answer."""
        ...

    def start(self, ask: Ask) -> None: ...

    def step(self) -> list[Out]:
        """One step of all that runs; [] when nothing came. EngineError when it cannot go on, or took too long."""
        ...

    def running(self) -> list[str]:
        """Names of the sequences that have not ended, in the order they were started."""
        ...

    def stop(self, name: str) -> None:
        """End a sequence now (no Out follows) and free what it alone holds. An ended or unknown one is no error."""
        ...

    def forget(self) -> None:
        """Drop every KV that is held for reuse, and reset the counts: the next request starts cold."""
        ...

    def close(self) -> None: ...
