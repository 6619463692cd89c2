// Package proc starts processes on this machine, keeps the last of what they say,
// and ends them. It is for Linux.
package proc

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// StartLimit is how long a process may take until it answers.
const StartLimit = 30 * time.Second

// Process is a child that is ended by its id, and dies with this process.
type Process struct {
	Out  Tail
	cmd  *exec.Cmd
	gone chan struct{}
}

// Extras is what a process may get besides its arguments.
type Extras struct {
	Env     []string // added to this process's own
	In, Out *os.File // nil: nothing to read; what is written is in Process.Out, as the errors always are
}

// Start starts a program.
func Start(program string, args ...string) (*Process, error) {
	return Extras{}.Start(program, args...)
}

// Start starts a program with these.
func (e Extras) Start(program string, args ...string) (*Process, error) {
	p := &Process{cmd: exec.CommandContext(context.Background(), program, args...), gone: make(chan struct{})}
	p.cmd.Env = append(p.cmd.Environ(), e.Env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.Out, &p.Out
	if e.In != nil {
		p.cmd.Stdin = e.In
	}
	if e.Out != nil {
		p.cmd.Stdout = e.Out
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
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// PID is the id of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.gone
}

// Signal sends it a signal.
func (p *Process) Signal(sig syscall.Signal) { _ = p.cmd.Process.Signal(sig) }

// Alive says whether it has not ended.
func (p *Process) Alive() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

// Await waits until addr answers PING, or says why it never will.
func (p *Process) Await(addr string) error {
	end := time.Now().Add(StartLimit)
	for !Answers(addr) {
		select {
		case <-p.gone:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), &p.Out)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not answer within %v: %s", filepath.Base(p.cmd.Path), StartLimit, &p.Out)
		}
	}
	return nil
}

// Answers says whether somebody at addr answers PING as Redis does.
func Answers(addr string) bool {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, "*1\r\n$4\r\nPING\r\n") // an array: nutcracker knows no other form
	b := make([]byte, 5)
	_, err = io.ReadFull(c, b)
	return err == nil && string(b) == "+PONG"
}

// FreeAddr is a loopback address that nobody listens on.
func FreeAddr() (string, error) {
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}
