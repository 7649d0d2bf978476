"""CAKE on unmodified vLLM 0.32: two classes, named in the engine's arguments.

    LLM(model, scheduler_cls="workbench.cake.vllm.CakeScheduler",
        kv_transfer_config=KVTransferConfig(kv_connector="CakeConnector", kv_role="kv_both",
            kv_connector_module_path="workbench.cake.vllm", kv_connector_extra_config={"folder": "kv"}))

or `LLM(model, **cake_engine_args("kv"))`. Settings are in vllm_settings.py, the whole story in docs/cake-vllm.md.
"""

from __future__ import annotations

from typing import Any

from workbench.cake.vllm_version import check_version

check_version()

from workbench.cake.vllm_connector import CakeConnector  # noqa: E402
from workbench.cake.vllm_scheduler import CakeScheduler  # noqa: E402

__all__ = ["CakeConnector", "CakeScheduler", "cake_engine_args", "cake_params"]


def cake_engine_args(folder: str, **settings: Any) -> dict[str, Any]:
    """Arguments of `LLM` or `EngineArgs` for a store in `folder`; settings as in vllm_settings.Settings.

    ValueError names a wrong setting.
    """
    from vllm.config import KVTransferConfig

    from workbench.cake.vllm_settings import Settings

    extra = {"folder": str(folder), **settings}
    Settings.of(extra)
    return {
        "scheduler_cls": "workbench.cake.vllm.CakeScheduler",
        "kv_transfer_config": KVTransferConfig(
            kv_connector="CakeConnector",
            kv_connector_module_path="workbench.cake.vllm",
            kv_role="kv_both",
            kv_connector_extra_config=extra,
        ),
    }


def cake_params(mode: str = "cake", **more: Any) -> dict[str, Any]:
    """extra_args of SamplingParams for one request: its mode, and link_mb_s, cold, trace where they differ."""
    return {"kv_transfer_params": {"cake": mode, **more}}
