"""The verb ``plan``: a plan of a run, or with ``--calibrate`` the planner's figures from a report."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError


def plan(given: dict[str, Any], overrides: list[tuple[str, str]]) -> int:
    """Plan or calibrate.

    Args:
        given: flags that were given, by name (flags.py).
        overrides: fields of the configuration, as dotted path and text.

    Returns:
        The exit code.

    Raises:
        ConfigError: flags that do not belong together, or of what is asked.
    """
    if "calibrate" in given:
        from .calibrate_command import run_calibration

        names = ("gpu", "output", "as_json_text")
        others = sorted(given.keys() - {"calibrate", *names})
        if others or overrides:
            raise ConfigError(
                "plan --calibrate REPORT.json takes --gpu, --output and --json alone; leave the rest out."
            )
        own = {name: given[name] for name in names if name in given}
        return run_calibration(given["calibrate"], **own)
    missing = [name for name in ("config", "gpus", "gpu") if name not in given]
    if missing or "output" in given:
        raise ConfigError(
            "plan needs --config FILE.yaml, --gpus N and --gpu NAME; or --calibrate REPORT.json, which may "
            "have --output FILE.yaml."
        )
    from .command import run_plan

    return run_plan(**given, overrides=overrides)
