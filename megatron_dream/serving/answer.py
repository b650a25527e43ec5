"""From a canvas that fills in any order to text that can be sent: the opened prefix, never taken back.

Tokens open anywhere, so text may leave only as far as no position before it is masked. Held back
besides: bytes of a character that is not whole yet, and what may be the beginning of a stop string.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..tokenizer.base import Tokenizer


class Answer:
    """One choice while it comes about.

    Attributes:
        text: what is certain; only ever grows.
        finish_reason: None until the text is whole; then ``stop`` (end token or stop string) or
            ``length``.
        num_tokens: tokens that the text took, an end token included.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        ends: Collection[int],
        stops: Sequence[str] = (),
        *,
        may_close_again: bool = False,
    ) -> None:
        """Begin.

        Args:
            tokenizer: for the text.
            ends: tokens that end a text.
            stops: texts that end it; not part of it.
            may_close_again: tokens may be masked again (``remask``), so that nothing is certain
                before the last step.
        """
        self.text = ""
        self.finish_reason: str | None = None
        self.num_tokens = 0
        self._tokenizer, self._ends, self._stops = tokenizer, frozenset(ends), tuple(stops)
        self._may_close_again = may_close_again
        self._num_seen = -1

    def update(self, tokens: Sequence[int], *, is_last: bool = False) -> bool:
        """Look at the canvas after a step.

        Args:
            tokens: ids of the response, masks among them.
            is_last: nothing will change any more.

        Returns:
            Whether ``text`` or ``finish_reason`` changed.
        """
        if self.finish_reason is not None or (self._may_close_again and not is_last):
            return False
        mask = self._tokenizer.mask_id
        num_open = next((i for i, token in enumerate(tokens) if token == mask), len(tokens))
        if num_open == self._num_seen and not is_last:
            return False
        self._num_seen = num_open
        end = next((i for i in range(num_open) if tokens[i] in self._ends), None)
        if end is not None:
            self.finish_reason, self.num_tokens = "stop", end + 1
        else:
            self.num_tokens = num_open
            if is_last or num_open == len(tokens):
                self.finish_reason = "length"
        return self._set_text(tokens[: num_open if end is None else end])

    def _set_text(self, tokens: Sequence[int]) -> bool:
        before = self.text
        is_whole = self.finish_reason is not None
        count = len(tokens) if is_whole else self._count_whole(tokens)
        text = self._tokenizer.decode(tokens[:count], skip_special_tokens=True)
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            text, is_whole, self.finish_reason = text[: min(found)], True, "stop"
        if not is_whole:
            text = text[: len(text) - self._held(text)]
        if len(text) > len(before) and text.startswith(before):
            self.text = text
        return is_whole or self.text != before

    def _count_whole(self, tokens: Sequence[int]) -> int:
        """Tokens before a run of bytes at the end, whose characters may depend on what follows."""
        count = len(tokens)
        while count and self._may_join(tokens[count - 1]):
            count -= 1
        return count

    def _may_join(self, token: int) -> bool:
        """Whether ``token`` is such a byte, or is left out of the text so that bytes meet over it."""
        added = self._tokenizer.added_tokens.get(token)
        return added.special if added is not None else self._tokenizer.is_part(token)

    def _held(self, text: str) -> int:
        """Characters at the end that a stop string may begin with."""
        return max(
            (
                size
                for stop in self._stops
                for size in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:size])
            ),
            default=0,
        )
