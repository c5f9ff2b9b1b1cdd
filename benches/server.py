"""The server that a bench asks."""

import json
import os
import subprocess
import time
import urllib.request

KEY = "a-key-for-the-bench"
ENVIRONMENT = {
    **os.environ,
    "ECHOPILOT_DASH_KEY": KEY,
    "ECHOPILOT_RAW_RETENTION_DAYS": "400",
    # All events of a bench come from one address.
    "ECHOPILOT_LIMIT_CLIENT_EVENTS": "0",
}


class Server:
    def __init__(self, program, folder):
        started = time.monotonic()
        self.child = subprocess.Popen(
            [program, "serve", "--data-dir", folder, "--listen", "127.0.0.1:0"],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        self.url = next(line.split()[-1] for line in self.child.stderr if "answers at" in line)
        self.start_seconds = time.monotonic() - started

    def ask(self, path, body=None):
        """Seconds until the answer, and the answer. `path` is below /api/analytics."""
        headers = {"X-Dash-Key": KEY, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/analytics/{path}", body and json.dumps(body).encode(), headers)
        started = time.monotonic()
        with urllib.request.urlopen(request) as response:
            answer = response.read()
        return time.monotonic() - started, json.loads(answer)

    def peak(self):
        with open(f"/proc/{self.child.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

    def stop(self):
        self.child.terminate()
        self.child.stderr.close()
        self.child.wait()
