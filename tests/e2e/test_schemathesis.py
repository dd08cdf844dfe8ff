"""Random requests made from the server's own description: none may break it."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("schemathesis")


def test_nothing_that_fits_the_description_or_misses_it_breaks_the_server(server):
    program = pathlib.Path(sys.executable).with_name("st")
    options = ["--checks", "not_a_server_error", "--max-examples", "50", "--seed", "1", "--request-timeout", "60"]
    done = subprocess.run(
        [program, "run", f"{server.url}/openapi.json", *options], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-4000:]
