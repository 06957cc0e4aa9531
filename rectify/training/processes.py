"""One command as several processes of this machine, one for each GPU, started by torchrun."""

import argparse
import os
import signal
import sys


def is_launched() -> bool:
    """Return whether this process is one of several that torchrun started."""
    return "LOCAL_RANK" in os.environ


def launch(command: str, args: argparse.Namespace) -> int:
    """Run a command ``args.processes`` times at once; return the exit status of the first to fail.

    SIGTERM reaches each process; the warning before a time limit, SIGUSR2, comes to all of a
    SLURM job's processes by itself and must not end this one.
    """
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
        elastic_launch(config, sys.executable)("-m", "rectify", command, *_words(args))
    except ChildFailedError as error:
        return min(error.failures.values(), key=lambda failure: failure.timestamp).exitcode
    except SignalException:
        return os.EX_TEMPFAIL
    return 0


def _words(args: argparse.Namespace) -> list[str]:
    """Return the options that were parsed into ``args``."""
    given = {key: value for key, value in vars(args).items() if key != "command"}
    return [
        word
        for key, value in given.items()
        if value is not None
        for word in (f"--{key.replace('_', '-')}", str(value))
    ]
