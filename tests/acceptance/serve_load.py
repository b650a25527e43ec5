"""32 clients of mixed lengths against ``megatron-dream serve``: errors, memory, waiting, speed.

A model of random weights (0.7M parameters) is served in a process of its own. Half of the requests want
their answer whole, others in pieces or state by state, some leave after the first piece. First one
client asks one request after the other, then 32 ask the same mix at once for ``--seconds``. Memory is
the server's resident set: the mean of the last tenth of the run against that of the tenth that follows
the first.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.system.server import Server  # noqa: E402
from tests.system.tiny_export import make_tiny_export  # noqa: E402

NEW_TOKENS = (16, 32, 64)
MAX_GROWTH = 0.05


@dataclass
class Tally:
    """What clients saw."""

    seconds: list[float] = field(default_factory=list)
    elapsed: float = 0.0  # from the first request to the last answer
    tokens: int = 0
    errors: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Put two together."""
        self.seconds += other.seconds
        self.tokens += other.tokens
        self.errors += other.errors
        self.elapsed = max(self.elapsed, other.elapsed)


def ask(server: Server, seed: int, until: float) -> Tally:
    """One client: requests of mixed lengths, one after the other, whole, streamed and given up."""
    draw, tally, begun = random.Random(seed), Tally(), time.monotonic()
    while time.monotonic() < until:
        body = {
            "prompt": "def f(x): return x + 1\n" * draw.randint(0, 12),
            "max_tokens": draw.choice(NEW_TOKENS),
            "temperature": draw.choice((0.0, 0.0, 0.8)),
            "seed": draw.randrange(1000),
        }
        started = time.monotonic()
        try:
            tokens = draw.choice(WAYS)(server, body)
        except Exception as error:
            tally.errors.append(repr(error))
            continue
        if tokens is not None:
            tally.tokens += tokens
            tally.seconds.append(time.monotonic() - started)
    tally.elapsed = time.monotonic() - begun
    return tally


def _whole(server: Server, body: dict[str, Any]) -> int | None:
    """One answer; its tokens."""
    answer = server.post(**body)
    if answer.status_code != 200:
        raise RuntimeError(f"{answer.status_code} {answer.text[:200]}")
    return int(answer.json()["usage"]["completion_tokens"])


def _streamed(server: Server, body: dict[str, Any]) -> int | None:
    """The same in pieces."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with server.http.stream("POST", "/v1/completions", json={**body, **options}) as answer:
        lines = [line for line in answer.iter_lines() if line]
    if lines[-1] != "data: [DONE]":
        raise RuntimeError(f"the stream ends with {lines[-1][:200]}")
    return int(json.loads(lines[-2].removeprefix("data: "))["usage"]["completion_tokens"])


def _states(server: Server, body: dict[str, Any]) -> int | None:
    """What every step opens."""
    answer = server.post("/v1/states", **body)
    last = json.loads(answer.text.splitlines()[-1])
    if not last.get("done"):
        raise RuntimeError(f"{answer.status_code} {answer.text[-200:]}")
    return int(last["usage"]["completion_tokens"])


def _given_up(server: Server, body: dict[str, Any]) -> int | None:
    """A client that leaves after the first piece."""
    with server.http.stream("POST", "/v1/states", json=body) as answer:
        next(answer.iter_lines())
    return None


WAYS = (_whole, _whole, _whole, _whole, _streamed, _streamed, _states, _given_up)


def ask_at_once(server: Server, clients: int, seconds: float) -> tuple[Tally, list[float]]:
    """All clients, and the server's memory each half second, bytes."""
    total, memory, lock = Tally(), [], threading.Lock()
    until = time.monotonic() + seconds

    def one(number: int) -> None:
        tally = ask(server, number, until)
        with lock:
            total.add(tally)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    process = psutil.Process(server.process.pid)
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        memory.append(float(process.memory_info().rss))
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    return total, memory


def growth(memory: list[float]) -> float:
    """Of the last tenth over the second tenth."""
    tenth = max(1, len(memory) // 10)
    return statistics.mean(memory[-tenth:]) / statistics.mean(memory[tenth : 2 * tenth]) - 1


def percentile(values: list[float], share: float) -> float:
    """By rank; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def main() -> int:
    """Run; 0 if every aim is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_export(Path(folder) / "model", hidden_size=128, num_layers=4)
        server = Server(model, Path(folder) / "log")
        try:
            return measure(server, options.seconds, options.clients)
        finally:
            server.process.terminate()
            server.process.wait(60)


def measure(server: Server, seconds: float, clients: int) -> int:
    """Ask, print, judge."""
    alone_seconds = max(5.0, seconds / 10)
    ask(server, 0, time.monotonic() + 2.0)
    alone = ask(server, 1, time.monotonic() + alone_seconds)
    together, memory = ask_at_once(server, clients, seconds)
    speed_alone, speed = alone.tokens / alone.elapsed, together.tokens / together.elapsed
    grown = growth(memory)
    rows, batches = server.metric("batch_rows_sum"), server.metric("batch_rows_count")
    print(f"{clients} clients, {seconds:g} s, new tokens {NEW_TOKENS}, prompts of 0 to 12 lines")
    for name, tally in (("one by one", alone), ("together", together)):
        p50, p95 = (percentile(tally.seconds, share) for share in (0.5, 0.95))
        print(f"{name}: {len(tally.seconds)} requests, p50 {p50:.2f} s, p95 {p95:.2f} s")
    print(f"rows a batch: {rows / max(1.0, batches):.1f}")
    aims = [
        (f"errors: {len(together.errors)} (aim 0)", not together.errors and not alone.errors),
        (f"memory: {memory[-1] / 2**20:.0f} MiB, grown {grown:+.1%} (aim 5%)", grown <= MAX_GROWTH),
        (
            f"tokens/s: {speed:.0f}, one by one {speed_alone:.0f}, {speed / speed_alone:.2f} times "
            "(aim over 1)",
            speed > speed_alone,
        ),
    ]
    for error in (alone.errors + together.errors)[:5]:
        print(f"  {error}")
    for sentence, is_met in aims:
        print(f"{sentence}: {'met' if is_met else 'missed'}")
    return 0 if all(is_met for _, is_met in aims) else 1


if __name__ == "__main__":
    sys.exit(main())
