/* Memory for tensors with a wall on both sides: reading or writing outside of a tensor, or after it was freed, is a
   segmentation fault. Preloaded by hostile_operations.py; Linux only.

   Each block ends where pages begin that can't be touched, or begins after them (`guard_at_start`), and is filled with
   `guard_poison`. When it is freed its pages are closed, and their addresses are not used again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define ARENA (1UL << 42)
#define LARGEST (1UL << 24) /* larger blocks come from the C library, without walls */

unsigned char guard_poison = 0x41;
int guard_on = 0;
int guard_at_start = 0;
uint64_t guard_most = 1UL << 30; /* a larger block is refused */

static char *arena, *next;

static int (*real_memalign)(void **, size_t, size_t);
static void (*real_free)(void *);

__attribute__((constructor)) static void prepare(void) {
    if (real_memalign) return;
    real_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    real_memalign = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    char *start = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start != MAP_FAILED) arena = next = start;
}

/* A block: a page that holds how many pages the data take, a closed page, the data, a closed page. */
int posix_memalign(void **result, size_t alignment, size_t size) {
    prepare();
    if (size > guard_most) return ENOMEM;
    if (!guard_on || !arena || size > LARGEST) return real_memalign(result, alignment, size);
    size += size == 0;
    size_t pages = (size + PAGE - 1) / PAGE;
    char *block = __atomic_fetch_add(&next, (pages + 3) * PAGE, __ATOMIC_RELAXED);
    char *data = block + 2 * PAGE;
    if (data + (pages + 1) * PAGE > arena + ARENA) return ENOMEM;
    if (mprotect(block, PAGE, PROT_READ | PROT_WRITE)) return ENOMEM;
    if (mprotect(data, pages * PAGE, PROT_READ | PROT_WRITE)) return ENOMEM;
    *(size_t *)block = pages;
    memset(data, guard_poison, pages * PAGE);
    *result = guard_at_start ? data : data + pages * PAGE - size; /* in the first page of the data either way */
    return 0;
}

void free(void *pointer) {
    char *place = pointer;
    if (arena && place >= arena && place < arena + ARENA) {
        char *block = (char *)((uintptr_t)place & ~(PAGE - 1)) - 2 * PAGE;
        size_t length = (*(size_t *)block + 2) * PAGE;
        mmap(block, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    } else if (real_free) {
        real_free(pointer);
    }
}
