"""Runs that nobody watches: they say that they live, and end so that they can go on."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Answer, Project

Command = Callable[..., Answer]

RUN = [sys.executable, "-c", "from repairkit.cli import main; main()", "score"]
LONG = [
    *("--method", "marginals", "--max-evaluations", "3000", "--metric", "loss"),
    *("--epsilon", "1e-9", "--batch", "8"),
]


def start(project: Project, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [*RUN, str(project.model), *LONG, "-o", "run", *more]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), process.stderr.read().decode() if process.stderr else ""


@pytest.mark.long
def test_sigterm_saves_the_run_and_is_no_failure(project: Project, tmp_path: Path) -> None:
    process = start(project, tmp_path, "--log-json", "log.jsonl")
    wait_for(tmp_path / "run" / "heartbeat.json", process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == b""
    assert err.splitlines()[-1].startswith(b"repairkit: stopped by SIGTERM; run keeps")
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["finished"] is False
    assert document["reason"] == "unfinished: stopped by SIGTERM; go on with --resume"
    assert document["evaluations"] > 0
    beat = json.loads((tmp_path / "run" / "heartbeat.json").read_text())
    assert beat["state"] == "unfinished"
    assert beat["evaluations"] == document["evaluations"]
    assert beat["n_filters"] == 4
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [e["event"] for e in events if "event" in e]
    assert told[:2] == ["read", "started"]  # what was read is told before anything is spent
    assert told[-1] == "unfinished"
    assert {"time", "level", "logger", "message"} <= events[0].keys()
    resumed = start(project, tmp_path, "--resume", "--quiet", "--log-json", "log.jsonl")
    assert resumed.communicate(timeout=120) == (b"", b"")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is True
    assert json.loads((tmp_path / "run" / "heartbeat.json").read_text())["state"] == "finished"
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) > len(events)


def test_a_draft_that_a_killed_process_left_is_in_nobodys_way(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.123.tmp").write_text('{"half')
    answer = repairkit("score", project.model, "--method", "exact", "-o", "run", "--quiet")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("method", ["exact", "tmab"])
def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_state(
    repairkit: Command,
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    arguments = (
        "score",
        project.model,
        "--method",
        method,
        "--max-evaluations",
        "500",
        "-o",
        "run",
    )
    sync, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 3:  # run.json and its folder are there by then
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        answer = repairkit(*arguments, "--quiet")
    assert answer.code == 1
    line = answer.err.splitlines()[-1]
    assert "No space left on device" in line
    assert "free space" in line
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.endswith(".tmp")]
    if (tmp_path / "run" / "run.json").exists():
        assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is False
        arguments = (*arguments, "--resume")
    again = repairkit(*arguments, "--quiet")
    assert again.code == 0, again.err


@pytest.mark.parametrize("place", ["file/run", "/proc/run"])
def test_a_folder_that_takes_no_file_is_told_before_anything_is_computed(
    repairkit: Command, project: Project, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    answer = repairkit("score", project.model, "-o", place, "--max-evaluations", str(10**12))
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "cannot be written" in answer.err or "is no run folder" in answer.err


def test_a_log_that_cannot_be_opened_is_told(repairkit: Command, project: Project) -> None:
    answer = repairkit("score", project.model, "--log-json", "/proc/nowhere/log", "-o", "run")
    assert answer.code == 1
    assert "/proc/nowhere/log: cannot be written" in answer.err


def test_figures_for_prometheus_are_served_and_written_on_request(
    repairkit: Command, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prometheus = pytest.importorskip("prometheus_client", reason="prometheus-client is missing")
    served = {}

    def remember(port: int, registry: object) -> None:
        server, _ = start_server(0, addr="127.0.0.1", registry=registry)
        served["port"], served["server"] = port, server

    start_server = prometheus.start_http_server
    monkeypatch.setattr(prometheus, "start_http_server", remember)
    files = ("--prometheus-file", "figures.prom", "--prometheus-port", "9")
    answer = repairkit("score", project.model, "--method", "exact", "-o", "run", "--quiet", *files)
    assert answer.code == 0, answer.err
    assert served["port"] == 9
    server = served["server"]
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        text = page.read().decode()
    server.shutdown()
    server.server_close()
    assert "repairkit_evaluations 16.0" in text
    assert "repairkit_filters 4.0" in (tmp_path / "figures.prom").read_text()


def test_a_missing_library_is_told_with_the_extra(
    repairkit: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = repairkit("score", project.model, "--prometheus-port", "9999", "-o", "run")
    assert answer.code == 1
    assert "repairkit[prometheus]" in answer.err
