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
# Around the lines: a prompt of some 640 tokens, more than a pass may hold, and a look at what came of both requests.
BEFORE = "import json, time\nif __name__ == '__main__':\n    prompt = open('prompt.txt').read()\n"
AFTER = """
    told = out[0].kv_transfer_params["cake"]
    asked = {"max_tokens": 8, "temperature": 0, "logprobs": 5}
    params = SamplingParams(**asked, extra_args=cake_params("cake", link_mb_s=20.0, trace=True))
    alone = SamplingParams(**asked, extra_args=cake_params("compute"))
    answers = []
    for each in (alone, params):
        llm.reset_prefix_cache()
        again = llm.generate(prompt, each)[0]
        likely = [{token: found.logprob for token, found in place.items()} for place in again.outputs[0].logprobs]
        answers.append({"tokens": list(again.outputs[0].token_ids), "likely": likely})
    spans = again.kv_transfer_params["cake"]["spans"]
    json.dump({"told": told, "answers": answers, "spans": spans}, open("out.json", "w"))
"""


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


TIE = 0.3  # of a log-probability: two steps of bfloat16 among logits of 16 to 32


def apart(one, other):
    """How far two answers lie from each other in log-probability, up to and with the first token that differs."""
    most = 0.0
    for token, another, likely, also in zip(
        one["tokens"], other["tokens"], one["likely"], other["likely"], strict=True
    ):
        for seen in {str(token), str(another)}:
            if seen not in likely or seen not in also:
                return float("inf")
            most = max(most, abs(likely[seen] - also[seen]))
        if token != another:
            return max(most, abs(likely[str(token)] - likely[str(another)]))
    return most


def test_answers_that_differ_by_more_than_a_tie_are_told():
    near = {"tokens": [7, 8], "likely": [{"7": -0.1}, {"8": -0.70, "9": -0.69}]}
    tied = {"tokens": [7, 9], "likely": [{"7": -0.1}, {"8": -0.69, "9": -0.70}]}
    far = {"tokens": [7, 9], "likely": [{"7": -0.1}, {"8": -2.0, "9": -0.2}]}
    other = {"tokens": [5, 9], "likely": [{"5": -0.1}, {"9": -0.1}]}
    assert apart(near, near) == 0 and apart(near, tied) < TIE
    assert apart(near, far) > 1 and apart(near, other) == float("inf")


def test_the_lines_work_as_they_stand(tmp_path):
    first = blocks(DOCS)[0].replace(NAME, str(lm.path("smollm2")))
    model = lm.load("smollm2")
    (tmp_path / "prompt.txt").write_text(model.tokenizer.decode(lm.prompt(model, 641, 0)))
    code = BEFORE + "".join(f"    {line}\n" for line in first.splitlines()) + AFTER
    (tmp_path / "lines.py").write_text(code)
    environment = os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    environment |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "lines.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads((tmp_path / "out.json").read_text())
    assert out["told"]["prompt_tokens"] > 512
    assert out["told"]["loaded_tokens"] > 0
    assert out["told"]["grains_failed"] == 0
    assert apart(*out["answers"]) < TIE
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
