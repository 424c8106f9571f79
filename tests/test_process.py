"""What a process asks of the operating system is what it gets."""

import os
import subprocess
import sys

import pytest

STEPS = """
import resource
import sys
import torch
from stochcon.program import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit("no mallopt here")

def step():
    for mib in (3, 48, 200):
        torch.zeros(mib, 2**20, dtype=torch.uint8).add_(1)

for _ in range(4):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Pages that the system had to give in four steps, after as many others."""
    done = subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True)
    if "no mallopt" in done.stderr:
        pytest.skip(done.stderr)
    return int(done.stdout)


def test_what_a_step_has_freed_serves_the_next() -> None:
    assert 10 * faults("kept") < faults("returned")


@pytest.mark.skipif(sys.platform != "linux", reason="which has these policies")
@pytest.mark.parametrize(("before", "after"), [("OTHER", "BATCH"), ("IDLE", "IDLE")])
def test_a_policy_that_was_chosen_stays(before: str, after: str) -> None:
    policies = """
import os, sys
from stochcon.program import compute_in_batches
os.sched_setscheduler(0, getattr(os, f"SCHED_{sys.argv[1]}"), os.sched_param(0))
compute_in_batches()
print(os.sched_getscheduler(0))
"""
    found = subprocess.run([sys.executable, "-c", policies, before], capture_output=True, text=True).stdout
    assert int(found) == getattr(os, f"SCHED_{after}")
