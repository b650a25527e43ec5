"""docs/results.md and docs/results/report.html from docs/results/index.yaml and the files that it names.

python tools/results_page.py                                    what `make results` runs
python tools/results_page.py --whole build/results.html         and one file with the pictures inside
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_dream.evaluation.results.command import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], ROOT / "docs" / "results"))
