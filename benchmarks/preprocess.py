"""Preprocessing against the way Megatron-LM's tool works, on the same cores and the same text.

    python benchmarks/preprocess.py [--tokenizer FOLDER] [--megabytes 80] [--workers 2] [--memory]

Text: Python source of the interpreter and of the packages installed beside it, as JSON Lines.
Baseline `pool`: a pool of workers in which each line goes through json and the Hugging Face tokenizer
(the `tokenizers` library itself, which is faster than through transformers), and a parent that feeds
megatron-core's builder document by document. Both are whole commands, start-up included, one after
the other; the two outputs are compared byte by byte. Then ours with one worker, for the scaling.
Without `--tokenizer` one of Qwen2's kind (NFC, its split, byte-level BPE) with 16,000 tokens is trained;
figures in the docs are with Qwen2's own, whose vocabulary is ten times that.
`--memory` runs ours once more on ten times the input and compares the peaks of resident memory, all
processes together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_state: dict[str, Any] = {}  # of a pool worker, as in the tool that is imitated


def source_texts() -> Iterator[str]:
    """Python files of the interpreter and of its packages, each once, in order of their names."""
    folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    seen = set()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            if path not in seen:
                seen.add(path)
                text = path.read_bytes().decode("utf-8", errors="replace")
                if text:
                    yield text


def write_corpus(path: Path, num_bytes: int) -> int:
    """Write about ``num_bytes`` of source as JSON Lines; bytes of text written."""
    written = 0
    with open(path, "w", encoding="utf-8") as stream:
        while written < num_bytes:
            for text in source_texts():
                stream.write(json.dumps({"text": text}) + "\n")
                written += len(text.encode())
                if written >= num_bytes:
                    break
    return written


_SPLIT = (  # Qwen2's, from its tokenizer.json
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END = "<|endoftext|>"


def train_tokenizer(folder: Path) -> str:
    """A tokenizer of Qwen2's kind, trained on 5 MB of source; its folder."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=16_000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[_END, "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    sample, size = [], 0
    for text in source_texts():
        sample.append(text)
        size += len(text)
        if size > 5_000_000:
            break
    tokenizer.train_from_iterator(sample, trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def _start_pool_worker(tokenizer: str) -> None:
    from tokenizers import Tokenizer

    _state["tokenizer"] = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
    _state["tokenizer"].encode_special_tokens = True


def _encode_line(line: str) -> list[int]:
    return _state["tokenizer"].encode(json.loads(line)["text"], add_special_tokens=False).ids


def run_pool(corpus: str, prefix: str, tokenizer: str, workers: int) -> None:
    """The baseline, as one command."""
    import numpy as np

    from megatron_dream.device import import_megatron

    import_megatron()
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(str(Path(tokenizer) / "tokenizer.json"))
    end, is_small = vocabulary.token_to_id(_END), vocabulary.get_vocab_size() < 65_000
    del vocabulary
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16 if is_small else np.int32)
    with (
        multiprocessing.Pool(workers, _start_pool_worker, (tokenizer,)) as pool,
        open(corpus, encoding="utf-8") as stream,
    ):
        for ids in pool.imap(_encode_line, stream, 32):
            builder.add_document([*ids, end], [len(ids) + 1])
    builder.finalize(f"{prefix}.idx")


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds of a command, and the highest resident memory of it and all it started, in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    tree, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            members = [tree, *tree.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in members))
        except psutil.Error:
            pass
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return time.perf_counter() - started, peak


def our_command(corpus: Path, prefix: Path, tokenizer: str, workers: int) -> list[str]:
    """Our command line for the same job."""
    words = [sys.executable, "-m", "megatron_dream", "preprocess", "--input", str(corpus)]
    words += ["--output-prefix", str(prefix), "--tokenizer", tokenizer, "--append-eod"]
    return [*words, "--workers", str(workers), "--overwrite"]


def same(first: Path, second: Path) -> bool:
    """Whether both files of two prefixes are equal."""
    return all(
        Path(f"{first}{ending}").read_bytes() == Path(f"{second}{ending}").read_bytes()
        for ending in (".bin", ".idx")
    )


def main() -> int:
    """Run baseline and ours; 1 where their bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", metavar="FOLDER", help="with tokenizer.json")
    parser.add_argument("--megabytes", type=float, default=80)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", action="store_true", help="also ten times the input")
    parser.add_argument("--baseline", nargs=2, metavar=("CORPUS", "PREFIX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.baseline:
        run_pool(*options.baseline, options.tokenizer, options.workers)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if options.tokenizer is None:
            options.tokenizer = train_tokenizer(Path(folder) / "tokenizer")
        return compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> int:
    """Time everything on one corpus."""
    corpus, pool, ours = folder / "c.jsonl", folder / "pool", folder / "ours"
    text = write_corpus(corpus, int(options.megabytes * 1e6))
    print(f"tokenizer {options.tokenizer}")
    print(f"{text / 1e6:.0f} MB of Python source, {options.workers} workers, start-up included")
    baseline = [sys.executable, __file__, "--baseline", str(corpus), str(pool)]
    baseline += ["--tokenizer", options.tokenizer, "--workers", str(options.workers)]
    slow, slow_peak = timed(baseline)
    print(
        f"pool (baseline)   {slow:7.2f} s  {text / slow / 1e6:7.1f} MB/s  {slow_peak / 1e6:7.0f} MB"
    )
    fast, peak = timed(our_command(corpus, ours, options.tokenizer, options.workers))
    print(f"ours              {fast:7.2f} s  {text / fast / 1e6:7.1f} MB/s  {peak / 1e6:7.0f} MB")
    print(f"ratio {slow / fast:.1f} times the baseline's speed (aim 10)")
    equal = same(pool, ours)
    print(f"outputs {'equal' if equal else 'DIFFER'} byte for byte")
    single, _ = timed(our_command(corpus, ours, options.tokenizer, 1))
    print(
        f"ours, one worker  {single:7.2f} s: {options.workers} workers are {single / fast:.2f} times it"
    )
    print(f"work by kind      {shares(ours)}")
    if options.memory:
        larger = folder / "larger.jsonl"
        with open(larger, "wb") as stream:
            for _ in range(10):
                stream.write(corpus.read_bytes())
        seconds, most = timed(our_command(larger, ours, options.tokenizer, options.workers))
        print(f"ten times that    {seconds:7.2f} s  {10 * text / seconds / 1e6:7.1f} MB/s")
        print(
            f"peak memory       {peak / 1e6:.0f} MB, then {most / 1e6:.0f} MB: {most / peak:.2f} (aim 1.10)"
        )
    return 0 if equal else 1


def shares(prefix: Path) -> str:
    """What the workers' time went to, from the sidecar."""
    work = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))["work_seconds"]
    total = sum(work.values())
    return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in work.items())


if __name__ == "__main__":
    sys.exit(main())
