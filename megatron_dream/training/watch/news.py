"""What a run's records mean to people: goodput kept up, and alerts sent."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config.schema import AlertsConfig
from ...errors import DataError
from ..log import RunLog, read_log
from .alerts import Alerts
from .goodput import Account, Ledger
from .stragglers import Straggler

_LOOK_SECONDS = 60.0  # between looks at disk, goodput and the checkpoint's age
_YOUNG_SECONDS = 3600.0  # a run so young has no goodput to speak of
_TOLD = ("fault", "straggler", "end", "stop")  # records that alerts are made of
_QUIET = ("empty_batch",)  # kinds that are told only where they are asked for by name
_MOST_NAMED = 4  # slow ranks in one message


class News:
    """Hears what the log is told, on the rank that speaks.

    Args:
        config: what people want to know.
        folder: of the run.
        log: of the run, its ``start`` written.
        alerts: to people.
    """

    def __init__(self, config: AlertsConfig, folder: Path, log: RunLog, alerts: Alerts) -> None:
        self.config, self.folder, self.log, self.alerts = config, folder, log, alerts
        self._ledger = self._read()
        self._looked = self._last_save = time.monotonic()
        self._step = 0
        log.listen(self._hear)

    def _read(self) -> Ledger:
        """The account of all that the log holds; a disk may have refused it."""
        records: list[dict[str, Any]] = []
        with contextlib.suppress(DataError, OSError):
            records = read_log(self.folder)
        return Ledger(records, time.time())

    def account(self) -> Account:
        """Where the run's time went, up to the last record."""
        return self._ledger.now()

    def slow(self, found: Sequence[Straggler], step: int) -> None:
        """Ranks were found to be slow."""
        message = "; ".join(str(one) for one in found[:_MOST_NAMED])
        if len(found) > _MOST_NAMED:
            message += f"; {len(found) - _MOST_NAMED} more"
        self.log.event("straggler", step, message=message, ranks=[vars(one) for one in found])
        self.log.say(f"slow: {message}")

    def _hear(self, record: dict[str, Any]) -> None:
        if "gone_to" in record:  # steps that were counted are lost now
            self._ledger = self._read()
        else:
            self._ledger.add(record)
        self._step = record["step"]
        event = record["event"]
        if event == "checkpoint":
            self._last_save = time.monotonic()
        if event in _TOLD:
            kind = str(record.get("kind", event))
            if kind in _QUIET and kind not in self.config.kinds:
                return
            said = ("event", "step", "time", "message", "kind")
            facts = {key: value for key, value in record.items() if key not in said}
            self.alerts.send(kind, str(record.get("message", event)), self._step, **facts)

    def look(self) -> None:
        """At what comes slowly: goodput, the disk, the last checkpoint's age; once a minute."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        account = self.account()
        share = account.goodput or 0.0
        if account.total > _YOUNG_SECONDS and share < self.config.low_goodput:
            self._tell("low_goodput", f"goodput is {share:.2f}", **account.parts())
        minutes, bound = (now - self._last_save) / 60.0, self.config.old_checkpoint_minutes
        if bound and minutes > bound:
            self._tell("old_checkpoint", f"the last checkpoint is {minutes:.0f} minutes old")
        if self.config.disk_free_gib:
            free = shutil.disk_usage(self.folder).free / 2**30
            if free < self.config.disk_free_gib:
                self._tell("disk", f"{free:.1f} GiB are free at the run folder", free_gib=free)

    def _tell(self, kind: str, message: str, **facts: Any) -> None:
        self.alerts.send(kind, message, self._step, **facts)
