"""One pool of worker processes for all parallel tests of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pool import WorkerPool  # noqa: E402

from tests.warm import WarmStarter  # noqa: E402


@pytest.fixture(scope="module")
def pool(warm: WarmStarter) -> Iterator[WorkerPool]:
    # Not for the whole session: threads of groups that gloo never ends spin on, and slow what follows.
    workers = WorkerPool(warm=warm)
    yield workers
    workers.close()
