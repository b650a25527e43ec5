# shellcheck shell=bash disable=SC2154  # variables of lib.sh
# What pretrain, sft and rl share: from the configuration to the requeue. See docs/cluster.md.
#
#   train STAGE ARGUMENTS...
#
# One start of a job: read the configuration, check the nodes, stage the data if asked, run the ranks,
# show why they ended, and either end or put the job back into the queue.

# shellcheck source=slurm/lib_restart.sh
. "$DREAM_ROOT/slurm/lib_restart.sh"
# shellcheck source=slurm/lib_launch.sh
. "$DREAM_ROOT/slurm/lib_launch.sh"

stop_asked= # by a signal

# With --signal=B: Slurm tells this shell alone. USR1 is what ranks save and end on; SIGTERM to srun would
# make it kill them.
on_signal() {
    stop_asked=1
    say "signal $1: the ranks are asked to save and end"
    [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null || true
}

trap 'num_signals=$((num_signals + 1)); on_signal USR1' USR1
trap 'num_signals=$((num_signals + 1)); on_signal TERM' TERM

train() {
    stage="$1"
    shift
    [ $# -gt 0 ] || refuse "No arguments; give those of megatron-dream $stage after the script's name, such as --config FILE.yaml."
    load_settings
    case "${DREAM_LAUNCH:=srun}" in
        srun | ft) ;;
        *) refuse "DREAM_LAUNCH is $DREAM_LAUNCH; it can be srun or ft." ;;
    esac
    read_configuration "$@"
    begin_attempt
    local arguments=("$@") code=0
    if [ -n "${DREAM_STAGE:-}" ]; then
        run_waiting stage_data "$@"
        code=$?
        case "$code" in
            0) arguments=(--config "$DREAM_LOGS/staged.yaml") ;;
            3) say "a node has no room for the data: it is read where it is" && code=0 ;;
        esac
    fi
    if [ "$code" -eq 0 ] && [ -z "$stop_asked" ] && [ "${DREAM_CHECK:-on}" != off ]; then
        check_nodes
        code=$?
    fi
    if [ "$code" -eq 0 ] && [ -n "$stop_asked" ]; then
        code=75
    elif [ "$code" -eq 0 ]; then
        launch_ranks "${arguments[@]}"
        code=$?
    fi
    end_attempt "$code"
}

# The run's folder and the rank that reports, from the resolved configuration; bad input ends the job here.
read_configuration() {
    local resolved
    resolved="$(single "$python" -m megatron_dream "$stage" --print-config "$@")" || {
        say "$stage: the configuration was refused, or not read; nothing was started"
        exit 2
    }
    run_folder="$(field checkpoint run_folder <<<"$resolved")"
    [ -n "$run_folder" ] && [ "$run_folder" != "''" ] ||
        refuse "checkpoint.run_folder is empty; a requeued job finds itself by it."
    local stages
    stages="$(field parallel pipeline_model_parallel_size <<<"$resolved")"
    export DREAM_SHOWN=",0,$((num_ranks * (stages - 1) / stages)),"
    : "${DREAM_MAX_STUCK:=$(field watch max_starts_without_progress <<<"$resolved")}"
}

# One field of the YAML that --print-config writes: field SECTION NAME
field() {
    awk -v section="$1:" -v name="  $2:" '
        /^[^ ]/ { inside = ($1 == section) }
        inside && index($0, name) == 1 {
            value = substr($0, length(name) + 2)
            if (value ~ /^\x27.*\x27$/) { value = substr(value, 2, length(value) - 2); gsub(/\x27\x27/, "\x27", value) }
            print value
        }'
}

# Folder of this start's logs, and a head in the job's log.
begin_attempt() {
    restart="${SLURM_RESTART_COUNT:-0}"
    state="$run_folder/slurm"
    export DREAM_LOGS="$state/job-$SLURM_JOB_ID.$restart"
    mkdir -p "$DREAM_LOGS" || refuse "$DREAM_LOGS cannot be made; check checkpoint.run_folder."
    DREAM_LOGS="$(cd "$DREAM_LOGS" && pwd)"
    step_before="$(last_step)"
    say "$stage: job $SLURM_JOB_ID, start $((restart + 1)), $num_ranks ranks on $SLURM_JOB_NODELIST," \
        "run $run_folder from step $step_before, logs of ranks in $DREAM_LOGS"
}

# Step of the run's last complete checkpoint; 0 where there is none.
last_step() {
    local name=
    [ ! -f "$run_folder/checkpoints/latest" ] || name="$(<"$run_folder/checkpoints/latest")"
    name="${name##*step_}"
    [[ $name =~ ^[0-9]+$ ]] || name=0
    printf '%d\n' "$((10#$name))"
}

# Slow or broken nodes by name, before anything is built (docs/cluster.md, "The check").
check_nodes() {
    choose_rendezvous 0
    rm -f "$DREAM_LOGS/bad_nodes"
    run_waiting exec_step --kill-on-bad-exit=0 --wait=60 --time="$((${DREAM_CHECK_SECONDS:-300} / 60 + 2))" -- \
        "$python" -m megatron_dream check-nodes --seconds "${DREAM_CHECK_SECONDS:-300}" --slow "${DREAM_CHECK_SLOW:-1.3}" \
        --output "$DREAM_LOGS/nodes.json" --bad-nodes "$DREAM_LOGS/bad_nodes"
    local code=$?
    [ "$code" -eq 0 ] || say "the check of the nodes ended with code $code: nothing was built"
    return "$code"
}

# Copies of the data on every node's own disk, one task a node, and the configuration that names them.
stage_data() {
    exec env DREAM_LOGS= "$DREAM_ROOT/slurm/stage_data.sh" --to "$DREAM_STAGE" --config-out "$DREAM_LOGS/staged.yaml" "$@"
}
