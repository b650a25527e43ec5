"""Byte identity: ``.bin`` and ``.idx`` are those of megatron-core's builder, whatever way they are made.

    python tests/acceptance/data_bytes.py [--limit-mb 5] [--only TEXT]

For two tokenizers (Qwen2, and SentencePiece trained here) and the corpora standard library, all
packages of this environment, HumanEval, and hostile texts, the reference is made once: each text
through the Hugging Face library, document by document into the builder. Then the command makes the
same by one worker, several, MPI ranks, tasks of an array, killed and resumed, cut into several files;
each comparison prints a line. ``as_ids`` goes over the corpora that spell special tokens out.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_corpora as corpora  # noqa: E402
import data_hostile as hostile  # noqa: E402
import data_runs as runs  # noqa: E402
from data_corpora import Corpus  # noqa: E402
from data_reference import (  # noqa: E402
    Libraries,
    Reference,
    build_reference,
    first_difference,
    libraries,
    merged_by_megatron,
)

from megatron_dream.tokenizer.train import train_sentencepiece  # noqa: E402

_VOCABULARY = 8000
_TRAINING_BYTES = 4e6
_SOURCE_SHARD_MB = 2.0


@dataclass(frozen=True)
class Case:
    """One corpus under one tokenizer and one reading of special tokens.

    Attributes:
        corpus: what is read.
        made: the tokenizer.
        as_ids: whether literals become special tokens.
        job: the command's words.
        reference: what it must write.
        draw: of the moments of kills.
    """

    corpus: Corpus
    made: Libraries
    as_ids: bool
    job: runs.Job
    reference: Reference
    draw: random.Random

    @property
    def name(self) -> str:
        """For the printed lines."""
        mode = "as_ids" if self.as_ids else "as_text"
        return f"{self.made.name:<13} {self.corpus.name:<13} {mode:<7}"


def one_worker(case: Case, prefix: Path) -> None:
    """Plain."""
    runs.run(case.job.command(prefix))


def three_workers(case: Case, prefix: Path) -> None:
    """More than there may be cores."""
    runs.run(case.job.command(prefix, 3))


def two_ranks(case: Case, prefix: Path) -> None:
    """``mpirun -n 2``."""
    runs.run(case.job.mpi_command(prefix, 2))


def four_ranks(case: Case, prefix: Path) -> None:
    """``mpirun -n 4``."""
    runs.run(case.job.mpi_command(prefix, 4))


def array_of_tasks(case: Case, prefix: Path) -> None:
    """Three tasks in no order, then the call that merges."""
    for task in (2, 0, 1):
        runs.run(case.job.command(prefix, 1, "--part", f"{task}/3"))
    runs.run(case.job.command(prefix))


def killed_and_resumed(case: Case, prefix: Path) -> None:
    """Killed among workers, killed again among ranks, completed by other workers."""
    for words in (case.job.command(prefix, 2), case.job.mpi_command(prefix, 2)):
        wanted = runs.num_parts(prefix) + case.draw.randint(1, 4)
        with runs.started(words) as (process, _):
            while process.poll() is None and runs.num_parts(prefix) < wanted:
                time.sleep(0.002)
    runs.run(case.job.command(prefix, 3))


Way = Callable[[Case, Path], None]
WAYS: tuple[tuple[str, Way], ...] = (
    ("one worker", one_worker),
    ("three workers", three_workers),
    ("mpirun -n 2", two_ranks),
    ("mpirun -n 4", four_ranks),
    ("array of 3 tasks", array_of_tasks),
    ("killed and resumed", killed_and_resumed),
)


def check_case(case: Case, folder: Path) -> Iterator[bool]:
    """Every way; whether it wrote the reference's bytes."""
    for name, way in WAYS:
        prefix = _fresh(folder)
        way(case, prefix)
        yield _compare(case, name, [prefix], prefix)
    prefix = _fresh(folder)
    limit = max(4096, Path(f"{case.reference.prefix}.bin").stat().st_size // 5)
    runs.run(case.job.command(prefix, 2, "--max-file-gb", f"{limit / 1e9:.12f}"))
    parts = runs.output_prefixes(prefix)
    yield _compare(case, f"{len(parts)} files, joined", parts, prefix, is_cut=True)
    merged = folder / "merged"
    merged_by_megatron(parts, case.reference.dtype, merged)
    yield _compare(case, f"{len(parts)} files, merged", [merged], prefix)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    return folder / "out" / f"o{runs.TOOL_SUFFIX}"


def _compare(
    case: Case, way: str, prefixes: Sequence[Path], prefix: Path, *, is_cut: bool = False
) -> bool:
    """Compare bytes and rejects; print the line.

    Args:
        case: with the reference.
        way: its name.
        prefixes: of the files that are compared.
        prefix: of the list of rejects.
        is_cut: whether the files have to be several, whose indices are not the reference's.
    """
    reference = case.reference
    wrong = [] if not is_cut or len(prefixes) > 1 else ["one file only"]
    for ending in (".bin",) if is_cut else (".bin", ".idx"):
        found = [f"{one}{ending}" for one in prefixes]
        if not found or not runs.same_when_joined(f"{reference.prefix}{ending}", found):
            wrong.append(ending)
    if sorted(runs.rejects(prefix)) != sorted(reference.rejects):
        wrong.append("rejects")
    size = Path(f"{reference.prefix}.bin").stat().st_size
    print(
        f"{case.name} {way:<19} {size:>13,} bytes {reference.documents:>8,} documents "
        f"{reference.tokens:>12,} tokens {len(reference.rejects):>5,} rejects  "
        + (f"DIFFERENT: {', '.join(wrong)}" if wrong else "ok"),
        flush=True,
    )
    if ".bin" in wrong and len(prefixes) == 1:
        print(f"    {first_difference(reference.prefix, prefixes[0], reference.dtype)}", flush=True)
    if "rejects" in wrong:
        apart = set(runs.rejects(prefix)).symmetric_difference(reference.rejects)
        print(f"    rejects on one side only: {sorted(apart)[:5]}")
    return not wrong


def all_corpora(
    folder: Path, limit_mb: float | None, seed: int
) -> Iterator[tuple[Corpus, tuple[bool, ...]]]:
    """Each corpus, and the readings of special tokens that it is checked under."""
    limit = None if limit_mb is None else limit_mb * 1e6
    library = corpora.evenly(corpora.standard_library(), limit)
    yield corpora.of_files("stdlib", library, folder / "stdlib.txt", _shard_mb(limit)), (False,)
    packages = corpora.python_files(corpora.SITE_PACKAGES)
    if not any(path.as_posix().endswith(corpora.IDENTIFIERS) for path in packages):
        raise SystemExit(f"{corpora.IDENTIFIERS} is not installed: pip install jinja2")
    if limit is None:
        copy = folder / "packages"
        whole = corpora.of_folder("packages", corpora.SITE_PACKAGES, copy, _SOURCE_SHARD_MB)
    else:
        some = corpora.evenly(packages, limit, corpora.IDENTIFIERS)
        whole = corpora.of_files("packages", some, folder / "packages.txt", _shard_mb(limit))
    yield whole, (False,)
    yield corpora.human_eval(folder), (False,)
    spelled = corpora.evenly(_with_literals([*packages, *corpora.standard_library()]), limit)
    yield corpora.of_files("literals", spelled, folder / "literals.txt", 0.3), (True,)
    count = 20_000 if limit_mb is None else int(200 * limit_mb)
    for as_ids in (False, True):
        path = folder / f"hostile_{as_ids}.jsonl"
        hostile.write_hostile(path, count, seed, with_forbidden=not as_ids)
        yield corpora.of_lines("hostile", path, 1.0), (as_ids,)


def _shard_mb(limit: float | None) -> float:
    return _SOURCE_SHARD_MB if limit is None else limit / 15e6


def _with_literals(paths: Sequence[Path]) -> list[Path]:
    """Source files that spell special tokens out, without those that name mask or expand token."""
    names = [name.encode() for name in (*hostile.LOOKALIKES, "<|fim_middle|>")]
    never = [name.encode() for name in hostile.FORBIDDEN]
    kept = []
    for path in paths:
        raw = path.read_bytes()
        if any(name in raw for name in names) and not any(name in raw for name in never):
            kept.append(path)
    return kept


def both_tokenizers(folder: Path) -> list[Libraries]:
    """Qwen2's, and one that the package trains."""
    qwen2 = corpora.shared_file("qwen2_tokenizer")
    model = folder / "code.model"
    sources = corpora.evenly(corpora.standard_library(), _TRAINING_BYTES)
    train_sentencepiece(sources, _VOCABULARY, model)
    return [
        libraries("qwen2", qwen2, folder / "qwen2"),
        libraries("sentencepiece", model, folder / "spm"),
    ]


def check_refusal(made: Libraries, folder: Path) -> bool:
    """A mask in the data ends the command and names the document, under ``as_ids``."""
    path = folder / "masked.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "bad <|mask|>"}\n', encoding="utf-8")
    job = runs.Job([str(path)], made.path, ("--special-tokens-in-text", "as_ids"))
    _, output = runs.run(job.command(_fresh(folder)), expected_code=2)
    is_named = "masked.jsonl, record at position 17" in output
    print(f"{made.name:<13} a mask in the data is refused by name: {'ok' if is_named else output}")
    return is_named


def run_all(folder: Path, options: argparse.Namespace) -> tuple[int, int]:
    """Numbers of comparisons, and of those that failed."""
    draw = random.Random(options.seed)
    tokenizers = both_tokenizers(folder)
    results = [check_refusal(made, folder) for made in tokenizers]
    for corpus, readings in all_corpora(folder, options.limit_mb, options.seed):
        for made in tokenizers:
            for as_ids in readings:
                mode = "as_ids" if as_ids else "as_text"
                if options.only and options.only not in f"{made.name} {corpus.name} {mode}":
                    continue
                started = time.perf_counter()
                reference = build_reference(corpus, made, as_ids, folder / "reference")
                print(
                    f"{made.name} {corpus.name} {mode}: reference in {time.perf_counter() - started:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
                flags = ["--append-eod", "--special-tokens-in-text", mode, "--max-rejects", "0.9"]
                flags += ["--shard-mb", f"{corpus.shard_mb:g}", *corpus.flags]
                job = runs.Job(corpus.inputs, made.path, flags)
                case = Case(corpus, made, as_ids, job, reference, draw)
                results += check_case(case, folder)
    return len(results), results.count(False)


def main() -> int:
    """Check everything; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit-mb", type=float, help="of each corpus of source files (all)")
    parser.add_argument("--only", metavar="TEXT", help="cases whose `TOKENIZER CORPUS MODE` has it")
    parser.add_argument("--seed", type=int, default=20240607, help="of texts and kills")
    parser.add_argument("--folder", type=Path, help="for the files (a temporary one)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        compared, failed = run_all(Path(folder), options)
    print(f"byte identity: {compared - failed} of {compared} comparisons ok, {failed} DIFFERENT")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
