"""Starts the server for a bench, and sends it requests."""

import json
import os
import subprocess
import threading
import time
import urllib.request

KEY = "a-key-for-the-bench"
ENVIRONMENT = {
    # Reporting zones: that of the comparison with other engines. With ECHOPILOT_ZONES=UTC it is read from events.
    "ECHOPILOT_ZONES": "UTC,Europe/Berlin",
    **os.environ,
    "ECHOPILOT_DASH_KEY": KEY,
    "ECHOPILOT_RAW_RETENTION_DAYS": "400",
    # All events of a bench come from one address.
    "ECHOPILOT_LIMIT_CLIENT_EVENTS": "0",
}


class Server:
    def __init__(self, program, folder, *options):
        started = time.monotonic()
        self.child = subprocess.Popen(
            [program, "serve", "--data-dir", folder, "--listen", "127.0.0.1:0", *options],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = next(line[line.index("http://") :].split()[0] for line in self.child.stderr if "http://" in line)
        self.start_seconds = time.monotonic() - started
        self.port = int(self.url.rsplit(":", 1)[1])
        # The server would block on a full pipe.
        self.listener = threading.Thread(target=self._drain, daemon=True)
        self.listener.start()

    def _drain(self):
        for line in self.child.stderr:
            if " ERROR " in line or "panicked" in line:
                print(line.rstrip(), flush=True)

    def ask(self, path, body=None):
        """Sends a request; returns the seconds until its response, and the response. `path` is below /api/analytics."""
        headers = {"X-Dash-Key": KEY, "Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.url}/api/analytics/{path}", body and json.dumps(body).encode(), headers
        )
        started = time.monotonic()
        with urllib.request.urlopen(request) as response:
            body = response.read()
        return time.monotonic() - started, json.loads(body)

    def memory(self, field="VmRSS"):
        """Returns MB of memory: VmRSS is the current value, VmHWM the peak."""
        with open(f"/proc/{self.child.pid}/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

    def cpu_seconds(self):
        """Returns the CPU time of all threads so far."""
        with open(f"/proc/{self.child.pid}/stat") as stat:
            # The name of the program may contain spaces.
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self):
        return self.memory("VmHWM")

    def stop(self):
        self.child.terminate()
        self.child.wait()
        self.listener.join()

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.listener.join()
