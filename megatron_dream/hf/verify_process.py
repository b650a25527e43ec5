"""The other side of verify-export: transformers and torch, nothing of this package.

Run as a program: FOLDER TASK.json ANSWER.pt.
"""

import json
import sys

import torch
import transformers
from transformers import AutoModel


def main(folder: str, task_file: str, answer_file: str) -> None:
    """Load the folder as its config.json says and answer the task."""
    with open(task_file, encoding="utf-8") as stream:
        task = json.load(stream)
    with open(f"{folder}/config.json", encoding="utf-8") as stream:
        dtype = json.load(stream)["torch_dtype"]
    model = AutoModel.from_pretrained(
        folder, trust_remote_code=True, torch_dtype=getattr(torch, dtype)
    ).eval()
    ids, mask = torch.tensor(task["input_ids"]), torch.tensor(task["attention_mask"])
    sequence = None
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits.float()
        if task["sampling"]:
            sequence = model.diffusion_generate(ids[:1], **task["sampling"])[0].tolist()
    answer = {
        "logits": logits,
        "sequence": sequence,
        "dtype": dtype,
        "transformers": transformers.__version__,
    }
    torch.save(answer, answer_file)


if __name__ == "__main__":
    main(*sys.argv[1:])
