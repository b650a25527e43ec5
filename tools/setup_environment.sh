#!/usr/bin/env bash
# Make the virtual environment: setup_environment.sh FOLDER [PYTHON] [pip options...]
# Installs torch on its own first (by far the largest), then requirements/lock.txt, then the project.
set -euo pipefail

venv=$1
asked=${2:-}
shift $(($# < 2 ? $# : 2))
page=https://pytorch.org/get-started/locally/
check='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'

find_python() {
    local candidate
    for candidate in ${asked:-python3.11 python3.12 python3 python}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c "$check" >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or 3.12 with venv and ensurepip was found" \
        "${asked:+at $asked }(Debian: apt install python3 python3-venv); install one or give" \
        "make setup PYTHON=/path/to/python." >&2
    exit 2
}

has_gpu() {
    compgen -G "/dev/nvidia[0-9]*" >/dev/null || [ -e /dev/dxg ]
}

python=$(find_python)
echo "setup: $("$python" --version) at $python, environment in $venv"
if ! has_gpu; then
    echo "setup: no GPU here; pip may fetch the CUDA build of torch (several GB) where the CPU build" \
        "(0.2 GB) is enough: take the index that $page names for CPU and call" \
        "make setup PIP_ARGS='--extra-index-url THAT_INDEX'"
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install -q "$(grep '^torch==' requirements/lock.txt)" "$@"
"${pip[@]}" install -q -r requirements/lock.txt "$@"
"${pip[@]}" install -q --no-deps -e . "$@"

build=$("$venv/bin/python" -c 'import torch; print(torch.__version__, torch.version.cuda or "")')
echo "setup: torch $build"
if ! has_gpu && [[ $build == *" "?* ]]; then
    echo "setup: this is the CUDA build, which works on the CPU but is several GB; to exchange it:" \
        "make clean, then make setup PIP_ARGS='--extra-index-url THAT_INDEX' with the CPU index that" \
        "$page names"
fi
echo "setup: done; $venv/bin/megatron-dream doctor shows what is installed"
