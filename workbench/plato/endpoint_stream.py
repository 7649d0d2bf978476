"""One streamed answer of an OpenAI-compatible server, and every way in which it can go wrong, in a sentence each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

CONNECT_S = 5.0
MOST_LINE = 1 << 20  # bytes of one event; a server that sends more without an end is broken
MOST_BODY = 4 << 20
TRIES, PAUSE_S, MOST_PAUSE_S = 4, 0.5, 10.0  # of a server that says it is busy
BUSY = (429, 503)


class Failed(Exception):
    """A request that came to nothing; the message names the cause and the way out."""


class Refused(Failed):
    """The server understood the request and will not take it as it is (400, 422)."""


@dataclass(frozen=True)
class Server:
    """What is asked, and what the server said of itself. room: positions of its model, 0 where it does not say."""

    url: str
    model: str
    vllm: bool
    room: int
    timeout_s: float
    key: str = field(repr=False, default="")

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def hide(self, text: str) -> str:
        """`text` in one line, short, without the key."""
        for known in filter(None, (repr(self.key)[1:-1], self.key)):  # as errors quote it, and as it is
            text = text.replace(known, "***")
        return " ".join(text.split())[:300]


@dataclass
class Piece:
    """What one event brought: text, why it ended, the tokens counted by the server."""

    text: str = ""
    finish: str = ""
    usage: dict[str, Any] | None = None


async def discover(client: httpx.AsyncClient, asked: Server) -> Server:
    """The server with the model that it has, if none was named. Failed when it does not answer, or has none."""
    try:
        async with asyncio.timeout(asked.timeout_s):
            answer = await client.get(f"{asked.url}/models", headers=asked.headers())
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, UnicodeError) as error:
        raise Failed(_trouble(asked, error)) from None
    if answer.status_code in (404, 405, 501) and asked.model:
        return asked  # some have no list
    if answer.status_code >= 400:
        raise _http_error(asked, answer.status_code, answer.text)
    models = _json(asked, answer.text).get("data")
    listed = [m for m in models if isinstance(m, dict) and m.get("id")] if isinstance(models, list) else []
    if not listed and not asked.model:
        raise Failed(f"{asked.url} lists no model: name one")
    names = [str(m["id"]) for m in listed]
    if asked.model and listed and asked.model not in names and listed[0].get("owned_by") == "vllm":
        raise Failed(f"{asked.url} has no model {asked.model!r}: it has {', '.join(names[:5])}")
    mine = next((m for m in listed if m["id"] == asked.model), listed[0] if not asked.model else {})
    room = mine.get("max_model_len")
    return Server(
        asked.url,
        asked.model or names[0],
        mine.get("owned_by") == "vllm",
        room if isinstance(room, int) else 0,
        asked.timeout_s,
        asked.key,
    )


async def stream(
    client: httpx.AsyncClient, server: Server, path: str, body: Mapping[str, Any]
) -> AsyncGenerator[Piece, None]:
    """What the server sends, piece by piece, to its end. Failed otherwise; Refused when the request itself is wrong.

    A server that says it is busy is asked again a few times. `timeout_s` is the longest silence between two events.
    """
    for attempt in range(TRIES):
        request = client.build_request("POST", server.url + path, json=body, headers=server.headers())
        try:
            async with asyncio.timeout(server.timeout_s):
                answer = await client.send(request, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise Failed(_trouble(server, error)) from None
        try:
            if answer.status_code in BUSY and attempt + 1 < TRIES:
                await asyncio.sleep(_pause(answer, attempt))
                continue
            async for piece in _read(server, answer):
                yield piece
            return
        finally:
            await answer.aclose()


async def _read(server: Server, answer: httpx.Response) -> AsyncGenerator[Piece, None]:
    if answer.status_code >= 400:
        raise _http_error(server, answer.status_code, await _body(server, answer))
    if "text/event-stream" not in answer.headers.get("content-type", ""):
        yield _piece(server, await _body(server, answer), "message")  # it does not stream: all of it at once
        return
    pieces = 0
    async for data in _events(server, answer):
        if data == "[DONE]":
            return
        piece = _piece(server, data, "delta")
        pieces += 1
        yield piece
    raise Failed(
        f"the stream of {server.url} was cut after {pieces} events: the server or something before it closed it"
    )


async def _events(server: Server, answer: httpx.Response) -> AsyncGenerator[str, None]:
    """The data of each event. Silence is measured between events, so that comments do not keep a dead one alive."""
    rest, chunks = b"", answer.aiter_bytes()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + server.timeout_s
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks, None)
        except (httpx.HTTPError, TimeoutError) as error:
            raise Failed(_trouble(server, error)) from None
        if chunk is None:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MOST_LINE:
            raise Failed(f"{server.url} sends an event without an end: it is no OpenAI-compatible server")
        for line in lines:
            name, _, data = line.strip().partition(b":")
            if name == b"data":
                deadline = loop.time() + server.timeout_s
                yield data.strip().decode("utf-8", "replace")


def _piece(server: Server, text: str, where: str) -> Piece:
    """One event, or the whole answer."""
    item = _json(server, text)
    if error := item.get("error"):
        said = error.get("message", error) if isinstance(error, dict) else error
        raise Failed(f"{server.url} broke off: {server.hide(str(said))}")
    usage = item.get("usage")
    piece = Piece(usage=usage if isinstance(usage, dict) else None)
    choices = item.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        said = choices[0].get(where) or {}
        found = said.get("content") if isinstance(said, dict) else None
        found = choices[0].get("text") if found is None else found
        piece.text = found if isinstance(found, str) else ""
        piece.finish = str(choices[0].get("finish_reason") or "")
    elif where == "message":
        raise Failed(f"{server.url} answers without choices: it is no OpenAI-compatible server")
    return piece


async def _body(server: Server, answer: httpx.Response) -> str:
    """A short body, read within the time limit."""
    read = b""
    try:
        async with asyncio.timeout(server.timeout_s):
            async for chunk in answer.aiter_bytes():
                read += chunk
                if len(read) > MOST_BODY:
                    break
    except (httpx.HTTPError, TimeoutError) as error:
        raise Failed(_trouble(server, error)) from None
    return read.decode("utf-8", "replace")


def _json(server: Server, text: str) -> dict[str, Any]:
    try:
        item = json.loads(text)
    except (ValueError, RecursionError):
        item = None
    if not isinstance(item, dict):
        raise Failed(f"{server.url} sent what is no JSON object: {server.hide(text[:80])!r}")
    return item


def _pause(answer: httpx.Response, attempt: int) -> float:
    """Seconds until the next try: what the server asks for, within reason."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked) if asked.isdigit() else PAUSE_S * 2**attempt, MOST_PAUSE_S)


def _http_error(server: Server, status: int, text: str) -> Failed:
    said = server.hide(text)
    match status:
        case 400 | 422:
            return Refused(f"{server.url} refuses the request ({status}): {said}")
        case 401 | 403:
            return Failed(f"{server.url} wants another key ({status}): put it into the environment variable: {said}")
        case 404:
            return Failed(f"{server.url} has no such path, or no model {server.model!r} (404): {said}")
        case 429 | 503:
            return Failed(f"{server.url} is busy ({status}) and stays so: try later, or ask for fewer at once: {said}")
        case _:
            return Failed(f"{server.url} failed ({status}): look into its log: {said}")


def _trouble(server: Server, error: Exception) -> str:
    """A transport's error in words."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        return f"no server answers at {server.url}: start it, or correct the URL ({server.hide(str(error))})"
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"{server.url} was silent for {server.timeout_s:g} s: it is overloaded or hangs; allow it more time"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return f"{server.url} closed the connection in the middle ({server.hide(str(error))})"
    return f"{server.url} cannot be asked: {server.hide(str(error) or type(error).__name__)}"
