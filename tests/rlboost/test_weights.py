"""Versions that are pulled: to the bit, damaged or old chunks refused, nothing half."""

import pytest
import torch

from workbench.lm.tiny import tiny_weights
from workbench.rlboost.weights import Pull, WeightError, WeightStore, digest


def pulled(store, order=lambda numbers: numbers):
    pull = Pull(store.manifest())
    for n in order(pull.missing()):
        pull.take(n, store.chunk(pull.manifest.version, n))
    return pull


def test_what_is_pulled_is_what_was_published():
    weights = tiny_weights(3) | {"half": torch.randn(7).bfloat16(), "one": torch.tensor(5.0)}  # 14 bytes: padded
    store = WeightStore(chunk_bytes=1000)
    manifest = store.publish(1, weights)
    assert len(manifest.checksums) > 100
    for order in (list, lambda n: n[::-1], lambda n: n + n[:5]):
        found = pulled(store, order).weights()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[k], weights[k]) and found[k].dtype == weights[k].dtype for k in weights)
        assert digest(found) == digest(weights) == manifest.digest


def test_a_version_is_a_copy():
    weights = {"a": torch.ones(4)}
    store = WeightStore()
    store.publish(1, weights)
    weights["a"] += 1  # the trainer goes on
    assert torch.equal(pulled(store).weights()["a"], torch.ones(4))


def test_a_digest_tells_one_bit_and_one_name():
    weights = tiny_weights(0)
    other = {k: v.clone() for k, v in weights.items()}
    assert digest(other) == digest(dict(reversed(weights.items())))
    other["model.norm.weight"].view(torch.int32)[0] ^= 1
    assert digest(other) != digest(weights)
    assert digest({"a": torch.ones(2)}) != digest({"b": torch.ones(2)})
    assert digest({"a": torch.ones(4)}) != digest({"a": torch.ones(2, 2)})


def test_a_damaged_chunk_is_refused_and_stays_missing():
    store = WeightStore(chunk_bytes=64)
    store.publish(1, {"a": torch.arange(100.0)})
    pull = Pull(store.manifest())
    part = bytearray(store.chunk(1, 2))
    part[5] ^= 1
    for damaged in (bytes(part), bytes(part[:-1]), b""):
        with pytest.raises(WeightError, match="chunk 2 of weights 1 is damaged"):
            pull.take(2, damaged)
    assert 2 in pull.missing()
    for n in pull.missing()[1:]:
        pull.take(n, store.chunk(1, n))
    with pytest.raises(WeightError, match=r"not complete: 1 of 7 chunks are missing"):
        pull.weights()
    with pytest.raises(WeightError, match="there is no 9"):
        pull.take(9, b"")


def test_old_versions_go_and_are_named():
    store = WeightStore(keep=2, chunk_bytes=64)
    with pytest.raises(WeightError, match="held: none"):
        store.manifest()
    for version in (1, 2, 4):
        store.publish(version, {"a": torch.full((40,), float(version))})
    assert store.manifest().version == 4
    assert store.manifest(2).version == 2
    with pytest.raises(WeightError, match="version 1 are not held; held: 2, 4"):
        store.chunk(1, 0)
    with pytest.raises(WeightError, match="has 3 chunks, there is no 3"):
        store.chunk(4, 3)
    with pytest.raises(ValueError, match="does not follow 4"):
        store.publish(4, {"a": torch.ones(1)})
    with pytest.raises(ValueError, match="one tensor or more"):
        store.publish(5, {})


def test_a_pull_goes_on_while_a_newer_version_comes():
    """Of the version that it began with, as long as that is held; never a mixture."""
    store = WeightStore(keep=2, chunk_bytes=64)
    store.publish(1, {"a": torch.full((40,), 1.0)})
    pull = Pull(store.manifest())
    pull.take(0, store.chunk(1, 0))
    store.publish(2, {"a": torch.full((40,), 2.0)})
    with pytest.raises(WeightError, match="damaged"):  # the control: a chunk of the other version
        pull.take(1, store.chunk(2, 1))
    for n in pull.missing():
        pull.take(n, store.chunk(1, n))
    assert torch.equal(pull.weights()["a"], torch.full((40,), 1.0))
    assert store.sent_bytes > 160
