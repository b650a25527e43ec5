"""Megatron-LM's ``tools/checkpoint/convert.py`` for the conversions that exist here.

Hugging Face to a checkpoint, back, and from one layout to another:

    convert.py --loader hf --saver mcore --load-dir HF --save-dir CHECKPOINT \
        --target-tensor-parallel-size 2 --target-pipeline-parallel-size 1
    convert.py --loader mcore --saver hf --load-dir CHECKPOINT --save-dir HF
    convert.py --loader mcore --saver mcore --load-dir A --save-dir B ...
"""

import argparse

from megatron_dream.cli import main as run_command


def main() -> int:
    """Parse Megatron-LM's flags and call the verb that does the conversion."""
    parser = argparse.ArgumentParser(description="Convert between checkpoints and Hugging Face.")
    parser.add_argument("--loader", choices=("hf", "mcore"), required=True)
    parser.add_argument("--saver", choices=("hf", "mcore"), required=True)
    parser.add_argument("--load-dir", required=True)
    parser.add_argument("--save-dir", required=True)
    parser.add_argument("--target-tensor-parallel-size", default="1")
    parser.add_argument("--target-pipeline-parallel-size", default="1")
    parser.add_argument("--tokenizer-model", help="for --saver hf: where its tokenizer is")
    options = parser.parse_args()
    if options.loader == options.saver == "hf":
        parser.error("--loader hf --saver hf converts nothing; give mcore for one of them")
    folders = [options.load_dir, options.save_dir]
    if options.saver == "hf":
        tokenizer = ["--tokenizer", options.tokenizer_model] if options.tokenizer_model else []
        return run_command(["export-hf", *folders, *tokenizer])
    sizes = ["--tp", options.target_tensor_parallel_size]
    sizes += ["--pp", options.target_pipeline_parallel_size]
    return run_command(["import-hf" if options.loader == "hf" else "reshard", *folders, *sizes])


if __name__ == "__main__":
    raise SystemExit(main())
