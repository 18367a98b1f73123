# ruff: noqa: E501  (programs read better on one line)
"""Hostile programs that attack the runner, leave daemons or state for the next test, or open sockets.

Most of them print the right answer: what is tested is that the runner lives, and that their next test, which says
"poisoned" where it finds a trace, is judged as it would be alone.
"""

from judge_case import AC, RIGHT, TLE, WA, WRONG, case, endless

_TRY = """
import ctypes, fcntl, os, resource, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
victims = [1, os.getppid()]
def attempt(f, *a):
    try: f(*a)
    except (OSError, ValueError, OverflowError): pass
def locked(path):
    with open(path) as file:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError: return True
def write(path, text):
    with open(path, 'w') as file: file.write(text)
"""


def _attack(name, attack):
    """Attacks the runner, then answers, three times over."""
    return case(name, AC, _TRY + attack + "\n" + RIGHT, tests=3)


RUNNER = [
    _attack("sigkill_to_the_runner", "for pid in victims: attempt(os.kill, pid, 9)"),
    _attack("every_signal_to_the_runner", "for pid in victims:\n    for s in range(1, 65): attempt(os.kill, pid, s)"),
    _attack("sigstop_to_the_runner", "for pid in victims: attempt(os.kill, pid, signal.SIGSTOP)"),
    _attack("signal_to_everyone", "for s in (1, 2, 15, 19, 9): attempt(os.kill, -1, s)"),
    _attack("signal_to_groups", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nfor g in (1, os.getpgid(os.getppid()), 0):\n    attempt(os.killpg, g, signal.SIGTERM)"),
    _attack("signal_to_threads_of_the_runner", "for pid in victims:\n    for s in (9, 19, 11, 33): libc.syscall(234, pid, pid, s), libc.syscall(200, pid, s)"),
    _attack("signal_through_a_pidfd", "for pid in victims:\n    fd = libc.syscall(434, pid, 0)\n    for s in (9, 19, 15): libc.syscall(424, fd, s, None, 0)"),
    _attack("queued_signals", "b = ctypes.create_string_buffer(128)\nfor pid in victims:\n    for _ in range(500): libc.syscall(129, pid, 35, b), libc.syscall(297, pid, pid, 35, b)"),
    _attack("signal_by_owner_of_a_pipe", "r, w = os.pipe()\nfor pid in victims:\n    for s in (9, 19, 29):\n        attempt(fcntl.fcntl, r, fcntl.F_SETOWN, pid)\n        attempt(fcntl.fcntl, r, 10, s)\n        attempt(fcntl.fcntl, r, fcntl.F_SETFL, os.O_ASYNC)\n        os.write(w, b'x')"),
    _attack("ptrace_the_runner", "for pid in victims:\n    for request in (16, 0x4206): libc.ptrace(request, pid, None, None)"),
    _attack("asks_to_be_traced", "libc.ptrace(0, 0, None, None)\nattempt(os.kill, os.getpid(), signal.SIGCONT)"),
    _attack("writes_into_the_runner", "for pid in victims:\n    for name in ('mem', 'clear_refs', 'coredump_filter', 'comm', 'loginuid', 'attr/current', 'sched', 'timerslack_ns', 'autogroup', 'make-it-fail', 'uid_map'):\n        attempt(write, f'/proc/{pid}/{name}', '1')"),
    _attack("process_vm_writev", "class V(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]\nb = ctypes.create_string_buffer(4096)\nfor pid in victims:\n    for at in range(0x400000, 0x900000, 4096): libc.process_vm_writev(pid, ctypes.byref(V(ctypes.addressof(b), 4096)), 1, ctypes.byref(V(at, 4096)), 1, 0)"),
    _attack("out_of_memory_score_of_others", "for pid in victims: attempt(write, f'/proc/{pid}/oom_score_adj', '1000')\nattempt(write, '/proc/self/oom_score_adj', '-1000')"),
    _attack("limits_of_the_runner", "for pid in victims:\n    for which in range(16): attempt(resource.prlimit, pid, which, (0, 0))"),
    _attack("scheduling_of_the_runner", "for pid in victims:\n    attempt(os.sched_setaffinity, pid, {0})\n    attempt(os.setpriority, os.PRIO_PROCESS, pid, 19)\n    attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))\n    libc.syscall(251, 1, pid, 3 << 13)\nattempt(os.setpriority, os.PRIO_USER, 0, 19)\nattempt(os.setpriority, os.PRIO_PGRP, 1, 19)"),
    _attack("priority_above_the_runner", "attempt(os.setpriority, os.PRIO_PROCESS, 0, -20)\nattempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50))"),
    _attack("system_control_files", "import glob\nfor path in ['/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/proc/sys/kernel/pid_max', '/proc/sys/vm/drop_caches', '/proc/sys/kernel/ns_last_pid', '/proc/sys/kernel/hostname', '/sys/power/state', '/proc/sys/vm/overcommit_memory', *glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True), *glob.glob('/sys/fs/cgroup/**/*freeze*', recursive=True), *glob.glob('/sys/fs/cgroup/**/memory.limit_in_bytes', recursive=True)]:\n    attempt(write, path, '0')"),
    _attack("reboot_and_friends", "for call in ((169, 0xfee1dead, 672274793, 0x4321fedc), (167, 0), (168, 0), (163, 0), (246, 0, 0, 0, 0), (175, 0, 0, 0), (313, 0, 0, 0), (170, b'x', 1), (171, b'x', 1), (103, 5, 0, 0), (172, 3)): libc.syscall(*call)"),
    _attack("becomes_root", "for f in (os.setuid, os.setgid, os.seteuid): attempt(f, 0)\nattempt(os.setresuid, 0, 0, 0)\nattempt(os.setgroups, [0])\nlibc.prctl(24, 21, 0, 0, 0)\nlibc.prctl(47, 2, 21, 0, 0)"),
    _attack("new_namespaces", "for flag in (0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x02000000, 0x00000080): libc.unshare(flag)\nfor name in ('user', 'mnt', 'net', 'pid', 'ipc'):\n    attempt(lambda: libc.setns(os.open(f'/proc/1/ns/{name}', os.O_RDONLY), 0))"),
    _attack("clone_into_namespaces", "for call in ((56, 0x10000011, 0, 0, 0, 0), (56, 0x7c020011, 0, 0, 0, 0)):\n    if libc.syscall(*call) == 0: os._exit(0)\nb = (0x10000000).to_bytes(8, 'little') + bytes(24) + (17).to_bytes(8, 'little') + bytes(48)\nif libc.syscall(435, b, 88) == 0: os._exit(0)"),
    _attack("child_of_its_parent", "pid = libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0)\nif pid == 0:\n    time.sleep(30)\n    os._exit(0)"),
    case("child_of_its_parent_burns_time", TLE, _TRY + "if libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0) == 0:\n    while True: pass\ntime.sleep(30)", tests=1, cpu_s=0.3),
    _attack("dies_with_nobody", "libc.prctl(1, 0, 0, 0, 0)\nlibc.prctl(36, 1, 0, 0, 0)\nlibc.prctl(4, 0, 0, 0, 0)"),
    _attack("waits_for_the_runner", "for pid in victims:\n    attempt(os.waitpid, pid, os.WNOHANG)\nfor _ in range(9): attempt(os.waitpid, -1, os.WNOHANG)"),
    _attack("takes_the_terminal", "for path in ('/dev/tty', '/dev/console', '/dev/ptmx', '/dev/tty0'):\n    attempt(lambda: fcntl.ioctl(os.open(path, os.O_RDWR), 0x5412, b'x'))"),
    _attack("renames_itself", "libc.prctl(15, b') R 1 1 1 (', 0, 0, 0)\nattempt(write, '/proc/self/comm', ') 9 9')"),
    # The name stands in /proc/PID/stat, where CPU time is read: a name like fields must not hide it.
    case("hides_its_time_behind_its_name", TLE, _TRY + "libc.prctl(15, b') R 1 1 (\\n) 0', 0, 0, 0)\nif os.fork() == 0:\n    while True: pass\nos.wait()", tests=1, cpu_s=0.3),
    case("kills_its_own_group_after_the_answer", (AC,), _TRY + RIGHT + "attempt(os.kill, -1, 9)", tests=3),
    case("attacks_and_is_wrong", WA, _TRY + "for pid in victims:\n    for s in range(1, 65): attempt(os.kill, pid, s)\n" + WRONG, tests=3),
]  # fmt: skip

_DAEMON = """
import os, signal, sys, time
def daemon(f):
    if os.fork() == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                for s in range(1, 65):
                    try: signal.signal(s, signal.SIG_IGN)
                    except (OSError, ValueError): pass
                f()
        finally: os._exit(0)
    os.wait()
def forever(f):
    while True:
        try: f()
        except OSError: pass
"""


def _daemon(name, body, *, check="0", tests=3):
    """Leaves a daemon, after which the next test must find nothing of it."""
    program = (
        _DAEMON
        + f"answer = sum(map(int, input().split()))\nif {check}: answer = 'poisoned'\n{body}\nprint(answer, flush=True)\n"
    )
    return case(name, AC, program, tests=tests)


_OTHERS = "[p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid(), os.getppid())]"
DAEMONS = [
    _daemon("daemon_sleeps", "daemon(lambda: time.sleep(99))", check=_OTHERS),
    _daemon("daemon_rewrites_tmp", "def f(): open('/tmp/heapq.py', 'w').write('print(1)')\ndaemon(lambda: forever(f))\ntime.sleep(0.05)", check="(time.sleep(0.05), os.path.exists('/tmp/heapq.py'))[1]"),
    _daemon("daemon_holds_stdout", "daemon(lambda: (os.dup2(1, 99), time.sleep(99)))", check=_OTHERS),
    _daemon("daemon_writes_to_stdout_for_ever", "daemon(lambda: (time.sleep(3), forever(lambda: os.write(1, b'9'))))", check=_OTHERS),
    _daemon("daemon_writes_into_every_output", "import glob\ndef f():\n    for p in glob.glob('/proc/[0-9]*/fd/[012]'):\n        if p.split('/')[2] not in (me, str(os.getpid())): open(p, 'a').write('9')\nme = str(os.getpid())\ndaemon(lambda: (time.sleep(0.3), forever(f)))", check=_OTHERS),
    _daemon("daemon_kills_what_it_sees", "me = os.getpid()\ndef f():\n    for p in os.listdir('/proc'):\n        if p.isdigit() and int(p) not in (me, os.getpid()): os.kill(int(p), 9)\ndaemon(lambda: (time.sleep(0.3), forever(f)))", check=_OTHERS),
    _daemon("daemon_consumes_the_processor", "for _ in range(6): daemon(lambda: forever(lambda: None))", check=_OTHERS),
    _daemon("daemon_holds_locks", "import fcntl\ndef f():\n    fcntl.flock(os.open('/tmp/program.py', os.O_RDONLY), fcntl.LOCK_EX)\n    time.sleep(99)\ndaemon(f)", check=_OTHERS),
    _daemon("daemon_forks_away", "def f():\n    while True:\n        if os.fork(): os._exit(0)\ndaemon(f)", check=_OTHERS),
    _daemon("daemons_fork_away_in_a_crowd", "def f():\n    while True:\n        try:\n            if os.fork(): os._exit(0)\n        except OSError: pass\nfor _ in range(8):\n    try: daemon(f)\n    except OSError: pass", check=_OTHERS),
    _daemon("daemon_is_stopped", "daemon(lambda: os.kill(os.getpid(), signal.SIGSTOP))\ntime.sleep(0.02)", check=_OTHERS),
    _daemon("zombies_left", "if os.fork() == 0:\n    for _ in range(20):\n        if os.fork() == 0: os._exit(0)\n    time.sleep(99)\ntime.sleep(0.05)", check=_OTHERS),
    _daemon("daemon_in_a_tree", "def f(n):\n    if n and os.fork(): f(n - 1)\n    time.sleep(99)\ndaemon(lambda: f(12))\ntime.sleep(0.05)", check=_OTHERS),
    _daemon("daemon_not_dumpable", "import ctypes\ndaemon(lambda: (ctypes.CDLL(None).prctl(4, 0, 0, 0, 0), time.sleep(99)))\ntime.sleep(0.02)", check=_OTHERS),
    _daemon("daemon_with_many_threads", "import threading\ndef f():\n    for _ in range(20): threading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n    time.sleep(99)\ndaemon(f)\ntime.sleep(0.05)", check=_OTHERS),
    _daemon("daemon_fills_memory_for_the_next", "def f():\n    x = bytearray(60 << 20)\n    time.sleep(99)\ndaemon(f)\ndaemon(f)\ntime.sleep(0.1)", check=_OTHERS),
    _daemon("daemon_turns_into_sleep_of_another_program", "daemon(lambda: os.execv(sys.executable, [sys.executable, '-S', '-c', 'import time; time.sleep(99)']))", check=_OTHERS),
    _daemon("daemon_serves_a_socket", "import socket\ndef f():\n    s = socket.socket(socket.AF_UNIX)\n    s.bind(chr(0) + 'poison')\n    s.listen()\n    time.sleep(99)\ndaemon(f)\ntime.sleep(0.02)", check="'poison' in open('/proc/net/unix').read()"),
    _daemon("subreaper_left", "import ctypes\ndef f():\n    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n    if os.fork() == 0:\n        if os.fork() == 0: time.sleep(99)\n        os._exit(0)\n    time.sleep(99)\ndaemon(f)\ntime.sleep(0.03)", check=_OTHERS),
    case("daemons_change_the_size_of_the_output", WA, "import os, time\nme = os.getpid()\nfor _ in range(8):\n    if os.fork() == 0:\n        os.setsid()\n        while os.getppid() == me: pass\n        while True:\n            os.pwrite(1, b'999999', 0)\n            os.ftruncate(1, 0)\ntime.sleep(0.03)\nprint(7, flush=True)", tests=3),
    _daemon("daemon_thread_left", "import threading\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()", check=_OTHERS),
]  # fmt: skip


def _state(name, leave, check):
    """Leaves something behind in each test; no test may find it."""
    program = (
        _TRY
        + f"answer = sum(map(int, input().split()))\nif {check}: answer = 'poisoned'\n{leave}\nprint(answer, flush=True)\n"
    )
    return case(name, AC, program, tests=3)


_TMP = "sorted(os.listdir('/tmp')) != ['program.py']"
_SHM = "os.path.isdir('/dev/shm') and os.listdir('/dev/shm')"
STATE = [
    _state("file_in_tmp", "write('/tmp/state', 'x')", _TMP),
    _state("hidden_file", "write('/tmp/.state', 'x')", _TMP),
    _state("file_in_shm", "attempt(write, '/dev/shm/state', 'x')", _SHM),
    _state("odd_file_names", "for n in (b'\\xff\\xfe', b'a\\nb', b' ', b'-rf', b'x' * 255, '\\u202e'.encode()): open(b'/tmp/' + n, 'w').close()", _TMP),
    _state("folder_without_rights", "os.makedirs('/tmp/a/b')\nwrite('/tmp/a/b/c', 'x')\nos.chmod('/tmp/a/b', 0)\nos.chmod('/tmp/a', 0)", _TMP),
    _state("sticky_and_setuid_bits", "write('/tmp/s', 'x')\nfor m in (0o4777, 0o2777, 0o1000): attempt(os.chmod, '/tmp/s', m)\nos.mkdir('/tmp/d')\nattempt(os.chmod, '/tmp/d', 0o7000)", _TMP),
    _state("tmp_itself_without_rights", "attempt(os.chmod, '/tmp', 0)\nattempt(os.chmod, '/dev/shm', 0)\nattempt(os.rename, '/tmp', '/tmp2')", "not os.access('/tmp', os.W_OK)"),
    _state("immutable_file", "write('/tmp/i', 'x')\nfor flags in (0x10, 0x20, 0x30): attempt(lambda: fcntl.ioctl(os.open('/tmp/i', os.O_RDONLY), 0x40086602, flags.to_bytes(8, 'little')))", _TMP),
    _state("extended_attributes", "for p in ('/tmp', '/tmp/program.py', '/dev/shm'):\n    for n in ('user.x', 'trusted.x', 'security.x', 'system.posix_acl_default'): attempt(lambda: os.setxattr(p, n, b'x'))", "any(n.startswith('user') for n in os.listxattr('/tmp'))"),
    _state("deep_folders", "os.chdir('/tmp')\nfor _ in range(3000):\n    try: os.mkdir('d')\n    except OSError: break\n    os.chdir('d')", _TMP),
    _state("wide_folders", "for i in range(1000): attempt(os.mkdir, f'/tmp/{i}')", _TMP),
    _state("fifo_and_socket_files", "import socket\nos.mkfifo('/tmp/fifo')\nsocket.socket(socket.AF_UNIX).bind('/tmp/sock')", _TMP),
    _state("hard_links", "write('/tmp/a', 'x')\nfor i in range(500): os.link('/tmp/a', f'/tmp/{i}')", _TMP),
    _state("links_to_everywhere", "for i, p in enumerate(('/', '/etc', '/proc/1', '/tmp', '/usr/bin', '/dev/shm', 'loop', '/nothing')): os.symlink(p, f'/tmp/l{i}')\nos.symlink('loop', '/tmp/loop')", _TMP),
    _state("open_but_removed_file", "f = open('/tmp/x', 'wb')\nattempt(f.write, b'x' * 1000000)\nos.unlink('/tmp/x')", "os.statvfs('/tmp').f_bavail * os.statvfs('/tmp').f_bsize < 50 << 20"),
    _state("system_v_objects", "for call in ((29, 7777, 4096, 0o1666), (64, 7777, 1, 0o1666), (68, 7777, 0o1666)): libc.syscall(*call)", "any('7777' in open(f'/proc/sysvipc/{n}').read() for n in ('shm', 'sem', 'msg') if os.path.exists(f'/proc/sysvipc/{n}'))"),
    _state("posix_queue", "libc.syscall(240, b'poison', os.O_CREAT | os.O_RDWR, 0o666, None)", "libc.syscall(240, b'poison', os.O_RDWR, 0, None) >= 0"),
    _state("keyring", "libc.syscall(248, b'user', b'poison', b'x', 1, -4)\nlibc.syscall(248, b'user', b'poison', b'x', 1, -3)", "libc.syscall(249, b'user', b'poison', None, 0) >= 0"),
    _state("working_folder_and_umask", "os.mkdir('/tmp/w')\nos.chdir('/tmp/w')\nos.umask(0o777)", "os.getcwd() != '/tmp' and os.getcwd().endswith('/w') or os.umask(0o022) != 0o022"),
    _state("limits_lowered", "for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU): attempt(resource.setrlimit, which, (40, 40))", "resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 200"),
    _state("signals_ignored_and_blocked", "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nfor s in range(1, 32): attempt(signal.signal, s, signal.SIG_IGN)", "signal.pthread_sigmask(signal.SIG_BLOCK, []) or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL"),
    _state("alarm_left", "if answer != 68: signal.setitimer(signal.ITIMER_REAL, 0.05), signal.alarm(1)", "signal.alarm(0)"),
    _state("memory_file_left", "import mmap\nfd = os.memfd_create('poison')\nos.set_inheritable(fd, True)\nm = mmap.mmap(-1, 1 << 20)", "'poison' in ' '.join(os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1])"),
    _state("descriptors_left", "keep = [os.open('/dev/null', os.O_RDONLY) for _ in range(100)]\nfor fd in keep: os.set_inheritable(fd, True)", "len(os.listdir('/proc/self/fd')) > 6"),
    _state("affinity_and_priority", "attempt(os.sched_setaffinity, 0, {min(os.sched_getaffinity(0))})\nattempt(os.nice, 19)\nlibc.personality(0x0040000)", "os.getpriority(os.PRIO_PROCESS, 0) > 18"),
    _state("name_of_the_host", "b = b'poison'\nlibc.sethostname(b, 6)\nlibc.setdomainname(b, 6)", "os.uname().nodename == 'poison'"),
    _state("locked_own_program", "fd = os.open('/tmp/program.py', os.O_RDONLY)\nos.set_inheritable(fd, True)\nattempt(fcntl.flock, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\nif os.fork() == 0: time.sleep(99)", "locked('/tmp/program.py')"),
    _state("inotify_and_timers", "libc.inotify_add_watch(libc.inotify_init(), b'/tmp', 0xfff)\nlibc.timerfd_create(1, 0)\nlibc.eventfd(5, 0)\nlibc.epoll_create(5)", "len(os.listdir('/proc/self/fd')) > 6"),
]  # fmt: skip


def _replaced(name, how):
    """Tries to put something else where its own source stands; the next test must find its source there again."""
    program = (
        _TRY + "def same():\n    try: return '# marker' + ' of this' in open(__file__).read() and not os.path.islink(__file__)\n"
        "    except OSError: return False\n# marker of this\nanswer = sum(map(int, input().split()))\nif not same(): answer = 'poisoned'\n"
        f"p = '/tmp/program.py'\nattempt(os.unlink, p)\nattempt(os.rename, p, p + '2')\n{how}\nprint(answer, flush=True)\n"
    )  # fmt: skip
    return case(name, AC, program, tests=3)


FILES = [
    _replaced("program_becomes_a_link_to_a_file", "attempt(os.symlink, '/etc/passwd', p)"),
    _replaced("program_becomes_a_link_into_proc", "attempt(os.symlink, '/proc/1/mem', p)"),
    _replaced("program_becomes_a_link_to_nothing", "attempt(os.symlink, '/nothing', p)"),
    _replaced("program_becomes_a_hard_link", "write('/tmp/other', 'x')\nattempt(os.link, '/tmp/other', p)"),
    _replaced("program_becomes_a_fifo", "attempt(os.mkfifo, p)"),
    _replaced("program_becomes_a_folder", "attempt(os.makedirs, p + '/a/b')"),
    _replaced("program_becomes_a_socket", "import socket\nattempt(socket.socket(socket.AF_UNIX).bind, p)"),
    _replaced("program_becomes_unreadable", "attempt(os.chmod, p, 0)\nattempt(write, p, 'x')"),
    _replaced("program_becomes_empty", "attempt(os.truncate, p, 0)\nattempt(write, p, '')"),
    _replaced("program_becomes_a_deep_tree", "try:\n    os.mkdir(p)\n    os.chdir(p)\n    for _ in range(3000):\n        os.mkdir('d')\n        os.chdir('d')\nexcept OSError: pass"),
    case("every_descriptor_opened", AC, _TRY + "s = sum(map(int, input().split()))\nkeep = []\ntry:\n    while True: keep.append(os.open('/dev/null', os.O_RDONLY))\nexcept OSError: pass\nos.write(1, str(s).encode())", tests=3),
    case("descriptors_shuffled", AC, "import os\na, b = os.dup(0), os.dup(1)\nos.dup2(b, 0)\nos.dup2(a, 1)\nos.write(0, str(sum(map(int, os.read(1, 99).split()))).encode())", tests=3),
    case("stdout_points_elsewhere", WA, "import os\nos.dup2(os.open('/dev/null', os.O_WRONLY), 1)\n" + RIGHT),
    case("stdout_points_to_stderr", WA, "import os\nos.dup2(2, 1)\n" + RIGHT),
    case("stdout_is_closed_at_the_end", AC, RIGHT + "import os\nos.close(1)"),
    case("tmp_is_full", AC, _TRY + "answer = sum(map(int, input().split()))\nif os.statvfs('/tmp').f_bavail * os.statvfs('/tmp').f_bsize < 50 << 20: answer = 'poisoned'\nfor i in range(99): attempt(write, f'/tmp/{i}', 'x' * 1000000)\nprint(answer, flush=True)", tests=3),
    case("shm_is_full", AC, _TRY + "answer = sum(map(int, input().split()))\nif os.path.isdir('/dev/shm') and os.statvfs('/dev/shm').f_bavail * os.statvfs('/dev/shm').f_bsize < 50 << 20: answer = 'poisoned'\nfor i in range(99): attempt(write, f'/dev/shm/{i}', 'x' * 1000000)\nprint(answer, flush=True)", tests=3),
    case("no_inodes_left", AC, _TRY + "answer = sum(map(int, input().split()))\nif os.statvfs('/tmp').f_favail < 4000: answer = 'poisoned'\ntry:\n    for i in range(5000): open(f'/tmp/{i}', 'w').close()\nexcept OSError: pass\nprint(answer, flush=True)", tests=2),
    case("no_inodes_left_in_shm", AC, _TRY + "answer = sum(map(int, input().split()))\nif os.path.isdir('/dev/shm') and os.statvfs('/dev/shm').f_favail < 4000: answer = 'poisoned'\nfor i in range(5000): attempt(os.symlink, 'x', f'/dev/shm/{i}')\nprint(answer, flush=True)", tests=2),
    case("inodes_held_by_a_daemon", AC, _TRY + "answer = sum(map(int, input().split()))\nif os.statvfs('/tmp').f_favail < 4000: answer = 'poisoned'\nif os.fork() == 0:\n    keep = []\n    for i in range(200):\n        keep.append(open(f'/tmp/{i}', 'w'))\n        os.unlink(f'/tmp/{i}')\n    time.sleep(99)\ntime.sleep(0.02)\nprint(answer, flush=True)", tests=3),
    case("tmp_filled_while_it_is_swept", AC, _TRY + "answer = sum(map(int, input().split()))\nif os.listdir('/tmp') != ['program.py']: answer = 'poisoned'\nfor n in range(4):\n    if os.fork() == 0:\n        i = 0\n        while True:\n            i += 1\n            attempt(write, f'/tmp/{n}-{i}', 'x')\ntime.sleep(0.02)\nprint(answer, flush=True)", tests=3),
    case("huge_sparse_file", AC, _TRY + "attempt(lambda: os.truncate('/tmp/program.py', 1 << 40))\nf = open('/tmp/s', 'wb')\nattempt(f.truncate, 1 << 40)\nattempt(os.posix_fallocate, f.fileno(), 0, 1 << 40)\n" + RIGHT),
    case("writes_outside", AC, _TRY + "opened = []\nfor p in ('/x', '/etc/x', '/usr/bin/python3', '/usr/lib/x', '/proc/x', '/dev/x', '/home/x', '/root/x', '/var/tmp/x', '/run/x', '/sys/x'):\n    try: opened.append(open(p, 'a'))\n    except OSError: pass\ns = sum(map(int, input().split()))\nprint('escaped' if opened else s)"),
]  # fmt: skip

_SOCKETS = """
import socket
def opens(*a):
    try: s = socket.socket(*a)
    except OSError: return False
    s.close()
    return True
def reaches(family, address):
    try:
        s = socket.socket(family)
        s.settimeout(0.1)
        s.connect(address)
    except OSError: return False
    return True
"""


def _closed(name, condition):
    """Prints the answer only where the way out is closed."""
    return case(name, AC, _SOCKETS + f"s = sum(map(int, input().split()))\nprint('escaped' if {condition} else s)")


SOCKETS = [
    _closed("internet_address", "reaches(2, ('8.8.8.8', 53)) or reaches(2, ('1.1.1.1', 443)) or reaches(10, ('2606:4700::1111', 443))"),
    _closed("private_addresses", "any(reaches(2, (h, p)) for h in ('10.0.0.1', '172.17.0.1', '192.168.0.1', '169.254.169.254') for p in (22, 80, 2375))"),
    _closed("loopback_of_the_host", "any(reaches(2, ('127.0.0.1', p)) for p in (22, 53, 80, 443, 2375, 5432, 6379, 8000, 8080, 8888))"),
    _closed("datagram_out", "any(opens(2, 2) and socket.socket(2, 2).connect_ex((h, 53)) == 0 for h in ('8.8.8.8', '10.0.0.1'))"),
    _closed("vsock", "opens(40, 1) or opens(40, 2)"),
    _closed("netlink", "any(opens(16, 3, n) for n in range(22))"),
    _closed("packet_socket", "opens(17, 3, 768) or opens(17, 2, 768)"),
    _closed("raw_socket", "opens(2, 3, 1) or opens(2, 3, 255) or opens(10, 3, 58)"),
    _closed("other_families", "[f for f in range(46) if f not in (0, 1, 2, 10) and (opens(f, 1) or opens(f, 2) or opens(f, 5))]"),
    _closed("crypto_sockets", "opens(38, 5)"),
    _closed("names_resolved", "reaches(2, ('example.com', 80)) or reaches(2, ('localhost', 22))"),
    _closed("docker_socket", "any(reaches(1, p) for p in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock'))"),
    case("own_sockets_work", AC, "import socket, threading\na, b = socket.socketpair()\na.sendall(input().encode())\nprint(sum(map(int, b.recv(99).split())))"),
    endless("waits_for_a_connection", "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind(chr(0) + 'x')\ns.listen()\ns.accept()"),
]  # fmt: skip
