"""A Qwen2-type transformer that attends in both directions, and its diffusion sampler.

Part of an exported folder; runs under transformers 4.46 to 5.x with torch alone. ``forward``
returns unshifted logits, as all Dream code does: position i - 1 predicts token i. The sampler's
files lie beside this one and are the same that train and evaluate the model.

Shapes: B rows, S positions, H hidden, N heads, K key and value heads, D head, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from .attention_masks import attention_bias, default_positions

# transformers 4 copies only the files that this one names itself, so all of the sampler's are named.
from .blocks import plan_blocks  # noqa: F401
from .cache import KeyValueCache
from .canvas import Canvas  # noqa: F401
from .configuration_dream import DreamConfig
from .decode import Choice  # noqa: F401
from .filters import top_p_filter  # noqa: F401
from .fp8 import use_fp8_weights
from .generation import diffusion_generate as fill_masks
from .graphs import BlockGraphs  # noqa: F401
from .history import History
from .infill import GapConfig, InfillOutput, fill_gaps
from .kernels import Linear
from .passes import Passes  # noqa: F401
from .randomness import RowRandom  # noqa: F401
from .remask import reopened  # noqa: F401
from .sampling_config import SamplingConfig
from .schedule import Schedule  # noqa: F401
from .selection import select  # noqa: F401
from .text import cut_at_eos  # noqa: F401

_IS_V5 = int(transformers.__version__.split(".")[0]) >= 5
_SAMPLING_FIELDS = frozenset(field.name for field in dataclasses.fields(SamplingConfig))


class DreamRMSNorm(nn.Module):
    """x / rms(x) * weight, the mean square in fp32."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class DreamMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DreamConfig):
        super().__init__()
        hidden, ffn = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(hidden, ffn, bias=False)
        self.up_proj = Linear(hidden, ffn, bias=False)
        self.down_proj = Linear(ffn, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def rotary_tables(
    position_ids_BS: torch.Tensor, head_dim: int, theta: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [B, 1, S, D] of the rotary embedding.

    Computed at each pass from nothing but the configuration: a buffer that is not in the weights is
    left uninitialised by some versions of ``from_pretrained``.
    """
    exponent_D = torch.arange(0, head_dim, 2, device=position_ids_BS.device).float() / head_dim
    angle_BSD = position_ids_BS[:, :, None].float() * (1.0 / (theta**exponent_D))
    angle_BSD = torch.cat([angle_BSD, angle_BSD], dim=-1)
    return angle_BSD.cos()[:, None].to(dtype), angle_BSD.sin()[:, None].to(dtype)


def rotate(x_BNSD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + D/2) of each head by the position's angles."""
    first, second = x_BNSD.chunk(2, dim=-1)
    return x_BNSD * cos + torch.cat([-second, first], dim=-1) * sin


class DreamAttention(nn.Module):
    """Bidirectional grouped-query attention on scaled_dot_product_attention."""

    def __init__(self, config: DreamConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_dropout
        kv_size = config.num_key_value_heads * self.head_dim
        self.q_proj = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=True)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=True)
        self.o_proj = Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self,
        x_BSH: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor | None,
        cache: KeyValueCache | None = None,
        start: int = 0,
        asked: slice = slice(None),
    ) -> torch.Tensor:
        """Attention's output at the asked columns [B, Q, H]; all columns give keys and values."""
        batch = x_BSH.shape[0]

        def heads(projection: nn.Linear, x: torch.Tensor) -> torch.Tensor:
            return projection(x).view(batch, x.shape[1], -1, self.head_dim).transpose(1, 2)

        query = rotate(heads(self.q_proj, x_BSH[:, asked]), cos[:, :, asked], sin[:, :, asked])
        key, value = rotate(heads(self.k_proj, x_BSH), cos, sin), heads(self.v_proj, x_BSH)
        if cache is not None:
            key, value = cache.write(self.layer, start, key, value)
        copies = query.shape[1] // key.shape[1]
        shape = query.shape
        if copies > 1 and (mask is None or mask.shape[-2] == 1):
            # Queries of a group as further queries of one head: no key is copied.
            query = query.reshape(batch, key.shape[1], -1, self.head_dim)
        elif copies > 1:
            key = key.repeat_interleave(copies, dim=1)
            value = value.repeat_interleave(copies, dim=1)
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        attended = attended.reshape(shape).transpose(1, 2)
        return self.o_proj(attended.reshape(batch, attended.shape[1], -1))


class DreamDecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, config: DreamConfig, layer: int):
        super().__init__()
        self.self_attn = DreamAttention(config, layer)
        self.mlp = DreamMLP(config)
        self.input_layernorm = DreamRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = DreamRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor, *attention: Any, asked: slice = slice(None)) -> torch.Tensor:
        x = x[:, asked] + self.self_attn(self.input_layernorm(x), *attention, asked=asked)
        return x + self.mlp(self.post_attention_layernorm(x))


class DreamPreTrainedModel(PreTrainedModel):
    """What transformers wants to know about the classes below."""

    config_class = DreamConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = False
    _no_split_modules = ["DreamDecoderLayer"]
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, DreamRMSNorm):
            nn.init.ones_(module.weight)


class DreamBaseModel(DreamPreTrainedModel):
    """Embedding, layers, final norm: token ids to hidden states."""

    def __init__(self, config: DreamConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        layers = [DreamDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        self.norm = DreamRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        mask: torch.Tensor | None,
        position_ids: torch.Tensor,
        keep_states: bool = False,
        cache: KeyValueCache | None = None,
        start: int = 0,
        asked: slice = slice(None),
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        cos, sin = rotary_tables(
            position_ids, head_dim, self.config.rope_theta, inputs_embeds.dtype
        )
        hidden, states = inputs_embeds, [inputs_embeds]
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            columns = asked if number == last else slice(None)
            hidden = layer(hidden, cos, sin, mask, cache, start, asked=columns)
            if keep_states:
                states.append(hidden)
        hidden = self.norm(hidden)
        return hidden, (*states[:-1], hidden)


@dataclass
class DreamGenerationOutput:
    """What ``diffusion_generate(..., return_dict_in_generate=True)`` returns.

    Attributes:
        sequences: int64 [B, S]: padding, prompt, response.
        history: with ``output_history``: the canvas [B, S] after each step.
        events: with ``output_history``: which position opened when, with what confidence.
        num_forward: forward passes run.
        seed: repeats the draw.
    """

    sequences: torch.Tensor
    history: tuple[torch.Tensor, ...] | None
    events: History | None
    num_forward: int
    seed: int


class DreamModel(DreamPreTrainedModel):
    """The whole model: token ids to logits, and prompts to programs."""

    _tied_weights_keys = (
        {"lm_head.weight": "model.embed_tokens.weight"} if _IS_V5 else ["lm_head.weight"]
    )

    def __init__(self, config: DreamConfig):
        super().__init__(config)
        self.model = DreamBaseModel(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding table."""
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the head."""
        self.lm_head = value

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | str | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> MaskedLMOutput | tuple[torch.Tensor, ...]:
        """Unshifted logits: those at position i - 1 predict token i.

        Args:
            input_ids: int64 [B, S].
            attention_mask: None or "full": all attend to all. [B, S]: 0 is padding. [B, S, S] or
                [B, 1, S, S]: boolean, True = attend, or floats that are added to the scores.
            position_ids: [B, S]; None: counted over the real positions.
            past_key_values: not taken; there is no cache.
            inputs_embeds: [B, S, H] in place of ``input_ids``.
            labels: not taken; the loss depends on how the input was noised.
            use_cache: ignored.
            output_attentions: not done by scaled_dot_product_attention; ignored.
            output_hidden_states: return the states between the layers too.
            return_dict: False: a tuple.
            num_logits_to_keep: logits of the last positions only; 0: of all.
            kwargs: what callers of other models pass; ignored.

        Raises:
            ValueError: an argument that cannot be served.
        """
        if past_key_values is not None or labels is not None:
            name = "labels" if labels is not None else "past_key_values"
            raise ValueError(f"{name} is not taken by this model: leave it out.")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds.")
        if inputs_embeds is None:
            inputs_embeds = self.model.embed_tokens(input_ids)
        batch, length, _ = inputs_embeds.shape
        if position_ids is None:
            position_ids = default_positions(attention_mask, batch, length, inputs_embeds.device)
        mask = attention_bias(attention_mask, inputs_embeds.dtype)
        hidden_BSH, states = self.model(
            inputs_embeds, mask, position_ids, bool(output_hidden_states)
        )
        kept_BSH = hidden_BSH[:, -num_logits_to_keep:] if num_logits_to_keep else hidden_BSH
        logits_BSV = self.lm_head(kept_BSH)
        if return_dict is False:
            return (logits_BSV,)
        return MaskedLMOutput(
            logits=logits_BSV,
            hidden_states=states[:-1] + (hidden_BSH,) if output_hidden_states else None,
        )

    def use_weights(self, kind: str) -> DreamModel:
        """Sample with the layers' weights in ``bf16`` or ``fp8`` (fp8.py); in place, returns itself."""
        if kind not in ("bf16", "fp8"):
            raise ValueError(f"weights is {kind!r}: choose bf16 or fp8.")
        if kind == "fp8":
            use_fp8_weights(self.model.layers)
        return self.to(torch.bfloat16)

    @property
    def takes_static_cache(self) -> bool:
        """Whether a pass can be recorded (cache.py): where all weights are on one device."""
        return len({weights.device for weights in self.parameters()}) == 1

    def sampler_states(
        self,
        input_ids_BQ: torch.Tensor,
        key_mask_BS: torch.Tensor | None,
        position_ids_BQ: torch.Tensor | None,
        cache: KeyValueCache | None = None,
        start: int = 0,
        low: int = 0,
        high: int | None = None,
    ) -> torch.Tensor:
        """Hidden states [B, high - low, H] of some columns (cache.py: StatesModel)."""
        if position_ids_BQ is None:
            columns = torch.arange(start, start + input_ids_BQ.shape[1], device=input_ids_BQ.device)
            position_ids_BQ = columns.expand_as(input_ids_BQ)
        mask = None if key_mask_BS is None else key_mask_BS[:, None, None, :]
        embedded = self.model.embed_tokens(input_ids_BQ)
        asked = slice(low, high)
        states = self.model(embedded, mask, position_ids_BQ, False, cache, start, asked)[0]
        return states.to(input_ids_BQ.device)  # the last layer may be elsewhere

    def sampler_logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] of some of them."""
        return self.lm_head(states_NH).to(states_NH.device)

    @torch.no_grad()
    def diffusion_generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: Any | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | DreamGenerationOutput:
        """Append masks to each prompt and fill all masks, those inside the prompt too.

        Args:
            inputs: int64 [B, P] prompts, padded on the left.
            generation_config: a SamplingConfig, a dict, or a transformers GenerationConfig, of
                which only what differs from its defaults is taken.
            kwargs: attention_mask [B, P]; generation_tokens_hook_func(step, x, logits) -> x and
                generation_logits_hook_func(step, x, logits) -> logits; return_dict_in_generate;
                max_length; and every field of SamplingConfig (sampling_config.py): max_new_tokens,
                steps, alg, alg_temp, temperature, top_p, top_k, output_history,
                num_return_sequences, seed, ...

        Returns:
            int64 [B x num_return_sequences, P + new], or DreamGenerationOutput when asked for.

        Raises:
            ValueError: one sentence: what is wrong and what to do.
        """
        inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
        if inputs is None:
            raise ValueError("inputs is missing: give the prompt's ids, [B, P].")
        attention_mask = kwargs.pop("attention_mask", None)
        tokens_hook = kwargs.pop("generation_tokens_hook_func", None)
        logits_hook = kwargs.pop("generation_logits_hook_func", None)
        chosen = {**_chosen_fields(generation_config), **kwargs}
        as_dict = bool(chosen.pop("return_dict_in_generate", False))
        config = self._sampling_config(chosen, inputs.shape[-1])
        output = fill_masks(
            self,
            inputs.to(self.device),
            None if attention_mask is None else attention_mask.to(self.device),
            config=config,
            tokens_hook=tokens_hook,
            logits_hook=logits_hook,
            max_position=self.config.max_position_embeddings,
        )
        if not as_dict:
            return output.sequences
        steps = config.resolved().steps
        history = None if output.history is None else _canvases(output.history, steps or 0)
        return DreamGenerationOutput(
            output.sequences, history, output.history, output.num_forward, output.seed
        )

    @torch.no_grad()
    def diffusion_infill(
        self,
        prefixes: list[list[int]],
        suffixes: list[list[int]],
        *,
        masks: int = 4,
        max_masks: int = 64,
        max_expansions: int = 64,
        eos_closes_right: bool = True,
        **kwargs: Any,
    ) -> InfillOutput:
        """Fill the gap between each prefix and its suffix; its length is found (infill.py).

        Args:
            prefixes: ids, each with at least one, such as BOS.
            suffixes: ids, the end token included.
            masks: a gap begins with so many.
            max_masks: it has at most so many at a time.
            max_expansions: it grows at most so often.
            eos_closes_right: an end token in a gap takes the masks right of it with it.
            kwargs: fields of SamplingConfig that do not belong to a canvas of fixed length: alg, threshold,
                temperature, top_p, top_k, alg_temp, num_return_sequences, seed, forbidden_token_ids, ...

        Returns:
            ``gaps``, whose ``tokens`` are the ids between, whose ``slots`` tell how they came about.

        Raises:
            ValueError: one sentence: what is wrong and what to do.
        """
        return fill_gaps(
            self,
            prefixes,
            suffixes,
            sampling=self._sampling_config(kwargs, 0),
            gap=GapConfig(
                self.config.expand_token_id, masks, max_masks, max_expansions, eos_closes_right
            ),
            max_position=self.config.max_position_embeddings,
            device=self.device,
        )

    def _sampling_config(self, chosen: dict, prompt_length: int) -> SamplingConfig:
        """The sampler's configuration: what the caller chose, and this model's token ids."""
        max_length = chosen.pop("max_length", None)
        if max_length is not None and chosen.get("max_new_tokens") is None:
            if max_length < prompt_length:
                raise ValueError(
                    f"max_length {max_length} is less than the prompt's {prompt_length} tokens: give "
                    "max_new_tokens."
                )
            chosen["max_new_tokens"] = max_length - prompt_length
        unknown = sorted(set(chosen) - _SAMPLING_FIELDS)
        if unknown:
            near = difflib.get_close_matches(unknown[0], _SAMPLING_FIELDS, n=1, cutoff=0.0)[0]
            raise ValueError(f"{unknown[0]} is no field of a generation: did you mean {near}?")
        ids = ("mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id", "num_tokens")
        known = {name: getattr(self.config, name, None) for name in ids}
        # Public callers pass None for "not given" where ours have numbers.
        given = {name: value for name, value in chosen.items() if value is not None}
        return SamplingConfig(**{**known, **given})


def _chosen_fields(generation_config: Any | None) -> dict:
    """What a generation config really chooses; old classes are full of defaults nobody asked for."""
    if generation_config is None:
        return {}
    if isinstance(generation_config, dict):
        return dict(generation_config)
    if dataclasses.is_dataclass(generation_config):
        values = {name: getattr(generation_config, name) for name in _SAMPLING_FIELDS}
    else:
        values = generation_config.to_diff_dict()
    known = _SAMPLING_FIELDS | {"max_length", "return_dict_in_generate"}
    return {name: value for name, value in values.items() if name in known and value is not None}


def _canvases(history: History, steps: int) -> tuple[torch.Tensor, ...]:
    """The canvas after each step; a step that opened nothing repeats the one before."""
    after = dict(history.frames())
    canvases = []
    current = history.start_BS
    for step in range(steps):
        current = after.get(step, current)
        canvases.append(current)
    return tuple(canvases)


# So that save_pretrained of a fine-tuned model copies these files beside its weights.
DreamConfig.register_for_auto_class()
DreamModel.register_for_auto_class("AutoModel")
