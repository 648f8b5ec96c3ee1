"""A SLURM of one node for the tests: munge, MariaDB, slurmdbd, slurmctld and slurmd, as a cluster runs them.

All its files lie in one folder and its daemons end with the tests. Nothing is written under /etc, and a SLURM that the
machine may have is left alone. The two GPUs are fake, /dev/null and /dev/zero, but SLURM counts and grants them like
any others. Memory limits are enforced once a second, by polling, as there are no cgroups to be had in a container.
"""

from __future__ import annotations

import csv
import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PARTITION, ACCOUNT, MAX_MINUTES = "main", "physics", 60

PROGRAMS = ("munged", "sbatch", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "my_print_defaults")  # see .ci/packages

SLURM = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
EnforcePartLimits=ALL
KillWait=2
PropagateResourceLimits=NONE
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:2 State=UNKNOWN
PartitionName={partition} Nodes={host} Default=YES MaxTime={max_minutes} DefaultTime=1 State=UP
"""

GPUS = """\
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""

ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={slurmdbd}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadbd}
StorageUser=root
"""

# Within a job srun is called without SLURM_CONF: Snakemake's executor of job steps takes all SLURM_ variables away.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


class SlurmError(RuntimeError):
    """Why SLURM could not be started, in one line."""


@dataclass(frozen=True)
class Job:
    """A row of SLURM's own record: what was asked for, and what became of it."""

    id: int
    rule: str
    state: str
    mem_mb: int
    runtime: int  # minutes
    gpu: int
    partition: str
    account: str


@dataclass
class Cluster:
    """A SLURM whose files lie in ``folder``; ``environment`` is what its commands, and whoever calls them, need."""

    folder: Path
    environment: dict[str, str] = field(init=False)
    _daemons: dict[str, subprocess.Popen[bytes]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        path = os.pathsep.join([str(self.folder / "bin"), os.environ["PATH"], "/usr/sbin", "/usr/bin"])
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start everything; a ``SlurmError`` says what failed."""
        missing = [program for program in PROGRAMS if not shutil.which(program, path=self.environment["PATH"])]
        if missing:
            raise SlurmError(f"{', '.join(missing)} not installed (.ci/packages does that)")
        ports = _free_ports("slurmctld", "slurmd", "slurmdbd", "mariadbd")
        self._configure(ports)

        socket_, key, seed = (self.folder / name for name in ("munge.socket", "munge.key", "munge.seed"))
        options = [f"--socket={socket_}", f"--key-file={key}", f"--seed-file={seed}"]
        options += [f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log", "--force"]
        self._daemon("munged", "--foreground", *options, ready=socket_.exists)

        data = ["--no-defaults", f"--datadir={self.folder}/database", f"--user={getpass.getuser()}"]
        self.run("mariadb-install-db", *data, "--auth-root-authentication-method=normal", "--skip-test-db")
        options = ["--bind-address=127.0.0.1", f"--port={ports['mariadbd']}", f"--socket={self.folder}/mariadb.socket"]
        self._daemon("mariadbd", *data, *options, ready=lambda: _listens(ports["mariadbd"]))

        self._daemon("slurmdbd", "-D", ready=lambda: _listens(ports["slurmdbd"]))
        for what in (["cluster", "tests"], ["account", ACCOUNT], ["user", getpass.getuser(), f"account={ACCOUNT}"]):
            self.run("sacctmgr", "--immediate", "add", *what)
        self._daemon("slurmctld", "-D", "-i", ready=lambda: _listens(ports["slurmctld"]))
        self._daemon("slurmd", "-D", ready=lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T"))

    def stop(self) -> None:
        """Cancel all jobs, and end every daemon, the last one started first."""
        for _ in range(50 if "slurmd" in self._daemons else 0):
            if not self.run("squeue", "--noheader"):
                break
            self.run("scancel", f"--user={getpass.getuser()}")
            time.sleep(0.2)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, *command: str) -> str:
        """What a command prints; a ``SlurmError`` if it fails."""
        done = subprocess.run(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
        )
        if done.returncode:
            raise SlurmError(f"{' '.join(command)} failed: {_last_line(done.stdout)}")
        return done.stdout

    def jobs(self, folder: Path) -> list[Job]:
        """The record of the jobs that Snakemake submitted from ``folder``, in the order of submission."""
        columns = ("JobIDRaw", "Comment", "State", "ReqTRES", "TimelimitRaw", "Partition", "Account", "WorkDir")
        options = ["--allocations", "--starttime=now-1days", "--units=M", "--parsable2", "--noheader"]
        printed = self.run("sacct", *options, f"--format={','.join(columns)}")
        jobs = []
        for row in csv.DictReader(printed.splitlines(), fieldnames=columns, delimiter="|"):
            asked = dict(each.split("=") for each in row["ReqTRES"].split(","))
            job = Job(
                id=int(row["JobIDRaw"]),
                rule=re.sub(r"^rule_|_wildcards_.*", "", row["Comment"]),
                state=row["State"],
                mem_mb=int(float(asked["mem"].removesuffix("M"))),
                runtime=int(row["TimelimitRaw"]),
                gpu=int(asked.get("gres/gpu", 0)),
                partition=row["Partition"],
                account=row["Account"],
            )
            if Path(row["WorkDir"]) == folder:
                jobs.append(job)
        return sorted(jobs, key=lambda job: job.id)

    def _configure(self, ports: dict[str, int]) -> None:
        for name in ("bin", "database", "state", "spool", "log"):
            (self.folder / name).mkdir(parents=True)
        settings = {
            **ports,
            "folder": self.folder,
            "user": getpass.getuser(),
            "host": socket.gethostname().partition(".")[0],
            "cpus": os.cpu_count(),
            "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 9 // 10 // 2**20,
            "partition": PARTITION,
            "max_minutes": MAX_MINUTES,
            "srun": shutil.which("srun", path=self.environment["PATH"]),
        }
        files = {"slurm.conf": SLURM, "gres.conf": GPUS, "slurmdbd.conf": ACCOUNTING, "bin/srun": SRUN}
        for name, text in files.items():
            (self.folder / name).write_text(text.format_map(settings), encoding="utf-8")
        (self.folder / "munge.key").write_bytes(secrets.token_bytes(128))
        for name, mode in (("slurmdbd.conf", 0o600), ("munge.key", 0o600), ("bin/srun", 0o755)):
            (self.folder / name).chmod(mode)

    def _daemon(self, name: str, *options: str, ready: Callable[[], bool]) -> None:
        """Start a daemon in the foreground of a session of its own, and wait until it is ready."""
        log = self.folder / "log" / name
        with log.open("wb") as file:
            self._daemons[name] = subprocess.Popen(
                [name, *options], env=self.environment, stdout=file, stderr=file, start_new_session=True
            )
        for _ in range(300):
            if ready():
                return
            if self._daemons[name].poll() is not None:
                break
            time.sleep(0.2)
        raise SlurmError(f"{name} did not start: {_last_line(log.read_text(encoding='utf-8', errors='replace'))}")


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it printed nothing"])[-1]


def _free_ports(*names: str) -> dict[str, int]:
    """A free port for each name."""
    sockets = [socket.socket() for _ in names]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in zip(names, sockets, strict=True)}
    finally:
        for each in sockets:
            each.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
