"""vLLM's engine in a process of its own, for rollouts: requests come as lines, tokens go back a line a pass.

python -m workbench.rlboost.vllm_child FD        the first line on stdin is what `Serving` takes as settings

    {"op": "give", "number", "request", "prompt", "done", "most", "sampler"}    {"op": "take", "number"}
    {"op": "load", "file", "version"}                                           {"op": "held"}

    {"is": "ready", ...}
    {"is": "pass", "pieces": [{"number", "start", "ids", "logprobs", "ended"}]}
    {"is": "loaded", "version", "digest"}                                       {"is": "held", "responses", "kv"}
    {"is": "error", "text"}                     the engine is gone; the process ends

Lines are read and written by workbench.child.serve. Core, scheduler and worker run in this one process: between two
passes nothing happens, so weights are replaced there.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.child import Lines, Say

FORGET_S = 20.0  # until the last blocks of aborted requests are free


class WeightReader:
    """What vLLM's worker is extended by (`worker_extension_cls`): every worker of an engine reads the file itself."""

    model_runner: Any

    def read_weights(self, file: str) -> str:
        """Replace the weights in place by those of a safetensors file of the checkpoint's names; their digest."""
        from safetensors.torch import load_file

        from workbench.rlboost.weights import digest

        weights = load_file(file)
        self.reload_weights(weights_iterator=iter(weights.items()))  # type: ignore[attr-defined]  # the worker's
        for layer in self.model_runner.get_model().modules():
            # On a CPU vLLM computes with packed copies. A tied output layer is handed no tensor, so vLLM 0.32 leaves
            # its copy of the old embedding as it is, with a warning.
            if hasattr(layer, "cpu_linear") and layer.weight.numel():
                layer.quant_method.process_weights_after_loading(layer)
        return digest(weights)


def draws() -> type[Any]:
    """The logits processor that draws as workbench.lm's Sampler does: by (seed, request, position), and no state.

    vLLM's own seeded draws come from a generator that begins anew where a response goes on. Here the token is picked
    from the raw logits, and nothing but it is left: its logit is its log-probability at the temperature, which vLLM
    hands out in the mode "processed_logits".
    """
    import torch
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

    from workbench.lm.sampler import Sampler

    class Draws(AdapterLogitsProcessor):  # type: ignore[misc,unused-ignore]
        def is_argmax_invariant(self) -> bool:
            return False

        def new_req_logits_processor(self, params: Any) -> Callable[[list[int], Tensor], Tensor]:
            asked = params.extra_args
            sampler, request, done = Sampler(**asked["sampler"]), asked["request"], asked["done"]

            def pick(made: list[int], logits: Tensor) -> Tensor:
                at = done + len(made)
                try:
                    token = sampler.pick(logits, request, at)
                except ValueError as error:
                    raise RuntimeError(f"{request}, position {at}: {error}") from error
                logprob = torch.log_softmax(logits / (sampler.temperature or 1.0), 0)[token]
                only = torch.full_like(logits, -torch.inf)
                only[token] = logprob
                return only

            return pick

    return Draws


class Serving:
    """One engine, the requests on it, and the loop that runs both."""

    def __init__(self, settings: dict[str, Any], asked: Lines, say: Say) -> None:
        self.settings, self.asked, self.say = settings, asked, say
        self.stops = set(settings["stop_ids"])
        self.made: dict[str, int] = {}  # vLLM's name of a request -> tokens of its response

    def go(self) -> NoReturn:
        """Start the engine and serve until this process is ended. Whatever vLLM raises comes out of it."""
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from workbench.vllm_process import about

        arguments = EngineArgs(
            skip_tokenizer_init=True,
            async_scheduling=False,  # a draw needs all tokens before it
            logprobs_mode="processed_logits",
            logits_processors=[draws()],
            worker_extension_cls="workbench.rlboost.vllm_child.WeightReader",
            disable_log_stats=True,
            **self.settings["arguments"],
        )
        self.engine = LLMEngine.from_engine_args(arguments)
        self.say({"is": "ready", **about(self.engine.vllm_config)})
        while True:
            self.hear()
            if self.engine.has_unfinished_requests():
                self.one_pass()

    def hear(self) -> None:
        """Do what has been asked; without anything to run, wait for it."""
        idle = not self.engine.has_unfinished_requests()
        while True:
            try:
                fields = self.asked.get(block=idle, timeout=1.0 if idle else None)
            except queue.Empty:
                return
            idle = False
            getattr(self, fields.pop("op"))(**fields)

    def give(
        self, number: int, request: str, prompt: list[int], done: list[int], most: int, sampler: dict[str, Any]
    ) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        how = SamplingParams(
            temperature=0.0,  # takes the largest logit: the one that was drawn
            logprobs=0,  # of that token alone
            max_tokens=most - len(done),
            ignore_eos=True,
            stop_token_ids=list(self.stops),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"sampler": sampler, "request": request, "done": len(done)},
        )
        self.made[str(number)] = len(done)
        self.engine.add_request(str(number), {"prompt_token_ids": prompt + done}, how)

    def take(self, number: int) -> None:
        if self.made.pop(str(number), None) is not None:
            self.engine.abort_request([str(number)])

    def load(self, file: str, version: int) -> None:
        """Other weights, and no KV of the old ones: a cached prompt would else mix the two."""
        digests = self.engine.collective_rpc("read_weights", args=(file,))
        deadline = time.monotonic() + FORGET_S
        while not self.engine.reset_prefix_cache():
            if time.monotonic() > deadline:
                raise TimeoutError(f"vLLM's prefix cache could not be emptied for {FORGET_S:.0f} s")
            self.engine.step()
        self.say({"is": "loaded", "version": version, "digest": digests[0]})

    def held(self) -> None:
        """What vLLM itself counts: requests, and the share of the KV cache that they have."""
        kv = self.engine.engine_core.engine_core.scheduler.kv_cache_manager.usage
        self.say({"is": "held", "responses": self.engine.get_num_unfinished_requests(), "kv": kv})

    def one_pass(self) -> None:
        """One step of vLLM, and what each response gained by it."""
        pieces = []
        for output in self.engine.step():
            name, done = output.request_id, output.outputs[0]
            ids = list(done.token_ids)
            if name not in self.made or not (ids or done.finish_reason):
                continue
            start = self.made[name]
            self.made[name] += len(ids)
            ended = ""
            if done.finish_reason:
                del self.made[name]
                if done.finish_reason not in ("stop", "length"):
                    raise RuntimeError(f"vLLM ended a response with {done.finish_reason!r}")
                ended = "stop" if ids[-1] in self.stops else "length"
            logprobs = [told[token].logprob for token, told in zip(ids, done.logprobs or (), strict=True)]
            pieces.append({"number": int(name), "start": start, "ids": ids, "logprobs": logprobs, "ended": ended})
        if pieces:
            self.say({"is": "pass", "pieces": pieces})


def main() -> NoReturn:
    """Serve until the other side hangs up or the engine dies."""
    from workbench.child import serve

    serve(lambda settings, asked, say: Serving(settings, asked, say).go())


if __name__ == "__main__":
    main()
