"""``python -m megatron_dream``: light and guarded, because spawned processes import it again."""

from megatron_dream.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
