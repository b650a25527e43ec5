"""What ``verify-export`` runs in a clean process: the folder by transformers alone.

Started as a program with two paths: a JSON request and the .npz to write. Imports nothing of the package.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch


def main(request_path: str, result_path: str) -> None:
    """Load the folder in float32, run the request, store the numbers."""
    from transformers import AutoModel, AutoModelForCausalLM

    with open(request_path, encoding="utf-8") as stream:
        request: dict[str, Any] = json.load(stream)
    is_dream = request["is_dream"]
    model, loading = (AutoModel if is_dream else AutoModelForCausalLM).from_pretrained(
        request["folder"],
        trust_remote_code=is_dream,
        torch_dtype=torch.float32,
        output_loading_info=True,
    )
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading.get(key):
            raise SystemExit(f"{key}: {sorted(map(str, loading[key]))[0]}")
    model = model.eval()
    ids = torch.tensor(request["input_ids"])
    mask = torch.tensor(request["attention_mask"])
    results = {}
    with torch.no_grad():
        results["logits"] = model(ids).logits.float().numpy()
        results["padded_logits"] = model(ids, attention_mask=mask).logits.float().numpy()
    prompt = torch.tensor(request["prompt"])
    if request["greedy"]:
        model.generation_config.eos_token_id = None  # to the last token
        options = {"max_new_tokens": request["greedy"], "do_sample": False, "use_cache": True}
        everything = torch.ones_like(prompt)
        output = model.generate(prompt, attention_mask=everything, **options)
        results["sequences"] = output.numpy()
    if request["sampling"] is not None:
        results["sequences"] = model.diffusion_generate(prompt, **request["sampling"]).numpy()
    np.savez(result_path, **results)
    if any(name.split(".")[0] in ("megatron", "megatron_dream") for name in sys.modules):
        raise SystemExit("the folder imported the training code")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
