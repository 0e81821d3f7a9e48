// SPDX-License-Identifier: Apache-2.0
// An EFI program for tests: hands updates of variables to the firmware and tells on the serial line what it answers.
//
// It prints PCR 7, the firmware's event log, then a line for each update with the status, PCR 7 again, and all variables.
// Position independent and without writable data: it is linked to a flat binary, and tests/ovmf/probe.py adds the headers.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
#define EFI __attribute__((ms_abi))

struct guid { u32 a; u16 b, c; u8 d[8]; };

// UEFI 2.10, 4.3, 4.4, 4.5: places of the functions in the tables, counted in pointers.
enum { RUNTIME = 11, BOOT = 12 };
enum { GET_VARIABLE = 9, GET_NEXT_NAME = 10, SET_VARIABLE = 11, RESET = 13 };
enum { ALLOCATE_POOL = 8, LOCATE_PROTOCOL = 40 };
enum { GET_EVENT_LOG = 1, SUBMIT = 3 };

typedef EFI u64 (*get_variable)(const u16 *, const struct guid *, u32 *, u64 *, void *);
typedef EFI u64 (*get_next_name)(u64 *, u16 *, struct guid *);
typedef EFI u64 (*set_variable)(const u16 *, const struct guid *, u32, u64, const void *);
typedef EFI void (*reset)(u32, u64, u64, void *);
typedef EFI u64 (*allocate_pool)(u32, u64, void **);
typedef EFI u64 (*locate_protocol)(const struct guid *, void *, void ***);
typedef EFI u64 (*get_event_log)(void *, u32, u64 *, u64 *, u8 *);
typedef EFI u64 (*submit)(void *, u32, const u8 *, u32, u8 *);

extern const u8 cases[]; // count, then of each: variable, attributes, size (32 bits each) and the bytes

static void put(u8 c)
{
    u8 ready;
    do
        __asm__ volatile("inb %w1, %0" : "=a"(ready) : "dN"((u16)0x3fd));
    while (!(ready & 0x20));
    __asm__ volatile("outb %0, %w1" : : "a"(c), "dN"((u16)0x3f8));
}

static void text(const char *s)
{
    while (*s)
        put((u8)*s++);
}

static void digit(u8 v) { put(v < 10 ? '0' + v : 'a' + v - 10); }

static void hex(const u8 *data, u64 size)
{
    for (u64 i = 0; i < size; i++) {
        digit(data[i] >> 4);
        digit(data[i] & 15);
    }
}

static void number(u64 v)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        digit((v >> shift) & 15);
}

static u32 word(const u8 *at) { return at[0] | at[1] << 8 | at[2] << 16 | (u32)at[3] << 24; }

static void pcr7(void **tcg2)
{
    // TPM2_PCR_Read (TPM 2.0 part 3, 22.4) of SHA-256, PCR 7
    u8 command[] = {0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7e, 0, 0, 0, 1, 0, 0x0b, 3, 0x80, 0, 0};
    u8 answer[128];
    for (u32 i = 0; i < sizeof answer; i++)
        answer[i] = 0;
    u64 status = tcg2 ? ((submit)tcg2[SUBMIT])(tcg2, sizeof command, command, sizeof answer, answer) : 1;
    text("pcr7 ");
    number(status);
    put(' ');
    hex(answer + 30, 32);
    text("\r\n");
}

EFI u64 __attribute__((section(".text.start"))) start(void *image, void **table)
{
    (void)image;
    void **runtime = table[RUNTIME], **boot = table[BOOT], **tcg2 = 0;
    const struct guid global = {0x8be4df61, 0x93ca, 0x11d2, {0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c}};
    const struct guid database = {0xd719b2cb, 0x3d3a, 0x4596, {0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}};
    const struct guid tcg = {0x607f766c, 0x7455, 0x42be, {0x93, 0x0b, 0xe4, 0xd7, 0x6d, 0xb2, 0x72, 0x0f}};
    u16 names[4][4] = {{'P', 'K', 0}, {'K', 'E', 'K', 0}, {'d', 'b', 0}, {'d', 'b', 'x', 0}};
    void *pool = 0;
    text("\r\nprobe begins\r\n");
    if (((locate_protocol)boot[LOCATE_PROTOCOL])(&tcg, 0, &tcg2))
        tcg2 = 0;
    pcr7(tcg2);
    u64 log = 0, last = 0;
    u8 cut = 0;
    if (tcg2 && !((get_event_log)tcg2[GET_EVENT_LOG])(tcg2, 2, &log, &last, &cut) && last) {
        // The last entry begins at `last`; its size is in itself (TCG PC Client 1.06, 10.2.2), one digest of SHA-256 each
        const u8 *entry = (const u8 *)last;
        u32 count = word(entry + 8), at = 12;
        for (u32 i = 0; i < count; i++) {
            u16 algorithm = entry[at] | entry[at + 1] << 8;
            at += 2 + (algorithm == 4 ? 20 : algorithm == 11 ? 32 : algorithm == 12 ? 48 : 64);
        }
        text("log ");
        hex((const u8 *)log, last - log + at + 4 + word(entry + at));
        text("\r\n");
    }
    const u8 *at = cases + 4;
    for (u32 i = 0, count = word(cases); i < count; i++) {
        u32 variable = word(at) & 3, attributes = word(at + 4), size = word(at + 8);
        const struct guid *vendor = variable < 2 ? &global : &database;
        u64 status = ((set_variable)runtime[SET_VARIABLE])(names[variable], vendor, attributes, size, at + 12);
        text("case ");
        number(i);
        put(' ');
        number(status);
        text("\r\n");
        at += 12 + size;
    }
    pcr7(tcg2);
    const u64 room = 65536;
    if (!((allocate_pool)boot[ALLOCATE_POOL])(4, 2 * room, &pool)) {
        u16 *name = pool;
        u8 *data = (u8 *)pool + room;
        struct guid vendor = global;
        u64 size = room;
        name[0] = 0;
        while (!((get_next_name)runtime[GET_NEXT_NAME])(&size, name, &vendor)) {
            u32 attributes = 0;
            u64 length = room;
            if (!((get_variable)runtime[GET_VARIABLE])(name, &vendor, &attributes, &length, data)) {
                text("variable ");
                hex((const u8 *)name, size);
                put(' ');
                hex((const u8 *)&vendor, 16);
                put(' ');
                number(attributes);
                put(' ');
                hex(data, length);
                text("\r\n");
            }
            size = room;
        }
    }
    text("probe ends\r\n");
    ((reset)runtime[RESET])(2, 0, 0, 0);
    return 0;
}
