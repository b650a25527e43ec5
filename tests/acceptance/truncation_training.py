"""Toy problems as token files, a model pretrained on their texts, and the stages that go on from it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import data_runs as runs
import truncation_problems as toy

from megatron_dream.files import write_json

DREAM = [sys.executable, "-m", "megatron_dream"]
VOCABULARY = 340  # of it 256 bytes; a blank with a letter is one piece
TRAIN_PROBLEMS = 20_000
RECIPE = """
model: {num_layers: 3, hidden_size: 128, num_attention_heads: 4, num_query_groups: 2, ffn_hidden_size: 384,
        tie_word_embeddings: true, max_position_embeddings: 512}
tokenizer: {path: "%(folder)s/tokenizer.model"}
data:
  train: [{prefix: "%(folder)s/%(data)s"}]
  sequence_length: %(width)d
  num_workers: 0
diffusion: {objective: diffusion, weight: cart, cart_p: 0.1}
optimizer: {lr: 1.0e-3, lr_warmup_fraction: 0.05}
training: {micro_batch_size: 16, global_batch_size: 32, precision: fp32}
"""


@dataclass(frozen=True)
class Setup:
    """What the files and the pretrained model are made from.

    Attributes:
        width: ``data.sequence_length``, tokens.
        held_out: problems for the measurement.
        pretrain_steps: of the model that every arm starts from.
        longest: tokens of an answer.
        share_of_long: of answers whose length is any up to that alike; others are short.
    """

    width: int
    held_out: int
    pretrain_steps: int
    longest: int = toy.LONGEST
    share_of_long: float = toy.SHARE_OF_LONG


def prepare(folder: Path, setup: Setup) -> None:
    """Problems, tokenizer, token files and the pretrained model; what is there of this setup stays."""
    about = {**asdict(setup), "recipe": RECIPE, "vocabulary": VOCABULARY}
    stamp = folder / "prepared.json"
    if stamp.exists() and json.loads(stamp.read_text()) == about:
        return
    shutil.rmtree(folder, ignore_errors=True)
    toy.write_problems(folder, TRAIN_PROBLEMS, setup.held_out, setup.longest, setup.share_of_long)
    tokenizer = f"{folder}/tokenizer.model"
    words = ["tokenizer", "train", "--input", f"{folder}/texts.jsonl"]
    runs.run([*DREAM, *words, "--vocab-size", str(VOCABULARY), "--output", tokenizer])
    common = ["--tokenizer", tokenizer, "--output-prefix"]
    words = ["preprocess", "--input", f"{folder}/texts.jsonl", "--append-eod"]
    runs.run([*DREAM, *words, *common, f"{folder}/texts"])
    rules = ["--skip-rule", "no_code", "unclosed_fence", "python_syntax", "repetition"]
    words = ["prepare-sft", "--input", f"{folder}/train.jsonl", "--template", "none", *rules]
    runs.run([*DREAM, *words, "--max-length", str(setup.width), *common, f"{folder}/answers"])
    for stage, data in (("pretrain", "texts"), ("sft", "answers")):
        recipe = RECIPE % {"folder": folder, "data": data, "width": setup.width}
        (folder / f"{stage}.yaml").write_text(recipe, encoding="utf-8")
    train(folder, "pretrain", folder / "pretrained", setup.pretrain_steps)
    write_json(stamp, about)


def train(folder: Path, stage: str, run_folder: Path, steps: int, *more: str) -> float:
    """Run a stage; seconds."""
    shutil.rmtree(run_folder, ignore_errors=True)
    words = [*DREAM, stage, "--config", f"{folder}/{stage}.yaml", "--training.train_steps"]
    seconds, _ = runs.run([*words, str(steps), "--checkpoint.run_folder", str(run_folder), *more])
    return seconds
