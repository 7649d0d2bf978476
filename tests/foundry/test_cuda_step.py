"""What is captured on a GPU, run on the CPU: the step over placed tensors, known inputs that fit. Needs torch."""

from dataclasses import replace

import pytest
import torch

from workbench.foundry.cuda_bench import CASES, VLLM, subject
from workbench.foundry.cuda_step import Step
from workbench.foundry.shape import Shape
from workbench.foundry.step import decode_step

SHAPE = Shape(2, 4, 2, 8, 16, 24, 32, 1e-5, 20, 3)


@pytest.fixture(scope="module")
def placed():
    step = Step.random(SHAPE, seed=4)
    place = {t.name: torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in step.tensors}
    step.fill(place)
    return step, place


def test_the_step_over_placed_tensors(placed):
    step, place = placed
    n = 2
    place["ids"][:n], place["positions"][:n] = torch.tensor([3, 7]), torch.tensor([0, 5])
    with torch.inference_mode():
        got = step.step(place, n)
        k, v = ([torch.zeros_like(place[f"{i}.{which}"][:n]) for i in range(SHAPE.layers)] for which in "kv")
        logits, following = decode_step(SHAPE, step.weights, place["ids"][:n], place["positions"][:n], k, v)
    assert torch.equal(got["logits"], logits)
    assert torch.equal(got["next"], following)
    assert torch.equal(place["1.k"][:n], k[1])
    assert not place["1.k"][n:].any()
    assert logits.abs().max() > 0


def test_known_inputs_fit_the_tensors(placed):
    step, _ = placed
    large = Step.random(replace(SHAPE, slots=9), seed=4)
    for what, n in ((step, 1), (step, 3), (large, 9)):
        sizes, made = {t.name: t.nbytes for t in what.tensors}, what.probe(n)
        assert all(nbytes <= sizes[name] for name, nbytes in (*made.fills, *made.inputs, *made.kept))
        ids, positions = torch.frombuffer(bytearray(made.raw), dtype=torch.int64).view(2, n)
        assert positions[0] == SHAPE.capacity - 1
        assert not positions[4:].any()
        assert 0 <= ids.min() <= ids.max() < SHAPE.vocab
        one = next(t.nbytes for t in what.tensors if t.name == "0.k") // what.shape.slots
        assert (dict(made.fills)["0.k"], dict(made.kept)["0.k"]) == (min(n, 4) * one, n * one)


def test_the_benchmarks_cases():
    assert len(VLLM) == 51
    assert {len(sizes) for _, sizes in CASES.values()} == {4, 51, 512}
    assert subject("tiny", (1, 2, 4, 8)).shape.slots == 8
