"""The lines of docs/cake-vllm.md as they stand, with vLLM's default budget, on the real model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make setup")

from workbench import lm

pytestmark = [pytest.mark.vllm, pytest.mark.model, pytest.mark.timeout(400)]

ROOT = Path(__file__).resolve().parents[2]
DOCS, README = (ROOT / "docs/cake-vllm.md").read_text(), (ROOT / "README.md").read_text()
NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Around the lines: a prompt of some 800 tokens, two threads at most, and a look at what came out of both requests.
BEFORE = "import json, time\nif __name__ == '__main__':\n    prompt = open('prompt.txt').read()\n"
AFTER = """
    told = out[0].kv_transfer_params["cake"]
    params = SamplingParams(max_tokens=8, temperature=0, extra_args=cake_params("cake", link_mb_s=20.0, trace=True))
    alone = SamplingParams(max_tokens=8, temperature=0, extra_args=cake_params("compute"))
    answers = []
    for asked in (alone, params):
        llm.reset_prefix_cache()
        again = llm.generate(prompt, asked)[0]
        answers.append(again.outputs[0].text)
    spans = again.kv_transfer_params["cake"]["spans"]
    json.dump({"told": told, "answers": answers, "spans": spans}, open("out.json", "w"))
"""


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_lines_work_as_they_stand(tmp_path):
    first = blocks(DOCS)[0].replace(NAME, str(lm.path("smollm2")))
    model = lm.load("smollm2")
    (tmp_path / "prompt.txt").write_text(model.tokenizer.decode(lm.prompt(model, 801, 0)))
    code = BEFORE + "".join(f"    {line}\n" for line in first.splitlines()) + AFTER
    (tmp_path / "lines.py").write_text(code)
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "lines.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["told"]["prompt_tokens"] > 600
    assert out["told"]["loaded_tokens"] > 0
    assert out["told"]["grains_failed"] == 0
    assert out["answers"][0] == out["answers"][1]
    passes = [s["last_token"] - s["first_token"] for s in out["spans"] if s["lane"] == "compute"]
    assert 0 < max(passes) <= 512  # not the default budget of some thousand tokens, which could not be given back


def test_written_out_it_is_the_same():
    from vllm.config import KVTransferConfig

    from workbench.cake.vllm import cake_engine_args

    seen = {}
    names = {"LLM": lambda _model, **args: seen.update(args), "KVTransferConfig": KVTransferConfig, "model": ""}
    exec(blocks(DOCS)[1], names)
    short = cake_engine_args("kv")
    assert seen["scheduler_cls"] == short["scheduler_cls"]
    for name in ("kv_connector", "kv_connector_module_path", "kv_role", "kv_connector_extra_config"):
        assert getattr(seen["kv_transfer_config"], name) == getattr(short["kv_transfer_config"], name)
    server = re.search(r"--kv-transfer-config '(.*?)'", DOCS, re.DOTALL)
    assert json.loads(server[1])["kv_connector_module_path"] == "workbench.cake.vllm"


def test_the_readme_shows_the_same_two_arguments():
    (line,) = [line for line in README.splitlines() if line.startswith("llm = LLM(")]
    assert "**cake_engine_args(" in line
