"""Shared fixtures, and the rule that CI may not skip what an absent tool would have tested."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# one thread a process: tests start several processes on few cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# no test may fail because the machine is slow; under CI the parent is hypothesis's own profile for it
hypothesis.settings.register_profile("unhurried", parent=hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")

# importlib mode adds no paths: helpers in tests/ are imported as `tests.parallel.pool`
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


from tests.warm import WarmStarter  # noqa: E402


@pytest.fixture(scope="session")
def warm() -> Iterator[WarmStarter]:
    """Starts processes that have torch and megatron-core imported already."""
    starter = WarmStarter()
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def repository_root():
    return ROOT


@pytest.fixture(scope="session")
def shared_data():
    """Folder of the published data that some tests read; not part of the repository."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the test data folder ../shared/data is not beside this checkout")
    return folder


def _refuse_skip(report):
    """With CI=true a skip whose reason begins with "needs " (an absent tool) is a failure."""
    if not report.skipped or os.environ.get("CI") != "true" or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
    reason = reason.removeprefix("Skipped: ")
    if reason.startswith("needs "):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: CI must not skip this: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    _refuse_skip(report)
    return report
