"""What is on this machine, at which version, what it is for, and how to get what is missing.

Imports nothing heavy: versions come from package metadata, and whatever may fail at import
(Transformer Engine raises RuntimeError without cuDNN, torch takes seconds) runs in a process of its
own, all of them at the same time.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

from megatron_dream import gpu_stack
from megatron_dream.training.watch import environment

PROBE_SECONDS = 20.0
PIPED_COLUMNS = 150  # without a terminal nobody knows the width
ABSENT = "absent"
_PAGE = "https://pytorch.org/get-started/locally/"

_TORCH_PROBE = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
print(json.dumps([torch.__version__, torch.version.cuda, names, cudnn]))
"""
_NO_TORCH: tuple[None, None, list[str], None] = (None, None, [], None)
_TE_PROBE = "import transformer_engine.pytorch as t, transformer_engine as e; print(e.__version__)"
_MPI_PROBE = "import mpi4py.MPI as m; print(m.Get_library_version().splitlines()[0])"
_APEX_PROBE = """
import torch, apex.multi_tensor_apply, amp_C
try:
    import fused_weight_gradient_mlp_cuda
    print('with extensions, fused weight gradients too')
except ImportError:
    print('with extensions, without fused weight gradients (APEX_CUDA_EXT=1)')
"""


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    version: str  # or "absent", or why it does not work
    is_present: bool
    purpose: str
    install: str
    is_required: bool = False


def run_doctor(as_json: bool = False) -> int:
    """Print the report.

    Returns:
        0, or 1 when something required is missing.
    """
    rows = collect()
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
    else:
        _print_table(rows)
    return int(any(row.is_required and not row.is_present for row in rows))


def collect() -> list[Row]:
    """Probe everything; the slow probes run at the same time."""
    probes: tuple[Callable[[], list[Row]], ...] = (
        _torch_rows,
        _machine_rows,
        _package_rows,
        _transformer_engine_rows,
        _apex_rows,
        _dali_rows,
        _agent_rows,
        _mpi_rows,
        _program_rows,
        _namespace_rows,
        _environment_rows,
    )
    with ThreadPoolExecutor(len(probes)) as pool:
        rows = [row for rows in pool.map(lambda probe: probe(), probes) for row in rows]
    return rows + _combination_rows()


@cache
def _call(*command: str) -> subprocess.CompletedProcess[str] | str:
    """What a command printed, asked once; a text says why there is nothing."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS)
    except FileNotFoundError:
        return ABSENT
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {type(error).__name__}"


def _run(command: list[str]) -> tuple[bool, str]:
    """Whether a command ended well, and its output's last line or the reason."""
    done = _call(*command)
    if isinstance(done, str):
        return False, done
    lines = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()]
    if done.returncode == 0:
        return True, lines[-1].strip() if lines else "present"
    reasons = [line for line in done.stderr.splitlines() if line.strip()]
    return False, f"does not run: {reasons[-1].strip()[:120]}" if reasons else "does not run"


def _python(code: str) -> tuple[bool, str]:
    return _run([sys.executable, "-c", code])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _has_module(name: str) -> bool:
    """Whether ``import name`` would find something; imports nothing itself."""
    try:
        return util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _torch_rows() -> list[Row]:
    purpose, install = "tensors, processes, kernels", f"make setup, or {_PAGE}"
    good, text = _python(_TORCH_PROBE) if _has_module("torch") else (False, ABSENT)
    version, cuda, names, _ = json.loads(text) if good else (text, *_NO_TORCH[1:])
    build = f"{version} ({'CUDA ' + cuda if cuda else 'CPU'} build)" if good else text
    return [
        Row("device", _device(names), True, "what training runs on", _device_advice(cuda, names)),
        Row("torch", build, good, purpose, install, is_required=True),
    ]


def _device(names: list[str]) -> str:
    if not names:
        return "CPU, backend gloo"
    return f"{len(names)} x {names[0]}, backend nccl"


def _device_advice(cuda: str | None, names: list[str]) -> str:
    if names:
        return ""
    if cuda:
        return f"no GPU is visible; a CPU build of torch is far smaller: {_PAGE}"
    return f"with a GPU: its driver and a CUDA build of torch, {_PAGE}"


def _machine_rows() -> list[Row]:
    cores = len(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    flags = _cpu_flags()
    has_bf16 = bool({"avx512_bf16", "amx_bf16", "bf16"} & flags)
    return [
        Row(
            "cores", f"{cores} ({platform.machine()})", True, "loader, tokenizer, CPU training", ""
        ),
        Row("memory", f"{gib:.1f} GiB", True, "model, optimizer, loader", ""),
        Row(
            "AVX512-BF16",
            "present" if has_bf16 else ABSENT,
            has_bf16,
            "bf16 matrix products on the CPU, about 3 times fp32",
            "" if has_bf16 else "a property of the CPU; training.precision: fp32 is as fast",
        ),
    ]


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(match.group(1).split()) if match else set()


_PACKAGES = (
    ("megatron-core", "the engine: layers, parallelism, optimizer, checkpoints", True),
    ("transformers", "loading exported models, parity tests", True),
    ("tokenizers", "Hugging Face tokenizers", True),
    ("sentencepiece", "training and using SentencePiece tokenizers", True),
    ("safetensors", "Hugging Face weights", True),
    ("numpy", "the data path", True),
    ("scipy", "CART weights", True),
    ("rich", "progress and tables", True),
    ("PyYAML", "configuration files", True),
    ("tensorboard", "logging.tensorboard", False),
    ("wandb", "logging.wandb_project", False),
)


def _package_rows() -> list[Row]:
    rows = []
    for name, purpose, is_required in _PACKAGES:
        version = _version(name)
        install = "make setup" if is_required else f"pip install {name}"
        rows.append(Row(name, version or ABSENT, bool(version), purpose, install, is_required))
    return rows


def _transformer_engine_rows() -> list[Row]:
    found = _has_module("transformer_engine")
    good, text = _python(_TE_PROBE) if found else (False, ABSENT)
    purpose = "fused layers and attention, FP8, on CUDA; without it the local layers"
    install = (
        "pip install --no-build-isolation 'megatron-dream[te]' (CUDA torch, CUDA headers, cuDNN)"
    )
    return [Row("Transformer Engine", text, good, purpose, install)]


def _apex_rows() -> list[Row]:
    purpose = "fused Adam and gradient accumulation where Transformer Engine is absent"
    install = "from source, https://github.com/NVIDIA/apex (apex on the package index is unrelated)"
    if not _has_module("apex"):
        good, text = False, ABSENT
    elif not _has_module("apex.multi_tensor_apply"):
        good, text = False, "not NVIDIA's: the package index's unrelated apex"
    else:
        good, text = _python(_APEX_PROBE)
    return [Row("apex (NVIDIA)", text, good, purpose, install)]


def _combination_rows() -> list[Row]:
    """What is here and does not go together (gpu_stack.py); the probes above have asked already."""
    faults = gpu_stack.faults_of(_stack())
    purpose = "does not go together with the rest"
    return [Row(f"! {fault.part}", fault.cause, False, purpose, fault.cure) for fault in faults]


def _stack() -> gpu_stack.Stack:
    good, text = _python(_TORCH_PROBE) if _has_module("torch") else (False, ABSENT)
    torch_version, cuda, names, cudnn = json.loads(text) if good else _NO_TORCH
    smi, nvcc = _text("nvidia-smi"), _text("nvcc", "--version")
    found = {
        name: version
        for name in (
            "transformer-engine-torch",
            "transformer-engine-cu12",
            "transformer-engine-cu13",
        )
        if (version := _version(name))
    }
    return gpu_stack.Stack(
        torch=torch_version,
        torch_cuda=cuda,
        sees_gpu=bool(names),
        cudnn=cudnn,
        driver=_find(r"Driver Version: *([\d.]+)", smi),
        driver_cuda=_find(r"CUDA Version: *([\d.]+)", smi),
        nvcc=_find(r"release ([\d.]+)", nvcc),
        megatron_core=_version("megatron-core"),
        transformer_engine=_version("transformer-engine") or _version("transformer_engine"),
        transformer_engine_error=_transformer_engine_error(),
        te_parts=found,
        flash_attn=_version("flash-attn"),
        apex=_apex_kind(),
    )


def _text(*command: str) -> str:
    done = _call(*command)
    return "" if isinstance(done, str) or done.returncode else done.stdout


def _find(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def _transformer_engine_error() -> str | None:
    """Why its import fails; None: it does not, or is not there."""
    if not _has_module("transformer_engine"):
        return None
    done = _call(sys.executable, "-c", _TE_PROBE)
    if isinstance(done, str):
        return done
    return done.stderr if done.returncode else None


def _apex_kind() -> str:
    if not _has_module("apex"):
        return "absent"
    if not _has_module("apex.multi_tensor_apply"):
        return "unrelated"
    return (
        "fused" if "weight gradients too" in _text(sys.executable, "-c", _APEX_PROBE) else "plain"
    )


def _dali_rows() -> list[Row]:
    names = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
    version = next((v for v in map(_version, names) if v), None)
    purpose, install = "overlapped copies to the GPU", "pip install 'megatron-dream[dali]'"
    return [Row("DALI", version or ABSENT, bool(version), purpose, install)]


def _agent_rows() -> list[Row]:
    version = _version("nvidia-resiliency-ext")
    purpose, install = "slurm/: agents of DREAM_FT_AGENT=nvrx", "pip install 'megatron-dream[ft]'"
    return [Row("nvidia-resiliency-ext", version or ABSENT, bool(version), purpose, install)]


def _mpi_rows() -> list[Row]:
    good, text = _python(_MPI_PROBE) if _has_module("mpi4py") else (False, ABSENT)
    version = f"mpi4py {_version('mpi4py')}, {text}" if good else text
    has_launcher, launcher = _run(["mpirun", "--version"])
    install = "pip install 'megatron-dream[mpi]', or the cluster's own MPI"
    return [
        Row("MPI", version, good, "start of processes under mpirun", install),
        Row("mpirun", launcher, has_launcher, "launcher of MPI", install),
    ]


_PROGRAMS = (
    ("Slurm", ("sbatch",), "jobs on a cluster (slurm/)", "apt install slurm-wlm, or a login node"),
    ("bubblewrap", ("bwrap",), "a second wall around untrusted programs", "apt install bubblewrap"),
    (
        "Chromium",
        ("chromium", "chromium-browser", "google-chrome"),
        "tests of the pages in a browser",
        "apt install chromium chromium-driver",
    ),
)


def _program_rows() -> list[Row]:
    rows = []
    for name, commands, purpose, install in _PROGRAMS:
        path = next((p for p in map(shutil.which, commands) if p), None)
        good, text = _run([path, "--version"]) if path else (False, ABSENT)
        rows.append(Row(name, text, good, purpose, install))
    return rows


def _namespace_rows() -> list[Row]:
    good, text = _run(["unshare", "--user", "--map-root-user", "true"])
    purpose = "running untrusted programs without root"
    install = "as root: sysctl user.max_user_namespaces above 0; containers often forbid them"
    return [Row("user namespaces", text if not good else "allowed", good, purpose, install)]


def _environment_rows() -> list[Row]:
    """Variables that a run on GPUs sets unless the user did, and those that only the user can set."""
    rows = []
    for one in environment.settings():
        shown = one.given or f"not set; a run sets {one.value}"
        rows.append(Row(one.name, shown, True, one.why, ""))
    for one in environment.users_own():
        rows.append(Row(one.name, one.given or "not set", True, one.why, ""))
    return rows


def _print_table(rows: list[Row]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for row in rows:
            advice = "" if row.is_present else f"; {row.install}"
            print(f"{row.name}: {row.version} - {row.purpose}{advice}")
        return
    table = Table(pad_edge=False)
    table.add_column("what", no_wrap=True)
    for title in ("version", "for", "how to get it"):
        table.add_column(title, overflow="fold")
    for row in rows:
        is_fault = row.is_required and not row.is_present
        style = "green" if row.is_present else "red" if is_fault else "yellow"
        show = row.install if not row.is_present or row.name == "device" else ""
        table.add_row(row.name, Text(row.version, style), Text(row.purpose), Text(show))
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_COLUMNS)
    console.print(table)
