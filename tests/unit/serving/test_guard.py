"""Who may ask: Host, Origin and key; how many at once; what a fault tells and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from megatron_dream.serving.guard import Access
from tests.unit.serving.conftest import Connection, Served, held, until

Serve = Callable[..., Served]
KEY = "0123456789abcdef-key"


def get(served: Served, path: str = "/v1/models", **headers: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with served.client() as client:
            named = {k.replace("_", "-"): v.encode("latin-1") for k, v in headers.items()}
            return await client.get(path, headers=named)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "dream.example:80"]
)
def test_our_hosts(serve: Serve, host: str) -> None:
    served = serve(Access(names=frozenset({"dream.example"})))
    assert get(served, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.5", "", "[", "a@b"],
)  # fmt: skip
def test_other_hosts(serve: Serve, host: str) -> None:
    served = serve(Access(names=frozenset({"dream.example"})))
    for path in ("/", "/v1/models", "/healthz", "/metrics"):
        answer = get(served, path, Host=host)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "host"


def test_addresses_are_hosts_of_an_open_server(serve: Serve) -> None:
    served = serve(Access(accepts_addresses=True))
    assert get(served, Host="10.0.0.5:8000").status_code == 200
    assert get(served, Host="evil.example").status_code == 403


def test_other_sites_pages_are_refused(serve: Serve) -> None:
    served = serve()
    assert get(served, Origin="http://127.0.0.1:8000").status_code == 200
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        answer = get(served, **headers)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin", headers
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert get(served, "/", Sec_Fetch_Site="cross-site").status_code == 200  # a link to the page


def test_a_form_of_another_site_cannot_ask(serve: Serve) -> None:
    """A form needs no permission to send text/plain, and old browsers send no Origin."""
    served = serve()

    async def ask() -> httpx.Response:
        async with served.client() as client:
            body = b'{"prompt": "a", "max_tokens": 2}'
            return await client.post(
                "/v1/completions", content=body, headers={"Content-Type": "text/plain"}
            )

    assert asyncio.run(ask()).status_code == 415


def test_key(serve: Serve) -> None:
    served = serve(Access(key=KEY))
    assert get(served, Authorization=f"Bearer {KEY}").status_code == 200
    for header in (
        "",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Basic {KEY}",
        KEY,
        "Bearer ü",
    ):
        for path in ("/v1/models", "/metrics", "/nothing"):
            answer = get(served, path, Authorization=header)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["connection"] == "close"
    for path in ("/", "/healthz", "/readyz"):
        assert get(served, path).status_code == 200
    assert "tiny" not in get(served, "/").text and "tiny" in get(serve(), "/").text


def test_headers(serve: Serve) -> None:
    for path in ("/", "/v1/models", "/nothing"):
        headers = get(serve(), path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY" and headers["cache-control"] == "no-store"
    policy = get(serve(), "/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_so_many_requests_are_open_and_no_more(serve: Serve) -> None:
    served = serve(max_queue=2)

    async def ask() -> None:
        with held(served.model):
            first = [
                Connection(served.app, "/v1/completions", prompt="a", max_tokens=2) for _ in "ab"
            ]
            await until(lambda: served.model.sizes)
            third = Connection(served.app, "/v1/completions", prompt="a", max_tokens=2)
            await third.task
            assert third.status == 503 and b"queue_full" in third.body
            assert (b"retry-after", b"1") in third.sent[0]["headers"]
            async with served.client() as client:
                assert (await client.get("/readyz")).status_code == 200  # looks are always free
        await asyncio.gather(*(connection.task for connection in first))
        assert [connection.status for connection in first] == [200, 200]
        fourth = Connection(served.app, "/v1/completions", prompt="a", max_tokens=2)
        await fourth.task
        assert fourth.status == 200

    asyncio.run(ask())


def test_a_fault_of_ours_tells_no_prompt(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()

    def fail(*arguments: object, **options: object) -> None:
        raise KeyError("secret prompt")

    monkeypatch.setattr(type(served.service.reader), "job", fail)
    answer = served.post("/v1/completions", prompt="secret prompt")
    assert answer.status_code == 500 and "secret" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-should-retry"] == "false"
    assert "KeyError" in caplog.text and "secret" not in caplog.text


def test_unknown_paths_and_methods(serve: Serve) -> None:
    served = serve()
    assert get(served, "/docs").status_code == get(served, "/openapi.json").status_code == 404
    assert get(served, "/v1/completions").status_code == 405
    assert get(served, "/v1/completions").headers["allow"] == "POST"
    assert get(served, "/v1/models/tiny").json()["id"] == "tiny"
    assert get(served, "/v1/models/other").status_code == 404
    assert get(served, "/v1/completions").json()["error"]["type"] == "invalid_request_error"
    metrics = get(served, "/metrics").text
    assert 'path="other",status="404"} 3.0' in metrics and "/docs" not in metrics
