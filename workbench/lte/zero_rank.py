"""One process of a ZeRO run: `python -m workbench.lte.zero_rank FD < job.json`, one JSON object a line on FD.

job: config (of the system), arm, rank, ranks, store (a file that the processes meet at), folder (checkpoints) or null,
out (where rank 0 puts the trained parameters). Lines: {"is": "step", ...} from rank 0, {"is": "beat"} from the others,
{"is": "done"}, {"is": "error", "text": ...}. `zero_run.py` starts it.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

COLLECTIVE_S = 120.0  # a partner that takes longer is gone


def main() -> None:
    """Read the job, train, write the parameters."""
    job = json.loads(sys.stdin.read())
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:
        try:
            _train(job, pipe)
            _say(pipe, {"is": "done"})
        except Exception as error:
            _say(pipe, {"is": "error", "text": f"{type(error).__name__}: {error}"})
            raise
    os._exit(0)  # gloo's threads are not worth waiting for


def _say(pipe: TextIO, fields: dict[str, Any]) -> None:
    pipe.write(json.dumps(fields) + "\n")
    pipe.flush()


def _train(job: dict[str, Any], pipe: TextIO) -> None:
    rank, ranks = str(job["rank"]), str(job["ranks"])
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_SIZE": ranks, "WORLD_SIZE": ranks, "DS_ACCELERATOR": "cpu"}
    # the port is not used: they meet at a file
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "GLOO_SOCKET_IFNAME": "lo"}
    import torch

    torch.set_num_threads(1)
    import deepspeed
    from safetensors.torch import save_file

    from workbench.lte import arms
    from workbench.lte.config import LteConfig
    from workbench.lte.deepspeed import ZeroTrainer
    from workbench.lte.train import drive

    # Only inference uses this native op. Its build takes minutes, and one that is ended leaves a lock behind for which
    # every later process waits without end.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _say(pipe, {"is": "beat"})
    deepspeed.init_distributed(
        "gloo",
        init_method=f"file://{job['store']}",
        rank=job["rank"],
        world_size=job["ranks"],
        auto_mpi_discovery=False,
        timeout=timedelta(seconds=COLLECTIVE_S),
        verbose=False,
        dist_init_required=True,
    )
    config = LteConfig.model_validate(job["config"])
    sparse, task, asked, _ = arms.untrained(config, job["arm"])
    trainer = ZeroTrainer(sparse, task, asked, stage=1 if config.zero == "1" else 2)
    first = job["rank"] == 0
    for step in drive(trainer, Path(job["folder"]) if job["folder"] else None):
        _say(pipe, {"is": "step", **vars(step)} if first else {"is": "beat"})
    if first:
        save_file({name: p.detach().clone().contiguous() for name, p in trainer.parameters.items()}, job["out"])


if __name__ == "__main__":
    main()
