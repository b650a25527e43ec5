"""``python -m megatron_dream.cluster.agent``: starts the ranks of its node again (Slurm's mode ``ft``).

The agent itself is torch's (``torchrun``) or that of nvidia-resiliency-ext (``nvrx``, an optional
package), which looks after GPUs and network cards between the starts too. Here are the words they are
called with, and one thing that both lack: a second signal does not break the wait for ranks that save.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from .. import exit_codes

# Module of the agent's command line, and the module that holds its signal handler.
_MODULES = {
    "torchrun": ("torch.distributed.run", "torch.distributed.elastic.multiprocessing.api"),
    "nvrx": (
        "nvidia_resiliency_ext.fault_tolerance.launcher",
        "nvidia_resiliency_ext.fault_tolerance._torch_elastic_compat.multiprocessing.api",
    ),
}
_HANDLER = "_terminate_process_handler"
_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(words: Sequence[str] | None = None) -> int:
    """Run the agent to its end; see ``parse``."""
    options = parse(words)
    command_line, multiprocessing = _MODULES[options.agent]
    try:
        agent, handlers = (importlib.import_module(n) for n in (command_line, multiprocessing))
    except ImportError as error:
        return _refuse(f"DREAM_FT_AGENT={options.agent}: {error}; pip install 'megatron-dream[ft]'")
    known = agent.get_args_parser()._option_string_actions
    if missing := [one for one in agent_options(options) if one.partition("=")[0] not in known]:
        return _refuse(
            f"this release of {command_line} does not know {', '.join(missing)}; take a newer one, or "
            f"DREAM_LAUNCH=srun"
        )
    # A store of its own for every start of the ranks: in a shared one gloo finds addresses of the dead.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    listen_once(handlers)
    try:
        agent.main([*agent_options(options), "-m", "megatron_dream.under_agent", *options.command])
    except handlers.SignalException:
        print("the agent was told to end; its ranks have ended", file=sys.stderr)
        return exit_codes.AGAIN
    return exit_codes.DONE


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, as lib_launch.sh gives them; behind ``--`` the verb of the ranks and its words."""
    parser = argparse.ArgumentParser(prog="megatron_dream.cluster.agent")
    parser.add_argument("--agent", choices=tuple(_MODULES), default="torchrun")
    parser.add_argument("--nodes", type=int, required=True, help="that train; others are spare")
    parser.add_argument("--ranks-per-node", type=int, required=True)
    parser.add_argument("--id", required=True, help="of this start of the job")
    parser.add_argument("--endpoint", required=True, help="HOST:PORT where agents meet")
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--save-seconds", type=int, default=540, help="ranks have after a signal")
    parser.add_argument("--logs", required=True, metavar="FOLDER")
    parser.add_argument("command", nargs="+", help="verb of the ranks and its words")
    return parser.parse_args(words)


def agent_options(options: argparse.Namespace) -> list[str]:
    """The agent's own part of its command line."""
    seconds = str(options.save_seconds)
    own = {
        "torchrun": [f"--shutdown-timeout={seconds}"],
        # Hangs are found by the ranks' own watchdog, which knows phases; it needs no heartbeats here.
        "nvrx": [
            f"--term-timeout={seconds}",
            "--ft-initial-rank-heartbeat-timeout=inf",
            "--ft-rank-heartbeat-timeout=inf",
        ],
    }[options.agent]
    return [
        f"--nnodes={options.nodes}:{options.nodes}",
        f"--nproc-per-node={options.ranks_per_node}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={options.endpoint}",
        f"--rdzv-id={options.id}",
        f"--max-restarts={options.restarts}",
        f"--log-dir={options.logs}/agents",
        "--redirects=3",
        "--tee=0:3",
        *own,
    ]


def listen_once(handlers: Any) -> None:
    """Let the agent hear USR1 too, and no further signal after the first.

    The first makes the agent pass TERM to its ranks and wait while they save. A second one would raise
    inside that wait, end the agent, and with it, by Slurm, the ranks.
    """
    first = getattr(handlers, _HANDLER)

    def once(number: int, frame: FrameType | None) -> None:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        first(signal.SIGTERM, frame)

    setattr(handlers, _HANDLER, once)
    for number in _SIGNALS:  # the agent sets those that it knows again when it starts ranks
        signal.signal(number, once)


def _refuse(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return exit_codes.BAD_INPUT


if __name__ == "__main__":
    raise SystemExit(main())
