"""What ``status`` says of a run whose steps were done again."""

from megatron_dream.config.schema import LoggingConfig
from megatron_dream.training.log import RunLog
from megatron_dream.training.status import summarise


def test_the_step_is_where_the_run_stands(tmp_path):
    """Not the highest that it was ever at: after going back, and after a start from further back."""
    log = RunLog(tmp_path, LoggingConfig(), 100, enabled=True)
    log.event("start", 0)
    for step in range(1, 6):
        log.event("step", step, loss=float(step), seconds=1.0)
    assert summarise(tmp_path)["step"] == 5
    log.fault(5, "rollback", "gone back", gone_to=2)
    assert summarise(tmp_path)["step"] == 2
    log.event("step", 3, loss=30.0, seconds=1.0)
    assert (summarise(tmp_path)["step"], summarise(tmp_path)["loss"]) == (3, 30.0)
    log.event("start", 1)
    assert (summarise(tmp_path)["step"], summarise(tmp_path)["loss"]) == (1, 1.0)
    log.event("start", 0)
    assert summarise(tmp_path)["step"] == 0
