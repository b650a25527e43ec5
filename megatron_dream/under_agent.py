"""``python -m megatron_dream.under_agent VERB ...``: one rank under an agent that starts failed ranks again.

An agent knows two ends, 0 and others, and starts all ranks again after any other. Ends that another start
would only meet again, or that ask for a new job, must not be taken for failures: the rank writes its code
into ``ended`` of the folder DREAM_LOGS, for the job's script, and ends with 0. What the others do then does
not matter: once the file is there, ranks that are started again end at once.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from megatron_dream import exit_codes
from megatron_dream.cli import main as command

FINAL = (exit_codes.DONE, exit_codes.BAD_INPUT, exit_codes.AGAIN, exit_codes.INTERRUPTED)


def main() -> int:
    """The rank's exit code for its agent."""
    ended = Path(os.environ["DREAM_LOGS"]) / "ended"
    if ended.exists():
        return exit_codes.DONE
    # A SystemExit goes through: it is of a rank that failed after its agent told it to end because
    # another one had (watch.py), and so comes back with the others.
    code = command()
    if code not in FINAL:
        return code
    with contextlib.suppress(FileExistsError), open(ended, "x", encoding="utf-8") as stream:
        stream.write(f"{code}\n")
    return exit_codes.DONE


if __name__ == "__main__":
    raise SystemExit(main())
