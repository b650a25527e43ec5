"""``megatron-dream serve``: load, bind, answer until a signal, drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ..errors import ConfigError, MissingDependencyError

try:
    import uvicorn

    from .app import make_app, make_service
except ImportError as missing:
    raise MissingDependencyError(
        f"serve needs {missing.name}: pip install 'megatron-dream[serve]'"
    ) from None
from ..evaluation.sampler import load_model
from ..sampling.kernels import compile_for
from .engine import Engine
from .guard import Access
from .limits import Limits

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MIN_KEY = 16
_STALLED_MS = 60_000  # a peer that takes nothing for so long is cut off by the kernel
_COMPILED_ROWS = 8192  # of a pass: more than batches of usual lengths have
_FORCE_SECONDS = 2  # after the grace, for answers that say that the server stops


def run_serve(
    model: Path | str,
    port: int = 8000,
    host: str = "127.0.0.1",
    *,
    key_file: Path | None = None,
    insecure: bool = False,
    allow_host: list[str] | None = None,
    model_name: str | None = None,
    grace: float = 30.0,
    weights: str | None = None,
    **limits: Any,
) -> None:
    """Serve a model until SIGTERM (then returns) or Ctrl-C.

    Args:
        model: exported folder or checkpoint.
        port: 0: any free one; the line on standard output says which.
        host: address to listen at; beyond this machine only with ``key_file`` or ``insecure``.
        key_file: a file whose only line is the key that clients send.
        insecure: no key at another address than this machine's own.
        allow_host: further names by which clients call the server.
        model_name: that clients ask for; default: the folder's name.
        grace: seconds for open requests after a signal.
        weights: see load_model.
        limits: fields of ``Limits``.

    Raises:
        UserError: model, address, key or limits are not what they should be.
        KeyboardInterrupt: Ctrl-C, after the drain.
    """
    access = _access(host, key_file, insecure, allow_host or [])
    chosen = replace(Limits(), **limits)
    _check(chosen, grace)
    listening = _bind(host, port)
    with listening:
        sampler = load_model(model, weights)
        service = make_service(sampler, model_name or Path(model).resolve().name, chosen)
        _compile_ahead(sampler.model, chosen)
        service.engine.start()
        try:
            _serve(make_app(service, access), service.engine, listening, grace)
        finally:
            service.engine.close()


def _compile_ahead(model: Any, limits: Limits) -> None:
    module = getattr(model, "model", model)  # a checkpoint's lies within
    if isinstance(module, torch.nn.Module):
        compile_for(module, min(limits.max_batch_tokens, _COMPILED_ROWS))


def _access(host: str, key_file: Path | None, insecure: bool, names: list[str]) -> Access:
    is_local = host in _LOOPBACK
    if key_file is not None and insecure:
        raise ConfigError("--key-file and --insecure exclude each other; give one of them")
    if not is_local and key_file is None and not insecure:
        raise ConfigError(
            f"--host {host} lets other machines in; give --key-file FILE, or --insecure if the "
            "network is yours alone"
        )
    key = _read_key(key_file) if key_file is not None else None
    return Access(key, frozenset(name.lower() for name in names), accepts_addresses=not is_local)


def _read_key(path: Path) -> str:
    key = Path(path).read_text(encoding="utf-8", errors="replace").strip()
    if len(key) < _MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{path} holds no key: write one line of at least {_MIN_KEY} letters and digits, such as "
            "`openssl rand -hex 32` prints"
        )
    return key


def _check(limits: Limits, grace: float) -> None:
    for name, value in {**vars(limits), "grace": grace}.items():
        if value < 0 or (value == 0 and name not in ("grace", "batch_wait")):
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; give a number over 0")
    if limits.max_choices < 1 or limits.max_batch < 1:
        raise ConfigError("--max-batch and --max-choices are counts; give at least 1")


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket, before the model is loaded: a port that is taken is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted connections inherit both: peers that are gone or never read are let go.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STALLED_MS)
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise ConfigError(
            f"--host {host} --port {port} cannot be listened at ({reason}); choose another"
        ) from None
    return listening


class _Server(uvicorn.Server):
    """uvicorn that drains within the grace and tells which signal came."""

    def __init__(self, config: uvicorn.Config, engine: Engine, grace: float) -> None:
        super().__init__(config)
        self._engine, self._grace = engine, grace
        self.signal: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, a second Ctrl-C ends at once."""
        self._engine.stop()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self.signal = sig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let open requests finish; what is open after the grace is refused."""
        loop = asyncio.get_running_loop()
        refusing = loop.call_later(self._grace, self._engine.close, 0.0)
        try:
            await super().shutdown(sockets)
        finally:
            refusing.cancel()


def _serve(app: Any, engine: Engine, listening: socket.socket, grace: float) -> None:
    # No log of requests: a path or a message may hold what a person wrote.
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s"
    )
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(grace) + _FORCE_SECONDS,
    )
    server = _Server(config, engine, grace)
    host, port = listening.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    listening.listen(config.backlog)
    print(f"listening at http://{name}:{port}/", flush=True)
    server.run(sockets=[listening])
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt
