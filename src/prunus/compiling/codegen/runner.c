/* What runs the steps: samples in blocks or singly, on one thread or several. */

typedef struct {
    const char *weights;
    real *work;
    const real *const *inputs;
    real *const *outputs;
    long batch;
    long blocks;  /* samples from here on are computed singly */
    long tasks;
    long *begun;  /* of each thread's share of the tasks, how many somebody has begun */
    long arrived; /* threads that wait for the others */
    long round;
    long nonfinite; /* the output of a contraction that was to read an infinity or NaN, counted from 1; 0 for none */
} prunus_job;

/* Remember a contraction whose weights that are left out may not be, where programs are made to look for such. */
static void prunus_look(prunus_job *job, long found) {
    if (found) __atomic_store_n(&job->nonfinite, found, __ATOMIC_RELAXED);
}

static void prunus_task(prunus_job *job, real *work, long task) {
    if (task < job->blocks) {
        const long sample = task * BLOCK, left = job->batch - sample;
        const long count = left < BLOCK ? left : BLOCK;
        block_load(job->inputs, work, sample, count);
        for (long step = 0; step < BLOCK_STEPS; ++step) {
            prunus_look(job, block_nonfinite(work, job->weights, step));
            block_steps[step](job->weights, work, 0, 1);
        }
        block_store(job->outputs, work, sample, count);
    } else {
        const long sample = job->blocks * BLOCK + task - job->blocks;
        single_load(job->inputs, work, sample, 1);
        for (long step = 0; step < SINGLE_STEPS; ++step) {
            prunus_look(job, single_nonfinite(work, job->weights, step));
            single_steps[step](job->weights, work, 0, 1);
        }
        single_store(job->outputs, work, sample, 1);
    }
}

/* Each thread does its share of the tasks, then what others have not begun of theirs: a thread that wakes late should
 * not find its share gone, since the one that took it would then do more than half. */
static void prunus_apart(void *argument, long part, long parts) {
    prunus_job *job = argument;
    real *work = job->work + part * WORKSPACE;
    for (long turn = 0; turn < parts; ++turn) {
        const long owner = (part + turn) % parts;
        const long first = job->tasks * owner / parts, last = job->tasks * (owner + 1) / parts;
        for (;;) {
            const long task = first + __atomic_fetch_add(&job->begun[owner], 1, __ATOMIC_RELAXED);
            if (task >= last) break;
            prunus_task(job, work, task);
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
        const int block = task < job->blocks;
        const long sample = block ? task * BLOCK : job->blocks * BLOCK + task - job->blocks;
        const long left = job->batch - sample, most = block ? BLOCK : 1, count = left < most ? left : most;
        const long steps = block ? BLOCK_STEPS : SINGLE_STEPS;
        if (part == 0) (block ? block_load : single_load)(job->inputs, job->work, sample, count);
        prunus_meet(job, parts);
        for (long step = 0; step < steps; ++step) {
            if (part == 0) prunus_look(job, (block ? block_nonfinite : single_nonfinite)(job->work, job->weights, step));
            (block ? block_steps : single_steps)[step](job->weights, job->work, part, parts);
            prunus_meet(job, parts);
        }
        if (part == 0) (block ? block_store : single_store)(job->outputs, job->work, sample, count);
        prunus_meet(job, parts);
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

/* Compute a batch; return `nonfinite` of a job. */
long prunus_run(const prunus_context *context, const real *const *inputs, real *const *outputs, long batch) {
    const long blocks = batch / BLOCK, left = batch % BLOCK, threads = context->threads;
    long begun[threads];
    prunus_job job = {context->weights, context->work, inputs, outputs, batch, blocks, blocks + left, begun, 0, 0, 0};
    for (long part = 0; part < threads; ++part) begun[part] = 0;
    if (left > context->most_single) job.tasks = ++job.blocks;
    if (context->share_steps && threads > job.tasks)
        prunus_share(prunus_together, &job, threads);
    else
        prunus_share(prunus_apart, &job, threads < job.tasks ? threads : job.tasks);
    return job.nonfinite;
}

/* Compute a batch of a model of one input and one output. */
long prunus_call(const prunus_context *context, const real *input, real *output, long batch) {
    return prunus_run(context, &input, &output, batch);
}

/* Compute one step repeatedly, for timing: of the block mode or the single one. */
void prunus_step(const prunus_context *context, long block, long step, long times) {
    for (long i = 0; i < times; ++i)
        (block ? block_steps : single_steps)[step](context->weights, context->work, 0, 1);
}
