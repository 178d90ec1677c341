"""Builds the image and runs containers of it, with the command ``docker``.

The build uses no index and no registry: the wheels are downloaded on the host, once for each lock, and the
base image is FIVESTAGE_BASE_IMAGE. The image's name is a hash of its content, so that it is built once for
all processes and runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "fivestage:test"
LABEL = "fivestage.test=image"
PYTHON = "/opt/fivestage/bin/python"
LOCKS = ("requirements/runtime.txt", "requirements/build.txt")
CONTEXT = (
    ".dockerignore",
    "LICENSE",
    "hatch_build.py",
    "pyproject.toml",
    "consumer",
    "schemas",
    "deploy/Dockerfile",
    *LOCKS,
)
HARDENED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "512m", "--pids-limit", "256"),
)
BUILD_S = 900.0
"""For a build with a compiler, on a busy machine."""
READY_S = 60.0


class UnavailableError(Exception):
    """No image can be built here, with the reason."""


def docker(*args: str, limit_s: float = 60.0) -> str:
    """Run a docker command and return its standard output."""
    done = subprocess.run(["docker", *args], capture_output=True, text=True, timeout=limit_s, check=False)
    assert done.returncode == 0, f"docker {' '.join(args)}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout.strip()


def build(*, compiled: bool = False) -> str:
    """Build the image unless it exists, and return its name.

    Args:
        compiled: In the image with a compiler, which takes minutes.

    Raises:
        UnavailableError: there is no Docker, no base image or no pip.
    """
    base = os.environ.get("FIVESTAGE_BASE_IMAGE", "fivestage-base:latest")
    if shutil.which("docker") is None:
        raise UnavailableError("there is no command docker")
    if not _succeeds("docker", "version"):
        raise UnavailableError("no Docker daemon answers")
    if not _succeeds("docker", "image", "inspect", base):
        raise UnavailableError(f"there is no base image {base}; deploy/kafka-image/build.sh base makes one")
    build_base = build_image() if compiled else base
    if build_base is None:
        raise UnavailableError("no image has a compiler; deploy/kafka-image/build.sh build makes one")
    tag = f"{IMAGE}-{_content(base, build_base)}"
    with (Path(tempfile.gettempdir()) / f"{tag.replace(':', '-')}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may build the same one
        if not _succeeds("docker", "image", "inspect", tag):
            _build(tag, base, build_base)
    return tag


def _build(tag: str, base: str, build_base: str) -> None:
    old = ("--filter", f"label={LABEL}", "--filter", "until=24h")
    docker("image", "prune", "--all", "--force", *old)
    wheels = _wheels(_python_of(base))
    with tempfile.TemporaryDirectory(prefix="fivestage-context-") as folder:
        context = Path(folder)
        for name in CONTEXT:
            _copy(ROOT / name, context / name)
        _copy(wheels, context / "wheels")
        arguments = (
            f"BASE_IMAGE={base}",
            f"BUILD_IMAGE={build_base}",
            "PIP_ARGS=--no-index --find-links=/wheels",
        )
        build_in(context, tag, "--file", str(context / "deploy/Dockerfile"), arguments=arguments)


def _content(base: str, build_base: str) -> str:
    """Return a hash of the image's content."""
    found = hashlib.sha256()
    for image in (base, build_base):
        found.update(docker("image", "inspect", "--format", "{{.Id}}", image).encode())
    for name in CONTEXT:
        top = ROOT / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def build_image() -> str | None:
    """Return the image with a compiler, or None."""
    name = os.environ.get("FIVESTAGE_BUILD_IMAGE", "fivestage-build:latest")
    return name if _succeeds("docker", "image", "inspect", name) else None


def build_in(context: Path, tag: str, *options: str, arguments: Sequence[str] = ()) -> None:
    """Build any image."""
    given = [part for argument in arguments for part in ("--build-arg", argument)]
    docker("build", "--tag", tag, "--label", LABEL, *options, *given, str(context), limit_s=BUILD_S)


class Container:
    """A container run as deploy/README.md advises, on the host's network, where the broker is.

    Args:
        image: The image.
        settings: Settings by their dotted key, such as ``{"kafka.group_id": "g"}``.
        command: Replaces the image's own.
        mounts: Files of the host by their path in the container.
        until_ready: Wait for the service at the beginning of the ``with``.
    """

    def __init__(
        self,
        image: str,
        settings: Mapping[str, object],
        command: Sequence[str] = (),
        mounts: Mapping[str, Path] | None = None,
        *,
        until_ready: bool = True,
    ) -> None:
        self._until_ready = until_ready
        self.name = f"fivestage-test-{uuid.uuid4().hex[:12]}"
        self.port = _free_port()
        every = {**settings, "admin.port": self.port}
        self._options = [
            f"--env=FIVESTAGE_{k.upper().replace('.', '__')}={_text(v)}" for k, v in every.items()
        ]
        self._options += [f"--volume={path}:{inside}:ro" for inside, path in (mounts or {}).items()]
        self._image = image
        self._command = command

    def __enter__(self) -> Self:
        named = ("--name", self.name, "--label", LABEL, "--network", "host")
        docker("run", "--detach", *named, *HARDENED, *self._options, self._image, *self._command)
        try:
            if self._until_ready:
                self.wait_until("/readyz answers 200", lambda: self.get("/readyz")[0] == http.HTTPStatus.OK)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        docker("rm", "--force", "--volumes", self.name)

    def wait_until(self, what: str, holds: Callable[[], bool], limit_s: float = READY_S) -> None:
        """Wait for a condition, or the end of the container."""
        end, pause = time.monotonic() + limit_s, threading.Event()
        while not holds():
            assert self.inspect("State")["Running"], f"ended before {what}: {self.log()[-5:]}"
            assert time.monotonic() < end, f"not within {limit_s} s: {what}; log: {self.log()[-5:]}"
            pause.wait(0.05)

    def get(self, path: str) -> tuple[int, str]:
        """Request an endpoint on another address than the default; the status is 0 without a listener."""
        connection = http.client.HTTPConnection("127.0.0.2", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def run(self, *command: str) -> str:
        """Run a command in the container and return its standard output."""
        return docker("exec", self.name, *command)

    def stop(self) -> int:
        """Stop it as ``docker stop`` does, with time to drain; return the exit code."""
        docker("stop", "--time", "20", self.name)
        return int(self.inspect("State")["ExitCode"])

    def inspect(self, part: str) -> Any:
        """Return a part of Docker's data of the container."""
        return json.loads(docker("inspect", "--format", f"{{{{json .{part}}}}}", self.name))

    def log(self) -> list[dict[str, Any]]:
        """Return the service's log lines."""
        done = subprocess.run(["docker", "logs", self.name], capture_output=True, timeout=30, check=True)
        return [_line(line) for line in done.stderr.decode().splitlines()]


def _line(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError:
        return {"event": "not JSON", "line": text}


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def _python_of(image: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return docker("run", "--rm", "--network", "none", "--entrypoint", "python3", image, "-c", code)


def _wheels(version: str) -> Path:
    """Download the locked packages for one version of Python, unless an earlier run did."""
    machine = platform.machine()
    inputs = "".join([version, machine, *((ROOT / lock).read_text() for lock in LOCKS)])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("FIVESTAGE_CACHE_DIR") or home / "fivestage")
    folder = cache / f"wheels-{hashlib.sha256(inputs.encode()).hexdigest()[:16]}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform={name}_{machine}" for name in ("manylinux2014", "manylinux_2_28")]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", f"--python-version={version}"]
    with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as part:
        for lock in LOCKS:
            command = [*_pip(), "download", "--quiet", *options, *platforms, f"--dest={part}", "-r", lock]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=BUILD_S, check=False)
            assert done.returncode == 0, done.stderr.decode()[-3000:]
        with contextlib.suppress(OSError):  # another run was faster
            Path(part).rename(folder)
    return folder


def _pip() -> list[str]:
    own = [sys.executable, "-m", "pip"]
    if _succeeds(*own, "--version"):
        return own
    other = shutil.which("pip")
    if other is None:
        raise UnavailableError("there is no pip to download wheels with")
    return [other]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
