"""The faults of a chaos run, one function each.

A fault strikes something that is chosen by `rng` and returns what it did in a few words, or None
if there is nothing for it to strike at the moment. What must end again is left to `cluster.later`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from chaos.cluster import Cluster, Service, send
from scattershot_common.bus.queue import TrialQueue
from scattershot_common.bus.trial_state import LEASE
from scattershot_master.state.ledger import LEDGER
from support.checkpoints import list_checkpoints

Fault = Callable[[Cluster, Random], str | None]


def _worker(cluster: Cluster, rng: Random) -> Service | None:
    return rng.choice([worker for worker in cluster.workers if worker.alive()] or [None])


def _past_lease(rng: Random) -> float:
    return LEASE + rng.uniform(2, 6)


# ---- the process that trains


def kill_child(cluster: Cluster, rng: Random) -> str | None:
    if not (running := cluster.running()):
        return None
    trial = rng.choice(running)
    if not (child := cluster.trainer_of(trial)):
        return None
    send(child, signal.SIGKILL)
    return f"child of {trial['worker']}, trial {trial['trial']}"


def kill_any_child(cluster: Cluster, rng: Random) -> str | None:
    """Whatever it does: it may be importing torch, or waiting for a trial."""
    worker = _worker(cluster, rng)
    if worker is None or not (child := worker.child()):
        return None
    send(child, signal.SIGKILL)
    return f"child of {worker.name}"


def terminate_child(cluster: Cluster, rng: Random) -> str | None:
    """Only the supervisor stops on SIGTERM; the child ignores it."""
    worker = _worker(cluster, rng)
    if worker is None or not (child := worker.child()):
        return None
    send(child, signal.SIGTERM)
    return f"child of {worker.name}"


def pause_child(cluster: Cluster, rng: Random) -> str | None:
    worker = _worker(cluster, rng)
    if worker is None or not (child := worker.child()):
        return None
    seconds = rng.choice([rng.uniform(1, 5), _past_lease(rng)])
    cluster.freeze([child], seconds)
    return f"child of {worker.name} for {seconds:.1f} s"


# ---- the supervisor


def kill_supervisor(cluster: Cluster, rng: Random) -> str | None:
    if not (worker := _worker(cluster, rng)):
        return None
    worker.send(signal.SIGKILL)
    return worker.name


def drain_worker(cluster: Cluster, rng: Random) -> str | None:
    if not (worker := _worker(cluster, rng)):
        return None
    worker.send(signal.SIGTERM)
    return worker.name


def pause_supervisor(cluster: Cluster, rng: Random) -> str | None:
    """Its child trains on."""
    if not (worker := _worker(cluster, rng)):
        return None
    seconds = rng.choice([rng.uniform(1, 5), _past_lease(rng)])
    cluster.freeze([worker.process], seconds)
    return f"{worker.name} for {seconds:.1f} s"


def freeze_worker(cluster: Cluster, rng: Random) -> str | None:
    """A machine that sleeps past the lease of its trial, and wakes up as a zombie."""
    if not (running := cluster.running()):
        return None
    trial = rng.choice(running)
    for worker in cluster.workers:
        if (child := cluster.trainer_of(trial)) and child in worker.process.children():
            seconds = _past_lease(rng)
            cluster.freeze([worker.process, child], seconds)
            return f"{worker.name} and its child, trial {trial['trial']}, for {seconds:.1f} s"
    return None


# ---- the master


def kill_master(cluster: Cluster, rng: Random) -> str | None:
    if not cluster.master.alive():
        return None
    cluster.master.send(signal.SIGKILL)
    return "master"


def kill_master_writing(cluster: Cluster, rng: Random) -> str | None:
    """In the middle of a line of the ledger."""
    if not cluster.master.alive():
        return None
    cluster.master.send(signal.SIGKILL)
    cluster.master.process.wait(10)
    line = b'{"e":"report","t":0,"a":1,"c":"1700000000000-0","n":1,"m":{"val_accuracy":0.5}}'
    with (cluster.folder / LEDGER).open("ab") as file:
        file.write(line[: rng.randrange(1, len(line))])
    return "master, leaving a torn line"


def stop_master(cluster: Cluster, rng: Random) -> str | None:
    if not cluster.master.alive():
        return None
    cluster.master.send(signal.SIGTERM)
    return "master"


def pause_master(cluster: Cluster, rng: Random) -> str | None:
    """Also past its claim on the study."""
    if not cluster.master.alive():
        return None
    seconds = rng.choice([rng.uniform(1, 5), rng.uniform(16, 20)])
    cluster.freeze([cluster.master.process], seconds)
    return f"master for {seconds:.1f} s"


# ---- Redis


def restart_redis(cluster: Cluster, rng: Random) -> str | None:
    if not cluster.server.running():
        return None
    cluster.server.kill()
    cluster.server.start()
    return "at once"


def redis_outage(cluster: Cluster, rng: Random) -> str | None:
    if not cluster.server.running():
        return None
    seconds = rng.choice([rng.uniform(3, 8), rng.uniform(15, 22)])
    cluster.server.kill()
    cluster.later(seconds, cluster.server.start)
    return f"for {seconds:.1f} s"


def empty_redis(cluster: Cluster, rng: Random) -> str | None:
    if not cluster.server.running():
        return None
    cluster.server.kill(forget=True)
    cluster.server.start()
    return "with nothing in it"


def lose_queue(cluster: Cluster, rng: Random) -> str | None:
    if not cluster.server.running():
        return None
    key = TrialQueue(cluster.server.client).rq.key
    waiting = cluster.server.client.llen(key)
    if not waiting:
        return None
    cluster.server.client.delete(key)
    return f"{waiting} entries"


# ---- the network


def cut_off(cluster: Cluster, rng: Random) -> str | None:
    """In silence: what is on its way arrives when the network is back."""
    worker = rng.choice(cluster.workers)
    seconds = rng.choice([rng.uniform(2, 8), _past_lease(rng)])
    worker.proxy.cut()
    cluster.later(seconds, worker.proxy.mend)
    return f"{worker.name} for {seconds:.1f} s"


def refuse(cluster: Cluster, rng: Random) -> str | None:
    """Connections are reset and refused."""
    worker = rng.choice(cluster.workers)
    seconds = rng.choice([0.0, rng.uniform(2, 8), _past_lease(rng)])
    worker.proxy.cut(reset=True)
    cluster.later(seconds, worker.proxy.mend)
    return f"{worker.name} for {seconds:.1f} s"


def cut_off_master(cluster: Cluster, rng: Random) -> str | None:
    proxy, reset = cluster.master.proxy, rng.random() < 0.5
    seconds = rng.choice([rng.uniform(2, 8), rng.uniform(16, 20)])
    proxy.cut(reset=reset)
    cluster.later(seconds, proxy.mend)
    return f"master for {seconds:.1f} s{', with resets' if reset else ''}"


# ---- the disk


def damage_checkpoint(cluster: Cluster, rng: Random) -> str | None:
    """The newest one of a trial whose machine dies: what a power cut may do.

    A trial that goes on or has ended would never look at it again, and the ensemble would do
    without it: that is right, but another end.
    """
    if not (running := cluster.running()):
        return None
    trial = rng.choice(running)
    if not (child := cluster.trainer_of(trial)):
        return None
    send(child, signal.SIGSTOP)
    time.sleep(0.1)  # what it has sent arrives
    files = list_checkpoints(cluster.folder, trial["trial"])
    still = [candidate for candidate in cluster.running() if candidate["trial"] == trial["trial"]]
    if not files or not still or still[0]["attempt"] != trial["attempt"]:
        send(child, signal.SIGCONT)
        return None
    how = _damage(files[-1], rng)
    send(child, signal.SIGKILL)
    return f"{files[-1].name} {how}, its process killed"


def _damage(path: Path, rng: Random) -> str:
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
        path.write_bytes(data[:at])
        return f"cut at {at} of {len(data)} bytes"
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"with a bit of byte {at} flipped"


# ---- everything


def power_cut(cluster: Cluster, rng: Random) -> str | None:
    """All processes of the cluster die at once."""
    if not cluster.server.running() or not cluster.master.alive():
        return None
    for service in cluster.services:
        service.send(signal.SIGKILL)
    cluster.server.kill()
    cluster.server.start()
    return "master, workers and Redis"


#: The faults, and how often each occurs among 66; see `deck`.
FAULTS: dict[Fault, int] = {
    kill_child: 8,
    kill_any_child: 2,
    terminate_child: 2,
    pause_child: 3,
    kill_supervisor: 5,
    drain_worker: 5,
    pause_supervisor: 3,
    freeze_worker: 6,
    kill_master: 5,
    kill_master_writing: 2,
    stop_master: 3,
    pause_master: 2,
    restart_redis: 3,
    redis_outage: 3,
    empty_redis: 1,
    lose_queue: 2,
    cut_off: 4,
    refuse: 2,
    cut_off_master: 2,
    damage_checkpoint: 2,
    power_cut: 1,
}

#: Those of a run of about a minute: each kind of process, Redis, the network and the disk.
FEW: dict[Fault, int] = {
    kill_child: 2,
    kill_supervisor: 1,
    drain_worker: 1,
    freeze_worker: 1,
    kill_master_writing: 1,
    stop_master: 1,
    restart_redis: 1,
    empty_redis: 1,
    cut_off: 1,
    damage_checkpoint: 1,
}


def deck(faults: dict[Fault, int], rng: Random) -> list[Fault]:
    """Return the faults as often as each is to occur, shuffled."""
    cards = [fault for fault, count in faults.items() for _ in range(count)]
    rng.shuffle(cards)
    return cards
