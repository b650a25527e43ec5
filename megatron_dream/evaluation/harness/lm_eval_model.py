"""Our models inside lm-evaluation-harness: the model class ``megatron_dream``.

Imported in the overlay environment only, where lm_eval_run.py makes it known to lm_eval's own command
line. Likelihoods are bounds (SPEC 9); choices of one question share their draws.
``--use_cache FILE`` makes a killed run go on; lm_eval's cache knows texts alone, neither model nor
arguments.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from ... import parallel
from ...config.schema import ParallelConfig
from ...device import current_device
from ...errors import ConfigError
from ...launcher import launched
from ...sampling.sampling_config import SamplingConfig
from ..benchmarks.base import Ask, Task, cut_at_stops
from ..likelihood import Request, loglikelihoods
from ..likelihood.bound import WINDOW
from ..likelihood.draws import check_draws
from .diffusion import DiffusionModel
from .lm_eval_options import asked_sampling, stops_of
from .models import Row
from .run import seed_of
from .settings import Settings

GAP = "<|megatron_dream_gap|>"  # stands in a context where text is to be filled in


@register_model("megatron_dream")
class MegatronDream(LM):
    """A checkpoint, an exported folder or a Dream-type folder.

    Args:
        pretrained: it.
        batch_size: rows of a forward pass; of generations, answers at a time.
        mc_num: draws of a likelihood.
        draws: their kind (docs/likelihood.md).
        seed: of all draws.
        gap: of contexts with a gap: grow, or a number of masks.
        max_length: tokens of a scored row; longer contexts lose their oldest.
        sampling: fields of SamplingConfig for generations; they overrule what a task asks for.

    Raises:
        ConfigError: an argument is none of these.
        ValueError: draws or mc_num cannot be.
    """

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 32,
        mc_num: int = 128,
        draws: str = "stratified",
        seed: int = 0,
        gap: str = "grow",
        max_length: int = 2048,
        device: str | None = None,  # lm_eval passes it on; ours is the process's
        max_batch_size: int | None = None,
        weights: str | None = None,
        **sampling: Any,
    ) -> None:
        super().__init__()
        _check(sampling)
        check_draws(draws, int(mc_num))
        launch = launched()
        self._rank, self._world_size = launch.rank, launch.world_size
        if launch.world_size > 1:
            # ranks end at different times, most of all when one of them goes on from its cache
            parallel.start(ParallelConfig(distributed_timeout_minutes=24 * 60))
        self._device = current_device()
        self.model = DiffusionModel.load(Path(pretrained), weights)
        self.sampler = self.model.sampler
        self._size, self._seed = int(batch_size), int(seed)
        self._mc_num, self._draws = int(mc_num), draws
        self._max_length = min(int(max_length), self.sampler.max_position)
        self._settings = Settings(sampling=dict(sampling), gap=str(gap), seed=int(seed))
        self._is_chat = False

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """See lm_eval: every rank's tensor, one behind the other."""
        if self._world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self._world_size)]
        dist.all_gather(parts, tensor)
        return torch.cat([part.reshape(-1) for part in parts])

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """See lm_eval: every rank's object, on ``dst``."""
        if self._world_size == 1:
            return [obj]
        found: list[Any] | None = [None] * self._world_size if self._rank == dst else None
        dist.gather_object(obj, found, dst=dst)
        return found

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._world_size > 1:
            parallel.barrier()

    @property
    def tokenizer_name(self) -> str:
        """For lm_eval's caches of requests."""
        return self.sampler.tokenizer.fingerprint

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text; with it contexts are the template's, and get no BOS."""
        self._is_chat = True
        template = self.sampler.chat_template
        ids = template.encode(
            self.sampler.tokenizer, chat_history, add_generation_prompt=add_generation_prompt
        )
        return self.sampler.tokenizer.decode(ids)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template's name, for the log of the run; lm_eval asks before it measures.

        Contexts that lm_eval has kept from an earlier run (``--cache_requests``) are rendered by nobody.
        """
        self._is_chat |= bool(chat_template)
        return self.sampler.chat_template.path if chat_template else ""

    # likelihoods

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Bounds, nats. Whether greedy decoding would give the continuation is not tried: always False.

        Equal texts are scored once, as the first of them: lm_eval's cache knows no more of a request, and
        a run that was killed must end as one that was not.
        """
        first_of: dict[Any, Any] = {}
        for request in requests:
            first_of.setdefault(request.args, request)
        distinct = list(first_of.values())
        found: dict[Any, tuple[float, bool]] = {}
        for first in range(0, len(distinct), self._window):
            part = distinct[first : first + self._window]
            asked = [Request(*self._pair(*one.args), _question(one)) for one in part]
            for request, value in zip(part, self._bounds(asked), strict=True):
                found[request.args] = (value, False)
                self.cache_hook.add_partial("loglikelihood", request.args, (value, False))
        return [found[request.args] for request in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Bounds of whole texts, in pieces that do not overlap; each piece has draws of its own."""
        bos, room = self.sampler.tokenizer.bos_id, self._max_length - 2
        found = []
        for request in requests:
            ids = self.sampler.tokenizer.encode(request.args[0])
            pieces = [
                Request([bos], ids[first : first + room], _question(request, first))
                for first in range(0, len(ids), room)
            ]
            # the text ends with its last piece: the others have no EOS behind them
            value = sum(self._bounds(pieces[:-1], append_eos=False)) + sum(
                self._bounds(pieces[-1:])
            )
            found.append(value)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    @property
    def _window(self) -> int:
        return max(WINDOW, 8 * self._size)  # requests after which the cache is written

    def _bounds(self, requests: Sequence[Request], append_eos: bool = True) -> list[float]:
        return loglikelihoods(
            self.sampler,
            requests,
            self._mc_num,
            self._draws,
            self._seed,
            batch_size=self._size,
            max_length=self._max_length,
            append_eos=append_eos,
        )

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of both, spaces between them on the continuation's side, as lm_eval's own models have it.

        Where the continuation has melted into the context's last token, nothing is left of it behind as
        many tokens as the context has, and lm_eval's own models fail: the text is then parted before the
        first token that differs.
        """
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        before = self._context(stripped)
        whole = self._context(stripped + continuation)
        start = len(before)
        if continuation and start >= len(whole):
            same = (a == b for a, b in zip(before, whole, strict=False))
            start = next((n for n, is_same in enumerate(same) if not is_same), len(whole))
            before = whole[:start]
        # a chat without a context has no token that the continuation's first could be predicted from
        return before or [self.sampler.tokenizer.bos_id], whole[start:]

    def _context(self, text: str) -> list[int]:
        tokenizer = self.sampler.tokenizer
        if self._is_chat:
            return tokenizer.encode_with_special(text)
        return [tokenizer.bos_id, *tokenizer.encode(text)]

    # generation

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, cut at the task's ``until``; drawn from seeds of (seed, task, document, repetition)."""
        found: dict[int, str] = {}
        plans = [self._plan(number, request) for number, request in enumerate(requests)]
        plans.sort(key=lambda plan: (str(plan[2].sampling), plan[1].num_masks, plan[1].size))
        first = 0
        while first < len(plans):
            last = first + 1
            while last < len(plans) and last - first < self._size and _go_together(
                plans[first], plans[last]
            ):  # fmt: skip
                last += 1
            for (number, *_), text in zip(
                plans[first:last], self._answers(plans[first:last], requests), strict=True
            ):
                found[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
            first = last
        return [found[number] for number in range(len(requests))]

    def _plan(self, number: int, request: Any) -> tuple[int, Row, Settings]:
        context, options = request.args
        before, is_gap, after = context.partition(GAP)
        if is_gap:
            settings = self._settings
            task = Task(str(number), Ask(gap=(before, after)), None)
            return number, self.model.encode(task, settings), settings
        settings = Settings(seed=self._seed).with_options(
            {**asked_sampling(options), **self._settings.sampling}
        )
        length = int(settings.sampling["max_new_tokens"])
        ids = self._context(context)
        room = self.sampler.max_position - length
        if room < 2:
            raise ValueError(
                f"max_new_tokens {length} leaves the model's positions no prompt; lower it."
            )
        kept = ids if len(ids) <= room else [*ids[:1], *ids[len(ids) - room + 1 :]]
        return number, Row(tuple(kept)), settings

    def _answers(
        self, plans: Sequence[tuple[int, Row, Settings]], requests: Sequence[Any]
    ) -> list[str]:
        mine = [requests[number] for number, _, _ in plans]
        tasks = [self._task(request) for request in mine]
        seeds = [self._seed_of(requests, number) for number, _, _ in plans]
        made = self.model.answer([row for _, row, _ in plans], seeds, tasks, plans[0][2])
        stops = [stops_of(request.args[1]) for request in mine]
        return [cut_at_stops(one.text, stop) for one, stop in zip(made, stops, strict=True)]

    def _seed_of(self, requests: Sequence[Any], number: int) -> int:
        """lm_eval gives a request that is repeated as one object several times, one behind the other."""
        request, repetition = requests[number], 0
        while number - repetition > 0 and requests[number - repetition - 1] is request:
            repetition += 1
        name = f"{request.doc_id}/{request.idx}"
        return seed_of(self._seed, str(request.task_name), name, repetition)

    def _task(self, request: Any) -> Task:
        """What decides which tokens end an answer."""
        context = request.args[0]
        before, is_gap, after = context.partition(GAP)
        if is_gap:
            return Task("", Ask(gap=(before, after)), None)
        if self._is_chat:
            return Task("", Ask(messages=({"role": "user", "content": context},)), None)
        return Task("", Ask(text=context), None)


def _go_together(first: tuple[int, Row, Settings], other: tuple[int, Row, Settings]) -> bool:
    is_gap = bool(first[1].suffix), bool(other[1].suffix)
    same_masks = first[1].num_masks == other[1].num_masks
    return first[2] == other[2] and same_masks and is_gap[0] == is_gap[1]


def _check(sampling: dict[str, Any]) -> None:
    """Refuse words that nobody reads: a likelihood would never ask for them."""
    known = {one.name for one in dataclasses.fields(SamplingConfig)}
    unknown = [name for name in sampling if name not in known]
    if unknown:
        raise ConfigError(
            f"--model_args {unknown[0]}: neither an argument of this model class nor one of the sampler; "
            "docs/evaluation.md lists them."
        )


def _question(request: Any, piece: int = 0) -> int:
    """One number for all choices of a question; of long texts one for each piece."""
    name = f"{request.task_name}/{request.doc_id}" + (f"/{piece}" if piece else "")
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "little")
