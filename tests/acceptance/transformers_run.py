"""What transformers_versions.py runs under one version of transformers: the exported folder, alone.

Started as a program with a JSON request and the .npz to write; imports nothing of the package. The
versions are compared by the numbers in the file, the loading is judged here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(auto: Any, folder: str, **options: Any) -> Any:
    """Load strictly: no key of the weights is missing, left over or of another shape."""
    model, loading = auto.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **options
    )
    for kind, keys in loading.items():
        if keys:
            raise SystemExit(f"{auto.__name__} {options}: {kind}: {sorted(map(str, keys))[:3]}")
    return model.eval()


def check_classes(folder: str) -> None:
    """Both auto classes give the same class; a table or head that was initialised anew would differ."""
    first = load(AutoModel, folder, torch_dtype=torch.float32)
    second = load(AutoModelForMaskedLM, folder, torch_dtype=torch.float32)
    if type(first).__name__ != "DreamModel" or type(second).__name__ != "DreamModel":
        raise SystemExit(f"{type(first).__name__} and {type(second).__name__} are not DreamModel")
    for (name, one), (_, two) in zip(
        first.state_dict().items(), second.state_dict().items(), strict=True
    ):
        if not torch.equal(one, two):
            raise SystemExit(f"{name} differs between AutoModel and AutoModelForMaskedLM")


def check_values(folder: str, values: str) -> None:
    """Every parameter is what was exported."""
    stored = np.load(values)
    state = load(AutoModel, folder, torch_dtype=torch.float32).state_dict()
    for name in stored.files:
        if not torch.equal(state[name], torch.from_numpy(stored[name])):
            raise SystemExit(f"{name} is not what was exported")


def generate(model: Any, request: dict[str, Any], case: dict[str, Any]) -> np.ndarray:
    """One generation; rows are padded on the left where the case says so."""
    prompt = torch.tensor(request["prompt"])
    mask = torch.tensor(request["prompt_mask"]) if case.pop("padded") else None
    return model.diffusion_generate(prompt, attention_mask=mask, **case).numpy()


def run_folder(folder: dict[str, Any], request: dict[str, Any], results: dict[str, Any]) -> None:
    """Logits in every type, generations in fp32."""
    path, name = folder["path"], folder["name"]
    check_classes(path)
    check_values(path, folder["values"])
    ids, mask = torch.tensor(request["input_ids"]), torch.tensor(request["attention_mask"])
    for kind in folder["dtypes"]:
        model = load(AutoModel, path, torch_dtype=DTYPES[kind])
        if next(model.parameters()).dtype != DTYPES[kind]:
            raise SystemExit(f"{name}: asked for {kind}, loaded {next(model.parameters()).dtype}")
        with torch.no_grad():
            results[f"{name}/{kind}/logits"] = model(ids).logits.float().numpy()
            padded = model(ids, attention_mask=mask).logits.float()
        # What a padded position gives is read by nobody.
        results[f"{name}/{kind}/padded logits"] = padded[mask.bool()].numpy()
    plain = AutoModel.from_pretrained(path, trust_remote_code=True)
    if str(plain.dtype) != folder["stored"] and not transformers.__version__.startswith("4."):
        raise SystemExit(f"{name}: loaded as {plain.dtype}, stored as {folder['stored']}")
    model = load(AutoModel, path, torch_dtype=torch.float32)
    for case_name, case in request["generations"].items():
        results[f"{name}/generation/{case_name}"] = generate(model, request, dict(case))


def run_devices(path: str, request: dict[str, Any], results: dict[str, Any]) -> str:
    """``device_map``, which needs accelerate."""
    if importlib.util.find_spec("accelerate") is None:
        return "device_map not tried: accelerate is not installed"
    ids = torch.tensor(request["input_ids"])
    for place in ("cpu", "auto"):
        model = load(AutoModel, path, torch_dtype=torch.float32, device_map=place)
        with torch.no_grad():
            found = model(ids.to(model.device)).logits.cpu().numpy()
        results[f"device_map {place}/logits"] = found
    return "device_map cpu and auto"


def run_lora(path: str, request: dict[str, Any]) -> str:
    """PEFT wraps the model, trains its adapters alone, and the wrapped model samples."""
    if importlib.util.find_spec("peft") is None:
        return "LoRA not tried: peft is not installed"
    try:
        import torch.distributed.tensor  # noqa: F401  # peft takes it for granted that somebody has
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        return f"LoRA not tried: this peft does not import here ({error})"
    torch.manual_seed(0)
    model = load(AutoModel, path, torch_dtype=torch.float32)
    ids = torch.tensor(request["input_ids"])
    with torch.no_grad():
        before = model(ids).logits
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    if not torch.equal(wrapped(ids).logits, before):
        raise SystemExit("a fresh adapter changes the logits")
    optimizer = torch.optim.SGD((p for p in wrapped.parameters() if p.requires_grad), lr=1.0)
    for _ in range(2):  # LoRA's B starts at 0, so that the first step moves nothing else
        loss = wrapped(ids).logits.log_softmax(-1)[..., 5].neg().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = [name for name, p in wrapped.named_parameters() if p.grad is not None]
    if not trained or any("lora" not in name for name in trained):
        raise SystemExit(f"gradients went to {trained[:3]}")
    with torch.no_grad():
        if not wrapped(ids).logits[..., 5].mean() > before[..., 5].mean():
            raise SystemExit("training the adapters did not raise what it was asked to raise")
    row = wrapped.eval().diffusion_generate(ids[:1], max_new_tokens=4, steps=4)
    if row.shape[1] != ids.shape[1] + 4:
        raise SystemExit("the wrapped model does not generate")
    return f"LoRA on {len(trained) // 2} projections"


def main(request_path: str, result_path: str) -> None:
    """Run everything; print what could not be tried."""
    with open(request_path, encoding="utf-8") as stream:
        request = json.load(stream)
    results: dict[str, Any] = {}
    for folder in request["folders"]:
        run_folder(folder, request, results)
    first = request["folders"][0]["path"]
    notes = [run_devices(first, request, results), run_lora(first, request)]
    tokenizer = AutoTokenizer.from_pretrained(first, trust_remote_code=True)
    results["tokens"] = np.array(tokenizer(request["text"])["input_ids"])
    if tokenizer.decode(results["tokens"].tolist()) != request["text"]:
        raise SystemExit("the tokenizer does not give the text back")
    np.savez(result_path, **results)
    if any(name.split(".")[0] in ("megatron", "megatron_dream") for name in sys.modules):
        raise SystemExit("the folder imported the training code")
    import tokenizers

    print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
    print("\n".join(notes))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
