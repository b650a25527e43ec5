"""HumanEval in EvalPlus's format: ``python -m ...record_inputs HUMANEVAL OUTPUT.jsonl``.

EvalPlus compares a solution with the reference at recorded inputs. Those of HumanEval's own tests are
recorded here, by running each test on its reference solution; EvalPlus then judges with ``--base-only``.
HumanEval+ itself is a file of EvalPlus's with many more inputs. Runs the benchmark's code: shut it in.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files import atomic_write
from ..benchmarks.files import read_records

_OWN_CHECK = {"find_zero": 1e-4}  # HumanEval's test takes any root to this absolute tolerance


def as_plus(record: dict[str, Any]) -> dict[str, Any]:
    """The record with ``base_input`` and the other fields that EvalPlus asks for.

    Raises:
        DataError: the tests fail on the reference, or call nothing.
    """
    inputs: list[list[Any]] = []
    namespace: dict[str, Any] = {}
    exec(record["prompt"] + record["canonical_solution"], namespace)
    solution = namespace[record["entry_point"]]

    def recorder(*arguments: Any) -> Any:
        inputs.append(copy.deepcopy(list(arguments)))
        return solution(*arguments)

    random.seed(0)  # a few tests draw their inputs
    exec(record["test"], namespace)
    try:
        namespace["check"](recorder)
    except AssertionError as error:
        raise DataError(
            f"{record['task_id']}: its reference fails its own tests {error}."
        ) from None
    if not inputs:
        raise DataError(f"{record['task_id']}: its tests call nothing.")
    return {
        "task_id": record["task_id"],
        "prompt": record["prompt"],
        "entry_point": record["entry_point"],
        "canonical_solution": record["canonical_solution"],
        "contract": "",
        "base_input": inputs,
        "plus_input": [],
        "atol": _OWN_CHECK.get(record["entry_point"], 0),
    }


def _lines(path: Path) -> Iterator[str]:
    for record in read_records(path):
        yield json.dumps(as_plus(record)) + "\n"


def main() -> int:
    """Write the file."""
    source, target = map(Path, sys.argv[1:3])
    with atomic_write(target) as stream:
        stream.writelines(_lines(source))
    return 0


if __name__ == "__main__":
    sys.exit(main())
