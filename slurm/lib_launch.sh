# shellcheck shell=bash disable=SC2154  # variables of lib.sh and lib_train.sh
# The step that trains, in one of two modes that are never mixed, and what its end means. lib_train.sh
# takes this file.
#
#   srun (default)  one task a rank; a rank that dies ends the step, the job goes back into the queue
#   ft              one agent a node; agents start the ranks again inside the allocation

# Where rank 0 listens; a number: ports to pass over after a clash.
choose_rendezvous() {
    export MASTER_ADDR MASTER_PORT
    MASTER_ADDR="${DREAM_MASTER_ADDR:-$(first_address)}"
    MASTER_PORT="$(free_port "$1")"
}

# Run the ranks to their end; returns the exit code that the end deserves.
launch_ranks() {
    local attempt code
    set_environment
    for attempt in 0 1 2; do
        choose_rendezvous "$attempt"
        say "ranks start: mode $DREAM_LAUNCH, rendezvous $MASTER_ADDR:$MASTER_PORT"
        case "$DREAM_LAUNCH" in
            srun) run_waiting _ranks_by_srun "$@"
                code="$(meaning $?)" ;;
            ft) run_waiting _ranks_by_agents "$@"
                code="$(meaning_of_agents $?)" ;;
        esac
        cat "$DREAM_LOGS/srun.err" >&2
        if [ "$code" -eq 0 ] || ! _port_was_taken; then
            break
        fi
        say "port $MASTER_PORT was taken on $MASTER_ADDR: another one"
    done
    if [ "$code" -eq 80 ]; then
        show_hang
    elif [ "$code" -ne 0 ] && [ "$code" -ne 75 ] && [ -z "$stop_asked" ]; then
        show_failure
    fi
    return "$code"
}

# What collectives, allocator and debugging need: the list is megatron-dream doctor's.
set_environment() {
    local lines module=megatron_dream.training.watch.environment
    [ -f "$DREAM_ROOT/${module//.//}.py" ] || return 0
    lines="$(single "$python" -m "$module" --run-folder "$run_folder")" || return 0
    eval "$lines"
}

# One task a rank. --distribution=block: neighbours in rank are on one node, where TP belongs.
_ranks_by_srun() {
    exec_step --distribution=block --kill-on-bad-exit=1 --wait=300 -- \
        "$python" -m megatron_dream "$stage" "$@" 2>"$DREAM_LOGS/srun.err"
}

# One agent a node; DREAM_SPARE_NODES of them wait until another is lost. Agents find one another again
# and start all ranks anew, from the last checkpoint, with as many nodes as before. An agent that hears
# USR1 passes it to its ranks and waits for them. sbatch needs --no-kill, or a lost node ends the job.
_ranks_by_agents() {
    # A store of its own for every start of the ranks: in a shared one gloo finds addresses of the dead.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    local needed=$((SLURM_JOB_NUM_NODES - ${DREAM_SPARE_NODES:-0}))
    local per_node=$((num_ranks / SLURM_JOB_NUM_NODES))
    # Agents give out ranks in no order of nodes; each shows its first rank, and one of these reports.
    export DREAM_SHOWN
    DREAM_SHOWN=",$(seq -s, 0 $((SLURM_JOB_NUM_NODES - 1))),"
    exec_step --no-kill --kill-on-bad-exit=0 --wait=0 --nodes="$SLURM_JOB_NUM_NODES" \
        --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=$((cpus * per_node)) -- \
        "$python" -m torch.distributed.run --nnodes="$needed:$needed" --nproc-per-node="$per_node" \
        --rdzv-backend=c10d --rdzv-endpoint="$MASTER_ADDR:$MASTER_PORT" \
        --rdzv-id="$SLURM_JOB_ID.$restart" --max-restarts="${DREAM_FT_RESTARTS:-10}" \
        --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout="${DREAM_SAVE_SECONDS:-540}" \
        --log-dir="$DREAM_LOGS/agents" --redirects=3 --tee=0:3 \
        -m megatron_dream "$stage" "$@" 2>"$DREAM_LOGS/srun.err"
}

# What the agents' end means: spare ones, and those of lost nodes, end badly when the others are done.
meaning_of_agents() {
    if [ "$1" -eq 0 ] || [ "$(num_failed_tasks)" -le "${DREAM_SPARE_NODES:-0}" ]; then
        printf '0\n'
    elif grep -qsE 'exitcode *: 2 ' "$DREAM_LOGS"/rank-*.log; then
        printf '2\n'
    else
        printf '%s\n' "$1"
    fi
}

# Tasks that srun reported, however it grouped them ("0-2,5").
num_failed_tasks() {
    faults | awk '{
        count = split($2, parts, ",")
        for (i = 1; i <= count; i++) { split(parts[i], ends, "-"); sum += (ends[2] == "" ? 1 : ends[2] - ends[1] + 1) }
    } END { print sum + 0 }'
}

# "HOST TASK REASON" of every task that srun reported, in its order.
faults() {
    sed -nE 's/^srun: error: ([^ ]+): tasks? ([0-9,-]+): (.+)$/\1 \2 \3/p' "$DREAM_LOGS/srun.err"
}

# The fault that the others follow from: those that Slurm itself terminated, and peers that lost their
# connection (code 1), come after one that was killed or ended with a code of its own.
first_fault() {
    faults | awk '
        / (Terminated|Exited with exit code 143)$/ { next }
        /Exited with exit code 1$/ { if (peer == "") peer = $0; next }
        { print; found = 1; exit }
        END { if (!found && peer != "") print peer }'
}

# Exit code of the step: srun's own is the highest of all tasks, so that tasks which it terminated itself
# (143) would hide the one that was first.
meaning() {
    local fault code
    fault="$(first_fault)"
    code="$(sed -nE 's/.*Exited with exit code ([0-9]+)$/\1/p' <<<"$fault")"
    if [ "$1" -eq 0 ]; then
        printf '0\n'
    elif [ -n "$code" ]; then
        printf '%s\n' "$code"
    elif [ -n "$fault" ]; then
        printf '137\n' # by a signal
    else
        printf '%s\n' "$1"
    fi
}

_port_was_taken() { grep -qsiE 'EADDRINUSE|address already in use' "$DREAM_LOGS/rank-00000.log"; }

# What the watchdog found (code 80, exit_codes.py), last in the job's log. All ranks end with that code,
# those that waited for others as well, and srun hears of them in any order: no node is put down as at fault.
show_hang() {
    local log
    log="$(grep -ls '^HANG: ' "$DREAM_LOGS"/rank-*.log | head -n 1)"
    if [ -z "$log" ]; then
        say "a hang (exit code 80); logs of all ranks are in $DREAM_LOGS"
        return
    fi
    say "---- a hang (exit code 80), as $log tells it:"
    sed -n '/^HANG: /,$p' "$log" | tail -n "${DREAM_TAIL:-60}"
}

# The log of the rank that failed first, last in the job's log.
show_failure() {
    local host tasks reason rank log
    read -r host tasks reason <<<"$(first_fault)"
    if [ -z "${host:-}" ]; then
        say "srun named no rank; logs of all are in $DREAM_LOGS"
        return
    fi
    rank="${tasks%%[,-]*}"
    host="$(scontrol show hostnames "$host" | head -n 1)"
    log="$(printf '%s/rank-%05d.log' "$DREAM_LOGS" "$rank")"
    say "---- rank $rank on $host failed first: $reason; the end of $log:"
    tail -n "${DREAM_TAIL:-60}" "$log" 2>/dev/null | sed "s/^/rank $rank| /"
    say "---- rank $rank on $host: $reason"
    printf '%s %s\n' "$host" "$rank" >"$DREAM_LOGS/failed"
}
