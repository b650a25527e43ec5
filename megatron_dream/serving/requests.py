"""What a client may ask, in OpenAI's words and the sampler's, and the rows that it becomes.

Fields of OpenAI come first; every field of ``SamplingConfig`` that a person may set is taken besides.
What OpenAI has and we have not is taken at the value that asks for nothing, such as ``"echo": false``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from ..errors import UserError
from ..evaluation.sampling_flags import SAMPLING_FLAGS
from ..sampling.blocks import plan_blocks
from ..sampling.sampling_config import SamplingConfig
from .limits import Limits
from .prompts import Prompts
from .refusal import Refusal, unknown_model
from .row import Row

_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tools": (None, []),
    "top_logprobs": (None, 0),
}
_OPENAI_HAS_THEM = {"max_new_tokens", "num_return_sequences", "seed"}
_SEED_BITS = 52  # a browser's numbers hold it
_MIN_TEMPERATURE = 1e-6


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _StreamOptions(_Strict):
    include_usage: bool = False


class _Part(_Strict):
    type: Literal["text"]
    text: str


class _Message(_Strict):
    role: Literal["system", "user", "assistant"]
    content: str | list[_Part]
    name: str | None = None  # taken and not looked at
    # OpenAI's clients send back messages as they got them, with what is not there as null.
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: None = None

    def plain(self) -> dict[str, str]:
        text = self.content
        if not isinstance(text, str):
            text = "".join(part.text for part in text)
        return {"role": self.role, "content": text}


class _Common(_Strict):
    model: str | None = None
    n: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=1 << 63)  # seeds that follow fit orjson's 64 bits
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    user: str | None = None  # taken and not looked at


def _sampling_fields() -> dict[str, Any]:
    """Name, type and default (not given) of the sampler's own fields."""
    fields: dict[str, Any] = {}
    for name, flag in SAMPLING_FLAGS.items():
        if name not in _OPENAI_HAS_THEM:
            kind: Any = list[flag.kind] if flag.is_list else flag.kind  # type: ignore[name-defined]
            fields[name] = (kind | None, None)
    return fields


_SAMPLING_FIELDS = _sampling_fields()
_Sampling: Any = create_model("_Sampling", __base__=_Common, **_SAMPLING_FIELDS)


class _Completion(_Sampling):
    prompt: str | Annotated[list[str], Field(min_length=1)]


class _Chat(_Sampling):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Job:
    """A request that was found good.

    Attributes:
        rows: its choices, prompt after prompt.
        seed: of the first row; the others have those that follow.
        num_prompt_tokens: of all prompts, each once.
        is_chat: answer in the form of chats.
        is_stream: answer with events.
        includes_usage: a stream ends with the usage.
    """

    rows: list[Row]
    seed: int
    num_prompt_tokens: int
    is_chat: bool
    is_stream: bool
    includes_usage: bool


class Reader:
    """Bodies to jobs, for one model."""

    def __init__(self, prompts: Prompts, max_position: int, model_name: str, limits: Limits):
        self._prompts, self._max_position = prompts, max_position
        self._model_name, self._limits = model_name, limits

    def job(
        self,
        body: bytes,
        loop: asyncio.AbstractEventLoop,
        *,
        is_chat: bool | None,
        wants_states: bool = False,
    ) -> Job:
        """Check everything that can be known before the model runs; may be called in any thread.

        Args:
            body: JSON.
            loop: where the rows will be waited for.
            is_chat: None: whichever of ``messages`` and ``prompt`` is there.
            wants_states: rows keep what each step opened.

        Raises:
            Refusal: one sentence that names the field.
        """
        content = _parsed(body)
        if is_chat is None:
            is_chat = "messages" in content
        _drop_what_asks_for_nothing(content)
        try:
            kind: Any = _Chat if is_chat else _Completion
            asked = kind.model_validate(_without_nulls(content, kind))
        except ValidationError as error:
            raise _refusal(error) from None
        self._check_common(asked)
        prompts = self._encode(asked, is_chat)
        if len(prompts) * asked.n > self._limits.max_choices:
            raise self._over(
                "n", f"{len(prompts)} x {asked.n} choices", self._limits.max_choices, "choices"
            )
        config = self._config(asked, prompts, is_chat)
        seed = asked.seed if asked.seed is not None else secrets.randbits(_SEED_BITS)
        stops = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
        chosen = [prompt for prompt in prompts for _ in range(asked.n)]
        rows = [
            Row(prompt, config, seed + number, loop, config.eos_token_ids, stops, wants_states)
            for number, prompt in enumerate(chosen)
        ]
        includes_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        num_tokens = sum(map(len, prompts))
        return Job(rows, seed, num_tokens, is_chat, asked.stream, includes_usage)

    def _check_common(self, asked: Any) -> None:
        if asked.model not in (None, self._model_name):
            raise unknown_model(asked.model, self._model_name)
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        if len(stops) > 4 or not all(0 < len(stop) <= 256 for stop in stops):
            raise Refusal(400, "stop: give up to 4 texts of 1 to 256 characters.", "stop")
        if asked.stream_options is not None and not asked.stream:
            raise Refusal(400, "stream_options: give it with stream only.", "stream_options")
        for name, limit in (
            ("remask_limit", self._limits.max_remask_limit),
            ("steps", self._limits.max_steps),
        ):
            if (getattr(asked, name, None) or 0) > limit:
                raise self._over(name, str(getattr(asked, name)), limit)
        if 0 < (asked.temperature or 0) < _MIN_TEMPERATURE:
            sentence = (
                f"temperature: give 0 or at least {_MIN_TEMPERATURE:g}; below it logits overflow."
            )
            raise Refusal(400, sentence, "temperature")
        if len(asked.forbidden_token_ids or ()) > self._limits.max_forbidden:
            raise self._over(
                "forbidden_token_ids",
                f"{len(asked.forbidden_token_ids)} entries",
                self._limits.max_forbidden,
            )

    def _encode(self, asked: Any, is_chat: bool) -> list[list[int]]:
        field = "messages" if is_chat else "prompt"
        texts = [asked.prompt] if not is_chat and isinstance(asked.prompt, str) else []
        if not is_chat and not texts:
            texts = asked.prompt
        if len(texts) > self._limits.max_choices:
            raise self._over("prompt", f"{len(texts)} prompts", self._limits.max_choices)
        try:
            if is_chat:
                prompts = [self._prompts.chat([message.plain() for message in asked.messages])]
            else:
                prompts = [self._prompts.text(text) for text in texts]
        except UserError as error:
            raise Refusal(400, f"{field}: {error}", field) from None
        limit = min(self._limits.max_prompt_tokens, self._max_position - 1)
        longest = max(map(len, prompts))
        if longest > limit:
            raise self._over(field, f"{longest} tokens", limit, code="context_length_exceeded")
        return prompts

    def _config(self, asked: Any, prompts: list[list[int]], is_chat: bool) -> SamplingConfig:
        room = self._max_position - max(map(len, prompts))
        wanted, field = self._wanted(asked, room)
        if wanted > self._limits.max_tokens:
            raise self._over(field, str(wanted), self._limits.max_tokens)
        if wanted > room:
            raise self._over(
                field,
                f"{wanted} after a prompt of {self._max_position - room} tokens",
                room,
                code="context_length_exceeded",
            )
        given = {name: getattr(asked, name) for name in _SAMPLING_FIELDS}
        options = {name: value for name, value in given.items() if value is not None}
        options["forbidden_token_ids"] = tuple(options.get("forbidden_token_ids", ()))
        ids = self._prompts.token_ids(is_chat)
        try:
            config = SamplingConfig(**ids, **options, max_new_tokens=wanted, seed=0)
            # Turned into nats here: resolved() logs a public penalty, for each request.
            nats = config.pad_nats
            config = dataclasses.replace(
                config, pad_penalty=nats, pad_penalty_factor=None, eos_penalty=None
            ).resolved()
            plan_blocks(1, config)
        except ValueError as error:
            sentence = str(error).replace("max_new_tokens", "max_tokens")
            name = sentence.split()[0].rstrip(":")
            raise Refusal(400, sentence, name if name in given else None) from None
        if (config.steps or 0) > self._limits.max_steps:
            raise self._over("steps", str(config.steps), self._limits.max_steps)
        return config

    def _wanted(self, asked: Any, room: int) -> tuple[int, str]:
        """New tokens, and the field that says so."""
        longer = getattr(asked, "max_completion_tokens", None)
        if longer is not None and asked.max_tokens is not None:
            raise Refusal(
                400,
                "max_tokens and max_completion_tokens say the same thing: give one of them.",
                "max_tokens",
            )
        if longer is not None:
            return longer, "max_completion_tokens"
        if asked.max_tokens is not None:
            return asked.max_tokens, "max_tokens"
        limits = self._limits
        default = min(SamplingConfig.max_new_tokens, limits.max_tokens, room)
        if asked.steps is None:  # as many steps as tokens
            default = min(default, limits.max_steps)
        return default, "max_tokens"

    @staticmethod
    def _over(
        field: str, value: str, limit: int, unit: str = "", code: str = "over_limit"
    ) -> Refusal:
        words = f" {unit}" if unit else ""
        return Refusal(
            400, f"{field}: {value} is over this server's limit of {limit}{words}.", field, code
        )


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(
            400, f"The body is no valid JSON: {error.msg}.", code="invalid_json"
        ) from None
    if not isinstance(content, dict):
        raise Refusal(400, "The body is no JSON object: give one.", code="invalid_json")
    return content


def _drop_what_asks_for_nothing(content: dict[str, Any]) -> None:
    for name, values in _ASKS_FOR_NOTHING.items():
        if name not in content:
            continue
        given = content[name]
        # 0 == False, but logprobs: 0 asks for something and logprobs: false does not.
        if not any(given == v and isinstance(given, bool) == isinstance(v, bool) for v in values):
            raise Refusal(400, f"{name} is not supported here: leave it out.", name, "unsupported")
        del content[name]


def _without_nulls(content: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """``content`` without fields that are null and have a default."""
    optional = {name for name, field in kind.model_fields.items() if not field.is_required()}
    return {k: value for k, value in content.items() if value is not None or k not in optional}


def _refusal(error: ValidationError) -> Refusal:
    """The first fault, named by its place; what the client sent is not repeated."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Of a union pydantic names the branch too, which is no field.
    place = [part for part in first["loc"] if _is_field(part)]
    name = ".".join(map(str, place))[:200] or "body"
    if first["type"] == "extra_forbidden":
        return Refusal(400, f"{name}: there is no such field; leave it out.", name, "unknown_field")
    if first["type"] == "missing":
        return Refusal(400, f"{name} is missing: give it.", name, "missing_field")
    return Refusal(400, f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}.", name)


def _is_field(part: int | str) -> bool:
    return isinstance(part, int) or not (part in ("str", "int", "float") or "[" in part)
