"""TRL's own GRPO loss as the oracle of ours: value and gradient on a tiny random Llama, in fp32.

The method of TRL's trainer is called on tokens, masks, advantages and log-probabilities that are given; no step is
taken. TRL pads prompts on the left and normalises a micro-batch for its accumulation; here rows are padded on the right
and each carries its share of the whole step. So positions, masks and the sum over micro-batches are compared too.
"""

import importlib
import random
from dataclasses import replace

import pytest
import torch

from workbench.lm.tiny_folder import write_tiny
from workbench.rlboost.grpo import Clip, advantages, shares, step_loss
from workbench.rlboost.trainer import Sample, Trainer, _padded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

KINDS = ["grpo", "dapo", "dr_grpo"]
CLIPS = [Clip(0.2, 0.2), Clip(0.2, 0.28), Clip(0.05, 0.4), Clip(0.0, 0.0), Clip(0.2, 0.2, kl=0.1)]
LONGEST = 12  # tokens of a response; dr_grpo divides by it
GROUP = 4
SAME = 2e-5  # of the gradient's norm, and of the loss's largest part: sums in another order, fp32


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny", tokenizer=True)


@pytest.fixture(scope="module")
def build(tiny, tmp_path_factory):
    """TRL's trainer for a loss; it asks for a dataset and a reward, which are as small as they can be."""
    with pytest.MonkeyPatch.context() as patch:
        there = importlib.import_module("trl.import_utils")
        patch.setattr(there, "is_vllm_available", lambda *_, **__: False)  # saves importing vLLM: 15 s
        from trl import GRPOConfig, GRPOTrainer
    from datasets import Dataset
    from transformers import AutoTokenizer

    def reward(completion_ids, **_):
        return [float(sum(ids) % 7) for ids in completion_ids]

    def build(kind, clip, parts=1, rewards=reward, **more):
        how = GRPOConfig(
            str(tmp_path_factory.mktemp("trl")), use_cpu=True, bf16=False, report_to="none", loss_type=kind,
            epsilon=clip.low, epsilon_high=clip.high, beta=clip.kl, temperature=1.0, max_completion_length=LONGEST,
            num_generations=GROUP, per_device_train_batch_size=2 * GROUP // parts, gradient_accumulation_steps=parts,
            model_init_kwargs={"dtype": "float32"}, **({"use_bias_correction_kl": False} | more),
        )  # fmt: skip
        data = Dataset.from_dict({"prompt": ["a", "b"]})
        tokenizer = AutoTokenizer.from_pretrained(tiny)
        made = GRPOTrainer(str(tiny), reward_funcs=rewards, args=how, train_dataset=data, processing_class=tokenizer)
        made.model.train()
        made.current_gradient_accumulation_steps = parts  # its loop sets this; no loop runs here
        return made

    return build


@pytest.fixture(scope="module")
def mine(tiny):
    from transformers import LlamaForCausalLM

    return Trainer(LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32))


@pytest.fixture(scope="module")
def rows(mine):
    """A step of ragged samples, and log-probabilities [rows] that differ from the model's by up to half a nat."""
    draw, rng = random.Random(3), torch.Generator().manual_seed(3)
    lengths = [12, 1, 5, 9, 3, 12, 7, 2]
    value = advantages(torch.randn(8, generator=rng), GROUP).tolist()
    samples = []
    for n, length in enumerate(lengths):
        prompt, response = ([draw.randrange(32, 127) for _ in range(k)] for k in (2 + 3 * (n % 4), length))
        samples.append(Sample(f"r{n}", tuple(prompt), tuple(response), value[n]))
    ids, mask = _padded(samples)
    with torch.no_grad():
        new = mine.logprobs(ids, mask)
    told = [new[n][mask[n, 1:] > 0] for n in range(8)]
    old, reference = ([t + torch.rand(len(t), generator=rng) - 0.5 for t in told] for _ in range(2))
    return samples, old, reference


def left(parts):
    width = max(map(len, parts))
    return torch.stack([torch.tensor([0] * (width - len(p)) + list(p)) for p in parts])


def right(parts, kind=torch.int64):
    width = max(map(len, parts))
    return torch.stack([torch.tensor([*p, *[0] * (width - len(p))], dtype=kind) for p in parts])


def gradient(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])


def theirs(trainer, rows):
    """(loss, gradient) by TRL, as its loop would add up the parts of an accumulation."""
    samples, old, reference = rows
    parts = trainer.args.gradient_accumulation_steps
    trainer.model.zero_grad()
    total, each = 0.0, len(samples) // parts
    for at in range(0, len(samples), each):
        cut = slice(at, at + each)
        prompts, responses = [s.prompt for s in samples[cut]], [s.response for s in samples[cut]]
        given = {
            "prompt_ids": left(prompts), "prompt_mask": left([[1] * len(p) for p in prompts]),
            "completion_ids": right(responses), "completion_mask": right([[1] * len(r) for r in responses]),
            "advantages": torch.tensor([s.advantage for s in samples[cut]]),
            "old_per_token_logps": right([t.tolist() for t in old[cut]], torch.float32),
            "ref_per_token_logps": right([t.tolist() for t in reference[cut]], torch.float32),
            "num_items_in_batch": torch.tensor(sum(len(s.response) for s in samples)),
        }  # fmt: skip
        loss = trainer.compute_loss(trainer.model, given)
        loss.backward()
        total += float(loss.detach())
    return total, gradient(trainer.model)


def ours(trainer, rows, kind, clip, cut=None, spoil=lambda mask: mask):
    """(loss, gradient) by grpo.py, in micro-batches `cut`; `spoil` changes the masks."""
    samples, old, reference = rows
    share = shares(kind, [len(s.response) for s in samples], LONGEST)
    trainer.module.zero_grad()
    total = 0.0
    for part in cut or [range(len(samples))]:
        chosen = [samples[n] for n in part]
        ids, mask = _padded(chosen)
        new = trainer.logprobs(ids, mask)
        given = [torch.zeros_like(new), torch.zeros_like(new)]
        for to, source in zip(given, (old, reference), strict=True):
            for at, n in enumerate(part):
                to[at][mask[at, 1:] > 0] = source[n]
        value = torch.tensor([s.advantage for s in chosen])
        loss = step_loss(new, given[0], value, spoil(mask[:, 1:].clone()), share[list(part)], clip, given[1])
        loss.backward()
        total += float(loss.detach())
    return total, gradient(trainer.module)


def apart(a, b):
    """How far two results are from each other: of the loss, and of the gradient over its norm."""
    return abs(a[0] - b[0]), float((a[1] - b[1]).norm() / b[1].norm())


@pytest.mark.parametrize("clip", CLIPS, ids=lambda c: f"{c.low}-{c.high}-{c.kl}")
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_trls(build, mine, rows, kind, clip):
    expected = theirs(build(kind, clip), rows)
    assert float(expected[1].norm()) > 1e-3
    assert max(apart(ours(mine, rows, kind, clip), expected)) < SAME
    # controls: another clip range, another variant, wrong masks, advantages of another scale
    others = [
        ours(mine, rows, kind, replace(clip, low=0.5, high=0.01)),
        ours(mine, rows, KINDS[KINDS.index(kind) - 1], clip),
        ours(mine, rows, kind, clip, spoil=without_the_last),
        ours(mine, rows, kind, clip, spoil=one_early),
        ours(mine, ([replace(s, advantage=1.7 * s.advantage) for s in rows[0]], *rows[1:]), kind, clip),
    ]
    for other in others:
        assert apart(other, expected)[1] > 100 * SAME


def without_the_last(mask):
    """The last token of each response does not count."""
    return mask * torch.cat([mask[:, 1:], torch.zeros(len(mask), 1)], 1)


def one_early(mask):
    """The last token of the prompt counts, the last of the response does not."""
    return torch.roll(mask, -1, 1)


def test_the_kl_term_is_that_of_deepseekmath(build, mine, rows):
    """TRL by default weighs it with the ratio, as DeepSeek-V3.2 does; grpo.py does not, and above it is turned off."""
    clip = Clip(kl=0.1)
    weighed = theirs(build("grpo", clip, use_bias_correction_kl=True), rows)
    assert apart(ours(mine, rows, "grpo", clip), weighed)[1] > 100 * SAME
    assert apart(ours(mine, rows, "grpo", Clip()), weighed)[1] > 100 * SAME


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_is_trls_for_any_cut(build, mine, rows, kind):
    """Two parts of four there; here parts of 3, 1 and 4 in another order. Only equal parts add up to grpo in TRL."""
    clip = Clip(0.1, 0.3)
    expected = theirs(build(kind, clip, parts=2), rows)
    assert max(apart(ours(mine, rows, kind, clip, [[5, 0, 2], [7], [1, 3, 6, 4]]), expected)) < SAME
    assert apart(ours(mine, rows, kind, clip, [[5, 0, 2], [1, 3, 6, 4]]), expected)[1] > 100 * SAME  # a row is lost


@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_of_a_batch_that_trl_rolled_out(build, mine, scale):
    """TRL generates, scores and normalises; the same rewards give the same advantages and gradient here."""
    given = [1.0, 0.0, 0.0, 3.5, 2.0, 2.0, 2.0, 2.0]  # the second group has nothing to learn from
    trainer = build("grpo", Clip(), rewards=lambda completion_ids, **_: given, scale_rewards=scale)
    found = trainer._generate_and_score_completions([{"prompt": text} for text in ["abc"] * 4 + ["defghi"] * 4])
    value = advantages(torch.tensor(given), GROUP, scale=scale == "group")
    assert torch.allclose(found["advantages"], value, atol=1e-6)
    assert torch.equal(value[4:], torch.zeros(4))
    other = advantages(torch.tensor(given), GROUP, scale=scale != "group")
    assert not torch.allclose(found["advantages"], other, atol=0.1)  # the control: the other scale

    def kept(name, row):
        return tuple(found[f"{name}_ids"][row][found[f"{name}_mask"][row] > 0].tolist())

    samples = [Sample(f"r{n}", kept("prompt", n), kept("completion", n), float(value[n])) for n in range(8)]
    assert all(s.response for s in samples)
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, found).backward()
    mine.module.zero_grad()
    mine.add(samples, shares("grpo", [len(s.response) for s in samples]))
    expected, got = gradient(trainer.model), gradient(mine.module)
    mine.drop()
    assert float((got - expected).norm() / expected.norm()) < SAME
