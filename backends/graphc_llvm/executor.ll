; The program walker: a program is a table of steps, which executor.py describes and fills in.

; kernel, slots, dims, slot count, n, scratch bytes, threads, whether to wake sleeping ones, loop, where the range begins.
; A loop's threads are those that share its short steps; a loop in a loop doesn't wake them.
%Step = type { ptr, ptr, ptr, i64, i64, i64, i32, i32, ptr, i64 }
%Slot = type { i64, i64 }                                ; index of a base address, offset in bytes
; steps, count, trips, reverse, slices, count, copies, count, whether there is a condition, its base and offset, what it must be
%Loop = type { ptr, i64, i64, i64, ptr, i64, ptr, i64, i64, i64, i64, i64 }
%Slice = type { i64, i64, i64, i64 }                     ; base that is set, base it is computed from, offset, stride
%Copy = type { i64, i64, i64, i64, i64 }                 ; target base and offset, source base and offset, bytes
%Time = type { i64, i64 }

declare i32 @clock_gettime(i32, ptr)
declare ptr @memmove(ptr, ptr, i64)

define internal i64 @nanoseconds() {
  %time = alloca %Time
  call i32 @clock_gettime(i32 1, ptr %time)
  %seconds = load i64, ptr %time
  %rest_field = getelementptr %Time, ptr %time, i32 0, i32 1
  %rest = load i64, ptr %rest_field
  %whole = mul i64 %seconds, 1000000000
  %sum = add i64 %whole, %rest
  ret i64 %sum
}

define internal ptr @address(ptr %bases, i64 %base, i64 %offset) alwaysinline {
  %slot = getelementptr ptr, ptr %bases, i64 %base
  %start = load ptr, ptr %slot
  %at = getelementptr i8, ptr %start, i64 %offset
  ret ptr %at
}

; Runs the steps in order; failed gets the number of the one that returned a status. With times, adds up each step's time.
define i32 @run_steps(ptr %bases, ptr %steps, i64 %count, ptr %scratch, ptr %failed, ptr %times) {
entry:
  %pointers = alloca [256 x ptr]
  %some = icmp sgt i64 %count, 0
  br i1 %some, label %step, label %done
step:
  %i = phi i64 [ 0, %entry ], [ %i_next, %finished ]
  %timed = icmp ne ptr %times, null
  br i1 %timed, label %clock, label %begin
clock:
  %started = call i64 @nanoseconds()
  br label %begin
begin:
  %start = phi i64 [ 0, %step ], [ %started, %clock ]
  %s = getelementptr %Step, ptr %steps, i64 %i
  %kernel = load ptr, ptr %s
  %slots_field = getelementptr %Step, ptr %s, i32 0, i32 1
  %slots = load ptr, ptr %slots_field
  %dims_field = getelementptr %Step, ptr %s, i32 0, i32 2
  %dims = load ptr, ptr %dims_field
  %slot_count_field = getelementptr %Step, ptr %s, i32 0, i32 3
  %slot_count = load i64, ptr %slot_count_field
  %n_field = getelementptr %Step, ptr %s, i32 0, i32 4
  %n = load i64, ptr %n_field
  %bytes_field = getelementptr %Step, ptr %s, i32 0, i32 5
  %bytes = load i64, ptr %bytes_field
  %threads_field = getelementptr %Step, ptr %s, i32 0, i32 6
  %threads32 = load i32, ptr %threads_field
  %threads = sext i32 %threads32 to i64
  %wake_field = getelementptr %Step, ptr %s, i32 0, i32 7
  %wake_flag = load i32, ptr %wake_field
  %wake = icmp ne i32 %wake_flag, 0
  %loop_field = getelementptr %Step, ptr %s, i32 0, i32 8
  %loop = load ptr, ptr %loop_field
  %from_field = getelementptr %Step, ptr %s, i32 0, i32 9
  %from = load i64, ptr %from_field
  %has_slots = icmp sgt i64 %slot_count, 0
  br i1 %has_slots, label %slot, label %dispatch
slot:
  %j = phi i64 [ 0, %begin ], [ %j_next, %slot ]
  %slot_at = getelementptr %Slot, ptr %slots, i64 %j
  %base = load i64, ptr %slot_at
  %offset_field = getelementptr %Slot, ptr %slot_at, i32 0, i32 1
  %offset = load i64, ptr %offset_field
  %pointer = call ptr @address(ptr %bases, i64 %base, i64 %offset)
  %pointer_at = getelementptr ptr, ptr %pointers, i64 %j
  store ptr %pointer, ptr %pointer_at
  %j_next = add i64 %j, 1
  %more_slots = icmp slt i64 %j_next, %slot_count
  br i1 %more_slots, label %slot, label %dispatch
dispatch:
  %is_loop = icmp ne ptr %loop, null
  br i1 %is_loop, label %iterate, label %plain
iterate:
  br i1 %wake, label %gather, label %repeat
gather:
  call void @call_workers(i64 %threads)
  br label %repeat
repeat:
  %loop_status = call i32 @run_loop(ptr %bases, ptr %loop, ptr %scratch)
  br label %check
plain:
  %is_copy = icmp eq ptr %kernel, null
  br i1 %is_copy, label %copy, label %launch
copy:
  %target = load ptr, ptr %pointers
  %source_at = getelementptr ptr, ptr %pointers, i64 1
  %source = load ptr, ptr %source_at
  call ptr @memmove(ptr %target, ptr %source, i64 %n)
  br label %check
launch:
  %launch_status = call i32 @share(ptr %kernel, ptr %pointers, ptr %dims, ptr %scratch, i64 %bytes, i64 %from, i64 %n, i64 %threads, i1 %wake)
  br label %check
check:
  %status = phi i32 [ %loop_status, %repeat ], [ 0, %copy ], [ %launch_status, %launch ]
  br i1 %timed, label %add, label %judge
add:
  %ended = call i64 @nanoseconds()
  %taken = sub i64 %ended, %start
  %time_at = getelementptr i64, ptr %times, i64 %i
  %before = load i64, ptr %time_at
  %total = add i64 %before, %taken
  store i64 %total, ptr %time_at
  br label %judge
judge:
  %bad = icmp ne i32 %status, 0
  br i1 %bad, label %fail, label %finished
fail:
  store i64 %i, ptr %failed
  ret i32 %status
finished:
  %i_next = add i64 %i, 1
  %more = icmp slt i64 %i_next, %count
  br i1 %more, label %step, label %done
done:
  ret i32 0
}

define internal i32 @run_loop(ptr %bases, ptr %loop, ptr %scratch) {
entry:
  %failed = alloca i64
  %steps = load ptr, ptr %loop
  %count_field = getelementptr %Loop, ptr %loop, i32 0, i32 1
  %count = load i64, ptr %count_field
  %trips_field = getelementptr %Loop, ptr %loop, i32 0, i32 2
  %trips = load i64, ptr %trips_field
  %reverse_field = getelementptr %Loop, ptr %loop, i32 0, i32 3
  %reverse = load i64, ptr %reverse_field
  %slices_field = getelementptr %Loop, ptr %loop, i32 0, i32 4
  %slices = load ptr, ptr %slices_field
  %slice_count_field = getelementptr %Loop, ptr %loop, i32 0, i32 5
  %slice_count = load i64, ptr %slice_count_field
  %copies_field = getelementptr %Loop, ptr %loop, i32 0, i32 6
  %copies = load ptr, ptr %copies_field
  %copy_count_field = getelementptr %Loop, ptr %loop, i32 0, i32 7
  %copy_count = load i64, ptr %copy_count_field
  %conditional_field = getelementptr %Loop, ptr %loop, i32 0, i32 8
  %conditional_flag = load i64, ptr %conditional_field
  %conditional = icmp ne i64 %conditional_flag, 0
  %condition_field = getelementptr %Loop, ptr %loop, i32 0, i32 9
  %condition = load i64, ptr %condition_field
  %condition_offset_field = getelementptr %Loop, ptr %loop, i32 0, i32 10
  %condition_offset = load i64, ptr %condition_offset_field
  %expected_field = getelementptr %Loop, ptr %loop, i32 0, i32 11
  %expected_flag = load i64, ptr %expected_field
  %expected = icmp ne i64 %expected_flag, 0
  %last = sub i64 %trips, 1
  %backwards = icmp ne i64 %reverse, 0
  %some = icmp sgt i64 %trips, 0
  br i1 %some, label %trip, label %done
trip:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  br i1 %conditional, label %ask, label %go
ask:
  %condition_at = call ptr @address(ptr %bases, i64 %condition, i64 %condition_offset)
  %byte = load i8, ptr %condition_at
  %truth = icmp ne i8 %byte, 0
  %holds = icmp eq i1 %truth, %expected
  br i1 %holds, label %go, label %done
go:
  %mirrored = sub i64 %last, %i
  %t = select i1 %backwards, i64 %mirrored, i64 %i
  %has_slices = icmp sgt i64 %slice_count, 0
  br i1 %has_slices, label %slice, label %run
slice:
  %j = phi i64 [ 0, %go ], [ %j_next, %slice ]
  %slice_at = getelementptr %Slice, ptr %slices, i64 %j
  %target = load i64, ptr %slice_at
  %source_field = getelementptr %Slice, ptr %slice_at, i32 0, i32 1
  %source = load i64, ptr %source_field
  %offset_field = getelementptr %Slice, ptr %slice_at, i32 0, i32 2
  %offset = load i64, ptr %offset_field
  %stride_field = getelementptr %Slice, ptr %slice_at, i32 0, i32 3
  %stride = load i64, ptr %stride_field
  %step = mul i64 %t, %stride
  %moved = add i64 %offset, %step
  %address = call ptr @address(ptr %bases, i64 %source, i64 %moved)
  %target_at = getelementptr ptr, ptr %bases, i64 %target
  store ptr %address, ptr %target_at
  %j_next = add i64 %j, 1
  %more_slices = icmp slt i64 %j_next, %slice_count
  br i1 %more_slices, label %slice, label %run
run:
  %status = call i32 @run_steps(ptr %bases, ptr %steps, i64 %count, ptr %scratch, ptr %failed, ptr null)
  %bad = icmp ne i32 %status, 0
  br i1 %bad, label %fail, label %carry
fail:
  ret i32 %status
carry:
  %has_copies = icmp sgt i64 %copy_count, 0
  br i1 %has_copies, label %copy, label %next
copy:
  %k = phi i64 [ 0, %carry ], [ %k_next, %copy ]
  %copy_at = getelementptr %Copy, ptr %copies, i64 %k
  %to = load i64, ptr %copy_at
  %to_offset_field = getelementptr %Copy, ptr %copy_at, i32 0, i32 1
  %to_offset = load i64, ptr %to_offset_field
  %from_field = getelementptr %Copy, ptr %copy_at, i32 0, i32 2
  %from = load i64, ptr %from_field
  %from_offset_field = getelementptr %Copy, ptr %copy_at, i32 0, i32 3
  %from_offset = load i64, ptr %from_offset_field
  %bytes_field = getelementptr %Copy, ptr %copy_at, i32 0, i32 4
  %bytes = load i64, ptr %bytes_field
  %to_at = call ptr @address(ptr %bases, i64 %to, i64 %to_offset)
  %from_at = call ptr @address(ptr %bases, i64 %from, i64 %from_offset)
  call ptr @memmove(ptr %to_at, ptr %from_at, i64 %bytes)
  %k_next = add i64 %k, 1
  %more_copies = icmp slt i64 %k_next, %copy_count
  br i1 %more_copies, label %copy, label %next
next:
  %i_next = add i64 %i, 1
  %more = icmp slt i64 %i_next, %trips
  br i1 %more, label %trip, label %done
done:
  ret i32 0
}
