"""Load an exported folder with transformers alone, complete and infill functions, record the order.

Nothing of megatron_dream is imported: this is what a consumer of the folder does. The prompts come
as JSON lines with ``prefix``, ``middle`` and ``suffix`` (corpus.py); the result holds, for every
token of the canvas, its text, the step at which it opened and the confidence, for the page.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer


def generate(
    model: Any, tokenizer: Any, prompt: list[int], new_tokens: int, steps: int
) -> dict[str, Any]:
    """One greedy generation from ``prompt`` (masks in it are filled too) as plain values."""
    ids = torch.tensor([prompt])
    started = time.perf_counter()
    output = model.diffusion_generate(
        ids,
        max_new_tokens=new_tokens,
        steps=steps,
        alg="entropy",
        temperature=0.0,
        output_history=True,
        return_dict_in_generate=True,
    )
    seconds = time.perf_counter() - started
    sequence = output.sequences[0].tolist()
    events = output.events
    return {
        "prompt_length": len(prompt),
        "ids": sequence,
        "tokens": [token_text(tokenizer, token) for token in sequence],
        "opened_step": [int(step) for step in events.opened_step[0]],
        "confidence": [float(value) for value in events.confidence[0].nan_to_num(1.0)],
        "seconds": seconds,
    }


def token_text(tokenizer: Any, token: int) -> str:
    """What one token looks like on the page."""
    return tokenizer.decode([token], skip_special_tokens=False)


def text_of(tokenizer: Any, ids: list[int]) -> str:
    """Text up to the first end token, without special tokens."""
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode(ids, skip_special_tokens=True)


def main() -> None:
    """Complete the first functions, infill the others, write everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--prompts", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.folder, trust_remote_code=True)
    model = AutoModel.from_pretrained(
        options.folder, trust_remote_code=True, dtype=torch.float32
    ).eval()
    bos, mask = tokenizer.convert_tokens_to_ids(["<|beginoftext|>", "<|mask|>"])
    lines = Path(options.prompts).read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line) for line in lines]
    results = []
    for number, prompt in enumerate(prompts[: options.count]):
        prefix = [bos, *tokenizer.encode(prompt["prefix"], add_special_tokens=False)]
        if number % 2 == 0:
            result = generate(model, tokenizer, prefix, options.new_tokens, options.new_tokens)
            result["kind"] = "completion"
            result["text"] = prompt["prefix"] + text_of(tokenizer, result["ids"][len(prefix) :])
        else:
            middle = tokenizer.encode(prompt["middle"], add_special_tokens=False)
            suffix = tokenizer.encode(prompt["suffix"], add_special_tokens=False)
            canvas = prefix + [mask] * len(middle) + suffix
            result = generate(model, tokenizer, canvas, 0, len(middle))
            result["kind"] = "infilling"
            result["prompt_length"] = len(prefix)
            filled = result["ids"][len(prefix) : len(prefix) + len(middle)]
            result["text"] = prompt["prefix"] + text_of(tokenizer, filled) + prompt["suffix"]
            equal = sum(a == b for a, b in zip(filled, middle, strict=True))
            result["equal_tokens"] = [equal, len(middle)]
        result["name"] = prompt["name"]
        results.append(result)
        print(f"{result['kind']:10} {prompt['name']}  {result['seconds']:.1f} s")
    Path(options.output).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
