"""One job is in one pair of hands, and in others' once those have gone."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unetkit.bench import claims
from unetkit.bench.claims import CLAIM, claim, held


def maker(place, host, pid, age=0):
    place.mkdir(exist_ok=True)
    path = place / CLAIM
    path.write_text(json.dumps({"host": host, "pid": pid}))
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))


def gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_of_many_gets_a_job(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        won = [own for own in pool.map(lambda _: claim(tmp_path / "job"), range(64)) if own]
    assert len(won) == 1
    assert held(tmp_path / "job")
    won[0].release()
    assert not held(tmp_path / "job")
    assert claim(tmp_path / "job") is not None


def test_a_job_of_a_process_that_has_gone_is_taken_over_by_one(tmp_path):
    maker(tmp_path / "job", socket.gethostname(), gone())
    assert not held(tmp_path / "job")
    with ThreadPoolExecutor(16) as pool:
        won = [own for own in pool.map(lambda _: claim(tmp_path / "job"), range(64)) if own]
    assert len(won) == 1


def test_nobody_takes_over_what_another_has_just_taken_over(tmp_path, monkeypatch):
    maker(tmp_path / "job", socket.gethostname(), gone())

    def slowly(place):
        found = held(place)
        time.sleep(0.05)  # in which others look too
        return found

    monkeypatch.setattr(claims, "held", slowly)
    with ThreadPoolExecutor(8) as pool:
        won = [own for own in pool.map(lambda _: claim(tmp_path / "job"), range(8)) if own]
    assert len(won) == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_a_later_process_of_the_same_number_holds_nothing(tmp_path):
    claim(tmp_path)
    assert held(tmp_path)
    path = tmp_path / CLAIM
    path.write_text(json.dumps({**json.loads(path.read_text()), "born": "1"}))
    assert not held(tmp_path)
    assert claim(tmp_path) is not None


def test_another_machine_keeps_its_job_while_it_renews_the_claim(tmp_path):
    maker(tmp_path / "job", "elsewhere", 1, age=300)
    assert claim(tmp_path / "job") is None
    maker(tmp_path / "job", "elsewhere", 1, age=700)
    assert claim(tmp_path / "job") is not None


def test_an_attempt_is_handed_over_by_its_ticket_and_its_first_maker_can_still_release_it(tmp_path):
    own = claim(tmp_path)
    assert claim(tmp_path, "another ticket") is None
    handed = claim(tmp_path, own.ticket)
    assert handed == own
    assert own.renew()
    maker(tmp_path, "elsewhere", 1)  # by another attempt, when this one seemed lost
    assert not own.renew()
    own.release()
    assert held(tmp_path)


def test_a_process_whose_job_was_taken_over_ends_at_once(tmp_path):
    code = (
        "import sys, time, pathlib; from unetkit.bench import claims; claims._RENEW_EVERY = 0.1\n"
        "with claims.kept(claims.claim(pathlib.Path(sys.argv[1]))):\n"
        "    print('begun', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    maker(tmp_path, "elsewhere", 1)
    assert b"in other hands" in process.communicate(timeout=50)[1]
    assert process.returncode == 3
    assert held(tmp_path)


def test_half_a_claim_holds_for_a_while(tmp_path):
    (tmp_path / CLAIM).write_text('{"host')
    assert held(tmp_path)
    old = (tmp_path / CLAIM).stat().st_mtime - 700
    os.utime(tmp_path / CLAIM, (old, old))
    assert not held(tmp_path)
