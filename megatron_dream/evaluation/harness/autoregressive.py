"""Answers of a model that goes from left to right, with a cache of keys and values: the baseline.

Draws are the sampler's own (filters, order of ids, one generator a row), so temperature and top_p mean
the same for both kinds of models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...device import current_device
from ...errors import ConfigError, DataError, MissingDependencyError, ModelFolderError
from ...sampling.canvas import pad_left
from ...sampling.decode import choose
from ...sampling.randomness import RowRandom
from ...sampling.sampling_config import SamplingConfig
from ..benchmarks.base import Task
from .flops import Shape, forward_flops
from .models import Made, Model, Row
from .settings import Settings

_LOOK_EVERY = 16  # tokens, after which texts are looked through for stops
_FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_DRAWN = ("max_new_tokens", "temperature", "top_p", "top_k")


class AutoregressiveModel(Model):
    """transformers' model and tokenizer."""

    kind = "autoregressive"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.shape = Shape.of_huggingface(model.config)
        ends = model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = {end for end in (*ends, tokenizer.eos_token_id) if end is not None}
        self._limit = int(getattr(model.config, "max_position_embeddings", 1 << 30))

    @classmethod
    def load(cls, folder: Path) -> AutoregressiveModel:
        """From a folder.

        Raises:
            ModelFolderError: transformers cannot.
        """
        try:
            from transformers import AutoModelForCausalLM
        except ImportError:
            raise MissingDependencyError("measuring such a model needs transformers") from None
        try:
            model = AutoModelForCausalLM.from_pretrained(str(folder), torch_dtype="auto")
            tokenizer = _tokenizer(folder)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise ModelFolderError(
                f"{folder} cannot be loaded by transformers ({first})."
            ) from None
        return cls(model.eval().to(current_device()), tokenizer)

    def encode(self, task: Task, settings: Settings) -> Row:
        """See the base class."""
        ask = task.ask
        if ask.gap is not None:
            ids = self._gap(task)
        elif ask.text is not None:
            ids = self.tokenizer(ask.text)["input_ids"]
        else:
            if not self.tokenizer.chat_template:
                raise ConfigError("the folder has no chat template; give --style base.")
            text = self.tokenizer.apply_chat_template(
                list(ask.messages), tokenize=False, add_generation_prompt=True
            )
            ids = self.tokenizer(text + ask.prefill, add_special_tokens=False)["input_ids"]
        if len(ids) + self._room(settings) > self._limit:
            raise DataError(
                f"{task.id}: {len(ids)} tokens and {self._room(settings)} new ones exceed the model's "
                f"{self._limit} positions; lower --max-new-tokens."
            )
        return Row(tuple(ids))

    def _gap(self, task: Task) -> list[int]:
        assert task.ask.gap is not None
        known = self.tokenizer.get_vocab()
        if not all(name in known for name in _FIM):
            raise ConfigError(
                f"infilling asks a model from left to right by {_FIM[0]}, which its tokenizer has not."
            )
        before, after = task.ask.gap
        text = f"{_FIM[0]}{before}{_FIM[1]}{after}{_FIM[2]}"
        return list(self.tokenizer(text)["input_ids"])

    def _room(self, settings: Settings) -> int:
        return int(settings.sampling.get("max_new_tokens", 128))  # a gap's

    @torch.no_grad()
    def answer(
        self,
        rows: Sequence[Row],
        seeds: Sequence[int],
        tasks: Sequence[Task],
        settings: Settings,
    ) -> list[Made]:
        """See the base class."""
        room, device = self._room(settings), current_device()
        given = {k: v for k, v in settings.sampling.items() if k in _DRAWN and v is not None}
        config = SamplingConfig(**given, alg="maskgit_plus", num_tokens=len(self.tokenizer))
        draws = RowRandom(seeds, [(0, 0)] * len(rows)) if config.temperature else None
        pad = self.tokenizer.pad_token_id or next(iter(self._ends))
        ids, mask = pad_left([list(row.ids) for row in rows], pad, device)
        tokens: list[list[int]] = [[] for _ in rows]
        is_done = [False] * len(rows)
        cache = None
        for number in range(room):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions,
                past_key_values=cache, use_cache=True,
            )  # fmt: skip
            cache = output.past_key_values
            uniforms = None if draws is None else draws.uniforms([1] * len(rows), device)
            chosen = choose([output.logits[:, -1]], None, uniforms, config).tokens_N
            for row, token in enumerate(chosen.tolist()):
                if is_done[row]:
                    continue
                if token in self._ends:
                    is_done[row] = True
                else:
                    tokens[row].append(token)
            if number % _LOOK_EVERY == _LOOK_EVERY - 1:
                is_done = [
                    done or self._stops(tokens[row], tasks[row]) for row, done in enumerate(is_done)
                ]
            if all(is_done):
                break
            ids, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return [self._made(row, mine) for row, mine in zip(rows, tokens, strict=True)]

    def _stops(self, tokens: list[int], task: Task) -> bool:
        text = self._text(tokens)
        return any(stop in text for stop in task.stops)

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _made(self, row: Row, tokens: list[int]) -> Made:
        passes = len(tokens) + 1
        columns = float(len(row.ids) + len(tokens))
        flops = forward_flops(self.shape, columns, columns / 2, passes)
        opened = tuple(range(len(tokens)))
        return Made(self._text(tokens), len(tokens), passes, columns, flops, opened)


def _tokenizer(folder: Path) -> Any:
    """The folder's own: transformers 5 takes Qwen2's for every folder of that type, whatever it names."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    config = folder / "tokenizer_config.json"
    named = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    is_plain = named.get("tokenizer_class") == "PreTrainedTokenizerFast"
    kind = PreTrainedTokenizerFast if is_plain else AutoTokenizer
    return kind.from_pretrained(str(folder))
