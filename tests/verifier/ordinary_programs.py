# ruff: noqa: E501  (programs read better on one line)
"""The catalogue of ordinary programs: each is right in one of the ways that people write programs, and must be accepted.

In: program texts. Out: CASES and FUNCTIONS (name -> Case), and LEFTOVER. What CPython does with a program is the rule.
"""

from judge_case import AC, RIGHT, case, function

_S = "s = sum(map(int, input().split()))\n"
_READING = {
    "input": "a, b = map(int, input().split())\nprint(a + b)",
    "stdin_read": "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "buffer_readline": "import sys\nr = sys.stdin.buffer.readline\nprint(sum(map(int, r().split())))",
    "buffer_readlines": "import sys\nprint(sum(int(x) for l in sys.stdin.buffer.readlines() for x in l.split()))",
    "buffer_write": "import sys\na, b = map(int, input().split())\nsys.stdout.buffer.write(b'%d\\n' % (a + b))",
    "for_line": "import sys\nfor l in sys.stdin:\n    print(sum(map(int, l.split())))",
    "open_0": "print(sum(map(int, open(0).read().split())))",
    "open_0_binary": "print(sum(map(int, open(0, 'rb').read().split())))",
    "os_read": "import os\na, b = map(int, os.read(0, 1 << 20).split())\nos.write(1, str(a + b).encode())",
    "dev_stdin": "print(sum(map(int, open('/dev/stdin').read().split())))",
    "fileinput": "import fileinput\nfor l in fileinput.input():\n    print(sum(map(int, l.split())))",
    "bytesio_reopened": "import io, os, sys\nsys.stdin = io.BytesIO(os.read(0, os.fstat(0).st_size))\n"
    "input = lambda: sys.stdin.readline().rstrip()\nprint(sum(map(int, input().split())))",
    "open_1_unclosed": "out = open(1, 'w')\nprint(sum(map(int, input().split())), file=out)",
    "write_method": "w = open(1, 'w').write\nw(str(sum(map(int, input().split()))))",
    "atexit": "import atexit, io, os, sys\nsys.stdout = io.StringIO()\n"
    "atexit.register(lambda: os.write(1, sys.stdout.getvalue().encode()))\nprint(sum(map(int, input().split())))",
    "main_guard": "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()",
    "main_guard_in_the_middle": "if __name__ == '__main__':\n    x = sum(map(int, input().split()))\nprint(x)",
    "global": "x = 0\ndef f():\n    global x\n    x = sum(map(int, input().split()))\nf()\nprint(x)",
    "exit": "print(sum(map(int, input().split())))\nexit()",
    "quit": "print(sum(map(int, input().split())))\nquit()",
    "sys_exit_1": "import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)",
    "os_exit": "import os\nprint(sum(map(int, input().split())), flush=True)\nos._exit(0)",
    "no_newline": "import sys\nsys.stdout.write(str(sum(map(int, input().split()))))",
    "eof_loop": "try:\n    while True:\n        print(sum(map(int, input().split())))\nexcept EOFError:\n    pass",
    "thread": "import threading\ndef f():\n    print(sum(map(int, input().split())))\nthreading.Thread(target=f).start()",
    "thread_large_stack": "import sys, threading\nsys.setrecursionlimit(10**7)\nthreading.stack_size(1 << 28)\n"
    "def d(n): return 0 if n == 0 else 1 + max(d(n - 1), 0)\ndef f():\n    d(50000)\n"
    "    print(sum(map(int, input().split())))\nt = threading.Thread(target=f)\nt.start()\nt.join()",
    "recursion": "import sys\nfrom functools import lru_cache\nsys.setrecursionlimit(10**6)\n@lru_cache(None)\n"
    "def d(n): return 0 if n == 0 else 1 + d(n - 1)\nd(40000)\nprint(sum(map(int, input().split())))",
    "large_ints": "a, b = map(int, input().split())\nx = int('9' * 10000)\nassert len(str(x)) == 10000\nprint(a + b)",
    "stderr": "import sys\nprint('debug', file=sys.stderr)\nprint(sum(map(int, input().split())))",
    "temporary_file": "import tempfile\nf = tempfile.TemporaryFile('w+')\nf.write(input())\nf.seek(0)\n"
    "print(sum(map(int, f.read().split())))",
    "asyncio": "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    print(sum(map(int, input().split())))\n"
    "asyncio.run(f())",
    "multiprocessing": "from multiprocessing import Pool\ndef f(x): return x\nif __name__ == '__main__':\n"
    "    with Pool(2) as p:\n        print(sum(p.map(f, map(int, input().split()))))",
    "subprocess_of_itself": "import subprocess, sys\nif len(sys.argv) > 1:\n    print(sum(map(int, sys.argv[1:])))\nelse:\n"
    "    sys.stdout.write(subprocess.run([sys.executable, __file__, *input().split()], capture_output=True, text=True).stdout)",
    "futures": "from concurrent.futures import ThreadPoolExecutor\n"
    "with ThreadPoolExecutor(2) as e:\n    print(sum(e.map(int, input().split())))",
    "dataclass_pickle": "import pickle\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
    "print(sum(pickle.loads(pickle.dumps(P(int(v)))).x for v in input().split()))",
    "signal": "import signal\nsignal.signal(signal.SIGALRM, lambda *a: None)\nsignal.alarm(1)\n"
    "print(sum(map(int, input().split())))",
    "big_output": "s = sum(map(int, input().split()))\nprint(' ' * 1000000)\nprint(s)",
    "future_import": "from __future__ import annotations\nprint(sum(map(int, input().split())))",
    "walrus_match": "match input().split():\n    case [a, b]:\n        print(int(a) + int(b))",
    "coding_line": "# -*- coding: utf-8 -*-\n# é\nprint(sum(map(int, input().split())))",
    "crlf_source": "a, b = map(int, input().split())\r\nprint(a + b)\r\n",
    "reads_nothing_more": "import sys\nprint(sum(map(int, sys.stdin.readline().split())))\nsys.stdin.close()",
    "input_of_lines": "import sys\nlines = sys.stdin.read().splitlines()\nprint(sum(int(x) for l in lines for x in l.split()))",
    "readline_method": "import sys\ninput = sys.stdin.readline\nprint(sum(map(int, input().split())))",
    "buffer_read": "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "buffer_raw": "import sys\nprint(sum(map(int, sys.stdin.buffer.raw.read().split())))",
    "iter_of_readline": "import sys\nfor l in iter(sys.stdin.readline, ''): print(sum(map(int, l.split())))",
    "for_line_in_open_0": "for l in open(0): print(sum(map(int, l.split())))",
    "open_0_with_encoding": "with open(0, encoding='utf-8') as f: print(sum(map(int, f.readline().split())))",
    "fdopen": "import os\nprint(sum(map(int, os.fdopen(0).read().split())))",
    "fdopen_binary_and_write": "import os\nf = os.fdopen(0, 'rb')\nos.fdopen(1, 'wb').write(b'%d' % sum(map(int, f.read().split())))",
    "os_read_in_pieces": "import os\nd = b''\nwhile True:\n    p = os.read(0, 3)\n    if not p: break\n    d += p\nprint(sum(map(int, d.split())))",
    "os_read_of_its_size": "import os\nprint(sum(map(int, os.read(0, os.fstat(0).st_size).split())))",
    "mmap_of_stdin": "import mmap\nm = mmap.mmap(0, 0, access=mmap.ACCESS_READ)\nprint(sum(map(int, m[:].split())))",
    "mmap_readline": "import mmap\nm = mmap.mmap(0, 0, prot=mmap.PROT_READ)\nprint(sum(map(int, m.readline().split())))",
    "iteration_after_readline": "import sys\na = sys.stdin.readline()\nfor l in sys.stdin: a += l\nprint(sum(map(int, a.split())))",
    "stdin_read_twice": "import sys\na = sys.stdin.read()\nassert sys.stdin.read() == ''\nprint(sum(map(int, a.split())))",
    "seek_back_and_read_again": "import sys\na = sys.stdin.read()\nsys.stdin.seek(0)\nassert sys.stdin.read() == a\nprint(sum(map(int, a.split())))",
    "text_wrapper_around_stdin": "import io, sys\nsys.stdin = io.TextIOWrapper(sys.stdin.buffer, encoding='ascii')\n"
    + RIGHT,
    "reconfigured_streams": "import sys\nsys.stdin.reconfigure(encoding='latin-1')\nsys.stdout.reconfigure(line_buffering=True)\n"
    + RIGHT,
    "detached_streams": "import sys\ni, o = sys.stdin.detach(), sys.stdout.detach()\no.write(b'%d' % sum(map(int, i.read().split())))\no.flush()",
    "proc_self_fd": "print(sum(map(int, open('/proc/self/fd/0').read().split())))",
    "dev_fd": "print(sum(map(int, open('/dev/fd/0').read().split())))",
    "selected_stdin": "import os, select\nr, _, _ = select.select([0], [], [], 1)\nprint(sum(map(int, os.read(r[0], 99).split())))",
    "walrus_loop": "import sys\nwhile line := sys.stdin.readline(): print(sum(map(int, line.split())))",
    "is_no_terminal": "import sys\nassert not sys.stdin.isatty() and not sys.stdout.isatty()\n" + RIGHT,
    "struct_and_array": "import array, struct\na = array.array('q', map(int, input().split()))\nprint(sum(struct.unpack('2q', a.tobytes())))",
    "fast_reader_class": """
import os, sys
from io import BytesIO, IOBase
class FastIO(IOBase):
    newlines = 0
    def __init__(self, file):
        self._fd = file.fileno()
        self.buffer = BytesIO()
        self.writable = 'r' not in file.mode
        self.write = self.buffer.write if self.writable else None
    def readline(self):
        while self.newlines == 0:
            b = os.read(self._fd, max(os.fstat(self._fd).st_size, 8192))
            self.newlines = b.count(b'\\n') + (not b)
            ptr = self.buffer.tell()
            self.buffer.seek(0, 2), self.buffer.write(b), self.buffer.seek(ptr)
        self.newlines -= 1
        return self.buffer.readline()
    def flush(self):
        if self.writable:
            os.write(self._fd, self.buffer.getvalue())
            self.buffer.truncate(0), self.buffer.seek(0)
class Wrapper(IOBase):
    def __init__(self, file):
        self.buffer = FastIO(file)
        self.flush = self.buffer.flush
        self.writable = self.buffer.writable
        self.write = lambda s: self.buffer.write(s.encode('ascii'))
        self.readline = lambda: self.buffer.readline().decode('ascii')
sys.stdin, sys.stdout = Wrapper(sys.stdin), Wrapper(sys.stdout)
input = lambda: sys.stdin.readline().rstrip()
print(sum(map(int, input().split())))
""",
}
_WRITING = {
    "print_flush": RIGHT,
    "print_to_stderr_too": "import sys\n" + _S + "print('debug', s, file=sys.stderr)\nprint(s)",
    "print_to_dev_stdout": _S + "print(s, file=open('/dev/stdout', 'w'))",
    "print_to_open_1": _S + "print(s, file=open(1, 'w', closefd=False), flush=True)",
    "stdout_replaced_by_text": "import io, sys\nreal, sys.stdout = sys.stdout, io.StringIO()\n"
    + RIGHT
    + "real.write(sys.stdout.getvalue())",
    "stdout_replaced_by_a_wrapper": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8', line_buffering=False)\n"
    + _S
    + "print(s)",
    "stdout_replaced_by_a_buffer": "import io, sys\nsys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w', closefd=False)))\n"
    + _S
    + "print(s)",
    "stdout_deleted_afterwards": "import sys\n" + RIGHT + "del sys.stdout",
    "stdout_none_afterwards": "import sys\n" + RIGHT + "sys.stdout = None",
    "stdout_closed_afterwards": "import sys\n" + _S + "print(s)\nsys.stdout.close()",
    "redirect_stdout": "import contextlib, io\nb = io.StringIO()\nwith contextlib.redirect_stdout(b): print(sum(map(int, input().split())))\nprint(b.getvalue(), end='')",
    "write_lines": "import sys\n" + _S + "sys.stdout.writelines([str(s), '\\n'])",
    "written_at_exit_from_a_list": "import atexit, sys\nout = []\natexit.register(lambda: sys.stdout.write(''.join(out)))\n"
    + _S
    + "out.append(str(s))",
    "printed_by_a_finalizer": "class D:\n    def __init__(self, s): self.s = s\n    def __del__(self): print(self.s)\nd = D(sum(map(int, input().split())))",
    "printed_by_a_finalizer_in_a_cycle": "class D:\n    def __del__(self): print(self.s)\nd = D()\nd.me = d\nd.s = sum(map(int, input().split()))",
    "printed_by_weakref_finalize": "import weakref\nclass D: pass\nd = D()\nweakref.finalize(d, print, sum(map(int, input().split())))",
    "file_left_open": "f = open(1, 'w')\nf.write(str(sum(map(int, input().split()))))",
    "buffered_writer_left_open": "import io\nf = io.BufferedWriter(io.FileIO(1, 'w'))\nf.write(b'%d' % sum(map(int, input().split())))",
    "writer_left_open_in_an_object": "class W:\n    def __init__(self): self.f = open(1, 'w')\nw = W()\nw.f.write(str(sum(map(int, input().split()))))",
    "carriage_returns": _S + "print(s, end='\\r\\n')",
    "blanks_and_empty_lines_at_the_end": _S + "print(s, ' ')\nprint()\nprint()",
    "logging_and_warnings": "import logging, warnings\nlogging.basicConfig(level=logging.DEBUG)\nlogging.debug('x')\nwarnings.warn('x')\n"
    + RIGHT,
    "pretty_printer": "import pprint\npprint.pprint(sum(map(int, input().split())))",
    "formatted": "a, b = map(int, input().split())\nprint(f'{a + b:d}', '{}'.format(''), '%s' % '')",
}
_ENDING = {
    "exit_with_text": RIGHT + "exit('some text')",
    "raise_system_exit": RIGHT + "raise SystemExit",
    "exit_in_a_function": "def main():\n    print(sum(map(int, input().split())))\n    exit(0)\nmain()\nprint('no')",
    "exit_through_finally": "import sys\ntry:\n    print(sum(map(int, input().split())))\n    sys.exit()\nfinally:\n    pass",
    "exception_in_a_thread_after_the_answer": "import threading\n"
    + RIGHT
    + "t = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()",
    "exception_in_atexit_after_the_answer": "import atexit\natexit.register(lambda: 1 / 0)\n" + RIGHT,
    "exception_in_a_finalizer": RIGHT + "class D:\n    def __del__(self): raise ValueError\nd = D()\ndel d",
    "exception_in_the_finalizer_of_a_global": "class D:\n    def __del__(self): 1 / 0\nd = D()\n" + RIGHT,
    "daemon_thread_still_running": "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    + RIGHT,
    "busy_daemon_thread": "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f, daemon=True).start()\n"
    + RIGHT,
    "thread_that_answers_late": "import threading, time\ndef f():\n    time.sleep(0.1)\n    print(sum(map(int, input().split())))\nthreading.Thread(target=f).start()",
    "timer_thread": "import threading\nthreading.Timer(0.05, lambda: print(sum(map(int, input().split())))).start()",
    "alarm_that_never_comes": "import signal\nsignal.alarm(60)\n" + RIGHT,
    "alarm_caught": "import signal\nclass T(Exception): pass\ndef h(*a): raise T\nsignal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntry:\n    while True: sum(range(1000))\nexcept T: pass\n"
    + RIGHT,
    "signals_handled": "import signal\nfor s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1): signal.signal(s, signal.SIG_IGN)\n"
    + RIGHT,
    "sleeps_a_little": "import time\ntime.sleep(0.2)\n" + RIGHT,
    "faulthandler": "import faulthandler\nfaulthandler.enable()\nfaulthandler.dump_traceback_later(60)\n" + RIGHT,
    "excepthook_set": "import sys\nsys.excepthook = lambda *a: None\n" + RIGHT,
    "error_caught_and_printed": "import traceback\ntry: 1 / 0\nexcept ZeroDivisionError: traceback.print_exc()\n"
    + RIGHT,
    "recursion_error_caught": "def f(): return f()\ntry: f()\nexcept RecursionError: pass\n" + RIGHT,
    "memory_error_caught": "try: x = [0] * 10**15\nexcept MemoryError: pass\n" + RIGHT,
}
_LEFTOVER = {
    "child_left_holding_stdout": "import subprocess, sys\n"
    + RIGHT
    + "subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])",
    "daemon_left_holding_stdout": "import os, time\n"
    + RIGHT
    + "if os.fork() == 0:\n    os.setsid()\n    time.sleep(60)",
    "pool_left_open": "from multiprocessing import Pool\ndef f(x): return x\nif __name__ == '__main__':\n    p = Pool(2)\n    print(sum(p.map(f, map(int, input().split()))))",
    "child_that_ignores_signals_left": "import os, signal, time\n"
    + RIGHT
    + "if os.fork() == 0:\n    for s in (1, 2, 13, 15): signal.signal(s, signal.SIG_IGN)\n    time.sleep(60)",
    "busy_child_left": "import os\n" + RIGHT + "if os.fork() == 0:\n    while True: pass",
}
_LANGUAGE = {
    "exec_of_source": "exec('a, b = map(int, input().split())')\nprint(eval('a + b'))",
    "compile_of_source": "exec(compile('print(sum(map(int, input().split())))', '<x>', 'exec'))",
    "globals_and_locals": "globals()['x'] = sum(map(int, input().split()))\nprint(x, end='')\nassert 'x' in vars() and locals() is globals()",
    "global_statement_at_module_level": "global x\nx = sum(map(int, input().split()))\nprint(x)",
    "decorators": "import functools\ndef d(f):\n    @functools.wraps(f)\n    def g(*a): return f(*a)\n    return g\n@d\n@functools.lru_cache(None)\ndef add(a, b): return a + b\nprint(add(*map(int, input().split())))",
    "generators": "def g():\n    s = 0\n    while True: s += (yield s)\nx = g()\nnext(x)\nfor v in map(int, input().split()): r = x.send(v)\nprint(r)",
    "classes": "from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def f(self): ...\nclass B(A):\n    __slots__ = ('x',)\n    def f(self): return sum(map(int, input().split()))\nprint(B().f())",
    "typing_names": "from typing import *\nT = TypeVar('T')\nclass G(Generic[T]): pass\ndef f(x: List[int]) -> Optional[int]: return sum(x)\nprint(f(list(map(int, input().split()))))",
    "dataclasses_and_enums": "from dataclasses import dataclass, field\nfrom enum import Enum, auto\nclass C(Enum):\n    A = auto()\n@dataclass(order=True)\nclass P:\n    x: int\n    y: list = field(default_factory=list)\nprint(sum(P(int(v)).x for v in input().split()))",
    "main_module_by_name": "import __main__, sys\nx = sum(map(int, input().split()))\nassert sys.modules['__main__'] is __main__ and __name__ == '__main__'\nprint(__main__.x)",
    "function_of_its_module": "import sys\ndef f(a, b): return a + b\nprint(getattr(sys.modules[__name__], 'f')(*map(int, input().split())))",
    "its_own_source": "import inspect\ndef f(a, b): return a + b\nassert 'return a + b' in inspect.getsource(f)\nprint(f(*map(int, input().split())))",
    "its_own_file": "assert 'own file' in open(__file__).read()  # own file\n" + RIGHT,
    "its_own_arguments": "import os, sys\nassert len(sys.argv) == 1 and os.path.exists(sys.argv[0]) and os.path.isabs(__file__)\n"
    + RIGHT,
    "argument_parser": "import argparse\nargparse.ArgumentParser().parse_args()\n" + RIGHT,
    "annotations_used": "x: int = 1\nassert __annotations__ == {'x': int}\n" + RIGHT,
    "docstring_used": "'''doc'''\nassert __doc__ == 'doc'\n" + RIGHT,
    "no_docstring": "assert __doc__ is None\n" + RIGHT,
    "dunder_names": "assert __spec__ is None and __package__ is None and __builtins__\n__loader__\n" + RIGHT,
    "future_and_docstring": "'''doc'''\nfrom __future__ import annotations\ndef f(x: Nothing): pass\n" + RIGHT,
    "byte_order_mark": "\ufeff" + RIGHT,
    "form_feeds_and_tabs": "if True:\n\t\x0c\n\t" + RIGHT,
    "unicode_names": "größe = sum(map(int, input().split()))\nprint(größe)",
    "latin_1_source_line": "# -*- coding: latin-1 -*-\n" + RIGHT,
    "carriage_returns_in_the_source": _S.replace("\n", "\r\n") + "\r\nif s:\r\n    print(s)\r\n",
    "old_macintosh_line_ends": _S.replace("\n", "\r") + "print(s)\r",
    "no_newline_at_the_end_of_the_source": RIGHT.rstrip("\n") + "  # end",
    "large_table_in_the_source": "T = " + repr(list(range(20000))) + "\nassert len(T) == 20000\n" + RIGHT,
    "gc_switched_off": "import gc\ngc.disable()\ngc.collect()\ngc.freeze()\n" + RIGHT,
    "gc_thresholds": "import gc\nassert gc.isenabled()\ngc.set_threshold(10**6)\n" + RIGHT,
    "digits_of_large_integers": "a, b = map(int, input().split())\nx = 10**20000\nassert len(str(x)) == 20001 and int(str(x)) == x\nprint(a + b)",
    "stack_limit_raised": "import resource, sys\nresource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\nsys.setrecursionlimit(10**6)\ndef d(n): return 0 if n == 0 else 1 + d(n - 1)\nd(20000)\n"
    + RIGHT,
    "recursion_through_a_builtin": "import sys\nsys.setrecursionlimit(10**6)\ndef d(n): return 0 if n == 0 else 1 + max(map(d, [n - 1]))\nd(20000)\n"
    + RIGHT,
    "recursion_limit_as_in_a_fresh_interpreter": "import sys\nassert sys.getrecursionlimit() >= 1000\ndef d(n): return 0 if n == 0 else 1 + d(n - 1)\nassert d(990) == 990\n"
    + RIGHT,
    "trampoline": "from types import GeneratorType\ndef bootstrap(f, stack=[]):\n    def w(*a):\n        if stack: return f(*a)\n        to = f(*a)\n        while True:\n            if type(to) is GeneratorType:\n                stack.append(to)\n                to = next(to)\n            else:\n                stack.pop()\n                if not stack: break\n                to = stack[-1].send(to)\n        return to\n    return w\n@bootstrap\ndef d(n): yield 0 if n == 0 else 1 + (yield d(n - 1))\nassert d(5000) == 5000\n"
    + RIGHT,
    "deep_structures_dropped": "x = None\nfor _ in range(200000): x = (x,)\ndel x\n" + RIGHT,
}
_LIBRARY = {
    "decimal_and_fractions": "from decimal import *\nfrom fractions import Fraction\ngetcontext().prec = 50\nprint(int(sum(map(Decimal, input().split())) * Fraction(2, 2).numerator))",
    "sqlite": "import sqlite3\nc = sqlite3.connect(':memory:')\nc.execute('create table t (x int)')\nc.executemany('insert into t values (?)', [(int(v),) for v in input().split()])\nprint(c.execute('select sum(x) from t').fetchone()[0])",
    "temporary_folder": "import os, tempfile\nwith tempfile.TemporaryDirectory() as d:\n    p = os.path.join(d, 'x')\n    open(p, 'w').write(input())\n    print(sum(map(int, open(p).read().split())))",
    "named_temporary_file": "import tempfile\nwith tempfile.NamedTemporaryFile('w+', delete=False) as f:\n    f.write(input())\nprint(sum(map(int, open(f.name).read().split())))",
    "file_in_the_working_folder": "open('data.txt', 'w').write(input())\nprint(sum(map(int, open('data.txt').read().split())))",
    "module_of_its_own": "open('mine.py', 'w').write('def add(a, b): return a + b')\nimport mine\nprint(mine.add(*map(int, input().split())))",
    "pickle_of_own_classes": "import pickle\nclass P:\n    def __init__(self, x): self.x = x\nprint(sum(pickle.loads(pickle.dumps(P(int(v)))).x for v in input().split()))",
    "deep_copy": "import copy\nclass P: pass\np = P()\np.x = list(map(int, input().split()))\nprint(sum(copy.deepcopy(p).x))",
    "named_tuples": "from collections import namedtuple\nP = namedtuple('P', 'a b')\np = P(*map(int, input().split()))\nprint(p.a + p.b)",
    "heaps_and_bisection": "import bisect, heapq\nh = list(map(int, input().split()))\nheapq.heapify(h)\nassert bisect.bisect(sorted(h), 10**9) == 2\nprint(heapq.heappop(h) + heapq.heappop(h))",
    "iteration_tools": "from functools import reduce\nfrom itertools import accumulate, chain, combinations, permutations, product\nprint(list(accumulate(map(int, input().split())))[-1])",
    "random_numbers": "import random\nrandom.seed(1)\nassert random.random() == random.Random(1).random()\n" + RIGHT,
    "random_differs_unless_seeded": "import random\nassert random.random() not in (random.Random(0).random(), random.Random(1).random())\n"
    + RIGHT,
    "regular_expressions": "import re\nprint(sum(map(int, re.findall(r'\\d+', input()))))",
    "dates": "import datetime, time\ndatetime.datetime.now()\ntime.strftime('%Y')\n" + RIGHT,
    "locale_and_unicode": "import locale, sys, unicodedata\nlocale.getpreferredencoding()\nassert sys.stdout.encoding.lower().replace('-', '') == 'utf8'\nassert unicodedata.name('é')\n"
    + RIGHT,
    "hashes_and_secrets": "import hashlib, secrets, uuid, zlib\nhashlib.sha256(b'x').hexdigest()\nsecrets.token_hex(8)\nuuid.uuid4()\nzlib.compress(b'x')\n"
    + RIGHT,
    "json_and_csv": "import csv, io, json\na, b = json.loads('[' + input().replace(' ', ',') + ']')\nassert list(csv.reader(io.StringIO('1,2'))) == [['1', '2']]\nprint(json.dumps(a + b))",
    "statistics_and_complex": "import cmath, math, statistics\nv = list(map(int, input().split()))\nprint(int(statistics.mean(v) * 2 + cmath.sqrt(0).real + math.isqrt(0)))",
    "ctypes_call": "import ctypes\nassert ctypes.CDLL(None).abs(-5) == 5\n" + RIGHT,
    "string_template": "import string, textwrap\nprint(string.Template('$x').substitute(x=sum(map(int, input().split()))))",
    "asyncio_tasks": "import asyncio\nasync def f(x):\n    await asyncio.sleep(0.01)\n    return x\nasync def main(): print(sum(await asyncio.gather(*map(f, map(int, input().split())))))\nasyncio.run(main())",
    "asyncio_threads": "import asyncio\nasync def main(): print(await asyncio.to_thread(lambda: sum(map(int, input().split()))))\nasyncio.run(main())",
    "numpy_where_there_is_one": "try: import numpy as np\nexcept ImportError: np = None\nv = list(map(int, input().split()))\nprint(int(np.array(v).sum()) if np else sum(v))",
    "contexts": "import contextlib, warnings\nwith contextlib.suppress(ZeroDivisionError): 1 / 0\nwith warnings.catch_warnings(): warnings.simplefilter('ignore')\n"
    + RIGHT,
    "socket_pair_and_wakeup": "import signal, socket\na, b = socket.socketpair()\nb.setblocking(False)\nsignal.set_wakeup_fd(b.fileno())\n"
    + RIGHT,
    "platform": "import multiprocessing, os, platform\nassert platform.system() == 'Linux' and os.cpu_count() >= 1\n"
    + RIGHT,
}
_PROCESSES = {
    "process_and_queue": "from multiprocessing import Process, Queue\ndef f(q, v): q.put(sum(v))\nif __name__ == '__main__':\n    q = Queue()\n    p = Process(target=f, args=(q, list(map(int, input().split()))))\n    p.start()\n    print(q.get())\n    p.join()",
    "pool_without_a_guard": "from multiprocessing import Pool\ndef f(x): return x\nwith Pool(2) as p: print(sum(p.map(f, map(int, input().split()))))",
    "pool_over_a_large_table": "from multiprocessing import Pool\ntable = list(range(3_000_000))\ndef f(i): return table[i]\nif __name__ == '__main__':\n    with Pool(4) as p: print(sum(p.map(f, map(int, input().split()))))",
    "manager": "from multiprocessing import Manager, Process\ndef f(d, v): d['s'] = sum(v)\nif __name__ == '__main__':\n    with Manager() as m:\n        d = m.dict()\n        p = Process(target=f, args=(d, list(map(int, input().split()))))\n        p.start()\n        p.join()\n        print(d['s'])",
    "spawned_process": "import multiprocessing as mp\ndef f(x): return x\nif __name__ == '__main__':\n    with mp.get_context('spawn').Pool(1) as p: print(sum(p.map(f, map(int, input().split()))))",
    "shared_value_and_lock": "from multiprocessing import Process, Value\ndef f(v, x):\n    with v.get_lock(): v.value += x\nif __name__ == '__main__':\n    v = Value('i', 0)\n    ps = [Process(target=f, args=(v, int(x))) for x in input().split()]\n    for p in ps: p.start()\n    for p in ps: p.join()\n    print(v.value)",
    "shared_memory": "from multiprocessing import shared_memory\nm = shared_memory.SharedMemory(create=True, size=100)\nm.buf[:2] = bytes(map(int, input().split()))\nprint(sum(m.buf[:2]))\nm.close()\nm.unlink()",
    "process_pool": "from concurrent.futures import ProcessPoolExecutor\ndef f(x): return x\nif __name__ == '__main__':\n    with ProcessPoolExecutor(2) as e: print(sum(e.map(f, map(int, input().split()))))",
    "thread_pool": "from multiprocessing.pool import ThreadPool\nwith ThreadPool(4) as p: print(sum(p.map(int, input().split())))",
    "fork_and_pipe": "import os\nr, w = os.pipe()\nv = input()\nif os.fork() == 0:\n    os.write(w, str(sum(map(int, v.split()))).encode())\n    os._exit(0)\nos.wait()\nprint(os.read(r, 99).decode())",
    "child_prints_and_is_waited_for": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(sum(map(int, input().split())))'])",
    "itself_with_input": "import subprocess, sys\nif len(sys.argv) > 1: print(sum(map(int, input().split())))\nelse: sys.stdout.write(subprocess.run([sys.executable, sys.argv[0], 'x'], input=input(), capture_output=True, text=True).stdout)",
    "shell_where_there_is_one": "import os\nv = input().split()\nif os.path.exists('/bin/sh'): print(os.popen('echo $((' + '+'.join(v) + '))').read())\nelse: print(sum(map(int, v)))",
    "twenty_threads": "import threading\nl, r = threading.Lock(), []\ndef f(x):\n    with l: r.append(x)\nts = [threading.Thread(target=f, args=(x,)) for x in map(int, input().split())] + [threading.Thread(target=f, args=(0,)) for _ in range(20)]\nfor t in ts: t.start()\nfor t in ts: t.join()\nprint(sum(r))",
    "deep_recursion_in_a_large_thread": "import sys, threading\nsys.setrecursionlimit(1 << 25)\nthreading.stack_size(1 << 27)\ndef d(n): return 0 if n == 0 else 1 + d(n - 1)\ndef main():\n    assert d(100000) == 100000\n    print(sum(map(int, input().split())))\nthreading.Thread(target=main).start()",
}
CASES = {
    name: case(name, AC, program, prelude="import math\n" if name == "future_import" else "", cpu_s=5.0)
    for part in (_READING, _WRITING, _ENDING, _LEFTOVER, _LANGUAGE, _LIBRARY, _PROCESSES)
    for name, program in part.items()
}
LEFTOVER = frozenset(_LEFTOVER) | {"daemon_thread_still_running", "busy_daemon_thread", "alarm_that_never_comes"}
"""They leave something running, which must not delay the verdict."""

_NUMBERS = " ".join(map(str, range(700_000)))
_COPY = "import sys\nsys.stdout.write(sys.stdin.read())"
_SPECIAL = [
    case("crlf_input", AC, RIGHT, tests=(("11 22\r\n", "33\n"),)),
    case("crlf_input_by_lines", AC, "import sys\nprint(len(sys.stdin.buffer.readline()))", tests=(("11 22\r\n33\r\n", "7\n"),)),
    case("crlf_expected", AC, RIGHT, tests=(("11 22", "33\r\n"),)),
    case("no_newline_at_the_end_of_the_input", AC, RIGHT, tests=(("11 22", "33"),)),
    case("empty_input", AC, "import sys\nprint(len(sys.stdin.read()))", tests=(("", "0\n"),)),
    case("end_of_the_input", AC, "try:\n    while True: input()\nexcept EOFError: print(1)", tests=(("a\nb\n", "1\n"),)),
    case("nothing_expected_and_nothing_printed", AC, "input()", tests=(("x\n", ""), ("y\n", "\n"))),
    case("unicode_copied", AC, _COPY, tests=(("é 漢字 🙂\n", "é 漢字 🙂\n"),), kind="exact"),
    case("combining_characters_kept", AC, _COPY, tests=(("e\u0301\n", "e\u0301\n"),), kind="exact"),
    case("five_mebibytes_of_input", AC, "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", tests=((_NUMBERS + "\n", f"{sum(range(700_000))}\n"),), cpu_s=5.0),
    case("hundred_thousand_lines_by_input", AC, "print(sum(int(input()) for _ in range(int(input()))))", tests=(("100000\n" + "7\n" * 100_000, "700000\n"),), cpu_s=5.0),
    case("output_just_below_the_limit", AC, "print('x' * ((1 << 20) - 1))", tests=(("1\n", "x" * ((1 << 20) - 1) + "\n"),)),
    case("two_hundred_thousand_lines_by_print", AC, "for i in range(200000): print(i % 10)", tests=(("1\n", "\n".join(str(i % 10) for i in range(200_000)) + "\n"),), cpu_s=5.0),
    case("megabyte_to_stderr_and_the_answer", AC, "import sys\nsys.stderr.write('x' * 1000000)\n" + RIGHT),
    case("floats_within_the_tolerance", AC, "print(0.1 + 0.2, 1e-9, 1 / 3)", tests=(("1\n", "0.3 0 0.333333333\n"),), kind="float"),
    case("floats_in_other_notations", AC, "print('5E-1', '+0.5', '.5', '0.50000')", tests=(("1\n", "0.5 0.5 0.5 0.5\n"),), kind="float"),
    case("many_tests", AC, RIGHT, tests=tuple((f"{i} {i}\n", f"{2 * i}\n") for i in range(40))),
    case("tests_of_different_length", AC, RIGHT, tests=(("1 2\n", "3\n"), ("1 2 3 4\n", "10\n"), ("1\n", "1\n"))),
]  # fmt: skip
CASES |= {made.name: made for made in _SPECIAL}

_THREE = (("[2, 3]", '[5, [2, 3], {"a": 2}]'), ("[4, 5]", '[9, [4, 5], {"a": 4}]'))
_RESULT = "[x + y, [x, y], {'a': x}]"


def _plain(name, program, *, fn_name="f", prelude=""):
    return function(name, AC, program, tests=_THREE, fn_name=fn_name, prelude=prelude)


def _value(name, program, arguments, expected, *, kind="exact"):
    return function(name, AC, program, tests=((arguments, expected),), kind=kind, cpu_s=5.0)


_CALLS = [
    _plain("plain", f"def f(x, y):\n    return {_RESULT}"),
    _plain("lambda", f"f = lambda x, y: {_RESULT}"),
    _plain("method", f"class Solution:\n    def f(self, x, y):\n        return {_RESULT}", fn_name="Solution.f"),
    _plain("static_method", f"class Solution:\n    @staticmethod\n    def f(x, y): return {_RESULT}", fn_name="Solution.f"),
    _plain("class_method", f"class Solution:\n    @classmethod\n    def f(cls, x, y): return {_RESULT}", fn_name="Solution.f"),
    _plain("inherited_method", f"class Base:\n    def f(self, x, y): return {_RESULT}\nclass Solution(Base): pass", fn_name="Solution.f"),
    _plain("method_with_typing_prelude", f"class Solution:\n    def f(self, x: int, y: int) -> List[int]: return {_RESULT}", fn_name="Solution.f", prelude="from typing import *\nfrom collections import *\n"),
    _plain("future_import_under_a_prelude", f"from __future__ import annotations\ndef f(x: Nothing, y): return {_RESULT}", prelude="import math\n"),
    _plain("constructor_with_state", f"class Solution:\n    def __init__(self): self.memo = {{}}\n    def f(self, x, y):\n        self.memo[x] = y\n        return {_RESULT}", fn_name="Solution.f"),
    _plain("tuples", "def f(x, y): return (x + y, (x, y), {'a': x})"),
    _plain("floats_of_whole_numbers", "def f(x, y): return [float(x + y), [x, float(y)], {'a': float(x)}]"),
    _plain("subclasses", "from collections import *\nP = namedtuple('P', 'x y')\ndef f(x, y):\n    d = defaultdict(int)\n    d['a'] = x\n    return [x + y, P(x, y), d]"),
    _plain("counter_and_ordered", "from collections import *\ndef f(x, y): return [x + y, [x, y], Counter(a=x) if x == 2 else OrderedDict(a=x)]"),
    _plain("enumerations", "from enum import IntEnum\ndef f(x, y):\n    E = IntEnum('E', {'A': x + y, 'B': x})\n    return [E.A, [E.B, y], {'a': E.B}]"),
    _plain("prints_too", f"def f(x, y):\n    print('noise')\n    return {_RESULT}"),
    _plain("closes_stdout", f"import sys\ndef f(x, y):\n    sys.stdout.close()\n    return {_RESULT}"),
    _plain("main_guard_not_run", f"def f(x, y):\n    return {_RESULT}\nif __name__ == '__main__':\n    raise SystemExit(input())"),
    _plain("global_state_is_fresh_for_each_call", f"memo = {{}}\ndef f(x, y):\n    assert not memo\n    memo[x] = 1\n    def g(): return {_RESULT}\n    return g()"),
    _plain("cached", f"import functools\n@functools.lru_cache(None)\ndef f(x, y): return {_RESULT}"),
    _plain("exit_functions", f"import atexit\natexit.register(print, 'x')\ndef f(x, y): return {_RESULT}"),
    _plain("thread_computes", f"from concurrent.futures import ThreadPoolExecutor\ndef f(x, y):\n    with ThreadPoolExecutor(1) as e: return e.submit(lambda: {_RESULT}).result()"),
    _plain("named_like_the_harness", f"def canonical(v): return 7\ndef main(): return 7\ntask = result = None\ndef f(x, y): return {_RESULT}"),
    _value("nothing_where_null_is_expected", "def f(): pass", "[]", "null"),
    _value("true", "def f(x): return x > 1", "[2]", "true"),
    _value("text_with_quotes", "def f(s): return s * 2", '["a\\"é\\n"]', '"a\\"é\\na\\"é\\n"'),
    _value("empty_list_and_text", "def f(a, s): return [a, s, {}]", '[[], ""]', '[[], "", {}]'),
    _value("large_integers", "def f(n): return 3 ** n", "[1000]", str(3**1000)),
    _value("dictionary_with_integer_keys", "def f(n): return {i: i * i for i in range(n)}", "[3]", '{"0": 0, "1": 1, "2": 4}'),
    _value("nested_lists", "def f(m): return [list(r) for r in zip(*m)]", "[[[1, 2], [3, 4]]]", "[[1, 3], [2, 4]]"),
    _value("floats_within_the_tolerance", "def f(x): return [x / 3, x]", "[1]", "[0.3333333, 1.0]", kind="float"),
    _value("recursion", "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)", "[30000]", "30000"),
    _value("large_argument_and_result", "def f(a): return [x + 1 for x in a]", "[" + str(list(range(50_000))) + "]", str(list(range(1, 50_001)))),
    _value("argument_changed_in_place", "def f(a):\n    a.sort()\n    return a", "[[3, 1, 2]]", "[1, 2, 3]"),
]  # fmt: skip
FUNCTIONS = {made.name: made for made in _CALLS}
