"""The trainer: gradients by any cut, the engines' log-probabilities, exact resume, and a reward that rises."""

import pytest
import torch

from workbench import lm
from workbench.lm.sampler import Sampler
from workbench.lm.tiny import CONFIG, tiny_weights
from workbench.rlboost.grpo import advantages, shares
from workbench.rlboost.ledger import Ledger
from workbench.rlboost.rewards import TASKS
from workbench.rlboost.rollout import Ask, Rollouts
from workbench.rlboost.trainer import Sample, Trainer, TrainError, _padded
from workbench.rlboost.weights import digest


def llama(seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    module = LlamaForCausalLM(LlamaConfig(**CONFIG))
    assert module.load_state_dict(tiny_weights(seed), strict=False).unexpected_keys == []
    return module


def samples(count=6, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def ids(n):
        return tuple(torch.randint(0, 256, (n,), generator=draw).tolist())

    return [Sample(f"r{n}", ids(3 + n), ids(9 - n), (-1.0) ** n) for n in range(count)]


def stepped(cut, rows=None, **how):
    rows = rows or samples()
    trainer = Trainer(llama(), **how)
    share = shares("grpo", [len(s.response) for s in rows])
    for part in cut:
        trainer.add([rows[i] for i in part], share[part])
    return trainer, trainer.finish()


def test_micro_batches_add_up_to_the_step():
    whole, norm = stepped([[0, 1, 2, 3, 4, 5]])
    parts, again = stepped([[4], [1, 0], [5, 2, 3]])
    assert again == pytest.approx(norm, rel=1e-4)
    assert all(torch.allclose(a, parts.weights()[n], atol=2e-5) for n, a in whole.weights().items())
    assert digest(stepped([[4], [1, 0], [5, 2, 3]])[0].weights()) == digest(parts.weights())  # same order, same bits
    missing, other = stepped([[4], [1, 0], [5, 2]])  # the control: a response less
    assert abs(other - norm) > 1e-3 * norm
    assert whole.version == missing.version == 1


def test_log_probabilities_are_the_engines():
    """The trainer's view of a response is the engine's: padding and positions are right."""
    model, trainer = lm.load("tiny"), Trainer(llama())
    own, ledger = Rollouts(model, Sampler(1.0, seed=4)), Ledger()
    prompts = {f"r{n}": tuple(lm.prompt(model, 4 + 5 * n, seed=n)) for n in range(3)}
    for name, prompt in prompts.items():
        ledger.open(name, len(prompt))
        own.give(Ask(name, prompt, (), 10 + len(prompt)))
    while own.pending or own.running:
        for piece in own.step():
            ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, "one", 0)
    rows = [Sample(n, prompts[n], tuple(e.ids), 0.0) for n, e in ledger.entries.items()]
    ids, mask = _padded(rows)
    found = trainer.logprobs(ids, mask)
    for row, sample in enumerate(rows):
        at = slice(len(sample.prompt) - 1, len(sample.prompt) - 1 + len(sample.response))
        assert found[row, at].tolist() == pytest.approx(ledger.entries[sample.request].logprobs, abs=2e-4)


def test_a_resumed_trainer_ends_in_the_same_place(tmp_path):
    rows, cut = samples(), [[0, 1], [2, 3, 4, 5]]
    share = shares("grpo", [len(s.response) for s in rows])
    trainer, _ = stepped(cut)
    trainer.save(tmp_path / "checkpoint.pt")
    ends = []
    for one in (trainer, Trainer(llama(seed=9))):
        if one is not trainer:
            one.load(tmp_path / "checkpoint.pt")
        for part in cut:
            one.add([rows[i] for i in part], share[part])
        one.finish()
        ends.append((one.version, digest(one.weights())))
    assert ends[0] == ends[1] and ends[0][0] == 2
    (tmp_path / "checkpoint.pt").write_bytes(b"no")
    with pytest.raises(TrainError, match=r"checkpoint\.pt is no checkpoint of this model"):
        trainer.load(tmp_path / "checkpoint.pt")


def test_what_is_no_number_updates_nothing():
    trainer = Trainer(llama())
    before = digest(trainer.weights())
    rows = samples(2)
    with pytest.raises(TrainError, match=r"weights 0: the loss of r0 is nan"):
        trainer.add([Sample("r0", rows[0].prompt, rows[0].response, float("nan"))], torch.ones(1))
    trainer.add(rows, torch.ones(2))
    next(trainer.module.parameters()).grad[0, 0] = float("nan")
    with pytest.raises(TrainError, match="nothing was updated"):
        trainer.finish()
    assert digest(trainer.weights()) == before and trainer.version == 0
    with pytest.raises(ValueError, match="one micro-batch or more"):
        trainer.finish()
    with pytest.raises(ValueError, match="r9 has no tokens"):
        trainer.add([Sample("r9", (1,), (), 1.0)], torch.ones(1))


def trained(steps, group=8, prompts=4, sign=1.0):
    """Mean reward of each step of a whole small run: roll out, reward, train, new weights."""
    task, model = TASKS["letters"], lm.load("tiny")
    trainer, own, means = Trainer(llama(), lr=3e-3), Rollouts(model, Sampler(1.0, seed=5), slots=32), []
    for step in range(steps):
        ledger, problems, prompt_of = Ledger(), task.problems(0, step, prompts), {}
        for p, problem in enumerate(problems):
            for g in range(group):
                name = f"{step}/{p}/{g}"
                prompt_of[name] = tuple(problem.prompt.encode())
                ledger.open(name, len(problem.prompt))
                own.give(Ask(name, prompt_of[name], (), 12))
        while own.pending or own.running:
            for piece in own.step():
                ledger.add(piece.request, piece.start, piece.ids, piece.logprobs, "one", own.version)
                if piece.ended:
                    ledger.close(piece.request, piece.ended)
        assert ledger.faults([step]) == []
        rewards = torch.tensor([task.reward(problems[0], e.ids, "") for e in ledger.entries.values()])
        means.append(float(rewards.mean()))
        value = sign * advantages(rewards, group)
        rows = [Sample(n, prompt_of[n], tuple(e.ids), float(a))
                for (n, e), a in zip(ledger.entries.items(), value, strict=True)]  # fmt: skip
        share = shares("grpo", [len(s.response) for s in rows])
        for begin in range(0, len(rows), 16):
            trainer.add(rows[begin : begin + 16], share[begin : begin + 16])
        trainer.finish()
        own.load(trainer.version, trainer.weights())
    return means


def test_the_reward_rises_and_falls_with_the_advantages_sign():
    up, down = trained(16), trained(16, sign=-1.0)
    assert up[0] == down[0]
    assert sum(up[-3:]) / 3 > up[0] + 0.1  # 0.20 and more, by the processor's rounding
    assert sum(down[-3:]) / 3 < up[0]


def test_the_tasks_rewards():
    sums = TASKS["sums"]
    problem = sums.problems(1, 2, 3)[0]
    assert sums.problems(1, 2, 3) == sums.problems(1, 2, 3) != sums.problems(1, 3, 3)
    said = [f"It is {problem.answer}.", f"{int(problem.answer) + 1}, or {problem.answer}", "I do not know", ""]
    assert [sums.reward(problem, [], text) for text in said] == [1.0, 0.1, 0.0, 0.0]
    letters = TASKS["letters"]
    assert letters.reward(problem, [97, 122, 65, 300], "") == 0.5
    assert letters.reward(problem, [], "") == 0.0
