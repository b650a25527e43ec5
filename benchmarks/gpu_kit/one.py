"""One case in a process of its own: ``python -m benchmarks.gpu_kit.one SPEC.json OUT.json``.

SPEC names a function, as ``module:function`` of this folder, and its arguments. Every process writes how it
ended, the first the result; then ``runner.py`` tells an out-of-memory case from a broken one.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

OK, SKIPPED, REFUSED, OUT_OF_MEMORY, FAILED = "ok", "skipped", "refused", "out of memory", "failed"
_NO_MEMORY = ("out of memory", "cublas_status_alloc_failed", "cannot allocate memory")


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """The result of a case, with its ``status``; raises nothing."""
    from megatron_dream.errors import UserError

    from .skip import SkipCase

    try:
        module, name = spec["job"].split(":")
        function = getattr(importlib.import_module(f"benchmarks.gpu_kit.{module}"), name)
        found: dict[str, Any] = function(**spec["arguments"])
    except SkipCase as reason:
        return {"status": SKIPPED, "detail": str(reason)}
    except UserError as error:
        return {"status": REFUSED, "detail": str(error)}
    except Exception as error:
        if is_out_of_memory(error):
            return {"status": OUT_OF_MEMORY, "detail": _first_line(error)}
        return {"status": FAILED, "detail": "".join(traceback.format_exception(error)[-6:])[-2000:]}
    return {"status": OK, **found}


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: of torch, of a library, of the host."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(
        words in str(error).lower() for words in _NO_MEMORY
    )


def rank_file(out: Path, rank: int) -> Path:
    """What a process other than the first writes where it did not end well."""
    return out.with_name(f"{out.stem}.rank{rank}.json")


def main() -> int:
    """0 where the case ended well or was skipped."""
    from megatron_dream import parallel
    from megatron_dream.files import write_json

    spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    rank = int(os.environ.get("RANK", "0"))
    found = run(spec)
    is_bad = found["status"] not in (OK, SKIPPED)
    if rank == 0 or is_bad:
        write_json(out if rank == 0 else rank_file(out, rank), found)
    if is_bad:
        sys.stderr.write(f"{found['status']}: {found['detail']}\n")
        sys.stderr.flush()
        os._exit(1)  # the others hang in a collective: nothing to be polite to
    parallel.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
