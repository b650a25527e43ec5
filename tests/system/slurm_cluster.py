"""A real Slurm controller with two nodes on this machine, for tests: munged, slurmctld, two slurmd.

Debian's packages slurm-wlm and munge; no systemd; everything lies in one short-named folder, because
the path of a socket has at most 107 bytes. Each node says it has 8 GPUs (slurmd asks for
character devices and looks no further), so that the scripts' lines about GPUs are parsed and kept.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
_FOLDERS = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
KillWait=5
GresTypes=gpu
SchedulerParameters=sched_interval=1,sched_min_interval=0
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory={memory} Gres=gpu:8
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory={memory} Gres=gpu:8
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What of Slurm is not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_FOLDERS) is None]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _node_memory() -> int:
    """MB that each node may say it has: Slurm drains a node that has less."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 * 9 // 10


class SlurmCluster:
    """A context: the daemons run inside it."""

    def __enter__(self) -> SlurmCluster:
        self.folder = Path(tempfile.mkdtemp(prefix="sl"))
        self._daemons: list[subprocess.Popen[bytes]] = []
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        config = self.folder / "slurm.conf"
        host = socket.gethostname().partition(".")[0]
        text = _CONFIG.format(
            host=host, folder=self.folder, ports=_free_ports(3), memory=_node_memory()
        )
        config.write_text(text)
        for number in range(8):
            (self.folder / f"gpu{number}").symlink_to(os.devnull)
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-7]\n")
        self.environment = {**os.environ, "SLURM_CONF": str(config), "PATH": _FOLDERS}
        self._start_munge(key)
        self._daemon("slurmctld", "-D", "-f", str(config))
        for node in ("n0", "n1"):
            self._daemon("slurmd", "-D", "-N", node, "-f", str(config))
        self._wait_until_idle()
        return self

    def __exit__(self, *error: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_munge(self, key: Path) -> None:
        folder = self.folder
        self._daemon(
            "munged", "--foreground", "--force", f"--socket={folder}/munge.socket",
            f"--key-file={key}", f"--log-file={folder}/munge.log", f"--pid-file={folder}/munge.pid",
            f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while not (folder / "munge.socket").exists():
            assert time.monotonic() < deadline, (folder / "munge.log").read_text()
            time.sleep(0.05)

    def _daemon(self, name: str, *words: str) -> None:
        program = shutil.which(name, path=_FOLDERS)
        assert program is not None
        with open(self.folder / f"{name}.out", "ab") as stream:
            self._daemons.append(
                subprocess.Popen(
                    [program, *words], env=self.environment, stdout=stream, stderr=stream
                )
            )

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            shown = self.run("sinfo", "-h", "-N", "-o", "%T", check=False)
            if shown.stdout.split() == ["idle", "idle"]:
                return
            logs = [path.read_text(errors="replace")[-600:] for path in self.folder.glob("*.log")]
            assert time.monotonic() < deadline, "\n".join([shown.stdout, shown.stderr, *logs])
            time.sleep(0.1)

    def run(
        self, *words: str, cwd: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands."""
        return subprocess.run(
            words,
            env=self.environment,
            cwd=cwd,
            check=check,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def submit(self, *words: str, cwd: Path) -> str:
        """``sbatch``; the job's number."""
        return self.run("sbatch", "--parsable", *words, cwd=cwd).stdout.strip().partition(";")[0]

    def wait(self, job: str, seconds: float = 240) -> None:
        """Until no task of a job is in the queue (``sbatch --wait`` looks every two seconds only)."""
        deadline = time.monotonic() + seconds
        while self.run("squeue", "-h", "-j", job, check=False).stdout.strip():
            assert time.monotonic() < deadline, f"job {job} is still in the queue"
            time.sleep(0.2)
