; The thread pool. One copy of this module lives in a process; runtime.py adds the parts that depend on the CPU (@pause,
; @futex_number) and tells the functions' contracts.
;
; A job is a kernel's range in chunks. Offering one is writing its fields, then its ticket: bits 0-15 the next chunk that
; nobody has claimed, 16-31 the number of chunks, 32-63 a count of jobs. Whoever adds one to the ticket and sees a next
; chunk below their number has claimed it, of whichever job the ticket then is: a job's fields stay as they are until its
; chunks are all done, so they may be read after the claim, never before. Nobody joins a job or leaves it: who comes late
; claims nothing and is waited for by no one. A short job costs three passages of a cache line between two cores: the
; ticket there, the claim, and @done back.

; ticket, kernel, pointers, dims, scratch, bytes of scratch for each chunk, n, where the range begins: one cache line
%Job = type { i64, ptr, ptr, ptr, ptr, i64, i64, i64 }
%Part = type { ptr, ptr }  ; what parallel_for's kernel calls: a function and its context

@job = internal global %Job zeroinitializer, align 128
@done = internal global i64 0, align 128        ; chunks that workers have done, ever
@status = internal global i32 0, align 128      ; the job's first failure
@sleepers = internal global i32 0, align 128    ; no fewer than the workers that sleep until the count of jobs changes
@lock = internal global i32 0, align 128        ; 1 while a job runs
@started = internal global i64 0                ; workers of this process

declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @sigfillset(ptr)
declare i32 @sigdelset(ptr, i32)
declare i32 @llvm.umin.i32(i32, i32)
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)

define i32 @run_kernel(ptr %kernel, ptr %pointers, ptr %dims, ptr %scratch, i64 %scratch_bytes, i64 %n, i64 %threads) {
  %status = call i32 @share(ptr %kernel, ptr %pointers, ptr %dims, ptr %scratch, i64 %scratch_bytes, i64 0, i64 %n, i64 %threads, i1 true)
  ret i32 %status
}

define i32 @parallel_for(ptr %fn, ptr %context, i64 %n, i64 %threads) {
entry:
  %part = alloca %Part
  %empty = icmp sle i64 %n, 0
  br i1 %empty, label %nothing, label %some
nothing:
  ret i32 0
some:
  store ptr %fn, ptr %part
  %context_field = getelementptr %Part, ptr %part, i32 0, i32 1
  store ptr %context, ptr %context_field
  %status = call i32 @share(ptr @run_part, ptr %part, ptr null, ptr null, i64 1, i64 0, i64 %n, i64 %threads, i1 true)
  ret i32 %status
}

; A kernel that calls a function with its worker's number: scratch of a byte each, counted from null, is that number.
define internal i32 @run_part(ptr %part, ptr %dims, ptr %scratch, i64 %begin, i64 %end) {
  %fn = load ptr, ptr %part
  %context_field = getelementptr %Part, ptr %part, i32 0, i32 1
  %context = load ptr, ptr %context_field
  %worker = ptrtoint ptr %scratch to i64
  %status = call i32 %fn(ptr %context, i64 %begin, i64 %end, i64 %worker)
  ret i32 %status
}

; run_kernel over the %n from %from on; without %wake, workers that sleep are left asleep.
define internal i32 @share(ptr %kernel, ptr %pointers, ptr %dims, ptr %scratch, i64 %bytes, i64 %from, i64 %n, i64 %threads, i1 %wake) {
entry:
  %wanted = call i64 @llvm.smin.i64(i64 %threads, i64 512)
  %chunks = call i64 @llvm.smin.i64(i64 %n, i64 %wanted)
  %whole = icmp sle i64 %chunks, 1
  br i1 %whole, label %direct, label %many
direct:
  %to = add i64 %from, %n
  %direct_status = call i32 %kernel(ptr %pointers, ptr %dims, ptr %scratch, i64 %from, i64 %to)
  ret i32 %direct_status
many:
  %locked = cmpxchg ptr @lock, i32 0, i32 1 acquire monotonic
  %owner = extractvalue { i32, i1 } %locked, 1
  br i1 %owner, label %offer, label %inline
inline:  ; a nested call, or the pool is at another caller's service: the same chunks, one after the other
  %inline_status = call i32 @run_inline(ptr %kernel, ptr %pointers, ptr %dims, ptr %scratch, i64 %from, i64 %n, i64 %chunks)
  ret i32 %inline_status
offer:
  %others = sub i64 %chunks, 1
  call void @start_workers(i64 %others)
  store ptr %kernel, ptr getelementptr (%Job, ptr @job, i32 0, i32 1)
  store ptr %pointers, ptr getelementptr (%Job, ptr @job, i32 0, i32 2)
  store ptr %dims, ptr getelementptr (%Job, ptr @job, i32 0, i32 3)
  store ptr %scratch, ptr getelementptr (%Job, ptr @job, i32 0, i32 4)
  store i64 %bytes, ptr getelementptr (%Job, ptr @job, i32 0, i32 5)
  store i64 %n, ptr getelementptr (%Job, ptr @job, i32 0, i32 6)
  store i64 %from, ptr getelementptr (%Job, ptr @job, i32 0, i32 7)
  %done_before = load atomic i64, ptr @done monotonic, align 8
  %stale = load atomic i32, ptr @status monotonic, align 4
  %failed_before = icmp ne i32 %stale, 0
  br i1 %failed_before, label %clear, label %publish
clear:
  store atomic i32 0, ptr @status monotonic, align 4
  br label %publish
publish:
  %chunks_shifted = shl i64 %chunks, 16
  %places = or i64 %chunks_shifted, 1  ; the first chunk is the caller's
  %ticket = call i64 @next_job(i64 %places)
  br i1 %wake, label %rouse, label %quietly
rouse:
  %others32 = trunc i64 %others to i32
  call void @publish_and_wake(i64 %ticket, i32 %others32)
  br label %first
quietly:
  store atomic i64 %ticket, ptr @job release, align 8
  br label %first
first:
  %claimed = call i64 @do_chunks(i64 0, i64 %chunks)
  %outside = sub i64 %chunks, %claimed
  br label %wait
wait:
  %spins = phi i32 [ 0, %first ], [ %spins_next, %again ]
  %done_now = load atomic i64, ptr @done acquire, align 8
  %done_since = sub i64 %done_now, %done_before
  %finished = icmp eq i64 %done_since, %outside
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

; Has workers at hand for short jobs that follow, where nobody else has the pool.
define internal void @call_workers(i64 %threads) {
entry:
  %wanted = call i64 @llvm.smin.i64(i64 %threads, i64 512)
  %locked = cmpxchg ptr @lock, i32 0, i32 1 acquire monotonic
  %owner = extractvalue { i32, i1 } %locked, 1
  br i1 %owner, label %call, label %leave
call:
  %others = sub i64 %wanted, 1
  call void @start_workers(i64 %others)
  %ticket = call i64 @next_job(i64 0)
  %others32 = trunc i64 %others to i32
  call void @publish_and_wake(i64 %ticket, i32 %others32)
  store atomic i32 0, ptr @lock release, align 4
  br label %leave
leave:
  ret void
}

; The ticket of the job after this one, with %places in its lower half.
define internal i64 @next_job(i64 %places) {
  %before = load atomic i64, ptr @job monotonic, align 8
  %count = lshr i64 %before, 32
  %count_next = add i64 %count, 1
  %count_shifted = shl i64 %count_next, 32
  %ticket = or i64 %count_shifted, %places
  ret i64 %ticket
}

; A worker counts itself among the sleepers before it looks at the count of jobs for the last time; here the count changes
; before the sleepers are looked at. So one of the two sees the other.
define internal void @publish_and_wake(i64 %ticket, i32 %wanted) {
entry:
  atomicrmw xchg ptr @job, i64 %ticket seq_cst
  %asleep = load atomic i32, ptr @sleepers seq_cst, align 4
  %some_asleep = icmp ne i32 %asleep, 0
  br i1 %some_asleep, label %wake, label %done
wake:  ; they are sleepers no more from here on: until they run, jobs that follow needn't wake them again
  %woken = call i32 @llvm.umin.i32(i32 %asleep, i32 %wanted)
  atomicrmw sub ptr @sleepers, i32 %woken seq_cst
  %number = load i64, ptr @futex_number
  call i64 (i64, ...) @syscall(i64 %number, ptr getelementptr (i8, ptr @job, i64 4), i32 129, i32 %woken)  ; FUTEX_WAKE_PRIVATE
  br label %done
done:
  ret void
}

define internal i64 @boundary(i64 %from, i64 %n, i64 %chunks, i64 %chunk) {
  %size = udiv i64 %n, %chunks
  %rest = urem i64 %n, %chunks
  %before = mul i64 %size, %chunk
  %longer = call i64 @llvm.umin.i64(i64 %chunk, i64 %rest)
  %within = add i64 %before, %longer
  %at = add i64 %from, %within
  ret i64 %at
}

define internal i32 @run_inline(ptr %kernel, ptr %pointers, ptr %dims, ptr %scratch, i64 %from, i64 %n, i64 %chunks) {
entry:
  br label %loop
loop:
  %chunk = phi i64 [ 0, %entry ], [ %following, %next ]
  %following = add i64 %chunk, 1
  %begin = call i64 @boundary(i64 %from, i64 %n, i64 %chunks, i64 %chunk)
  %end = call i64 @boundary(i64 %from, i64 %n, i64 %chunks, i64 %following)
  %status = call i32 %kernel(ptr %pointers, ptr %dims, ptr %scratch, i64 %begin, i64 %end)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %done, label %next
next:
  %more = icmp ult i64 %following, %chunks
  br i1 %more, label %loop, label %done
done:
  ret i32 %status
}

; Does chunk %first of the job's %all, which the thread has claimed, then what others it can claim; returns how many.
define internal i64 @do_chunks(i64 %first, i64 %all) {
entry:
  %kernel = load ptr, ptr getelementptr (%Job, ptr @job, i32 0, i32 1)
  %pointers = load ptr, ptr getelementptr (%Job, ptr @job, i32 0, i32 2)
  %dims = load ptr, ptr getelementptr (%Job, ptr @job, i32 0, i32 3)
  %scratch = load ptr, ptr getelementptr (%Job, ptr @job, i32 0, i32 4)
  %bytes = load i64, ptr getelementptr (%Job, ptr @job, i32 0, i32 5)
  %n = load i64, ptr getelementptr (%Job, ptr @job, i32 0, i32 6)
  %from = load i64, ptr getelementptr (%Job, ptr @job, i32 0, i32 7)
  br label %loop
loop:
  %chunk = phi i64 [ %first, %entry ], [ %next, %claim ]
  %count = phi i64 [ 1, %entry ], [ %count_next, %claim ]
  %known = load atomic i32, ptr @status monotonic, align 4
  %fine = icmp eq i32 %known, 0
  br i1 %fine, label %run, label %look
run:
  %following = add i64 %chunk, 1
  %begin = call i64 @boundary(i64 %from, i64 %n, i64 %all, i64 %chunk)
  %end = call i64 @boundary(i64 %from, i64 %n, i64 %all, i64 %following)
  %offset = mul i64 %chunk, %bytes
  %own_scratch = getelementptr i8, ptr %scratch, i64 %offset
  %status = call i32 %kernel(ptr %pointers, ptr %dims, ptr %own_scratch, i64 %begin, i64 %end)
  %failed = icmp ne i32 %status, 0
  br i1 %failed, label %report, label %look
report:
  cmpxchg ptr @status, i32 0, i32 %status monotonic monotonic
  br label %look
look:  ; a thread that has a chunk not yet told as done knows that the job is still the same
  %seen = load atomic i64, ptr @job monotonic, align 8
  %left = call i1 @has_chunks(i64 %seen)
  br i1 %left, label %claim, label %done
claim:
  %ticket = atomicrmw add ptr @job, i64 1 monotonic
  %next = and i64 %ticket, 65535
  %count_next = add i64 %count, 1
  %got = call i1 @has_chunks(i64 %ticket)
  br i1 %got, label %loop, label %done
done:
  %total = phi i64 [ %count, %look ], [ %count, %claim ]
  ret i64 %total
}

define internal i1 @has_chunks(i64 %ticket) {
  %next = and i64 %ticket, 65535
  %shifted = lshr i64 %ticket, 16
  %all = and i64 %shifted, 65535
  %left = icmp ult i64 %next, %all
  ret i1 %left
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
look:
  %spins = phi i32 [ 0, %entry ], [ %spins_next, %spin ], [ 0, %sleep ], [ 0, %work ], [ 0, %claim ]
  %last = phi i64 [ 0, %entry ], [ %seen, %spin ], [ %seen, %sleep ], [ %ticket, %work ], [ %ticket, %claim ]
  %seen = load atomic i64, ptr @job monotonic, align 8
  %left = call i1 @has_chunks(i64 %seen)
  br i1 %left, label %claim, label %spin_or_sleep
claim:
  %ticket = atomicrmw add ptr @job, i64 1 acquire
  %chunk = and i64 %ticket, 65535
  %got = call i1 @has_chunks(i64 %ticket)
  br i1 %got, label %work, label %look
work:
  %shifted = lshr i64 %ticket, 16
  %all = and i64 %shifted, 65535
  %done = call i64 @do_chunks(i64 %chunk, i64 %all)
  atomicrmw add ptr @done, i64 %done release
  br label %look
spin_or_sleep:  ; where jobs come and go, one for this thread may be next
  %same = icmp eq i64 %seen, %last
  %spins_before = select i1 %same, i32 %spins, i32 0
  %spins_next = add i32 %spins_before, 1
  %tired = icmp uge i32 %spins_next, 3000
  br i1 %tired, label %sleep, label %spin
spin:
  call void @pause()
  br label %look
sleep:
  atomicrmw add ptr @sleepers, i32 1 seq_cst
  %number = load i64, ptr @futex_number
  %count_wide = lshr i64 %seen, 32
  %count = trunc i64 %count_wide to i32
  call i64 (i64, ...) @syscall(i64 %number, ptr getelementptr (i8, ptr @job, i64 4), i32 128, i32 %count, ptr null)  ; FUTEX_WAIT_PRIVATE
  br label %look
}

define void @reset_after_fork() {
  store i32 0, ptr @lock
  store i64 0, ptr @job
  store i32 0, ptr @sleepers
  store i64 0, ptr @started
  ret void
}
