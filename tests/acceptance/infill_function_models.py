"""What ``infill_functions.py`` measures: library functions in two parts, models of one, gaps in the other.

A function is one that stands in no other, a method too, moved to the left margin, without decorators and
docstring: docstrings are English. Its text's hash decides for what it is: training or the measurement.
Every command that trains is the product's; what is made stays until the plan is another.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import resource
import shutil
import statistics
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "examples" / "tiny")]

import data_runs as runs  # noqa: E402
from corpus import source_files, source_lines  # noqa: E402
from run import commit  # noqa: E402

from megatron_dream.data.infilling.splitting import Split, num_lines, split_text  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.tokenizer.base import Tokenizer  # noqa: E402
from megatron_dream.training.status import read_log  # noqa: E402

DREAM = [sys.executable, "-m", "megatron_dream"]
SHORTEST, LONGEST = 60, 300  # characters of a function
HELD_OUT_PERCENT = 8
BANDS = ((1, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 48))  # tokens of a middle
SPAN_SHARE = 0.5  # the product's default
_INSIDE = re.compile(r"\w\w|  ")  # what stands around a cut inside a word or a run of blanks
_TRIES = 200
Function = ast.FunctionDef | ast.AsyncFunctionDef
WIDTH = 256  # data.sequence_length
MOST_TOKENS = 192  # of a function that is learned from, so that 63 EOS have room
RECIPE = """
model: {preset: tiny}
tokenizer: {path: "%(folder)s/tokenizer.model"}
data:
  train: [{prefix: "%(folder)s/%(data)s"}]
  sequence_length: %(width)d
  num_workers: 0
optimizer: {lr: 2.0e-3, lr_warmup_fraction: 0.05}
training: {micro_batch_size: 8, global_batch_size: 8, precision: fp32}
"""
INFILL = ("--sft.task", "infill", "--diffusion.weight", "linear",
          "--training.global_batch_size", "16")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What decides the models."""

    ar_steps: int
    diffusion_steps: int
    steps: int
    vocabulary: int
    expand_probability: float
    max_appended: int
    seed: int

    def folder(self, work: Path) -> Path:
        """Where its models lie: another plan, recipe or library has another folder."""
        about = {**asdict(self), "python": sys.version}
        about["recipe"] = Path(__file__).read_text(encoding="utf-8")
        text = json.dumps(about, sort_keys=True)
        return work.resolve() / hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Model:
    """One training.

    Attributes:
        stage: command, and name of the recipe.
        steps: of the optimizer.
        start: the model whose weights it begins with; empty: none.
        fields: of the configuration, beyond the recipe's.
    """

    stage: str
    steps: int
    start: str
    fields: Sequence[str]


def outermost_functions(node: ast.AST) -> Iterator[Function]:
    """Functions and methods, not what is defined inside one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        elif not isinstance(child, ast.expr):
            yield from outermost_functions(child)


def text_of(node: Function, lines: Sequence[str]) -> str:
    """The function's lines from ``def`` on, at the left margin, without its docstring."""
    start, end = node.lineno - 1, node.end_lineno
    cut = slice(start, start)
    if ast.get_docstring(node) is not None and len(node.body) > 1:
        cut = slice(node.body[0].lineno - 1, node.body[0].end_lineno)
    return dedent("".join([*lines[start : cut.start], *lines[cut.stop : end]]))


def is_function(text: str) -> bool:
    """Whether the text is one function of a size that serves, of two lines at least."""
    if not SHORTEST <= len(text) <= LONGEST or num_lines(text) < 2 or not text.endswith("\n"):
        return False
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return False
    return len(body) == 1 and isinstance(body[0], Function)


def library_functions() -> list[str]:
    """All that serve, each text once, in the order of their hashes."""
    found: set[str] = set()
    for path in source_files(Path(sysconfig.get_paths()["stdlib"])):
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue
        lines = source_lines(source)
        found.update(
            filter(is_function, (text_of(node, lines) for node in outermost_functions(tree)))
        )
    return sorted(found, key=digest)


def digest(text: str) -> bytes:
    """Of a text: decides its order and its part."""
    return hashlib.sha256(text.encode()).digest()


def write_functions(folder: Path) -> dict[str, int]:
    """``train.jsonl`` and ``held_out.jsonl``; how many are in each.

    Raises:
        SystemExit: a function is in both.
    """
    functions = library_functions()
    is_held_out = [int.from_bytes(digest(text)[:4]) % 100 < HELD_OUT_PERCENT for text in functions]
    train = [text for text, out in zip(functions, is_held_out, strict=True) if not out]
    known = "\n".join(train)
    held_out = [
        text
        for text, out in zip(functions, is_held_out, strict=True)
        if out and text not in known  # another may begin with all of it
    ]
    if shared := set(train) & set(held_out):
        raise SystemExit(f"{len(shared)} functions are in both parts, such as {min(shared)!r}")
    for name, texts in (("train", train), ("held_out", held_out)):
        with atomic_write(folder / f"{name}.jsonl") as stream:
            stream.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return {"train": len(train), "held_out": len(held_out), "train_characters": len(known)}


def read_functions(path: Path) -> list[str]:
    """The texts of a file of ``write_functions``."""
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


def is_cut_inside(gap: Split) -> bool:
    """Whether the gap begins or ends inside a word or a run of blanks."""
    ends = gap.prefix[-1:] + gap.middle[:1], gap.middle[-1:] + gap.suffix[:1]
    return any(_INSIDE.fullmatch(around) for around in ends)


def draw_gaps(texts: Sequence[str], tokenizer: Tokenizer, count: int, seed: int) -> list[Split]:
    """Gaps, one a function, their lengths by turns of ``BANDS``.

    Split as the sft stage does, until the length is right and no word and no indentation is cut.

    Raises:
        SystemExit: there are too few functions, or ids of a middle do not give its text.
    """
    gaps: list[Split] = []
    for number, text in enumerate(texts):
        if len(gaps) == count:
            break
        low, high = BANDS[len(gaps) % len(BANDS)]
        random = np.random.default_rng((seed, number))
        for _ in range(_TRIES):
            kind, first, second = random.random(3).tolist()
            gap = split_text(text, (kind, first, second), SPAN_SHARE)
            ids = tokenizer.encode(gap.middle)
            if low <= len(ids) <= high and not is_cut_inside(gap):
                if tokenizer.decode(ids, skip_special_tokens=True) != gap.middle:
                    raise SystemExit(f"{gap.middle!r} comes back from its ids as another text")
                gaps.append(gap)
                break
    if len(gaps) < count:
        raise SystemExit(f"{len(texts)} held-out functions give {len(gaps)} gaps, not {count}")
    return gaps


def models_of(plan: Plan) -> dict[str, Model]:
    """Every training by name, in order; A and B differ in their corruption alone."""
    ar = ["--diffusion.objective", "ar"]

    def infilling(expand_probability: float, max_appended: int) -> Model:
        corruption = ["--sft.expand_probability", str(expand_probability)]
        corruption += ["--sft.max_appended", str(max_appended)]
        return Model("sft", plan.steps, "diffusion", [*INFILL, *corruption])

    return {
        "autoregressive": Model("pretrain", plan.ar_steps, "", ar),
        "diffusion": Model("pretrain", plan.diffusion_steps, "autoregressive", []),
        "A": infilling(plan.expand_probability, plan.max_appended),
        "B": infilling(0, 0),
    }


def prepare(folder: Path, plan: Plan) -> dict[str, int]:
    """Functions, tokenizer and data of both stages, unless they are there; how many functions."""
    stamp = folder / "prepared.json"
    if stamp.exists():
        known: dict[str, int] = json.loads(stamp.read_text())
        return known
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    counts = write_functions(folder)
    texts, tokenizer = f"{folder}/train.jsonl", f"{folder}/tokenizer.model"
    words = ["tokenizer", "train", "--input", texts, "--vocab-size", str(plan.vocabulary)]
    runs.run([*DREAM, *words, "--output", tokenizer])
    common = ["--input", texts, "--tokenizer", tokenizer, "--output-prefix"]
    runs.run([*DREAM, "preprocess", *common, f"{folder}/pretrain", "--append-eod"])
    limit = ["--max-length", str(MOST_TOKENS)]
    runs.run([*DREAM, "prepare-infill", *common, f"{folder}/sft", *limit])
    for stage in ("pretrain", "sft"):
        recipe = RECIPE % {"folder": folder, "data": stage, "width": WIDTH}
        (folder / f"{stage}.yaml").write_text(recipe, encoding="utf-8")
    write_json(stamp, counts)
    return counts


def cpu_seconds_of_children() -> float:
    """Of all commands so far that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def train(folder: Path, name: str, model: Model, seed: int) -> dict[str, Any]:
    """Train one model, unless it is there; what that took."""
    here = folder / name
    stamp = here / "trained.json"
    if stamp.exists():
        known: dict[str, Any] = json.loads(stamp.read_text())
        return known
    print(f"training {name}: {model.steps} steps", flush=True)
    shutil.rmtree(here, ignore_errors=True)
    words = [*DREAM, model.stage, "--config", f"{folder}/{model.stage}.yaml"]
    words += ["--training.train_steps", str(model.steps), "--data.seed", str(seed)]
    words += ["--checkpoint.run_folder", str(here), *model.fields]
    if model.start:
        words += ["--checkpoint.init_from", str(folder / model.start)]
    before = cpu_seconds_of_children()
    seconds, _ = runs.run(words)
    steps = [record for record in read_log(here) if record["event"] == "step"]
    facts = {
        "steps": model.steps,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds_of_children() - before, 1),
        "last_loss": statistics.fmean(record["loss"] for record in steps[-50:]),
        "fields": list(model.fields),
        "commit": commit(),
    }
    write_json(stamp, facts)
    return facts
