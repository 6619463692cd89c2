package proc

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestTail(t *testing.T) {
	line := strings.Repeat("x", 1023) + "\n"
	var tail Tail
	for range 1000 {
		_, _ = tail.Write([]byte(line))
	}
	_, _ = tail.Write([]byte("the end\n"))
	if s := tail.String(); len(s) < tailKept || len(s) > 2*tailKept || !strings.HasSuffix(s, "x\nthe end") || tail.Raced() {
		t.Errorf("%d bytes, raced %v", len(s), tail.Raced())
	}
	if s := tail.LastWords(); strings.Count(s, "\n") != 7 || !strings.HasSuffix(s, "\nthe end") {
		t.Errorf("last words %q", s)
	}
	_, _ = tail.Write([]byte("WARNING: DATA RACE\n"))
	for range 1000 {
		_, _ = tail.Write([]byte(line))
	}
	if !tail.Raced() || !strings.Contains(tail.String(), "DATA RACE") {
		t.Error("the report of a race is forgotten")
	}
}

func TestProcess(t *testing.T) {
	if _, err := Start("no such program"); err == nil {
		t.Error("what is not there was started")
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	p, err := Extras{Env: []string{"GREETING=good morning"}, In: in}.Start("sh", "-c", `echo "$GREETING"; echo "$0" >&2; read -r line; echo "$line"`, "to all")
	out.Close()
	if err != nil {
		t.Fatal(err)
	}
	addr, err := FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	// It reads the pipe's end, and ends.
	if err := p.Await(addr); err == nil || err.Error() != "sh ended: good morning\nto all" {
		t.Errorf("awaiting says %v", err)
	}
	if p.Alive() {
		t.Error("it is alive after its end")
	}
	p.Kill() // does nothing any more

	if p, err = Start("sleep", "600"); err != nil {
		t.Fatal(err)
	}
	if !p.Alive() || syscall.Kill(p.PID(), 0) != nil {
		t.Error("it is not there")
	}
	p.Signal(syscall.SIGSTOP)
	p.Kill()
	if p.Alive() || syscall.Kill(p.PID(), 0) == nil {
		t.Error("it lives on")
	}
}
