#!/usr/bin/env python3
"""As much of Slurm's commands as submitit and unetkit use, with processes of this machine; the name decides which.

Below the folder of this file `jobs/` holds the number of the process of each job, and `calls` what was called.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

HOME = Path(__file__).resolve().parent
JOBS = HOME / "jobs"


def alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def begin(script, number):
    main, array, index = number.partition("_")
    told = {"JOB_ID": main, "PROCID": "0", "NTASKS": "1", "NODEID": "0"}
    told |= {"ARRAY_JOB_ID": main, "ARRAY_TASK_ID": index} if array else {}
    env = os.environ | {f"SLURM_{key}": value for key, value in told.items()}
    nowhere = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # signals are for what srun runs, not for the script
    command = ["bash", "-c", f"trap '' TERM USR2; . {script}"]
    process = subprocess.Popen(command, env=env, start_new_session=True, **nowhere)
    (JOBS / number).write_text(f"{process.pid} {script}")


def sbatch(script):
    main = str(100 + len(list(HOME.glob("*.sh"))))
    copy = JOBS.parent / f"{main}.sh"
    copy.write_text(Path(script).read_text())
    array = re.search(r"--array=0-(\d+)", copy.read_text())
    for number in [f"{main}_{index}" for index in range(int(array[1]) + 1)] if array else [main]:
        begin(copy, number)
    print(f"Submitted batch job {main}")


def srun(*words):
    output, command = words[words.index("--output") + 1], words[words.index("--output") + 2 :]
    for sign, key in (("%A", "ARRAY_JOB_ID"), ("%a", "ARRAY_TASK_ID"), ("%j", "JOB_ID"), ("%t", "PROCID")):
        output = output.replace(sign, os.environ.get(f"SLURM_{key}", ""))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.execvp(command[0], command)


def squeue(*words):
    for job in JOBS.iterdir():
        if (HOME / f"requeued_{job.name}").exists() or alive(job.read_text().split()[0]):
            print(job.name)


def scancel(*words):
    number = next(word for word in words if word[0].isdigit())
    told = signal.Signals[f"SIG{words[-1]}"] if "--signal" in words else signal.SIGTERM
    with suppress(ProcessLookupError):
        os.killpg(int((JOBS / number).read_text().split()[0]), told)


def scontrol(what, *words):
    number = words[-1]
    if what == "show":
        print(f"JobId={number} JobState=FAILED ")
        return
    pid, script = (JOBS / number).read_text().split()
    mark = HOME / f"requeued_{number}"
    mark.touch()
    if os.fork() == 0:
        os.setsid()
        for stream in range(3):
            os.close(stream)
        while alive(pid):
            time.sleep(0.1)
        begin(script, number)
        mark.unlink()


if __name__ == "__main__":
    JOBS.mkdir(exist_ok=True)
    name = Path(sys.argv[0]).name
    if name != "srun":
        with (HOME / "calls").open("a") as calls:
            calls.write(f"{name} {' '.join(sys.argv[1:])}\n")
    globals()[name](*sys.argv[1:])
