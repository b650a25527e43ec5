"""What the supervisor works out before it starts a server."""

from __future__ import annotations

from pathlib import Path

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


def test_folders_of_packages_are_found_below_libraries(tmp_path: Path) -> None:
    """Once each, whatever leads to them, and not within packages."""
    library = tmp_path / "lib"
    wanted = ["python3/dist-packages", "python3.11/site-packages", "site-packages"]
    for name in (
        *wanted,
        "site-packages/a/site-packages",
        "python3.11/json",
        "other/site-packages",
    ):
        (library / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(library)
    libraries = [str(library), str(tmp_path / "link"), str(library / "python3.11")]
    assert engine.package_folders(libraries) == [f"{library}/{name}" for name in sorted(wanted)]
