package proc

import (
	"bytes"
	"strings"
	"sync"
)

// tailKept is how much a Tail keeps at least, in bytes; at most it is twice that.
const tailKept = 32 << 10

// Tail keeps the last of what is written to it. From the report of a data race
// on, it keeps everything.
type Tail struct {
	mu   sync.Mutex
	b    []byte
	race bool
}

func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if bytes.Contains(b, []byte("DATA RACE")) {
		t.race = true
	}
	if t.b = append(t.b, b...); len(t.b) > 2*tailKept && !t.race {
		t.b = bytes.Clone(t.b[len(t.b)-tailKept:])
	}
	return len(b), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// LastWords is the end of it: a few lines.
func (t *Tail) LastWords() string {
	lines := strings.Split(t.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// Raced says whether Go's race detector has reported something.
func (t *Tail) Raced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.race
}
