"""A cluster of Apache Spark on the loopback of this machine: a master, workers, and a Spark Connect server."""

import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

# Time in which a process must say what it is waited for.
PATIENCE_S = 240


class Process:
    """A process whose lines are waited for; they are also written to a log."""

    def __init__(self, command, environment, log):
        self.log = log
        self.lines = []
        self.has_ended = False
        self.news = threading.Condition()
        self.child = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with open(self.log, "w") as copy:
            for line in self.child.stdout:
                copy.write(line)
                copy.flush()
                with self.news:
                    self.lines.append(line)
                    self.news.notify_all()
        with self.news:
            self.has_ended = True
            self.news.notify_all()

    def wait_for(self, text, after=0):
        """Waits for a line that contains a string, among those after some number of lines. Returns the line."""

        def found():
            return next((line for line in self.lines[after:] if text in line), None)

        with self.news:
            self.news.wait_for(lambda: found() or self.has_ended, PATIENCE_S)
            if found() is None:
                sys.exit(f"{self.log.stem}: no line with {text!r}:\n{''.join(self.lines[-40:])}")
            return found()

    def stop(self, number=signal.SIGKILL):
        if self.child.poll() is None:
            os.killpg(self.child.pid, number)
        self.child.wait()
        self.reader.join()


class Cluster:
    """The processes of a cluster."""

    def __init__(self, folder, workers=2):
        self.folder = folder
        self.workers = workers
        # Only its programs are used: the package itself needs others.
        self.home = pathlib.Path(importlib.util.find_spec("pyspark").origin).parent
        self.processes = {}
        self.environment = os.environ | {
            "SPARK_HOME": str(self.home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOG_DIR": str(folder),
            "SPARK_WORKER_DIR": str(folder / "work"),
            "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=false",
        }
        self.master_port = free_port()

    def launch(self, name, memory, *command):
        environment = self.environment | {"SPARK_DAEMON_MEMORY": memory}
        self.processes[name] = Process(command, environment, self.folder / f"{name}.log")
        return self.processes[name]

    def start(self):
        spark_class = str(self.home / "bin/spark-class")
        master = f"spark://127.0.0.1:{self.master_port}"
        place = ["--host", "127.0.0.1"]
        port = ["--port", str(self.master_port), "--webui-port", "0"]
        started = self.launch("master", "200m", spark_class, "org.apache.spark.deploy.master.Master", *place, *port)
        started.wait_for("New state: ALIVE")
        started = []
        for number in range(1, self.workers + 1):
            size = ["--cores", "1", "--memory", "700m", "--webui-port", "0"]
            worker = "org.apache.spark.deploy.worker.Worker"
            started.append(self.launch(f"worker-{number}", "200m", spark_class, worker, *place, *size, master))
        for worker in started:
            worker.wait_for("Successfully registered with master")

    def connect(self, zone):
        """Starts the Connect server with a session zone, and returns its address."""
        self.stop("connect")
        port = free_port()
        settings = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.executor.memory": "512m",
            "spark.executor.cores": "1",
            "spark.cores.max": str(self.workers),
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": str(port),
            "spark.sql.session.timeZone": zone,
            "spark.sql.shuffle.partitions": "2",
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.ui.enabled": "false",
        }
        started = self.launch(
            "connect",
            "700m",
            str(self.home / "bin/spark-submit"),
            *["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"],
            *["--master", f"spark://127.0.0.1:{self.master_port}"],
            *[part for name, value in settings.items() for part in ("--conf", f"{name}={value}")],
            "spark-internal",
        )
        started.wait_for("Spark Connect server started")
        return f"sc://127.0.0.1:{port}"

    def cpu_seconds(self):
        """Returns the CPU time of all processes of the cluster so far, with that of their tasks."""
        groups = {process.child.pid for process in self.processes.values()}
        ticks = 0
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name of a program may contain spaces.
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            # The session of the processes of a worker is that of the worker.
            if int(fields[3]) in groups:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self, name, number=signal.SIGKILL):
        process = self.processes.pop(name, None)
        if process:
            process.stop(number)

    def end(self):
        for name in list(self.processes):
            self.stop(name)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
