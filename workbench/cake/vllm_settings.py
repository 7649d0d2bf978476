"""What CAKE on vLLM can be asked: an engine by `kv_connector_extra_config`, a request by `kv_transfer_params`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.cake.costs import Costs
from workbench.cake.policy import Batch, Mode, Policy
from workbench.cake.store import DiskStore, Eviction, Layout, Store

T = TypeVar("T", bound=BaseModel)
StoreName = Literal["disk", "lmcache-ram", "lmcache-disk", "lmcache-server"]
GRAIN = 128
STEP = 512  # as in the paper: a longer pass is cheaper a token and wastes more where the sides meet
SAMPLES, SAMPLE_BYTES = 16, 1 << 16  # of each weight file, for the model's fingerprint


class Settings(BaseModel):
    """An engine's settings. link_mb_s None or 0: no throttle. step None: 512, or the engine's token budget if less.

    costs: step_s, token_s, pair_s of costs.Costs where they are known beforehand; otherwise they are learnt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    folder: str = Field(min_length=1)
    store: StoreName = "disk"
    server: str = ""  # of store "lmcache-server": "host:port"
    link_mb_s: float | None = Field(None, ge=0, allow_inf_nan=False)
    limit_mb: float | None = Field(None, gt=0, allow_inf_nan=False)
    eviction: Eviction = "head-last"
    cold: bool = False  # drop a file from the page cache before it is read
    sync: bool = False  # write a file through to the disk before it counts
    grain: int | None = Field(None, ge=1)
    step: int | None = Field(None, ge=1)
    run: int = Field(1, ge=1)
    mode: Mode = "cake"
    batch: Batch = "mean"
    hedge: bool = True
    save: bool = True
    stall_s: float = Field(30.0, gt=0, allow_inf_nan=False)  # loads that move nothing for so long are given up
    shared: str = ""  # folder of the shared claim ledgers; "": /dev/shm
    costs: dict[str, float] = Field(default_factory=dict)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Settings:
        """From `kv_connector_extra_config`. ValueError names the setting that is wrong and what it may be."""
        if unknown := sorted(set(given) - set(cls.model_fields)):
            raise ValueError(f"CAKE has no setting {', '.join(unknown)}; it has {', '.join(sorted(cls.model_fields))}")
        if not given.get("folder"):
            raise ValueError('CAKE needs a folder for the KV store: kv_connector_extra_config={"folder": ...}')
        made = _named(cls, given)
        if made.store == "lmcache-server" and ":" not in made.server:
            raise ValueError('CAKE: store "lmcache-server" needs its address: "server": "host:port"')
        made.known_costs()
        return made

    def known_costs(self) -> Costs | None:
        """The costs that were given; what loading costs is measured in any case."""
        try:
            return Costs(**{"load_token_s": 1.0, **self.costs}) if self.costs else None
        except TypeError as error:
            raise ValueError(f"CAKE: costs: {error}") from None

    def grain_for(self, block_size: int) -> int:
        """Tokens of a grain, a whole number of blocks. ValueError when the one that was asked for is not."""
        grain = self.grain or -(-GRAIN // block_size) * block_size
        if grain % block_size:
            raise ValueError(f"CAKE: grain {grain} is not a multiple of the engine's block size {block_size}")
        return grain

    def policy(self, costs: Costs, budget: int, grain: int) -> Policy:
        """The policy of an engine that computes at most `budget` tokens a step."""
        step = min(self.step or max(STEP, grain), budget)
        if step < grain:
            raise ValueError(
                f"CAKE: a step of {step} tokens cannot hold a grain of {grain}: raise max_num_batched_tokens or step"
            )
        return Policy(costs, step, self.run, self.mode, self.batch, self.hedge)

    def open_store(self, layout: Layout, fingerprint: str, *, cold: bool | None = None) -> Store:
        """The store that `store` names."""
        if self.store == "disk":
            cold = self.cold if cold is None else cold
            return DiskStore(
                self.folder,
                layout,
                fingerprint,
                limit_mb=self.limit_mb,
                eviction=self.eviction,
                cold=cold,
                sync=self.sync,
            )
        from workbench.cake.lmcache import open_lmcache

        tier = self.store.removeprefix("lmcache-")
        return open_lmcache(tier, layout, fingerprint, Path(self.folder), server=self.server, limit_mb=self.limit_mb)


class Asked(BaseModel):
    """What one request asks for, by SamplingParams(extra_args={"kv_transfer_params": {...}}) or in its HTTP body.

    cake: the mode. link_mb_s, run, cold: instead of the engine's. latency_ms: added before each read. trace: return
    the spans of passes and loads. cut: end a pass where the loadable part ends, so that the last pass is the same one
    in every mode, to the bit.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)  # other connectors' keys are left alone

    cake: Mode
    link_mb_s: float = Field(ge=0, allow_inf_nan=False)
    run: int = Field(ge=1)
    latency_ms: float = Field(0.0, ge=0, allow_inf_nan=False)
    cold: bool
    trace: bool = False
    cut: bool = False

    @classmethod
    def of(cls, given: object, settings: Settings) -> Asked:
        """ValueError names what is wrong."""
        if not isinstance(given, dict | None):
            raise ValueError(f"CAKE: kv_transfer_params must be a mapping, not {given!r}")
        own = {"cake": settings.mode, "link_mb_s": settings.link_mb_s, "run": settings.run, "cold": settings.cold}
        asked = own | (given or {})
        return _named(cls, asked | {"link_mb_s": asked["link_mb_s"] or 0.0})


def _named(cls: type[T], given: dict[str, Any]) -> T:
    """The model of `given`. ValueError: a line that names every wrong key and what it was."""
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}, not {e['input']!r}" for e in error.errors())
        raise ValueError("CAKE: " + "; ".join(wrong)) from None


def model_fingerprint(model: str, config: dict[str, Any], *tags: object) -> str:
    """What decides KV: the weights (sampled bytes of a local folder's files, else the name), the config, `tags`."""
    digest = xxhash.xxh3_128(json.dumps(config, sort_keys=True, default=str).encode())
    folder = Path(model)
    weights = sorted(p for kind in ("*.safetensors", "*.bin", "*.gguf") for p in folder.glob(kind))
    if not weights:
        digest.update(model.encode())
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with open(path, "rb") as file:
            for i in range(SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * i // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    digest.update(repr(tags).encode())
    return digest.hexdigest()
