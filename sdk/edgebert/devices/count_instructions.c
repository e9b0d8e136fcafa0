/* A plugin of QEMU's user emulation (version 1 of its interface) that counts the AArch64 instructions a
 * program executes, by class and by function, in all its threads.
 *
 *     qemu-aarch64 -plugin count_instructions.so,out=FILE PROGRAM
 *
 * FILE gets a line for each class, "class NAME COUNT", and each function, "symbol NAME COUNT". Where the
 * program executes `hint #42`, which no CPU gives a meaning, only what follows it up to `hint #43`, or the
 * program's end, is counted; several such regions add up.
 * The declarations stand here because Debian's qemu-user comes without its header.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*tb_callback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*run_callback)(unsigned int, void *);
typedef void (*exit_callback)(qemu_plugin_id_t, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_callback);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, run_callback, enum qemu_plugin_cb_flags,
                                          void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, run_callback,
                                            enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_callback, void *);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 1;

enum { ALL, DOT, MMLA, MEMORY, SIMD, BRANCH, CLASSES };
static const char *const class_names[CLASSES] = {"all", "dot", "mmla", "memory", "simd", "branch"};
enum { REGION_START = 0xd503255f, REGION_END = 0xd503257f }; /* hint #42, hint #43 */

/* Translated code: entered once, it executes `count` instructions. */
struct block {
    uint64_t runs;
    uint64_t runs_at_start; /* of the present region */
    uint64_t runs_inside;   /* of the regions before it */
    int64_t correction[CLASSES];
    uint64_t count[CLASSES];
    const char *symbol;
    struct block *next;
};

/* A hint within a block: what the block executes after it. */
struct edge {
    struct block *block;
    uint64_t after[CLASSES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks;
static bool had_region, inside;
static char out_path[4096];

static void *allocate(size_t size) {
    void *memory = calloc(1, size);
    if (memory == NULL) abort();
    return memory;
}

static uint64_t runs_of(struct block *block) { return __atomic_load_n(&block->runs, __ATOMIC_RELAXED); }

static void on_block(unsigned int cpu, void *data) {
    (void)cpu;
    __atomic_fetch_add(&((struct block *)data)->runs, 1, __ATOMIC_RELAXED);
}

static void on_region_start(unsigned int cpu, void *data) {
    struct edge *edge = data;
    struct block *block;
    int c;
    (void)cpu;
    pthread_mutex_lock(&lock);
    if (!inside) {
        had_region = inside = true;
        for (block = blocks; block != NULL; block = block->next) block->runs_at_start = runs_of(block);
        /* this run of the block began before the region */
        for (c = 0; c < CLASSES; c++) edge->block->correction[c] += (int64_t)edge->after[c];
    }
    pthread_mutex_unlock(&lock);
}

static void close_region(void) {
    struct block *block;
    for (block = blocks; block != NULL; block = block->next)
        block->runs_inside += runs_of(block) - block->runs_at_start;
    inside = false;
}

static void on_region_end(unsigned int cpu, void *data) {
    struct edge *edge = data;
    int c;
    (void)cpu;
    pthread_mutex_lock(&lock);
    if (inside) {
        close_region();
        for (c = 0; c < CLASSES; c++) edge->block->correction[c] -= (int64_t)edge->after[c];
        edge->block->correction[ALL]--; /* the hint itself */
    }
    pthread_mutex_unlock(&lock);
}

static void classify(uint32_t code, uint64_t count[CLASSES]) {
    count[ALL]++;
    /* sdot and udot, by vector and by element */
    if ((code & 0x9f20fc00) == 0x0e009400 || (code & 0x9f00f400) == 0x0f00e000) count[DOT]++;
    /* smmla, ummla, usmmla */
    if ((code & 0xdfe0f400) == 0x4e80a400) count[MMLA]++;
    if ((code & 0x0a000000) == 0x08000000) count[MEMORY]++;
    if ((code & 0x0e000000) == 0x0e000000) count[SIMD]++;
    if ((code & 0x1c000000) == 0x14000000) count[BRANCH]++;
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    struct block *block = allocate(sizeof *block);
    size_t i, n = qemu_plugin_tb_n_insns(tb);
    (void)id;
    /* backwards, so that the counts at a hint are those of what comes after it */
    for (i = n; i-- > 0;) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(insn), sizeof code);
        if (code == REGION_START || code == REGION_END) {
            struct edge *edge = allocate(sizeof *edge);
            edge->block = block;
            memcpy(edge->after, block->count, sizeof edge->after);
            qemu_plugin_register_vcpu_insn_exec_cb(
                insn, code == REGION_START ? on_region_start : on_region_end, QEMU_PLUGIN_CB_NO_REGS, edge);
        }
        classify(code, block->count);
    }
    block->symbol = n > 0 ? qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0)) : NULL;
    pthread_mutex_lock(&lock);
    block->next = blocks;
    blocks = block;
    pthread_mutex_unlock(&lock);
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
}

static uint64_t counted(struct block *block, int c) {
    if (!had_region) return runs_of(block) * block->count[c];
    return block->runs_inside * block->count[c] + (uint64_t)block->correction[c];
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
    pthread_mutex_lock(&lock);
    if (inside) close_region();
    for (block = blocks; block != NULL; block = block->next, count++) {
        for (c = 0; c < CLASSES; c++) total[c] += counted(block, c);
        if (block->symbol == NULL) block->symbol = "?";
    }
    for (c = 0; c < CLASSES; c++)
        fprintf(out, "class %s %llu\n", class_names[c], (unsigned long long)total[c]);
    sorted = allocate((count + 1) * sizeof *sorted);
    for (block = blocks; block != NULL; block = block->next) sorted[i++] = block;
    qsort(sorted, count, sizeof *sorted, by_symbol);
    for (i = 0; i < count;) {
        const char *symbol = sorted[i]->symbol;
        uint64_t sum = 0;
        for (; i < count && strcmp(sorted[i]->symbol, symbol) == 0; i++) sum += counted(sorted[i], ALL);
        if (sum > 0) fprintf(out, "symbol %s %llu\n", symbol, (unsigned long long)sum);
    }
    free(sorted);
    pthread_mutex_unlock(&lock);
    fclose(out);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info;
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || strlen(argv[0]) >= sizeof out_path) {
        fprintf(stderr, "count_instructions: give out=FILE\n");
        return -1;
    }
    strcpy(out_path, argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_atexit_cb(id, report, NULL);
    return 0;
}
