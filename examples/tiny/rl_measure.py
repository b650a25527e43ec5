"""How a model fares on the RL demonstration's problems, judged by execution (rl_problems.py).

Each problem is answered several times at temperature 1 in random order (the rollouts' way) and once greedily
in entropy's order. A response's first closed fenced block is run against the problem's tests.

    python examples/tiny/rl_measure.py work/rl_demo/runs/start --problems work/rl_demo/heldout.jsonl \
        --output work/rl_demo/start.json
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_dream.device import current_device  # noqa: E402
from megatron_dream.errors import UserError  # noqa: E402
from megatron_dream.evaluation.generate import sampling_config  # noqa: E402
from megatron_dream.evaluation.length_figures import pass_at_k  # noqa: E402
from megatron_dream.evaluation.progress import sample_progress  # noqa: E402
from megatron_dream.evaluation.sampler import Sampler, load_model  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.sampling import SamplingConfig, diffusion_generate, responses  # noqa: E402
from megatron_dream.sampling.canvas import pad_left  # noqa: E402
from megatron_dream.sandbox import Judge, Limits, Outcome, problem_of  # noqa: E402
from megatron_dream.sandbox.formats import program_of  # noqa: E402
from megatron_dream.sandbox.problem import read_lines  # noqa: E402

CANVAS = 30  # tokens; the longest answer has 28
ROWS = 256  # of a batch
LIMITS = Limits(cpu=1, wall=10.0)
Problem = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One response: its text, its program in one spelling or None, whether it passed.

    ``passed`` is None where the judge could not say.
    """

    text: str
    program: str | None
    passed: bool | None


def sampled_texts(
    sampler: Sampler, prompts: Sequence[str], config: SamplingConfig, rows: int = ROWS
) -> Iterator[list[str]]:
    """The responses to each prompt, in order; they do not depend on ``rows``, the size of a batch."""
    tokenizer = sampler.tokenizer
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    copies = config.num_return_sequences
    size = max(1, rows // copies)
    for first in range(0, len(ids), size):
        part = ids[first : first + size]
        ids_RP, real_RP = pad_left(part, tokenizer.pad_id, current_device())
        output = diffusion_generate(
            sampler.model,
            ids_RP,
            real_RP,
            config=config,
            row_ids=range(first, first + len(part)),
            max_position=sampler.max_position,
        )
        made = responses(output.sequences, output.prompt_length, [tokenizer.eos_id])
        texts = [tokenizer.decode(row, skip_special_tokens=True) for row in made]
        for place in range(len(part)):
            yield texts[place * copies : (place + 1) * copies]


def judged(judge: Judge, problem: Problem, texts: Sequence[str]) -> list[Answer]:
    """The answers of one problem; each distinct program runs once."""
    task = problem_of(problem["problem"], problem["id"])
    programs = [program_of(text) for text in texts]
    wanted = list(dict.fromkeys(program for program in programs if program is not None))
    passed: dict[str | None, bool | None] = {None: False}
    for program, verdict in zip(
        wanted, judge.verdicts((program, task) for program in wanted), strict=True
    ):
        lost = verdict.outcome is Outcome.INFRASTRUCTURE
        passed[program] = None if lost else verdict.passed
    return [
        Answer(text, _spelled(program), passed[program])
        for text, program in zip(texts, programs, strict=True)
    ]


def _spelled(program: str | None) -> str | None:
    try:
        return None if program is None else ast.unparse(ast.parse(program))
    except (SyntaxError, ValueError):
        return program


def measure(
    sampler: Sampler,
    problems: Sequence[Problem],
    judge: Judge,
    *,
    samples: int = 8,
    canvas: int = CANVAS,
    temperature: float = 1.0,
    seed: int = 0,
    quiet: bool = True,
    keep: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Figures of a model on problems, of all and by habit, topic and template.

    Args:
        sampler: the model.
        problems: lines of rl_problems.py.
        judge: runs the programs.
        samples: of each problem at ``temperature``, in random order, as many steps as ``canvas``.
        canvas: tokens of a response.
        temperature: of these samples; the greedy answer comes in entropy's order.
        seed: a sample depends on it, on its problem's place and on its own number.
        quiet: no progress.
        keep: gets each problem's answers, for a file.

    Returns:
        ``groups``: name to figures: problems, sampled and greedy pass rate, ``pass_at_k`` (unbiased, k =
        samples), share of informative groups (not all rewards equal), distinct programs of a group; and
        how many answers the judge could not judge.
    """
    common = {"max_new_tokens": canvas, "steps": canvas, "seed": seed}
    drawn = sampling_config(
        sampler, **common, alg="origin", temperature=temperature, num_return_sequences=samples
    )
    greedy = sampling_config(sampler, **common, alg="entropy", temperature=0.0)
    prompts = [problem["prompt"] for problem in problems]
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    lost = 0
    with sample_progress("answers", len(prompts) * (samples + 1), quiet=quiet) as count:
        made = zip(
            problems,
            sampled_texts(sampler, prompts, drawn),
            sampled_texts(sampler, prompts, greedy),
            strict=True,
        )
        for problem, many, one in made:
            answers = judged(judge, problem, [*one, *many])
            lost += sum(answer.passed is None for answer in answers)
            if keep is not None:
                keep.append({"id": problem["id"], "answers": list(map(vars, answers))})
            figures = _figures(answers[1:], answers[0])
            for name in _names(problem) if figures is not None else ():
                groups[name].append(figures)
            count(samples + 1)
    return {
        "samples": samples,
        "canvas": canvas,
        "temperature": temperature,
        "seed": seed,
        "infrastructure": lost,
        "groups": {name: _mean(rows) for name, rows in groups.items()},
    }


def _names(problem: Problem) -> Iterable[str]:
    return "all", problem["habit"], problem["topic"], f"template {problem['template']}"


def _figures(drawn: Sequence[Answer], greedy: Answer) -> dict[str, float] | None:
    """Of one problem; None where the judge could not say enough."""
    marks = [answer.passed for answer in drawn if answer.passed is not None]
    if not marks or greedy.passed is None:
        return None
    right = sum(marks)
    return {
        "sampled": right / len(marks),
        "greedy": float(greedy.passed),
        "pass_at_k": pass_at_k(len(marks), right, len(marks)),
        "informative": float(0 < right < len(marks)),
        "distinct": float(len({answer.program for answer in drawn})),
        "no_program": sum(answer.program is None for answer in drawn) / len(drawn),
    }


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return {"problems": len(rows), **means}


def table(figures: dict[str, Any]) -> str:
    """The figures as lines of text."""
    lines = [
        f"{'':22} problems  sampled   greedy  pass@{figures['samples']}  informative  distinct  no program"
    ]
    for name, row in figures["groups"].items():
        lines.append(
            f"{name:22} {row['problems']:8d}  {row['sampled']:7.1%}  {row['greedy']:7.1%} "
            f"{row['pass_at_k']:7.1%}  {row['informative']:11.1%}  {row['distinct']:8.2f} "
            f"{row['no_program']:11.1%}"
        )
    lines.append(f"not judged (infrastructure): {figures['infrastructure']}")
    return "\n".join(lines)


def main() -> int:
    """Measure a checkpoint or exported folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--problems", required=True, type=Path)
    parser.add_argument("--output", type=Path, help="figures as JSON")
    parser.add_argument("--answers", type=Path, help="every answer as JSON lines")
    parser.add_argument("--count", type=int, help="only the first so many problems")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--canvas", type=int, default=CANVAS)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--brief", action="store_true", help="print the first line of the table only"
    )
    options = parser.parse_args()
    try:
        problems = [fields for _, fields in read_lines(options.problems)][: options.count]
        sampler = load_model(options.model)
        answers: list[dict[str, Any]] = []
        with Judge(limits=LIMITS) as judge:
            figures = measure(
                sampler,
                problems,
                judge,
                samples=options.samples,
                canvas=options.canvas,
                temperature=options.temperature,
                seed=options.seed,
                quiet=False,
                keep=answers,
            )
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(figures).splitlines()[: 2 if options.brief else None]))
    if options.output is not None:
        write_json(options.output, figures)
    if options.answers is not None:
        with atomic_write(options.answers) as stream:
            stream.writelines(json.dumps(entry) + "\n" for entry in answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
