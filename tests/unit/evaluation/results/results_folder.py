"""A small folder of results for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001000502a7d13a0000000049454e44ae426082"
)
MANIFEST = """
title: What was measured
about: Some words.
sections:
  - title: Training
    entries:
      - title: Speed & size
        shows: Twice as fast <b>indeed</b>.
        misses: ["Size: 3 (aim 2)."]
        command: python benchmarks/speed.py
        commit: a.json#runs.*.commit
        date: "2026-01-02"
        machine: 2 cores
        log: 2026-01-02, a day
        files: [a.md, a.json]
        pictures: [{file: a.png, alt: speed by size}]
  - title: Sweeps
    takes_sweeps: true
"""


def make_folder(where: Path, manifest: str = MANIFEST) -> Path:
    """``where/docs/results`` and the log beside it."""
    folder = where / "docs" / "results"
    folder.mkdir(parents=True)
    (folder.parent / "log.md").write_text("# Log\n\n## 2026-01-02, a day\n\nAt abcdef1: fast.\n")
    (folder / "index.yaml").write_text(manifest)
    (folder / "a.md").write_text(
        "# Title\n\n## Part\n\n| a | b |\n|---|---|\n| 1 | <i>2</i> |\n\n![p](a.png)\n\n[other](b.md)\n"
    )
    runs = {"one": {"commit": COMMIT}, "two": {"commit": COMMIT + "+changes"}}
    (folder / "a.json").write_text(json.dumps({"runs": runs}))
    (folder / "a.png").write_bytes(PIXEL)
    return folder


def add_sweep(folder: Path, name: str, **fields: Any) -> None:
    """The files that the verb ``sweep`` writes."""
    sweeps = folder / "sweeps"
    sweeps.mkdir(exist_ok=True)
    report = {
        "title": f"Sweep {name}", "question": "Does it matter?", "paragraph": "No difference shown.",
        "note": "One model.", "command": f"megatron-dream sweep {name}.yaml", "commits": [COMMIT],
        "first_date": "2026-01-03T01:02:03+00:00", "last_date": "2026-01-04T01:02:03+00:00",
        "machines": [{"cores": 2, "device": "cpu"}], "seconds": 1234.5, "cells": 8, "missing": 0,
        **fields,
    }  # fmt: skip
    (sweeps / f"{name}.json").write_text(json.dumps(report))
    (sweeps / f"{name}.md").write_text("# Title\n\n| t | pass |\n|---|---|\n| 0.1 | 0.5 |\n")
    (sweeps / f"{name}.csv").write_text("t,pass\n0.1,0.5\n")
    (sweeps / f"{name}_summary.csv").write_text("t,pass\n0.1,0.5\n")
    for picture in (f"{name}.png", f"{name}_2.png"):
        (sweeps / picture).write_bytes(PIXEL)
