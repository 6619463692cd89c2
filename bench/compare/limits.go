package main

import "golang.org/x/sys/unix"

// wantFiles is what 10,000 connections need in haproxy, which holds both ends.
const wantFiles = 65536

// raiseFiles lets this process and its children open more files. Go hides from
// children what it raises by itself, so it is said aloud.
func raiseFiles() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return
	}
	if want := (unix.Rlimit{Cur: wantFiles, Max: max(l.Max, wantFiles)}); l.Max < wantFiles && unix.Setrlimit(unix.RLIMIT_NOFILE, &want) == nil {
		return // root may
	}
	l.Cur = min(l.Max, wantFiles)
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

// haproxyClients is how many clients haproxy can have with so many files.
func haproxyClients() int {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil {
		return 400
	}
	return min(maxClients, int(l.Cur-200)/2)
}
