"""Plan a mixture: the same function as ``megatron-dream plan-data``.

python tools/plan_data.py --recipe examples/dream_coder_7b/mixture.yaml
"""

import sys

from megatron_dream.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["plan-data", *sys.argv[1:]]))
