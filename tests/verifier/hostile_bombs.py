# ruff: noqa: E501  (programs read better on one line)
"""Hostile programs that use more than they may: processes, threads, memory, descriptors, output, time."""

from judge_case import AC, MLE, OLE, QUICK_S, RE, RIGHT, TLE, WA, C, case, endless

_MIB = 96


def _memory(name, program):
    """Fills memory beyond a small limit; its CPU limit is far away."""
    return case(name, MLE, program, tests=1, cpu_s=20.0, memory_mib=_MIB)


def _crowd(name, program):
    """As many processes as there may be; their memory, with what they share counted for each, stays below the limit."""
    return case(name, TLE, program, tests=1, cpu_s=QUICK_S, memory_mib=512)


def _output(name, program):
    return case(name, OLE, program, tests=1, cpu_s=20.0)


_FORK = "import os, time\n"
PROCESSES = [
    _crowd("fork_bomb", _FORK + "while True:\n    try: os.fork()\n    except OSError: pass"),
    _crowd("fork_bomb_that_sleeps", _FORK + "while True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)"),
    _crowd("forks_children_that_end", _FORK + "while True:\n    try:\n        if os.fork() == 0: os._exit(0)\n    except OSError:\n        try: os.wait()\n        except OSError: pass"),
    _crowd("sessions_without_end", _FORK + "while True:\n    try:\n        if os.fork() == 0: os.setsid()\n    except OSError: pass"),
    # The time of children whose parent ignores their end is added to nobody by the kernel; it has to count all the same.
    case("hides_time_in_children_nobody_waits_for", TLE, "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nfor _ in range(9):\n    if os.fork() == 0:\n        end = time.process_time() + 0.1\n        while time.process_time() < end: pass\n        os._exit(0)\n    try: os.wait()\n    except OSError: pass\n" + RIGHT, tests=1, cpu_s=0.5),
    case("hides_time_in_grandchildren", TLE, "import os, signal, time\nif os.fork() == 0:\n    signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n    for _ in range(9):\n        if os.fork() == 0:\n            end = time.process_time() + 0.1\n            while time.process_time() < end: pass\n            os._exit(0)\n        try: os.wait()\n        except OSError: pass\n    os._exit(0)\nos.wait()\n" + RIGHT, tests=1, cpu_s=0.5),
    endless("hides_time_in_threads_that_end", "import threading, time\ndef f():\n    end = time.thread_time() + 0.05\n    while time.thread_time() < end: pass\nfor _ in range(40):\n    t = threading.Thread(target=f)\n    t.start()\n    t.join()\n" + RIGHT),
    endless("endless_children", _FORK + "for _ in range(3): os.fork()\nwhile True: pass"),
    endless("busy_child_and_waiting_parent", _FORK + "if os.fork() == 0:\n    while True: pass\nos.wait()"),
    endless("busy_orphan_and_waiting_parent", _FORK + "if os.fork() == 0:\n    if os.fork() == 0:\n        os.setsid()\n        while True: pass\n    os._exit(0)\nos.wait()\ntime.sleep(50)"),
    endless("endless_thread", "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f).start()\n" + RIGHT),
    endless("endless_pool", "from multiprocessing import Pool\ndef f(x):\n    while True: pass\nwith Pool(3) as p: p.map(f, range(9))"),
    case("thread_bomb", RE, "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", tests=1, cpu_s=10.0),
    case("threads_with_giant_stacks", RE, "import threading, time\nthreading.stack_size(1 << 30)\nfor _ in range(40): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", tests=1),
    case("descriptor_bomb", RE, "import os\nwhile True: os.open('/dev/null', os.O_RDONLY)"),
    case("pipe_bomb", RE, "import os\nkeep = []\nwhile True: keep.append(os.pipe())"),
    case("socket_bomb", RE, "import socket\nkeep = []\nwhile True: keep.append(socket.socketpair())"),
    case("fork_bomb_after_the_answer", AC, RIGHT + "import os\ntry:\n    for _ in range(30):\n        if os.fork() == 0:\n            import time\n            time.sleep(99)\nexcept OSError: pass", tests=3),
    endless("execs_for_ever", "import os, sys\nos.environ['N'] = 'x'\nos.execv(sys.executable, [sys.executable, '-S', '-c', 'import os, sys; os.execv(sys.executable, sys.orig_argv)'])"),
]  # fmt: skip

MEMORY = [
    _memory("bytearrays", "x = []\nwhile True: x.append(bytearray(1 << 22))"),
    _memory("at_once", "x = [0] * 10**12"),
    _memory("at_once_touched", "x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time\ntime.sleep(9)"),
    _memory("a_list_that_grows", "x = []\nwhile True: x += [0] * 100000"),
    _memory("a_text_that_doubles", "x = 'x'\nwhile True: x += x"),
    _memory("a_dictionary_that_grows", "x = {}\nwhile True:\n    for i in range(100000): x[len(x)] = i"),
    _memory("an_iterator_without_end", "import itertools\nx = list(itertools.count())"),
    _memory("a_big_integer", "x = 1 << (1 << 33)"),
    _memory("an_integer_that_doubles", "x = 1\nwhile True: x <<= x.bit_length()"),
    _memory("memory_error_raised", "raise MemoryError"),
    _memory("a_map_of_memory", "import mmap\nm = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1"),
    _memory("private_map_of_memory", "import mmap\nm = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nfor i in range(0, 1 << 30, 4096): m[i] = 1"),
    _memory("children_together", _FORK + "for _ in range(4):\n    if os.fork() == 0:\n        x = b'x' * (60 << 20)\n        break\ntime.sleep(20)"),
    _memory("a_daemon", _FORK + "if os.fork() == 0:\n    os.setsid()\n    x = []\n    while True: x.append(bytearray(1 << 22))\ntime.sleep(20)"),
    _memory("others_offered_to_the_kernel_first", "for text in ('-1000', '0'):\n    try: open('/proc/self/oom_score_adj', 'w').write(text)\n    except OSError: pass\nx = []\nwhile True: x.append(bytearray(1 << 22))"),
    _memory("compressed_zeros", "import zlib\nx = zlib.compress(bytes(1 << 20) * 40, 9)\ny = [zlib.decompress(x) for _ in range(50)]"),
    _memory("in_the_compiler", "x = eval('(' + '1,' * 20_000_000 + ')')"),
    _memory("format_width", "x = '%2000000000d' % 1"),
    _memory("a_thread", "import threading\ndef f():\n    x = []\n    while True: x.append(bytearray(1 << 22))\nt = threading.Thread(target=f)\nt.start()\nt.join()"),
    case("memory_error_caught", AC, "try: x = bytearray(1 << 45)\nexcept MemoryError: pass\n" + RIGHT, memory_mib=_MIB),
    # As in CPython, the error of a thread ends the thread: the program goes on, and is right.
    case("memory_error_in_a_thread", AC, "import threading\ndef f(): bytearray(1 << 45)\nt = threading.Thread(target=f)\nt.start()\nt.join()\n" + RIGHT, memory_mib=_MIB),
    case("recursion_without_end", RE, "def f(): return f()\nf()"),
    # Frames of Python functions take memory, not stack: the limit is memory.
    case("recursion_without_a_limit", MLE, "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x) + 1\nf(1)", tests=1, cpu_s=20.0, memory_mib=_MIB),
    case("nested_too_deeply_for_the_parser", RE, "x = " + "[" * 5000 + "]" * 5000),
    # CPython's parser says MemoryError when its own stack is full.
    case("nested_lambdas", MLE, "x = " + "lambda: " * 50000 + "1"),
    case("operators_without_end", MLE, "x = " + "-" * 200_000 + "1"),
    case("long_sum_in_the_source", (RE, MLE), "x = " + "+".join(["1"] * 100_000) + "\nprint(7)\nraise ValueError"),  # by the compiler's own stack
]  # fmt: skip

OUTPUT = [
    _output("print", "while True: print('x' * 1000)"),
    _output("one_byte_at_a_time", "import os\nfor _ in range(17): os.write(1, b'x' * 65536)\nwhile True: os.write(1, b'x')"),
    _output("a_child", "import os\nos.fork()\nwhile True: os.write(1, b'x' * 65536)"),
    _output("stderr", "import sys\nwhile True: sys.stderr.write('x' * 1000)"),
    _output("a_daemon_writes", "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: os.write(1, b'x' * 4096)\ntime.sleep(9)"),
    _output("dev_stdout", "f = open('/dev/stdout', 'w')\nwhile True: f.write('x' * 4096)"),
    _output("at_once", "print('x' * 3_000_000)"),
    _output("warnings", "import warnings, sys\nwarnings.simplefilter('always')\nwhile True: warnings.warn('x' * 1000)"),
    _output("a_thread_prints", "import threading\ndef f():\n    while True: print('x' * 1000)\nt = threading.Thread(target=f)\nt.start()\nt.join()"),
    _output("after_the_answer", RIGHT + "print(' ' * 2_000_000)"),
    _output("errors_ignored", "import os\nwhile True:\n    try: os.write(1, b'x' * 65536)\n    except OSError: pass"),
    _output("empty_lines", "while True: print()"),
]  # fmt: skip

TIME = [
    endless("loop", "while True: pass"),
    endless("loop_that_catches_everything", "while True:\n    try:\n        while True: pass\n    except BaseException: pass"),
    endless("signals_ignored", "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass"),
    endless("signals_blocked", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))\nwhile True: pass"),
    endless("signals_handled", "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, lambda *a: None)\n    except (OSError, ValueError): pass\nwhile True: pass"),
    endless("regex_catastrophe", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    endless("regex_with_back_references", "import re\nre.match(r'(a*)*(b*)*\\1\\2c', 'a' * 40 + 'b' * 40)"),
    endless("regex_alternatives", "import re\nre.fullmatch('(?:a|aa|a?)*b', 'a' * 60)"),
    endless("power", "x = 3 ** (3 ** 17)"),
    endless("power_of_powers", "x = pow(7, 10**9)"),
    endless("factorial", "import math\nmath.factorial(5 * 10**6)"),
    endless("integer_to_text", "x = str((1 << 4_000_000) - 1)"),
    endless("text_to_integer", "x = int('7' * 2_000_000)"),
    endless("long_division", "x = (1 << 20_000_000) // ((1 << 10_000_000) - 3)"),
    endless("sum_in_c", "sum(range(10**12))"),
    endless("membership_in_c", "(10**12 + 0.5) in range(10**13)"),
    endless("sort_with_a_slow_key", "sorted(range(10**6), key=lambda x: sum(range(1000)))"),
    endless("hash_collisions", "x = {i * (2**61 - 1): 0 for i in range(100000)}"),
    endless("decimal_digits", "import decimal\ndecimal.getcontext().prec = 10**7\nx = decimal.Decimal(2).sqrt()\nwhile True: x.sqrt()"),
    endless("equality_that_never_ends", "class E:\n    def __eq__(self, o):\n        while True: pass\nE() == 1"),
    endless("generator_without_end", "def g():\n    while True: yield 0\nfor _ in g(): pass"),
    endless("import_without_end", "import sys\nclass F:\n    def find_spec(self, *a):\n        while True: pass\nsys.meta_path.insert(0, F())\nimport something"),
    endless("endless_in_del", "class D:\n    def __del__(self):\n        while True: pass\nd = D()\ndel d"),
    endless("endless_in_an_exception", "class X(Exception):\n    def __str__(self):\n        while True: pass\nraise X"),
    endless("endless_in_c_without_the_lock", "import hashlib\nhashlib.pbkdf2_hmac('sha512', b'x', b'y', 10**9)"),
    endless("time_replaced", "import time\ntime.time = time.monotonic = time.process_time = lambda: 0\nwhile True: pass"),
    endless("clock_replaced", "import time\nfor c in (0, 1):\n    try: time.clock_settime(c, 0)\n    except OSError: pass\nwhile True: pass"),
    endless("clock_of_the_kernel", C + "for call in ((164, 0, 0), (159, b'x' * 208), (305, 0, b'x' * 208), (227, 0, b'x' * 16)): libc.syscall(*call)\nwhile True: pass"),
    endless("cpu_limit_raised", "import resource\nfor hard in (resource.RLIM_INFINITY, 10**6):\n    try: resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))\n    except (OSError, ValueError): pass\nwhile True: pass"),
    endless("sleep", "import time\ntime.sleep(100)"),
    endless("sleep_in_slices", "import time\nwhile True: time.sleep(0.001)"),
    endless("sleep_after_the_answer", RIGHT + "import time\ntime.sleep(100)"),
    endless("select_without_end", "import select\nselect.select([], [], [])"),
    endless("pause", "import signal\nsignal.pause()"),
    endless("waits_for_a_signal", "import signal\nsignal.sigwait({signal.SIGUSR1})"),
    endless("deadlock", "import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()"),
    endless("empty_queue", "import queue\nqueue.Queue().get()"),
    endless("fifo_that_nobody_writes", "import os\nos.mkfifo('/tmp/f')\nopen('/tmp/f').read()"),
    endless("pipe_that_nobody_writes", "import os\nr, w = os.pipe()\nos.read(r, 1)"),
    endless("pipe_that_nobody_reads", "import os\nr, w = os.pipe()\nwhile True: os.write(w, b'x' * 65536)"),
    endless("event_loop", "import asyncio\nasync def f():\n    while True: await asyncio.sleep(0)\nasyncio.run(f())"),
    endless("child_that_sleeps_is_waited_for", _FORK + "if os.fork() == 0: time.sleep(100)\nos.wait()"),
    case("slower_than_its_limit_but_right", TLE, "import time\nwhile time.process_time() < 0.6: pass\n" + RIGHT, tests=1, cpu_s=0.3),
    case("faked_measurements", TLE, "import os, resource, time\nos.times = resource.getrusage = lambda *a: None\nfor _ in range(2):\n    if os.fork() == 0:\n        e = time.thread_time() + 0.4\n        while time.thread_time() < e: pass\n        os._exit(0)\nfor _ in range(2): os.wait()\n" + RIGHT, tests=1, cpu_s=0.5),
    case("endless_only_in_its_second_test", TLE, "s = input()\nwhile '12' in s: pass\nprint(sum(map(int, s.split())))", tests=3, cpu_s=0.3, passed=2),
    case("wrong_only_in_its_second_test", WA, "s = input()\nprint(7 if '12' in s else sum(map(int, s.split())))", tests=3, passed=2),
    case("crashes_only_in_its_second_test", RE, "s = input()\nassert '12' not in s\nprint(sum(map(int, s.split())))", tests=3, passed=2),
    case("too_large_only_in_its_second_test", MLE, "s = input()\nx = bytearray(300 << 20) if '12' in s else 0\nprint(sum(map(int, s.split())))", tests=3, passed=2, memory_mib=_MIB),
    case("prints_too_much_only_in_its_second_test", OLE, "s = input()\nprint('x' * 2_000_000 if '12' in s else sum(map(int, s.split())))", tests=3, passed=2),
]  # fmt: skip
