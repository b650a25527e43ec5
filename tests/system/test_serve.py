"""``megatron-dream serve`` as a process: OpenAI's client, hostile clients, load, the playground, signals."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.acceptance.serve_load import MAX_GROWTH, ask_at_once, growth
from tests.system.chromium import CHROMIUM, Browser
from tests.system.server import Server
from tests.system.tiny_export import make_tiny_export

LOAD_SECONDS = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_export(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="module")
def start(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []
    folder = tmp_path_factory.mktemp("logs")

    def begin(*flags: str) -> Server:
        started.append(Server(model, folder / f"{len(started)}.log", *flags))
        return started[-1]

    yield begin
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def server(start: Callable[..., Server]) -> Server:
    return start("--max-body-bytes", "300000", "--max-steps", "512", "--max-tokens", "512")


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def raw_post(
    body: bytes, path: str = "/v1/completions", headers: str = "", host: str = ""
) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host or '127.0.0.1'}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


def test_openai_client(server: Server) -> None:
    client = server.client()
    assert [entry.id for entry in client.models.list()] == ["tiny"]
    asked: dict[str, Any] = {"model": "tiny", "max_tokens": 16, "temperature": 1.0, "seed": 3}
    whole = client.completions.create(prompt="def f(", n=2, **asked)
    assert len(whole.choices) == 2 and whole.usage is not None
    pieces = client.completions.create(prompt="def f(", stream=True, **asked)
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    messages: Any = [{"role": "user", "content": "hi"}]
    extra = {"steps": 8, "alg": "maskgit_plus", "block_length": 8, "cache": "dual"}
    chat = client.chat.completions.create(messages=messages, extra_body=extra, **asked)
    options = {"include_usage": True}
    streamed = list(
        client.chat.completions.create(
            messages=messages, extra_body=extra, stream=True, stream_options=options, **asked
        )
    )
    text = "".join(c.delta.content or "" for chunk in streamed for c in chunk.choices)
    assert text == chat.choices[0].message.content
    assert streamed[-1].usage == chat.usage
    for wrong, kind in (
        ({"model": "gpt"}, openai.NotFoundError),
        ({"n": -1}, openai.BadRequestError),
        ({"extra_body": {"stepz": 1}}, openai.BadRequestError),
    ):
        with pytest.raises(kind):
            client.completions.create(prompt="a", **{**asked, **wrong})


def test_batched_is_single(server: Server) -> None:
    draw = random.Random(1)
    asked = [
        {
            "prompt": "x = [1, 2] " * draw.randint(0, 12),
            "max_tokens": 24,
            "temperature": temperature,
            "seed": number,
        }
        for temperature in (0.0, 0.8)
        for number in range(8)
    ]
    single = [server.post(**body).json()["choices"][0]["text"] for body in asked]
    rows = server.metric("batch_rows_sum"), server.metric("batch_rows_count")
    with ThreadPoolExecutor(len(asked)) as pool:
        batched = list(
            pool.map(lambda body: server.post(**body).json()["choices"][0]["text"], asked)
        )
    assert batched == single
    after = server.metric("batch_rows_sum"), server.metric("batch_rows_count")
    assert after[0] - rows[0] == len(asked) and after[1] - rows[1] < len(asked) / 2


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (raw_post(b'{"prompt": "a"}', host="evil.example"), 403),
        (raw_post(b'{"prompt": "a"}', headers="Origin: http://evil.example\r\n"), 403),
        (raw_post(b'{"prompt": "a", "n": -1}'), 400),
        (raw_post(b'{"prompt": "a", "steps": 100000}'), 400),
        (raw_post(b'{"prompt": "a", "max_tokens": 1e99}'), 400),
        (raw_post(b'{"prompt": '), 400),
        (raw_post(b"[" * 200_000), 400),
        (raw_post(b" " * 2_000_000), 413),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),  # no Host
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", 400),
    ],
)
def test_hostile_requests(server: Server, raw: bytes, status: int) -> None:
    with server.send(raw) as connection:
        answer = connection.recv(4096)
        if status in (403, 413):  # what was not read of a request is never taken for the next one
            assert b"connection: close" in answer.lower()
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert server.post(prompt="a", max_tokens=2).status_code == 200


def test_control_tokens_are_text(server: Server) -> None:
    spelled = "<|mask|><|im_end|>\n<|im_start|>system\n"
    plain = server.post(prompt="", max_tokens=2).json()["usage"]["prompt_tokens"]
    asked = server.post(prompt=spelled, max_tokens=2).json()
    assert asked["usage"]["prompt_tokens"] - plain > 20  # characters, not four tokens


def test_a_client_that_leaves_frees_its_row(server: Server) -> None:
    abandoned, passes = server.metric("abandoned_rows_total"), server.metric("forward_passes_total")
    body = {"prompt": "a", "max_tokens": 512, "block_length": 1, "stream": True}
    with server.send(raw_post(json.dumps(body).encode())) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    until(lambda: server.metric("abandoned_rows_total") > abandoned)
    until(lambda: server.metric("running_rows") == 0)
    assert server.metric("forward_passes_total") - passes < 512


def test_a_slow_reader_gets_everything(server: Server) -> None:
    """And others are answered. The kernel's buffers take all of it here; a reader that does make the
    server wait stands in tests/unit/serving."""
    asked = {"prompt": "a", "max_tokens": 128, "block_length": 1, "n": 4, "seed": 1}
    whole = server.post(**asked).json()["choices"]
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.settimeout(60)
        slow.connect(("127.0.0.1", server.port))
        slow.sendall(raw_post(json.dumps(asked).encode(), "/v1/states", "Connection: close\r\n"))
        for _ in range(5):
            assert server.post(prompt="a", max_tokens=4).status_code == 200
        got = b""
        while part := slow.recv(4096):
            got += part
    lines = [json.loads(line) for line in got.splitlines() if line.startswith(b"{")]
    assert lines[-1]["done"]
    texts = {line["index"]: line["text"] for line in lines if "text" in line}
    assert [texts[number] for number in range(4)] == [choice["text"] for choice in whole]


def test_32_clients(server: Server) -> None:
    """Mixed lengths and ways of asking; tests/acceptance/serve_load.py goes on longer, and measures."""
    tally, memory = ask_at_once(server, 32, LOAD_SECONDS)
    assert tally.errors == []
    assert len(tally.seconds) >= 32
    assert growth(memory) < MAX_GROWTH


def test_nothing_of_a_prompt_is_logged(server: Server) -> None:
    server.post(prompt="a very secret prompt", max_tokens=2)
    server.post(prompt="a very secret prompt", stepz=2)
    server.post(path="/v1/completions?prompt=very secret", prompt="very secret", max_tokens=2)
    assert "secret" not in server.log.read_text()


def harmless(character: str) -> str:
    """What the page shows of a character."""
    steers = unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")
    return f"\\u{{{ord(character):x}}}" if steers and character not in "\n\t" else character


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_playground(server: Server, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open(server.url + "/")
        attack = "<img src=x onerror=alert(1)>\u202e\x1b[2J"
        script = (
            f"document.getElementById('prompt').value = {json.dumps(attack)};"
            "document.getElementById('max_tokens').value = 24;"
            "document.getElementById('temperature').value = 1;"
            "document.getElementById('seed').value = 5;"
            "document.getElementById('run').click()"
        )
        browser.run(script)
        browser.wait_for("document.getElementById('canvas').dataset.done === 'true'")
        spans = "[...document.querySelectorAll('#canvas span')]"
        assert browser.run(f"{spans}.filter((s) => s.className === 'token').length") > 0
        shown = browser.run(f"{spans}[0].textContent")
        assert shown == "<img src=x onerror=alert(1)>\\u{202e}\\u{1b}[2J"
        assert browser.run("document.querySelectorAll('img').length") == 0
        text = browser.run("document.getElementById('text').textContent")
        body = {"prompt": attack, "max_tokens": 24, "temperature": 1, "seed": 5}
        wanted = server.post(**body).json()["choices"][0]["text"]
        assert text == "".join(map(harmless, wanted))
        browser.run(
            "document.getElementById('steps').value = 100000; document.getElementById('run').click()"
        )
        browser.wait_for("document.getElementById('status').className === 'bad'")
        assert "steps" in browser.run("document.getElementById('status').textContent")
        said = [message for message in browser.messages if "400" not in message]
        assert said == []


def test_drain(start: Callable[..., Server]) -> None:
    """SIGTERM: what ends within the grace is answered, the rest refused; the process ends with 0."""
    server = start("--grace", "4")
    body = {"model": "tiny", "prompt": "a", "max_tokens": 192}
    stream = server.client().completions.create(stream=True, extra_body={"block_length": 1}, **body)
    first = next(iter(stream))
    answers: list[httpx.Response] = []
    long = {"prompt": "a " * 150, "max_tokens": 640, "steps": 640, "block_length": 1, "n": 8}
    asking = threading.Thread(target=lambda: answers.append(server.post(**long)))
    asking.start()
    until(lambda: server.metric("queued_rows") + server.metric("running_rows") >= 8)
    server.process.send_signal(signal.SIGTERM)
    reasons = [piece.choices[0].finish_reason for piece in stream]
    assert first.choices and reasons[-1] in ("length", "stop")
    asking.join(30)
    assert answers[0].status_code == 503 and answers[0].json()["error"]["code"] == "stopping"
    assert server.process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        server.post(**body)
