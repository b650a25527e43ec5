"""What the supervisor works out before it starts a server."""

from __future__ import annotations

import pytest

from megatron_dream.sandbox import engine


@pytest.mark.parametrize(
    ("ids", "is_mapped"),
    [
        ("         0          0 4294967295\n", True),
        ("0 1000 1\n", False),
        ("0 100000 65536\n", False),
        ("0 1000 1\n1 100000 1000065535\n", True),
        ("0 1000 1\n1 100000 1000065534\n", False),
        ("", False),
    ],
)
def test_programs_get_users_where_all_their_ids_exist(ids: str, is_mapped: bool) -> None:
    assert engine.maps_users(ids, 1_000_000_000) is is_mapped
