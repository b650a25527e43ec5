"""Broken versions: which test catches which.

Each version is a copy of the tree with one line changed to a mistake that is easy to make. The
tests named for it must fail; the first that does is reported. A version that no test notices ends
with exit code 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAYOUTS = "tests/parallel/test_layouts.py"
SFT = "tests/unit/data/sft/test_stream.py"


@dataclass(frozen=True)
class Broken:
    """One mistake: in ``file`` the text ``old`` becomes ``new``; ``tests`` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BROKEN = (
    Broken(
        "plan: one micro-batch too many in flight",
        "megatron_dream/planning/schedule.py",
        "return (min(pp - stage, count),)",
        "return (min(pp - stage + 1, count),)",
        ("tests/parallel/test_memory_model.py", "-k", "PP2"),
    ),
    Broken(
        "plan: optimizer buffers without their padding",
        "megatron_dream/planning/parameters.py",
        "filled = (_padded(filled, 64) if shards else filled) + size",
        "filled = filled + size",
        ("tests/parallel/test_memory_model.py",),
    ),
    Broken(
        "modules to recompute are not heard",
        "megatron_dream/model/build.py",
        "modules = list(training.recompute_modules)",
        'modules = ["core_attn"]',
        ("tests/parallel/test_memory_model.py", "-k", "mlp"),
    ),
    Broken(
        "labels rolled the wrong way",
        "megatron_dream/diffusion/rows.py",
        "np.multiply(values_S[1:], ~is_start_S[1:], out=out[:-1])",
        "np.multiply(values_S[:-1], ~is_start_S[1:], out=out[1:])",
        ("tests/unit/diffusion",),
    ),
    Broken(
        "noise by the index inside a source",
        "megatron_dream/data/stream.py",
        "u = noise.positions(sample, x0.shape[0])",
        "u = noise.positions(int(x0[1:].sum()), x0.shape[0])",
        ("tests/unit/data",),
    ),
    Broken(
        "noise drawn after slicing: labels and flags cut otherwise than tokens",
        "megatron_dream/data/batch.py",
        "part = zigzag_slice(part, cp_rank, cp_size)",
        "part = zigzag_slice(part, cp_rank, cp_size) if name == 'tokens' else "
        "part.chunk(cp_size, dim=1)[cp_rank]",
        (f"{LAYOUTS}::test_gradients_equal_the_single_process", "-k", "CP2"),
    ),
    Broken(
        "no permutation of t",
        "megatron_dream/diffusion/noise.py",
        "u = (_run_permutation(self.key, run)[index] + u) / RUN_LENGTH",
        "u = (index + u) / RUN_LENGTH",
        ("tests/unit/diffusion", "tests/unit/data"),
    ),
    Broken(
        "local instead of global normaliser",
        "megatron_dream/training/step.py",
        "return output.loss_sum, num_tokens, report",
        "return output.loss_sum / num_tokens.clamp(min=1), num_tokens.clamp(max=1), report",
        (f"{LAYOUTS}::test_one_process_does_not_depend_on_cut_or_recomputation",),
    ),
    Broken(
        "counts not reduced over context-parallel ranks",
        "megatron_dream/training/step.py",
        "    return count.to(torch.int32)",
        "    return count.to(torch.int32) * (cp_rank == 0)",
        (f"{LAYOUTS}::test_gradients_equal_the_single_process", "-k", "CP2"),
    ),
    Broken(
        "segment lengths not sent to middle stages",
        "megatron_dream/data/batch.py",
        'self._fill("flags", view, index, row)',
        'self._fill("flags", view, index, (np.arange(row.size) == 0) * row)',
        (f"{LAYOUTS}::test_gradients_equal_the_single_process", "-k", "PP4"),
    ),
    Broken(
        "an end where an answer was cut",
        "megatron_dream/data/sft/truncation.py",
        "end = min(1, wanted - kept)",
        "end = 1",
        (SFT,),
    ),
    Broken(
        "longer answers drawn more often",
        "megatron_dream/data/sft/truncation.py",
        "int(u * group_size)",
        "int(u * u * group_size)",
        (SFT,),
    ),
    Broken(
        "truncation groups of other samples than the stream's",
        "megatron_dream/data/sft/stream.py",
        "n // self.group_size)",
        "n % self.group_size)",
        (SFT,),
    ),
    Broken(
        "the last PAD's draw for the whole run",
        "megatron_dream/diffusion/rows.py",
        "= u_S[self.start]\n",
        "= u_S[self.stop - 1]\n",
        (SFT,),
    ),
    Broken(
        "EOS as one by the run's length",
        "megatron_dream/diffusion/rows.py",
        "int(np.count_nonzero(is_asked_S[self.start : self.stop]))",
        "self.stop - self.start",
        (SFT,),
    ),
    Broken(
        "prompts noised",
        "megatron_dream/data/sft/stream.py",
        ">= fit.prompt",
        "> 0",
        (SFT,),
    ),
    Broken(
        "CART counts PAD that nobody sees",
        "megatron_dream/diffusion/rows.py",
        "is_real if is_attended_S is None else is_real & is_attended_S",
        "is_real",
        (SFT,),
    ),
    Broken(
        "all epochs in one order",
        "megatron_dream/data/order.py",
        "epoch=epoch + 1",
        "epoch=1",
        (SFT,),
    ),
    Broken(
        "unseen PAD does not see itself",
        "megatron_dream/model/masks.py",
        " | (queries[:, None] == keys[None, :])",
        "",
        ("tests/unit/model/test_masks.py",),
    ),
    Broken(
        "dead padding in the last segment",
        "megatron_dream/data/batch.py",
        "view[index, length] |= SEGMENT_START",
        "pass",
        ("tests/unit/data/test_batch.py",),
    ),
    Broken(
        "eval: a torn batch written whole again",
        "megatron_dream/evaluation/harness/run.py",
        "        if item.key not in done\n",
        "",
        ("tests/unit/evaluation/harness/test_run.py",),
    ),
    Broken(
        "eval: all samples of a task from one seed",
        "megatron_dream/evaluation/harness/run.py",
        "{task_id}/{sample}",
        "{task_id}",
        ("tests/unit/evaluation/harness/test_run.py",),
    ),
    Broken(
        "eval: pass@k by the biased estimator",
        "megatron_dream/evaluation/harness/scores.py",
        "math.prod((wrong - i) / (num_samples - i) for i in range(k))",
        "(wrong / num_samples) ** k",
        ("tests/unit/evaluation/harness/test_scores.py",),
    ),
    Broken(
        "eval: CRUXEval's answer may call the function that it is to predict",
        "megatron_dream/evaluation/benchmarks/cruxeval.py",
        "else call in expression",
        "else False",
        ("tests/unit/evaluation/benchmarks/test_formats.py",),
    ),
    Broken(
        "eval: CRUXEval's empty answer is an empty tuple",
        "megatron_dream/evaluation/benchmarks/cruxeval.py",
        'f"0 == {text}"',
        'f"(\\n{text}\\n)"',
        ("tests/unit/evaluation/benchmarks/test_formats.py",),
    ),
    Broken(
        "eval: LiveCodeBench's programs without its imports",
        "megatron_dream/evaluation/benchmarks/livecodebench.py",
        'f"{PRELUDE}\\n{block}"',
        "block",
        ("tests/unit/evaluation/benchmarks/test_formats.py",),
    ),
    Broken(
        "eval: lost judgements end well",
        "megatron_dream/evaluation/harness/command.py",
        "return int(lost > 0)",
        "return 0",
        ("tests/unit/evaluation/harness/test_run.py",),
    ),
    Broken(
        "widths of the first micro-batch for all",
        "megatron_dream/data/loader.py",
        "for n in self.ordinals(number)))",
        "for n in self.samples(0)))",
        ("tests/unit/data/test_loader.py",),
    ),
)


def first_failure(broken: Broken) -> str | None:
    """The first test that fails on a copy with the mistake, or None."""
    with tempfile.TemporaryDirectory(prefix="broken-") as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv", "work", "__pycache__", "*.egg-info")
        shutil.copytree(ROOT, tree, ignore=ignored)
        if (ROOT.parent / "shared").exists():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        path = tree / broken.file
        text = path.read_text(encoding="utf-8")
        if text.count(broken.old) != 1:
            raise SystemExit(f"{broken.file}: the line to break is not there once: {broken.old}")
        path.write_text(text.replace(broken.old, broken.new), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-m",
            "not acceptance",
            *broken.tests,
        ]
        result = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=600
        )
        found = re.search(r"^(?:FAILED|ERROR) (\S+.*?)(?: - .*)?$", result.stdout, re.MULTILINE)
        if result.returncode == 1 and found:
            return found[1]
        if result.returncode != 0:
            raise SystemExit(f"{broken.name}: the tests did not run:\n{result.stdout[-2000:]}")
        return None


def main() -> int:
    """Report each version; 0 if all were noticed."""
    missed = 0
    for broken in BROKEN:
        caught = first_failure(broken)
        missed += caught is None
        print(f"{broken.name}: {caught or 'NOT NOTICED'}", flush=True)
    print(f"{len(BROKEN) - missed} passed, {missed} failed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
