"""vLLM in a process of its own, for the systems that serve with it: how it is set up, asked, waited for and ended.

    on_cpu = vllm_process.build()                        # BackendUnavailable without vLLM
    child = VllmProcess("workbench.some_system.vllm_child", on_cpu, SomeError, told)
    child.ask({"arguments": vllm_process.arguments(on_cpu, 1 << 30) | {"model": ...}})
    for fields in child.heard(START_S): ...              # SomeError names death, silence and what vLLM had against it
    child.end()                                          # the process, all below it, and its folder

The module is the other side: `workbench.child.serve`, with `about` in its line {"is": "ready", ...}.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench import backends
from workbench.child import Child, ChildDied

START_S = 300.0  # silence while it starts: imports and weights on a busy machine
WAIT_S = 0.05  # one look waits so long for something to come
BLOCK = 32  # tokens; see docs/plato-vllm.md for what other sizes cost
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # no worker below the process that has the core
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}
ON_CPU = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # the sampler would be compiled at its first use, which takes 30 s
}


def build() -> bool:
    """Whether the vLLM of this machine is the CPU's. BackendUnavailable without any."""
    backends.need("vllm")
    return bool(backends.version("vllm-cpu"))


def arguments(on_cpu: bool, kv_bytes: int, block: int = BLOCK) -> dict[str, Any]:
    """Engine arguments that go with the build. kv_bytes, block (tokens): of a CPU's KV cache; a GPU has vLLM's own."""
    made: dict[str, Any] = {"distributed_executor_backend": "uni"}
    if on_cpu:  # compiling takes minutes and wins nothing there
        made |= {"enforce_eager": True, "kv_cache_memory_bytes": kv_bytes, "block_size": block}
    return made


class VllmProcess(Child):
    """The running process. What goes wrong is raised as `error`, with the way out.

    `told` says of the text of an error what was done meanwhile and why it came: "vLLM failed while {told(text)}".
    """

    def __init__(
        self, module: str, on_cpu: bool, error: type[RuntimeError], told: Callable[[str], str] | None = None
    ) -> None:
        self._error = error
        self._told = told or (lambda text: f"{self.doing}: {text}")
        self._scratch = tempfile.TemporaryDirectory(prefix="workbench-vllm-")
        self.folder = Path(self._scratch.name)  # of its log and temporary files, and for what it is handed
        environment = ENVIRONMENT | (ON_CPU if on_cpu else {})
        try:
            super().__init__([sys.executable, "-m", module], self.folder, environment, "vLLM")
        except BaseException:
            self._scratch.cleanup()
            raise

    def ask(self, fields: Mapping[str, Any]) -> None:
        """One line to it. A dead process is named by what is heard next; `error` when it takes nothing."""
        try:
            self.send(fields)
        except ChildDied as died:
            raise self._error(f"{died} Open the engine again.") from None

    def heard(self, patience_s: float) -> Iterator[dict[str, Any]]:
        """Lines that have come, within WAIT_S. `error` when it died, failed, or said nothing for patience_s."""
        try:
            lines = self.read(WAIT_S)
            if not lines:
                self.check_silence(patience_s)
        except ChildDied as died:
            raise self._error(f"{died} Open the engine again.") from None
        for fields in lines:
            if fields["is"] == "error":
                raise self._error(f"vLLM failed while {self._told(fields['text'])}. {self.tail()}")
            yield fields

    def end(self) -> None:
        """End it and everything below it; nothing is left, nor its folder. Twice is no error."""
        super().end()
        self._scratch.cleanup()


def about(config: Any) -> dict[str, Any]:
    """Of a VllmConfig whose engine stands: version, device, room (positions), block (tokens), kv_tokens."""
    import vllm
    from vllm.platforms import current_platform

    cache = config.cache_config
    return {
        "version": vllm.__version__,
        "device": current_platform.device_type,
        "room": config.model_config.max_model_len,
        "block": cache.block_size,
        "kv_tokens": (cache.num_gpu_blocks or 0) * cache.block_size,
    }
