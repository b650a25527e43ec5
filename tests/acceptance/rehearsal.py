"""The 7B recipe rehearsed for 8, 96 and 1,024 GPUs: seconds, memory, and wrong submissions that are refused.

Each rehearsal is the command as a user types it, in a process of its own, whose CPU seconds and peak memory
the system tells. Data are token files of random ids in the recipe's blend, with indices for all of its
samples; the checkpoint that it starts from is left out. At 1,024 GPUs the global batch is 1,024, since the
recipe's 960 rows cannot be shared out to 512 ranks in micro-batches of 2; that the recipe itself is
refused there is the first wrong submission.

    python tests/acceptance/rehearsal.py       writes docs/results/rehearsal.{json,md}; about two minutes
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.config.load import load_config  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.tokenizer.train import train_sentencepiece  # noqa: E402
from tests.unit.data.token_files import write_tokens  # noqa: E402

RECIPE = ROOT / "examples" / "dream_coder_7b" / "pretrain.yaml"
RESULTS = ROOT / "docs" / "results"
BATCH_OF_1024 = ["--training.global_batch_size", "1024", "--training.eval_samples", "1024"]
SIZES = {8: [], 96: [], 1024: BATCH_OF_1024}
TP, PP = "--parallel.tensor_model_parallel_size", "--parallel.pipeline_model_parallel_size"
VP = "--parallel.virtual_pipeline_model_parallel_size"
CP = "--parallel.context_parallel_size"
WRONG: dict[str, tuple[int, list[str]]] = {
    "global batch by ranks": (1024, ["--training.global_batch_size", "960"]),
    "GPUs by TP x PP": (1020, [TP, "8"]),
    "heads by TP": (1024, [TP, "8"]),
    "KV heads by TP": (
        1022, [TP, "7", "--training.global_batch_size", "1168", "--training.eval_samples", "1168"],
    ),
    "layers by stages and chunks": (1024, [PP, "4", VP, "4"]),
    "rows by 2 x CP x TP": (1024, [CP, "8", "--data.sequence_length", "2056"]),
    "validation samples by ranks": (1024, ["--training.eval_samples", "1000"]),
    "data that is not there": (1024, ["--data.train.3.prefix", "data/nowhere"]),
    "data of another tokenizer": (1024, ["--data.train.0.prefix", "{folder}/foreign"]),
    "a source shorter than a row": (1024, ["--data.train.0.prefix", "{folder}/short"]),
    "indices that nobody built": (1024, ["--data.seed", "7"]),
    "a table smaller than the tokenizer": (1024, ["--model.vocab_size", "300"]),
    "weights of another model": (
        1024, ["--checkpoint.init_from", "{folder}/other"],
    ),
    "saves beyond the nodes' memory": (
        1024,
        ["--checkpoint.optimizer_format", "fully_reshardable", "--checkpoint.host_memory_gb", "500"],
    ),
    "documents that Transformer Engine cannot gather": (
        1024, ["--model.layer_spec", "transformer_engine", "--data.document_masks", "true", CP, "2"],
    ),
    "no precision of that name": (1024, ["--training.precision", "fp8"]),
}  # fmt: skip


def make_files(folder: Path) -> list[str]:
    """Tokenizer, token files and a checkpoint of another model; the words that point the recipe at them."""
    from megatron_dream.checkpoint.metadata import FILE_NAME
    from megatron_dream.tokenizer.load import load_tokenizer

    model = folder / "t.model"
    train_sentencepiece([Path(sysconfig.get_path("stdlib")) / "json"], 400, model)
    fingerprint = load_tokenizer(model).fingerprint
    generator = np.random.default_rng(0)
    recipe = load_config(RECIPE)
    sources = []
    for source in [*recipe.data.train, *recipe.data.valid]:
        prefix = folder / Path(source.prefix).name
        documents = [generator.integers(10, 300, 4000) for _ in range(50)]
        write_tokens(prefix, documents, tokenizer_fingerprint=fingerprint)
        sources.append({"prefix": str(prefix), "weight": source.weight})
    write_tokens(folder / "foreign", [np.full(5000, 20)], tokenizer_fingerprint="ab" * 32)
    write_tokens(folder / "short", [np.full(50, 20)], tokenizer_fingerprint=fingerprint)
    (folder / "other").mkdir()
    other = {"version": 1, "model": {"num_layers": 24}, "files": {}}
    (folder / "other" / FILE_NAME).write_text(json.dumps(other))
    count = len(recipe.data.train)
    return [
        "--tokenizer.path", str(model),
        "--data.train", json.dumps(sources[:count]),
        "--data.valid", json.dumps(sources[count:]),
        "--data.cache_folder", str(folder / "cache"),
        "--checkpoint.init_from", "null",
        "--checkpoint.run_folder", str(folder / "run"),
    ]  # fmt: skip


def call(verb: list[str], words: list[str]) -> dict[str, Any]:
    """Run a command; its exit code, output, seconds, CPU seconds and peak memory."""
    command = [sys.executable, "-m", "megatron_dream", *verb, "--config", str(RECIPE), *words]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment, cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, errors):
            stream.seek(0)
        return {
            "code": process.returncode,
            "output": out.read().decode(),
            "error": errors.read().decode().strip(),
            "seconds": round(seconds, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_memory_mb": round(usage.ru_maxrss / 1024),
        }


def measured(size: int, words: list[str]) -> dict[str, Any]:
    """One rehearsal's cost and main figures."""
    found = call(["pretrain", "--dry-run", str(size), "--json"], words)
    if found["code"]:
        raise SystemExit(f"the rehearsal for {size} GPUs failed: {found['error']}")
    report = json.loads(found["output"])
    return {
        **{name: found[name] for name in ("seconds", "cpu_seconds", "peak_memory_mb")},
        "layout": report["layout"]["equation"],
        "classes": len(report["classes"]),
        "parameters": report["parameters"],
        "files_of_a_save": len(report["save"]["files"]),
        "bytes_of_a_save": report["save"]["total_bytes"],
        "host_memory_of_a_node": report["node_memory"],
        "warnings": len(report["warnings"]),
    }


def refused(folder: Path, size: int, words: list[str], base: list[str]) -> dict[str, Any]:
    """The sentence of a wrong submission."""
    own = [word.format(folder=folder) for word in words]
    found = call(["pretrain", "--dry-run", str(size)], [*base, *SIZES.get(size, []), *own])
    sentence = found["error"].replace(str(folder), "FOLDER")
    is_right = found["code"] == 2 and sentence.startswith("error: ") and "\n" not in sentence
    return {
        "gpus": size,
        "is_refused": is_right,
        "seconds": found["seconds"],
        "sentence": sentence.removeprefix("error: "),
    }


def page(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# Rehearsals of the 7B recipe",
        "",
        "`tests/acceptance/rehearsal.py`; commands in processes of their own, imports included.",
        "",
        "| GPUs | seconds | CPU seconds | peak MB | classes of ranks | files of a save | GB of a save | "
        "host memory of a node, GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, found in result["sizes"].items():
        lines.append(
            f"| {size} | {found['seconds']} | {found['cpu_seconds']} | {found['peak_memory_mb']} | "
            f"{found['classes']} | {found['files_of_a_save']:,} | {found['bytes_of_a_save'] / 1e9:.1f} | "
            f"{found['host_memory_of_a_node'] / 1e9:.1f} |"
        )
    lines += ["", "| wrong submission | GPUs | refused | sentence |", "|---|---|---|---|"]
    for name, found in result["wrong"].items():
        said = found["sentence"].replace("|", "\\|")
        lines.append(
            f"| {name} | {found['gpus']} | {'yes' if found['is_refused'] else 'NO'} | {said} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure, refuse, write; 0 if every wrong submission was refused."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = make_files(folder)
        for words in SIZES.values():
            built = call(["build-index"], [*base, *words])
            if built["code"]:
                raise SystemExit(built["error"])
        result: dict[str, Any] = {
            "sizes": {str(size): measured(size, [*base, *words]) for size, words in SIZES.items()},
            "wrong": {name: refused(folder, *case, base) for name, case in WRONG.items()},
        }
    write_json(RESULTS / "rehearsal.json", result)
    with atomic_write(RESULTS / "rehearsal.md") as stream:
        stream.write(page(result))
    print(page(result))
    return 0 if all(found["is_refused"] for found in result["wrong"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
