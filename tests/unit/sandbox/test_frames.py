"""Messages on pipes, whatever pieces they come in."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sandbox.inside.frames import MAX_BYTES, Closed, Incoming, write_frame


def pieces_read(pieces: list[bytes], count: int) -> list[bytes]:
    """So many messages from a pipe into which another thread writes the pieces."""
    reading, writing = os.pipe()

    def write() -> None:
        for piece in pieces:
            os.write(writing, piece)
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        incoming = Incoming(reading)
        return [incoming.read() for _ in range(count)]
    finally:
        thread.join()
        os.close(reading)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=20_000), max_size=5), st.lists(st.integers(1, 9000), min_size=1))
def test_messages_come_back_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(len(message).to_bytes(4, "little") + message for message in messages)
    data = data[:60_000]  # what a pipe holds
    pieces, place, number = [], 0, 0
    while place < len(data):
        pieces.append(data[place : place + cuts[number % len(cuts)]])
        place, number = place + len(pieces[-1]), number + 1
    whole, end = 0, 0
    for message in messages:
        end += 4 + len(message)
        whole += end <= len(data)
    assert pieces_read(pieces, whole) == messages[:whole]


@pytest.mark.parametrize(
    "data", [b"", b"\x01\x00", b"\x05\x00\x00\x00four", (MAX_BYTES + 1).to_bytes(4, "little")]
)
def test_what_is_no_message_is_closed(data: bytes) -> None:
    with pytest.raises(Closed):
        pieces_read([data], 1)


def test_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(Closed):
        write_frame(writing, b"x")
    os.close(writing)
