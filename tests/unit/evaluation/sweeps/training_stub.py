"""Stands for a training stage in tests: writes what one leaves behind, in no time, from its flags.

Cross-entropy falls with the steps and depends on the field diffusion.cart_p, so that arms differ. With a file
``fail`` beside the run it stops once before the end (with ``hush`` and says that all is well), with ``wait``
it waits until it is told to end.
"""

import json
import signal
import sys
import time
from pathlib import Path

CONFIG = """
model: {num_layers: 2, hidden_size: 8, ffn_hidden_size: 16, vocab_size: 32, num_attention_heads: 2,
        num_query_groups: 2}
training: {train_steps: 4}
"""
STEPS, WIDTH, ROWS, MASKED = 4, 10, 3, 12


def main() -> None:
    """As a stage: verb, then flags and values."""
    flags = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    run = Path(flags["--checkpoint.run_folder"])
    (run / "checkpoints" / "step_4").mkdir(parents=True, exist_ok=True)
    with open(run.parent / "calls.txt", "a") as stream:
        stream.write(f"{sys.argv[1]} {flags.get('--checkpoint.init_from', '-')}\n")
    if (run.parent / "wait").exists():
        signal.signal(signal.SIGTERM, lambda *_: None)
        (run.parent / "started").touch()
        signal.pause()
        time.sleep(0.3)  # saves its checkpoint
        (run.parent / "ended").touch()
        sys.exit(75)
    (run / "config.yaml").write_text(CONFIG)
    level = float(flags.get("--diffusion.cart_p", 0.5)) + 0.01 * int(flags["--data.seed"])
    with open(run / "log.jsonl", "a") as stream:
        for step in range(1, STEPS + 1):
            facts = {"time": 1.0, "positions": WIDTH * ROWS, "rows": ROWS, "masked_tokens": MASKED}
            stream.write(json.dumps({"event": "step", "step": step, **facts}) + "\n")
            if step % 2 == 0:
                told = {"masked_cross_entropy": level + 1 / step, "bound_per_token": 2 * level}
                told |= {"accuracy": 0.5, "time": 1.0, "event": "validation", "step": step}
                stream.write(json.dumps(told) + "\n")
            if step == 3 and (run.parent / "fail").exists():
                (run.parent / "fail").unlink()
                print("no room left")
                sys.exit(0 if (run.parent / "hush").exists() else 3)


main()
