"""``megatron-dream chat`` on a tiny model: in a terminal that is one, and by lines without."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_dream.errors import DataError
from megatron_dream.evaluation.chat_command import Talk
from megatron_dream.evaluation.generate import sampling_config
from megatron_dream.evaluation.sampler import Sampler
from megatron_dream.evaluation.terminal import open_canvas_text
from tests.unit.evaluation.chat_driver import SlowModel
from tests.unit.evaluation.letters import LetterTokenizer

DRIVER = "tests.unit.evaluation.chat_driver"


class Terminal:
    """A process whose standard streams are a terminal."""

    def __init__(self, root: Path, *arguments: object) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", DRIVER, *map(str, arguments)],
            cwd=root,
            env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=_own_terminal,
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """Read on until ``pattern`` is there; returns what was read."""
        read, end = "", time.monotonic() + seconds
        while not re.search(pattern, read):
            ready, _, _ = select.select([self._ours], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {read!r}"
            try:
                data = os.read(self._ours, 65536)
            except OSError:  # the other side is closed
                data = b""
            assert data, f"ended without {pattern!r}: {read!r}"
            read += data.decode(errors="replace")
        self.seen += read
        return read

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


def _own_terminal() -> None:
    """Make the terminal the process's own, so that Ctrl-C reaches it."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def slow(repository_root: Path) -> Iterator[Terminal]:
    terminal = Terminal(repository_root, 0.15, 200, 8)
    yield terminal
    terminal.close()


def test_tokens_appear_where_they_open_and_ctrl_c_stops_the_answer_alone(slow: Terminal) -> None:
    slow.wait_for("> $")
    slow.type("abc\r")
    shown = slow.wait_for(r"\r?\n> $")
    # canvases between nothing and all: masks beside escaped letters
    frames = [frame.count("░") for frame in re.split(r"\x1b\[2K", shown) if "░" in frame]
    assert frames == sorted(frames, reverse=True) and len(set(frames)) > 4 and max(frames) == 8
    slow.type("abc\r")
    slow.wait_for("░")
    slow.type("\x03")
    slow.wait_for(r"stopped; this turn is not kept[^>]*\n> $")
    slow.type("/what\r")
    slow.wait_for(r"/reset begins anew[^>]*> $")
    slow.type("/reset\r")
    slow.wait_for(r"a new conversation[^>]*> $")
    time.sleep(0.3)  # a signal between the prompt and readline's wait is seen at the next key only
    slow.type("\x03")  # nothing to stop: the line is given up, no more
    slow.wait_for("> $")
    assert slow.process.poll() is None
    slow.type("\x04")
    assert slow.process.wait(20) == 0
    # what the model made did not steer the terminal
    assert "\x1b]0;owned" not in slow.seen and "\\x1b]0;owned\\x07" in slow.seen


def test_exit_and_a_message_that_does_not_fit(repository_root: Path) -> None:
    terminal = Terminal(repository_root, 0, 90, 8)
    try:
        terminal.wait_for("> $")
        terminal.type("a" * 60 + "\r")
        terminal.wait_for(r"takes \d+ tokens with its template, and 82 are\s+left[^>]*> $")
        terminal.type("/exit\r")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()


def test_without_a_terminal_lines_are_answered_plainly(repository_root: Path) -> None:
    command = [sys.executable, "-m", DRIVER, "0", "400", "8"]
    talk = "abc\n\nabc\n/reset\nabc\n/exit\nabc\n"
    done = subprocess.run(
        command, cwd=repository_root, input=talk, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stderr == ""
    first, second, after_reset = done.stdout.removesuffix("\n").split("\n")
    assert first == after_reset != second
    assert len(re.findall(r"\x1b\]0;owned\x07.", first)) == 8 and "░" not in first


def talk_with(max_position: int) -> Talk:
    sampler = Sampler(SlowModel(2), LetterTokenizer(), max_position)  # type: ignore[arg-type]
    config = sampling_config(sampler, max_new_tokens=6, temperature=1.0, seed=3)
    return Talk(sampler, config, system="a")


def test_the_oldest_turns_make_room() -> None:
    # a turn of one letter: 2 marks and the letters of user or assistant (a, d, e, i, m, n ...)
    roomy, tight = talk_with(400), talk_with(70)
    for talk in (roomy, tight):
        for letter in "abcdef":
            *_, answer = talk.ask(letter)
            assert len(answer.text) == 6
    assert [turn["content"] for turn in roomy.turns[::2]] == list("abcdef")
    kept = [turn["content"] for turn in tight.turns[::2]]
    assert kept == list("abcdef")[-len(kept) :] and 1 <= len(kept) < 6
    with pytest.raises(DataError, match="the message takes"):
        next(tight.ask("a" * 60))


def test_what_was_said_changes_the_answer_and_a_stopped_turn_is_not_kept() -> None:
    alone, after, stopped = talk_with(400), talk_with(400), talk_with(400)
    *_, first = alone.ask("b")
    list(after.ask("a"))
    after._num_asked = 0  # the same draws
    *_, second = after.ask("b")
    assert first.text != second.text
    asking = stopped.ask("a")
    next(asking)
    next(asking)
    asking.close()  # type: ignore[attr-defined]
    assert stopped.turns == []
    *_, third = stopped.ask("b")
    assert third.text == first.text


def test_an_answer_grows_up_to_its_end() -> None:
    talk = talk_with(400)
    answers = list(talk.ask("abc"))
    left = [sum(token == talk.config.mask_token_id for token in a.tokens) for a in answers]
    assert left[0] == 6 and left[-1] == 0 and left == sorted(left, reverse=True)
    assert all(len(a.text) == 6 - n for a, n in zip(answers, left, strict=True))
    ended = talk_with(400)
    model = ended.sampler.model
    ask = model.forward

    def ends_third(**inputs: object) -> object:
        logits = ask(**inputs)
        logits[:, -5, 21] = 1000.0  # predicts the third of the six last
        return logits

    model.forward = ends_third
    *_, answer = ended.ask("abc")
    assert len(answer.text) == 2 and len(answer.tokens) == 2


def test_colours_and_escapes_of_a_canvas_on_its_way() -> None:
    text = open_canvas_text(["a", None, "\x1b[2J\n"], [0, -1, 9], 9)
    assert text.plain == "a░\\x1b[2J\n"
    assert [str(span.style) for span in text.spans] == ["bright_blue", "dim", "bright_red"]
