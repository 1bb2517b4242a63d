; The thread pool. One copy of this module lives in a process; runtime.py adds the parts that depend on the CPU (@pause,
; @futex_number) and tells the functions' contracts.
;
; A job is offered by opening @gate. Workers that come in time join it, by counting themselves in; each then takes chunks
; from @next until none is left. The caller takes chunks too, closes the gate, and waits only for those who joined. So a
; worker that wakes late finds the gate closed and touches nothing.
;
; @gate: bits 0-9 workers inside, 10-19 workers that have joined, 20-29 how many may join, 30 open. All in one word, so
; that joining a later job by a stale comparison is joining that job properly.

@lock = internal global i32 0, align 128        ; 1 while a job runs
@generation = internal global i32 0, align 128  ; counts jobs; sleeping workers wait for it to change
@sleepers = internal global i32 0, align 128
@gate = internal global i32 0, align 128
@next = internal global i64 0, align 128        ; the next chunk that nobody has taken
@started = internal global i64 0, align 128     ; workers of this process; the job's fields follow, on the same line
@fn = internal global ptr null
@context = internal global ptr null
@n = internal global i64 0
@chunks = internal global i64 0
@status = internal global i32 0, align 128

%Launch = type { ptr, ptr, ptr, ptr, i64 }  ; kernel, pointers, dims, scratch, bytes of scratch for each worker

declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)

define i32 @run_kernel(ptr %kernel, ptr %pointers, ptr %dims, ptr %scratch, i64 %scratch_bytes, i64 %n, i64 %threads) {
  %launch = alloca %Launch
  %alone = icmp sle i64 %threads, 1
  br i1 %alone, label %here, label %pool
here:
  %status = call i32 %kernel(ptr %pointers, ptr %dims, ptr %scratch, i64 0, i64 %n)
  ret i32 %status
pool:
  store ptr %kernel, ptr %launch
  %pointers_field = getelementptr %Launch, ptr %launch, i32 0, i32 1
  store ptr %pointers, ptr %pointers_field
  %dims_field = getelementptr %Launch, ptr %launch, i32 0, i32 2
  store ptr %dims, ptr %dims_field
  %scratch_field = getelementptr %Launch, ptr %launch, i32 0, i32 3
  store ptr %scratch, ptr %scratch_field
  %bytes_field = getelementptr %Launch, ptr %launch, i32 0, i32 4
  store i64 %scratch_bytes, ptr %bytes_field
  %pool_status = call i32 @parallel_for(ptr @run_part, ptr %launch, i64 %n, i64 %threads)
  ret i32 %pool_status
}

define internal i32 @run_part(ptr %launch, i64 %begin, i64 %end, i64 %worker) {
  %kernel = load ptr, ptr %launch
  %pointers_field = getelementptr %Launch, ptr %launch, i32 0, i32 1
  %pointers = load ptr, ptr %pointers_field
  %dims_field = getelementptr %Launch, ptr %launch, i32 0, i32 2
  %dims = load ptr, ptr %dims_field
  %scratch_field = getelementptr %Launch, ptr %launch, i32 0, i32 3
  %scratch = load ptr, ptr %scratch_field
  %bytes_field = getelementptr %Launch, ptr %launch, i32 0, i32 4
  %bytes = load i64, ptr %bytes_field
  %offset = mul i64 %worker, %bytes
  %own_scratch = getelementptr i8, ptr %scratch, i64 %offset
  %status = call i32 %kernel(ptr %pointers, ptr %dims, ptr %own_scratch, i64 %begin, i64 %end)
  ret i32 %status
}

define i32 @parallel_for(ptr %fn, ptr %context, i64 %n, i64 %threads) {
entry:
  %wanted = call i64 @llvm.smin.i64(i64 %threads, i64 512)
  %chunks = call i64 @llvm.smin.i64(i64 %n, i64 %wanted)
  %empty = icmp sle i64 %n, 0
  br i1 %empty, label %nothing, label %some
nothing:
  ret i32 0
some:
  %whole = icmp sle i64 %chunks, 1
  br i1 %whole, label %direct, label %many
direct:
  %direct_status = call i32 %fn(ptr %context, i64 0, i64 %n, i64 0)
  ret i32 %direct_status
many:
  %locked = cmpxchg ptr @lock, i32 0, i32 1 acquire monotonic
  %owner = extractvalue { i32, i1 } %locked, 1
  br i1 %owner, label %offer, label %inline
inline:  ; a nested call, or the pool is at another caller's service: the same chunks, one after the other
  %inline_status = call i32 @run_inline(ptr %fn, ptr %context, i64 %n, i64 %chunks)
  ret i32 %inline_status
offer:
  %others = sub i64 %chunks, 1
  call void @start_workers(i64 %others)
  %running = load i64, ptr @started
  %helpers = call i64 @llvm.umin.i64(i64 %others, i64 %running)
  store ptr %fn, ptr @fn
  store ptr %context, ptr @context
  store i64 %n, ptr @n
  store i64 %chunks, ptr @chunks
  store atomic i64 0, ptr @next monotonic, align 8
  store atomic i32 0, ptr @status monotonic, align 4
  %helpers32 = trunc i64 %helpers to i32
  %limit = shl i32 %helpers32, 20
  %opened = or i32 %limit, 1073741824
  store atomic i32 %opened, ptr @gate release, align 4
  atomicrmw add ptr @generation, i32 1 seq_cst
  %asleep = load atomic i32, ptr @sleepers seq_cst, align 4
  %some_asleep = icmp ne i32 %asleep, 0
  br i1 %some_asleep, label %wake, label %work
wake:
  %number = load i64, ptr @futex_number
  call i64 (i64, ...) @syscall(i64 %number, ptr @generation, i32 129, i32 %helpers32)  ; FUTEX_WAKE_PRIVATE
  br label %work
work:
  call void @take_chunks(i64 0)
  atomicrmw and ptr @gate, i32 -1073741825 acq_rel
  br label %wait
wait:
  %spins = phi i32 [ 0, %work ], [ %spins_next, %again ]
  %gate = load atomic i32, ptr @gate acquire, align 4
  %inside = and i32 %gate, 1023
  %finished = icmp eq i32 %inside, 0
  br i1 %finished, label %done, label %still
still:
  call void @pause()
  %spins_next = add i32 %spins, 1
  %patient = icmp ult i32 %spins_next, 4000
  br i1 %patient, label %again, label %yield
yield:  ; more threads than cores: let the worker have this one
  call i32 @sched_yield()
  br label %again
again:
  br label %wait
done:
  %status = load atomic i32, ptr @status monotonic, align 4
  store atomic i32 0, ptr @lock release, align 4
  ret i32 %status
}

define internal i64 @boundary(i64 %n, i64 %chunks, i64 %chunk) {
  %size = udiv i64 %n, %chunks
  %rest = urem i64 %n, %chunks
  %before = mul i64 %size, %chunk
  %longer = call i64 @llvm.umin.i64(i64 %chunk, i64 %rest)
  %at = add i64 %before, %longer
  ret i64 %at
}

define internal i32 @run_inline(ptr %fn, ptr %context, i64 %n, i64 %chunks) {
entry:
  br label %loop
loop:
  %chunk = phi i64 [ 0, %entry ], [ %following, %next ]
  %following = add i64 %chunk, 1
  %begin = call i64 @boundary(i64 %n, i64 %chunks, i64 %chunk)
  %end = call i64 @boundary(i64 %n, i64 %chunks, i64 %following)
  %status = call i32 %fn(ptr %context, i64 %begin, i64 %end, i64 0)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %done, label %next
next:
  %more = icmp ult i64 %following, %chunks
  br i1 %more, label %loop, label %done
done:
  ret i32 %status
}

define internal void @take_chunks(i64 %worker) {
entry:
  %fn = load ptr, ptr @fn
  %context = load ptr, ptr @context
  %n = load i64, ptr @n
  %chunks = load i64, ptr @chunks
  br label %loop
loop:
  %chunk = atomicrmw add ptr @next, i64 1 monotonic
  %left = icmp ult i64 %chunk, %chunks
  br i1 %left, label %check, label %done
check:
  %known = load atomic i32, ptr @status monotonic, align 4
  %fine = icmp eq i32 %known, 0
  br i1 %fine, label %run, label %done
run:
  %following = add i64 %chunk, 1
  %begin = call i64 @boundary(i64 %n, i64 %chunks, i64 %chunk)
  %end = call i64 @boundary(i64 %n, i64 %chunks, i64 %following)
  %status = call i32 %fn(ptr %context, i64 %begin, i64 %end, i64 %worker)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %report, label %loop
report:
  cmpxchg ptr @status, i32 0, i32 %status monotonic monotonic
  br label %loop
done:
  ret void
}

define internal void @start_workers(i64 %wanted) {
entry:
  %old_signals = alloca [128 x i8], align 16  ; a sigset_t
  %all_signals = alloca [128 x i8], align 16
  %thread = alloca i64
  %started = load i64, ptr @started
  %enough = icmp uge i64 %started, %wanted
  br i1 %enough, label %done, label %prepare
prepare:  ; signals are for Python's threads: workers inherit a mask that blocks all but those of their own faults
  call i32 @sigfillset(ptr %all_signals)
  call i32 @sigdelset(ptr %all_signals, i32 4)   ; SIGILL
  call i32 @sigdelset(ptr %all_signals, i32 7)   ; SIGBUS
  call i32 @sigdelset(ptr %all_signals, i32 8)   ; SIGFPE
  call i32 @sigdelset(ptr %all_signals, i32 11)  ; SIGSEGV
  call i32 @pthread_sigmask(i32 2, ptr %all_signals, ptr %old_signals)  ; SIG_SETMASK
  br label %loop
loop:
  %count = phi i64 [ %started, %prepare ], [ %grown, %created ]
  %more = icmp ult i64 %count, %wanted
  br i1 %more, label %create, label %restore
create:
  %error = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr null)
  %refused = icmp ne i32 %error, 0
  br i1 %refused, label %restore, label %created  ; with fewer workers the job is still done, more slowly
created:
  %id = load i64, ptr %thread
  call i32 @pthread_detach(i64 %id)
  %grown = add i64 %count, 1
  store i64 %grown, ptr @started
  br label %loop
restore:
  call i32 @pthread_sigmask(i32 2, ptr %old_signals, ptr null)
  br label %done
done:
  ret void
}

define internal ptr @worker(ptr %unused) {
entry:
  br label %look
look:  ; the generation is read before the gate: a job offered in between changes it, so no wait follows
  %seen = load atomic i32, ptr @generation acquire, align 4
  br label %try
try:
  %gate = load atomic i32, ptr @gate acquire, align 4
  %open_bit = and i32 %gate, 1073741824
  %open = icmp ne i32 %open_bit, 0
  %joined_shifted = lshr i32 %gate, 10
  %joined = and i32 %joined_shifted, 1023
  %limit_shifted = lshr i32 %gate, 20
  %limit = and i32 %limit_shifted, 1023
  %room = icmp ult i32 %joined, %limit
  %may = and i1 %open, %room
  br i1 %may, label %join, label %spin
join:
  %counted = add i32 %gate, 1025
  %joining = cmpxchg ptr @gate, i32 %gate, i32 %counted acq_rel monotonic
  %in = extractvalue { i32, i1 } %joining, 1
  br i1 %in, label %work, label %try
work:
  %before = zext i32 %joined to i64
  %index = add i64 %before, 1
  call void @take_chunks(i64 %index)
  atomicrmw sub ptr @gate, i32 1 release
  br label %spin
spin:
  %spins = phi i32 [ 0, %try ], [ 0, %work ], [ %spins_next, %patient ]
  %now = load atomic i32, ptr @generation acquire, align 4
  %same = icmp eq i32 %now, %seen
  br i1 %same, label %patient_check, label %look
patient_check:
  call void @pause()
  %spins_next = add i32 %spins, 1
  %tired = icmp uge i32 %spins_next, 1000
  br i1 %tired, label %sleep, label %patient
patient:
  br label %spin
sleep:
  atomicrmw add ptr @sleepers, i32 1 seq_cst
  %number = load i64, ptr @futex_number
  call i64 (i64, ...) @syscall(i64 %number, ptr @generation, i32 128, i32 %seen, ptr null)  ; FUTEX_WAIT_PRIVATE
  atomicrmw sub ptr @sleepers, i32 1 seq_cst
  br label %look
}

define void @reset_after_fork() {
  store i32 0, ptr @lock
  store i32 0, ptr @generation
  store i32 0, ptr @sleepers
  store i32 0, ptr @gate
  store i64 0, ptr @started
  ret void
}
