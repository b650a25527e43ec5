"""Reads Python source for parsing.py in a process of its own, which a hostile text may crash.

Started as a script, so that it loads next to nothing. Standard input: 8 bytes of length, UTF-8 text,
and so on. Standard output: for each one JSON line, null or ``[kind, message, line]``. A text that
takes too much processor time ends the process by SIGPROF.
"""

import gc
import json
import resource
import signal
import symtable
import sys
import warnings

_MEMORY_BYTES = 4 << 30


def verdict(text: str) -> list[str] | None:
    """None where the text is Python; else kind of error, message and line.

    A symbol table is what the compiler makes between parsing and code: cheaper than a tree of Python
    objects, and nothing of the text is run or folded.
    """
    try:
        symtable.symtable(text, "document", "exec")
    except SyntaxError as error:
        return ["SyntaxError", str(error.msg), (error.text or "")[:500]]
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return [type(error).__name__, str(error)[:200], ""]
    return None


def main() -> None:
    """Answer until the input ends."""
    seconds = float(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    warnings.simplefilter("ignore")
    gc.disable()  # what parsing makes holds no cycles
    read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
    while len(head := read(8)) == 8:
        text = read(int.from_bytes(head, "little")).decode("utf-8")
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = json.dumps(verdict(text))
        signal.setitimer(signal.ITIMER_PROF, 0)
        write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
