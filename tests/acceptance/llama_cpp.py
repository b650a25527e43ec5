"""llama.cpp's converter takes the export, and the GGUF holds our tensors and tokens.

The converter comes with the source package of llama-cpp-python, which pip downloads (without building
it) into the cache folder unless it is there. It runs in a process of its own; nothing of it is imported
here but its reader of GGUF files. Each export is converted in fp32 and, where it is bf16, in bf16.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import torch
from exported import Exported, cache_folder, make_export

PACKAGE = "llama-cpp-python"
_INSIDE = "vendor/llama.cpp"
_WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")

# Names of the Dream architecture in GGUF: llama.cpp, gguf-py/gguf/constants.py, TENSOR_NAMES.
_WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def converter(cache: Path) -> Path:
    """The unpacked folder with convert_hf_to_gguf.py, downloaded if need be."""
    folder = cache / "llama.cpp"
    if not (folder / _WANTED[0]).is_file():
        packages = sorted(cache.glob("llama_cpp_python-*.tar.gz"))
        if not packages:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--no-binary", PACKAGE, "--dest", str(cache), PACKAGE]
            subprocess.run(command, check=True)
            packages = sorted(cache.glob("llama_cpp_python-*.tar.gz"))
        _unpack(packages[-1], folder)
        (folder / "PACKAGE").write_text(packages[-1].name.removesuffix(".tar.gz"))
    return folder


def _unpack(package: Path, folder: Path) -> None:
    """Only the converter and its GGUF library: a twentieth of the package."""
    with tarfile.open(package) as archive:
        for member in archive:
            _, _, inside = member.name.partition(f"/{_INSIDE}/")
            if inside.startswith(_WANTED):
                member.name = inside
                archive.extract(member, folder, filter="data")


def convert(tool: Path, folder: Path, output: Path, outtype: str) -> None:
    """Run the converter; its last lines are shown where it fails."""
    command = [sys.executable, str(tool / _WANTED[0]), str(folder)]
    command += ["--outfile", str(output), "--outtype", outtype]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not output.is_file():
        raise SystemExit(f"the converter failed:\n{done.stderr[-3000:]}")


def gguf_name(name: str) -> str:
    """What our tensor is called in a GGUF file."""
    if name in _WHOLE:
        return _WHOLE[name]
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    module, kind = part.rsplit(".", 1)
    return f"blk.{layer}.{_IN_LAYER[module]}.{kind}"


def compare_tensors(reader: Any, quantize: Any, exported: Exported) -> str:
    """Names, shapes and values of all tensors, to the bit."""
    found = {tensor.name: tensor for tensor in reader.tensors}
    expected = {gguf_name(name): value for name, value in exported.tensors.items()}
    if found.keys() != expected.keys():
        raise SystemExit(f"other tensors: {sorted(found.keys() ^ expected.keys())}")
    for name, value in expected.items():
        tensor = found[name]
        values = torch.from_numpy(quantize(tensor.data, tensor.tensor_type).copy())
        if values.shape != value.shape or not torch.equal(values, value):
            raise SystemExit(f"{name} {list(values.shape)} differs from ours {list(value.shape)}")
    return f"{len(found)} tensors equal"


def compare_metadata(reader: Any, exported: Exported) -> str:
    """Everything that llama.cpp computes with."""
    model = exported.model
    tokens = json.loads((exported.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = {entry["content"]: int(n) for n, entry in tokens["added_tokens_decoder"].items()}
    expected = {
        "general.architecture": "dream",
        "dream.block_count": model.num_layers,
        "dream.context_length": model.max_position_embeddings,
        "dream.embedding_length": model.hidden_size,
        "dream.feed_forward_length": model.ffn_hidden_size,
        "dream.attention.head_count": model.num_attention_heads,
        "dream.attention.head_count_kv": model.num_query_groups,
        "dream.rope.freq_base": model.rotary_base,
        "dream.attention.layer_norm_rms_epsilon": model.norm_epsilon,
        "dream.attention.causal": False,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.mask_token_id": exported.mask_token_id,
        "tokenizer.ggml.bos_token_id": ids["<|beginoftext|>"],
        "tokenizer.ggml.eos_token_id": ids["<|endoftext|>"],
        "tokenizer.ggml.padding_token_id": ids["<|endoftext|>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": tokens["chat_template"],
    }
    for name, value in expected.items():
        field = reader.get_field(name)
        found = None if field is None else field.contents()
        near = isinstance(value, float) and isinstance(found, float)
        if found != value and not (near and abs(found - value) <= 1e-6 * value):
            raise SystemExit(f"{name} is {found!r}, expected {value!r}")
    return f"{len(expected)} fields equal, {compare_tokens(reader, exported)}"


def compare_tokens(reader: Any, exported: Exported) -> str:
    """Every row of the table has its token; merges in order; Dream's tokens are control tokens."""
    content = json.loads((exported.folder / "tokenizer.json").read_text(encoding="utf-8"))
    by_id = {number: text for text, number in content["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in content["added_tokens"]}
    found = reader.get_field("tokenizer.ggml.tokens").contents()
    kinds = reader.get_field("tokenizer.ggml.token_type").contents()
    size = exported.model.vocab_size
    if len(found) != size or len(kinds) != size:
        raise SystemExit(f"{len(found)} tokens and {len(kinds)} kinds for {size} rows")
    for number in range(size):
        entry = added.get(number)
        text = entry["content"] if entry else by_id.get(number, f"[PAD{number}]")
        # llama.cpp's TokenType: 1 normal, 3 control, 4 user-defined, 5 unused.
        kind = (3 if entry["special"] else 4) if entry else 1 if number in by_id else 5
        if (found[number], kinds[number]) != (text, kind):
            raise SystemExit(
                f"token {number} is {found[number]!r} of kind {kinds[number]}, expected {text!r} "
                f"of kind {kind}"
            )
    merges = reader.get_field("tokenizer.ggml.merges").contents()
    ours = (exported.folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:-1]
    if merges != ours:
        raise SystemExit(f"{len(merges)} merges differ from our {len(ours)}")
    return f"{size:,} tokens and {len(merges):,} merges equal, pre-tokenizer qwen2"


def main() -> int:
    """Convert and compare three exports."""
    tool = converter(cache_folder())
    sys.path.insert(0, str(tool / "gguf-py"))
    from gguf import GGUFReader
    from gguf.quants import dequantize

    print(f"converter of {(tool / 'PACKAGE').read_text()}")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        cases = {
            "fp32": (make_export(work, "fp32"), "f32"),
            "fp32, tied": (make_export(work, "tied", tied=True), "f32"),
            "bf16": (make_export(work, "bf16", dtype="bf16"), "bf16"),
        }
        for case, (exported, outtype) in cases.items():
            output = exported.folder.with_suffix(".gguf")
            convert(tool, exported.folder, output, outtype)
            reader = GGUFReader(output)
            tensors = compare_tensors(reader, dequantize, exported)
            print(f"{case}: {tensors}, {compare_metadata(reader, exported)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
