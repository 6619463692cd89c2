package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestNewSupervisor(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want supervisor
	}{
		{"nobody", nil, supervisor{}},
		{"no watchdog", map[string]string{"NOTIFY_SOCKET": "/run/systemd/notify"}, supervisor{socket: "/run/systemd/notify"}},
		{"abstract", map[string]string{"NOTIFY_SOCKET": "@n"}, supervisor{socket: "@n"}},
		{"a kind that systemd has only for virtual machines", map[string]string{"NOTIFY_SOCKET": "vsock:2:1"}, supervisor{}},
		{"watchdog", map[string]string{"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "30000000"}, supervisor{"/n", 15 * time.Second}},
		{"for this process", map[string]string{"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}, supervisor{"/n", time.Second}},
		{"for another process", map[string]string{"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "8"}, supervisor{socket: "/n"}},
		{"not a number", map[string]string{"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2s"}, supervisor{socket: "/n"}},
		{"nowhere to send it", map[string]string{"WATCHDOG_USEC": "2000000"}, supervisor{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := newSupervisor(func(k string) string { return tt.env[k] }, 7); got != tt.want {
				t.Errorf("%+v, want %+v", got, tt.want)
			}
		})
	}
}

// What is said, and when: every 10 s, not while something is wrong, and on
// through the end.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var said []string
		var log bytes.Buffer
		looks := 0
		alive := func(ctx context.Context) error {
			if d, ok := ctx.Deadline(); !ok || time.Until(d) != 5*time.Second {
				t.Error("a look may take longer than half of the time between two")
			}
			looks++
			if looks == 2 || looks == 4 {
				return errors.New("hanging")
			}
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended, told := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(told)
			report(ctx, ended, 10*time.Second, func(s string) { said = append(said, time.Since(start).String()+" "+s) }, alive,
				slog.New(slog.NewTextHandler(&log, nil)))
		}()
		time.Sleep(35 * time.Second)
		cancel()
		time.Sleep(20 * time.Second)
		close(ended)
		<-told
		if want := []string{"10s WATCHDOG=1", "30s WATCHDOG=1", "35s STOPPING=1", "50s WATCHDOG=1"}; !slices.Equal(said, want) {
			t.Errorf("%q, want %q", said, want)
		}
		if strings.Count(log.String(), "err=hanging") != 1 { // not while it is stopping
			t.Errorf("log: %s", &log)
		}
	})
}

func TestReportEndsByItself(t *testing.T) {
	ended := make(chan struct{})
	close(ended)
	var said []string
	report(t.Context(), ended, 0, func(s string) { said = append(said, s) }, nil, slog.New(slog.DiscardHandler))
	if !slices.Equal(said, []string{"STOPPING=1"}) {
		t.Errorf("%q", said)
	}
}

// manager is a service manager: what listens at a nearside's NOTIFY_SOCKET.
type manager struct {
	t    *testing.T
	name string
	c    *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &manager{t, name, c}
}

// read waits for a message.
func (m *manager) read() string {
	m.t.Helper()
	_ = m.c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 100)
	n, err := m.c.Read(b)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

// next wants the next message to match a regular expression.
func (m *manager) next(want string) {
	m.t.Helper()
	if got := m.read(); !regexp.MustCompile("^" + want + "$").MatchString(got) {
		m.t.Fatalf("%q, want %q", got, want)
	}
}

// The whole life as systemd sees it.
func TestNotify(t *testing.T) {
	for _, admin := range []string{"127.0.0.1:0", ""} {
		t.Run("admin "+admin, func(t *testing.T) {
			m := newManager(t)
			r := launchWith(t, []string{"NOTIFY_SOCKET=" + m.name, "WATCHDOG_USEC=1000000"}, "-redis", "redis://127.0.0.1:1", "-listen", "127.0.0.1:0", "-admin", admin)
			m.next("READY=1")
			m.next("WATCHDOG=1") // Redis is down, and that is no reason
			m.next("WATCHDOG=1")
			if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for m.read() != "STOPPING=1" { // what was under way comes first
			}
			if err := r.cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
