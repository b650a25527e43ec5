"""What a command's exit code says; scripts and job schedulers read them (docs/runbook.md)."""

DONE = 0
FOUND = 1  # ran, and found the difference it was asked to look for; also any error of ours
BAD_INPUT = 2  # a person must change something; running it again changes nothing
AGAIN = 75  # EX_TEMPFAIL: saved and stopped before the end; run it again
HANG = 80  # a rank made no progress; stacks are in the run folder; run it again
INTERRUPTED = 130  # by a person at the keyboard
