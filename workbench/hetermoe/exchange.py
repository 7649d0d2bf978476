"""Messages between ranks: streams of collectives beside the compute thread, token exchange, sums in a fixed order.

    trip  = link.dispatch(layer, j, rows, counts)       a Future: copies of tokens on their way to experts
    rows  = trip.result().rows                          at the expert, with counts[source, expert]
    out   = link.combine(layer, j, trip, outputs)       a Future: outputs back where the copies came from

As in the paper (section 3.2) a rank has one compute stream and one communication stream for each direction, with a
process group of its own, so that dispatch and combine overlap with compute and with each other. A stream here is a
thread that carries out collectives in the order in which they were submitted: all ranks submit in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from workbench.hetermoe.spans import Spans

T = TypeVar("T")
Group = Any  # torch.distributed's ProcessGroup, or None for a rank alone


class PeerLost(RuntimeError):
    """A collective failed or took too long; the message names it and what torch said."""


class Stream:
    """A thread that runs the collectives of one process group, one after another."""

    def __init__(self, group: Group, name: str, spans: Spans) -> None:
        self.group, self.name, self.spans = group, name, spans
        self._broken: PeerLost | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, way: str, layer: int, micro_batch: int, work: Callable[[], T]) -> Future[T]:
        """`work()` when all before it are done. Its failure is the future's, as PeerLost."""

        def run() -> T:
            if self._broken:  # partners are no longer at the same collective
                raise self._broken
            try:
                with self.spans.at(self.name, way, layer, micro_batch):
                    return work()
            except Exception as error:
                at = f"layer {layer}, micro-batch {micro_batch}" if layer >= 0 else "the step's end"
                lost = PeerLost(f"{self.name} {way} of {at} failed: {_short(error)}")
                self._broken = error if isinstance(error, PeerLost) else lost
                raise self._broken from error

        return self._pool.submit(run)

    def close(self) -> None:
        """Nothing more is run."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class Trip:
    """Copies of tokens that went to experts. sent, received: rows to and from each member, in order of members.

    counts [members, own experts]: rows that came for each expert. rows [received, hidden]: by member, then expert.
    """

    sent: list[int]
    received: list[int]
    counts: Tensor
    rows: Tensor


class Link:
    """Ways from ranks with tokens to ranks with experts and back.

    owned[layer][member]: experts of that member in this rank's ordering of places; layers where nobody owns any send
    nothing. `me` is the member's number. out, back: streams of one direction each. device: where this rank's rows are.
    """

    def __init__(
        self,
        owned: Sequence[Sequence[Sequence[int]]],
        me: int,
        streams: tuple[Stream, Stream],
        hidden: int,
        dtype: torch.dtype,
        device: str = "cpu",
    ) -> None:
        self.owned, self.me, self.members = owned, me, len(owned[0])
        self.out, self.back = streams
        self.hidden, self.dtype, self.device = hidden, dtype, device

    def places(self, layer: int) -> list[int]:
        """Experts of a layer in the order in which rows for them are sent: by member, then number."""
        return [expert for row in self.owned[layer] for expert in row]

    def dispatch(self, layer: int, j: int, rows: Tensor | None = None, counts: Tensor | None = None) -> Future[Trip]:
        """Rows sorted by place, and how many each place gets, to their experts; None from a rank without tokens."""
        held = [len(row) for row in self.owned[layer]]
        counts = torch.zeros(sum(held), dtype=torch.int64, device=self.device) if counts is None else counts
        sent = [int(part.sum()) for part in counts.split_with_sizes(held)]
        rows = self._none() if rows is None else rows

        def work() -> Trip:
            own = held[self.me]
            came = self._all_to_all(self.out, counts, held, [own] * self.members).view(self.members, own)
            received: list[int] = came.sum(1).tolist()
            return Trip(sent, received, came, self._all_to_all(self.out, rows, sent, received))

        return self.out.submit("forward", layer, j, work)

    def combine(self, layer: int, j: int, trip: Future[Trip], outputs: Tensor | None = None) -> Future[Tensor]:
        """Experts' outputs, in the order in which the rows came, to where these came from, in the order they had."""
        return self._return("forward", layer, j, trip, outputs)

    def dispatch_gradient(
        self, layer: int, j: int, trip: Future[Trip], gradient: Tensor | None = None
    ) -> Future[Tensor]:
        """The gradient of what `combine` brought, the way of `dispatch`."""
        gradient = self._none() if gradient is None else gradient

        def work() -> Tensor:
            t = trip.result()
            return self._all_to_all(self.out, gradient, t.sent, t.received)

        return self.out.submit("backward", layer, j, work)

    def combine_gradient(
        self, layer: int, j: int, trip: Future[Trip], gradient: Tensor | None = None
    ) -> Future[Tensor]:
        """The gradient of the rows that `dispatch` brought, the way of `combine`."""
        return self._return("backward", layer, j, trip, gradient)

    def _return(self, way: str, layer: int, j: int, trip: Future[Trip], rows: Tensor | None) -> Future[Tensor]:
        rows = self._none() if rows is None else rows

        def work() -> Tensor:
            t = trip.result()
            return self._all_to_all(self.back, rows, t.received, t.sent)

        return self.back.submit(way, layer, j, work)

    def _all_to_all(self, stream: Stream, given: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        if stream.group is None:
            return given
        out = given.new_empty(sum(received), *given.shape[1:])
        handle = dist.all_to_all_single(
            out, given.contiguous(), list(received), list(sent), group=stream.group, async_op=True
        )
        assert handle is not None
        handle.wait()
        return out

    def _none(self) -> Tensor:
        return torch.empty(0, self.hidden, dtype=self.dtype, device=self.device)

    def close(self) -> None:
        """End both streams."""
        self.out.close()
        self.back.close()


class Sum:
    """Sums of tensors over the ranks of a group, added in rank order, so that every rank has the same bits.

    A reduce-scatter by all_to_all (each rank adds one part) and an all_gather; `group` None is a rank alone.
    """

    def __init__(self, group: Group, spans: Spans, name: str = "sum", device: str = "cpu") -> None:
        self.stream, self.device = Stream(group, name, spans), device
        self.ranks = 1 if group is None else dist.get_world_size(group)

    def submit(self, tensors: Sequence[Tensor]) -> Future[None]:
        """Put the sums in place of the tensors, which must not be touched meanwhile."""
        return self.stream.submit("backward", -1, -1, lambda: self._sum(tensors))

    def _sum(self, tensors: Sequence[Tensor]) -> None:
        if self.ranks == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        whole = self.gather(self.scatter(flat))[: len(flat)]
        for t, total in zip(tensors, whole.split_with_sizes([t.numel() for t in tensors])):
            t.copy_(total.view_as(t))

    def scatter(self, flat: Tensor) -> Tensor:
        """This rank's part of the sum of 1-D tensors, padded to equal parts."""
        if self.ranks == 1:
            return flat
        part = -(-len(flat) // self.ranks)
        padded = torch.nn.functional.pad(flat, (0, part * self.ranks - len(flat)))
        parts = torch.empty_like(padded)
        _waited(dist.all_to_all_single(parts, padded, group=self.stream.group, async_op=True))
        total, *others = parts.split_with_sizes([part] * self.ranks)
        for other in others:
            total = total + other
        return total.contiguous()

    def gather(self, part: Tensor) -> Tensor:
        """All parts one after the other."""
        if self.ranks == 1:
            return part
        whole = part.new_empty(len(part) * self.ranks)
        _waited(dist.all_gather_single(whole, part, group=self.stream.group, async_op=True))
        return whole

    def each(self, value: float) -> list[float]:
        """A number of each rank, in rank order."""
        if self.ranks == 1:
            return [value]
        mine = torch.tensor([value], dtype=torch.float64, device=self.device)
        told = self.stream.submit("", -1, -1, lambda: self.gather(mine))
        return [float(v) for v in told.result()]

    def close(self) -> None:
        """End the stream."""
        self.stream.close()


def _waited(handle: Any) -> None:
    assert handle is not None
    handle.wait()


def _short(error: Exception) -> str:
    """Torch's message without its native stack."""
    return str(error).split("\nException raised from", maxsplit=1)[0].strip()[-300:]
