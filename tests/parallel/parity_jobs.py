"""Jobs of test_parity.py: import a folder, and the logits of a checkpoint on any layout."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from megatron_dream import parallel
from megatron_dream.config.schema import ModelConfig, ParallelConfig, TrainingConfig


def import_and_export(
    folder: str, checkpoint: str, exported: str | None, tokenizer: str | None
) -> None:
    """``import-hf`` and, where asked, ``export-hf`` of the result."""
    from megatron_dream.hf import export_hf, import_hf

    import_hf(folder, checkpoint)
    if exported is not None:
        export_hf(checkpoint, exported, tokenizer=tokenizer)


def logits(checkpoint: str, ids: list[list[int]], sizes: dict[str, Any]) -> Any:
    """Logits [B, S, V] of the autoregressive model, on the ranks that hold the head; else None."""
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from megatron_dream.checkpoint.load import load_weights
    from megatron_dream.checkpoint.metadata import read_metadata
    from megatron_dream.model.build import build_model

    layout = ParallelConfig(**sizes)
    ranks = parallel.start(layout)
    shape = ModelConfig(**read_metadata(checkpoint).model)
    training = TrainingConfig(precision="fp32")
    chunks = build_model(shape, layout, training, ranks, objective="ar")
    load_weights(checkpoint, chunks, ranks)
    model, rows = chunks[0].eval(), torch.tensor(ids)

    def forward(iterator: Any, chunk: Any) -> Any:
        return chunk(rows, None, None), lambda output: (output, {"logits": output})

    with torch.no_grad():
        stored = get_forward_backward_func()(
            forward_step_func=forward,
            data_iterator=iter([None]),
            model=model,
            num_microbatches=1,
            seq_length=rows.shape[1],
            micro_batch_size=rows.shape[0],
            forward_only=True,
            collect_non_loss_data=False,
        )
    if not stored:
        return None
    part = stored[0]["logits"]
    parts = [torch.empty_like(part) for _ in range(ranks.tp_size)]
    dist.all_gather(parts, part, group=parallel_state.get_tensor_model_parallel_group())
    return torch.cat(parts, dim=-1)[..., : shape.vocab_size].numpy()


def sampled(
    checkpoint: str, ids: list[list[int]], sizes: dict[str, Any], choices: list[dict[str, Any]]
) -> tuple[Any, list[Any]]:
    """What the sampler sees and makes of a checkpoint on a layout, on every rank.

    Returns:
        logits [B, S, V] through ``sampler_states``, and the sequences of each choice of options.
    """
    from megatron_dream.checkpoint.inference import CheckpointModel
    from megatron_dream.checkpoint.load import load_weights
    from megatron_dream.checkpoint.metadata import read_metadata
    from megatron_dream.model.build import build_model
    from megatron_dream.sampling import SamplingConfig, diffusion_generate

    layout = ParallelConfig(**sizes)
    ranks = parallel.start(layout)
    metadata = read_metadata(checkpoint)
    shape = ModelConfig(**{**metadata.model, "layer_spec": "local"})
    chunks = build_model(shape, layout, TrainingConfig(precision="fp32"), ranks)
    load_weights(checkpoint, chunks, ranks)
    model, rows = CheckpointModel(chunks[0].eval(), metadata, None), torch.tensor(ids)
    states_BSH = model.sampler_states(rows, None, None)
    logits_NV = model.sampler_logits(states_BSH.flatten(0, 1))
    mask = torch.ones_like(rows)
    mask[0, :4] = 0
    sequences = [
        diffusion_generate(model, rows, mask, config=SamplingConfig(**options)).sequences.tolist()
        for options in choices
    ]
    return logits_NV.view(*rows.shape, -1).numpy(), sequences
