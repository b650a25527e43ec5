# shellcheck shell=bash disable=SC2154  # variables of lib.sh and lib_train.sh
# What follows an end: nothing, or the job goes back into the queue, within a bound. lib_train.sh takes
# this file.
#
# RUN/slurm/attempts.tsv has a line for every end: job, start, step before, step after, exit code, node of
# the first fault.

# The end of this start; does not return: end_attempt CODE
end_attempt() {
    local code="$1" after host=-
    after="$(last_step)"
    if [ -n "$stop_asked" ] && [ "$code" -ne 0 ] && [ "$code" -ne 2 ]; then
        [ "$code" -eq 75 ] || say "the ranks ended with code $code after the signal"
        code=75
    elif [ -s "$DREAM_LOGS/failed" ]; then
        read -r host _ <"$DREAM_LOGS/failed"
    fi
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$SLURM_JOB_ID" "$restart" "$step_before" "$after" "$code" "$host" \
        >>"$state/attempts.tsv"
    case "$code" in
        0) say "$stage: done"
            mark_done
            exit 0 ;;
        2) stop 2 "bad input or configuration, which another start would meet again" ;;
        130) stop 130 "interrupted" ;;
    esac
    if [ "$restart" -ge "${DREAM_MAX_RESTARTS:-50}" ]; then
        stop "$code" "restarted $restart times already (DREAM_MAX_RESTARTS)"
    elif [ "$max_stuck" -gt 0 ] && [ "$(num_stuck)" -ge "$max_stuck" ]; then
        stop "$code" "$(num_stuck) starts in a row came no further than step $after (watch.max_starts_without_progress)"
    fi
    requeue "$code" "step $after" "$(bad_nodes | sort -u | paste -sd,)"
}

stop() {
    say "$stage: exit code $1, not put back into the queue: $2"
    exit "$1"
}

# Starts of this job, up to the last one, that ended at the step that they began with.
num_stuck() {
    awk -F '\t' -v job="$SLURM_JOB_ID" '$1 == job { stuck = ($3 == $4) ? stuck + 1 : 0 } END { print stuck + 0 }' \
        "$state/attempts.tsv"
}

# Nodes to leave out: those that the check named, and one where the first fault was twice in a row.
bad_nodes() {
    [ ! -s "$DREAM_LOGS/bad_nodes" ] || cat "$DREAM_LOGS/bad_nodes"
    awk -F '\t' -v job="$SLURM_JOB_ID" '
        $1 == job { again = ($6 != "-" && $6 == host); host = $6 }
        END { if (again) print host }' "$state/attempts.tsv"
}

# Put the job back into the queue, or end it: requeue CODE WHERE NODES_TO_LEAVE_OUT
requeue() {
    local code="$1" now by_hand="submit the same command again and it goes on from $2"
    command -v scontrol >/dev/null || stop "$code" "this node has no scontrol; $by_hand"
    now="$(shown_field JobState)"
    [ -n "$now" ] || stop "$code" "Slurm does not answer; $by_hand"
    # Slurm would take back even what a person has cancelled; what it preempts it requeues by itself.
    [ "$now" = RUNNING ] || stop "$code" "Slurm is ending this job already ($now)"
    # Slurm ends this script as soon as it has taken the job back; what follows needs some seconds more.
    trap '' TERM USR1
    ask_slurm scontrol requeue "$(job_name)" || stop "$code" "Slurm refused; $by_hand"
    say "$stage: exit code $code at $2, put back into the queue (restart $((restart + 1)) of" \
        "${DREAM_MAX_RESTARTS:-50}); a requeued job waits two minutes"
    [ -z "$3" ] || exclude "$3"
    exit 0
}

# Leave nodes out from now on; only a waiting job can be told.
exclude() {
    local known all reason
    known="$(excluded)"
    all="${known:+$known,}$1"
    reason="$(why_not_without "$all")"
    if [ -n "$reason" ]; then
        say "$1 should be left out, but $reason"
    elif ask_slurm scontrol update JobId="$(job_name)" ExcNodeList="$all"; then
        say "left out from now on: $all"
    fi
}

excluded() { shown_field ExcNodeList | grep -v '(null)'; }

# Why the job cannot leave out a list of nodes; nothing where it can.
why_not_without() {
    local most="${DREAM_MAX_EXCLUDED:-4}" left
    left="$(num_nodes_without "$1")"
    if [ "$(scontrol show hostnames "$1" | sort -u | wc -l)" -gt "$most" ]; then
        echo "that would be more than $most nodes (DREAM_MAX_EXCLUDED): tell the cluster's operators"
    elif [ -n "$left" ] && [ "$left" -lt "$SLURM_JOB_NUM_NODES" ]; then
        echo "of partition $SLURM_JOB_PARTITION $left nodes would remain and the job needs $SLURM_JOB_NUM_NODES"
    fi
}

# Nodes of the job's partition that are not in a list; nothing where nobody can be asked.
num_nodes_without() {
    local names
    names="$(sinfo -h -N -p "${SLURM_JOB_PARTITION:-}" -o %N 2>/dev/null | sort -u)"
    [ -z "$names" ] || grep -vcxFf <(scontrol show hostnames "$1") <<<"$names"
}

# A field of this job as Slurm shows it: shown_field NAME. A job's name may have spaces and look like fields.
shown_field() {
    ask_slurm scontrol show job "$(job_name)" | sed -nE "1s/ JobName=.*//; s/(^|.* )$1=([^ ]+).*/\2/p" | head -n 1
}
