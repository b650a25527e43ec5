"""The loop of the ``rl`` stage: ask, judge, compare within groups, update (SPEC 8).

A step asks ``rl.prompts_per_step`` problems, makes ``rl.group_size`` responses to each on the training model,
judges those that are finished while others are decoded, and then makes ``rl.policy_epochs`` updates, each
over all responses under both masks. Samples go to disk before the first update: a run interrupted there
goes on with them, if its weights are still those that they were made with.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from .. import device, parallel
from ..checkpoint.inference import CheckpointModel
from ..checkpoint.state import unwrap
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..diffusion.noise import NoiseStream
from ..errors import DataError
from ..parallel import Ranks
from ..sampling.text import cut_at_eos
from ..sandbox import Verdict
from ..tokenizer.base import Tokenizer
from ..training.engine import Engine
from ..training.loop import Loop
from .advantage import advantages, substitutes
from .batch import Group, build_update, micro_batches, valid_tokens
from .fingerprint import weights_fingerprint
from .grading import Grader
from .order import ProblemOrder
from .policy import PolicyReport, PolicyRunner
from .problems import RlProblem
from .rollout import make_rollouts, rollout_config, step_seed
from .samples import Sample, file_of, read_samples, reward_of, write_samples

SAMPLES = "samples"  # folder of the run
_VALIDATION = 1 << 62  # step whose seed validations draw from


@dataclasses.dataclass(frozen=True)
class Asked:
    """A problem and its prompt's tokens."""

    problem: RlProblem
    prompt: tuple[int, ...]


class RlLoop(Loop):
    """Steps of GRPO over rollouts of the model that is trained.

    Args:
        config: of the run.
        layout: of the processes.
        ranks: this process's place.
        engine: what is trained, with what.
        tokenizer: of prompts and responses.
        problems: to train on.
        valid: held out.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        ranks: Ranks,
        engine: Engine,
        tokenizer: Tokenizer,
        problems: Sequence[Asked],
        valid: Sequence[Asked],
    ) -> None:
        super().__init__(config, layout, ranks, engine)
        self.rl, self.tokenizer = config.rl, tokenizer
        self.problems, self.valid = problems, valid
        self.order = ProblemOrder(config.data.seed, len(problems), self.rl.prompts_per_step)
        self.noise = NoiseStream(config.data.seed, "rl")
        self.runner = PolicyRunner(self.model, self.rl, ranks)
        self.skipped = 0  # steps in which no group was informative
        self.folder = None if self.writer is None else Path(config.checkpoint.run_folder) / SAMPLES
        # One rank of each data-parallel replica judges what the replica has written.
        judges = ranks.tp_rank == 0 and ranks.pp_rank == 0
        self.grader = Grader(self.rl) if judges else None
        if self.grader is not None and self.grader.notice:
            self.log.say(self.grader.notice)

    def close(self) -> None:
        """End the judge and close the log's sinks."""
        if self.grader is not None:
            self.grader.close()
        super().close()

    def _one_step(self) -> None:
        clock = _Clock()
        samples = self._samples(clock)
        self._check_infrastructure(samples)
        groups, facts = self._groups(samples)
        reports: list[PolicyReport] = []
        grad_norm = 0.0
        if groups is None:
            self.skipped += 1
            self.log.event("fault", self.step, message="no group is informative: no update")
        else:
            reports, grad_norm = self._updates(groups, clock)
        self.step += 1
        self.consumed += self.rl.prompts_per_step
        self._tokens += sum(sample.length for sample in samples)
        device.synchronize()
        facts.update(_facts_of(samples, reports), skipped_steps=self.skipped)
        self._metrics["training"] = {"step": self.step, "solve_mean": facts["solve_mean"]}
        self._report(facts, reports, grad_norm, clock)

    def _samples(self, clock: _Clock) -> list[Sample]:
        """This step's samples on every rank: from disk, or made and judged now."""
        head = {
            "step": self.step,
            "weights": weights_fingerprint(self.model, self.ranks),
            "settings": self._settings(),
        }
        found: Any = None
        if self.ranks.rank == 0 and self.folder is not None:
            found = read_samples(file_of(self.folder, self.step), head)
        found = parallel.broadcast_object(found)
        if found is not None:
            self.log.say(f"step {self.step + 1}: samples that were judged before are used")
            return list(found)
        numbers = self.order.step(self.step)
        asked = [self.problems[number] for number in numbers]
        samples = self._ask(asked, numbers, step_seed(self.config.data.seed, self.step), clock)
        if self.ranks.rank == 0 and self.folder is not None:
            write_samples(file_of(self.folder, self.step), head, samples)
        return samples

    def _settings(self) -> dict[str, Any]:
        """What decides the samples besides weights and step."""
        decisive = (
            "prompts_per_step group_size response_length temperature top_p alg steps block_length cache "
            "threshold entropy_bound exactly_one_block"
        ).split()
        values = {name: getattr(self.rl, name) for name in decisive}
        return {**values, "seed": self.config.data.seed, "data": self.metadata.index_hash}

    def _ask(
        self,
        asked: Sequence[Asked],
        numbers: Sequence[int],
        seed: int,
        clock: _Clock,
        **changes: Any,
    ) -> list[Sample]:
        """Responses to problems with their rewards, in order, on every rank; all ranks call this.

        Args:
            asked: problems; each data-parallel rank decodes its share.
            numbers: what their draws depend on.
            seed: likewise.
            clock: is told what took how long.
            changes: to how rollouts are made.
        """
        ranks, config = self.ranks, rollout_config(self.rl, self.tokenizer, **changes)
        places = range(ranks.dp_rank, len(asked), ranks.dp_size)
        waiting: list[_Waiting] = []
        if self.grader is not None:
            self.grader.begin()
        with clock("rollout"), self._sampling() as model:
            for rollout in make_rollouts(
                model,
                [asked[place].prompt for place in places],
                [numbers[place] for place in places],
                config,
                seed=seed,
                rows=self.rl.rollout_rows,
            ):
                place = places[rollout.place]
                for number, tokens in enumerate(rollout.tokens_GL):
                    opened = rollout.opened_GL[number].tolist()
                    waiting += self._hand_in(asked[place], place, number, tokens.tolist(), opened)
        with clock("judge"):
            mine = [one.sample() for one in waiting]
            everything: list[list[Sample]] = [[] for _ in range(ranks.world_size)]
            dist.all_gather_object(everything, mine)
        samples = [sample for part in everything for sample in part]
        return sorted(samples, key=lambda sample: (sample.place, sample.number))

    def _hand_in(
        self, asked: Asked, place: int, number: int, tokens: list[int], opened: list[int]
    ) -> Iterator[_Waiting]:
        """Give one response to the judge, where this rank has one."""
        if self.grader is None:
            return
        ends = [self.tokenizer.eos_id, self.tokenizer.im_end_id]
        response = cut_at_eos(tokens, ends)
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
        """The model as the sampler takes it; dropout is off meanwhile."""
        core = unwrap(self.model[0])
        core.eval()
        try:
            yield CheckpointModel(core, self.metadata, self.tokenizer)
        finally:
            core.train()

    def _check_infrastructure(self, samples: Sequence[Sample]) -> None:
        failed = [sample for sample in samples if not sample.is_judged]
        if len(failed) > self.rl.max_infrastructure_share * len(samples):
            raise DataError(
                f"step {self.step + 1}: {len(failed)} of {len(samples)} judgements failed (the last: "
                f"{failed[-1].detail!r}), more than rl.max_infrastructure_share "
                f"{self.rl.max_infrastructure_share:g}; mend the sandbox (megatron-dream judge tells more) "
                "and start the run again: it goes on from its last checkpoint"
            )

    def _groups(self, samples: Sequence[Sample]) -> tuple[list[Group] | None, dict[str, Any]]:
        """The update's groups, and what is to be said of the step's; None where none teaches anything."""
        members: list[list[Sample]] = [[] for _ in range(self.rl.prompts_per_step)]
        for sample in samples:
            members[sample.place].append(sample)
        # Draws of the step itself have an ordinal of their own, behind those of its groups' masks.
        random = np.random.default_rng((self.config.data.seed, self.step))
        found = [self._advantages(group, random) for group in members]
        is_informative = [values is not None for values in found]
        chosen = substitutes(is_informative, random)
        facts = {
            "informative_share": statistics.mean(is_informative),
            "substituted": 0,
        }
        if chosen is None:
            return None, facts
        if not self.rl.substitution:
            chosen = list(range(len(members)))
        facts["substituted"] = sum(number != slot for slot, number in enumerate(chosen))
        numbers = self.order.step(self.step)
        prompts = [self.problems[number].prompt for number in numbers]
        return [self._group(prompts[k], members[k], found[k]) for k in chosen], facts

    def _advantages(
        self, group: Sequence[Sample], random: np.random.Generator
    ) -> np.ndarray[Any, Any] | None:
        rewards = [sample.reward for sample in group if sample.is_judged]
        values = advantages([reward for reward in rewards if reward is not None])
        if self.rl.shuffled_rewards and values is not None:
            random.shuffle(values)
        return values

    def _group(
        self,
        prompt: tuple[int, ...],
        members: Sequence[Sample],
        values: np.ndarray[Any, Any] | None,
    ) -> Group:
        advantage = np.zeros(len(members))
        asked = np.zeros((len(members), self.rl.response_length), dtype=np.bool_)
        judged = [index for index, sample in enumerate(members) if sample.is_judged]
        if values is not None:
            advantage[judged] = values
            for index in judged:
                length = members[index].length
                asked[index] = valid_tokens(members[index].tokens, length, self.rl.pad_loss)
        return Group(
            prompt,
            np.array([sample.tokens for sample in members], dtype=np.int32),
            np.array([sample.opened for sample in members], dtype=np.int32),
            asked,
            advantage,
        )

    def _updates(self, groups: Sequence[Group], clock: _Clock) -> tuple[list[PolicyReport], float]:
        """All policy epochs over one set of groups."""
        ranks, epochs = self.ranks, self.rl.policy_epochs
        batches, old = [], []
        num_rows = 2 * len(groups) * self.rl.group_size
        for epoch in range(epochs):
            ordinal = (self.step * epochs + epoch) * len(groups)
            update = build_update(groups, self.rl, self.noise, ordinal)
            batches.append(
                list(
                    micro_batches(
                        update,
                        micro_batch_size=self.layout.micro_batch_size,
                        dp_rank=ranks.dp_rank,
                        dp_size=ranks.dp_size,
                        mask_id=self.tokenizer.mask_id,
                        pad_id=self.tokenizer.pad_id,
                        device=device.current_device(),
                    )
                )
            )
        with clock("old_log_probabilities"):
            for epoch in range(epochs):  # in the first the policy is still the old one
                old.append(self.runner.log_probabilities(batches[epoch]) if epoch else None)
        reports, grad_norm = [], 0.0
        with clock("update"):
            # Before the update: megatron-core's own order would spend the first one on a rate of 0.
            self.scheduler.step(1)
            for epoch in range(epochs):
                self._zero_gradients()
                reports.append(self.runner.run(batches[epoch], old[epoch], num_rows))
                grad_norm = self._apply()
        return reports, grad_norm

    def _report(
        self,
        facts: dict[str, Any],
        reports: Sequence[PolicyReport],
        grad_norm: float,
        clock: _Clock,
    ) -> None:
        if not self.ranks.reports:
            return
        seconds = clock.total()
        norm = grad_norm if np.isfinite(grad_norm) else None
        self.log.step(
            self.step,
            {
                "loss": reports[0].loss if reports else 0.0,
                "grad_norm": norm if norm is not None else 0.0,
                "gradient_is_finite": norm is not None,
                "lr": float(self.optimizer.param_groups[0]["lr"]),
                "seconds": round(seconds, 4),
                "seconds_by_phase": {name: round(value, 4) for name, value in clock.parts.items()},
                "tokens_per_second": facts["response_tokens"] / seconds,
                "seconds_left": self._seconds_left(),
                "consumed_samples": self.consumed,
                "peak_memory_bytes": device.peak_memory_bytes(),
                **facts,
            },
            line=f"solved {facts['solve_mean']:.3f}  informative {facts['informative_share']:.2f}  "
            f"{facts['response_tokens'] / seconds:,.0f} tok/s",
        )

    def _validate(self) -> None:
        """Share of held-out problems that one response each solves, drawn as rollouts are."""
        asked = self.valid[: self.config.training.eval_samples]
        numbers = list(range(len(asked)))
        seed = step_seed(self.config.data.seed, _VALIDATION)
        samples = self._ask(asked, numbers, seed, _Clock(), num_return_sequences=1)
        judged = [sample.reward or 0.0 for sample in samples if sample.is_judged]
        rate = statistics.mean(judged) if judged else 0.0
        self._metrics["validation"] = {"step": self.step, "solve_mean": rate}
        self.log.event(
            "validation", self.step, solve_mean=rate, problems=len(samples), judged=len(judged)
        )
        self.log.say(f"step {self.step}  validation: {rate:.3f} of {len(judged)} problems solved")


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """A response at the judge."""

    verdict: Future[Verdict]
    finish: Callable[[str, str, float | None], Sample]

    def sample(self) -> Sample:
        """The response with its verdict, when that is there."""
        verdict = self.verdict.result()
        detail = f"{verdict.test} {verdict.detail}".strip()
        return self.finish(str(verdict.outcome), detail, reward_of(verdict.outcome))


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        device.synchronize()
        self.parts[name] = self.parts.get(name, 0.0) + time.monotonic() - started

    def total(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._started


def _facts_of(samples: Sequence[Sample], reports: Sequence[PolicyReport]) -> dict[str, Any]:
    """What is told of a step's samples and updates."""
    judged = [sample for sample in samples if sample.is_judged]
    rewards = [float(sample.reward or 0.0) for sample in judged]
    groups: dict[int, list[Sample]] = {}
    kinds: dict[str, list[float]] = {}
    for sample, reward in zip(judged, rewards, strict=True):
        groups.setdefault(sample.place, []).append(sample)
        kinds.setdefault(sample.kind, []).append(reward)
    solved = [
        statistics.mean(float(one.reward or 0.0) for one in group) for group in groups.values()
    ]
    distinct = [len({one.program for one in group if one.program}) for group in groups.values()]
    outcomes = [sample.outcome for sample in samples]
    return {
        "solve_mean": _mean(rewards),
        "solve_none": _mean([rate == 0.0 for rate in solved]),
        "solve_all": _mean([rate == 1.0 for rate in solved]),
        "solve_partial": _mean([0.0 < rate < 1.0 for rate in solved]),
        "reward_by_kind": {kind: _mean(values) for kind, values in sorted(kinds.items())},
        "outcomes": {name: outcomes.count(name) for name in sorted(set(outcomes))},
        "infrastructure_errors": len(samples) - len(judged),
        "distinct_programs": _mean(distinct),
        "response_length": _mean([sample.length for sample in samples]),
        "response_tokens": sum(sample.length for sample in samples),
        "updates": [dataclasses.asdict(report) for report in reports],
    }


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
