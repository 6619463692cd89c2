package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startLimit is how long a process may take until it answers.
const startLimit = 30 * time.Second

// process is a child that is ended by its id, and dies with the harness.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{}
	out  *tail
}

// startPiped starts a process with these environment variables added, whose
// input and output are pipes where they are not nil.
func startPiped(env []string, in, out *os.File, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), gone: make(chan struct{}), out: &tail{}}
	p.cmd.Env = append(p.cmd.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if in != nil {
		p.cmd.Stdin = in
	}
	if out != nil {
		p.cmd.Stdout = out
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Pdeathsig is sent when the thread that started the child ends.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.gone)
		}
	}()
	return p, <-started
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

// await waits until addr answers PING, or says why it never will.
func (p *process) await(addr string) error {
	end := time.Now().Add(startLimit)
	for !answers(addr) {
		select {
		case <-p.gone:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), p.out)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not answer within %v: %s", filepath.Base(p.cmd.Path), startLimit, p.out)
		}
	}
	return nil
}

func answers(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, "*1\r\n$4\r\nPING\r\n")
	b := make([]byte, 5)
	_, err = io.ReadFull(c, b)
	return err == nil && string(b) == "+PONG"
}

// tail keeps the last of what a process said.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b); n > 8<<10 {
		t.b = append([]byte(nil), t.b[n-4<<10:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}

// freeAddr is a loopback address that nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// sources is the directory of nearside's own module.
func sources() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// buildNearside builds what "make build" builds, into dir.
func buildNearside(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "nearside")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version="+revision(ctx), "-o", bin, "./cmd/nearside")
	cmd.Dir = sources()
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("nearside cannot be built: %w\n%s", err, out)
	}
	return bin, nil
}

// revision names the sources as "make build" does.
func revision(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	cmd.Dir = sources()
	out, err := cmd.Output()
	if err != nil {
		return "devel"
	}
	return strings.TrimSpace(string(out))
}

// need reports which of the programs are not installed.
func need(programs ...string) error {
	var missing []error
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, fmt.Errorf("%s is not installed: try \"make bench-deps\"", name))
		}
	}
	return errors.Join(missing...)
}
