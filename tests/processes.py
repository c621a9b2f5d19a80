"""Starts Python programs as subprocess does, but from a process that has imported the libraries already.

Importing torch and Lightning takes 4 s of each command of a test. One server for each process of pytest imports them
once and forks a child for each command, which takes milliseconds. Our own modules are imported by the child, in the
order of its command. A command whose environment could change an import, or that has a terminal, starts afresh.
"""

import atexit
import builtins
import gc
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOADED = ("pytorch_lightning", "torchvision.transforms.v2", "hydra.main", "rich.table", "rich.progress",
             "sklearn.datasets", "torch.distributed")  # fmt: skip
# What no library reads while it is imported; PYTHONPATH is followed by the child.
HARMLESS = ("COLUMNS", "PATH", "PYTHONPATH", "PYTEST_CURRENT_TEST", "SLURM_JOB_ID", "SIAMESE_", "WANDB_")
_server: list = []  # the server's process and the name of its socket


@atexit.register
def _end_server():
    if _server:
        _server[0].communicate()  # the end of its standard input ends it


def run(arguments, *, capture_output=False, timeout=None, check=False, **settings):
    """As subprocess.run([sys.executable, *arguments], …)."""
    if capture_output:
        settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(arguments, **settings) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, out, err)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(arguments, **settings):
    """As subprocess.Popen([sys.executable, *arguments], …)."""
    command = [sys.executable, *map(str, arguments)]
    env = settings.get("env") or os.environ
    changed = {k for k in {*env, *os.environ} if env.get(k) != os.environ.get(k)}
    fresh = sys.platform != "linux" or env.get("OMP_NUM_THREADS") != "1"
    fresh = fresh or any(not key.startswith(HARMLESS) for key in changed)
    places = env.get("PYTHONPATH", "").split(os.pathsep)
    fresh = fresh or any((Path(place) / "sitecustomize.py").exists() for place in places if place)
    for stream in (settings.get("stdout"), settings.get("stderr")):
        number = stream.fileno() if hasattr(stream, "fileno") else stream
        fresh = fresh or (isinstance(number, int) and number >= 0 and os.isatty(number))
    return (subprocess.Popen if fresh else _Forked)(command, **settings)


def _socket_name():
    """Of this process's server, which ends with it."""
    if not _server:
        name = Path(tempfile.mkdtemp()) / "server"
        ready, told = os.pipe()
        code = f"import processes; processes.serve({str(name)!r}, {told})"
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)  # as children will have: none can seek
        command = [sys.executable, "-c", code]
        server = subprocess.Popen(command, env=env, pass_fds=[told], start_new_session=True, **pipes)
        os.close(told)
        assert os.read(ready, 1) == b"!", server.communicate()
        os.close(ready)
        _server.extend((server, str(name)))
    return _server[1]


class _Forked(subprocess.Popen):
    """A child of the server, with Popen's methods."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
                       shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, restore_signals, gid, gids, uid,
                       umask, start_new_session, *_):  # fmt: skip
        assert not (executable or pass_fds or shell), "tests/processes.py knows no such setting"
        quiet = preexec_fn is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        given = (p2cread, c2pwrite, errwrite)
        streams = [own if number == -1 else number for own, number in enumerate(given)]
        request = {"argv": args[1:], "cwd": os.fspath(cwd or os.getcwd()), "env": dict(env or os.environ),
                   "session": bool(start_new_session), "quiet": quiet}  # fmt: skip
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(_socket_name())
        socket.send_fds(self._line, [b"!"], streams)
        data = json.dumps(request).encode()
        self._line.sendall(len(data).to_bytes(4, "big") + data)
        self._answers = self._line.makefile("r")
        self.pid = int(self._answers.readline())
        self._child_created = True
        for number, ours in zip(given, (p2cwrite, c2pread, errread), strict=True):
            if number != -1 and ours != -1:
                os.close(number)  # the child has it
        if getattr(self, "_devnull", None) is not None:
            os.close(self._devnull)
        self._closed_child_pipe_fds = True

    def _internal_poll(self, *_, **__):
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self._ended()
        return self.returncode

    def _wait(self, timeout):
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self._ended()
        return self.returncode

    def _ended(self):
        self.returncode = os.waitstatus_to_exitcode(int(self._answers.readline()))
        self._answers.close()
        self._line.close()


def serve(name, told):
    """Fork a child for each request until the process that started this one ends."""
    for module in PRELOADED:
        __import__(module)
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread; no child could be forked"
    gc.collect()
    gc.freeze()  # so that collections in a child copy no pages
    lines = {}
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        os.write(told, b"!")
        os.close(told)
        while True:
            ready = select.select([0, wake, listening], [], [])[0]
            if 0 in ready:
                sys.exit()  # the end of the tests
            if wake in ready:
                os.read(wake, 4096)
                while lines:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                    if pid == 0:
                        break
                    with lines.pop(pid) as line:
                        line.sendall(f"{status}\n".encode())
            if listening in ready:
                line, _ = listening.accept()
                _, streams, _, _ = socket.recv_fds(line, 1, 3)
                read = line.makefile("rb")
                request = json.loads(read.read(int.from_bytes(read.read(4), "big")))
                pid = os.fork()
                if pid == 0:
                    break
                for stream in streams:
                    os.close(stream)
                read.close()
                line.sendall(f"{pid}\n".encode())
                lines[pid] = line
    for other in (line, read, *lines.values()):
        other.close()
    _become(request, streams, (wake, woken))


def _become(request, streams, used):
    """Run the request's program in this process, as the interpreter does when it starts."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN if request["quiet"] else signal.default_int_handler)
    if request["session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for number in (*streams, *used):
        os.close(number)
    os.chdir(request["cwd"])
    for key in set(os.environ) - set(request["env"]):
        del os.environ[key]
    os.environ.update(request["env"])
    own = [p for p in request["env"].get("PYTHONPATH", "").split(os.pathsep) if p]
    inherited = [p for p in sys.path[1:] if p != str(Path(__file__).parent)]
    argv = request["argv"]
    if argv[0] == "-m":
        sys.argv = argv[1:]
        sys.path[:] = [os.getcwd(), *own, *inherited]
        import runpy

        runpy._run_module_as_main(argv[1])
        return
    source, sys.argv = (argv[1], ["-c", *argv[2:]]) if argv[0] == "-c" else (None, argv)
    sys.path[:] = ["" if source is not None else str(Path(argv[0]).parent), *own, *inherited]
    main = sys.modules["__main__"].__dict__
    main.clear()
    main.update(__name__="__main__", __builtins__=builtins, __spec__=None, __doc__=None, __package__=None,
                __loader__=None)  # fmt: skip
    if source is None:
        main["__file__"] = argv[0]
        with io.open_code(argv[0]) as stream:
            source = stream.read()
    exec(compile(source, argv[0] if "__file__" in main else "<string>", "exec"), main)
