"""Time from starting the binary to the first 200 of /ready, and the binary's size stripped.

    python3 tools/measure_startup.py target/release/folio
"""

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

RUNS = 11


def time_to_ready(binary):
    """Seconds until the server answers; the address is read from its first line."""
    start = time.perf_counter()
    command = [binary, "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        address = server.stdout.readline().split()[-1]
        while True:
            try:
                with urllib.request.urlopen(address + "/ready") as answer:
                    if answer.status == 200:
                        break
            except urllib.error.URLError:
                pass
        elapsed = time.perf_counter() - start
        server.terminate()
        server.stdout.read()
    return elapsed


def stripped_size(binary):
    with tempfile.TemporaryDirectory() as folder:
        stripped = pathlib.Path(folder) / "folio"
        subprocess.run(["strip", "-o", stripped, binary], check=True)
        return stripped.stat().st_size


def main():
    binary = sys.argv[1]
    times = sorted(time_to_ready(binary) for _ in range(RUNS))
    print(f"ready after {statistics.median(times) * 1000:.0f} ms (median of {RUNS}, slowest {times[-1] * 1000:.0f} ms)")
    print(f"stripped: {stripped_size(binary) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
