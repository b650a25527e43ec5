# shellcheck shell=bash
# shellcheck disable=SC2034  # other scripts use what is set here
# What the scripts of this folder share: settings, the interpreter or container, steps, log lines.
#
# sbatch copies a script to a folder of its own and runs the copy, so that BASH_SOURCE does not lead
# here; a script finds this file from where it was submitted (or DREAM_ROOT) and calls load_settings.
# What trains takes lib_train.sh too.

set -uo pipefail

say() { printf '%(%F %T)T %s\n' -1 "$*"; }

refuse() {
    say "error: $*" >&2
    exit 2
}

# Site settings (slurm/site.env, docs/cluster.md), then what is derived from them.
load_settings() {
    local site="${DREAM_SITE:-$DREAM_ROOT/slurm/site.env}"
    if [ -f "$site" ]; then
        set -a
        # shellcheck source=/dev/null
        . "$site"
        set +a
    fi
    export DREAM_ROOT DREAM_LOCAL="${DREAM_LOCAL:-${TMPDIR:-/tmp}}"
    export PYTHONPATH="$DREAM_ROOT${PYTHONPATH:+:$PYTHONPATH}"
    cpus="${SLURM_CPUS_PER_TASK:-1}"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cpus < 8 ? cpus : 8))}"
    # Slurm tells the number of tasks only where it was asked for as such.
    num_ranks="${SLURM_NTASKS:-$((${SLURM_JOB_NUM_NODES:-1} * ${SLURM_NTASKS_PER_NODE:-1}))}"
    _choose_interpreter
}

# Where programs run, by one variable: nothing (a virtual environment), IMAGE.sif (Apptainer), else Pyxis.
_choose_interpreter() {
    container=()
    export DREAM_EXEC=
    local mounts="$DREAM_ROOT:$DREAM_ROOT,$DREAM_LOCAL:$DREAM_LOCAL${DREAM_MOUNTS:+,$DREAM_MOUNTS}"
    case "${DREAM_CONTAINER:-}" in
        "") python="${DREAM_PYTHON:-$DREAM_ROOT/.venv/bin/python}"
            [ -x "$python" ] || refuse "$python is no interpreter; run make setup, or set DREAM_PYTHON or DREAM_CONTAINER." ;;
        *.sif) python="${DREAM_PYTHON:-python3}"
            [ -f "$DREAM_CONTAINER" ] || refuse "DREAM_CONTAINER=$DREAM_CONTAINER is not there."
            DREAM_EXEC="apptainer exec --nv --bind $mounts $DREAM_CONTAINER" ;;
        *) python="${DREAM_PYTHON:-python3}"
            container=("--container-image=$DREAM_CONTAINER" "--container-mounts=$mounts"
                --container-workdir="$PWD" --no-container-mount-home) ;;
    esac
}

# srun with what every step needs: step [SRUN OPTIONS] -- COMMAND...
step() {
    _words_of_step "$@"
    "${words[@]}"
}

# The same in place of this shell, for a background process: signals then reach srun.
exec_step() {
    _words_of_step "$@"
    exec "${words[@]}"
}

# srun does not inherit --cpus-per-task (since Slurm 22.05). Bound GPUs would hide a rank's neighbours
# from NCCL: every rank sees all GPUs of the node and takes the one of its local rank.
_words_of_step() {
    words=(srun --cpus-per-task="$cpus")
    [ -z "${SLURM_GPUS_PER_NODE:-}${SLURM_GPUS_ON_NODE:-}" ] || words+=(--gpu-bind=none)
    while [ "$1" != -- ]; do
        words+=("$1")
        shift
    done
    shift
    words+=("${container[@]}" "$DREAM_ROOT/slurm/rank.sh" "$@")
}

# One process on the job's first node, its output in the job's log: single COMMAND...
single() { DREAM_LOGS='' step --nodes=1 --ntasks=1 --ntasks-per-node=1 -- "$@"; }

# A stage that is one command, to its end: command_stage STAGE COMMAND...
command_stage() {
    local stage="$1" code=0
    shift
    say "$stage: job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"
    "$@" || code=$?
    say "$stage: exit code $code"
    [ "$code" -ne 0 ] || mark_done
    exit "$code"
}

# The same for a command that goes on where it was killed: shortly before the time limit (--signal=B:USR1)
# the job goes back into the queue.
resumable_stage() {
    trap 'num_signals=$((num_signals + 1)); back_into_the_queue' USR1
    command_stage "$1" run_waiting "${@:2}"
}

back_into_the_queue() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${DREAM_MAX_RESTARTS:-50}" ]; then
        say "restarted $SLURM_RESTART_COUNT times already (DREAM_MAX_RESTARTS): the time limit will end this job"
    elif scontrol requeue "$SLURM_JOB_ID"; then
        say "the time limit is near: put back into the queue"
    fi
}

# Run a command in the background, so that traps of this shell work meanwhile, until it is over.
num_signals=0 # every trap counts
child=
run_waiting() {
    local code="" next before
    "$@" &
    child=$!
    while :; do
        before=$num_signals
        wait "$child"
        next=$?
        # 127: it was waited for already, and a signal came between its end and this line
        [ "$next" -eq 127 ] && [ -n "$code" ] || code=$next
        [ "$num_signals" -ne "$before" ] || break
    done
    child=
    return "$code"
}

# Tells pipeline.sh that this stage, with these arguments, need not be done again.
mark_done() {
    [ -n "${DREAM_DONE_FILE:-}" ] || return 0
    printf '%s\n' "${DREAM_DONE_KEY:-}" >"$DREAM_DONE_FILE.$$.tmp" && mv "$DREAM_DONE_FILE.$$.tmp" "$DREAM_DONE_FILE"
}

# First IPv4 or name that leads to the job's first node, where rank 0 runs.
first_address() {
    local node address
    node="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
    if getent hosts "$node" >/dev/null; then
        printf '%s\n' "$node"
        return
    fi
    address="$(scontrol show node "$node" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p' | head -n 1)"
    printf '%s\n' "${address:-$node}"
}

# A port below those that Linux hands out by itself, from the job's number, where nothing listens here:
# free_port [HOW MANY TO PASS OVER]
free_port() {
    local port=$((10000 + (SLURM_JOB_ID + ${1:-0}) % 20000)) tried
    for ((tried = 0; tried < 100; tried++)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
        port=$((port == 29999 ? 10000 : port + 1))
    done
    printf '%s\n' "$port"
}
