"""From problems to judged responses on every rank: rollouts decoded, judged meanwhile, gathered.

Data-parallel replicas take every n-th problem. One rank of each replica has a judge. What goes wrong on one
rank is told to all, which raise alike: nobody waits in a collective for one that has left.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from ..checkpoint.inference import CheckpointModel
from ..checkpoint.metadata import CheckpointMetadata
from ..checkpoint.state import unwrap
from ..config.schema import RlConfig
from ..errors import DataError, MissingDependencyError
from ..parallel import Ranks
from ..sampling.text import cut_at_eos
from ..sandbox import Outcome, SandboxUnavailable, Verdict
from ..tokenizer.base import Tokenizer
from .clock import Clock
from .grading import Grader
from .problems import RlProblem
from .rollout import make_rollouts, rollout_config
from .samples import Sample, reward_of


@dataclass(frozen=True)
class Asked:
    """A problem and its prompt's tokens."""

    problem: RlProblem
    prompt: tuple[int, ...]


class Asking:
    """Asks the training model.

    Args:
        model: its wrapped chunk on this process.
        metadata: of the run.
        rl: rollouts and judge.
        ranks: this process's place.
        tokenizer: of prompts and responses.

    Raises:
        MissingDependencyError: programs cannot be shut in somewhere; on every rank.
    """

    def __init__(
        self,
        model: Any,
        metadata: CheckpointMetadata,
        rl: RlConfig,
        ranks: Ranks,
        tokenizer: Tokenizer,
    ) -> None:
        self._core, self._metadata = unwrap(model), metadata
        self.rl, self.ranks, self.tokenizer = rl, ranks, tokenizer
        self.grader: Grader | None = None
        said, fault = "", ""
        if ranks.tp_rank == 0 and ranks.pp_rank == 0:
            try:
                self.grader = Grader(rl, _replicas_here(ranks))
                said = self.grader.notice
            except SandboxUnavailable as error:
                fault = str(error)
        told: list[Any] = [None] * ranks.world_size
        dist.all_gather_object(told, (said, fault))
        self.notices = list(dict.fromkeys(said for said, _ in told if said))
        if faults := [fault for _, fault in told if fault]:
            self.close()
            raise MissingDependencyError(faults[0])

    def close(self) -> None:
        """End the judge."""
        if self.grader is not None:
            self.grader.close()

    def ask(
        self,
        asked: Sequence[Asked],
        numbers: Sequence[int],
        seed: int,
        clock: Clock,
        **changes: Any,
    ) -> list[Sample]:
        """Responses to problems with their rewards, in order, on every rank; all ranks call this.

        Args:
            asked: problems.
            numbers: what their responses' draws depend on, with ``seed``.
            seed: of the step.
            clock: is told what took how long.
            changes: to how rollouts are made (``rollout_config``).

        Raises:
            DataError: ranks of one replica chose other tokens.
        """
        ranks = self.ranks
        places = range(ranks.dp_rank, len(asked), ranks.dp_size)
        waiting: list[_Waiting] = []
        digest = hashlib.sha256()
        if self.grader is not None:
            self.grader.begin()
        with clock("rollout"), self._sampling() as model:
            for rollout in make_rollouts(
                model,
                [asked[place].prompt for place in places],
                [numbers[place] for place in places],
                rollout_config(self.rl, self.tokenizer, **changes),
                seed=seed,
                rows=self.rl.rollout_rows,
            ):
                digest.update(rollout.tokens_GL.tobytes())
                place = places[rollout.place]
                for number, tokens in enumerate(rollout.tokens_GL):
                    opened = rollout.opened_GL[number].tolist()
                    waiting += self._hand_in(asked[place], place, number, tokens.tolist(), opened)
        with clock("judge"):
            mine = (ranks.dp_rank, digest.hexdigest(), [one.sample() for one in waiting])
            everything: list[Any] = [None] * ranks.world_size
            dist.all_gather_object(everything, mine)
        if len({(replica, tokens) for replica, tokens, _ in everything}) > ranks.dp_size:
            raise DataError(
                "ranks of one replica chose other tokens in a rollout, so their logits differ; set "
                "training.deterministic, or tell us of the hardware"
            )
        samples = [sample for _, _, part in everything for sample in part]
        return sorted(samples, key=lambda sample: (sample.place, sample.number))

    def _hand_in(
        self, asked: Asked, place: int, number: int, tokens: list[int], opened: list[int]
    ) -> Iterator[_Waiting]:
        """Give one response to the judge, where this rank has one."""
        if self.grader is None:
            return
        response = cut_at_eos(tokens, [self.tokenizer.eos_id, self.tokenizer.im_end_id])
        text = self.tokenizer.decode(response, skip_special_tokens=True)
        program, verdict = self.grader.submit(asked.problem, text)
        yield _Waiting(
            verdict,
            lambda outcome, detail, reward: Sample(
                place=place,
                number=number,
                problem=asked.problem.id,
                kind=asked.problem.kind,
                tokens=tokens,
                opened=opened,
                length=len(response),
                text=text,
                outcome=outcome,
                detail=detail,
                reward=reward,
                program=program,
            ),
        )

    @contextmanager
    def _sampling(self) -> Iterator[CheckpointModel]:
        """The model as the sampler takes it."""
        self._core.eval()
        try:
            yield CheckpointModel(self._core, self._metadata, self.tokenizer)
        finally:
            self._core.train()


@dataclass(frozen=True)
class _Waiting:
    """A response at the judge."""

    verdict: Future[Verdict]
    finish: Callable[[str, str, float | None], Sample]

    def sample(self) -> Sample:
        """The response with its verdict, when that is there."""
        try:
            verdict = self.verdict.result()
        except Exception as error:  # the machine's, such as too many open files
            detail = f"{type(error).__name__}: {error}"
            verdict = Verdict(Outcome.INFRASTRUCTURE, detail=detail)
        detail = f"{verdict.test} {verdict.detail}".strip()
        return self.finish(str(verdict.outcome), detail, reward_of(verdict.outcome))


def _replicas_here(ranks: Ranks) -> int:
    """Data-parallel replicas on this machine, as far as the launcher tells."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, here // (ranks.tp_size * ranks.pp_size))
