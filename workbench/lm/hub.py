"""Download a model from the Hugging Face hub, in a process of its own that can be killed at any moment.

    python -m workbench.lm.hub REPO FOLDER NEEDED...

One JSON object a line on stdout: {"share", "note"} as it goes; at last {"sha"}, or {"reason"} why not.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TIMEOUT_S = 5  # of the first question: a machine without a network should not wait longer for the other way
OPTIONAL = ("generation_config.json", "chat_template.jinja")


class Refused(Exception):
    """The hub, or what came from it, will not do; the message says why."""


def download(repo: str, folder: Path, needed: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Fill `folder` with the files of `repo`, each checked against the sum that the hub names. Refused says why not."""
    from huggingface_hub import HfApi, hf_hub_download

    from workbench.lm.files import sha256

    yield {"share": 0.0, "note": "asking the Hugging Face hub"}
    info = HfApi().model_info(repo, timeout=TIMEOUT_S, files_metadata=True)
    there = {s.rfilename: s for s in info.siblings or []}
    if missing := [name for name in needed if name not in there]:
        raise Refused(f"{repo} has no {missing[0]}")
    wanted = [name for name in (*needed, *OPTIONAL) if name in there]
    for i, name in enumerate(wanted):
        yield {"share": 0.9 * i / len(wanted), "note": f"downloading {name} from the hub"}
        got = Path(hf_hub_download(repo, name, revision=info.sha, local_dir=folder))
        lfs = there[name].lfs
        if lfs and sha256(got) != lfs.sha256:
            raise Refused(f"{name} does not have the checksum that the hub names")
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    yield {"sha": info.sha}


def main(repo: str, folder: str, *needed: str) -> None:
    """Say each line of `download` as soon as it is known; whatever goes wrong is the last line."""

    def say(line: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        for line in download(repo, Path(folder), needed):
            say(line)
    except Refused as refused:
        say({"reason": str(refused)})
    except Exception as error:  # noqa: BLE001  the client's errors share no narrower base
        say({"reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"})


def _end_with(parent: int) -> None:
    """Whoever asked for the download may be killed: nobody waits for it then."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
