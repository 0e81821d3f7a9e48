# SPDX-License-Identifier: Apache-2.0
"""What is run inside a box to attack it from there: texts for its own Python, each of which prints JSON."""

from __future__ import annotations

from typing import Final

COMMON: Final = r"""
import ctypes, errno, glob, json, lzma, mmap, os, socket, stat, sys

libc = ctypes.CDLL(None, use_errno=True)

def call(number, *values):
    # A system call by its number (x86-64); "done", or the name of the error.
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *values)
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]

def attempt(what):
    try:
        result = what()
        return "done" if result is None else result
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))

def opened(path, flags):
    def what():
        os.close(os.open(path, flags))
    return attempt(what)

def wrote(path, flags=os.O_WRONLY | os.O_CREAT):
    def what():
        descriptor = os.open(path, flags, 0o600)
        try:
            os.write(descriptor, b"1")
        finally:
            os.close(descriptor)
            if flags & os.O_CREAT:
                os.unlink(path)
    return attempt(what)

def sock(family, kind=socket.SOCK_DGRAM, protocol=0):
    return attempt(lambda: socket.socket(family, kind, protocol).close())

def ran(folder, mode=0o755):
    # A copy of a program, put where something can be written, and run.
    path = os.path.join(folder, ".attack")
    def what():
        try:
            with open("/usr/bin/true", "rb") as program, open(path, "wb") as copy:
                copy.write(program.read())
            os.chmod(path, mode)
            child = os.posix_spawn(path, [path], {})
            return "exit %d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            os.unlink(path)
    return attempt(what)

def as_user(number, what):
    # What a child process that has become another user finds.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(number)
            os.setuid(number)
            os.write(writer, json.dumps(what()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return json.loads(text)

UNSHARE, NEWUSER, NEWNS, NEWNET = 272, 0x10000000, 0x00020000, 0x40000000
BPF, PERF, IO_URING, USERFAULT, PTRACE, KLOG, KEYCTL, MOUNT, INIT_MODULE = 321, 298, 425, 323, 101, 103, 250, 165, 175

def buffer(size=256):
    return ctypes.create_string_buffer(size)

def written_memory():
    # Memory that can be written and run.
    mode = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    return attempt(lambda: mmap.mmap(-1, 4096, prot=mode).close())
"""

SERVICE_USER: Final = (
    COMMON
    + r"""
def tries():
    return {
        "user namespace": call(UNSHARE, NEWUSER),
        "bpf": call(BPF, 5, buffer(), 128),
        "performance counters": call(PERF, buffer(), 0, -1, -1, 0),
        "io_uring": call(IO_URING, 4, buffer()),
        "userfaultfd": call(USERFAULT, 0),
        "kernel log": call(KLOG, 3, buffer(), 256),
        "hard link": attempt(lambda: os.link("/run/bsfg/status/agent.json", "/tmp/.attack")),
        "packet socket": sock(socket.AF_PACKET, socket.SOCK_RAW),
    }
print(json.dumps({"nobody": as_user(65534, tries), "root": {"kernel log": call(KLOG, 3, buffer(), 256)}}))
"""
)

KERNEL: Final = (
    COMMON
    + r"""
def traced():
    child = os.fork()
    if not child:
        import time
        time.sleep(5)
        os._exit(0)
    try:
        return call(PTRACE, 16, child, 0, 0)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)

def forced():
    # Write past page protection, by the door that debuggers use.
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ)
    place = None
    with open("/proc/self/maps") as maps:
        for line in maps:
            if " r--s " in line and "/dev/zero" in line:
                place = int(line.partition("-")[0], 16)
    if place is None:
        return "no page"
    def what():
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(place)
            memory.write(b"x")
    return attempt(what)

def module(change):
    # A module of this kernel that is not loaded, with or without its signature.
    name = sys.argv[1]
    path = glob.glob("/usr/lib/modules/*/kernel/" + name)[0]
    with lzma.open(path) as file:
        data = change(file.read())
    return call(INIT_MODULE, data, len(data), b"")

def crashed():
    os.chdir("/tmp")
    child = os.fork()
    if not child:
        os.abort()
    os.waitpid(child, 0)
    return glob.glob("/tmp/core*") + glob.glob("/var/lib/systemd/coredump/*")

with open("/proc/self/maps") as maps:
    mapped = maps.read()
found = {
    "trace": traced(),
    "force": forced(),
    "module without signature": module(lambda data: data[: -len(b"~Module signature appended~\n")]),
    "module with one bit changed": module(lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]),
    "module as it is": module(lambda data: data),
    "memory device": opened("/dev/mem", os.O_RDWR),
    "lockdown off": wrote("/sys/kernel/security/lockdown", os.O_WRONLY),
    "debugfs": call(MOUNT, b"debugfs", b"/tmp", b"debugfs", 0, None),
    "vsyscall": "[vsyscall]" in mapped,
    "crash": crashed(),
    "run": {folder: ran(folder) for folder in ("/run", "/tmp", "/var/tmp", "/dev/shm", "/var/lib/bsfg")},
    "run what is there": attempt(lambda: os.waitpid(os.posix_spawn("/usr/bin/true", ["true"], {}), 0)[1]),
    "written memory": written_memory(),
    # RDS, TIPC, VSOCK, SCTP, CAN, IEEE 802.15.4, X.25, Bluetooth
    "protocols": {
        str(key): sock(*key)
        for key in ((21, 5), (30, 4), (40, 1), (2, 5, 132), (29, 3), (36, 2), (9, 5), (31, 3))
    },
    "setuid": [],
    "swaps": open("/proc/swaps").read().count("\n"),
}
for top in ("/usr", "/etc"):
    for folder, _, names in os.walk(top):
        for name in names:
            mode = os.lstat(os.path.join(folder, name)).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH):
                found["setuid"].append(os.path.join(folder, name))
print(json.dumps(found))
"""
)

FILES: Final = (
    COMMON
    + r"""
asked = json.load(sys.stdin)
print(json.dumps({
    "settings": {
        name: open("/proc/sys/" + name.replace(".", "/")).read().split() for name in asked["settings"]
    },
    "there": [path for pattern in asked["patterns"] for path in glob.glob("/" + pattern)],
    "programs": sorted(
        os.path.basename(path)
        for folder in ("/usr/bin", "/usr/sbin", "/usr/libexec")
        for path in glob.glob(folder + "/*")
        if not os.path.isdir(path)
    ),
    "modules": [line.split()[0] for line in open("/proc/modules")],
}))
"""
)

SANDBOXED: Final = (
    COMMON
    + r"""
status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
own = os.getpid()
print(json.dumps({
    "privileges": status["CapBnd"], "effective": status["CapEff"],
    "nnp": status["NoNewPrivs"], "seccomp": status["Seccomp"], "user": os.getuid(),
    "write": {path: wrote(path + "/.attack") for path in sys.argv[1].split()},
    "disk": opened("/dev/vda", os.O_RDONLY),
    "tpm": opened("/dev/tpmrm0", os.O_RDWR), "raw tpm": opened("/dev/tpm0", os.O_RDWR),
    "kernel setting": wrote("/proc/sys/kernel/panic", os.O_WRONLY),
    "security switch": wrote("/sys/kernel/security/ipe/enforce", os.O_WRONLY),
    "esp": attempt(lambda: len(os.listdir("/boot"))),
    "families": {name: sock(getattr(socket, name), kind) for name, kind in (
        ("AF_INET", 1), ("AF_INET6", 1), ("AF_UNIX", 1), ("AF_NETLINK", 3), ("AF_PACKET", 3), ("AF_ALG", 5))},
    "interfaces": sorted(line.split(":")[0].strip() for line in open("/proc/self/net/dev").readlines()[2:]),
    "run": ran("/tmp"), "setuid": ran("/tmp", 0o4755), "tmp": os.listdir("/tmp"),
    "written memory": written_memory(),
    "others": len([name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (own, os.getppid())]),
    "namespaces": {name: call(UNSHARE, flag) for name, flag in (("user", NEWUSER), ("mount", NEWNS), ("net", NEWNET))},
    "mount": call(MOUNT, b"tmpfs", b"/tmp", b"tmpfs", 0, None),
    "module": call(INIT_MODULE, b"", 0, b""), "bpf": call(BPF, 5, buffer(), 128), "keyring": call(KEYCTL, 0, -3, 0),
    "trace": call(PTRACE, 16, 1, 0, 0), "io_uring": call(IO_URING, 4, buffer()),
    "variables": sorted(set(os.environ) & {"LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "SSLKEYLOGFILE"}),
}))
"""
)
