import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from flows.process import dvc_environment

REPO = Path(__file__).parents[2]
SLEEPER = "import os, time; Path('.retune/pid').write_text(str(os.getpid())); time.sleep(600)"

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(toy):
    """The toy with this project's flows, as a checkout has them."""
    shutil.copytree(REPO / "flows", toy / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "prefect.yaml", toy)
    (toy / ".gitignore").write_text("/.retune/\n")
    return toy


def environment(checkout):
    """No Prefect setting of whoever runs the tests."""
    clean = {name: value for name, value in dvc_environment().items() if not name.startswith("PREFECT_")}
    return clean | {"PWD": checkout.as_posix(), "DO_NOT_TRACK": "1"}


def run_once(checkout):
    command = [sys.executable, "-m", "flows.pipeline"]
    return subprocess.run(command, cwd=checkout, env=environment(checkout), capture_output=True, text=True, check=False)


def table(output):
    """{stage: state} of the table at the end."""
    lines = output[output.index("stage  ") :].splitlines()[1:]
    states = {"Ran", "Cached", "Failed", "Not run"}
    return {line.split()[0]: state for line in lines for state in states if line.split()[1:2] == state.split()[:1]}


def test_flow_runs_the_stages_once_and_then_finds_them_cached(checkout):
    first, second = run_once(checkout), run_once(checkout)
    assert first.returncode == 0, first.stdout + first.stderr
    assert table(first.stdout + first.stderr) == dict.fromkeys(["zeta", "alpha", "mid", "last", "apart"], "Ran")
    assert "Task run 'mid' - mid: at work" in first.stdout + first.stderr
    assert second.returncode == 0, second.stdout + second.stderr
    assert table(second.stdout + second.stderr) == dict.fromkeys(["zeta", "alpha", "mid", "last", "apart"], "Cached")
    assert (checkout / ".retune/prefect/prefect.db").is_file()


def test_flow_with_a_failed_stage_runs_what_does_not_depend_on_it_and_fails(checkout):
    (checkout / "mid.txt").write_text("sys.exit('mid: row 7 has no role; mend it')")
    done = run_once(checkout)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert table(output) == {"zeta": "Ran", "alpha": "Ran", "mid": "Failed", "last": "Not run", "apart": "Ran"}
    assert "Finished in state Failed('mid: row 7 has no role; mend it')" in output
    assert not (checkout / "out/last").exists()


def test_flow_on_a_broken_graph_fails_with_the_reason(checkout):
    (checkout / "dvc.yaml").write_text("stages: [")
    done = run_once(checkout)
    assert done.returncode == 1
    assert "dvc.yaml" in done.stdout + done.stderr


class Server:
    """A real Prefect server and a worker, on loopback."""

    def __init__(self, checkout: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.checkout = checkout
        self.api = f"http://127.0.0.1:{self.port}/api"
        home = checkout / ".retune/prefect"
        home.mkdir(parents=True)
        self.env = environment(checkout) | {"PREFECT_API_URL": self.api, "PREFECT_HOME": home.as_posix()}
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.checkout / ".retune/log").open("ab") as log:
            self.processes.append(self.popen(*arguments, stdout=log, stderr=log))
        return self.processes[-1]

    def popen(self, *arguments: str, **kwargs) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", *arguments]
        return subprocess.Popen(command, cwd=self.checkout, env=self.env, start_new_session=True, **kwargs)

    def prefect(self, *arguments: str) -> str:
        process = self.popen("--no-prompt", *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output = process.communicate()[0].decode()
        assert process.returncode == 0, output
        return output

    def ask(self, path: str, body: object = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.api}/{path}", data, {"Content-Type": "application/json"})  # noqa: S310 - on loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def begin(self) -> str:
        """Ask for a run, as the schedule would; its id."""
        output = self.prefect("deployment", "run", "retune/nightly")
        return output.partition("UUID:")[2].split()[0]

    def state(self, run: str):
        return self.ask(f"flow_runs/{run}")["state"]

    def wait(self, run: str, *names: str) -> str:
        wait_until(lambda: self.state(run)["name"] in names, self.checkout)
        return self.state(run)["name"]


def wait_until(condition, checkout, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (checkout / ".retune/log").read_text()[-3000:]
        time.sleep(0.2)


@pytest.fixture
def server(checkout):
    found = Server(checkout)
    try:
        found.start("server", "start", "--host", "127.0.0.1", "--port", str(found.port))

        def healthy():
            try:
                return found.ask("health")
            except OSError:
                return False

        wait_until(healthy, checkout)
        found.prefect("work-pool", "create", "--type", "process", "retune")
        found.prefect("deploy", "--all")
        found.start("worker", "start", "--pool", "retune")
        yield found
    finally:
        for process in reversed(found.processes):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def trainer(checkout):
    wait_until(lambda: (checkout / ".retune/pid").exists() and (checkout / ".retune/pid").read_text(), checkout)
    return int((checkout / ".retune/pid").read_text())


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


@pytest.mark.timeout(1200)
def test_deployment_is_carried_out_by_a_server_and_a_worker(checkout, server):
    run = server.begin()
    assert server.wait(run, "Completed", "Failed", "Crashed") == "Completed", (checkout / ".retune/log").read_text()
    tasks = server.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert {task["name"]: task["state"]["name"] for task in tasks} == dict.fromkeys(
        ["zeta", "alpha", "mid", "last", "apart"], "Ran"
    )
    # the lines of a run may reach the server some seconds behind its end
    for _ in range(60):
        logs = [line["message"] for line in server.ask("logs/filter", {"limit": 200})]
        if "mid: at work" in logs:
            break
        time.sleep(0.5)
    assert "mid: at work" in logs

    deployment = server.ask("deployments/name/retune/nightly")
    assert [schedule["schedule"]["timezone"] for schedule in deployment["schedules"]]
    scheduled = {
        "deployments": {"name": {"any_": ["nightly"]}},
        "flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}},
    }
    wait_until(lambda: server.ask("flow_runs/filter", scheduled), checkout)

    # a second run beside a running one is cancelled, the running one goes on; cancelled itself, it leaves no trainer
    (checkout / "apart.txt").write_text(SLEEPER)
    first = server.begin()
    pid = trainer(checkout)
    second = server.begin()
    assert server.wait(second, "Cancelled", "Running", "Completed") == "Cancelled"
    assert not gone(pid)
    server.prefect("flow-run", "cancel", first)
    wait_until(lambda: gone(pid), checkout, 30)
    assert server.wait(first, "Cancelled", "Crashed") == "Cancelled"

    # and a flow that is killed outright leaves none either
    (checkout / ".retune/pid").unlink()
    third = server.begin()
    pid = trainer(checkout)
    assert server.state(third)["name"] == "Running"
    dvc = next(parent for parent in parents(pid) if "dvc" in command_line(parent))
    os.kill(parents(dvc)[0], 9)
    wait_until(lambda: gone(pid), checkout, 30)


def parents(pid):
    """The parent, its parent, and so on."""
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


def command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
