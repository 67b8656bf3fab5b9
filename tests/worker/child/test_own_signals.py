"""Signals of the child: they pass it by, and what a task starts has Python's defaults."""

import subprocess
import sys
import textwrap

import pytest

#: What a task may start; each prints how it ended after one terminate().
STARTS = {
    "an executed program": """
        process = subprocess.Popen(["sleep", "60"])
        process.terminate()
        print(process.wait(20))
    """,
    "a forked process, told at once": """
        for _ in range(20):
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join(20)
            assert process.exitcode == -15, process.exitcode
        print(process.exitcode)
    """,
    "a spawned process": """
        process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        process.start()
        process.terminate()
        process.join(20)
        print(process.exitcode)
    """,
    "a program that a forked process executes": """
        pid = os.fork()
        if pid == 0:
            os.execvp("sleep", ["sleep", "60"])
        os.kill(pid, signal.SIGTERM)
        print(-os.WTERMSIG(os.waitpid(pid, 0)[1]))
    """,
    "a pool with a late task": """
        begun = multiprocessing.get_context("fork").Event()
        def late():
            begun.set()
            time.sleep(60)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.apply_async(late)
            begun.wait()
            workers = list(pool._pool)
        print(min(process.exitcode for process in workers))
    """,
}


def run(code: str) -> str:
    head = """
        import multiprocessing, os, signal, subprocess, time
        from scattershot_worker.child.own_signals import leave_signals_to_the_supervisor
        if __name__ == "__main__":
            leave_signals_to_the_supervisor()
    """
    source = textwrap.dedent(head) + textwrap.indent(textwrap.dedent(code), "    ")
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("code", STARTS.values(), ids=STARTS.keys())
def test_terminate_ends_what_a_task_starts(code: str) -> None:
    assert run(code) == "-15"


def test_what_a_task_forks_has_the_defaults_of_all_signals() -> None:
    code = """
        pid = os.fork()
        if pid == 0:
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            rest = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
            assert {signal.getsignal(number) for number in rest} == {signal.SIG_DFL}
            assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
            os.kill(os.getpid(), signal.SIGUSR1)
        print(os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGUSR1)
        print(not signal.pthread_sigmask(signal.SIG_BLOCK, []))
    """
    assert run(code) == "True\nTrue"


def test_the_child_itself_lets_signals_pass() -> None:
    code = """
        for name in ("INT", "TERM", "HUP", "USR1", "USR2"):
            os.kill(os.getpid(), getattr(signal, "SIG" + name))
        print("alive")
    """
    assert run(code) == "alive"


def test_a_handler_that_the_task_has_set_is_kept_in_what_it_forks() -> None:
    code = """
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(7))
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
    """
    assert run(code) == "7"
