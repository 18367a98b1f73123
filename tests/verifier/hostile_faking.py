# ruff: noqa: E501  (programs read better on one line)
"""Hostile programs that fake: verdicts, protocol frames, infrastructure errors, equality, exits."""

from judge_case import AC, MLE, OLE, RE, RIGHT, TLE, WA, WRONG, C, case, endless

_FRAME = """
import os, struct
def frame(body=b'33', **fields):
    head = ''.join(f'{k}={v}' + chr(10) for k, v in fields.items()).encode()
    return struct.pack('>II', len(head), len(body)) + head + body
ok = frame(status='exited', cpu_s=0, wall_s=0, peak_mib=1, clean=1, detail='')
boom = frame(b'', judge_error='boom')
lost = frame(b'', status='nonsense', clean=7)
def everywhere(data):
    for fd in range(3, 1100):
        try: os.write(fd, data)
        except OSError: pass
"""

VERDICTS = [
    *(
        case(f"prints_{name}", WA, f"print({text!r})")
        for name, text in {
            "accepted": "ACCEPTED", "status_exited": "status=exited\nclean=1\n\n33", "json_verdict": '{"outcome": "accepted", "tests_passed": 2}',
            "judge_error": "judge_error=boom", "ready_byte": "R", "setup_error_byte": "Eboom", "ok": "ok=1", "true": "True", "reward": "1.0",
            "both_answers": "33 46", "regex": ".*", "traceback": "Traceback (most recent call last):\n  File \"<sandbox runner>\"\nnouscoder_jax.types.JudgeError: boom",
        }.items()
    ),
    case("frame_on_stdout", WA, _FRAME + "os.write(1, ok)"),
    case("frame_on_stderr", WA, _FRAME + "os.write(2, ok)"),
    case("judge_error_frame_on_stdout", WA, _FRAME + "os.write(1, boom)"),
    case("frame_on_every_descriptor", WA, _FRAME + "everywhere(ok)\nos.write(1, b'7')"),
    case("judge_error_on_every_descriptor", WA, _FRAME + "everywhere(boom)\nos.write(1, b'7')"),
    case("broken_frame_on_every_descriptor", WA, _FRAME + "everywhere(lost)\neverywhere(bytes([255]) * 64)\nos.write(1, b'7')"),
    case("frame_through_proc_of_the_runner", WA, _FRAME + """
for pid in (1, os.getppid()):
    for fd in range(256):
        try: open(f'/proc/{pid}/fd/{fd}', 'wb').write(ok)
        except OSError: pass
os.write(1, b'7')
"""),
    case("frame_through_a_child", WA, _FRAME + "if os.fork() == 0:\n    everywhere(ok)\n    os.write(1, ok)\n    os._exit(0)\nos.wait()"),
    case("judge_error_then_a_crash", RE, _FRAME + "everywhere(b'Eboom')\neverywhere(boom)\nos.write(1, b'Eboom')\nos.abort()"),
    case("says_it_was_not_ready", WA, _FRAME + "everywhere(b'E' * 400)\nos._exit(115)"),
    case("descriptors_of_the_connection_reused", WA, _FRAME + "a, b = os.pipe()\nos.dup2(a, 250)\nos.dup2(b, 251)\nos.write(251, ok)\nos.write(1, b'7')"),
    case("frames_walked_to_write_a_frame", WA, _FRAME + """
import sys
answer = os.memfd_create('answer')
os.write(answer, b'33')
f = sys._getframe()
while f:
    runner = f.f_locals.get('self')
    if hasattr(runner, 'channel'):
        try: runner.channel.answer({'status': 'exited', 'clean': 1, 'cpu_s': 0, 'wall_s': 0, 'peak_mib': 0, 'detail': ''}, answer, 0, 2)
        except Exception: pass
    f = f.f_back
os.write(1, b'7')
"""),
    case("returns_into_the_runner_and_serves", WA, WRONG + """
import sys
f = sys._getframe()
while f:
    runner = f.f_locals.get('self')
    if hasattr(runner, 'serve'):
        try: runner.serve()
        except BaseException: pass
    f = f.f_back
"""),
    case("output_replaced_after_the_fact", WA, "import os\nprint(sum(map(int, input().split())), flush=True)\nos.ftruncate(1, 0)"),
    case("wrong_output_overwritten_with_the_right_one", AC, "import os\ns = sum(map(int, input().split()))\nprint('77777777', flush=True)\nos.ftruncate(1, 0)\nos.lseek(1, 0, 0)\nprint(s, flush=True)"),
    case("stdout_grown_without_writing", OLE, RIGHT + "import os\nos.ftruncate(1, (1 << 20) + 1)", tests=1),
    case("stdout_grown_beyond_everything", RE, RIGHT + "import os\nos.ftruncate(1, 1 << 50)", tests=1),
    case("stdout_with_a_hole", WA, "import os\nos.lseek(1, 1000, 0)\nos.write(1, b'33')"),
    case("writes_its_answer_into_stdin", WA, "import os\nos.pwrite(0, b'33', 0)"),
    case("writes_its_answer_to_stderr", WA, "import sys\nprint(sum(map(int, input().split())), file=sys.stderr)"),
    case("seals_on_its_streams", AC, "import fcntl\nfor fd in (0, 1, 2):\n    for seals in (1, 2, 4, 8, 16):\n        try: fcntl.fcntl(fd, 1033, seals)\n        except OSError: pass\n" + RIGHT),
    case("locks_and_leases_on_its_streams", AC, "import fcntl\nfor fd in (0, 1, 2):\n    for f, a in ((fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB), (fcntl.lockf, fcntl.LOCK_EX | fcntl.LOCK_NB)):\n        try: f(fd, a)\n        except OSError: pass\n    try: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n    except OSError: pass\n" + RIGHT),
    case("every_number_printed", WA, "print(*range(10000))"),
]  # fmt: skip

_E = "class E(str):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n    def __str__(self): return 'x'\n    __hash__ = str.__hash__\n"
EQUALITY = [
    case("equal_text_printed", WA, _E + "print(E('33'))"),
    case("equal_text_written", WA, _E + "import sys\nsys.stdout.write(E('7'))"),
    case("equal_bytes_written", WA, "import sys\nclass B(bytes):\n    def __eq__(self, o): return True\nsys.stdout.buffer.write(B(b'7'))"),
    case("stdout_is_an_object_of_its_own", WA, "import sys\nclass O:\n    def write(self, s): return len(s)\n    def flush(self): pass\n    def getvalue(self): return A()\nclass A:\n    def __eq__(self, o): return True\nsys.stdout = O()\n" + RIGHT),
    case("stdout_flush_lies", WA, "import sys\nclass O:\n    closed = False\n    def write(self, s): pass\n    def flush(self): raise SystemExit(0)\nsys.stdout = O()\n" + RIGHT),
    case("stdout_claims_to_be_closed", WA, "import sys\nclass O:\n    closed = True\n    def write(self, s): pass\nsys.stdout = O()\nprint(7)"),
]  # fmt: skip

_KILL = "import os, signal\nos.kill(os.getpid(), signal.{})\nimport time\ntime.sleep(0.2)\n"
EXITS = [
    *(
        case(f"sys_exit_{name}_after_the_answer", AC, RIGHT + f"import sys\nsys.exit({code})")
        for name, code in {
            "0": "0", "1": "1", "minus_1": "-1", "113": "113", "114": "114", "115": "115", "huge": "2**100", "text": "'text'", "none": "None",
            "list": "[1]", "object": "object()", "float": "1.5", "text_that_raises": "type('T', (), {'__str__': lambda s: 1 / 0})()",
        }.items()
    ),
    *(
        case(f"os_exit_{code}_after_the_answer", AC, RIGHT + f"import os\nos._exit({code})")
        for code in (0, 1, 2, 7, 9, 100, 115, 126, 127, 128, 137, 139, 143, 255)
    ),
    # 113 and 114 are how the harness tells the runner of an exception and of a MemoryError; who says so of himself is believed.
    case("os_exit_113_after_the_answer", RE, RIGHT + "import os\nos._exit(113)", tests=1),
    case("os_exit_114_after_the_answer", MLE, RIGHT + "import os\nos._exit(114)", tests=1),
    *(case(f"os_exit_{code}_with_a_wrong_answer", outcome, WRONG + f"import os\nos._exit({code})") for code, outcome in ((0, WA), (113, RE), (114, MLE), (115, WA), (137, WA))),
    case("os_exit_without_a_flush", WA, "import os\nprint(sum(map(int, input().split())))\nos._exit(0)"),
    case("exit_before_the_answer", WA, "exit()\n" + RIGHT),
    case("exit_in_a_thread", AC, "import sys, threading\nt = threading.Thread(target=sys.exit, args=(3,))\nt.start()\nt.join()\n" + RIGHT),
    case("os_exit_in_a_thread", WA, "import os, threading\nt = threading.Thread(target=os._exit, args=(0,))\nt.start()\nt.join()\n" + RIGHT),
    case("exception_in_a_thread_without_an_answer", WA, "import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()"),
    case("exception_in_atexit_without_an_answer", WA, "import atexit\natexit.register(lambda: 1 / 0)"),
    case("os_exit_in_atexit", AC, "import atexit, os\natexit.register(os._exit, 0)\n" + RIGHT),
    case("endless_atexit", TLE, "import atexit\ndef f():\n    while True: pass\natexit.register(f)\n" + RIGHT, tests=1, cpu_s=0.3),
    case("raises_after_the_answer", RE, RIGHT + "raise ValueError"),
    case("raises_a_base_exception", RE, RIGHT + "class X(BaseException): pass\nraise X"),
    case("raises_keyboard_interrupt", RE, RIGHT + "raise KeyboardInterrupt"),
    case("raises_generator_exit", RE, RIGHT + "raise GeneratorExit"),
    case("raises_a_subclass_of_system_exit", AC, RIGHT + "class X(SystemExit): pass\nraise X(5)"),
    case("raises_an_exception_that_cannot_be_shown", RE, RIGHT + "class X(Exception):\n    def __str__(self): raise X\n    __repr__ = __str__\nraise X"),
    case("raises_an_exception_that_exits_when_shown", RE, RIGHT + "import os\nclass X(Exception):\n    def __str__(self): raise SystemExit(0)\nraise X"),
    case("raises_a_huge_message", RE, RIGHT + "raise ValueError('x' * 500_000)"),
    case("raises_in_a_cycle", RE, RIGHT + "a, b = ValueError(1), ValueError(2)\na.__cause__, b.__cause__ = b, a\nraise a"),
    case("raises_a_deep_group", RE, RIGHT + "e = ValueError()\nfor _ in range(2000): e = ExceptionGroup('g', [e])\nraise e"),
    case("raises_what_is_no_exception", RE, RIGHT + "raise 5"),
    case("asserts", RE, RIGHT + "assert False"),
    case("syntax_error", RE, "print(33)\nprint("),
    case("unbalanced_indent", RE, "print(33)\n  print(33)"),
    case("null_byte_in_the_source", RE, RIGHT + "\0"),
    case("surrogate_in_the_source", RE, RIGHT + "x = '\ud800'"),
    case("unknown_coding_line", AC, "# coding: nonsense\n" + RIGHT),
    case("empty_program", WA, ""),
    case("only_a_comment", WA, "# 33"),
    case("exits_in_del", AC, RIGHT + "import sys\nclass D:\n    def __del__(self): sys.exit(1)\nd = D()\ndel d"),
    case("signal_pipe_is_ignored_as_python_does", AC, RIGHT + _KILL.format("SIGPIPE")),
    *(
        case(f"killed_by_{name.lower()}", RE, RIGHT + _KILL.format(name), tests=1)
        for name in ("SIGTERM", "SIGKILL", "SIGSEGV", "SIGABRT", "SIGFPE", "SIGBUS", "SIGILL", "SIGTRAP", "SIGSYS", "SIGALRM", "SIGUSR1", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGRTMIN", "SIGINT", "SIGVTALRM")
    ),
    case("killed_by_its_child", RE, RIGHT + "import os, signal, time\nif os.fork() == 0:\n    os.kill(os.getppid(), signal.SIGKILL)\n    os._exit(0)\ntime.sleep(5)", tests=1),
    case("aborts", RE, RIGHT + "import os\nos.abort()", tests=1),
    case("segmentation_fault", RE, RIGHT + "import ctypes\nctypes.string_at(0)", tests=1),
    case("stack_overflow", RE, RIGHT + "import resource, sys\nsys.setrecursionlimit(10**9)\nresource.setrlimit(resource.RLIMIT_STACK, (4 << 20, resource.RLIM_INFINITY))\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)", tests=1),
    case("answer_of_a_late_child", WA, "import os, time\nif os.fork() == 0:\n    time.sleep(3)\n" + "    " + RIGHT),
    case("answer_of_a_late_grandchild", WA, "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(3)\n        " + RIGHT + "    os._exit(0)\nos.wait()"),
    case("answer_of_a_child_that_is_waited_for", AC, "import os\nif os.fork() == 0:\n    " + RIGHT + "    os._exit(1)\nos.wait()"),
    case("answer_flushed_by_parent_and_child", WA, "import os\nprint(sum(map(int, input().split())))\nif os.fork(): os.wait()"),
    case("becomes_another_program_with_a_wrong_answer", WA, "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(7)'])"),
    case("becomes_another_program_with_the_answer", AC, "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(sum(map(int, input().split())))'])"),
    case("becomes_another_program_that_fakes_an_exit", WA, "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'import os; os.write(1, b\"R\"); os._exit(115)'])"),
    # Python ends with 1 there, as after sys.exit(1): of a program that became another one nobody knows how it ended.
    case("becomes_another_program_that_raises", AC, "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(sum(map(int, input().split()))); raise ValueError'])"),
    case("becomes_what_is_not_there", RE, "import os\nos.execv('/nothing', ['x'])"),
    case("becomes_itself_for_ever", TLE, "import os, sys\nos.execv(sys.executable, [sys.executable, __file__])", tests=1, cpu_s=0.3),
    case("ends_its_main_thread_only", TLE, C + "import threading\ndef f():\n    while True: pass\nthreading.Thread(target=f, daemon=True).start()\nlibc.syscall(60, 0)", tests=1, cpu_s=0.3),
    case("exit_group_directly", AC, RIGHT + C + "libc.syscall(231, 0)"),
    case("closes_every_descriptor", WA, "import os\nos.closerange(0, 300)\nos._exit(0)"),
    case("closes_every_descriptor_and_goes_on", WA, "import os\nos.closerange(0, 300)"),
    endless("stops_itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    endless("stops_itself_by_the_terminal", "import os, signal, time\nos.kill(os.getpid(), signal.SIGTSTP)\ntime.sleep(9)"),
    endless("stops_after_the_answer", RIGHT + "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    endless("waits_for_a_thread_that_never_ends", RIGHT + "import threading\nthreading.Thread(target=threading.Event().wait).start()"),
]  # fmt: skip
