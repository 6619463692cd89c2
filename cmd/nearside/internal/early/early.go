// Package early prepares the process before the libraries that write to
// standard error while they are initialised. At that time main could neither
// catch the SIGPIPE that a closed pipe brings nor end a write to a full one.
//
// It depends on nothing beside log, io and os/signal. Go initialises packages
// in the order of their import paths as soon as what they import is ready, so
// this one is done long before any library that imports net/http. A test in
// cmd/nearside starts the process on a closed and on a full pipe and fails if
// that is no longer so.
package early

import (
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"
)

func init() {
	// Go ends a process whose write to descriptor 1 or 2 meets a closed pipe,
	// unless somebody waits for the signal. Then the write fails like any other.
	// That nobody reads the channel is all right. signal.Ignore would do as well,
	// but cannot be taken back.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// main gives the libraries' lines to its own log later.
	log.SetOutput(io.Discard)
}

// Terminal restores what command-line tools do: a command whose reader is gone
// ends. It is for what prints and exits.
func Terminal() { signal.Reset(syscall.SIGPIPE) }
