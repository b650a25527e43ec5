"""The loop of the ``rl`` stage: ask, judge, compare within groups, update (SPEC 8).

A step asks ``rl.prompts_per_step`` problems, makes ``rl.group_size`` responses to each on the training model,
judges those that are finished while others are decoded, and then makes ``rl.policy_epochs`` updates, each
over all responses under both masks. Samples go to disk before the first update: a run interrupted there
goes on with them, if its weights are still those that they were made with.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import device, parallel
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..data.loader import merge_ranges, ordinal_of
from ..diffusion.noise import NoiseStream
from ..errors import DataError
from ..parallel import Ranks
from ..tokenizer.base import Tokenizer
from ..training.engine import Engine
from ..training.faults.decision import Action, Verdict
from ..training.loop import Loop
from .advantage import advantages, substitutes
from .asking import Asked, Asking
from .batch import Group, MicroBatch, build_update, micro_batches, valid_tokens
from .clock import Clock
from .fingerprint import weights_fingerprint
from .order import ProblemOrder
from .policy import PolicyReport, PolicyRunner
from .rollout import step_seed
from .samples import Sample, file_of, read_samples, write_samples

SAMPLES = "samples"  # folder of the run
_VALIDATION = 1 << 62  # step whose seed validations draw from


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

    loss_may_spike = False  # advantages of a group add up to 0, and so nearly does the loss

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
        self.samples_a_step = config.rl.prompts_per_step
        self.rl, self.tokenizer = config.rl, tokenizer
        self.problems, self.valid = problems, valid
        self.order = ProblemOrder(config.data.seed, len(problems))
        self.noise = NoiseStream(config.data.seed, "rl")
        self.runner = PolicyRunner(self.model, self.rl, ranks)
        self._count()
        self.folder = None if self.writer is None else Path(config.checkpoint.run_folder) / SAMPLES
        self._is_lossy = False  # whether the last step's samples could not be written
        self.asking = Asking(self.model[0], self.metadata, self.rl, ranks, tokenizer)
        for notice in self.asking.notices:
            self.log.say(notice)

    def _count(self) -> None:
        """Steps so far in which no group was informative."""
        self.skipped = int(self._metrics.get("training", {}).get("skipped_steps", 0))

    def _reopen(self) -> None:
        self._count()

    def close(self) -> None:
        """End the judge and close the log's sinks."""
        self.asking.close()
        super().close()

    def _one_step(self) -> None:
        clock = Clock(self.watch.enter)
        samples = self._samples(clock)
        # Rollouts are most of a step, and are kept: a run that stops here goes on with them.
        self._stop = self.watch.agree(self._upcoming())
        if self._stop is not None:
            return
        groups, facts = self._groups(samples)
        reports: list[PolicyReport] = []
        norms: list[float] = []
        if groups is None:
            self.skipped += 1
            self._verdict = Verdict(Action.SKIP, "empty_batch")
            self.log.fault(
                self.step + 1, "empty_batch", "no group is informative: no update", is_said=False
            )
        else:
            reports, norms = self._updates(groups, clock)
        self.step += 1
        self.consumed += self.rl.prompts_per_step
        self._tokens += sum(sample.length for sample in samples)
        self._settle()
        facts.update(_facts_of(samples, reports), skipped_steps=self.skipped)
        self._metrics["training"] = {
            "step": self.step,
            "solve_mean": facts["solve_mean"],
            "skipped_steps": self.skipped,
        }
        self._report(facts, reports, norms, clock)

    def _samples(self, clock: Clock) -> list[Sample]:
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
        asked = [self.problems[number] for number in self._numbers()]
        ordinals = self._ordinals()
        seed = step_seed(self.config.data.seed, self.step)
        samples = self.asking.ask(asked, ordinals, seed, clock)
        self._check_infrastructure(samples)  # before they are kept: another start judges anew
        self._write(head, samples)
        return samples

    def _write(self, head: dict[str, Any], samples: Sequence[Sample]) -> None:
        """Keep the samples; where that fails a run that is interrupted now makes them anew."""
        fault: Any = None
        if self.ranks.rank == 0 and self.folder is not None:
            try:
                write_samples(file_of(self.folder, self.step), head, samples)
            except OSError as error:
                fault = f"{self.folder}: samples cannot be written ({error}): the run goes on"
        fault = parallel.broadcast_object(fault)
        if fault:  # said once, recorded every time
            self.log.fault(self.step + 1, "samples_lost", str(fault), is_said=not self._is_lossy)
        self._is_lossy = bool(fault)

    def _ordinals(self) -> list[int]:
        """Of this step's problems: those that are left out are not counted as consumed."""
        skip = merge_ranges([(first, end) for first, end in self.metadata.skipped_ranges])
        samples = range(self.consumed, self.consumed + self.rl.prompts_per_step)
        return [ordinal_of(sample, skip) for sample in samples]

    def _numbers(self) -> list[int]:
        """Problems of this step."""
        return [self.order.asked(ordinal, 1)[0] for ordinal in self._ordinals()]

    def _settings(self) -> dict[str, Any]:
        """What decides the samples besides weights and step."""
        decisive = (
            "prompts_per_step group_size response_length temperature top_p alg steps block_length cache "
            "threshold entropy_bound exactly_one_block isolation judge_cpu_seconds judge_wall_seconds "
            "judge_memory_mb"
        ).split()
        values = {name: getattr(self.rl, name) for name in decisive}
        place: dict[str, Any] = {"seed": self.config.data.seed, "data": self.metadata.index_hash}
        if self.metadata.skipped_ranges:  # the same step then asks other problems
            place["skipped"] = self.metadata.skipped_ranges
        return {**values, **place, "consumed": self.consumed}

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
        prompts = [self.problems[number].prompt for number in self._numbers()]
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

    def _updates(
        self, groups: Sequence[Group], clock: Clock
    ) -> tuple[list[PolicyReport], list[float]]:
        """All policy epochs over one set of groups: their reports and gradient norms."""
        epochs = range(self.rl.policy_epochs)
        num_rows = 2 * len(groups) * self.rl.group_size
        batches = [self._batches(groups, epoch) for epoch in epochs]
        with clock("old_log_probabilities"):  # in the first the policy is still the old one
            old = [self.runner.log_probabilities(batches[n]) if n else None for n in epochs]
        reports, norms = [], []
        with clock("update"):
            for epoch in epochs:
                self._begin_update()
                self.watch.begin_compute()
                reports.append(self.runner.run(batches[epoch], old[epoch], num_rows))
                norms.append(self._apply(reports[-1].loss))
                if self._verdict.action is Action.GO_BACK:
                    break
        return reports, norms

    def _batches(self, groups: Sequence[Group], epoch: int) -> list[MicroBatch]:
        """This rank's micro-batches of one update."""
        # Ordinals of masks: each problem that was asked has one for each epoch.
        ordinal = self._ordinals()[0] * self.rl.policy_epochs + epoch * len(groups)
        update = build_update(groups, self.rl, self.noise, ordinal)
        return list(
            micro_batches(
                update,
                micro_batch_size=self.layout.micro_batch_size,
                dp_rank=self.ranks.dp_rank,
                dp_size=self.ranks.dp_size,
                mask_id=self.tokenizer.mask_id,
                pad_id=self.tokenizer.pad_id,
                device=device.current_device(),
            )
        )

    def _report(
        self,
        facts: dict[str, Any],
        reports: Sequence[PolicyReport],
        norms: Sequence[float],
        clock: Clock,
    ) -> None:
        if not self.ranks.reports:
            return
        seconds = clock.total()
        is_finite = all(map(math.isfinite, norms))
        self.log.step(
            self.step,
            {
                "loss": reports[-1].loss if reports else 0.0,
                "grad_norm": norms[-1] if norms and is_finite else 0.0,
                "gradient_is_finite": is_finite,
                "lr": float(self.optimizer.param_groups[0]["lr"]),
                "update": self._verdict.action.value,
                "skipped_updates": self.guard.state.skipped_total,
                "seconds": round(seconds, 4),
                "seconds_by_phase": {name: round(value, 4) for name, value in clock.parts.items()},
                "tokens_per_second": facts["response_tokens"] / seconds,
                "seconds_left": self._seconds_left(),
                "consumed_samples": self.consumed,
                "peak_memory_bytes": device.peak_memory_bytes(),
                **self.watch.facts,
                **facts,
            },
            line=f"solved {facts['solve_mean']:.3f}  informative {facts['informative_share']:.2f}  "
            f"{facts['response_tokens'] / seconds:,.0f} tok/s",
        )

    def _validate(self) -> None:
        """Share of held-out problems that one response each solves, drawn as rollouts are."""
        asked = self.valid[: self.config.training.eval_samples]
        seed = step_seed(self.config.data.seed, _VALIDATION)
        ordinals = range(len(asked))
        samples = self.asking.ask(asked, ordinals, seed, Clock(), num_return_sequences=1)
        judged = [sample.reward or 0.0 for sample in samples if sample.is_judged]
        rate = _mean(judged)
        self._metrics["validation"] = {"step": self.step, "solve_mean": rate}
        self.log.validation(
            self.step,
            {
                "solve_mean": rate,
                "problems": len(samples),
                "judged": len(judged),
                "seconds": self.watch.elapsed(),
            },
            line=f"{rate:.3f} of {len(judged)} problems solved",
        )


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
        **(dataclasses.asdict(reports[-1]) if reports else {}),
        "updates": [dataclasses.asdict(report) for report in reports],
    }


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0
