"""vLLM as an engine that rolls out: what `rollout.Rollouts` is asked, vLLM does in a child process.

    engine = VllmRollouts("smollm2", Sampler(1.0, seed=7), slots=16)           20 s on an idle core
    engine.load(3, pull.weights())
    engine.give(Ask("step 3 response 12", prompt, done=(5, 9), most=48))
    for piece in engine.step(): ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, "spot-1", version=3)
    engine.close()

A response that was cut elsewhere comes as prompt and tokens; vLLM prefills both. Tokens are drawn by the embedded
engine's function of (seed, request, position), so in fp32 a response may move between the two and says the same.
Weights come as a file that vLLM's worker loads in place (its `reload_weights`), and the prefix cache is emptied.
Source: arXiv 2510.19225, sections 4.2 and 4.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from workbench import vllm_process
from workbench.lm.dtype import Dtype
from workbench.lm.sampler import Sampler
from workbench.rlboost.rollout import Ask, Tokens
from workbench.rlboost.weights import digest
from workbench.vllm_process import START_S, VllmProcess

if TYPE_CHECKING:
    from torch import Tensor

SILENCE_S = 120.0  # while responses are open
LOAD_S = 120.0  # to replace the weights
COUNT_S = 30.0
ROOM, STEP_TOKENS = 2048, 1024
KV_BYTES = 1 << 30
SMALLEST_HEAD = 32  # of vLLM's attention on a CPU


class VllmGone(RuntimeError):
    """vLLM did not start, failed, ended or fell silent; the message says when, and quotes its log."""


@dataclass
class _Row:
    ask: Ask
    number: int


class VllmRollouts:
    """At most `slots` responses at once, the others wait within vLLM. For one thread; `close` ends the process.

    `model`: "smollm2", or a folder of a Llama as transformers and vLLM have it. Until the first `load` it has the
    weights of that folder, called `version`. `room`: positions of a response with its prompt. `kv_bytes`: of the KV
    cache, on a CPU. BackendUnavailable without vLLM; ValueError for a model that it cannot serve; VllmGone where it
    does not start.
    """

    pending: tuple[Ask, ...] = ()  # vLLM has its own queue

    def __init__(
        self,
        model: str | Path,
        sampler: Sampler,
        slots: int = 16,
        version: int = 0,
        *,
        dtype: Dtype = "float32",
        room: int = ROOM,
        kv_bytes: int = KV_BYTES,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        on_cpu = vllm_process.build()
        if slots < 1:
            raise ValueError(f"slots must be 1 or more, not {slots}")
        self.folder = _folder(model, on_cpu)
        config = json.loads((self.folder / "config.json").read_text())
        eos = config.get("eos_token_id")
        self.stop_ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
        self.vocab = int(config["vocab_size"])
        self.sampler, self.slots, self.version, self.dtype = sampler, slots, version, dtype
        self.running: dict[str, _Row] = {}
        self.prefilled = self.decoded = self.passes = 0
        self._shapes = _shapes(self.folder)
        self._names: dict[int, str] = {}
        self._count = 0
        self._kept: list[dict[str, Any]] = []  # passes that came while something else was waited for
        settings = {
            "arguments": {
                "model": str(self.folder),
                "dtype": dtype,
                "max_model_len": room,
                "max_num_seqs": slots,
                "max_num_batched_tokens": max(STEP_TOKENS, slots),
                **vllm_process.arguments(on_cpu, kv_bytes),
                **(arguments or {}),
            },
            "stop_ids": self.stop_ids,
        }
        self._child = VllmProcess("workbench.rlboost.vllm_child", on_cpu, VllmGone, self._told)
        try:
            self._child.ask(settings)
            self.about = self._answer("ready", "starting", START_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what rollout.Rollouts has -------------------------------------------------------------------------------

    def give(self, ask: Ask) -> None:
        """One more response. ValueError: known already, longer than the room, or a token that the model has not."""
        if ask.request in self.running:
            raise ValueError(f"{ask.request} is here already")
        room = int(self.about["room"])
        if len(ask.prompt) + ask.most > room:
            raise ValueError(
                f"{ask.request}: {len(ask.prompt)} tokens of prompt and {ask.most} of response exceed the {room} "
                "positions that this engine was opened with (room)"
            )
        if strange := [i for i in (*ask.prompt, *ask.done) if not 0 <= i < self.vocab]:
            raise ValueError(f"{ask.request}: token {strange[0]} is not one of the model's {self.vocab}")
        self._count += 1
        if not self.running:
            self._child.expect()
        self.running[ask.request] = _Row(ask, self._count)
        self._names[self._count] = ask.request
        self.prefilled += len(ask.prompt) + len(ask.done)
        self._child.ask({"op": "give", "number": self._count, "sampler": asdict(self.sampler), **asdict(ask)})

    def take(self, request: str) -> bool:
        """Give a response up: vLLM aborts it, and nothing more is told of it. False where it is not here."""
        row = self.running.pop(request, None)
        if row is None:
            return False
        del self._names[row.number]
        self._child.ask({"op": "take", "number": row.number})
        return True

    def load(self, version: int, weights: Mapping[str, Tensor]) -> None:
        """Go on with these weights, by the checkpoint's names. ValueError while responses are here, or where a name or
        shape is not the model's; VllmGone where vLLM does not take them in LOAD_S.
        """
        import torch
        from safetensors.torch import save_file

        if self.running:
            raise ValueError(f"{len(self.running)} responses are here: hand them on first")
        self._check(weights)
        kind = getattr(torch, self.dtype)
        given = {n: w.detach().to("cpu", kind).contiguous() for n, w in weights.items()}
        file = self._child.folder / f"weights-{version}.safetensors"
        save_file(given, file)
        try:
            self._child.ask({"op": "load", "file": str(file), "version": version})
            told = self._answer("loaded", f"loading weights {version}", LOAD_S)
        finally:
            file.unlink(missing_ok=True)
        if told["version"] != version or told["digest"] != digest(given):
            raise VllmGone(
                f"vLLM loaded weights {told['version']} that hash to {told['digest']}, not those of {version}"
            )
        self.version = version

    def step(self) -> list[Tokens]:
        """What vLLM has said since, after one look: the next tokens of responses. [] where there is nothing.

        VllmGone when it has ended, or says nothing for SILENCE_S while responses are here.
        """
        if not self.running:
            return []
        lines = [*self._kept, *self._child.heard(SILENCE_S)]
        self._kept = []
        return [piece for fields in lines if fields["is"] == "pass" for piece in self._taken(fields["pieces"])]

    # -- more ----------------------------------------------------------------------------------------------------

    def held(self) -> tuple[int, float]:
        """(responses, share of the KV cache in use), as vLLM itself counts. VllmGone after COUNT_S."""
        self._child.ask({"op": "held"})
        told = self._answer("held", "counting", COUNT_S)
        return int(told["responses"]), float(told["kv"])

    def close(self) -> None:
        """End the process; nothing is left. Twice is no error."""
        self.running.clear()
        self._names.clear()
        self._child.end()

    # -- the child -----------------------------------------------------------------------------------------------

    def _check(self, weights: Mapping[str, Tensor]) -> None:
        """ValueError names what is missing, strange or of another shape."""
        wanted = self._shapes
        for problem, names in {
            "are missing": sorted(wanted.keys() - weights.keys()),
            "are not the model's": sorted(weights.keys() - wanted.keys()),
            "have another shape": sorted(n for n in wanted.keys() & weights.keys() if wanted[n] != weights[n].shape),
        }.items():
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise ValueError(f"weights of {self.folder.name} {problem}: {', '.join(names[:3])}{more}")

    def _told(self, text: str) -> str:
        """Of an error: what was done, and the cause."""
        return f"{self._child.doing} with weights {self.version}: {text}"

    def _answer(self, kind: str, doing: str, patience_s: float) -> dict[str, Any]:
        """The line of this kind; passes that come before it are kept. VllmGone after patience_s of silence."""
        self._child.doing = doing
        self._child.expect()
        while True:
            found = None
            for fields in self._child.heard(patience_s):
                if fields["is"] == kind:
                    found = fields
                else:
                    self._kept.append(fields)
            if found is not None:
                self._child.doing = "rolling out"
                return {name: value for name, value in found.items() if name != "is"}

    def _taken(self, pieces: list[dict[str, Any]]) -> Iterator[Tokens]:
        """Tokens of a pass, without those of responses that were given up meanwhile."""
        self.passes += 1
        for piece in pieces:
            name = self._names.get(piece["number"])
            if name is None:
                continue
            self.decoded += len(piece["ids"])
            if piece["ended"]:
                del self.running[name], self._names[piece["number"]]
            yield Tokens(name, piece["start"], tuple(piece["ids"]), tuple(piece["logprobs"]), piece["ended"])


def _folder(model: str | Path, on_cpu: bool) -> Path:
    """The model's folder. ValueError says why vLLM cannot serve it."""
    if model == "smollm2":
        from workbench import lm

        return lm.path("smollm2")
    folder = Path(model)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"vLLM serves 'smollm2' or a folder with config.json and safetensors, and {str(model)!r} is neither: for "
            "'tiny' use the embedded engine"
        )
    config = json.loads((folder / "config.json").read_text())
    if "LlamaForCausalLM" not in config.get("architectures", []):
        raise ValueError(f"{folder} is a {config.get('architectures')}: the trainer's names are those of a Llama")
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if on_cpu and head < SMALLEST_HEAD:
        raise ValueError(
            f"{folder} has heads of {head}, where vLLM on a CPU takes {SMALLEST_HEAD} and more: use the embedded engine"
        )
    return folder


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the checkpoint; a tied output layer is no tensor of its own."""
    from safetensors import safe_open

    found = dict[str, tuple[int, ...]]()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as there:
            found |= {name: tuple(there.get_slice(name).get_shape()) for name in there.keys()}  # noqa: SIM118
    if json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"):
        found.pop("lm_head.weight", None)
    return found
