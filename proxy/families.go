package proxy

// The types of metrics.
const (
	counter       = "counter"
	gauge         = "gauge"
	histogramKind = "histogram"
	summaryKind   = "summary"
)

// family says what all series of one name are.
type family struct{ name, kind, help string }

// families are all metrics there are: whoever adds one says here what it means,
// and in the README's table. Prometheus's rules hold: a name says the unit, and a
// counter's ends in _total. TestMetrics sees to that.
var families = []family{
	{"nearside_audit_inconsistent_total", counter, "Hits that were not what Redis had, by rule."},
	{"nearside_audit_rules_out", gauge, "Rules that are out of the near cache since a hit was not what Redis had."},
	{"nearside_audit_samples_total", counter, "Hits picked to be compared with Redis."},
	{"nearside_audit_total", counter, "Comparisons of hits with Redis, by result."},
	{"nearside_auth_failures_total", counter, "AUTH and HELLO AUTH that Redis did not accept."},
	{"nearside_buffer_bytes", gauge, "Bytes of requests and replies held for clients."},
	{"nearside_buffer_limit_bytes", gauge, "Bytes of requests and replies that may be held for clients."},
	{"nearside_build_info", gauge, "1; the labels say the version and what Go it was built with."},
	{"nearside_cache_bypassed_total", counter, "Reads that had no part in the near cache, by reason; by rule unless the rules or the command are the reason."},
	{"nearside_cache_bytes", gauge, "Bytes accounted for a rule's entries in the near cache."},
	{"nearside_cache_coalesced_total", counter, "Reads that waited for another one's fetch of the same, by rule."},
	{"nearside_cache_dels_total", counter, "Keys under a rule that clients of this nearside deleted."},
	{"nearside_cache_entries", gauge, "Entries that the near cache holds for a rule."},
	{"nearside_cache_evictions_total", counter, "Entries of a rule that were thrown out to make room."},
	{"nearside_cache_fetches_total", counter, "Reads sent to Redis whose replies were to be kept."},
	{"nearside_cache_hits_total", counter, "Keys under a rule that were answered from the near cache."},
	{"nearside_cache_limit_bytes", gauge, "Bytes that all entries of the near cache may take."},
	{"nearside_cache_lookup_misses_total", counter, "Look-ups in the near cache that found nothing to answer, by reason."},
	{"nearside_cache_misses_total", counter, "Keys under a rule whose reads went to Redis."},
	{"nearside_cache_negative_hits_total", counter, "Hits of a rule that answered that there is no such key."},
	{"nearside_cache_sets_total", counter, "Keys under a rule that clients of this nearside wrote."},
	{"nearside_cache_stale_served_total", counter, "Reads of a rule answered under stale_if_error while Redis could not be asked."},
	{"nearside_cache_too_large_total", counter, "Replies not kept since they were larger than max_reply."},
	{"nearside_client_read_errors_total", counter, "Client sockets that failed while a blocked client was watched."},
	{"nearside_client_timeouts_total", counter, "Clients closed by request_timeout or idle_timeout."},
	{"nearside_client_write_errors_total", counter, "Client sockets that failed or took nothing for write_timeout."},
	{"nearside_clients", gauge, "Client connections."},
	{"nearside_clients_accepted_total", counter, "Client connections accepted."},
	{"nearside_clients_rejected_total", counter, "Client connections turned away beyond max_clients."},
	{"nearside_command_duration_seconds", histogramKind, "Time from when a command was read until its reply was put into the client's output, by family and path."},
	{"nearside_error_replies_total", counter, "Errors that nearside answered itself."},
	{"nearside_fence_waits_total", counter, "Reads that waited for a fence."},
	{"nearside_fenced_reads_waited_total", counter, "Waits of reads under a rule with consistency: fenced for a PING of their own."},
	{"nearside_fences_total", counter, "Fences raised."},
	{"nearside_invalidations_total", counter, "Invalidations applied to the near cache, by source."},
	{"nearside_link_blind", gauge, "1 if the link lacks a right or a setting."},
	{"nearside_link_publish_errors_total", counter, "Failures to tell other nearsides to forget everything."},
	{"nearside_link_published_total", counter, "Times that other nearsides were told to forget everything."},
	{"nearside_link_received_total", counter, "What the link was told, by source."},
	{"nearside_link_reconnects_total", counter, "Links lost."},
	{"nearside_link_round_trip_seconds", gauge, "Round trip of the last PING on the link."},
	{"nearside_link_source", gauge, "1 for the way by which changes are learned of."},
	{"nearside_link_state", gauge, "1 for the state that the link is in."},
	{"nearside_link_up", gauge, "1 while the link allows hits."},
	{"nearside_local_commands_total", counter, "Commands that nearside answered itself."},
	{"nearside_max_staleness_seconds", gauge, "The configured bound of how old a hit may be."},
	{"nearside_origin_connections", gauge, "Connections to Redis."},
	{"nearside_origin_dial_errors_total", counter, "Connection attempts to Redis that failed."},
	{"nearside_origin_errors_total", counter, "Commands that could not be sent to Redis."},
	{"nearside_origin_lost_connections_total", counter, "Connections to Redis that were lost."},
	{"nearside_origin_outstanding", gauge, "Requests that Redis has not answered yet."},
	{"nearside_origin_pinned_connections", gauge, "Connections to Redis that one client owns."},
	{"nearside_outstanding_replies", gauge, "Requests whose replies clients wait for."},
	{"nearside_protocol_errors_total", counter, "Clients closed since what they sent was not Redis's protocol."},
	{"nearside_refill_waits_total", counter, "Misses that waited since cache.refills fetches were under way."},
	{"nearside_refused_commands_total", counter, "Commands refused."},
	{"nearside_slow_clients_closed_total", counter, "Clients closed since they did not read their messages or held most of the buffers."},
	{"nearside_slow_commands_total", counter, "Commands that took longer than slow, by path."},
	{"nearside_staleness_bound_seconds", gauge, "How old a hit can be at most now; -1 if that is not known."},
	{"nearside_tls_handshake_errors_total", counter, "TLS handshakes of clients that failed."},
	{"nearside_touch_dropped_total", counter, "Keys not touched at Redis, being too many or refused."},
	{"nearside_touch_interval_seconds", gauge, "How often a key that is hit is touched at Redis; 0: never."},
	{"nearside_touched_keys_total", counter, "Keys touched at Redis since they were hit."},

	// The process and Go's runtime, as the metrics library has them.
	{"process_cpu_seconds_system_total", counter, "CPU time in the kernel."},
	{"process_cpu_seconds_total", counter, "CPU time."},
	{"process_cpu_seconds_user_total", counter, "CPU time outside the kernel."},
	{"process_io_read_bytes_total", counter, "Bytes read by system calls."},
	{"process_io_read_syscalls_total", counter, "System calls that read."},
	{"process_io_storage_read_bytes_total", counter, "Bytes read from storage."},
	{"process_io_storage_written_bytes_total", counter, "Bytes written to storage."},
	{"process_io_write_syscalls_total", counter, "System calls that write."},
	{"process_io_written_bytes_total", counter, "Bytes written by system calls."},
	{"process_major_pagefaults_total", counter, "Page faults that needed storage."},
	{"process_max_fds", gauge, "File descriptors that may be open."},
	{"process_minor_pagefaults_total", counter, "Page faults that needed no storage."},
	{"process_num_threads", gauge, "Threads of the operating system."},
	{"process_open_fds", gauge, "File descriptors that are open."},
	{"process_pressure_cpu_stalled_seconds_total", counter, "Time in which all tasks of the cgroup waited for a CPU."},
	{"process_pressure_cpu_waiting_seconds_total", counter, "Time in which some task of the cgroup waited for a CPU."},
	{"process_pressure_io_stalled_seconds_total", counter, "Time in which all tasks of the cgroup waited for I/O."},
	{"process_pressure_io_waiting_seconds_total", counter, "Time in which some task of the cgroup waited for I/O."},
	{"process_pressure_memory_stalled_seconds_total", counter, "Time in which all tasks of the cgroup waited for memory."},
	{"process_pressure_memory_waiting_seconds_total", counter, "Time in which some task of the cgroup waited for memory."},
	{"process_resident_memory_anon_bytes", gauge, "Resident memory that no file backs."},
	{"process_resident_memory_bytes", gauge, "Resident memory."},
	{"process_resident_memory_file_bytes", gauge, "Resident memory that files back."},
	{"process_resident_memory_peak_bytes", gauge, "Most resident memory so far."},
	{"process_resident_memory_shared_bytes", gauge, "Resident memory shared with other processes."},
	{"process_start_time_seconds", gauge, "When the process began, in seconds since 1970."},
	{"process_virtual_memory_bytes", gauge, "Virtual memory."},
	{"process_virtual_memory_peak_bytes", gauge, "Most virtual memory so far."},

	{"go_cgo_calls_total", counter, "Calls of C."},
	{"go_cpus", gauge, "CPUs that the machine offers."},
	{"go_gc_cpu_seconds_total", counter, "CPU time of garbage collection."},
	{"go_gc_duration_seconds", summaryKind, "Pauses of garbage collection."},
	{"go_gc_forced_total", counter, "Garbage collections that the program asked for."},
	{"go_gc_mark_assist_cpu_seconds_total", counter, "CPU time in which goroutines helped the garbage collector."},
	{"go_gc_pauses_seconds", histogramKind, "Pauses of all goroutines for garbage collection."},
	{"go_gomaxprocs", gauge, "GOMAXPROCS."},
	{"go_goroutines", gauge, "Goroutines."},
	{"go_info", gauge, "1; the label says Go's version."},
	{"go_info_ext", gauge, "1; the labels say the compiler and for what it compiled."},
	{"go_memlimit_bytes", gauge, "GOMEMLIMIT."},
	{"go_memstats_alloc_bytes", gauge, "Bytes in use on the heap."},
	{"go_memstats_alloc_bytes_total", counter, "Bytes allocated on the heap."},
	{"go_memstats_buck_hash_sys_bytes", gauge, "Bytes of profiling tables."},
	{"go_memstats_frees_total", counter, "Heap objects freed."},
	{"go_memstats_gc_cpu_fraction", gauge, "Part of the CPU time that garbage collection took."},
	{"go_memstats_gc_sys_bytes", gauge, "Bytes that garbage collection keeps for itself."},
	{"go_memstats_heap_alloc_bytes", gauge, "Bytes in use on the heap."},
	{"go_memstats_heap_idle_bytes", gauge, "Bytes of the heap that nothing uses."},
	{"go_memstats_heap_inuse_bytes", gauge, "Bytes of the heap's spans in use."},
	{"go_memstats_heap_objects", gauge, "Objects on the heap."},
	{"go_memstats_heap_released_bytes", gauge, "Bytes of the heap given back to the system."},
	{"go_memstats_heap_sys_bytes", gauge, "Bytes of the heap taken from the system."},
	{"go_memstats_last_gc_time_seconds", gauge, "When the last garbage collection ended, in seconds since 1970."},
	{"go_memstats_lookups_total", counter, "Pointer look-ups of the runtime."},
	{"go_memstats_mallocs_total", counter, "Heap objects allocated."},
	{"go_memstats_mcache_inuse_bytes", gauge, "Bytes of mcaches in use."},
	{"go_memstats_mcache_sys_bytes", gauge, "Bytes of mcaches taken from the system."},
	{"go_memstats_mspan_inuse_bytes", gauge, "Bytes of mspans in use."},
	{"go_memstats_mspan_sys_bytes", gauge, "Bytes of mspans taken from the system."},
	{"go_memstats_next_gc_bytes", gauge, "Size of the heap at which the next garbage collection begins."},
	{"go_memstats_other_sys_bytes", gauge, "Bytes that the runtime takes for other things."},
	{"go_memstats_stack_inuse_bytes", gauge, "Bytes of stacks in use."},
	{"go_memstats_stack_sys_bytes", gauge, "Bytes of stacks taken from the system."},
	{"go_memstats_sys_bytes", gauge, "Bytes that Go has taken from the system."},
	{"go_mutex_wait_seconds_total", counter, "Time in which goroutines waited for locks."},
	{"go_sched_latencies_seconds", histogramKind, "Time in which goroutines that could run waited."},
	{"go_scavenge_cpu_seconds_total", counter, "CPU time of giving memory back."},
	{"go_threads", gauge, "Threads of the operating system that Go has made."},
}

// renamed are metrics of the library whose names promise something else to
// Prometheus: _count belongs to a histogram.
var renamed = map[string]string{
	"go_cgo_calls_count": "go_cgo_calls_total",
	"go_cpu_count":       "go_cpus",
	"go_gc_forced_count": "go_gc_forced_total",
}

var familyByName = func() map[string]*family {
	all := make(map[string]*family, len(families))
	for i := range families {
		all[families[i].name] = &families[i]
	}
	return all
}()
