"""What the tiny sweeps need: data, and the models that sampling is measured on.

    python examples/tiny/sweeps/make.py               everything that is not there yet
    python examples/tiny/sweeps/make.py --only data   the data alone

Data in work/sweeps/data (rl_problems.py, renderings.py): tokenizer.model; problems.jsonl, held out; token
files of ``text`` for pretraining (right programs), and for sft of ``right`` (right demonstrations), ``mixed``
(with bad habits, as the RL demonstration's) and ``renderings``, each with its held-out ``_valid``; the
held-out questions in each rendering as asked/NAME.jsonl. Models in work/sweeps/runs (models/*.yaml);
``ar`` as a Hugging Face folder in work/sweeps/models. Each step is done once. Described in docs/sweeps.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(HERE.parent), str(HERE)]

import renderings  # noqa: E402
import rl_problems  # noqa: E402
from rl_demo import TWO, command  # noqa: E402

from megatron_dream.config.load import load_config  # noqa: E402
from megatron_dream.config.schema import RunConfig  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.training.throughput import flops_per_token  # noqa: E402

WORK = Path("work/sweeps")
VOCAB_SIZE = 560  # of the tokenizer: every word of a prompt is one piece
VALID_SHARE = "0.03"
PARTS = ("data", "start", "base", "ar", "renderings")
RECIPES = "examples/tiny/sweeps/models"


@dataclass(frozen=True)
class Maker:
    """Makes what is not there.

    Attributes:
        work: folder of data and models, relative to the project's root.
        heldout: problems that no model is trained on.
        per_template: training problems of a template.
        steps: of every training; None: the recipes'.
    """

    work: Path
    heldout: int
    per_template: int
    steps: int | None = None

    @property
    def data(self) -> Path:
        """Folder of the data."""
        return self.work / "data"

    def once(self, done: Path, make: Callable[[], None]) -> None:
        """Do what leaves the file ``done`` behind, unless it is there."""
        if not done.exists():
            make()

    def make_data(self) -> None:
        """Problems, demonstrations, tokenizer and token files."""
        self.once(self.data / "counts.json", self._write_texts)
        model = self.data / "tokenizer.model"
        words = ("--vocab-size", str(VOCAB_SIZE), "--output", str(model))
        texts = str(self.data / "tokenizer_text.jsonl")
        self.once(model, lambda: command("tokenizer", "train", "--input", texts, *words))
        for name in ("text", "text_valid"):
            self.once(self.data / f"{name}.json", lambda name=name: self._index(name))
        for name in ("right", "mixed", "renderings"):
            self.once(self.data / f"{name}.json", lambda name=name: self._prepare(name))

    def _write_texts(self) -> None:
        train, heldout = rl_problems.split(0, self.heldout, self.per_template)
        asked = [
            rl_problems.problem_fields(q, n, name, 0)
            for name, part in (("train", train), ("heldout", heldout))
            for n, q in enumerate(part)
        ]
        trained, kept = asked[: len(train)], asked[len(train) :]
        forms = renderings.render(train)
        everything = [form for name in renderings.NAMES for form in forms[name]]
        right = [_shown(one["prompt"], one["canonical_solution"]) for one in trained]
        files: dict[str, list[dict[str, Any]]] = {
            "train": list(map(rl_problems.rl_line, trained)),
            "problems": list(map(rl_problems.rl_line, kept)),
            "right": right,
            "mixed": rl_problems.demonstrations(trained),
            "renderings": [{"prompt": f.prompt, "response": f.response} for f in everything],
            "text": list(map(_text, right)),
            "text_valid": [_text(_shown(p["prompt"], p["canonical_solution"])) for p in kept],
        }
        files["tokenizer_text"] = [
            *files["text"],
            *(_text(_shown(p["prompt"], p["wrong_solution"])) for p in trained),
            *({"text": f"{f.prompt}\n{f.response}"} for f in everything if f.name != "function"),
        ]
        for name, forms_of in renderings.render(heldout).items():
            files[f"asked/{name}"] = [form.line(n) for n, form in enumerate(forms_of)]
        for name, entries in files.items():
            write_lines(self.data / f"{name}.jsonl", entries)
        write_json(self.data / "counts.json", {name: len(found) for name, found in files.items()})

    def _index(self, name: str) -> None:
        command(
            "preprocess", "--input", f"{self.data}/{name}.jsonl", "--output-prefix",
            f"{self.data}/{name}", "--tokenizer", f"{self.data}/tokenizer.model", "--append-eod",
        )  # fmt: skip

    def _prepare(self, name: str) -> None:
        command(
            "prepare-sft", "--input", f"{self.data}/{name}.jsonl", "--output-prefix",
            f"{self.data}/{name}", "--tokenizer", f"{self.data}/tokenizer.model", "--template", "none",
            "--skip-rule", "exact_duplicate", "python_syntax", "--valid-share", VALID_SHARE,
        )  # fmt: skip

    def make_model(self, name: str) -> None:
        """Train ``name`` by its recipe; ``ar`` is exported too."""
        self.once(self.work / "runs" / f"{name}.done", lambda: self._train(name))
        folder = self.work / "models" / name
        if name == "ar":
            words = (str(self.work / "runs" / name), str(folder))
            self.once(folder / "config.json", lambda: command("export-hf", *words))

    def _train(self, name: str) -> None:
        options = self.options_of(name)
        stage = "pretrain" if name == "start" else "sft"
        command(stage, "--config", f"{RECIPES}/{name}.yaml", *options, launcher=TWO)
        with atomic_write(self.work / "runs" / f"{name}.done") as stream:
            stream.write(f"{' '.join(options)}\n")

    def options_of(self, name: str) -> list[str]:
        """What replaces the recipe's values: steps, and paths where ``work`` is another folder."""
        steps = self.steps or (equal_steps() if name == "ar" else None)
        options = [] if steps is None else ["--training.train_steps", str(steps)]
        if self.work == WORK:
            return options
        config = load_config(ROOT / RECIPES / f"{name}.yaml")
        for part in ("train", "valid"):
            prefix = self.data / Path(getattr(config.data, part)[0].prefix).name
            options += [f"--data.{part}", f"[{{prefix: {prefix}}}]"]
        options += ["--tokenizer.path", f"{self.data}/tokenizer.model"]
        options += ["--checkpoint.run_folder", f"{self.work}/runs/{name}"]
        if name != "start":
            options += ["--checkpoint.init_from", f"{self.work}/runs/start"]
        return options


def flops_of_step(config: RunConfig) -> float:
    """Training FLOPs of a step whose rows are all as wide as ``data.sequence_length``."""
    length = config.data.sequence_length
    each = flops_per_token(config.model, config.diffusion, length)
    return each * length * config.training.global_batch_size


def equal_steps() -> int:
    """Steps of ``ar`` that cost the training FLOPs of ``base``; both go on from the same start."""
    base, ar = (recipe(name) for name in ("base", "ar"))
    return round(base.training.train_steps * flops_of_step(base) / flops_of_step(ar))


def recipe(name: str) -> RunConfig:
    """A model's recipe with the tokenizer's rows in its shape."""
    config = load_config(ROOT / RECIPES / f"{name}.yaml")
    config.model.vocab_size = config.model.vocab_size or VOCAB_SIZE
    return config


def write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in entries)


def _shown(prompt: str, program: str) -> dict[str, Any]:
    return {"prompt": prompt, "response": rl_problems.fenced(program)}


def _text(shown: dict[str, Any]) -> dict[str, Any]:
    # the line feed keeps pieces from growing over the end of the prompt
    return {"text": f"{shown['prompt']}\n{shown['response']}"}


def main() -> int:
    """Everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of data and models")
    parser.add_argument("--heldout", type=int, default=500, help="problems held out")
    parser.add_argument("--per-template", type=int, default=120, help="training problems")
    parser.add_argument("--steps", type=int, help="of every training, in place of the recipes'")
    options = parser.parse_args()
    os.chdir(ROOT)
    maker = Maker(options.work, options.heldout, options.per_template, options.steps)
    maker.make_data()
    wanted = [part for part in PARTS[1:] if part in options.only]
    if wanted and "start" not in wanted:
        wanted.insert(0, "start")  # from which all begin
    for part in wanted:
        maker.make_model(part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
