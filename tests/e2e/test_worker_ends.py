"""A worker ends when it is told to, whatever it waits for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from bench.system import free_port


def test_sigterm_ends_a_worker_that_waits_for_kafka(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": nowhere,
        "DATABASE_URL": f"postgresql://u@{nowhere}/x",
        "EMAIL_PROVIDERS": "",
        "METRICS_PORT": str(free_port()),
    }
    with log.open("w") as output:
        worker = subprocess.Popen([sys.executable, "-m", "cli.main", "worker"], env=environment, stderr=output)
    deadline = time.monotonic() + 30
    while "kafka unreachable" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    worker.wait(10)
    assert "u@" not in log.read_text()
