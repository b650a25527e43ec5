#!/bin/bash
# shellcheck disable=SC2034  # the test's file reads what is set here
# Stands in for the interpreter in tests of the Slurm scripts: says what they ask for, then behaves as a
# file of the test says, by rank and start. Called as `python -m megatron_dream VERB ...`.
[ "$1 $2" = "-m megatron_dream" ] || exit 2
[ -z "${BREAKS:-}" ] || [ -n "${SLURM_RESTART_COUNT:-}" ] || exit 1
verb="$3"
if [ "$4" = --print-config ]; then
    printf 'parallel:\n  pipeline_model_parallel_size: 1\ncheckpoint:\n  run_folder: %s\n' "$STAND_IN/run"
    printf 'watch:\n  max_starts_without_progress: %s\n' "${MOST_STARTS:-3}"
    exit 0
fi
start="${SLURM_RESTART_COUNT:-0}"
folder="$STAND_IN"
save() { # STEP: what a complete checkpoint leaves
    mkdir -p "$folder/run/checkpoints"
    printf 'step_%08d' "$1" >"$folder/run/checkpoints/latest"
}
# shellcheck source=/dev/null
. "$STAND_IN/behaviour.sh"
