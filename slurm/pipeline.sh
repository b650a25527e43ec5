#!/bin/bash
# Submits a chain of stages, each after those that it needs, and shows the graph of jobs.
#
#   slurm/pipeline.sh FILE [--from STAGE] [--to STAGE] [--dry-run] [--again]
#
# FILE is a list of stages as bash reads it (examples/dream_coder_7b/pipeline.sh):
#
#   stage NAME SCRIPT.sbatch [after=NAME,NAME] [OPTIONS OF SBATCH] -- ARGUMENTS OF THE SCRIPT
#
# Without after= a stage follows the one above it; after= alone: none. A stage with --array=... is
# followed by a job of the same script that puts the parts together.
#
# A stage that has ended well with the same arguments and the same YAML files among them is not submitted
# again, unless one that it needs is; nor is one that is in the queue. --again forgets that. --dry-run
# prints the sbatch lines only. What is known lies in $DREAM_PIPELINE_STATE (runs/pipeline/NAME OF FILE).
set -euo pipefail

die() {
    echo "error: $*" >&2
    exit 2
}

root="${DREAM_ROOT:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}" # a script of ours, not one of sbatch's copies
export DREAM_ROOT="$root"
# Called inside another job: sbatch would hand on that one's place, memory and cores.
if [ -n "${SLURM_JOB_ID:-}" ]; then
    for word in "${!SLURM_@}"; do
        case "$word" in SLURM_CONF | SLURM_CLUSTERS) ;; *) unset "$word" ;; esac
    done
fi
declare -a names=()
declare -A script after options arguments job note submitted=()

stage() {
    [ $# -ge 2 ] || die "stage needs a name and a script: stage $*"
    local name="$1" words=() previous="${names[*]: -1}"
    [[ $name =~ ^[A-Za-z0-9_-]+$ ]] || die "stage $name: a name has letters, digits, - and _."
    [ -z "${script[$name]:-}" ] || die "stage $name is there twice."
    script[$name]="$root/slurm/$2"
    [ -f "${script[$name]}" ] || die "stage $name: ${script[$name]} is not there."
    after[$name]="$previous"
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        case "$1" in
            after=*) after[$name]="${1#after=}" ;;
            --*=* | --requeue | --no-kill | --exclusive) words+=("$1") ;;
            *) die "stage $name: $1 is no option of sbatch with its value (--option=value); arguments of the script follow --." ;;
        esac
        shift
    done
    [ $# -eq 0 ] || shift
    local parent
    for parent in ${after[$name]//,/ }; do
        [ -n "${script[$parent]:-}" ] || die "stage $name: after=$parent, but no stage above has that name."
    done
    options[$name]="$(quoted "${words[@]}")"
    arguments[$name]="$(quoted "$@")"
    names+=("$name")
}

quoted() { [ $# -eq 0 ] || printf '%q ' "$@"; }

# What a stage's result depends on: its script's name, its arguments, the YAML files among them.
key_of() {
    local word
    local -a words
    eval "words=(${arguments[$1]})"
    {
        printf '%s\n' "${script[$1]##*/}" "${words[@]}"
        for word in "${words[@]}"; do
            case "$word" in *.yaml | *.yml) [ ! -f "$word" ] || sha256sum <"$word" ;; esac
        done
    } | sha256sum | cut -c1-16
}

# sbatch, or its line alone in a dry run: run_sbatch NAME DONE_FILE WORDS...; sets last_job.
run_sbatch() {
    local name="$1" done_file="$2"
    shift 2
    local -a words=(sbatch --parsable --kill-on-invalid-dep=yes --job-name="$name" "$@")
    if [ -n "$dry_run" ]; then
        last_job="\$$name"
        echo "$last_job = $(quoted "${words[@]}")"
    else
        last_job="$(DREAM_DONE_FILE="$done_file" DREAM_DONE_KEY="$key" "${words[@]}")" || exit 2
        last_job="${last_job%%;*}"
    fi
}

submit() {
    local name="$1" parent ids="" word
    local -a words=() plain=() given
    for parent in ${after[$name]//,/ }; do
        [ -z "${job[$parent]:-}" ] || ids+=":${job[$parent]}"
    done
    eval "given=(${options[$name]})"
    for word in "${given[@]}"; do
        case "$word" in --array=*) words+=("$word") ;; *) plain+=("$word") ;; esac
    done
    eval "given=(${arguments[$name]})"
    local -a depends=(${ids:+"--dependency=afterok$ids"})
    note[$name]=
    if [ ${#words[@]} -gt 0 ]; then
        run_sbatch "${name}_parts" "" "${depends[@]}" "${words[@]}" "${plain[@]}" "${script[$name]}" "${given[@]}"
        note[$name]=", after the array ${last_job} (${words[0]#--array=})"
        depends=("--dependency=afterok:$last_job")
        plain=(--output=%x-%j.log "${plain[@]}") # the script's own has the array's numbers
    fi
    run_sbatch "$name" "$state/$name.done" "${depends[@]}" "${plain[@]}" "${script[$name]}" "${given[@]}"
    job[$name]="$last_job"
    note[$name]="job $last_job${note[$name]}"
    submitted[$name]=1
    [ -n "$dry_run" ] || printf '%s %s\n' "$last_job" "$key" >"$state/$name.job"
}

# Whether a stage's parents are as they were when it was done.
parents_stand() {
    local parent
    for parent in ${after[$1]//,/ }; do
        [ -z "${submitted[$parent]:-}" ] || return 1
    done
}

decide() {
    local name="$1" id known
    key="$(key_of "$name")"
    if [ -z "$again" ] && parents_stand "$name"; then
        if [ -f "$state/$name.done" ] && [ "$(<"$state/$name.done")" = "$key" ]; then
            note[$name]="complete"
            return
        fi
        if [ -f "$state/$name.job" ] && read -r id known <"$state/$name.job" && [ "$known" = "$key" ] &&
            [ -n "$(squeue -h -j "$id" 2>/dev/null)" ]; then
            job[$name]="$id"
            note[$name]="job $id, in the queue already"
            return
        fi
    fi
    [ -n "$dry_run" ] || rm -f "$state/$name.done"
    submit "$name"
}

# Each stage under the last of those that it waits for.
draw() {
    local parent="$1" indent="$2" name others shown
    for name in "${names[@]}"; do
        [ "${after[$name]##*,}" = "$parent" ] || continue
        others="${after[$name]%"$parent"}"
        shown="$indent${parent:+\`- }$name"
        printf '%-36s %s%s\n' "$shown" "${note[$name]}" "${others:+, also after ${others%,}}"
        draw "$name" "$indent${parent:+   }"
    done
}

file='' from='' to='' dry_run='' again=''
while [ $# -gt 0 ]; do
    case "$1" in
        --from | --to) [ $# -ge 2 ] || die "$1 needs a stage's name."
            [ "$1" = --from ] && from="$2" || to="$2"
            shift ;;
        --dry-run) dry_run=1 ;;
        --again) again=1 ;;
        -*) die "$1 is not a flag of pipeline.sh; it has --from, --to, --dry-run and --again." ;;
        *) [ -z "$file" ] || die "two files were given: $file and $1."
            file="$1" ;;
    esac
    shift
done
[ -f "$file" ] || die "slurm/pipeline.sh FILE: ${file:-no file} is not there."
site="${DREAM_SITE:-$root/slurm/site.env}"
set -a
# shellcheck source=/dev/null
[ ! -f "$site" ] || . "$site"
set +a
# shellcheck source=/dev/null
. "$file"
[ ${#names[@]} -gt 0 ] || die "$file names no stage."
for name in $from $to; do
    [ -n "${script[$name]:-}" ] || die "there is no stage $name in $file; it has: ${names[*]}."
done
state="${DREAM_PIPELINE_STATE:-$PWD/runs/pipeline/$(basename "$file" .sh)}"
if [ -z "$dry_run" ]; then
    mkdir -p "$state"
    exec 9>"$state/lock"
    flock -n 9 || die "another pipeline.sh submits from $state just now."
fi
inside="$([ -n "$from" ] || echo 1)"
for name in "${names[@]}"; do
    [ "$name" != "$from" ] || inside=1
    if [ -n "$inside" ]; then
        decide "$name"
    else
        note[$name]="left out"
    fi
    [ "$name" != "$to" ] || inside=
done
draw "" ""
