"""Runs for test_adopt.py: `python adopted_cases.py FOLDER`, one import of torch and DeepSpeed for all.

A model with DeepSpeed's MoE layers as somebody else would write it, trained by deepspeed.initialize in one process and,
from the same weights on the same batches, under plans. Each leaves parameters and losses in FOLDER/NAME.
"""

import json
import os
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from deepspeed.moe.layer import MoE
from torch import nn

import workbench.hetermoe.deepspeed  # noqa: F401  so that DeepSpeed builds nothing
from workbench.hetermoe import stages
from workbench.hetermoe.adoption import adopt
from workbench.hetermoe.launch import fork_ranks, watch
from workbench.hetermoe.plan import Plan, PlanError, expert_parallel, zebra
from workbench.hetermoe.theirs import model_of, read
from workbench.hetermoe.update import Adam

VOCAB, HIDDEN, EXPERTS, LAYERS = 24, 16, 4, 3
ROWS, TOKENS, STEPS = 8, 6, 3
ADAM = Adam(lr=1e-2, eps=1e-3)  # with a small eps, the last bits of a gradient near 0 become a whole step
AUX = 0.05


class Block(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)
        expert = nn.Sequential(nn.Linear(HIDDEN, 20), nn.GELU(), nn.Linear(20, HIDDEN))
        self.moe = MoE(HIDDEN, expert, EXPERTS, 1, **settings)
        for number, own in enumerate(self.moe.deepspeed_moe.experts.deepspeed_experts):
            for p in own.parameters():  # DeepSpeed copies one expert
                p.data.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
        self.moe.deepspeed_moe.gate.wg.weight.data.mul_(4.0)

    def forward(self, x):
        y, mask = self.norm1(x), nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        mixed, l_aux, _ = self.moe(self.norm2(x))
        return x + mixed, l_aux


class Theirs(nn.Module):
    def __init__(self, settings):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.place = nn.Embedding(VOCAB, HIDDEN), nn.Embedding(TOKENS, HIDDEN)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, VOCAB)

    def forward(self, ids, targets):
        x, aux = self.embed(ids) + self.place.weight, 0.0
        for block in self.blocks:
            x, l_aux = block(x)
            aux = aux + l_aux
        loss = nn.functional.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())
        return loss + AUX * aux


def batch(step):
    ids = torch.randint(VOCAB, (ROWS, TOKENS + 1), generator=torch.Generator().manual_seed(100 + step))
    return ids[:, :-1], ids[:, 1:]


def loss_of(model, ids, targets):
    return model(ids, targets)


def by_deepspeed(case, folder):
    """One process, a micro-batch of accumulation for each shard of the plan, ZeRO 0."""
    import deepspeed

    model = Theirs(case["settings"])
    optimizer = torch.optim.AdamW(
        model.parameters(), ADAM.lr, ADAM.betas, ADAM.eps, weight_decay=ADAM.weight_decay, foreach=False
    )
    parts = case["shards"]
    settings = {
        "train_micro_batch_size_per_gpu": ROWS // parts, "gradient_accumulation_steps": parts,
        "zero_optimization": {"stage": 0}, "gradient_clipping": 0.0, "steps_per_print": 2**31,
    }  # fmt: skip
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    losses, dropped = [], 0
    for step in range(STEPS):
        ids, targets = batch(step)
        told = []
        for mine, wanted in zip(ids.chunk(parts), targets.chunk(parts), strict=True):
            loss = engine(mine, wanted)
            engine.backward(loss)
            engine.step()
            told.append(float(loss.detach()))
            for block in model.blocks:
                gate, inner = block.moe.deepspeed_moe.gate, block.moe.deepspeed_moe
                if gate.drop_tokens:
                    room = max(-(-len(mine) * TOKENS * gate.k * gate.capacity_factor // EXPERTS), gate.min_capacity)
                    dropped += int((inner.exp_counts - room).clamp_min(0).sum())
        losses.append(sum(told) / parts)
    torch.save(model.state_dict(), folder / "trained.pt")
    (folder / "told.json").write_text(json.dumps({"losses": losses, "dropped": dropped}))


def under_a_plan(case, folder, rank):
    model = Theirs(case["settings"])
    plan = Plan.from_json(case["plan"], model_of(model).key)
    if case["sabotage"]:
        globals()[case["sabotage"]](model)
    trainer = adopt(model, plan, loss_of, adam=ADAM)
    losses, spans = [], []
    for step in range(STEPS):
        losses.append(trainer.step(*(batch(step) if trainer.layout.attends else ())))
        spans.append([(s.kind, s.way, s.layer, s.micro_batch) for s in trainer.spans.take()])
    trainer.save(folder)
    routed = trainer.rank.routed.sum(1).tolist() if trainer.layout.attends else []
    (folder / f"told{rank}.json").write_text(json.dumps({"losses": losses, "spans": spans[-1], "routed": routed}))
    trainer.close()


def all_fit(model):
    """Every gate has room for all of its tokens."""
    for block in model.blocks:
        block.moe.deepspeed_moe.gate.capacity_factor = float(EXPERTS)


def no_expert_gradient(model):
    whole = stages.ExpertStages.backward
    stages.ExpertStages.backward = lambda self, *at: whole(self, *at) * 0


SOUND = {"k": 2, "drop_tokens": False, "top2_2nd_expert_sampling": False}


def sound(**changes):
    return Theirs(SOUND | changes)


def experts_of(model, layer):
    return model.blocks[layer].moe.deepspeed_moe.experts.deepspeed_experts


def tied(model):
    experts_of(model, 1)[2][0].weight = experts_of(model, 1)[0][0].weight


def shared(model):
    model.head.bias = experts_of(model, 0)[1][2].bias


def normed(model):
    experts_of(model, 0)[3][1] = nn.BatchNorm1d(20)


def fewer(model):
    model.blocks[2].moe = MoE(HIDDEN, nn.Linear(HIDDEN, HIDDEN), 2, 1, **SOUND)


def part(model):
    model.blocks[1].moe = MoE(HIDDEN, nn.Linear(HIDDEN, HIDDEN), EXPERTS, 2, **SOUND)


def dropout(model):
    model.blocks[1].attention.dropout = 0.1


def tutel(model):
    model.blocks[0].moe.deepspeed_moe.use_tutel = True


def gate(model):
    model.blocks[0].moe.deepspeed_moe.gate = nn.Linear(HIDDEN, EXPERTS)


def tensor(model):
    model.blocks[0].moe.enable_expert_tensor_parallelism = True


def half(model):
    model.to(torch.bfloat16)


SETTINGS = {
    "sampled": {"top2_2nd_expert_sampling": True}, "rts": {"k": 1, "drop_tokens": True},
    "jitter": {"noisy_gate_policy": "Jitter"},
}  # fmt: skip


def said_by(do, *given):
    """The refusal, or nothing."""
    try:
        do(*given)
    except (PlanError, ZeroDivisionError) as error:
        return str(error)
    return ""


def refusals():
    """What read() and adopt() say of models that no plan can run, by name."""
    said = {"none": said_by(read, nn.Linear(4, 4))}
    for change in (part, fewer, tied, shared, normed, half, dropout, tutel, gate, tensor):
        model = sound()
        change(model)
        said[change.__name__] = said_by(read, model)
    said |= {name: said_by(read, sound(**changes)) for name, changes in SETTINGS.items()}
    assert len(read(sound(**SETTINGS["sampled"]), seed=1)) == LAYERS
    alone = expert_parallel(1, LAYERS, EXPERTS, 2)
    plans = {
        "plan": zebra(1, 1, 2, LAYERS, 6, 2), "key": replace(alone, model_key="other"),
        "world": zebra(1, 1, 2, LAYERS, EXPERTS, 2),
    }  # fmt: skip
    said |= {name: said_by(adopt, sound(), plan, loss_of) for name, plan in plans.items()}
    return said | steps_that_fail(replace(alone, micro_batches=2))


def twice(model, ids, targets):
    return model(ids, targets) + model(ids, targets)


def never(model, ids, targets):
    return model.embed(ids).square().mean()


def unused(model, ids, targets):
    return model(ids, targets).detach() + model.embed(ids).square().mean()


def broken(model, ids, targets):
    model(ids, targets)
    raise ZeroDivisionError("by the caller")


def steps_that_fail(plan):
    """What a step says of a forward that does not go from layer to layer, and what is left of its threads."""
    said = {}
    for loss in (twice, never, unused, broken):
        trainer = adopt(sound(), plan, loss)
        said[loss.__name__] = said_by(trainer.step, *batch(0))
        trainer.close()
    model = sound()
    trainer = adopt(model, plan, loss_of)
    said["rows"] = said_by(trainer.step, *(t[:3] for t in batch(0)))
    said["no batch"] = said_by(trainer.step)
    said["outside"] = said_by(model, *batch(0))
    trainer.close()
    time.sleep(0.2)
    said["threads"] = [t.name for t in threading.enumerate() if t.name.startswith("micro-batch")]
    return said


def sampled_twice():
    """Losses with sampled gates: of one seed twice, of another, and with the micro-batches' threads in one rank."""
    told = []
    for seed in (1, 1, 2):
        model = Theirs({"k": 2, "drop_tokens": False})
        trainer = adopt(model, expert_parallel(1, LAYERS, EXPERTS, 2, 2), loss_of, adam=ADAM, seed=seed)
        told.append([trainer.step(*batch(step)) for step in range(2)])
        trainer.close()
    return told


def main(folder):
    torch.set_num_threads(1)
    cases = json.loads(sys.stdin.read())
    for name in {case["of"] for case in cases} | {case["name"] for case in cases}:
        (folder / name).mkdir()

    def reference(_, say):
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        import deepspeed

        deepspeed.init_distributed(
            "gloo", init_method=f"file://{folder}/theirs", rank=0, world_size=1, auto_mpi_discovery=False,
            timeout=timedelta(seconds=60), verbose=False, dist_init_required=True,
        )  # fmt: skip
        for case in {case["of"]: case for case in cases}.values():
            by_deepspeed(case, folder / case["of"])
            say({"is": "step", "doing": case["of"]})

    forked = fork_ranks(["DeepSpeed"], reference)
    for case in cases:
        own, world = folder / case["name"], json.loads(case["plan"])
        world = world["attention"] + world["expert"]

        def ours(rank, say, case=case, own=own, world=world):
            dist.init_process_group(
                "gloo", init_method=f"file://{own}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60)
            )
            under_a_plan(case, own, rank)

        for _ in watch(fork_ranks([""] * world, ours), 60.0):
            pass
    for _ in watch(forked, 120.0):
        pass
    (folder / "refused.json").write_text(json.dumps(refusals()))  # last: these threads may not be forked
    (folder / "sampled.json").write_text(json.dumps(sampled_twice()))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
