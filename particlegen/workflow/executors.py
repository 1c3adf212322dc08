"""Executors from a resources file: this process, worker processes of this machine, nodes of a cluster."""

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pebble import ProcessPool

from particlegen.settings import InputError, RunError
from particlegen.tasks import InlineExecutor
from particlegen.workflow.resources import (
    ExecutorSection,
    InlineSettings,
    ParslSettings,
    ProcessSettings,
    SlurmNodes,
)

__all__ = ["ParslExecutor", "ProcessExecutor", "check_executor", "open_executor"]

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "OPENMM_CPU_THREADS",
)
"""What numerical libraries read, when they are loaded, about the number of threads to start."""


def check_executor(settings: ExecutorSection) -> None:
    """Whether what the executor needs is installed.

    Raises:
        InputError: with the install line.
    """
    if isinstance(settings, ParslSettings):
        try:
            import parsl  # noqa: F401
        except ImportError as error:
            raise InputError(
                "key 'executor.kind': parsl is not installed; pip install 'particlegen[cluster]'"
            ) from error
        if isinstance(settings.nodes, SlurmNodes) and shutil.which("sbatch") is None:
            raise InputError("key 'executor.nodes.kind': found 'slurm', but there is no sbatch here; use a login node")


@contextmanager
def open_executor(settings: ExecutorSection, logs: Path | None = None) -> Iterator[Executor]:
    """The executor that the settings ask for, closed at the end of the block.

    Args:
        settings: the section `executor` of a resources file.
        logs: a folder for scripts and logs of a cluster's workers, on a file system that the nodes share; made when
            needed. Default: a temporary one.

    Raises:
        InputError: what it needs is not installed.
        RunError: it cannot be started.
    """
    check_executor(settings)
    if isinstance(settings, InlineSettings):
        yield InlineExecutor()
    elif isinstance(settings, ProcessSettings):
        with ProcessExecutor(settings.workers, settings.threads) as executor:
            yield executor
    elif logs is not None:
        with ParslExecutor(settings, logs) as executor:
            yield executor
    else:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            ParslExecutor(settings, Path(folder)) as executor,
        ):
            yield executor


class ProcessExecutor(Executor):
    """Worker processes of this machine, by pebble: one that dies takes its own task along and is replaced.

    The pool of the standard library breaks as a whole when a worker dies, and cannot end a task that hangs.

    Args:
        workers: processes, started with the first task.
        threads: threads of the numerical libraries in each.
    """

    def __init__(self, workers: int, threads: int = 1):
        self._workers = workers
        # Libraries read these when a worker loads them, long before any function of ours could run there.
        self._before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._pool = ProcessPool(self._workers, context=get_context("spawn"))
        self._waiting: set[Future] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Hand a call to the next free worker."""
        return self._schedule(None, fn, args, kwargs)

    def submit_within(self, seconds: float, function: Callable[..., Any], /, *arguments: Any) -> Future:
        """As `submit`; the worker is killed `seconds` after it began with the task, whatever it is in the middle of."""
        return self._schedule(seconds, function, arguments, {})

    def _schedule(self, seconds: float | None, function: Callable[..., Any], args: tuple, kwargs: dict) -> Future:
        if self._closed:
            raise RuntimeError("this executor is shut down")
        try:
            future = self._pool.schedule(function, args, kwargs, timeout=seconds)
        except RuntimeError:
            # A worker that died without a task, or with the pool's lock in its hands, breaks the pool.
            self._pool.stop()
            self._pool.join()
            self._start()
            future = self._pool.schedule(function, args, kwargs, timeout=seconds)
        self._waiting.add(future)
        future.add_done_callback(partial(_ended, self._waiting))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._closed:
            return
        self._closed = True
        if wait and not cancel_futures:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """After an error or an interrupt nobody waits for what is left: workers are ended in the middle of it."""
        self.shutdown(cancel_futures=kind is not None)


def _ended(waiting: set[Future], future: Future) -> None:
    """A pool that breaks fails the tasks that it was handing out; those behind them would wait for ever."""
    waiting.discard(future)
    if not future.cancelled() and isinstance(error := future.exception(), BrokenProcessPool):
        left = list(waiting)
        waiting.clear()
        for other in left:
            with suppress(InvalidStateError):
                other.set_exception(error)


class ParslExecutor(Executor):
    """Worker processes on nodes, by Parsl's high-throughput executor; dead workers and lost nodes are replaced.

    Args:
        settings: nodes, workers and blocks.
        logs: folder of submit scripts and logs.

    Raises:
        RunError: Parsl cannot start.
    """

    def __init__(self, settings: ParslSettings, logs: Path):
        from parsl import DataFlowKernel
        from parsl.concurrent import ParslPoolExecutor

        # What Parsl says about a task comes home with the task; without a handler it would go to the terminal too.
        logging.getLogger("parsl").addHandler(logging.NullHandler())
        try:
            self._kernel = DataFlowKernel(_parsl_config(settings, logs))
        except OSError as error:
            raise RunError(f"executor parsl cannot start: {error}; its logs are in {logs}") from error
        self._pool = ParslPoolExecutor(dfk=self._kernel)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Hand a call to the next free worker."""
        return self._pool.submit(fn, *args, **kwargs)

    def submit_within(self, seconds: float, function: Callable[..., Any], /, *arguments: Any) -> Future:
        """As `submit`; the worker is killed `seconds` after it began with the task, whatever it is in the middle of.

        Parsl then reports a lost worker, as for any other death.
        """
        return self._pool.submit(_within, seconds, function, *arguments)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._kernel.cleanup_called:
            return
        if wait and not cancel_futures:
            self._kernel.wait_for_current_tasks()
        self._kernel.cleanup()

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Parsl cannot cancel tasks: after an error or an interrupt they are left behind with their workers."""
        self.shutdown(wait=kind is None)


def _within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs in a worker's main thread. The kernel ends the process; a handler would wait for an engine that hangs."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _parsl_config(settings: ParslSettings, logs: Path):
    """Parsl's own configuration object."""
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.executors.high_throughput import executor as htex
    from parsl.launchers import SrunLauncher
    from parsl.providers import LocalProvider, SlurmProvider

    nodes, blocks = settings.nodes, settings.blocks
    scaling: dict[str, Any] = {
        "init_blocks": blocks.initial,
        "min_blocks": blocks.fewest,
        "max_blocks": blocks.most,
        "parallelism": blocks.parallelism,
    }
    threads = [f"export {name}={settings.threads}" for name in THREAD_VARIABLES]
    drain = None
    if isinstance(nodes, SlurmNodes):
        provider = SlurmProvider(
            partition=nodes.partition,
            account=nodes.account,
            qos=nodes.qos,
            constraint=nodes.constraint,
            nodes_per_block=nodes.nodes,
            cores_per_node=nodes.cores,
            mem_per_node=nodes.memory,
            walltime=nodes.walltime,
            exclusive=nodes.exclusive,
            scheduler_options="\n".join(nodes.options),
            worker_init="\n".join([*nodes.setup, *threads]),
            launcher=SrunLauncher(),
            **scaling,
        )
        # A job that nears its end takes no task that it could not finish.
        drain = None if settings.timeout is None else max(1, int(nodes.seconds - settings.timeout))
    else:
        provider = LocalProvider(worker_init="\n".join(threads), **scaling)
    package = "parsl.executors.high_throughput"
    executor = HighThroughputExecutor(
        label="workers",
        provider=provider,
        address=None if isinstance(nodes, SlurmNodes) else "127.0.0.1",
        max_workers_per_node=settings.workers,
        # The number of workers is the one that was asked for, however many cores Parsl counts.
        cores_per_worker=1e-3,
        heartbeat_period=settings.heartbeat,
        heartbeat_threshold=12 * settings.heartbeat,
        drain_period=drain,
        # This interpreter, also where its scripts are not on the path.
        launch_cmd=htex.DEFAULT_LAUNCH_CMD.replace(
            "process_worker_pool.py", f"{sys.executable} -m {package}.process_worker_pool", 1
        ),
        interchange_launch_cmd=[sys.executable, "-m", f"{package}.interchange"],
    )
    fixed = blocks.fewest == blocks.initial == blocks.most
    return Config(
        executors=[executor],
        run_dir=str(logs),
        retries=0,  # `map_tasks` counts attempts
        strategy="none" if fixed else "htex_auto_scale",
        max_idletime=blocks.idle,
        initialize_logging=False,
    )
