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
    [ "$DREAM_LAUNCH" = srun ] || check_agents
    read_configuration "$@"
    begin_attempt
    tell_end_time
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
    local resolved code=0
    resolved="$(single "$python" -m megatron_dream "$stage" --print-config "$@")" || code=$?
    restart="${SLURM_RESTART_COUNT:-0}"
    [ "$code" -ne 2 ] || refuse "$stage: the configuration was refused; nothing was started."
    [ "$code" -eq 0 ] || cannot_read "$code"
    run_folder="$(field checkpoint run_folder <<<"$resolved")"
    case "$run_folder" in
        "" | "''") refuse "checkpoint.run_folder is empty; a requeued job finds itself by it." ;;
        \"*) refuse "checkpoint.run_folder $run_folder has characters other than ASCII; the job's script needs a plainer name." ;;
    esac
    max_stuck="$(field watch max_starts_without_progress <<<"$resolved")"
    max_stuck="${max_stuck:-3}"
    local stages
    stages="$(field parallel pipeline_model_parallel_size <<<"$resolved")"
    export DREAM_SHOWN=",0,$((num_ranks * (stages - 1) / stages)),"
}

# The program does not run on the first node: another one may do. Where no more nodes can be left out there
# is an end to it.
cannot_read() {
    local node="${SLURMD_NODENAME:-}" known
    say "the configuration could not be read: the program ended with code $1 on ${node:-this node}"
    known="$(excluded)"
    if [ "$restart" -ge 3 ] && { [ -z "$node" ] || [ -n "$(why_not_without "${known:+$known,}$node")" ]; }; then
        stop "$1" "the program does not run on this node, and no more nodes can be left out"
    fi
    requeue "$1" "its last checkpoint" "$node"
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
    local other
    state="$run_folder/slurm"
    export DREAM_LOGS="$state/job-$SLURM_JOB_ID.$restart"
    mkdir -p "$DREAM_LOGS" || refuse "$DREAM_LOGS cannot be made; check checkpoint.run_folder."
    DREAM_LOGS="$(cd "$DREAM_LOGS" && pwd)"
    # Two jobs in one run folder would write over each other's checkpoints.
    if [ -f "$state/job" ] && read -r other <"$state/job" && [ "$other" != "$(job_name)" ] &&
        [ -n "$(squeue -h -t RUNNING,SUSPENDED -j "$other" 2>/dev/null)" ]; then
        refuse "job $other trains in $run_folder just now; cancel one, or give this one another checkpoint.run_folder."
    fi
    job_name >"$state/job"
    step_before="$(last_step)"
    say "$stage: job $SLURM_JOB_ID, start $((restart + 1)), $num_ranks ranks on $SLURM_JOB_NODELIST," \
        "run $run_folder from step $step_before, logs of ranks in $DREAM_LOGS"
}

# When Slurm ends the job, for the ranks: in a container, or where nodes have no squeue, they cannot ask.
tell_end_time() {
    local end
    [ -z "${SLURM_JOB_END_TIME:-}" ] || return 0
    end="$(squeue -h -j "$(job_name)" -o %e 2>/dev/null)" || return 0
    [[ $end =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]+$ ]] || return 0 # NONE, N/A: no limit
    SLURM_JOB_END_TIME="$(date -d "$end" +%s)" && export SLURM_JOB_END_TIME
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
    local attempt code already
    rm -f "$DREAM_LOGS/bad_nodes"
    for attempt in 0 1 2; do
        choose_rendezvous "$attempt"
        [ -z "$stop_asked" ] || return 75
        already="$(num_lines "$DREAM_LOGS/rank-00000.log")"
        run_waiting exec_step --kill-on-bad-exit=0 --wait=60 --time="$((${DREAM_CHECK_SECONDS:-300} / 60 + 2))" -- \
            "$python" -m megatron_dream check-nodes --seconds "${DREAM_CHECK_SECONDS:-300}" --slow "${DREAM_CHECK_SLOW:-1.3}" \
            --output "$DREAM_LOGS/nodes.json" --bad-nodes "$DREAM_LOGS/bad_nodes"
        code=$?
        _port_was_taken "$((code != 0))" "$already" || break
        say "port $MASTER_PORT was taken on $MASTER_ADDR: another one"
    done
    [ "$code" -eq 0 ] || say "the check of the nodes ended with code $code: nothing was built"
    return "$code"
}

# Copies of the data on every node's own disk, one task a node, and the configuration that names them.
stage_data() {
    exec env DREAM_LOGS= "$DREAM_ROOT/slurm/stage_data.sh" --to "$DREAM_STAGE" --config-out "$DREAM_LOGS/staged.yaml" "$@"
}
