"""A model from left to right: exported as Qwen2, the same numbers and tokens by transformers' own code."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from megatron_dream.config.schema import ModelConfig
from megatron_dream.evaluation.benchmarks.base import Ask, Task
from megatron_dream.evaluation.harness.autoregressive import AutoregressiveModel
from megatron_dream.evaluation.harness.models import open_model
from megatron_dream.evaluation.harness.settings import Settings
from megatron_dream.files import write_json
from megatron_dream.hf.export import is_export
from megatron_dream.hf.model_config import qwen2_config_json
from megatron_dream.hf.safetensors_writer import write_safetensors
from megatron_dream.hf.tensor_map import huggingface_shapes
from megatron_dream.tokenizer import Tokenizer
from megatron_dream.tokenizer.train import train_sentencepiece
from tests.dream_folder import random_tensors
from tests.warm import WarmStarter

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=48,
    vocab_size=416,
    max_position_embeddings=64,
    tie_word_embeddings=True,
)
TEXTS = ["def f(xs): return [v*3 for v in xs if v>5]", "  two\n\tlines ", "é▁ <|mask|> 你", "", " "]
SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from megatron_dream.checkpoint.metadata import read_metadata, write_metadata
from megatron_dream.errors import UserError
from megatron_dream.hf import export_hf, import_hf, verify_export

folder, work = Path(sys.argv[1]), Path(sys.argv[2])
checkpoint, exported, again = work / "checkpoint", work / "exported", work / "again"

def attempt(function, *args):
    try:
        return function(*args)
    except UserError as error:
        return [type(error).__name__, str(error)]

import_hf(folder, checkpoint)
metadata = read_metadata(checkpoint)
export_hf(checkpoint, work / "untrained")
# as if trained here, on answers that end with a turn
trained = {"recipe": {"data": {"bos_per_sample": False}}}
sft = {"response_end": "im_end"}
trained_here = dataclasses.replace(metadata, stage="sft", sft=sft, trained=trained)
write_metadata(checkpoint, trained_here)
export_hf(checkpoint, exported)
before, after = load_file(next(folder.glob("*.safetensors"))), {}
for file in exported.glob("*.safetensors"):
    after |= load_file(file)
out = {
    "objective": metadata.objective,
    "same": before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before),
    "verify": attempt(verify_export, exported, checkpoint),
    "replaced": attempt(export_hf, checkpoint, exported) is None,
}
import_hf(exported, again)
export_hf(again, work / "imported only")
file = next(exported.glob("*.safetensors"))
content = load_file(file)
content["model.norm.weight"][0] += 1.0
save_file(content, file, metadata={"format": "pt"})
out["altered"] = attempt(verify_export, exported, checkpoint)
content["model.norm.weight"][0] -= 1.0
save_file(content, file, metadata={"format": "pt"})
print(json.dumps(out))
"""


def test_export_of_a_model_from_left_to_right(tmp_path: Path, warm: WarmStarter) -> None:
    """Logits, a greedy generation with a cache, and ids are those of the checkpoint and its tokenizer."""
    tokenizer = train_sentencepiece([Path(__file__)], 400, tmp_path / "t.model")
    folder, work = tmp_path / "folder", tmp_path / "work"
    work.mkdir()
    tokenizer.save_huggingface(folder)
    ids = {"bos": tokenizer.bos_id, "pad": tokenizer.pad_id}
    config = qwen2_config_json(
        MODEL,
        special_token_ids=ids,
        num_tokens=tokenizer.vocab_size,
        tokenizer_fingerprint=tokenizer.fingerprint,
        torch_dtype="float32",
    )
    write_json(folder / "config.json", config)
    tensors = random_tensors(MODEL)
    write_safetensors(folder, huggingface_shapes(MODEL), tensors.items(), torch.float32, 1 << 30)
    done = warm.run_code(SCRIPT, str(folder), str(work))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["objective"] == "ar" and found["same"] and found["replaced"], found
    assert found["verify"] == 0, found["verify"]
    assert "greedy generation with a cache equal" in done.stdout
    assert "PreTrainedTokenizerFast: reads it" in done.stdout
    assert found["altered"][0] == "DifferenceFoundError"
    exported = work / "exported"
    written = json.loads((exported / "config.json").read_text())
    assert {name: written[name] for name in config} == config
    assert is_export(exported) and not list(exported.glob("*.py"))
    assert "AutoModelForCausalLM" in (exported / "README.md").read_text()
    generation = json.loads((exported / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [tokenizer.im_end_id, tokenizer.pad_id]
    _check_tokens(tokenizer, exported, work / "untrained")
    kept = json.loads((work / "imported only" / "tokenizer.json").read_text())["post_processor"]
    assert json.dumps(kept).count("TemplateProcessing") == 1
    _check_harness(tokenizer, exported)


def _check_tokens(tokenizer: Tokenizer, exported: Path, untrained: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast.from_pretrained(str(exported))
    plain = PreTrainedTokenizerFast.from_pretrained(str(untrained))
    for text in TEXTS:
        # transformers takes a literal for the token
        wanted = tokenizer.encode(text, special="as_token")
        assert theirs(text, add_special_tokens=False)["input_ids"] == wanted
        assert theirs(text)["input_ids"] == [tokenizer.bos_id, *wanted]
        assert plain(text)["input_ids"] == wanted  # nobody says that BOS is wanted
        assert theirs.decode(wanted) == text


def _check_harness(tokenizer: Tokenizer, exported: Path) -> None:
    model = open_model(exported)
    assert isinstance(model, AutoregressiveModel)
    task = Task("a", Ask(text="def f(xs):"), None)
    settings = Settings(sampling={"max_new_tokens": 5, "temperature": 0.0})
    row = model.encode(task, settings)
    assert list(row.ids) == [tokenizer.bos_id, *tokenizer.encode("def f(xs):")]
    (made,) = model.answer([row], [0], [task], settings)
    assert made.num_forward <= 6
    assert model._ends == {tokenizer.im_end_id, tokenizer.pad_id}
