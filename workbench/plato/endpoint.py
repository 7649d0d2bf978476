"""Any OpenAI-compatible server behind the conductor, so that a bigger model of the user's plans and answers.

    engine = open_endpoint("http://127.0.0.1:8000/v1", "", "OPENAI_API_KEY", timeout_s=60)

What the conductor calls a token is here a piece of text, a word or what one event of a stream brought; counts of
decoded, computed and reused tokens are the server's own where it sends them. Sharing is the server's prefix cache: the
front of every prompt is the same text. A step is what has come since the last one.

vLLM, recognised by its list of models, is asked for more: the planner's grammar, exact lengths, continuing an answer,
and caches of its own for a run. Other servers get a JSON schema and the parts so far in the question; what one of them
refuses by name is left out from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from workbench.plato.endpoint_stream import CONNECT_S, Failed, Piece, Refused, Server, discover, stream
from workbench.plato.engine import Ask, ContextOverflow, Counts, Ended, EngineError, Out, proper_text
from workbench.plato.pieces import ASSISTANT, NOTHING, SYSTEM, USER, Words, mended, stopped, unsure

ROOM = 32_768  # pieces, where a server does not say how much its model holds
TOO_LONG = re.compile(r"context (?:length|window|size)|maximum (?:model )?length|too long", re.IGNORECASE)
WAIT_S, CLOSE_S, EVENTS = 0.05, 5.0, 4096
FINISHED: dict[str, Ended] = {"stop": "stop", "length": "budget"}
# What a server may not know; most specific first, as one message can name several.
OPTIONAL = (
    "structured_outputs", "response_format", "continue_final_message", "add_generation_prompt", "ignore_eos",
    "min_tokens", "cache_salt", "stream_options", "max_completion_tokens", "max_tokens", "temperature", "stop",
)  # fmt: skip


def open_endpoint(
    url: str,
    model: str = "",
    key_variable: str = "OPENAI_API_KEY",
    timeout_s: float = 60.0,
    temperature: float = 0.0,
) -> Endpoint:
    """An engine over the server at `url`; the key is the value of an environment variable and is written nowhere.

    EngineError says why the server cannot be used.
    """
    return Endpoint(url, model, os.environ.get(key_variable, "").strip(), timeout_s, temperature)


@dataclass
class _Row:
    """A sequence that the server decodes."""

    ask: Ask
    number: int
    task: Any = None


class Endpoint:
    """Engine over HTTP: one thread with an event loop, one task a sequence."""

    warms = False  # what a server keeps between queries is its own affair

    def __init__(
        self, url: str, model: str = "", key: str = "", timeout_s: float = 60.0, temperature: float = 0.0
    ) -> None:
        self.counts, self.temperature = Counts(), temperature
        self._words = Words()
        self._began = time.monotonic()
        self._rows: dict[str, _Row] = {}
        self._number = 0
        self._salt = uuid.uuid4().hex
        self._without: set[str] = set()  # of OPTIONAL: what this server has refused
        self._came: queue.Queue[tuple[int, Out]] = queue.Queue(EVENTS)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="plato-endpoint", daemon=True)
        self._thread.start()
        limits = httpx.Limits(max_connections=64)
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(timeout_s, connect=CONNECT_S), limits=limits)
        try:
            asked = Server(url.rstrip("/"), model, False, 0, timeout_s, key)
            self.server = self._wait(discover(self._client, asked), timeout_s + CONNECT_S)
        except Failed as error:
            self.close()
            raise EngineError(str(error)) from None

    def __repr__(self) -> str:
        return f"Endpoint({self.server.url!r}, model={self.server.model!r})"

    @property
    def form(self) -> Literal["lines", "json"]:
        """In which form a plan is best asked for."""
        return "lines" if self.server.vllm else "json"

    @property
    def patience_s(self) -> float:
        """How long it waits for a word of the server before it says that there was none."""
        return self.server.timeout_s + 2 * CONNECT_S

    # -- the engine's interface ----------------------------------------------------------------------------------

    def now_s(self) -> float:
        return time.monotonic() - self._began

    def encode(self, text: str) -> list[int]:
        return self._words.encode(proper_text(text))

    def decode(self, ids: Sequence[int]) -> str:
        return self._words.decode(ids)

    def chat(self, system: str, user: str) -> list[int]:
        return [SYSTEM, *self.encode(system), USER, *self.encode(user), ASSISTANT]

    def room(self) -> int:
        """Pieces, which are near tokens but none: a fifth is kept free."""
        return self.server.room * 4 // 5 or ROOM

    def start(self, ask: Ask) -> None:
        if len(ask.ids) + ask.budget > self.room():
            raise ContextOverflow(
                f"{ask.name}: about {len(ask.ids)} tokens and {ask.budget} to decode, where {self.server.model} takes "
                f"{self.room()}: shorten the query"
            )
        if ask.constraint and ask.constraint.script and not self.scripts:
            raise EngineError(
                f"{self.server.url} cannot be made to write a given plan: let the model plan, or give the plan"
            )
        if ask.name in self._rows:
            raise ValueError(f"{ask.name} runs already")
        self._number += 1
        row = self._rows[ask.name] = _Row(ask, self._number)
        row.task = asyncio.run_coroutine_threadsafe(self._answer(row), self._loop)

    def step(self) -> list[Out]:
        """What has come, one Out a sequence; [] after a short wait for nothing."""
        if not self._thread.is_alive():
            raise EngineError("the connection's thread has ended: open the endpoint again")
        if not self._rows:
            return []
        outs: dict[str, Out] = {}
        wait_s = WAIT_S
        with contextlib.suppress(queue.Empty):
            while True:
                number, out = self._came.get(timeout=wait_s) if wait_s else self._came.get_nowait()
                wait_s = 0.0
                row = self._rows.get(out.name)
                if row is None or row.number != number:
                    continue  # of a sequence that was stopped
                outs[out.name] = _joined(outs[out.name], out) if out.name in outs else out
                if out.ended:
                    del self._rows[out.name]
        if outs:
            self._count(list(outs.values()))
        return list(outs.values())

    def running(self) -> list[str]:
        return list(self._rows)

    def stop(self, name: str) -> None:
        row = self._rows.pop(name, None)
        if row is not None and row.task is not None:
            row.task.cancel()  # closes its connection: the server stops decoding

    def forget(self) -> None:
        """Reset the counts. On vLLM another salt makes its cache cold; other servers' caches cannot be emptied."""
        self._salt = uuid.uuid4().hex
        self.counts = Counts()

    def close(self) -> None:
        """End every request, the client and the thread."""
        for name in list(self._rows):
            self.stop(name)
        if self._thread.is_alive():
            with contextlib.suppress(Exception):
                self._wait(self._end(), CLOSE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_S)
        if not self._thread.is_alive() and not self._loop.is_closed():
            self._loop.close()

    # -- on the loop's thread ------------------------------------------------------------------------------------

    async def _answer(self, row: _Row) -> None:
        """One sequence from its request to its last Out."""
        ask = row.ask
        if ask.budget == 0 and not self.server.vllm:  # nothing to gain where it is unknown what is cached
            await self._put(row, Out(ask.name, (), "budget"))
            return
        try:
            while True:
                used = {o for o in OPTIONAL if self._takes(o)}
                try:
                    await self._follow(row)
                    return
                except Refused as error:
                    if TOO_LONG.search(str(error)):
                        raise Failed(f"{error}; shorten the query, or give parts fewer tokens") from None
                    named = next((o for o in OPTIONAL if o in used and re.search(rf"\b{o}\b", str(error))), "")
                    if not named:
                        raise
                    self._without.add(named)
        except Failed as error:
            await self._put(row, Out(ask.name, (), "failed", str(error)))
        except Exception as error:  # noqa: BLE001  a defect here must not leave the conductor waiting
            await self._put(row, Out(ask.name, (), "failed", f"{type(error).__name__}: {error}"))

    async def _follow(self, row: _Row) -> None:
        """Pass on what is sent, until it ends by itself, by a stop text or by its budget."""
        ask, limit, held, sent, ended = row.ask, _limit(row.ask), "", 0, ""
        stops = () if ask.whole else ask.stop
        usage: dict[str, Any] | None = None
        try:
            async with contextlib.aclosing(
                stream(self._client, self.server, "/chat/completions", self._body(ask))
            ) as pieces:
                async for piece in pieces:
                    usage = piece.usage or usage
                    ended = ended or _ended(ask, piece)
                    held, ended = stopped(mended(held + piece.text, bool(ended)), stops, ended)
                    ready = held if ended else held[: len(held) - unsure(held, stops)]
                    held = held[len(ready) :]
                    if ready and sent == limit:
                        ended = "budget"  # it goes on beyond what was asked for
                        break
                    if ready:
                        sent += 1
                        await self._put(row, Out(ask.name, (self._words.id(ready),)))
                    if ended and (usage or not piece.finish):
                        break
        except Failed:
            if not ended:  # else only the count of tokens is missing
                raise
        if not ended and held:
            sent += 1
            await self._put(row, Out(ask.name, (self._words.id(mended(held, True)),)))
        await self._put(row, self._last(ask, sent, ended or "stop", usage))

    def _last(self, ask: Ask, sent: int, ended: str, usage: dict[str, Any] | None) -> Out:
        """The end, with the server's counts; tokens that came together with others are made up for by empty ids."""
        whole = _number(usage, "completion_tokens") if usage else sent
        missing = max(0, min(whole, _limit(ask)) - sent)
        details = (usage or {}).get("prompt_tokens_details")
        reused = _number(details if isinstance(details, dict) else None, "cached_tokens")
        prefilled = max(0, _number(usage, "prompt_tokens") - reused)
        return Out(ask.name, (NOTHING,) * missing, ended, reused=reused, prefilled=prefilled)  # type: ignore[arg-type]

    async def _put(self, row: _Row, out: Out) -> None:
        """Hand over; while the conductor does not read, the server is not read either."""
        while True:
            try:
                self._came.put_nowait((row.number, out))
                return
            except queue.Full:
                await asyncio.sleep(0.01)

    async def _end(self) -> None:
        mine = asyncio.current_task()
        tasks = [t for t in asyncio.all_tasks() if t is not mine]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    # -- what is asked -------------------------------------------------------------------------------------------

    @property
    def scripts(self) -> bool:
        """Whether this server can be made to write a given text: vLLM can."""
        return self._takes("structured_outputs")

    @property
    def exact_lengths(self) -> bool:
        """Whether this server writes exactly as many tokens as it is told: vLLM does."""
        return self._takes("ignore_eos")

    def _takes(self, option: str) -> bool:
        """Whether this server may be sent an option."""
        only_vllm = ("structured_outputs", "continue_final_message", "ignore_eos", "min_tokens", "cache_salt")
        return option not in self._without and (self.server.vllm or option not in only_vllm)

    def _body(self, ask: Ask) -> dict[str, Any]:
        """The request's JSON."""
        body: dict[str, Any] = {"model": self.server.model, "stream": True, "messages": self._messages(ask)}
        tokens = max(_limit(ask), 1)
        wanted: dict[str, Any] = {"temperature": self.temperature, "stream_options": {"include_usage": True}}
        wanted["max_tokens" if self._takes("max_tokens") else "max_completion_tokens"] = tokens
        if ask.stop and not ask.whole:
            wanted["stop"] = list(ask.stop[:4])
        if ask.whole:
            wanted |= {"ignore_eos": True, "min_tokens": tokens}
        if body["messages"][-1]["role"] == "assistant":
            wanted |= {"continue_final_message": True, "add_generation_prompt": False}
        wanted["cache_salt"] = self._salt if ask.share else uuid.uuid4().hex
        if ask.constraint:
            wanted |= self._constrained(ask)
        return body | {name: value for name, value in wanted.items() if self._takes(name)}

    def _constrained(self, ask: Ask) -> dict[str, Any]:
        """The constraint in the server's own terms: a grammar, else a JSON schema, else nothing but the prompt."""
        assert ask.constraint is not None
        if self._takes("structured_outputs"):
            script = ask.constraint.script
            return {"structured_outputs": {"choice": [script]} if script else {"grammar": ask.constraint.lark}}
        if not ask.constraint.schema:
            return {}
        schema = {"name": "plan", "strict": True, "schema": json.loads(ask.constraint.schema)}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}

    def _messages(self, ask: Ask) -> list[dict[str, str]]:
        """The prompt's pieces by who speaks. Where an answer cannot be continued, what it began with is asked along."""
        said: dict[int, list[int]] = {SYSTEM: [], USER: [], ASSISTANT: []}
        who = USER
        for piece in ask.ids:
            who = piece if piece in said else who
            said[who].append(piece)
        system, user, begun = (self.decode(said[who]) for who in (SYSTEM, USER, ASSISTANT))
        messages = [{"role": "system", "content": system}] if system else []
        if begun and not self._takes("continue_final_message"):
            user, begun = f"{user}\n\n{begun}", ""
        messages.append({"role": "user", "content": user})
        return messages + ([{"role": "assistant", "content": begun}] if begun else [])

    # -- small ---------------------------------------------------------------------------------------------------

    def _count(self, outs: Sequence[Out]) -> None:
        gained = [len(out.ids) for out in outs if out.ids]
        if gained:
            self.counts.steps += 1
            self.counts.widths.append(len(gained))
            self.counts.tokens.append(sum(gained))
            self.counts.decoded += sum(gained)
        self.counts.reused += sum(out.reused for out in outs)
        self.counts.prefilled += sum(out.prefilled for out in outs)

    def _wait(self, work: Coroutine[Any, Any, Any], limit_s: float) -> Any:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(limit_s)
        except TimeoutError:
            future.cancel()
            raise Failed(f"no answer within {limit_s:g} s") from None


def _limit(ask: Ask) -> int:
    """Most tokens; a script was measured in pieces, and its tokens may be more."""
    return ask.budget * 2 + 32 if ask.constraint and ask.constraint.script else ask.budget


def _joined(one: Out, two: Out) -> Out:
    """Two Outs of one sequence as one."""
    return Out(one.name, one.ids + two.ids, two.ended, two.said, one.reused + two.reused, one.prefilled + two.prefilled)


def _ended(ask: Ask, piece: Piece) -> str:
    """How an event ends the sequence, if it does. Failed where the server withholds the answer."""
    if piece.finish == "content_filter":
        raise Failed("the server withheld the answer (content_filter)")
    ended = FINISHED.get(piece.finish, "stop") if piece.finish else ""
    return "constraint" if ended == "stop" and ask.constraint else ended


def _number(of: dict[str, Any] | None, name: str) -> int:
    value = (of or {}).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0
