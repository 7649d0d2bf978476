"""The real model: as transformers computes it, loadable by transformers, and it reads."""

import pytest
import torch
import transformers

from workbench import lm

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def reference(model_folder):
    return transformers.AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def question(smollm2):
    return torch.tensor(lm.prompt(smollm2, 400, seed=3))


@pytest.fixture(scope="module")
def expected(reference, question):
    with torch.no_grad():
        return reference(question[None]).logits[0]


def test_logits_equal_transformers(smollm2, question, expected):
    """fp32 to 1e-4 and 1e-4 of the logit: they reach 40, where one fp32 step is already 4e-6."""
    logits = smollm2.forward(question, smollm2.new_cache(400), 0, logits="all")
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
    shifted = smollm2.forward(question.roll(1), smollm2.new_cache(400), 0, logits="all")
    assert not torch.allclose(shifted, expected, rtol=1e-4, atol=1e-4)


def test_chunked_prefill_answers_from_the_text(smollm2, question, expected):
    cache, logits = smollm2.new_cache(400), None
    for start in range(0, 400, 160):
        logits = smollm2.forward(question[start : start + 160], cache, start)
    assert torch.allclose(logits, expected[-1], rtol=1e-4, atol=1e-4)
    answer = smollm2.tokenizer.decode([lm.Sampler().pick(logits, 0, 400)]).strip()
    assert f"warehouse is {answer}." in smollm2.tokenizer.decode(question.tolist())


def test_bf16_decides_as_fp32_does(smollm2, question, expected):
    rounded = lm.load("smollm2", "bfloat16")
    logits = rounded.forward(question, rounded.new_cache(400), 0, logits="all")
    assert (logits.argmax(-1) == expected.argmax(-1)).float().mean() > 0.95
    assert rounded.kv_bytes_per_token * 2 == smollm2.kv_bytes_per_token == 46080


def test_the_tokenizer_is_transformers_own(smollm2, model_folder):
    theirs = transformers.AutoTokenizer.from_pretrained(model_folder)
    text = "In 12345, <|im_start|>user\nhello's  world\n\n  x=1 caf\u00e9   77 \U0001f600"
    ids = smollm2.tokenizer.encode(text)
    assert ids == theirs(text).input_ids
    assert smollm2.tokenizer.decode(ids) == text
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    chat = smollm2.tokenizer.chat(talk)
    assert chat == theirs.apply_chat_template(talk, add_generation_prompt=True)["input_ids"]
    assert theirs.eos_token_id in smollm2.config.stop_ids


def test_status_reads_every_byte(model_folder):
    status = lm.status(full=True)
    assert status.present
    assert not status.problem
    assert status.folder == model_folder
    assert status.size_mb > 200
