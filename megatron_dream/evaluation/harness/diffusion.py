"""Answers of a diffusion model: appended canvases, gaps that keep their length, gaps that grow.

Rows of a batch draw from their own seeds and do not see each other, so an answer is that of its prompt,
settings and seed, up to the rounding of kernels that depend on a batch's shape; run.py therefore deals
the same batches whatever was done before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...config.schema import ModelConfig
from ...device import current_device
from ...errors import ConfigError, DataError, ModelFolderError
from ...sampling.cache import StatesModel
from ...sampling.canvas import pad_left
from ...sampling.generation import SamplingOutput, diffusion_generate
from ...sampling.infill import GapConfig, fill_gaps
from ...sampling.sampling_config import DEFAULT_BLOCK, SamplingConfig
from ...sampling.text import cut_at_eos
from ..benchmarks.base import Task
from ..generate import sampling_config
from ..sampler import Sampler, load_model
from ..sampling_flags import OF_APPENDED_TOKENS
from .flops import Shape, forward_flops
from .models import Made, Model, Row
from .settings import Settings

# What a gap that grows has no use for (sampling/infill.py).
_OF_CANVAS = (*OF_APPENDED_TOKENS, "steps", "pad_penalty")
_OF_CACHE = ("cache", "cache_refresh", "border", "cuda_graphs")


class DiffusionModel(Model):
    """A Sampler, asked for tasks."""

    kind = "diffusion"

    def __init__(self, sampler: Sampler) -> None:
        self.sampler, self._is_told = sampler, False
        config = getattr(sampler.model, "config", None)
        if sampler.is_checkpoint:
            self.shape = Shape.of_config(ModelConfig(**sampler.model.metadata.model))
        else:
            self.shape = Shape.of_huggingface(config)

    @classmethod
    def load(cls, path: Path, weights: str | None = None) -> DiffusionModel:
        """See ``load_model``; models without our remote code get masks as public Dream takes them."""
        sampler = load_model(path, weights)
        if not sampler.is_checkpoint and not hasattr(sampler.model, "sampler_states"):
            sampler.model = PublicDream(sampler.model)
        return cls(sampler)

    def encode(self, task: Task, settings: Settings) -> Row:
        """See the base class."""
        ask, tokenizer = task.ask, self.sampler.tokenizer
        if ask.gap is not None:
            row = self._gap(task, settings)
        elif ask.text is not None:
            row = Row((tokenizer.bos_id, *tokenizer.encode(ask.text)))
        else:
            ids = self.sampler.chat_template.encode(tokenizer, list(ask.messages))
            row = Row((*ids, *tokenizer.encode(ask.prefill)))
        new = 0 if ask.gap is not None else int(settings.sampling["max_new_tokens"])
        if row.size + new > self.sampler.max_position:
            raise DataError(
                f"{task.id}: {row.size} tokens and {new} new ones exceed the model's "
                f"{self.sampler.max_position} positions; lower --max-new-tokens."
            )
        return row

    def _gap(self, task: Task, settings: Settings) -> Row:
        assert task.ask.gap is not None
        tokenizer = self.sampler.tokenizer
        before, after = (tuple(tokenizer.encode(text)) for text in task.ask.gap)
        masks = 0
        if settings.gap == "oracle":
            assert task.problem is not None and task.problem.reference is not None
            masks = max(1, len(tokenizer.encode(task.problem.reference)))
        elif settings.gap != "grow":
            masks = int(settings.gap)
        return Row((tokenizer.bos_id, *before), (*after, tokenizer.eos_id), masks)

    def answer(
        self,
        rows: Sequence[Row],
        seeds: Sequence[int],
        tasks: Sequence[Task],
        settings: Settings,
    ) -> list[Made]:
        """See the base class."""
        if tasks[0].ask.gap is not None and not rows[0].num_masks:
            return self._grown(rows, seeds, settings)
        is_chat = bool(tasks[0].ask.messages)
        tokenizer = self.sampler.tokenizer
        ends = [tokenizer.eos_id, tokenizer.im_end_id] if is_chat else [tokenizer.eos_id]
        options = self._possible(dict(settings.sampling))
        if tasks[0].ask.gap is not None:
            options = {k: v for k, v in options.items() if k not in _OF_CANVAS}
            masks_left = max(row.num_masks for row in rows)
            steps = min(settings.sampling.get("steps") or masks_left, masks_left)
            options |= {"max_new_tokens": 0, "steps": steps}
            options["forbidden_token_ids"] = [tokenizer.expand_id]
        config = sampling_config(
            self.sampler, **options, eos_token_id=ends, output_history=True, seed=seeds[0]
        )
        masks = [[tokenizer.mask_id] * row.num_masks for row in rows]
        prompts = [[*row.ids, *m, *row.suffix] for row, m in zip(rows, masks, strict=True)]
        ids_RP, real_RP = pad_left(prompts, tokenizer.pad_id, current_device())
        output = diffusion_generate(
            self.sampler.model,
            ids_RP,
            real_RP if len(rows) > 1 else None,
            config=config,
            row_ids=[0] * len(rows),
            row_seeds=list(seeds),
            max_position=self.sampler.max_position,
        )
        return [self._made(output, config, rows, number, ends) for number in range(len(rows))]

    def _possible(self, options: dict[str, Any]) -> dict[str, Any]:
        """Without a cache where the model has none (public Dream's code): the same blocks, run exactly."""
        if options.get("cache", "none") == "none" or isinstance(self.sampler.model, StatesModel):
            return options
        if not self._is_told:
            print(
                f"The model cannot keep {options['cache']} caches: its blocks are run without, exactly."
            )
            self._is_told = True
        kept = {k: v for k, v in options.items() if k not in _OF_CACHE}
        return {**kept, "block_length": options.get("block_length") or DEFAULT_BLOCK}

    def _made(
        self,
        output: SamplingOutput,
        config: SamplingConfig,
        rows: Sequence[Row],
        number: int,
        ends: Sequence[int],
    ) -> Made:
        row, history = rows[number], output.history
        assert history is not None
        begin = output.prompt_length - row.size + len(row.ids)
        sequence = output.sequences[number]
        end = begin + row.num_masks if row.num_masks else len(sequence)
        response = cut_at_eos(sequence[begin:end], ends)
        text = self.sampler.tokenizer.decode(response, skip_special_tokens=True)
        is_mine = (history.rows == number) & ~history.probabilities.isnan()
        steps = history.steps[is_mine].unique()
        opened = history.opened_step[number, begin : begin + len(response)].tolist()
        columns = output.num_columns / len(rows)
        # masks left of the block, half of it on average, get logits in each of the row's passes
        block = min(config.block_length or end - begin, end - begin)
        flops = forward_flops(self.shape, columns, len(sequence), len(steps) * (block + 1) / 2)
        return Made(text, len(response), len(steps), columns, flops, tuple(opened))

    def _grown(self, rows: Sequence[Row], seeds: Sequence[int], settings: Settings) -> list[Made]:
        tokenizer = self.sampler.tokenizer
        options = {k: v for k, v in settings.sampling.items() if k not in _OF_CANVAS}
        config = sampling_config(
            self.sampler, **options, eos_token_id=tokenizer.eos_id, seed=seeds[0], max_new_tokens=0
        )
        output = fill_gaps(
            self.sampler.model,
            [row.ids for row in rows],
            [row.suffix for row in rows],
            sampling=config,
            gap=GapConfig(tokenizer.expand_id),
            row_ids=[0] * len(rows),
            row_seeds=list(seeds),
            max_position=self.sampler.max_position,
            device=current_device(),
        )
        made = []
        for row, gap in zip(rows, output.gaps, strict=True):
            text = tokenizer.decode(gap.tokens, skip_special_tokens=True)
            # the gap's length in each pass: the masks it began with grow to what it ends with
            width = row.size + max(len(gap.tokens), 1)
            columns = float(gap.num_steps * width)
            flops = forward_flops(self.shape, columns, width, gap.num_steps * len(gap.slots) / 2)
            opened = tuple(slot.opened_step for slot in gap.living if slot.token is not None)
            made.append(Made(text, len(gap.tokens), gap.num_steps, columns, flops, opened))
        return made


def check_rotary(model: Any) -> None:
    """Refuse rotary frequencies that loading has not filled, as transformers 5 leaves public Dream's.

    Raises:
        ModelFolderError: a buffer is not theta^(-2i/d): scores would be of noise.
    """
    if not hasattr(model, "named_buffers"):
        return
    given = getattr(model.config, "rope_parameters", None) or {}
    theta = getattr(model.config, "rope_theta", None) or given.get("rope_theta")
    for name, found in model.named_buffers():
        if theta is None or not name.endswith("inv_freq"):
            continue
        exponents = torch.arange(len(found), dtype=torch.float64) / len(found)
        wanted = float(theta) ** -exponents
        if not torch.allclose(found.double().cpu(), wanted, rtol=0.02):
            raise ModelFolderError(
                f"{name} of {type(model).__name__} is not what its rope_theta says: its code does not load "
                "rightly under this version of transformers; import-hf the folder and give the checkpoint."
            )


class PublicDream:
    """Public Dream's remote code takes masks [B, 1, S, S] where ours takes [B, S]."""

    def __init__(self, model: Any) -> None:
        if not callable(getattr(model, "diffusion_generate", None)):
            raise ConfigError(
                f"{type(model).__name__} is neither a Dream-type model nor one for causal language "
                "modelling; name another folder."
            )
        check_rotary(model)
        self._model = model
        self.config = model.config

    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> Any:
        """Logits, unshifted."""
        if attention_mask is not None:
            real_BS = attention_mask.bool()
            attention_mask = (real_BS[:, None, None, :] & real_BS[:, None, :, None]) | torch.eye(
                real_BS.shape[1], dtype=torch.bool, device=real_BS.device
            )
        return self._model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids
        )

    __call__ = forward
