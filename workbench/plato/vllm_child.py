"""vLLM's asynchronous engine in a process of its own: requests come as lines, tokens go back a line an engine step.

python -m workbench.plato.vllm_child FD        the first line on stdin is what `Serving` takes as settings

    {"op": "start", "id", "ids", "budget", "whole", "stop", "share", "lark", "script",
     "temperature", "seed"}                                            {"op": "stop", "id"}    {"op": "forget"}

    {"is": "phase", "name", "seconds"}          starting: what took how long        {"is": "ready", ...}
    {"is": "step", "outs": [...], "stats": {...}}           what a step gave, and vLLM's own statistics of it
    {"is": "forgot"}                            no KV is left that another request could reuse
    {"is": "error", "text"}                     the engine is gone; the process ends

Lines are read and written by workbench.child.serve. Each request is one `AsyncLLM.generate`. Its core runs in a process
of its own below this one, forked after the imports.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from workbench.child import Lines, Say

FORGET_S = 20.0  # until aborted requests have given their blocks back
STATS = ("steps", "decoded", "prefilled", "reused", "preempted")  # sums; beside them the lists widths and tokens


class Serving:
    """One engine and the requests on it."""

    def __init__(self, settings: dict[str, Any], asked: Lines, say: Say) -> None:
        self.settings, self.asked, self.say = settings, asked, say
        self.following: dict[int, asyncio.Task[None]] = {}
        self.outs: list[dict[str, Any]] = []
        self.stats: dict[str, Any] = {}
        self.over = asyncio.Event()
        self.clear()

    def clear(self) -> None:
        """Count from here on."""
        self.stats = dict.fromkeys(STATS, 0) | {"widths": [], "tokens": []}

    async def go(self) -> None:
        """Start the engine and serve until it is gone."""
        self.loop = asyncio.get_running_loop()
        self.engine, about = self.open()
        self.say({"is": "ready", **about})
        threading.Thread(target=self.hear, name="asked", daemon=True).start()  # not before the core was forked
        await self.over.wait()

    def hear(self) -> NoReturn:
        """On a thread: each line that comes is taken on the loop."""
        while True:
            self.loop.call_soon_threadsafe(self.take, self.asked.get())

    # -- starting --------------------------------------------------------------------------------------------------

    def open(self) -> tuple[Any, dict[str, Any]]:
        """(engine, what the other side wants to know of it). vLLM's own errors when it cannot be built."""
        given, since = self.settings, time.monotonic()

        def phase(name: str) -> None:
            nonlocal since
            self.say({"is": "phase", "name": name, "seconds": time.monotonic() - since})
            since = time.monotonic()

        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        from workbench.vllm_process import about

        phase("importing vLLM")
        config = AsyncEngineArgs(
            enable_prefix_caching=True,
            structured_outputs_config={"backend": "guidance"},  # the one that takes Lark
            disable_log_stats=True,
            enable_logging_iteration_details=True,
            **given["arguments"],
        ).create_engine_config()
        if current_platform.is_cpu():  # one thread each, nothing but memory is inherited: no second import of 10 s
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        engine = AsyncLLM.from_vllm_config(config, stat_loggers=[self.logger()], disable_log_stats=True)
        phase("building the engine")
        return engine, about(config)

    def logger(self) -> Any:
        """A stat logger that adds up what vLLM says of each step."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        serving = self

        class Logger(StatLoggerBase):  # type: ignore[misc,unused-ignore]
            def __init__(self, _config: Any, _index: int = 0) -> None: ...

            def log_engine_initialized(self) -> None: ...

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                serving.count(scheduler_stats, iteration_stats)

        return Logger

    def count(self, scheduler: Any, iteration: Any) -> None:
        """One step, as vLLM's scheduler and output processor describe it."""
        stats, details = self.stats, scheduler and scheduler.iteration_details
        if details:
            stats["steps"] += 1
            stats["widths"].append(details.num_ctx_requests + details.num_generation_requests)
            stats["tokens"].append(details.num_ctx_tokens + details.num_generation_tokens)
        if iteration:
            stats["decoded"] += iteration.num_generation_tokens
            stats["prefilled"] += iteration.prompt_token_stats.computed
            stats["reused"] += iteration.prompt_token_stats.local_cache_hit
            stats["preempted"] += iteration.num_preempted_reqs

    # -- serving ---------------------------------------------------------------------------------------------------

    def take(self, fields: dict[str, Any]) -> None:
        """One line from the other side."""
        match fields["op"]:
            case "start":
                self.following[fields["id"]] = self.loop.create_task(self.follow(fields))
            case "stop":
                if task := self.following.get(fields["id"]):
                    task.cancel()  # generate() aborts its request
            case "forget":
                self.loop.create_task(self.forget())

    async def follow(self, ask: dict[str, Any]) -> None:
        """One request from its first token to its last."""
        from vllm.v1.engine.exceptions import EngineDeadError

        number = ask["id"]
        try:
            prompt: dict[str, Any] = {"prompt_token_ids": ask["ids"]}
            if not ask["share"]:
                prompt["cache_salt"] = f"request {number}"  # its blocks have names that no other request asks for
            async for output in self.engine.generate(prompt, self.params(ask), str(number)):
                done = output.outputs[0]
                ids, ended = list(done.token_ids), ""
                if done.finish_reason:
                    ids, ended = self.ending(ask, ids, done)
                self.put({"id": number, "ids": ids, "ended": ended, "cached": output.num_cached_tokens})
        except asyncio.CancelledError:
            pass  # stopped: nobody waits for it
        except EngineDeadError as error:
            self.fail(RuntimeError(f"vLLM's engine core is gone ({error})"))
        except Exception as error:  # noqa: BLE001  whatever vLLM has against this request is told, others go on
            cause = error.__cause__ or error
            self.put({"id": number, "ids": [], "ended": "failed", "said": f"{type(cause).__name__}: {cause}"})
        finally:
            del self.following[number]

    def params(self, ask: dict[str, Any]) -> Any:
        """What is asked, in the form of vLLM."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        script, budget = ask["script"], ask["budget"] or 1
        if script:  # the tokens by their ids: the model would cut the same text into others
            budget = min(budget, len(script))
            grammar = "start: " + " ".join(f"<[{token}]>" for token in script)
        else:
            grammar = ask["lark"]
        return SamplingParams(
            temperature=ask["temperature"],
            seed=ask["seed"],
            max_tokens=budget,
            ignore_eos=ask["whole"] and not grammar,
            stop=ask["stop"] or None,
            detokenize=bool(ask["stop"]),
            skip_special_tokens=False,  # the text as the other side decodes it
            spaces_between_special_tokens=False,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=StructuredOutputsParams(grammar=grammar) if grammar else None,
        )

    def ending(self, ask: dict[str, Any], ids: list[int], done: Any) -> tuple[list[int], str]:
        """(last tokens that belong to the answer, how it ended)."""
        if not ask["budget"]:
            return [], "budget"
        if done.finish_reason == "length":
            return ids, "constraint" if ask["script"] and len(ask["script"]) <= ask["budget"] else "budget"
        if done.finish_reason == "stop" and not isinstance(done.stop_reason, str):
            return ids[:-1], "constraint" if ask["lark"] else "stop"  # the last one is the model's end token
        return ids, "stop" if done.finish_reason == "stop" else "failed"

    async def forget(self) -> None:
        """Drop every cached prefix once nothing runs; then count anew."""
        for task in list(self.following.values()):
            task.cancel()
        await asyncio.gather(*self.following.values(), return_exceptions=True)
        deadline = time.monotonic() + FORGET_S
        while not await self.engine.reset_prefix_cache():
            if time.monotonic() > deadline:
                self.fail(RuntimeError(f"vLLM's prefix cache could not be reset for {FORGET_S:.0f} s"))
                return
            await asyncio.sleep(0.01)
        self.outs.clear()
        self.clear()
        self.say({"is": "forgot"})

    # -- what is said ----------------------------------------------------------------------------------------------

    def put(self, out: dict[str, Any]) -> None:
        """Keep what a request gained until all that wake in this turn of the loop have put theirs."""
        if not self.outs:
            self.loop.call_soon(self.flush)
        self.outs.append(out)

    def flush(self) -> None:
        if self.outs:
            self.say({"is": "step", "outs": self.outs, "stats": self.stats})
            self.outs = []
            self.stats["widths"], self.stats["tokens"] = [], []  # these are sent once, the sums whole every time

    def fail(self, error: BaseException) -> None:
        self.say({"is": "error", "text": f"{type(error).__name__}: {error}"})
        self.over.set()


def main() -> NoReturn:
    """Serve until the other side hangs up or the engine dies."""
    from workbench.child import serve

    serve(lambda settings, asked, say: asyncio.run(Serving(settings, asked, say).go()))


if __name__ == "__main__":
    main()
