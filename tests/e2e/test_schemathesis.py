"""Random requests made from the server's own description: none may break it."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("schemathesis")

SECONDS = 90


def test_nothing_that_fits_the_description_or_misses_it_breaks_the_server(server):
    program = pathlib.Path(sys.executable).with_name("st")
    # Repeated until the time is over; requests wait for no longer than the server itself lets them.
    bounds = ["--max-time", str(SECONDS), "--max-examples", "30", "--request-timeout", "30", "--seed", "1"]
    what = ["--phases", "examples,coverage,fuzzing", "--checks", "not_a_server_error", "--no-color", "--no-shrink"]
    done = subprocess.run(
        [program, "run", f"{server.url}/openapi.json", *bounds, *what], capture_output=True, text=True, timeout=2 * SECONDS
    )
    print("\n".join(line for line in done.stdout.splitlines() if "test cases" in line.lower()))
    assert done.returncode == 0, done.stdout[-4000:]
    assert server.process.poll() is None
