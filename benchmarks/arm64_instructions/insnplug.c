/* A plugin of QEMU's user emulation (version 1 of its interface) that counts the AArch64 instructions a
 * program executes, by class and by function. For programs with one thread.
 *
 *     qemu-aarch64 -plugin insnplug.so,out=FILE PROGRAM
 *
 * FILE gets a line for each class, "class NAME COUNT", and each function, "symbol NAME COUNT".
 * The declarations stand here because Debian's qemu-user comes without its header.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*tb_callback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*exit_callback)(qemu_plugin_id_t, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_callback);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_callback, void *);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 1;

enum { ALL, DOT, MEMORY, SIMD, BRANCH, CLASSES };
static const char *const class_names[CLASSES] = {"all", "dot", "memory", "simd", "branch"};

struct block {
    uint64_t runs;
    uint64_t count[CLASSES];
    const char *symbol;
    struct block *next;
};

static struct block *blocks;
static char out_path[4096];

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    struct block *block = calloc(1, sizeof *block);
    size_t i, n = qemu_plugin_tb_n_insns(tb);
    (void)id;
    if (block == NULL) abort();
    for (i = 0; i < n; i++) {
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, i)), sizeof code);
        block->count[ALL]++;
        /* sdot and udot, by vector and by element */
        if ((code & 0x9f20fc00) == 0x0e009400 || (code & 0x9f00f400) == 0x0f00e000) block->count[DOT]++;
        if ((code & 0x0a000000) == 0x08000000) block->count[MEMORY]++;
        if ((code & 0x0e000000) == 0x0e000000) block->count[SIMD]++;
        if ((code & 0x1c000000) == 0x14000000) block->count[BRANCH]++;
    }
    block->symbol = n > 0 ? qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0)) : NULL;
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->runs, 1);
}

static int by_symbol(const void *a, const void *b) {
    const struct block *x = *(struct block *const *)a, *y = *(struct block *const *)b;
    return strcmp(x->symbol, y->symbol);
}

static void report(qemu_plugin_id_t id, void *data) {
    FILE *out = fopen(out_path, "w");
    uint64_t total[CLASSES] = {0};
    size_t count = 0, i = 0;
    struct block *block, **sorted;
    int c;
    (void)id;
    (void)data;
    if (out == NULL) {
        perror(out_path);
        return;
    }
    for (block = blocks; block != NULL; block = block->next, count++) {
        for (c = 0; c < CLASSES; c++) total[c] += block->runs * block->count[c];
        if (block->symbol == NULL) block->symbol = "?";
    }
    for (c = 0; c < CLASSES; c++)
        fprintf(out, "class %s %llu\n", class_names[c], (unsigned long long)total[c]);
    sorted = malloc((count + 1) * sizeof *sorted);
    if (sorted == NULL) abort();
    for (block = blocks; block != NULL; block = block->next) sorted[i++] = block;
    qsort(sorted, count, sizeof *sorted, by_symbol);
    for (i = 0; i < count;) {
        const char *symbol = sorted[i]->symbol;
        uint64_t sum = 0;
        for (; i < count && strcmp(sorted[i]->symbol, symbol) == 0; i++)
            sum += sorted[i]->runs * sorted[i]->count[ALL];
        fprintf(out, "symbol %s %llu\n", symbol, (unsigned long long)sum);
    }
    free(sorted);
    fclose(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || strlen(argv[0]) >= sizeof out_path) {
        fprintf(stderr, "insnplug: give out=FILE\n");
        return -1;
    }
    strcpy(out_path, argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_atexit_cb(id, report, NULL);
    return 0;
}
