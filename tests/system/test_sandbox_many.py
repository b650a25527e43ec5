"""Many programs through one judge; tests/acceptance/judge_many.py says what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.judge_many import judge_many


@pytest.mark.parametrize(
    "count", [600, pytest.param(10_000, marks=pytest.mark.acceptance)], ids=["600", "10000"]
)
def test_many_programs_leave_nothing_and_nothing_grows(shared_data: Path, count: int) -> None:
    assert judge_many(shared_data, count) == []
