"""A process that stands where vLLM would be started."""

import sys

from workbench.backends import Backend
from workbench.foundry import vllm_phases


def in_vllms_place(folder, monkeypatch):
    """put(script): the next start runs that script, which has `asked` and `say` and is not asked to be vLLM."""
    monkeypatch.setattr(vllm_phases.backends, "backend", lambda name: Backend(name, True, "there"))

    def put(script):
        file = folder / "child.py"
        head = "import json, os, sys, time\nasked = json.loads(sys.stdin.readline())\n"
        head += "pipe = os.fdopen(int(sys.argv[1]), 'w', 1)\ndef say(**f): print(json.dumps(f), file=pipe)\n"
        file.write_text(head + script)
        monkeypatch.setattr(vllm_phases, "COMMAND", (sys.executable, str(file)))

    return put
