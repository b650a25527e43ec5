"""Configuration of a Dream model: a Qwen2-type transformer that attends in both directions.

Part of an exported folder; needs transformers 4.46 or newer and nothing else.
"""

from transformers import PretrainedConfig


class DreamConfig(PretrainedConfig):
    """Shape and token ids of a Dream model.

    Every field keeps the name that Qwen2 gives it. Dream's own: ``mask_token_id``;
    ``expand_token_id`` (of infilling; None: gaps do not grow); ``shift`` (hidden state i - 1 predicts
    token i); ``num_tokens`` (ids from here on are padding of the table, None: all are tokens);
    ``tokenizer_fingerprint`` (sha256 of what defines the tokenizer's ids).
    """

    model_type = "Dream"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        hidden_act="silu",
        max_position_embeddings=32768,
        initializer_range=0.02,
        rms_norm_eps=1e-6,
        rope_theta=1000000.0,
        attention_dropout=0.0,
        use_cache=False,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        mask_token_id=None,
        expand_token_id=None,
        shift=True,
        num_tokens=None,
        tokenizer_fingerprint=None,
        **kwargs,
    ):
        """Take the fields of config.json; unknown ones are kept as attributes."""
        if hidden_act != "silu":
            raise ValueError(f"hidden_act is {hidden_act!r}: this code computes silu only.")
        if shift is not True:
            raise ValueError(
                f"shift is {shift!r}: this code samples models trained with shift true."
            )
        # Newer transformers move rope_theta into rope_parameters before they call this.
        rope = kwargs.get("rope_parameters") or {}
        self.rope_theta = float(rope.get("rope_theta", rope_theta))
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.attention_dropout = attention_dropout
        self.use_cache = use_cache
        self.mask_token_id = mask_token_id
        self.expand_token_id = expand_token_id
        self.shift = shift
        self.num_tokens = num_tokens
        self.tokenizer_fingerprint = tokenizer_fingerprint
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
