/* The threads of all kernels of a process: what TVM's generated code calls in the place of TVMBackendParallelLaunch.
 *
 * This file is linked into every kernel's library; the one that is loaded first serves them all (runtime/launcher.py).
 * A parallel loop is cut into tasks, and each thread has a range of its own, the same in every launch, so that it finds
 * its data in its caches; who is done takes from the others. So nobody waits for a thread that has not begun. Every second
 * launch of a loop goes through the ranges backwards: what a thread used last is what its cache still holds, where all that it
 * uses is somewhat too large for it.
 *
 * Short loops never leave the calling thread: help is called once PATIENCE has passed, or at once where the same loop took
 * longer before. Help is, in this order:
 *  - the team of an OpenMP runtime that is in the process already (PyTorch's). Its threads spin for some 15 ms after each
 *    of PyTorch's own parallel regions without ever yielding their cores: no other thread gets to run there;
 *  - workers of our own, shared by all callers, which spin for SPIN and then sleep.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <link.h>
#endif

#define EXPORT __attribute__((visibility("default")))

enum {
  MOST_THREADS = 256,
  SLOTS = 16,     /* callers that workers serve at the same time; others run alone */
  FINE = 64,      /* tasks of a loop on two threads; never less than LEAST for each of many */
  LEAST = 8,
  COARSE = 16,    /* tasks of a loop that was short the last time */
  MEMORY = 1024,  /* loops whose times are remembered, */
  WAYS = 4,       /* each in one of so many places */
  LARGE = 16,     /* calls on data of 2^LARGE bytes are not expected to be short */
  CACHE_LINE = 64
};

static const int64_t PATIENCE = 10 * 1000;     /* nanoseconds that a loop runs alone before help is called */
static const int64_t SHARE = 10 * 1000;        /* nanoseconds of work for which one more thread is worth calling */
static const int64_t SPIN = 1000 * 1000;       /* nanoseconds that a worker waits for the next loop before it sleeps */
static const int64_t STALL = 500 * 1000;       /* nanoseconds after the last task for which a team keeps its caller waiting */
static const int64_t PAUSE = 20 * 1000 * 1000; /* nanoseconds without the team after that; twice as many each time, to */
static const int64_t LONGEST_PAUSE = 1000 * 1000 * 1000;
static const int64_t POLITE = 20 * 1000;       /* nanoseconds of waiting before others are let onto the core */

typedef struct {
  void *sync_handle;
  int32_t num_task;
} Group; /* TVMParallelGroupEnv */

typedef int (*Task)(int id, Group *group, void *data); /* FTVMParallelLambda */

typedef struct {
  _Alignas(CACHE_LINE) atomic_int next;
  int end;
} Range;

typedef struct {
  Task task;
  void *data;
  int threads, each; /* ranges, and tasks of a range */
  bool back; /* every range from its last task on */
  int reach; /* the next power of two */
  unsigned control; /* rounding and flushing of the caller's floating-point unit, for all threads alike */
  Group group;
  _Atomic(int64_t) busy; /* nanoseconds of all threads together */
  _Atomic(int64_t) end; /* when the last task was done */
  atomic_int failed;
  _Atomic(void *) error; /* the error object of the first failure, which lies with the thread that it happened in */
  Range ranges[MOST_THREADS];
} Job;

/* A caller's place on the board. `state`: bit 63 open, bits 32.. helpers that came, bits 0.. helpers that are at work. */
typedef struct {
  _Alignas(CACHE_LINE) _Atomic(uint64_t) state;
  atomic_bool taken;
  _Atomic(Job *) job;
  atomic_int wanted;
} Slot;

static const uint64_t OPEN = UINT64_C(1) << 63, CAME = UINT64_C(1) << 32, LOW = UINT64_C(0xFFFFFFFF);

static Slot board[SLOTS];
static _Alignas(CACHE_LINE) _Atomic(uint32_t) posted; /* counts the jobs, so that waiting workers look at one line only */
static _Alignas(CACHE_LINE) atomic_int sleepers;
static atomic_int workers;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrival = PTHREAD_COND_INITIALIZER;

static __thread int limit = 1;        /* threads of this thread's calls */
static __thread int scale;            /* logarithm of the bytes that they are about */
static __thread bool inside;          /* at work on a task */
static __thread int last_way; /* for einfall_last */

enum { ALONE, OWN, OPENMP };

/* From TVM's FFI, which the process has loaded. */
extern void TVMFFIErrorMoveFromRaised(void **error) __attribute__((weak));
extern void TVMFFIErrorSetRaised(void *error) __attribute__((weak));

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static inline unsigned control_word(void) {
#if defined(__x86_64__)
  return __builtin_ia32_stmxcsr() & ~0x3Fu; /* without the flags of what has happened */
#elif defined(__aarch64__)
  uint64_t word;
  __asm__ volatile("mrs %0, fpcr" : "=r"(word));
  return (unsigned)word;
#else
  return 0;
#endif
}

static inline void set_control_word(unsigned word) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(word);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)word));
#else
  (void)word;
#endif
}

/* ---- tasks ------------------------------------------------------------------------------------------------------- */

static bool run(Job *job, int id) {
  if (job->back) id = (2 * (id / job->each) + 1) * job->each - 1 - id;
  if (job->task(id, &job->group, job->data) == 0) return true;
  void *error = NULL, *none = NULL;
  if (TVMFFIErrorMoveFromRaised) TVMFFIErrorMoveFromRaised(&error);
  atomic_compare_exchange_strong(&job->error, &none, error);
  atomic_store(&job->failed, 1);
  return false;
}

static void help(Job *job, int home) {
  unsigned before = control_word();
  if (before != job->control) set_control_word(job->control);
  inside = true;
  int64_t start = now();
  bool took = false;
  for (int away = 0; away < job->reach; ++away) {
    int at = home ^ away; /* a different order for each, so that they do not all fall upon the same range */
    if (at >= job->threads) continue;
    Range *range = &job->ranges[at];
    while (atomic_load_explicit(&range->next, memory_order_relaxed) < range->end) {
      int id = atomic_fetch_add_explicit(&range->next, 1, memory_order_relaxed);
      if (id >= range->end || atomic_load_explicit(&job->failed, memory_order_relaxed) || !run(job, id)) break;
      took = true;
    }
  }
  inside = false;
  if (took) {
    int64_t end = now(), last = atomic_load_explicit(&job->end, memory_order_relaxed);
    atomic_fetch_add_explicit(&job->busy, end - start, memory_order_relaxed);
    while (last < end && !atomic_compare_exchange_weak(&job->end, &last, end)) {}
  }
  if (before != job->control) set_control_word(before);
}

static void divide(Job *job, Task task, void *data, int threads, int each, bool back) {
  job->task = task;
  job->data = data;
  job->threads = threads;
  job->each = each;
  job->back = back;
  for (job->reach = 1; job->reach < threads;) job->reach *= 2;
  job->control = control_word();
  job->group.sync_handle = NULL;
  job->group.num_task = threads * each;
  atomic_init(&job->busy, 0);
  atomic_init(&job->end, 0);
  atomic_init(&job->failed, 0);
  atomic_init(&job->error, NULL);
  for (int i = 0; i < threads; ++i) {
    atomic_init(&job->ranges[i].next, i * each);
    job->ranges[i].end = (i + 1) * each;
  }
}

static int finish(Job *job) {
  if (!atomic_load(&job->failed)) return 0;
  void *error = atomic_load(&job->error);
  if (error && TVMFFIErrorSetRaised) TVMFFIErrorSetRaised(error);
  return -1;
}

/* ---- workers of our own -------------------------------------------------------------------------------------------- */

static void wake_one(void) {
  if (atomic_load(&sleepers) == 0) return;
  pthread_mutex_lock(&lock);
  pthread_cond_signal(&arrival);
  pthread_mutex_unlock(&lock);
}

static bool join(Slot *slot, int worker) {
  uint64_t state = atomic_load_explicit(&slot->state, memory_order_acquire);
  do {
    int wanted = atomic_load_explicit(&slot->wanted, memory_order_relaxed);
    if (!(state & OPEN) || (int)((state & ~OPEN) >> 32) >= wanted) return false;
  } while (!atomic_compare_exchange_weak_explicit(&slot->state, &state, state + CAME + 1, memory_order_acq_rel,
                                                  memory_order_acquire));
  /* The caller does not return while we are counted: from here its job stays where it is. */
  int came = (int)((state & ~OPEN) >> 32) + 1;
  if (came < atomic_load_explicit(&slot->wanted, memory_order_relaxed)) wake_one();
  Job *job = atomic_load_explicit(&slot->job, memory_order_relaxed);
  help(job, worker < job->threads ? worker : came < job->threads ? came : 0);
  atomic_fetch_sub_explicit(&slot->state, 1, memory_order_release);
  return true;
}

static void *work(void *argument) {
  int worker = (int)(intptr_t)argument;
  for (;;) {
    uint32_t seen = atomic_load(&posted);
    bool found = false;
    for (int i = 0; i < SLOTS; ++i) found |= join(&board[i], worker);
    if (found) continue;
    int64_t start = now();
    while (atomic_load_explicit(&posted, memory_order_relaxed) == seen) {
      for (int i = 0; i < 16; ++i) relax();
      int64_t waited = now() - start;
      if (waited > SPIN) break;
      if (waited > POLITE) sched_yield();
    }
    if (atomic_load(&posted) != seen) continue;
    pthread_mutex_lock(&lock);
    atomic_fetch_add(&sleepers, 1);
    while (atomic_load(&posted) == seen) pthread_cond_wait(&arrival, &lock);
    atomic_fetch_sub(&sleepers, 1);
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}

/* The child of a fork has none of the workers, and whatever they held. */
static bool forked;

static void begin_anew(void) {
  forked = true;
  memset(board, 0, sizeof board);
  atomic_store(&sleepers, 0);
  atomic_store(&workers, 0);
  pthread_mutex_init(&lock, NULL);
  pthread_cond_init(&arrival, NULL);
  inside = false;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, begin_anew); }

static int employ(int wanted) {
  int there = atomic_load_explicit(&workers, memory_order_relaxed);
  if (there >= wanted) return wanted;
  pthread_mutex_lock(&lock);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the threads of the program */
  while ((there = atomic_load(&workers)) < wanted) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, (void *)(intptr_t)(there + 1)) != 0) break;
    pthread_detach(thread);
    atomic_store(&workers, there + 1);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_mutex_unlock(&lock);
  return there;
}

static bool share(Job *job, int helpers) {
  helpers = employ(helpers);
  Slot *slot = NULL;
  for (int i = 0; i < SLOTS && !slot; ++i) {
    bool no = false;
    if (atomic_compare_exchange_strong(&board[i].taken, &no, true)) slot = &board[i];
  }
  if (!slot || helpers == 0) {
    help(job, 0);
    if (slot) atomic_store(&slot->taken, false);
    return false;
  }
  atomic_store_explicit(&slot->job, job, memory_order_relaxed);
  atomic_store_explicit(&slot->wanted, helpers, memory_order_relaxed);
  atomic_store_explicit(&slot->state, OPEN, memory_order_release);
  atomic_fetch_add(&posted, 1);
  wake_one();
  help(job, 0);
  atomic_fetch_and(&slot->state, ~OPEN); /* who has not come by now is not needed */
  int64_t start = 0;
  for (int turn = 0; (atomic_load_explicit(&slot->state, memory_order_acquire) & LOW) != 0; ++turn) {
    relax();
    if (turn % 64 == 63) {
      if (!start) start = now();
      else if (now() - start > POLITE) sched_yield();
    }
  }
  atomic_store_explicit(&slot->taken, false, memory_order_release);
  return true;
}

/* ---- an OpenMP runtime -------------------------------------------------------------------------------------------- */

static struct {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel, which LLVM's and Intel's runtime have too */
  int (*most)(void), (*number)(void), (*busy)(void);
} openmp;

#ifdef __linux__
static pthread_mutex_t search = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(unsigned long long) libraries; /* how many were ever loaded when we looked last */

typedef struct {
  unsigned long long seen, count;
  char path[1024];
} Search;

static int count_libraries(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  ((Search *)data)->count = info->dlpi_adds;
  return 1;
}

static int inspect_library(struct dl_phdr_info *info, size_t size, void *data) {
  static const char *const names[] = {"/libgomp", "/libiomp5", "/libomp."};
  Search *search = data;
  (void)size;
  for (int i = 0; i < 3; ++i)
    if (info->dlpi_name && strstr(info->dlpi_name, names[i]) && strlen(info->dlpi_name) < sizeof search->path) {
      strcpy(search->path, info->dlpi_name);
      return strstr(info->dlpi_name, "torch") != NULL; /* of several PyTorch's own */
    }
  return 0;
}

static void look_for_openmp(void) {
  Search found = {0};
  dl_iterate_phdr(count_libraries, &found);
  if (found.count == atomic_load_explicit(&libraries, memory_order_acquire) || pthread_mutex_trylock(&search) != 0) return;
  dl_iterate_phdr(inspect_library, &found);
  void *handle = found.path[0] ? dlopen(found.path, RTLD_LAZY | RTLD_NOLOAD) : NULL;
  if (handle) {
    void *symbols[] = {dlsym(handle, "GOMP_parallel"), dlsym(handle, "omp_get_max_threads"),
                       dlsym(handle, "omp_get_thread_num"), dlsym(handle, "omp_in_parallel")};
    if (symbols[0] && symbols[1] && symbols[2] && symbols[3]) {
      memcpy(&openmp.most, &symbols[1], sizeof(void *));
      memcpy(&openmp.number, &symbols[2], sizeof(void *));
      memcpy(&openmp.busy, &symbols[3], sizeof(void *));
      __atomic_store_n((void **)&openmp.parallel, symbols[0], __ATOMIC_RELEASE);
    }
  }
  atomic_store_explicit(&libraries, found.count, memory_order_release);
  pthread_mutex_unlock(&search);
}
#else
static void look_for_openmp(void) {}
#endif

static atomic_bool without_openmp;

static void team_work(void *data) {
  Job *job = data;
  int number = openmp.number();
  if (number < job->threads) help(job, number);
}

/* ---- what kernels call ---------------------------------------------------------------------------------------------- */

typedef struct {
  _Atomic(uintptr_t) key;
  _Atomic(int64_t) time; /* nanoseconds of the last launch, of all threads together */
  atomic_bool back;      /* whether it went through its ranges backwards */
} Memory;

static Memory *remember(Task task) {
  static Memory memory[MEMORY];
  uintptr_t key = (uintptr_t)task * 64 + (uintptr_t)scale;
  Memory *first = &memory[(key * UINT64_C(0x9E3779B97F4A7C15) >> 40) % (MEMORY / WAYS) * WAYS];
  for (int i = 0; i < WAYS; ++i) {
    uintptr_t found = atomic_load_explicit(&first[i].key, memory_order_relaxed);
    if (found == key) return &first[i];
    if (found == 0 || i == WAYS - 1) {
      atomic_store_explicit(&first[i].time, -1, memory_order_relaxed);
      atomic_store_explicit(&first[i].key, key, memory_order_relaxed);
      return &first[i];
    }
  }
  return first;
}

/* Tasks in order, on this thread alone, until none is left or PATIENCE has passed; whether some are left. */
static bool begin_alone(Job *job) {
  int64_t start = now(), passed = 0;
  bool left = false;
  inside = true;
  for (int i = 0; i < job->threads && !left; ++i) {
    Range *range = &job->ranges[i];
    int id = atomic_load_explicit(&range->next, memory_order_relaxed);
    for (; id < range->end && passed < PATIENCE && run(job, id); ++id) passed = now() - start;
    atomic_store_explicit(&range->next, id, memory_order_relaxed);
    left = id < range->end;
  }
  inside = false;
  atomic_store_explicit(&job->busy, passed, memory_order_relaxed);
  return left && !atomic_load(&job->failed);
}

/* Where other programs keep the cores busy, a team lets its caller wait for a thread that does not run, for a time slice of
 * the scheduler. Workers of our own are not waited for, so then they are the better choice. */
static _Atomic(int64_t) distrusted_until, distrust = PAUSE;

static void team(Job *job) {
  /* All of the team, even if we want fewer: a smaller one would end its other threads for good. */
  openmp.parallel(team_work, job, (unsigned)openmp.most(), 0);
  int64_t end = now(), last = atomic_load(&job->end);
  if (last && end - last > STALL) {
    int64_t next = atomic_load(&distrust);
    atomic_store(&distrusted_until, end + next);
    atomic_store(&distrust, 2 * next < LONGEST_PAUSE ? 2 * next : LONGEST_PAUSE);
  } else if (atomic_load_explicit(&distrust, memory_order_relaxed) != PAUSE) {
    atomic_store(&distrust, PAUSE);
  }
}

static bool team_is_there(int threads) {
  if (forked || atomic_load_explicit(&without_openmp, memory_order_relaxed)) return false;
  int64_t until = atomic_load_explicit(&distrusted_until, memory_order_relaxed);
  if (until && now() < until) return false;
  look_for_openmp();
  if (!__atomic_load_n((void **)&openmp.parallel, __ATOMIC_ACQUIRE)) return false;
  int most = openmp.most(); /* one for each core, or for each two hardware threads; or far fewer by the user's wish */
  return most > 1 && 2 * most >= threads && !openmp.busy();
}

EXPORT int einfall_launch(Task task, void *data, int num_task) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  int threads = limit;
  last_way = ALONE;
  if (num_task > 0 || threads <= 1 || inside) {
    Group alone = {NULL, num_task > 0 ? num_task : 1};
    for (int i = 0; i < alone.num_task; ++i)
      if (task(i, &alone, data) != 0) return -1;
    return 0;
  }
  Memory *memory = remember(task);
  int64_t expected = atomic_load_explicit(&memory->time, memory_order_relaxed); /* -1: unknown */
  bool brief = expected >= 0 && expected < PATIENCE;
  int ranges = brief && threads > COARSE ? COARSE : threads;
  int each = brief ? COARSE / ranges : FINE / ranges > LEAST ? FINE / ranges : LEAST;
  Job job;
  bool back = !brief && !atomic_load_explicit(&memory->back, memory_order_relaxed);
  atomic_store_explicit(&memory->back, back, memory_order_relaxed);
  divide(&job, task, data, ranges, each, back);
  if ((expected < 0 ? scale >= LARGE : !brief) || begin_alone(&job)) {
    pthread_once(&once, watch_forks);
    if (team_is_there(threads)) {
      last_way = OPENMP;
      team(&job);
    } else {
      int worth = expected < 0 || brief ? ranges : (int)(expected / SHARE < ranges ? expected / SHARE : ranges);
      last_way = share(&job, worth > 2 ? worth - 1 : 1) ? OWN : ALONE;
    }
  }
  atomic_store_explicit(&memory->time, atomic_load(&job.busy), memory_order_relaxed);
  return finish(&job);
}

/* The threads of the calls that the calling thread makes from now on, and above bit 16 the logarithm of the bytes that the
 * calls are about: a loop is only expected to take as long as it did in calls like this one. */
EXPORT void einfall_use(int setting) {
  int count = setting & 0xFFFF;
  limit = count < 1 ? 1 : count > MOST_THREADS ? MOST_THREADS : count;
  scale = setting >> 16 & 63;
}

/* Whether the OpenMP runtime of the process may be used. */
EXPORT void einfall_use_openmp(int yes) { atomic_store(&without_openmp, !yes); }

/* How the calling thread's last loop ran: 0 alone, 1 with workers of our own, 2 with an OpenMP team. */
EXPORT int einfall_last(void) { return last_way; }
