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
    local attempt code already
    set_environment
    for attempt in 0 1 2; do
        choose_rendezvous "$attempt"
        [ -z "$stop_asked" ] || return 75 # a signal that came since found nobody to tell
        already="$(num_lines "$DREAM_LOGS/rank-00000.log")"
        say "ranks start: mode $DREAM_LAUNCH, rendezvous $MASTER_ADDR:$MASTER_PORT"
        case "$DREAM_LAUNCH" in
            srun) run_waiting _ranks_by_srun "$@"
                code="$(meaning $?)" ;;
            ft) run_waiting _ranks_by_agents "$@"
                code="$(meaning_of_agents $?)" ;;
        esac
        cat "$DREAM_LOGS/srun.err" >&2
        _port_was_taken "$code" "$already" || break
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
    eval "$(grep -E '^export [A-Z_]+=' <<<"$lines")" # sites and containers print greetings
}

# One task a rank. --distribution=block: neighbours in rank are on one node, where TP belongs.
_ranks_by_srun() {
    exec_step --distribution=block --kill-on-bad-exit=1 --wait=300 -- \
        "$python" -m megatron_dream "$stage" "$@" 2>"$DREAM_LOGS/srun.err"
}

# One agent a node; DREAM_SPARE_NODES of them wait until another is lost. Agents find one another again
# and start all ranks anew, from the last checkpoint, with as many nodes as before. An agent that hears
# USR1 passes it to its ranks and waits for them (megatron_dream/cluster/agent.py). sbatch needs --no-kill,
# or a lost node ends the job.
_ranks_by_agents() {
    local spare="${DREAM_SPARE_NODES:-0}" nodes="$SLURM_JOB_NUM_NODES"
    # Agents give out ranks in no order of nodes; each shows its first rank, and one of these reports.
    export DREAM_SHOWN
    DREAM_SHOWN=",$(seq -s, 0 $((nodes - 1))),"
    exec_step --no-kill --kill-on-bad-exit=0 --wait=0 --nodes="$nodes" \
        --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task=$((cpus * num_ranks / nodes)) -- \
        "$python" -m megatron_dream.cluster.agent --agent "${DREAM_FT_AGENT:-torchrun}" \
        --nodes "$((nodes - spare))" --ranks-per-node "$((num_ranks / nodes))" --id "$(job_name).$restart" \
        --endpoint "$MASTER_ADDR:$MASTER_PORT" --restarts "${DREAM_FT_RESTARTS:-10}" \
        --save-seconds "${DREAM_SAVE_SECONDS:-540}" --logs "$DREAM_LOGS" -- "$stage" "$@" 2>"$DREAM_LOGS/srun.err"
}

# What can be wrong with ft before it starts.
check_agents() {
    local spare="${DREAM_SPARE_NODES:-0}"
    [ $((num_ranks % SLURM_JOB_NUM_NODES)) -eq 0 ] ||
        refuse "DREAM_LAUNCH=ft needs as many ranks on each node; $num_ranks on $SLURM_JOB_NUM_NODES nodes are not."
    [ "$spare" -lt "$SLURM_JOB_NUM_NODES" ] ||
        refuse "DREAM_SPARE_NODES=$spare leaves none of $SLURM_JOB_NUM_NODES nodes to train on."
}

# The code of the first rank whose end is final (megatron_dream/under_agent.py), else of the agents: spare
# ones, and those of lost nodes, end badly when the others are done.
meaning_of_agents() {
    if [ -s "$DREAM_LOGS/ended" ]; then
        cat "$DREAM_LOGS/ended"
    else
        printf '%s\n' "$1"
    fi
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

# Whether rank 0 found its port taken in the start that just ended: _port_was_taken CODE LINES_OF_ITS_LOG_BEFORE
_port_was_taken() {
    # no grep -q: of a long log tail would die by the pipe
    [ "$1" -eq 1 ] && [ -z "$stop_asked" ] && [ "$(last_step)" = "$step_before" ] &&
        tail -n "+$(($2 + 1))" "$DREAM_LOGS/rank-00000.log" 2>/dev/null |
        grep -iE 'EADDRINUSE|address already in use' >/dev/null
}

num_lines() { if [ -f "$1" ]; then wc -l <"$1"; else printf '0\n'; fi; }

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
