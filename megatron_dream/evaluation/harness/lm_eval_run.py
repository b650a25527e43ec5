r"""lm_eval's own command line with our models known to it; in the overlay environment.

python -m megatron_dream.evaluation.harness.lm_eval_run run --model megatron_dream \
        --model_args pretrained=FOLDER,mc_num=128 --tasks hellaswag --output_path OUT
"""

from __future__ import annotations

import sys


def main() -> None:
    """Register ``megatron_dream``, then hand over."""
    from lm_eval.__main__ import cli_evaluate

    from . import lm_eval_model  # noqa: F401  registers itself

    sys.argv[0] = "lm_eval"
    cli_evaluate()


if __name__ == "__main__":
    main()
