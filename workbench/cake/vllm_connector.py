"""CakeConnector: vLLM's connector interface over the book (scheduler's side) and the loader and saver (worker's)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats

from workbench.cake.learn import Learner
from workbench.cake.store import Layout, Store
from workbench.cake.vllm_jobs import Book
from workbench.cake.vllm_loader import KvBlocks, Loader, Saver
from workbench.cake.vllm_records import Loaded, Orders
from workbench.cake.vllm_settings import Settings, model_fingerprint
from workbench.cake.vllm_shared import make_folder
from workbench.cake.vllm_version import check_engine, kernel_layout

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

log = logging.getLogger("workbench.cake.vllm")


@dataclass
class CakeMetadata(KVConnectorMetadata):
    """What a step tells the worker."""

    orders: Orders


@dataclass
class CakeReport(KVConnectorWorkerMetadata):
    """What the worker tells back."""

    reads: list[Loaded] = field(default_factory=list)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> CakeReport:
        """There is one worker; this is for the interface."""
        return CakeReport(self.reads + (other.reads if isinstance(other, CakeReport) else []))


@dataclass
class CakeStats(KVConnectorStats):
    """Sums since the last log line: bytes and grains loaded, grains that failed."""

    data: dict[str, Any] = field(default_factory=dict)

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> CakeStats:
        keys = self.data.keys() | other.data.keys()
        return CakeStats({k: self.data.get(k, 0) + other.data.get(k, 0) for k in sorted(keys)})

    def reduce(self) -> dict[str, int | float]:
        return {f"CAKE {k}": v for k, v in self.data.items()}

    def is_empty(self) -> bool:
        return not any(self.data.values())


class CakeConnector(KVConnectorBase_V1, SupportsHMA):
    """Loads prompts from the back while CakeScheduler has them computed from the front."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        check_engine(vllm_config, kv_cache_config)
        self.settings = Settings.of(dict(self._kv_transfer_config.kv_connector_extra_config))
        spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
        self.grain = self.settings.grain_for(spec.block_size)
        model = vllm_config.model_config
        dtype = str(spec.dtype).removeprefix("torch.")
        layers = len(kv_cache_config.kv_cache_groups[0].layer_names)
        self.layout = Layout(layers, spec.num_kv_heads, self.grain, spec.head_size, dtype)
        tags = ("vllm", spec.block_size, kernel_layout(spec))
        self.fingerprint = model_fingerprint(model.model, model.hf_config.to_dict(), model.revision, *tags)
        if role == KVConnectorRole.SCHEDULER:
            budget = vllm_config.scheduler_config.max_num_batched_tokens
            learner = Learner(self.settings.known_costs())
            self.book = Book(
                self.settings,
                partial(self._open, False),
                make_folder(self.settings.shared),
                self.settings.policy(learner.costs, budget, self.grain),
                self.grain // spec.block_size,
                learner,
            )
            self._told: dict[str, int] = {}
        self.loader: Loader | None = None
        self.saver: Saver | None = None
        self._stores: dict[tuple[bool, str], Store] = {}

    def _open(self, cold: bool, epoch: str) -> Store:
        """The store's view of this model; `epoch` tells weights apart that the files do not."""
        return self.settings.open_store(self.layout, self.fingerprint + epoch, cold=cold or self.settings.cold)

    def _store(self, cold: bool, epoch: str) -> Store:
        if (cold, epoch) not in self._stores:
            self._stores[cold, epoch] = self._open(cold, epoch)
        return self._stores[cold, epoch]

    @property
    def requires_kv_delivery(self) -> bool:
        """A save that does not happen is a later miss, nothing worse."""
        return False

    # -- the scheduler's side ------------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """Always (0, False): vLLM starts to compute at once; what is stored is loaded meanwhile."""
        self.book.match(request, num_computed_tokens)
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:  # noqa: ARG002
        self.book.admitted(request, blocks.get_block_ids()[0])

    def build_connector_meta(self, scheduler_output: Any) -> CakeMetadata:
        manager = self._kv_cache_manager
        return CakeMetadata(
            self.book.orders(scheduler_output.num_scheduled_tokens, lambda i: list(manager.get_block_ids(i)[0]))
        )

    def update_connector_output(self, connector_output: Any) -> None:
        """Free the blocks of requests that ended while one of their grains was being written."""
        if drained := self.book.drained():
            connector_output.finished_sending = set(connector_output.finished_sending or ()) | drained

    def request_finished_all_groups(
        self,
        request: Any,
        block_ids: tuple[list[int], ...],  # noqa: ARG002
    ) -> tuple[bool, dict[str, Any] | None]:
        live = self.book.end(request.request_id)
        if live is None:
            return False, None
        return request.request_id in self.book.draining, {"cake": live.summary(self.grain)}

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def reset_cache(self) -> bool:
        """The engine's weights may have changed: what is stored is not found any more. Nothing is deleted."""
        self.book.reset()
        return True

    def get_kv_connector_stats(self) -> CakeStats | None:
        if self._role != KVConnectorRole.SCHEDULER:
            return None
        now = dict(self.book.totals)
        new = {k: v - self._told.get(k, 0) for k, v in now.items() if v != self._told.get(k, 0)}
        self._told = now
        return CakeStats(new) if new else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> CakeStats:
        return CakeStats(data or {})

    # -- the worker's side ---------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        kv = KvBlocks(list(kv_caches.values()), self.grain)
        if kv.layout != self.layout:
            raise ValueError(f"CAKE: the KV cache is {kv.layout}, its specification says {self.layout}")
        self.loader, self.saver = Loader(kv, self._store), Saver(kv, self._store)

    def _orders(self) -> Orders:
        meta = self._get_connector_metadata()
        assert isinstance(meta, CakeMetadata)
        return meta.orders

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        """First thing of a step, before its pass: end jobs, begin jobs, so that loading runs beside the pass."""
        assert isinstance(kv_connector_metadata, CakeMetadata)
        assert self.loader is not None
        orders = kv_connector_metadata.orders
        for name in orders.close:
            self.loader.close(name)
        for order in orders.start:
            self.loader.start(order, orders.epoch)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Loads run on their own thread since handle_preemptions."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """No pass reads a block that is still being loaded."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Grains are copied whole, after the pass."""

    def wait_for_save(self) -> None:
        """After the pass: copy what is complete; in a step without a pass, wait a little for the loader."""
        assert self.loader is not None
        assert self.saver is not None
        orders = self._orders()
        self.loader.passed()
        for save in orders.save:
            self.saver.save(save, orders.epoch)
        for request in orders.forget:
            self.saver.forget(request)
        if orders.wait_s > 0:
            self.loader.news.wait(orders.wait_s)
        self.loader.news.clear()

    def build_connector_worker_meta(self) -> CakeReport | None:
        reads = self.loader.take_reads() if self.loader is not None else []
        return CakeReport(reads) if reads else None

    def shutdown(self) -> None:
        if self.loader is not None:
            self.loader.shutdown()
        if self.saver is not None:
            self.saver.shutdown()
        for store in self._stores.values():
            store.close()
        self._stores = {}
        if self._role == KVConnectorRole.SCHEDULER:
            self.book.close()
