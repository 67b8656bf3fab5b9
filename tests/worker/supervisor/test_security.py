"""What docs/security.md promises, held to a real worker and a real Redis."""

import ast
import http.server
import json
import re
import shlex
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from redis.connection import SSLConnection
from redis.exceptions import NoPermissionError
from rq import Callback, Repeat, Retry
from rq.command import send_command
from rq.job import Job
from rq.webhook import Webhook

from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import Keys
from scattershot_common.bus.queue import RUN_TRIAL
from scattershot_common.bus.server import EmbeddedServer
from scattershot_common.bus.signing import SECRET_VARIABLE, sign
from scattershot_common.bus.trial_spec import TrialSpec
from support.real_worker import MODULE, RealStudy, RealWorker

ROOT = Path(__file__).parents[3]
PRODUCT = [path for wing in ("common", "worker", "master") for path in (ROOT / wing).rglob("*.py")]

TASKS = '''
import os
import signal
import sys
import time
from pathlib import Path

from torch import nn


def _first(trial):
    """Return whether nobody asked this before for the trial."""
    mark = Path(sys.path[0], f"{trial.folder.name}-{trial.number}")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def steady(trial):
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        trial.report(acc=epoch / 100)


def endless(trial):
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        for _ in trial.batches(iter(int, 1)) if epoch > 1 else ():
            time.sleep(0.001)
        trial.report(acc=epoch / 100)


def killed_once(trial):
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        if epoch == 3 and _first(trial):
            os.kill(os.getpid(), signal.SIGKILL)
        trial.report(acc=epoch / 100)
'''


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    """One worker for all that needs no flags: its child needs seconds to import torch."""
    worker = RealWorker(redis_url, tmp_path_factory.mktemp("around") / "worker", TASKS)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., RealWorker]]:
    """Start a worker of this test alone."""
    workers: list[RealWorker] = []

    def start(*flags: str, url: str = redis_url, **more: Any) -> RealWorker:
        worker = RealWorker(url, tmp_path / f"worker-{len(workers)}", TASKS, *flags, **more)
        worker.start()
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop()


def still_works(worker: RealWorker, task: str = "steady") -> None:
    """Let a trial run to its end."""
    study = RealStudy(worker, task)
    study.send(0)
    study.until(0, "complete")


# ---- no pickle


#: Whatever reads Python objects back by running what is written in them.
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_in_the_product_can_read_a_pickle(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        assert not {part for name in names for part in name.split(".")} & PICKLES
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("read_pickle", "PickleSerializer", "DefaultSerializer")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            assert not (node.func.attr == "load" and owner in ("torch", "torch.jit", "np", "numpy"))
        if isinstance(node, ast.keyword):
            assert node.arg not in ("weights_only", "allow_pickle")


# ---- what a job may ask for


class Listener:
    """An HTTP server that counts who calls."""

    def __init__(self) -> None:
        calls: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                calls.append(self.path)
                self.send_response(204)
                self.end_headers()

        self.calls = calls
        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.server.shutdown()


def test_a_job_gets_nothing_but_its_call_out_of_a_worker(
    worker: RealWorker, listener: Listener
) -> None:
    (worker.root / "evil.py").write_text("import pathlib\npathlib.Path('imported').touch()\n")
    study = RealStudy(worker, "steady")
    study.states.submit(0, 2)
    wishes: dict[str, Any] = {
        "on_success": Callback("evil.callback"),
        "on_failure": Callback("evil.callback"),
        "on_stopped": Callback("evil.callback"),
        "webhooks": [Webhook(listener.url, status) for status in ("finished", "failed")],
        "retry": Retry(max=3),
        "repeat": Repeat(times=3),
        "result_ttl": 500,
    }
    queue = worker.queue.rq
    good = queue.enqueue(RUN_TRIAL, study.spec(0, 2).to_json(), 1, "", **wishes)
    bad = queue.enqueue("evil.function", **wishes)
    study.until(0, "complete")
    still_works(worker)
    assert not Job.exists(good.id, connection=queue.connection)
    assert bad.id in queue.failed_job_registry.get_job_ids(cleanup=False)
    assert worker.queue.waiting() == []
    assert queue.scheduled_job_registry.get_job_ids(cleanup=False) == []
    assert listener.calls == []
    assert not (worker.root / "imported").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", "", "a\0b", "a/b", ".hidden"])
def test_a_study_whose_name_leaves_the_folder_is_refused_before_anything_is_touched(
    worker: RealWorker, name: str
) -> None:
    connection: Any = worker.connection
    info = {**asdict(RealStudy(worker, "steady").info), "name": name}
    connection.hset(Keys(name).info, mapping={"uid": "u1", "info": json.dumps(info)})
    spec = TrialSpec(name, "u1", 1, "coarse", {}, 1, 2)
    worker.queue.rq.enqueue(RUN_TRIAL, spec.to_json(), 1, "", job_id="stranger")
    still_works(worker)
    rq = worker.queue.rq
    result = Job.fetch("stranger", rq.connection, rq.serializer).latest_result()
    assert result is not None
    assert result.exc_string == f"not a trial: refused {name!r} as the name of a study"
    assert repr(name) in worker.log.read_text()
    assert not connection.exists(Keys(name).events, Keys(name).trial(1), Keys(name).running)
    assert not [path for path in worker.root.parent.rglob("*") if "outside" in path.name]
    assert not (worker.root / "trials").exists()


def test_a_worker_trains_only_the_tasks_it_was_told_to(start: Callable[..., RealWorker]) -> None:
    worker = start("--allow", f"{MODULE}:st*", "--allow", "digits")
    still_works(worker)
    for task in ("endless", "killed_once"):
        study = RealStudy(worker, task)
        study.send(3)
        study.until(3, "failed")
        assert study.last(3).reason == (
            f"refused by worker {worker.name}: this worker may not train the task "
            f"'{MODULE}:{task}' (see --allow)"
        )
        assert study.epochs(3) == []


# ---- the cluster's secret


SECRET = "the cluster's"
NOT_SIGNED = f"its signature is not of this worker's {SECRET_VARIABLE}"


def put(study: RealStudy, spec: TrialSpec, signature: str) -> None:
    """Put a trial on the queue with the signature it is given."""
    study.states.submit(spec.trial, spec.epochs)
    study.worker.queue.rq.enqueue(RUN_TRIAL, spec.to_json(), 1, signature)


def refusal(study: RealStudy, trial: int) -> str:
    """Return why a trial was refused, as the user reads it."""
    study.until(trial, "failed")
    assert study.epochs(trial) == []
    who, _, why = study.last(trial).reason.partition(": ")
    assert who == f"refused by worker {study.worker.name}"
    return why


def test_with_a_secret_only_what_the_master_signed_is_trained(
    start: Callable[..., RealWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start(environment={SECRET_VARIABLE: SECRET})
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)  # this test is the master
    study = RealStudy(worker, "steady")
    study.send(0, lr=0.1)
    study.until(0, "complete")

    def signed(trial: int, lr: float) -> str:
        return sign(study.spec(trial, 4, lr=lr).to_json(), SECRET)

    forged = {
        1: "",
        2: sign(study.spec(2, 4, lr=0.1).to_json(), "another's"),
        3: signed(3, lr=0.2),
        4: signed(5, lr=0.1),
        5: signed(5, lr=0.1).upper(),
    }
    for trial, signature in forged.items():
        put(study, study.spec(trial, 4, lr=0.1), signature)
        assert refusal(study, trial) == NOT_SIGNED
    study.send(6, lr=0.1)
    study.until(6, "complete")


@pytest.mark.parametrize("change", ["altered", "unsigned", "another secret", "another study"])
def test_with_a_secret_a_study_whose_settings_are_not_the_masters_is_refused(
    secret_worker: RealWorker, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    study = RealStudy(secret_worker, "steady")
    connection: Any = secret_worker.connection
    key = Keys(study.name).info
    info, signature = connection.hmget(key, "info", "signature")
    assert signature == sign(info, SECRET)
    other = json.dumps({**json.loads(info), "task": f"{MODULE}:endless"})
    wrong = {
        "altered": {"info": other},
        "unsigned": {"signature": ""},
        "another secret": {"signature": sign(info, "another's")},
        "another study": {"info": info.replace(study.name, "x"), "signature": "?"},
    }[change]
    if change == "another study":  # as the master itself once signed it
        wrong["signature"] = sign(wrong["info"], SECRET)
    connection.hset(key, mapping=wrong)
    study.send(1)
    reason = refusal(study, 1)
    assert reason.startswith(
        f"what the master published of study {study.name!r} cannot be read here"
        if change == "another study"
        else f"study {study.name!r} is not signed with this worker's secret; set the same "
    )


@pytest.fixture(scope="module")
def secret_worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    root = tmp_path_factory.mktemp("around") / "worker"
    worker = RealWorker(redis_url, root, TASKS, environment={SECRET_VARIABLE: SECRET})
    worker.start()
    yield worker
    worker.stop()


# ---- Redis: a minimal user, and TLS


def documented_rules() -> list[str]:
    """Return the rules of the worker's user as docs/security.md lists them."""
    text = (ROOT / "docs" / "security.md").read_text()
    found = re.search(r"ACL SETUSER worker((?:.*\\\n)*.*\n)", text)
    assert found is not None
    return shlex.split(found[1].replace("\\\n", " "))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A Redis whose users a test may change."""
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def test_the_documented_user_is_all_that_a_worker_needs(
    own_redis: EmbeddedServer, start: Callable[..., RealWorker]
) -> None:
    """It runs trials, hears of kills, survives a crash, refuses strangers, and is drained."""
    admin: Any = connect(own_redis.url)
    rules = [">s3cr3t" if rule.startswith(">") else rule for rule in documented_rules()]
    assert (
        "-@all" in rules and "+@all" not in rules and "allkeys" not in rules and "~*" not in rules
    )
    admin.execute_command("ACL SETUSER", "worker", *rules)
    worker = start(url=own_redis.url, user="worker:s3cr3t")
    still_works(worker)
    endless = RealStudy(worker, "endless")
    for trial, stop in enumerate(("kill", "hold")):
        endless.send(trial)
        endless.until_epoch(trial, 1)
        _, name, attempt = endless.states.signal(trial, stop, "")  # type: ignore[arg-type]
        key = [endless.name, trial, attempt]
        send_command(worker.connection, name, "scattershot-stop", stop=stop, attempt=key)
        endless.until(trial, "killed" if stop == "kill" else "waiting")
    still_works(worker, "killed_once")
    worker.queue.rq.enqueue("os.system", "true")
    still_works(worker)
    endless.send(7)
    endless.until_epoch(7, 1)
    worker.process.terminate()
    assert worker.process.wait(20) == 0
    assert endless.last(7).why == "drain"
    denied = [(entry["reason"], entry["object"]) for entry in admin.acl_log()]
    # redis-py says its name where it may; Redis before 7 logs the command without its second word
    harmless = {("command", "client|setinfo"), ("command", "client")}
    assert [entry for entry in denied if entry not in harmless] == []
    assert "NOPERM" not in worker.log.read_text() and "ermission" not in worker.log.read_text()


def test_the_documented_user_can_do_nothing_else(own_redis: EmbeddedServer) -> None:
    admin: Any = connect(own_redis.url)
    rules = [">s3cr3t" if rule.startswith(">") else rule for rule in documented_rules()]
    admin.execute_command("ACL SETUSER", "worker", *rules)
    address = own_redis.url.rpartition("@")[2]
    worker: Any = connect(f"redis://worker:s3cr3t@{address}")
    for words in (
        ["GET", "secret"],
        ["SET", "ss:x", "1"],
        ["KEYS", "*"],
        ["CONFIG", "GET", "*"],
        ["FLUSHALL"],
        ["ACL", "LIST"],
        ["MODULE", "LIST"],
        ["CLIENT", "KILL", "TYPE", "normal"],
        ["HGET", "elsewhere", "x"],
        ["PUBLISH", "elsewhere", "x"],
        ["MONITOR"],
        ["SHUTDOWN"],
    ):
        with pytest.raises(NoPermissionError):
            worker.execute_command(*words)


@pytest.mark.parametrize("url", ["rediss://:s3cr3t@localhost:6390/0", "rediss://u:p@[::1]"])
def test_a_url_with_tls_makes_encrypted_connections_that_check_the_server(url: str) -> None:
    made = connect(url).connection_pool.make_connection()
    assert isinstance(made, SSLConnection)
    assert made.cert_reqs == ssl.CERT_REQUIRED and made.check_hostname
