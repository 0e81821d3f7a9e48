/* SPDX-License-Identifier: Apache-2.0
 *
 * The Python of a box: it stands where Debian's python3.13 would stand, and is the only interpreter of an image.
 *
 * The kernel's policy (IPE) sees programs and libraries that are mapped for execution. A script is only read, so to the
 * kernel it is data. This program closes that gap with what PEP 578 gives:
 *
 *  - It is always isolated (-I), and its environment is that of the product (venv), whatever it is called by.
 *  - It runs modules of the product (-m appliance...) and nothing else: no file, no -c, no standard input, no prompt; and
 *    no other module, for some of the standard library run what they are given (timeit, pickle, pdb). Called by the name
 *    `bsfg` it runs the product's command line.
 *  - Each file that Python takes code from is opened here, and only if the kernel would also run it as a program: it is
 *    mapped as one (IPE judges that), and it must lie on the device that this program itself lies on, erofs and read-only.
 *    The check is made on the very descriptor that is read from, so nothing can be exchanged in between.
 *  - Byte code without a source is opened so by Debian's Python 3.13 and not by older ones: in any other way it is never read.
 *
 * All hooks are set before Python is initialised, in C; Python has no call that takes them away. What they cannot prevent:
 * code that already runs in a process can exec() what it reads, and with ctypes change the process itself.
 *
 * Build settings: BSFG_PYTHON, the interpreter's path in the venv. BSFG_SIMULATED_ROOT is for tests on a machine whose
 * system is not erofs: the device counts, its kind does not.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <wchar.h>

#ifndef BSFG_PYTHON
#define BSFG_PYTHON "/usr/lib/bsfg/venv/bin/python"
#endif
#define PRODUCT L"appliance"
#define COMMAND "bsfg"
#define COMMAND_MODULE "appliance.cli"
#define REFUSED 126 /* as a shell says it of what may not be executed */
#define EROFS_MAGIC 0xE0F5E1E2

static dev_t system_device; /* of this program, and so of the verity root: IPE does not run it from anywhere else */

static const char *const refused_events[] = {
    "cpython.run_command", "cpython.run_file", "cpython.run_interactivehook", "cpython.run_startup", "cpython.run_stdin",
};

/* Whether an open file is one of the signed system. */
static int is_signed(int file)
{
    struct stat state;
    if (fstat(file, &state) < 0 || !S_ISREG(state.st_mode))
        return 0;
    void *as_program = mmap(NULL, 1, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0); /* works for an empty file, too */
    if (as_program == MAP_FAILED)
        return 0;
    munmap(as_program, 1);
#ifndef BSFG_SIMULATED_ROOT
    struct statfs system;
    if (fstatfs(file, &system) < 0 || (unsigned long)system.f_type != EROFS_MAGIC || !(system.f_flags & ST_RDONLY))
        return 0;
#endif
    return state.st_dev == system_device;
}

/* io.open_code: sources, byte code, .pth files, zip archives. `path` is a str. */
static PyObject *open_code(PyObject *path, void *unused)
{
    (void)unused;
    PyObject *name = NULL;
    if (!PyUnicode_FSConverter(path, &name))
        return NULL;
    int file = open(PyBytes_AS_STRING(name), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (file < 0)
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    Py_DECREF(name);
    if (file < 0)
        return NULL;
    if (!is_signed(file)) {
        close(file);
        PyObject *error = Py_BuildValue("(isO)", EACCES, "refused, not a file of the signed system", path);
        if (error != NULL) {
            PyErr_SetObject(PyExc_PermissionError, error);
            Py_DECREF(error);
        }
        return NULL;
    }
    PyObject *io = PyImport_ImportModule("_io"); /* what Python itself does here; "io" may not be there yet */
    PyObject *opened = io ? PyObject_CallMethod(io, "open", "is", file, "rb") : NULL;
    Py_XDECREF(io);
    if (opened == NULL)
        close(file);
    return opened;
}

/* Whether a file's name, str or bytes, is that of byte code. */
static int is_byte_code(PyObject *name)
{
    const char *text = NULL;
    if (PyUnicode_Check(name))
        text = PyUnicode_AsUTF8(name);
    else if (PyBytes_Check(name))
        text = PyBytes_AS_STRING(name);
    if (text == NULL) { /* a descriptor's number, or a name that is not UTF-8 and so none of a module */
        PyErr_Clear();
        return 0;
    }
    size_t length = strlen(text);
    return length >= 4 && strcmp(text + length - 4, ".pyc") == 0;
}

/* The audit hook. main() has refused these already; this is for another way to them in a later Python. */
static int on_event(const char *event, PyObject *arguments, void *unused)
{
    (void)unused;
    if (strcmp(event, "open") == 0) { /* not raised for what open_code() above opens */
        if (PyTuple_Check(arguments) && PyTuple_GET_SIZE(arguments) > 0 && is_byte_code(PyTuple_GET_ITEM(arguments, 0))) {
            PyErr_Format(PyExc_PermissionError, "refused, byte code without a source: %R", PyTuple_GET_ITEM(arguments, 0));
            return -1;
        }
        return 0;
    }
    for (size_t each = 0; each < sizeof refused_events / sizeof *refused_events; each++)
        if (strcmp(event, refused_events[each]) == 0) {
            PyErr_Format(PyExc_PermissionError, "refused: %s", event);
            return -1;
        }
    return 0;
}

/* What of a command line this Python does not run; NULL: it runs it. */
static const wchar_t *refused(const PyConfig *config)
{
    if (config->run_command != NULL)
        return L"-c";
    if (config->run_filename != NULL)
        return config->run_filename;
    if (config->run_module == NULL)
        return L"standard input";
    if (config->inspect || config->interactive)
        return L"-i";
    size_t length = wcslen(PRODUCT);
    wchar_t after = wcsncmp(config->run_module, PRODUCT, length) == 0 ? config->run_module[length] : L'?';
    return after == L'\0' || after == L'.' ? NULL : config->run_module;
}

/* Write a word of the command line as it was given, on one line. Python has no function for it before it is initialised. */
static void say(const wchar_t *text)
{
    char bytes[MB_LEN_MAX];
    for (; *text != L'\0'; text++) {
        int length = wctomb(bytes, *text);
        if (*text >= 0xDC80 && *text <= 0xDCFF) /* a byte that was no text */
            fputc((int)(*text & 0xFF), stderr);
        else if (length > 0 && *text >= L' ')
            fwrite(bytes, 1, (size_t)length, stderr);
        else
            fputc('?', stderr);
    }
}

static void check(PyStatus status)
{
    if (PyStatus_Exception(status)) /* also for -V and -h, which end well */
        Py_ExitStatusException(status);
}

int main(int argc, char **argv)
{
    const char *name = argc > 0 && strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argc > 0 ? argv[0] : "";
    const char *start[] = {BSFG_PYTHON, "-I", "-B", "-m", COMMAND_MODULE};
    size_t options = strcmp(name, COMMAND) == 0 ? sizeof start / sizeof *start : 1;
    char **words = calloc(options + (size_t)argc + 1, sizeof *words);
    struct stat self;
    if (words == NULL || stat("/proc/self/exe", &self) < 0) {
        perror("python: refused: this program's own file");
        return REFUSED;
    }
    system_device = self.st_dev;
    memcpy(words, start, options * sizeof *words);
    for (int each = 1; each < argc; each++)
        words[options + (size_t)each - 1] = argv[each];
    Py_ssize_t count = (Py_ssize_t)options + (argc > 0 ? argc - 1 : 0);

    if (PySys_AddAuditHook(on_event, NULL) < 0 || PyFile_SetOpenCodeHook(open_code, NULL) < 0) {
        fputs("python: refused: the hooks could not be set\n", stderr);
        return REFUSED;
    }
    /* One heap for all threads, which take turns anyway: a heap for each keeps what its thread once needed. */
    mallopt(M_ARENA_MAX, 1);
    PyPreConfig before;
    PyPreConfig_InitPythonConfig(&before);
    before.isolated = 1;
    before.use_environment = 0;
    check(Py_PreInitializeFromBytesArgs(&before, count, words));

    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.isolated = 1;
    config.use_environment = 0;
    config.write_bytecode = 0; /* -B: there is nowhere to write it */
    check(PyConfig_SetBytesString(&config, &config.program_name, BSFG_PYTHON));
    check(PyConfig_SetBytesString(&config, &config.executable, BSFG_PYTHON));
    check(PyConfig_SetBytesArgv(&config, count, words));
    check(PyConfig_Read(&config));
    const wchar_t *what = refused(&config);
    if (what != NULL) {
        fputs("python: refused: ", stderr);
        say(what);
        fputs(": only modules of the product run here (-m appliance...)\n", stderr);
        return REFUSED;
    }
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    free(words);
    return Py_RunMain();
}
