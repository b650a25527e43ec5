"""Copy a run's token files to this node's disk; slurm/stage_data.sh starts it once a node.

python tools/stage_data.py --config FILE.yaml --to /local/data --config-out staged.yaml [--a.field value ...]

Exit codes: 0 the copies are there and checked; 2 bad input; 3 the disk is too small.
"""

import argparse
import os
import sys
from pathlib import Path

from megatron_dream.cli import split_overrides
from megatron_dream.config.load import load_config, save_resolved
from megatron_dream.data.staging import stage, staged_config
from megatron_dream.errors import UserError


def main() -> int:
    """Stage, and write the configuration on the first task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--config-out", type=Path, metavar="FILE.yaml")
    try:
        words, overrides = split_overrides(sys.argv[1:])
        options = parser.parse_args(words)
        config = load_config(options.config, overrides)
        stage(config, options.to, report=lambda line: print(line, flush=True))
        if options.config_out and os.environ.get("SLURM_PROCID", "0") == "0":
            save_resolved(staged_config(config, options.to), options.config_out)
    except UserError as error:
        print(f"error: {os.environ.get('SLURMD_NODENAME', '')} {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
