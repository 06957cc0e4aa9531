"""One command as several processes, one for each GPU: of this machine, or of a SLURM job's nodes.

torchrun starts those of one machine. On several nodes srun does: each process takes its number
from srun, and meets the others at the first node of the job.
"""

import argparse
import logging
import os
import re
import signal
import socket
import subprocess
import sys

log = logging.getLogger(__name__)

NUMBERED = 'export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID"; exec "$@"'
"""Tells a process that srun started its number, under the names that torch reads."""
ENDED = re.compile(r"srun: error: (\S+): tasks? (\d\S*): (?:Exited with exit code (\d+)|.*)")


def is_launched() -> bool:
    """Return whether this process is one of several that torchrun or srun started."""
    return "LOCAL_RANK" in os.environ


def end_together(status: int) -> int:
    """Return ``status`` once all are here: the end of one would end the first while it writes."""
    import torch.distributed

    torch.distributed.barrier()
    return status


def launch_on_nodes(command: str, args: argparse.Namespace) -> int:
    """Run a command as ``args.processes`` processes on the ``args.nodes`` nodes of a SLURM job.

    The first that fails ends the others, and the last line says which it was. SIGTERM reaches
    each process through srun; SLURM warns them, and not this one, of a time limit.

    Returns:
        The exit status of the first to fail, or 0.

    Raises:
        ValueError: If this is not a SLURM job, or the processes do not divide into its nodes.
    """
    nodes, processes = args.nodes, max(args.nodes, args.processes)
    if "SLURM_JOB_ID" not in os.environ:
        raise ValueError(
            f"{command}: a command on {nodes} nodes must run in a SLURM job, got none. Use "
            "`snakemake --profile slurm`, or set device_nodes to 1."
        )
    if processes % nodes:
        raise ValueError(
            f"{command}: --processes must be as many on each of {nodes} nodes, got {processes}. "
            "Give a multiple."
        )
    here = processes // nodes
    own = argparse.Namespace(**vars(args) | {"nodes": 1, "gpus": args.gpus // nodes})
    step = (
        *("srun", f"--nodes={nodes}", f"--ntasks={processes}", f"--ntasks-per-node={here}"),
        *(f"--cpus-per-task={max(1, args.threads // here)}", "--input=none", "--wait=0"),
        *("--kill-on-bad-exit=1", "sh", "-c", NUMBERED, "sh"),
        *(sys.executable, "-m", "rectify", command, *words_of(own)),
    )
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": port}
    meeting |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": here}
    return _run(step, os.environ | {name: f"{value}" for name, value in meeting.items()})


def _run(step: tuple[str, ...], environment: dict[str, str]) -> int:
    """Run srun and pass on what it says; return the status of the first process to fail."""
    first = None
    with subprocess.Popen(step, env=environment, stderr=subprocess.PIPE, text=True) as srun:
        before = signal.signal(signal.SIGTERM, lambda number, _: srun.send_signal(number))
        for line in srun.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            first = first or ENDED.match(line)
    signal.signal(signal.SIGTERM, before)
    if srun.returncode == 0 or first is None:
        return srun.returncode
    node, process, status = first.groups()
    status = int(status or srun.returncode)
    if status != os.EX_TEMPFAIL:
        log.error("process %s on node %s ended first, with status %d", process, node, status)
    return status


def launch(command: str, args: argparse.Namespace) -> int:
    """Run a command ``args.processes`` times at once; return the exit status of the first to fail.

    With several ``args.nodes`` as ``launch_on_nodes`` does, else on this machine. SIGTERM reaches
    each process; the warning before a time limit, SIGUSR2, comes to all of a SLURM job's
    processes by itself and must not end this one.
    """
    if args.nodes > 1:
        return launch_on_nodes(command, args)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=args.processes,
        run_id="rectify",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=1.0,
    )
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        elastic_launch(config, sys.executable)("-m", "rectify", command, *words_of(args))
    except ChildFailedError as error:
        return min(error.failures.values(), key=lambda failure: failure.timestamp).exitcode
    except SignalException:
        return os.EX_TEMPFAIL
    return 0


def words_of(args: argparse.Namespace) -> list[str]:
    """Return the options that were parsed into ``args``, of which each has a value or several."""
    words = []
    for name, value in vars(args).items():
        if name != "command" and value not in (None, ()):
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words
