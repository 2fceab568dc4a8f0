"""Jobs share resources, report in the caller's thread, and stop when one fails."""

import threading
import time

import pytest

from lopt.evaluation.workers import run_jobs


def ignore(text, units):
    pass


def test_results_and_notices():
    threads, notices = set(), []

    def job(number):
        def run(resource, notify):
            notify(f"job {number} on {resource}", number)
            return number

        return run

    def on_notice(text, units):
        threads.add(threading.current_thread())
        notices.append(units)

    results = run_jobs([job(i) for i in range(6)], ["a", "b"], on_notice)
    assert sorted(results) == sorted(notices) == list(range(6))
    assert threads == {threading.current_thread()}


def test_a_resource_is_used_by_one_job_at_a_time():
    in_use, clashes = set(), []

    def job(resource, notify):
        clashes.append(resource in in_use)
        in_use.add(resource)
        time.sleep(0.01)
        in_use.remove(resource)

    run_jobs([job] * 8, ["a", "b"], ignore)
    assert clashes == [False] * 8


def test_jobs_run_side_by_side():
    meeting = threading.Barrier(2, timeout=10)
    assert run_jobs([lambda *_: meeting.wait()] * 2, [0, 1], ignore)


def test_a_failure_stops_the_others():
    started = []
    failing = threading.Event()

    def fails(resource, notify):
        failing.set()
        raise ZeroDivisionError("here")

    def goes_on(resource, notify):
        started.append(resource)
        failing.wait(10)
        while True:  # ended by a notice alone
            time.sleep(0.001)
            notify("still here", 0)

    with pytest.raises(ZeroDivisionError, match="here"):
        run_jobs([goes_on, fails] + [goes_on] * 5, ["a", "b"], ignore)
    # The one beside the failing job, and at most its successor on the freed resource.
    assert len(started) <= 2


def test_an_interrupt_in_the_caller_stops_the_jobs():
    def goes_on(resource, notify):
        while True:
            time.sleep(0.001)
            notify("still here", 0)

    def interrupt(text, units):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([goes_on], ["a"], interrupt)
