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
    elif [ "${DREAM_MAX_STUCK:=3}" -gt 0 ] && [ "$(num_stuck)" -ge "$DREAM_MAX_STUCK" ]; then
        stop "$code" "$(num_stuck) starts in a row came no further than step $after (DREAM_MAX_STUCK)"
    fi
    requeue "$code" "$after"
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

requeue() {
    local code="$1" nodes now
    # Slurm would take back even what a person has cancelled; what it preempts it requeues by itself.
    now="$(scontrol show job "$SLURM_JOB_ID" | sed -nE 's/.*JobState=([^ ]+).*/\1/p')"
    [ "$now" = RUNNING ] || stop "$code" "Slurm is ending this job already ($now)"
    nodes="$(bad_nodes | sort -u | paste -sd,)"
    # Slurm ends this script as soon as it has taken the job back; what follows needs some seconds more.
    trap '' TERM USR1
    if ! scontrol requeue "$SLURM_JOB_ID"; then
        stop "$code" "Slurm refused; submit the same command again and it goes on from step $2"
    fi
    say "$stage: exit code $code at step $2, put back into the queue (restart $((restart + 1)) of" \
        "${DREAM_MAX_RESTARTS:-50}); a requeued job waits two minutes"
    [ -z "$nodes" ] || exclude "$nodes"
    exit 0
}

# Leave nodes out from now on; only a waiting job can be told.
exclude() {
    local known all
    known="$(scontrol show job "$SLURM_JOB_ID" | sed -nE 's/.*ExcNodeList=([^ ]+).*/\1/p' | grep -v '(null)')"
    all="${known:+$known,}$1"
    if [ "$(scontrol show hostnames "$all" | sort -u | wc -l)" -gt "${DREAM_MAX_EXCLUDED:-4}" ]; then
        say "$1 should be left out, but that would be more than ${DREAM_MAX_EXCLUDED:-4} nodes (DREAM_MAX_EXCLUDED): tell the cluster's operators"
    elif scontrol update JobId="$SLURM_JOB_ID" ExcNodeList="$all"; then
        say "left out from now on: $all"
    fi
}
