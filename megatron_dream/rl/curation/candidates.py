"""Models that answer prompts, so that curation can tell how hard these are.

``rl`` may not import ``evaluation``; so models are asked here directly: through transformers, or through
the sampler (exported folders and checkpoints of ours).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ...checkpoint.metadata import FILE_NAME
from ...device import current_device
from ...errors import MissingDependencyError, ModelFolderError
from ...sampling.canvas import pad_left
from ...sampling.generation import diffusion_generate
from ...sampling.sampling_config import SamplingConfig
from ...sampling.text import responses
from ...tokenizer.base import Tokenizer
from ...tokenizer.chat import ChatTemplate
from ...tokenizer.load import load_tokenizer
from ..problems import Message

_OURS = "Dream"  # model_type of exported folders


@dataclass(frozen=True)
class CandidateOptions:
    """How candidates are drawn.

    Attributes:
        temperature: over 0, since candidates that are all alike tell nothing.
        max_new_tokens: of an answer (SPEC 8: 768).
    """

    temperature: float = 1.0
    max_new_tokens: int = 768


class CandidateModel(Protocol):
    """What is asked for answers."""

    def generate(self, prompts: Sequence[list[Message]], n: int, seed: int) -> list[list[str]]:
        """``n`` answers to each prompt, the same for the same prompts and seed; none to a long one."""


def load_candidates(model: Path, options: CandidateOptions) -> CandidateModel:
    """A causal model's folder, an exported folder of ours, or a checkpoint.

    Raises:
        ModelFolderError: it is none, or cannot be loaded.
        MissingDependencyError: transformers is not installed.
    """
    config = model / "config.json"
    if not config.is_file() or (model / FILE_NAME).is_file():
        return _of_checkpoint(model, options)
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise ModelFolderError(f"{config} is no JSON object; fetch the model again.") from None
    return _of_export(model, options) if kind == _OURS else CausalCandidates(model, options)


def folder_identity(model: Path) -> dict[str, Any]:
    """Plain values that differ once a model's files do."""
    files = sorted(path for path in model.rglob("*") if path.is_file())
    told = [[str(p.relative_to(model)), p.stat().st_size, p.stat().st_mtime_ns] for p in files]
    return {"model": str(model.resolve()), "files": told}


class CausalCandidates:
    """Any causal model of transformers, its own chat template.

    Raises:
        ModelFolderError: it cannot be loaded, or its tokenizer has no chat template.
    """

    def __init__(self, folder: Path, options: CandidateOptions) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise MissingDependencyError(
                "Candidates of a model need transformers; pip install transformers, or give a file of rates."
            ) from None
        self.options = options
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, padding_side="left"
            )
            model = AutoModelForCausalLM.from_pretrained(
                str(folder), local_files_only=True, dtype="auto"
            )
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise ModelFolderError(
                f"{folder} cannot be loaded by transformers ({first})."
            ) from None
        if self._tokenizer.chat_template is None:
            raise ModelFolderError(
                f"{folder}: its tokenizer has no chat template; name an instruct model."
            )
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = model.eval().to(current_device())
        self._limit = getattr(model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def generate(self, prompts: Sequence[list[Message]], n: int, seed: int) -> list[list[str]]:
        """See the protocol."""
        rows = [
            self._tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
            for prompt in prompts
        ]
        fitting = [k for k, row in enumerate(rows) if _fits(row, self.options, self._limit)]
        answers: list[list[str]] = [[] for _ in prompts]
        if not fitting:
            return answers
        batch = self._tokenizer.pad(
            {"input_ids": [rows[k] for k in fitting]}, return_tensors="pt"
        ).to(current_device())
        # transformers draws from the global generators: they are given back as they were
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            output = self._model.generate(
                **batch,
                do_sample=True,
                temperature=self.options.temperature,
                top_p=1.0,
                top_k=0,
                repetition_penalty=1.0,
                max_new_tokens=self.options.max_new_tokens,
                num_return_sequences=n,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        new = output[:, batch["input_ids"].shape[1] :]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        for place, k in enumerate(fitting):
            answers[k] = texts[place * n : (place + 1) * n]
        return answers


class DiffusionCandidates:
    """A model of ours, asked through the sampler: all new tokens, one a step, prefix cache, blocks of 32."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        limit: int,
        options: CandidateOptions,
    ) -> None:
        self._model, self._tokenizer, self._template = model, tokenizer, template
        self._limit, self.options = limit, options
        length = options.max_new_tokens
        self._config = SamplingConfig(
            max_new_tokens=length,
            temperature=options.temperature,
            cache="prefix" if length % 32 == 0 else "none",
            mask_token_id=tokenizer.mask_id,
            pad_token_id=tokenizer.pad_id,
            bos_token_id=tokenizer.bos_id,
            eos_token_id=[tokenizer.eos_id, tokenizer.im_end_id],
            num_tokens=tokenizer.vocab_size,
        )

    def generate(self, prompts: Sequence[list[Message]], n: int, seed: int) -> list[list[str]]:
        """See the protocol."""
        rows = [self._template.encode(self._tokenizer, prompt) for prompt in prompts]
        fitting = [k for k, row in enumerate(rows) if _fits(row, self.options, self._limit)]
        answers: list[list[str]] = [[] for _ in prompts]
        if not fitting:
            return answers
        ids_RP, real_RP = pad_left(
            [rows[k] for k in fitting], self._tokenizer.pad_id, current_device()
        )
        output = diffusion_generate(
            self._model,
            ids_RP,
            real_RP if len(fitting) > 1 else None,
            config=dataclasses.replace(self._config, seed=seed, num_return_sequences=n),
            row_ids=fitting,
            max_position=self._limit,
        )
        ends = self._config.eos_token_ids
        cut = responses(output.sequences, output.prompt_length, ends)
        texts = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in cut]
        for place, k in enumerate(fitting):
            answers[k] = texts[place * n : (place + 1) * n]
        return answers


def _fits(row: Sequence[int], options: CandidateOptions, limit: int | None) -> bool:
    return limit is None or len(row) + options.max_new_tokens <= limit


def _of_checkpoint(path: Path, options: CandidateOptions) -> DiffusionCandidates:
    from ...checkpoint.inference import load_for_sampling

    loaded = load_for_sampling(path)
    if loaded.tokenizer is None:
        raise ModelFolderError(f"{path}: its tokenizer is gone; export it with --tokenizer first.")
    limit = loaded.metadata.model["max_position_embeddings"]
    return DiffusionCandidates(loaded, loaded.tokenizer, ChatTemplate.dream(), limit, options)


def _of_export(folder: Path, options: CandidateOptions) -> DiffusionCandidates:
    try:
        from transformers import AutoModel
    except ImportError:
        raise MissingDependencyError("An exported folder needs transformers.") from None
    try:
        model = AutoModel.from_pretrained(str(folder), trust_remote_code=True)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ModelFolderError(f"{folder} cannot be loaded by transformers ({first}).") from None
    tokenizer = load_tokenizer(folder)
    limit = model.config.max_position_embeddings
    template = ChatTemplate.of(tokenizer)
    return DiffusionCandidates(
        model.eval().to(current_device()), tokenizer, template, limit, options
    )
