"""A SLURM of its own in one folder: munge, MariaDB, slurmdbd, slurmctld and two slurmd on loopback.

Two nodes of one machine, each with two GPUs that are none (any device file does). A job in the
partition ``urgent`` takes the place of one in ``test``. Every program runs in the foreground as a
child of this process and is ended by its process id; if this process dies first, the kernel ends
them.
"""

import itertools
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = (
    *("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd"),
    *("sbatch", "squeue", "sacct", "setpriv"),
)
CLIENTS_OF_JOBS = ("srun", "squeue", "scontrol")  # a training on several nodes, queued again
NODES = ("n1", "n2")
CPUS, MEMORY_MB = 16, 256_000  # what the scheduler is told; the machine may have less
HANGS_SECONDS = 600
PORTS = range(20_000, 30_000)  # below those that the kernel gives to whoever asks for any
REQUEUE_WAIT = 20
"""Seconds for which a requeued job waits, two minutes elsewhere. If one started before the key of
its first start has expired, its node might refuse it, and it would be held."""

SLURM = """\
ClusterName=rectify
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_wait}
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
GresTypes=gpu
SchedulerParameters=sched_interval=1,bf_interval=1
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
MessageTimeout=60
BatchStartTimeout=60
TCPTimeout=20
MinJobAge=300
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge.socket
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
NodeName=DEFAULT CPUs={cpus} RealMemory={memory} Gres=gpu:2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2}
PartitionName=DEFAULT Nodes=n1,n2 MaxTime=INFINITE State=UP
PartitionName=test Default=YES PriorityTier=1
PartitionName=urgent PriorityTier=2 PreemptMode=OFF
"""
GRES = """\
NodeName=n1 Name=gpu File=/dev/null,/dev/zero
NodeName=n2 Name=gpu File=/dev/full,/dev/random
"""
SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
"""
USER = """\
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON accounting.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON accounting.* TO 'slurm'@'localhost';
"""


def missing() -> list[str]:
    """Return what the machine lacks to run the cluster."""
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    lacking = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    return lacking if os.geteuid() == 0 else [*lacking, "root"]


def wait_until(true: Callable[[], object], what: str) -> object:
    """Return the first true value of a condition; the limit only ends what hangs."""
    end = time.monotonic() + HANGS_SECONDS
    while not (value := true()):
        assert time.monotonic() < end, f"waited {HANGS_SECONDS} s for {what}"
        time.sleep(0.3)  # a condition may start a program
    return value


class Cluster:
    """The daemons, their ports and their environment; use it in a ``with``.

    Args:
        folder: Empty; it gets everything that the daemons write.
    """

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, {}
        names = ("controller", "accounting", "database", *NODES)
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        facts = self.ports | {"folder": folder, "host": socket.gethostname().partition(".")[0]}
        facts |= {"cpus": CPUS, "memory": MEMORY_MB, "requeue_wait": REQUEUE_WAIT}
        for name, text in (("slurm", SLURM), ("slurmdbd", SLURMDBD), ("gres", GRES)):
            file = folder / f"{name}.conf"
            file.touch(mode=0o600)  # slurmdbd refuses to read its password from another
            file.write_text(text.format(**facts))
        path = os.pathsep.join((f"{folder}/bin", os.environ["PATH"], "/usr/sbin"))
        self.environment = os.environ | {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": path}
        self.environment["RECTIFY_CPU"] = "1"  # nodes that say that they have GPUs
        self._wrap_clients()

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, *command: str, check: bool = True) -> str:
        """Run a client of SLURM and return what it said."""
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HANGS_SECONDS,
            check=False,
        )
        said = f"{' '.join(command)}: {done.stdout}{done.stderr}"
        assert done.returncode == 0 or not check, said
        return done.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """Return the state of each job that waits or runs, by its number."""
        rows = self.run("squeue", "--noheader", "--format=%i %T").splitlines()
        return dict(row.split() for row in rows)

    def start(self, name: str) -> None:
        """Start one daemon and wait until it answers."""
        commands = {
            "slurmdbd": ("slurmdbd", "-D"),
            "slurmctld": ("slurmctld", "-D"),
            **{node: ("slurmd", "-D", "-N", node) for node in NODES},
        }
        self._spawn(name, *commands[name])
        if name == "slurmdbd":
            self._wait(name, lambda: _answers(self.ports["accounting"]))
        elif name == "slurmctld":
            self._wait(name, lambda: "is UP" in self.run("scontrol", "ping", check=False))

    def kill(self, name: str) -> None:
        """End one daemon at once."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(timeout=20)

    def repair(self) -> None:
        """Start what a fault has ended, and cancel all jobs."""
        for name in ("slurmdbd", "slurmctld"):
            if name not in self.processes:
                self.start(name)
        self.cancel_all()
        self.wait_for_nodes()

    def cancel_all(self) -> None:
        """Cancel all jobs, also those whose processes are stopped, and wait for their end."""
        self.run("scancel", "--signal=KILL", *self.jobs(), check=False)
        self.run("scancel", *self.jobs(), check=False)
        wait_until(lambda: not self.jobs(), "the jobs to end")

    def wait_for_nodes(self) -> None:
        """Wait until both nodes take jobs."""
        ready = ["idle", "mix", "alloc"]
        wait_until(
            lambda: all(
                state in ready for state in self.run("sinfo", "-hN", "-o", "%t").splitlines()
            ),
            "both nodes",
        )

    def _start(self) -> None:
        folder = self.folder
        (folder / "state").mkdir()
        (folder / "munge.key").touch(mode=0o600)
        (folder / "munge.key").write_bytes(os.urandom(128))
        files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        socket_file = folder / "munge.socket"
        options = ("--foreground", "--force", f"--socket={socket_file}")
        self._spawn("munged", "munged", *options, *files)
        self._start_database()
        self._wait("munged", socket_file.exists)
        self.start("slurmdbd")
        self.run("sacctmgr", "--immediate", "add", "cluster", "rectify")
        self.start("slurmctld")
        for node in NODES:
            self.start(node)
        self.wait_for_nodes()

    def _wrap_clients(self) -> None:
        """Make clients find this cluster in jobs: Snakemake's job step takes SLURM_CONF away."""
        (self.folder / "bin").mkdir()
        for client in CLIENTS_OF_JOBS:
            wrapper = self.folder / "bin" / client
            real = shutil.which(client, path=f"{os.environ['PATH']}{os.pathsep}/usr/bin")
            wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {real} "$@"\n')
            wrapper.chmod(0o755)

    def _start_database(self) -> None:
        data, owner = self.folder / "database", "--user=root"
        install = ("mariadb-install-db", "--no-defaults", owner, f"--datadir={data}")
        self.run(*install, "--skip-test-db", "--auth-root-authentication-method=normal")
        (self.folder / "user.sql").write_text(USER)
        self._spawn(
            *("mariadbd", "mariadbd", "--no-defaults", owner, f"--datadir={data}"),
            *(f"--socket={self.folder}/database.socket", f"--init-file={self.folder}/user.sql"),
            *("--bind-address=127.0.0.1", f"--port={self.ports['database']}"),
            "--innodb-flush-log-at-trx-commit=0",
        )
        self._wait("mariadbd", lambda: _answers(self.ports["database"]))

    def _spawn(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                ("setpriv", "--pdeathsig", "KILL", *command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests
            )

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        """Wait until a daemon is ready; show its output if it ended instead."""

        def is_ready() -> bool:
            said = (self.folder / f"{name}.out").read_text()
            assert self.processes[name].poll() is None, f"{name} ended: {said[-2000:]}"
            return ready()

        wait_until(is_ready, name)

    def _stop(self) -> None:
        """Cancel all jobs, then end each daemon, the last one first."""
        try:
            if "slurmctld" in self.processes and NODES[-1] in self.processes:
                self.cancel_all()
        finally:
            self._end_daemons()

    def _end_daemons(self) -> None:
        while self.processes:
            _, process = self.processes.popitem()
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at."""
    candidates = random.sample(PORTS, len(PORTS))
    return list(itertools.islice((port for port in candidates if not _answers(port)), count))


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
