"""vLLM by itself, without anything of ours: prompts as a JSON line on stdin, its greedy tokens as one on stdout."""

import json
import os
import sys


def main():
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints
    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"}
    from vllm import LLM, SamplingParams

    how = {"skip_tokenizer_init": True, "enforce_eager": True, "enable_prefix_caching": False}
    llm = LLM(sys.argv[1], max_model_len=1024, kv_cache_memory_bytes=64 << 20, dtype="float32", **how)
    for prompts in map(json.loads, sys.stdin):
        greedy = [
            SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False) for _, tokens in prompts
        ]
        done = llm.generate([{"prompt_token_ids": ids} for ids, _ in prompts], greedy, use_tqdm=False)
        print(json.dumps([list(one.outputs[0].token_ids) for one in done]), file=out, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
