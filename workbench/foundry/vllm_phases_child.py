"""vLLM's start, traced from inside: `python -m workbench.foundry.vllm_phases_child FD`, for vllm_phases.py.

The first line on stdin is the settings; on the pipe FD a JSON object a line:

    {"is": "at", "name"}                                           the part that begins
    {"is": "done", "parts", "tokens", "steps_s", "about"}          the last one
    {"is": "error", "text"}                                        instead of it

vLLM decorates the parts of its start with `vllm.tracing.instrument`, which asks a registry for a tracer when a class is
defined. The tracer here is put into that registry before any other module of vLLM is imported; a plug-in of vLLM's own
kind would be loaded after the decorators have run.
"""

from __future__ import annotations

import time

FIRST_LINE = time.monotonic()  # whatever comes before is the interpreter's

import contextlib  # noqa: E402
import functools  # noqa: E402
import importlib  # noqa: E402
import inspect  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from typing import TYPE_CHECKING, Any, NoReturn  # noqa: E402

if TYPE_CHECKING:
    from workbench.child import Say


class Tracer:
    """Parts of one thread: the first line's, on which vLLM starts in this process."""

    def __init__(self, began: float, say: Say) -> None:
        self.began, self.say = began, say
        self.parts: list[tuple[str, float, float]] = []
        self._thread = threading.get_ident()
        self._compiling: list[float] = []

    def now(self) -> float:
        """Seconds since this process was asked for."""
        return time.monotonic() - self.began

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside is that part."""
        if threading.get_ident() != self._thread:
            yield
            return
        self.say({"is": "at", "name": name})
        start_s = self.now()
        try:
            yield
        finally:
            self.parts.append((name, start_s, self.now()))

    def instrument(self, func: Callable[..., Any], span_name: str, **_: Any) -> Callable[..., Any]:
        """What vLLM decorates functions with that it wants traced."""
        name = span_name or func.__qualname__
        if inspect.iscoroutinefunction(func):
            return func

        @functools.wraps(func)
        def traced(*args: Any, **more: Any) -> Any:
            with self.part(name):
                return func(*args, **more)

        return traced

    def install(self) -> None:
        """Become vLLM's tracer. RuntimeError where its registry is not as this knows it."""
        import vllm
        from vllm import tracing

        registry = getattr(tracing, "_REGISTERED_TRACING_BACKENDS", None)
        if not isinstance(registry, dict) or len(registry.get("otel", ())) != 5:
            raise RuntimeError(f"vLLM {vllm.__version__} registers tracers in another way than 0.32, which is known")
        registry["otel"] = (lambda: True, _nothing, _nothing, self.instrument, _nothing)

    def watch_compiling(self) -> None:
        """The model's compilation as vLLM monitors it, or the loading of what it compiled before; and every other."""
        from torch._dynamo.callback import on_compile_end, on_compile_start
        from vllm.compilation import monitor

        monitored = getattr(monitor, "monitor_torch_compile", None)
        if monitored is None:
            return  # the other side misses the part and says so

        @contextlib.contextmanager
        def traced(*args: Any, **more: Any) -> Iterator[Any]:
            loads = not more.get("announce_start", True)
            with self.part("load compiled code" if loads else "compilation"), monitored(*args, **more) as made:
                yield made

        setattr(monitor, "monitor_torch_compile", traced)  # noqa: B010  a function of a module that mypy does not read
        user = sys.modules.get("vllm.compilation.decorators")  # which imports it by name
        if user is not None:
            setattr(user, "monitor_torch_compile", traced)  # noqa: B010

        def began(_: Any) -> None:
            if threading.get_ident() == self._thread:
                self._compiling.append(self.now())

        def ended(_: Any) -> None:
            if threading.get_ident() == self._thread and self._compiling:
                self.parts.append(("compilation", self._compiling.pop(), self.now()))

        on_compile_start(began)  # small helpers, as the sampler's
        on_compile_end(ended)


def _nothing(*_: Any, **__: Any) -> None: ...


def start(settings: dict[str, Any], tracer: Tracer) -> dict[str, Any]:
    """Start, and decode. Whatever vLLM raises comes out of it."""
    tracer.parts.append(("interpreter", 0.0, FIRST_LINE - tracer.began))
    with tracer.part("import torch"):
        import torch
    with tracer.part("import vLLM"):
        tracer.install()
        if settings["compiling"]:
            tracer.watch_compiling()
        from vllm import SamplingParams
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.llm_engine import LLMEngine
        from vllm.version import __version__

        importlib.import_module("vllm.v1.engine.core")
        if current_platform.is_cpu():
            importlib.import_module("vllm.v1.worker.cpu_worker")
    with tracer.part("configure"):
        arguments = EngineArgs(skip_tokenizer_init=True, disable_log_stats=True, **settings["arguments"])
        config = arguments.create_engine_config()
    with tracer.part("engine"):
        engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)
    with tracer.part("first token"):
        how = SamplingParams(temperature=0.0, max_tokens=settings["tokens"], ignore_eos=True, detokenize=False)
        engine.add_request("0", {"prompt_token_ids": settings["prompt"]}, how)
        said: list[int] = []
        while not said:
            said = _step(engine, said)
    steps_s = []
    while len(said) < settings["tokens"]:
        began = time.perf_counter()
        said = _step(engine, said)
        steps_s.append(time.perf_counter() - began)
    about = {
        "version": __version__,
        "torch": torch.__version__,
        "device": current_platform.device_type,
        "threads": torch.get_num_threads(),
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "mode": config.compilation_config.mode.name,
        "keeps_bytecode": not sys.dont_write_bytecode,
    }
    return {"parts": tracer.parts, "tokens": said, "steps_s": steps_s, "about": about}


def _step(engine: Any, said: list[int]) -> list[int]:
    """The tokens after one more step of the engine. RuntimeError when it has nothing left to do."""
    if not engine.has_unfinished_requests():
        raise RuntimeError(f"vLLM ended the request after {len(said)} tokens")
    for output in engine.step():
        said = list(output.outputs[0].token_ids)
    return said


def main() -> NoReturn:
    """The start that stdin asks for, and the end."""
    from workbench.child import serve

    def go(settings: dict[str, Any], _: object, say: Say) -> None:
        say({"is": "done", **start(settings, Tracer(settings["began"], say))})

    serve(go)


if __name__ == "__main__":
    main()
