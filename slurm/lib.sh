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
    # Of a shell inside another job that sbatch was called from: it hands the whole environment on.
    unset SLURM_PTY_PORT SLURM_PTY_WIN_COL SLURM_PTY_WIN_ROW
    unset SLURM_EXPORT_ENV # after sbatch --export=NONE srun would hand on nothing of what is set here
    [ "${SLURM_HET_SIZE:-1}" -le 1 ] || refuse "This is a heterogeneous job of $SLURM_HET_SIZE components, of which one alone would be used; submit one component."
    cpus="${SLURM_CPUS_PER_TASK:-1}"
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cpus < 8 ? cpus : 8))}"
    num_ranks="$(num_tasks)" || exit 2
    _choose_interpreter
}

# Tasks of this job; Slurm tells their number only where it was asked for as such.
num_tasks() {
    local tasks="${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE:-1}}"
    if [ -n "${SLURM_NTASKS:-}" ]; then
        printf '%d\n' "$SLURM_NTASKS"
    elif [[ $tasks =~ ^[0-9]+$ ]]; then
        printf '%d\n' "$((${SLURM_JOB_NUM_NODES:-1} * tasks))"
    else
        _sum_of_tasks "$tasks"
    fi
}

# Sum of Slurm's "8(x11),4".
_sum_of_tasks() {
    local part sum=0
    for part in ${1//,/ }; do
        [[ $part =~ ^([0-9]+)(\(x([0-9]+)\))?$ ]] || refuse "$1 is no list of tasks a node as Slurm writes it."
        sum=$((sum + BASH_REMATCH[1] * ${BASH_REMATCH[3]:-1}))
    done
    printf '%d\n' "$sum"
}

_is_away() { grep -qiE 'unable to contact|timed out|connection refused|not responding' <<<"$1"; }

# What Slurm calls this job. The number of an array's last task is that of the whole array too.
job_name() {
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        printf '%s_%s\n' "$SLURM_ARRAY_JOB_ID" "$SLURM_ARRAY_TASK_ID"
    else
        printf '%s\n' "$SLURM_JOB_ID"
    fi
}

# Place of this task among those of its array, as I/N.
part_of_array() {
    local first="${SLURM_ARRAY_TASK_MIN:?}" last="${SLURM_ARRAY_TASK_MAX:?}" count="${SLURM_ARRAY_TASK_COUNT:?}"
    local stride=$((count > 1 ? (last - first) / (count - 1) : 1))
    # A list with gaps (1,2,9) has numbers that no stride leads to: some parts would be nobody's.
    [ $(((count - 1) * stride)) -eq $((last - first)) ] && [ $(((SLURM_ARRAY_TASK_ID - first) % stride)) -eq 0 ] ||
        refuse "The numbers of this array are no range; give sbatch --array=0-$((count - 1)), which does whatever is left."
    printf '%d/%d\n' "$(((SLURM_ARRAY_TASK_ID - first) / stride))" "$count"
}

# One of Slurm's commands, once more where the controller does not answer: ask_slurm COMMAND...
ask_slurm() {
    local pause said code
    for pause in ${DREAM_SLURM_PAUSES:-5 10 20 40} ''; do
        code=0
        said="$("$@" 2>&1)" || code=$?
        if [ "$code" -eq 0 ] || [ -z "$pause" ] || ! _is_away "$said"; then
            break
        fi
        sleep "$pause"
    done
    if [ "$code" -eq 0 ]; then
        printf '%s\n' "$said"
    else
        printf '%s\n' "$said" >&2
    fi
    return "$code"
}

# Where programs run, by one variable: nothing (a virtual environment), IMAGE.sif (Apptainer), else Pyxis.
_choose_interpreter() {
    container=()
    export DREAM_IMAGE='' DREAM_BIND=''
    local mounts="$DREAM_ROOT:$DREAM_ROOT,$DREAM_LOCAL:$DREAM_LOCAL${DREAM_MOUNTS:+,$DREAM_MOUNTS}"
    [ "$PWD" = "$DREAM_ROOT" ] || mounts+=",$PWD:$PWD"
    case "${DREAM_CONTAINER:-}" in
        "") python="${DREAM_PYTHON:-$DREAM_ROOT/.venv/bin/python}"
            [ -x "$python" ] || refuse "$python is no interpreter; run make setup, or set DREAM_PYTHON or DREAM_CONTAINER." ;;
        *.sif) python="${DREAM_PYTHON:-python3}"
            [ -f "$DREAM_CONTAINER" ] || refuse "DREAM_CONTAINER=$DREAM_CONTAINER is not there."
            DREAM_IMAGE="$DREAM_CONTAINER" DREAM_BIND="$mounts" ;;
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
    elif ask_slurm scontrol requeue "$(job_name)"; then
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
    if [ -n "${stop_asked:-}" ]; then # lib_train.sh: a signal that came just now found nobody to tell
        sleep 2 # until the child is srun: before, bash loses it
        kill -USR1 "$child" 2>/dev/null || true
    fi
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

# The first of a list of nodes as Slurm writes it: first_node 'n[08-10,12],login' is n08. Compute nodes
# and containers may be without scontrol.
first_node() {
    local list="$1" name='' piece
    while [ -n "$list" ] && [[ $list != ,* ]]; do
        if [[ $list == \[* ]]; then
            piece="${list#\[}"
            name+="${piece%%[],-]*}"
            list="${list#*]}"
        else
            piece="${list%%[[,]*}"
            name+="$piece"
            list="${list#"$piece"}"
        fi
    done
    printf '%s\n' "$name"
}

# Name or address that leads to the job's first node, where rank 0 runs.
first_address() {
    local node address=
    node="$(first_node "$SLURM_JOB_NODELIST")"
    if ! getent hosts "$node" >/dev/null; then
        address="$(scontrol show node "$node" 2>/dev/null | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p' | head -n 1)"
    fi
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
