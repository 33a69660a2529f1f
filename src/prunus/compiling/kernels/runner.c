/* What runs a program's steps: samples in blocks or one by one, on one thread or several. It knows no number type. */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>

/* A program: the steps for a block of samples, and those for one sample, of which the first load and the last store.
 *
 * work: a workspace for each thread, zeros the first time. most_single: if that many samples or fewer are left beside
 * whole blocks, they are computed one by one; if it is not less than a block, all samples are. share_steps: whether
 * several threads share the steps of one task where there are fewer tasks than threads.
 */
typedef struct {
    const char *constants;
    char *work;
    const prunus_step *block_steps, *single_steps;
    int64_t block_count, single_count, block, work_bytes, threads, most_single, share_steps;
} prunus_program;

typedef struct {
    const prunus_program *program;
    prunus_frame frame; /* of thread 0; the others have their own workspace */
    long batch;
    long blocks;  /* samples from here on are computed one by one */
    long tasks;
    long *begun;  /* of each thread's share of the tasks, how many somebody has begun */
    long arrived; /* threads that wait for the others */
    long round;
} prunus_job;

static prunus_frame prunus_frame_of(const prunus_job *job, long thread, long task) {
    const long block = job->program->block, is_block = task < job->blocks;
    prunus_frame frame = job->frame;
    frame.work = job->program->work + thread * job->program->work_bytes;
    frame.sample = is_block ? task * block : job->blocks * block + task - job->blocks;
    const long left = job->batch - frame.sample, most = is_block ? block : 1;
    frame.count = left < most ? left : most;
    return frame;
}

static void prunus_task(prunus_job *job, long thread, long task) {
    const prunus_frame frame = prunus_frame_of(job, thread, task);
    const long is_block = task < job->blocks;
    const prunus_step *step = is_block ? job->program->block_steps : job->program->single_steps;
    const prunus_step *end = step + (is_block ? job->program->block_count : job->program->single_count);
    for (; step < end; ++step) step->kernel(&frame, step->arguments, 0, 1);
}

/* Each thread does its share of the tasks, then what others have not begun of theirs: a thread that wakes late should
 * not find its share gone, since the one that took it would then do more than half. */
static void prunus_apart(void *argument, long part, long parts) {
    prunus_job *job = argument;
    for (long turn = 0; turn < parts; ++turn) {
        const long owner = (part + turn) % parts;
        const long first = job->tasks * owner / parts, last = job->tasks * (owner + 1) / parts;
        for (;;) {
            const long task = first + __atomic_fetch_add(&job->begun[owner], 1, __ATOMIC_RELAXED);
            if (task >= last) break;
            prunus_task(job, part, task);
        }
    }
}

static void prunus_meet(prunus_job *job, long parts) {
    const long round = __atomic_load_n(&job->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&job->arrived, 1, __ATOMIC_ACQ_REL) == parts) {
        __atomic_store_n(&job->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&job->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    for (long spins = 0; __atomic_load_n(&job->round, __ATOMIC_ACQUIRE) == round; ++spins)
        if (spins > 1000) sched_yield();
}

/* All threads share the outputs of each step. */
static void prunus_together(void *argument, long part, long parts) {
    prunus_job *job = argument;
    for (long task = 0; task < job->tasks; ++task) {
        const prunus_frame frame = prunus_frame_of(job, 0, task);
        const long is_block = task < job->blocks;
        const prunus_step *step = is_block ? job->program->block_steps : job->program->single_steps;
        const prunus_step *end = step + (is_block ? job->program->block_count : job->program->single_count);
        for (; step < end; ++step) {
            step->kernel(&frame, step->arguments, part, parts);
            prunus_meet(job, parts);
        }
    }
}

/* Threads that are made once and then wait for work; one call at a time has them, another meanwhile works alone. */
typedef void (*prunus_work)(void *argument, long part, long parts);

static struct {
    pthread_mutex_t taken, lock;
    pthread_cond_t wake;
    prunus_work work;
    void *argument;
    long parts;
    long threads; /* made so far, the caller's own left out */
    long round;
    long running;
} prunus_pool = {.taken = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void *prunus_thread(void *argument) {
    const long part = (long)(intptr_t)argument;
    long seen = 0;
    for (;;) {
        /* for about a tenth of a millisecond: a thread that sleeps takes longer than that to wake */
        for (long spins = 0; spins < 20000 && __atomic_load_n(&prunus_pool.round, __ATOMIC_ACQUIRE) == seen; ++spins)
            if (spins % 100 == 99) sched_yield();
        pthread_mutex_lock(&prunus_pool.lock);
        while (prunus_pool.round == seen) pthread_cond_wait(&prunus_pool.wake, &prunus_pool.lock);
        seen = prunus_pool.round;
        const prunus_work work = prunus_pool.work;
        void *const shared = prunus_pool.argument;
        const long parts = prunus_pool.parts;
        pthread_mutex_unlock(&prunus_pool.lock);
        if (part < parts) {
            work(shared, part, parts);
            __atomic_sub_fetch(&prunus_pool.running, 1, __ATOMIC_ACQ_REL);
        }
    }
    return NULL;
}

/* In a forked process only the thread that forked is left. */
static void prunus_forked(void) {
    pthread_mutex_init(&prunus_pool.taken, NULL);
    pthread_mutex_init(&prunus_pool.lock, NULL);
    pthread_cond_init(&prunus_pool.wake, NULL);
    prunus_pool.threads = prunus_pool.round = prunus_pool.running = 0;
}

static void prunus_share(prunus_work work, void *argument, long parts) {
    static int watched;
    if (parts < 2 || pthread_mutex_trylock(&prunus_pool.taken) != 0) {
        work(argument, 0, 1);
        return;
    }
    if (!watched) watched = pthread_atfork(NULL, NULL, prunus_forked) == 0;
    pthread_mutex_lock(&prunus_pool.lock);
    while (prunus_pool.threads < parts - 1) {
        pthread_t thread;
        /* a new thread has seen round 0, so it must be made before the round it is to work in begins */
        if (pthread_create(&thread, NULL, prunus_thread, (void *)(intptr_t)(prunus_pool.threads + 1)) != 0) break;
        pthread_detach(thread);
        ++prunus_pool.threads;
    }
    parts = prunus_pool.threads + 1 < parts ? prunus_pool.threads + 1 : parts;
    prunus_pool.work = work;
    prunus_pool.argument = argument;
    prunus_pool.parts = parts;
    __atomic_store_n(&prunus_pool.running, parts - 1, __ATOMIC_RELEASE);
    __atomic_add_fetch(&prunus_pool.round, 1, __ATOMIC_ACQ_REL);
    pthread_cond_broadcast(&prunus_pool.wake);
    pthread_mutex_unlock(&prunus_pool.lock);
    work(argument, 0, parts);
    for (long spins = 0; __atomic_load_n(&prunus_pool.running, __ATOMIC_ACQUIRE) != 0; ++spins)
        if (spins > 1000) sched_yield();
    pthread_mutex_unlock(&prunus_pool.taken);
}

/* Compute a batch. Returns 0; or the number of a layer, counted from 1, that was to read an infinity or NaN, where the
 * program looks for those; or less the number of one that was to look up a row that its table does not have. */
long prunus_run(const prunus_program *program, const void *const *inputs, void *const *outputs, long batch) {
    const long blocks = program->most_single < program->block ? batch / program->block : 0;
    const long left = batch - blocks * program->block, threads = program->threads;
    long begun[threads], refused = 0;
    prunus_job job = {.program = program, .batch = batch, .blocks = blocks, .tasks = blocks + left, .begun = begun};
    job.frame = (prunus_frame){program->constants, program->work, inputs, outputs, 0, 0, &refused};
    for (long part = 0; part < threads; ++part) begun[part] = 0;
    if (left > program->most_single) job.tasks = ++job.blocks;
    if (program->share_steps && threads > job.tasks)
        prunus_share(prunus_together, &job, threads);
    else
        prunus_share(prunus_apart, &job, threads < job.tasks ? threads : job.tasks);
    return refused;
}

/* Compute a batch of a model of one input and one output. */
long prunus_call(const prunus_program *program, const void *input, void *output, long batch) {
    return prunus_run(program, &input, &output, batch);
}

/* Compute a step repeatedly on one thread, for timing. */
void prunus_repeat(const char *constants, void *work, const prunus_step *step, long times) {
    long refused = 0;
    const prunus_frame frame = {constants, work, 0, 0, 0, 1, &refused};
    for (long i = 0; i < times; ++i) step->kernel(&frame, step->arguments, 0, 1);
}
