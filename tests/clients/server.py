"""The binary as a user would start it."""

import os
import re
import signal
import subprocess
import threading

import openai

BINARY = os.environ.get("FOLIO_BINARY", "target/debug/folio")


class Server:
    """A running `folio serve` on a free port of the loopback interface."""

    def __init__(self, *flags):
        command = [BINARY, "serve", "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines = []
        self.url = self._wait_for_address()
        # The pipes must be read to the end, or a full one would block the server.
        for pipe in (self.process.stdout, self.process.stderr):
            threading.Thread(target=self.lines.extend, args=(pipe,), daemon=True).start()

    def _wait_for_address(self):
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                return found.group(0)
        raise AssertionError(f"the server ended before it listened: {self.process.stderr.read()}")

    def client(self, key="none"):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=0, timeout=60)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)
