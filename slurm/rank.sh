#!/bin/bash
# One task of a step: limits, node-local caches, a log file of its own; then it becomes the program, so
# that Slurm's signals and exit codes are the program's. lib.sh starts it: rank.sh COMMAND...
#
# DREAM_LOGS     folder of log files, one a rank; unset: the job's log
# DREAM_SHOWN    ranks that are shown in the job's log too, as ",0,12,"
# DREAM_IMAGE    of Apptainer, with DREAM_BIND; empty: none, or Slurm has entered a container already
set -euo pipefail

# RDMA pins memory; where the hard limit forbids it, the node report says so.
ulimit -l unlimited 2>/dev/null || true
ulimit -n "$(ulimit -H -n)" 2>/dev/null || true

# A place that sbatch took along from where it was called (torchrun, a shell of another job): srun's holds.
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK ROLE_RANK "${!TORCHELASTIC_@}"

# What is compiled at run time lies on the node's own disk: thousands of ranks in one shared folder would
# wait for one another. It stays there for the next job.
cache="$DREAM_LOCAL/megatron-dream-$(id -u)"
mkdir -p "$cache"
export TRITON_CACHE_DIR="$cache/triton" TORCHINDUCTOR_CACHE_DIR="$cache/inductor"
export CUDA_CACHE_PATH="$cache/cuda" TORCH_EXTENSIONS_DIR="$cache/extensions"

if [ -n "${DREAM_LOGS:-}" ]; then
    log="$(printf '%s/rank-%05d.log' "$DREAM_LOGS" "${SLURM_PROCID:-0}")"
    printf '%(%F %T)T rank %s on %s, process %s\n' -1 "${SLURM_PROCID:-0}" "${SLURMD_NODENAME:-$HOSTNAME}" $$ >>"$log"
    case "${DREAM_SHOWN:-}" in
        # Signals go to every process of the step under some plugins: tee must outlive them.
        *",${SLURM_PROCID:-0},"*) exec > >(trap '' USR1 USR2 TERM INT HUP; exec tee -a "$log") 2>&1 ;;
        *) exec >>"$log" 2>&1 ;;
    esac
fi

if [ -n "${DREAM_IMAGE:-}" ]; then
    exec apptainer exec --nv --bind "$DREAM_BIND" "$DREAM_IMAGE" "$@"
fi
exec "$@"
