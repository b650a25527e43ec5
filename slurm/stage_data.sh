#!/bin/bash
# Copies of a run's token files on the own disk of every node of a job: one task a node.
#
#   slurm/stage_data.sh --to /local/data --config-out staged.yaml --config FILE.yaml [--section.field value ...]
#
# Inside a job (sbatch or salloc). pretrain, sft and rl call it where DREAM_STAGE names the folder. Each
# copy is compared with its source by size and checksum; what an earlier job left is used again.
# Exit codes: 0 copied; 2 bad input; 3 a node has no room (nothing is lost: read the data in place).

: "${SLURM_JOB_ID:?stage_data.sh copies to the nodes of a job; call it inside one}"
# shellcheck source=slurm/lib.sh
. "${DREAM_ROOT:=$PWD}/slurm/lib.sh" || exit 2
load_settings
exec_step --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 -- \
    "$python" "$DREAM_ROOT/tools/stage_data.py" "$@"
