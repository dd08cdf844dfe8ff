"""Replicas of the binary, and whatever people put between them and their programs."""

import pathlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "clients"))

from server import Server  # noqa: E402


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Between:
    """A process between clients and servers; ready once `path` answers."""

    def __init__(self, command, port, path, log, seconds=120):
        self.url = f"http://127.0.0.1:{port}"
        self.log = open(log, "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        until = time.monotonic() + seconds
        while not self._answers(path):
            assert self.process.poll() is None, f"{command[0]} ended: {open(log).read()[-2000:]}"
            assert time.monotonic() < until, f"{command[0]} is not ready: {open(log).read()[-2000:]}"
            time.sleep(0.2)

    def _answers(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="session")
def server():
    running = Server("--tool-call-parser", "hermes")
    yield running
    assert running.stop() == 0


@pytest.fixture
def replicas():
    running = [Server(), Server()]
    yield running
    for replica in running:
        if replica.process.poll() is None:
            assert replica.stop() == 0
