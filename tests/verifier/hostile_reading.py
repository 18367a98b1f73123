# ruff: noqa: E501  (programs read better on one line)
"""Hostile programs that look for expected outputs, or change the harness around them.

A hunter prints the expected output if it finds it. A patcher prints what is wrong, or is right in its first test and
in its next one says "poisoned" if the first one left a trace.
"""

from judge_case import AC, RE, RIGHT, WA, WRONG, C, case, hunter

READING = [
    hunter("files_of_the_whole_sandbox", """
for root, folders, files in os.walk('/'):
    folders[:] = [f for f in folders if os.path.join(root, f) not in ('/proc', '/sys', '/usr', '/lib', '/lib64')]
    for name in files: look(lambda: read(os.path.join(root, name)))
"""),
    hunter("proc_of_every_process", """
for pid in [p for p in os.listdir('/proc') if p.isdigit()] + ['self', 'thread-self']:
    for name in ('cmdline', 'environ', 'stack', 'syscall', 'status', 'maps', 'auxv', 'comm', 'fdinfo', 'mountinfo', 'cgroup', 'wchan'):
        look(lambda: read(f'/proc/{pid}/{name}'))
    for name in ('fd', 'fdinfo', 'map_files'):
        try: numbers = os.listdir(f'/proc/{pid}/{name}')
        except OSError: continue
        for number in numbers:
            look(lambda: os.readlink(f'/proc/{pid}/{name}/{number}'))
            look(lambda: read(f'/proc/{pid}/{name}/{number}'))
"""),
    hunter("proc_roots", """
for pid in ('1', str(os.getppid()), 'self'):
    for link in ('root', 'cwd', 'exe'):
        look(lambda: os.readlink(f'/proc/{pid}/{link}'))
        for name in ('tmp', 'root', 'home', 'work', 'etc', 'var', '.'):
            try: entries = os.listdir(f'/proc/{pid}/{link}/{name}')
            except OSError: continue
            for entry in entries: look(lambda: read(f'/proc/{pid}/{link}/{name}/{entry}'))
"""),
    hunter("environment", "tell(os.environ)\ntell(sys.argv)\ntell(sys.orig_argv)\nlook(lambda: read('/proc/1/environ'))\n"
           "libc = ctypes.CDLL(None)\nlibc.getenv.restype = ctypes.c_char_p\nlook(lambda: libc.getenv(b'EXPECTED'))"),
    hunter("own_memory", """
for line in open('/proc/self/maps'):
    low, high = (int(x, 16) for x in line.split()[0].split('-'))
    if 'r' not in line.split()[1] or high - low > 1 << 28: continue
    try:
        with open('/proc/self/mem', 'rb', 0) as memory:
            memory.seek(low)
            data = memory.read(high - low)
    except (OSError, ValueError, OverflowError): continue
    tell(data)
"""),
    hunter("runner_memory", """
for pid in (1, os.getppid()):
    for name in ('mem', 'maps', 'smaps', 'pagemap', 'clear_refs', 'stack'): look(lambda: read(f'/proc/{pid}/{name}'))
    try: fd = os.open(f'/proc/{pid}/mem', os.O_RDWR)
    except OSError: continue
    for at in range(0x400000, 0x2000000, 1 << 20): look(lambda: os.pread(fd, 1 << 20, at))
"""),
    hunter("process_vm_readv", """
libc = ctypes.CDLL(None, use_errno=True)
class V(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(1 << 20)
for pid in (1, os.getppid()):
    for at in range(0x400000, 0x2000000, 1 << 20):
        libc.process_vm_readv(pid, ctypes.byref(V(ctypes.addressof(buffer), 1 << 20)), 1, ctypes.byref(V(at, 1 << 20)), 1, 0)
        tell(buffer.raw)
"""),
    hunter("ptrace_of_the_runner", """
libc = ctypes.CDLL(None, use_errno=True)
for pid in (1, os.getppid()):
    for request in (16, 0x4206): libc.ptrace(request, pid, None, None)
    libc.ptrace.restype = ctypes.c_long
    for at in range(0x400000, 0x401000, 8): tell(ctypes.c_long(libc.ptrace(2, pid, ctypes.c_void_p(at), None)).value.to_bytes(8, 'little', signed=True))
"""),
    hunter("frames_upward", """
frame = sys._getframe()
while frame:
    for value in [*frame.f_locals.values(), *frame.f_globals.values(), *frame.f_code.co_consts]:
        look(lambda: value if isinstance(value, (str, bytes)) else repr(value))
        look(lambda: repr(vars(value)))
    frame = frame.f_back
"""),
    hunter("frames_of_all_threads", "for f in sys._current_frames().values():\n    while f:\n        look(lambda: repr(f.f_locals))\n        f = f.f_back"),
    hunter("traceback_of_an_error", """
try: 1 / 0
except ZeroDivisionError as error: tb = error.__traceback__
frame = tb.tb_frame
while frame:
    look(lambda: repr(frame.f_locals) + repr(frame.f_globals))
    frame = frame.f_back
"""),
    hunter("gc_objects", """
import gc
seen = set()
queue = gc.get_objects()
while queue:
    value = queue.pop()
    if id(value) in seen: continue
    seen.add(id(value))
    if type(value) in (str, bytes, bytearray): look(lambda: value)
    elif len(seen) < 400000: queue += gc.get_referents(value)
"""),
    hunter("gc_after_unfreeze", "import gc\ngc.unfreeze()\nfor o in gc.get_objects():\n    if type(o) in (dict, list, tuple): look(lambda: repr(o) if len(o) < 1000 else '')"),
    hunter("modules_of_the_runner", "for name, module in list(sys.modules.items()):\n    for v in list(vars(module).values()):\n        if isinstance(v, (str, bytes, list, dict, tuple)): look(lambda: repr(v))"),
    hunter("inherited_descriptors", """
for fd in range(3, 1100):
    look(lambda: os.pread(fd, 1 << 20, 0))
    look(lambda: (os.set_blocking(fd, False), os.read(fd, 1 << 20))[1])
"""),
    hunter("line_to_the_host", """
import select
for fd in (250, 251, 252, 3, 4, 5):
    for path in (f'/proc/1/fd/{fd}', f'/proc/{os.getppid()}/fd/{fd}', f'/dev/fd/{fd}'): look(lambda: read(path))
    try:
        os.write(fd, bytes(8))
        if select.select([fd], [], [], 0.05)[0]: tell(os.read(fd, 1 << 20))
    except OSError: pass
"""),
    hunter("pidfd_getfd", """
libc = ctypes.CDLL(None, use_errno=True)
for pid in (1, os.getppid()):
    pidfd = libc.syscall(434, pid, 0)
    for number in range(256):
        fd = libc.syscall(438, pidfd, number, 0)
        if fd >= 0: look(lambda: os.pread(fd, 1 << 20, 0))
"""),
    hunter("kernel_memory", "for p in ('/dev/mem', '/dev/kmem', '/dev/port', '/proc/kcore', '/proc/kallsyms', '/proc/vmcore', '/dev/kmsg', '/proc/kmsg', '/proc/keys', '/proc/timer_list', '/proc/sched_debug'):\n    look(lambda: read(p))"),
    hunter("kernel_log", "libc = ctypes.CDLL(None)\nb = ctypes.create_string_buffer(1 << 20)\nlibc.klogctl(3, b, 1 << 20)\ntell(b.raw)"),
    hunter("shared_memory", """
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
for number in range(200):
    at = libc.shmat(number, None, 0o10000)
    if at not in (None, 2**64 - 1): look(lambda: ctypes.string_at(at, 4096))
for folder in ('/dev/shm', '/dev/mqueue', '/run', '/var/run', '/run/shm'):
    for path in glob.glob(folder + '/**', recursive=True): look(lambda: read(path))
look(lambda: read('/proc/sysvipc/shm'))
"""),
    hunter("keyrings", """
libc = ctypes.CDLL(None)
b = ctypes.create_string_buffer(1 << 16)
for key in [-1, -2, -3, -4, -5, *range(1, 500)]:
    libc.syscall(250, 11, key, b, len(b))
    tell(b.raw)
"""),
    hunter("sockets_of_the_host", """
import socket
names = [line.split()[-1] for line in open('/proc/net/unix')][1:] + ['/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '@docker', '@containerd']
for name in names:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(0.05)
    try:
        s.connect(name.replace('@', chr(0), 1))
        s.send(b'GET /containers/json HTTP/1.0' + bytes([13, 10]) * 2)
        tell(s.recv(1 << 16))
    except OSError: pass
"""),
    hunter("ports_of_the_host", """
import socket
for host in ('127.0.0.1', '172.17.0.1', '10.0.2.2', '169.254.169.254', '::1'):
    for port in (22, 80, 2375, 2376, 8000, 8080, 8888):
        try:
            s = socket.create_connection((host, port), 0.02)
            s.send(b'GET / HTTP/1.0' + bytes([13, 10]) * 2)
            tell(s.recv(1 << 16))
        except OSError: pass
"""),
    hunter("kernel_tracing", "for p in glob.glob('/sys/kernel/debug/*') + glob.glob('/sys/kernel/tracing/*') + glob.glob('/sys/fs/cgroup/*') + glob.glob('/sys/fs/bpf/*'):\n    look(lambda: read(p))"),
    hunter("disks", """
import stat
for major, minor in ((8, 0), (8, 1), (254, 0), (254, 1), (259, 0), (259, 1), (252, 0), (1, 1), (1, 2)):
    for folder in ('/tmp', '/dev/shm', '/dev'):
        for kind in (stat.S_IFBLK, stat.S_IFCHR):
            path = f'{folder}/n{kind}-{major}-{minor}'
            try: os.mknod(path, kind | 0o666, os.makedev(major, minor))
            except OSError: continue
            look(lambda: read(path))
"""),
    hunter("mount_of_the_host", """
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs('/tmp/m', exist_ok=True)
for source, kind in ((b'/proc/1/root', None), (b'proc', b'proc'), (b'sysfs', b'sysfs'), (b'/dev/sda1', b'ext4'), (b'overlay', b'overlay'), (b'cgroup', b'cgroup2')):
    if libc.mount(source, b'/tmp/m', kind, 0 if kind else 4096, None) == 0:
        for root, _, files in os.walk('/tmp/m'):
            for name in files: look(lambda: read(os.path.join(root, name)))
for flags in (0x20000, 0x10000000, 0x10020000): libc.unshare(flags)
libc.mount(b'/proc/1/root', b'/tmp/m', None, 4096, None)
for path in glob.glob('/tmp/m/*'): look(lambda: read(path))
"""),
    hunter("file_handles", """
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open('/', os.O_RDONLY)
for inode in range(2, 200):
    handle = (8).to_bytes(4, 'little') + (1).to_bytes(4, 'little') + inode.to_bytes(4, 'little') + bytes(4)
    found = libc.syscall(304, fd, ctypes.create_string_buffer(handle), os.O_RDONLY)
    if found >= 0: look(lambda: os.read(found, 1 << 20))
"""),
    hunter("out_through_dots", "for up in range(1, 12):\n    for name in ('', 'tmp', 'root', 'home', 'etc/passwd', 'work'):\n        path = '/' + '../' * up + name\n        look(lambda: read(path))\n        look(lambda: ' '.join(os.listdir(path)))\nlook(lambda: os.chroot('/tmp'))"),
    hunter("its_own_streams", "for fd in (0, 1, 2):\n    look(lambda: os.pread(fd, 1 << 20, 0))\n    look(lambda: read(f'/proc/self/fd/{fd}'))\n    look(lambda: os.readlink(f'/proc/self/fd/{fd}'))"),
    hunter("stdin_of_the_next_test", "import time\nif os.fork() == 0:\n    os.setsid()\n    for _ in range(100):\n        for path in glob.glob('/proc/[0-9]*/fd/*'): look(lambda: read(path))\n        time.sleep(0.01)"),
]  # fmt: skip

_SECOND = "first = input().split()[0] == '11'\nimport os, sys\nanswer = 33 if first else 46\n"


def _poisons(name, poison, check, *, heading=""):
    """Poisons in its first test. The second one says so if the check finds it, and must not."""
    program = heading + _SECOND + f"if not first:\n    {check}\nprint(answer, flush=True)\nif first:\n    " + poison
    return case(name, AC, program)


def _module(name):
    """Puts a module of that name where the next test would import it."""
    poison = f"""
    os.makedirs('/tmp/__pycache__', exist_ok=True)
    for folder in ('/tmp', '/dev/shm', '/tmp/__pycache__', '/usr/lib/python3/dist-packages', *sys.path, os.getcwd()):
        try: open(os.path.join(folder, '{name}.py'), 'w').write('print("poisoned")')
        except OSError: pass"""
    check = f"try: import {name}\n    except ImportError: pass\n    answer = 'poisoned' if os.path.exists('/tmp/{name}.py') else answer"
    return _poisons(f"module_{name}_in_tmp", poison.strip(), check)


PATCHING = [
    *(_module(name) for name in ("json", "heapq", "sitecustomize", "usercustomize", "random", "collections", "ctypes")),
    _poisons("its_own_file_rewritten", """
    for how in ('w', 'a', 'r+'):
        try: open(__file__, how).write('print("poisoned")#')
        except OSError: pass
    try: os.unlink(__file__)
    except OSError: pass""".strip(), "answer = answer if open(__file__).read().startswith('first =') else 'poisoned'"),
    _poisons("site_files_for_its_children", """
    os.makedirs('/tmp/.local/lib/python3.11/site-packages', exist_ok=True)
    for path in ('/tmp/sitecustomize.py', '/tmp/.local/lib/python3.11/site-packages/usercustomize.py', '/tmp/.pythonrc'):
        open(path, 'w').write('print("poisoned")')""".strip(),
        "import subprocess; out = subprocess.run([sys.executable, '-c', ''], capture_output=True).stdout; answer = out.decode() or answer"),
    _poisons("builtins_changed", "import builtins; builtins.answer, builtins.len = 1, None",
             "import builtins; answer = 'poisoned' if hasattr(builtins, 'answer') or len is None else answer"),
    _poisons("modules_removed", "sys.modules['math'] = None; sys.modules['heapq'] = None; sys.path.clear(); sys.path_hooks.clear()",
             "import math, heapq; answer = answer if sys.path else 'poisoned'", heading="import math, heapq\n"),
    _poisons("import_hook", "sys.meta_path.insert(0, type('F', (), {'find_spec': lambda s, *a: 1 / 0})())",
             "import fractions; answer = 'poisoned' if 'F' in str(sys.meta_path[0]) else answer"),
    _poisons("import_function", "import builtins; builtins.__import__ = lambda *a, **k: 1 / 0", "import fractions"),
    _poisons("environment_changed", "os.environ['X'] = '1'; os.putenv('LD_PRELOAD', '/tmp/x.so'); os.environ['PYTHONPATH'] = '/tmp/p'",
             "answer = 'poisoned' if {'X', 'PYTHONPATH', 'LD_PRELOAD'} & set(os.environ) else answer"),
    _poisons("recursion_and_digits_limits", "sys.setrecursionlimit(50); sys.set_int_max_str_digits(640); sys.setswitchinterval(9)",
             "answer = answer if sys.getrecursionlimit() > 900 and sys.get_int_max_str_digits() == 0 and sys.getswitchinterval() < 1 else 'poisoned'"),
    _poisons("trace_function", "sys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)", "answer = 'poisoned' if sys.gettrace() or sys.getprofile() else answer"),
    _poisons("excepthook", "sys.excepthook = sys.unraisablehook = sys.displayhook = lambda *a: None", "answer = answer if sys.excepthook is sys.__excepthook__ else 'poisoned'"),
    _poisons("build_class", "import builtins; builtins.__build_class__ = lambda *a: None", "X = type(type('X', (), {})()); exec('class Y: pass'); answer = answer if 'Y' in globals() and Y else 'poisoned'"),
    _poisons("memory_of_the_harness", """
    import ctypes
    frame = sys._getframe()
    while frame:
        for name in list(frame.f_globals):
            if name.startswith(('EXIT', '_execute', '_report', '_flush', 'PROGRAM', 'become')): frame.f_globals[name] = None
        for value in list(frame.f_locals.values()):
            if hasattr(value, 'stdout_fd'): value.stdout_fd = value.program = value.uid = 0
        frame = frame.f_back
    os._exit(0)""".strip(), "pass"),
    _poisons("small_integers_changed", "import ctypes; ctypes.memmove(id(5) + 24, id(6) + 24, 4); os._exit(0)", "answer = answer if int('2') + int('3') == int('10') // 2 and len('x' * 5) == 5 else 'poisoned'"),
    _poisons("interned_strings_changed", "import ctypes; ctypes.memset(id('status') + 48, 65, 6); os._exit(0)", "answer = answer if chr(115) + 'tatus' == 'status' else 'poisoned'"),
    case("harness_functions_replaced", WA, WRONG + """
import atexit, builtins, json, os, sys, threading
atexit._run_exitfuncs = threading._shutdown = lambda *a: None
json.dumps = lambda *a, **k: '33'
for frame in (sys._getframe(i) for i in range(1, 3)):
    for name in ('_report', '_flush', '_call', 'canonical'):
        if name in frame.f_globals: frame.f_globals[name] = lambda *a: 0
builtins.compile = builtins.exec = lambda *a, **k: None
os._exit(0)
"""),
    case("exit_replaced_before_an_exception", RE, RIGHT + "import sys\nsys.exit = exit = quit = lambda *a: None\nraise ValueError\n"),
    case("excepthook_hides_an_exception", RE, "import sys\nsys.excepthook = lambda *a: None\n" + RIGHT + "raise ValueError\n"),
    case("excepthook_exits_with_0", RE, "import os, sys, threading\nsys.excepthook = threading.excepthook = lambda *a: os._exit(0)\n" + RIGHT + "raise ValueError\n"),
    case("print_replaced", AC, "import builtins\nreal = print\nbuiltins.print = lambda *a, **k: real('no')\nreal(sum(map(int, input().split())))\n"),
    case("builtins_broken_after_the_answer", AC, RIGHT + "import builtins\nfor name in ('open', 'input', 'print', 'len', 'type', 'isinstance', 'getattr', 'list', 'vars', 'repr'):\n    setattr(builtins, name, None)\n"),
    case("audit_hook_refuses_everything", AC, RIGHT + "import sys\ndef hook(*a): raise RuntimeError\nsys.addaudithook(hook)\n"),
    case("trace_function_raises", AC, RIGHT + "import sys\ndef tracer(*a): raise RuntimeError\nsys.settrace(tracer)\n"),
    case("modules_emptied_after_the_answer", AC, RIGHT + "import sys\nfor m in ('os', 'io', 'threading', 'atexit', 'traceback', 'json', 'gc'):\n    sys.modules.pop(m, None)\n"),
    case("main_module_replaced", AC, RIGHT + "import sys\nsys.modules['__main__'] = None\n"),
    case("harness_globals_wiped", AC, RIGHT + "import sys\nsys._getframe(1).f_globals.clear()\n"),
    case("falls_back_into_the_runner", WA, WRONG + "import sys\nf = sys._getframe(1).f_globals\nf.clear()\nf['__builtins__'] = {}\nraise OSError\n"),
    case("libc_exit_patched_in_memory", WA, WRONG + C + "import os\nos._exit = lambda code: libc._exit(0)\n"),
    case("print_of_another_stream", WA, "import sys, io\nsys.stdout = io.StringIO()\n" + RIGHT + "sys.__stdout__.write('7')\n"),
]  # fmt: skip
