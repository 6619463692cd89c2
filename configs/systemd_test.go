package configs_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const unitFile = "systemd/nearside.service"

// directives of a unit, each with its values in order.
func directives(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for line := range strings.Lines(read(t, unitFile)) {
		if line = strings.TrimSpace(line); line == "" || strings.ContainsAny(line[:1], "#;[") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Fatalf("%q is no directive", line)
		}
		all[name] = append(all[name], value)
	}
	return all
}

func TestUnit(t *testing.T) {
	d := directives(t)
	for name, want := range map[string]string{
		"Type": "notify", "User": "nearside", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "MemoryDenyWriteExecute": "yes",
		"RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX", "Restart": "on-failure", "CapabilityBoundingSet": "", "ExecReload": "/bin/kill -HUP $MAINPID", "TimeoutStopSec": "15",
	} {
		if !slices.Equal(d[name], []string{want}) {
			t.Errorf("%s=%q, want %s", d[name], d[name], want)
		}
	}
	if !strings.HasPrefix(read(t, "systemd/nearside.sysusers"), "#") || !strings.Contains(read(t, "systemd/nearside.sysusers"), "\nu "+d["User"][0]+" ") {
		t.Error("sysusers makes another user")
	}
	// The command line is one that nearside takes.
	args := strings.Fields(d["ExecStart"][0])[1:]
	for i := range args {
		if args[i] == "/etc/nearside/nearside.yaml" {
			args[i] = "nearside.yaml" // what make install puts there
		}
	}
	if out, err := output(t, nearside, append(args, "-t")...); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// placed is the unit with changes, in a file of the name it must have, with
// a binary that is there.
func placed(t *testing.T, changes ...string) string {
	t.Helper()
	text := replaced(t, read(t, unitFile), "ExecStart=/usr/local/bin/nearside", "ExecStart="+nearside)
	for i := 0; i < len(changes); i += 2 {
		text = replaced(t, text, changes[i], changes[i+1])
	}
	return write(t, filepath.Base(unitFile), text)
}

// complaints are what systemd says of this unit; others of the machine may
// have mistakes of their own.
func complaints(t *testing.T, unit string) (about []string) {
	t.Helper()
	out, _ := output(t, checker(t, "systemd-analyze"), "verify", "--man=no", unit) // the exit code is of all units
	for line := range strings.Lines(out) {
		if strings.Contains(line, "nearside") {
			about = append(about, line)
		}
	}
	return about
}

func TestUnitVerifies(t *testing.T) {
	if c := complaints(t, placed(t)); c != nil {
		t.Errorf("%q", c)
	}
	for _, wrong := range [][2]string{
		{"ProtectHome=yes", "ProtectHoem=yes"},
		{"WatchdogSec=30", "WatchdogSec=soon"},
		{"SystemCallFilter=@system-service", "SystemCallFilter=@systemservice"},
	} {
		if complaints(t, placed(t, wrong[0], wrong[1])) == nil {
			t.Errorf("%s passes", wrong[1])
		}
	}
}

// 0 is a service that can do nothing, 9.6 one without any protection.
func TestUnitIsHardened(t *testing.T) {
	analyze := checker(t, "systemd-analyze")
	if out, err := output(t, analyze, "security", "--no-pager", "--offline=true", "--threshold=14", placed(t)); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := output(t, analyze, "security", "--no-pager", "--offline=true", "--threshold=14", placed(t, "ProtectSystem=strict\n", "", "PrivateDevices=yes\n", "")); err == nil {
		t.Error("an unprotected service passes")
	}
}

func TestSysusers(t *testing.T) {
	sysusers := checker(t, "systemd-sysusers")
	text := read(t, "systemd/nearside.sysusers")
	dry := func(file string) (string, error) {
		return output(t, sysusers, "--dry-run", "--root="+t.TempDir(), file)
	}
	if out, err := dry(write(t, "good.conf", text)); err != nil || !strings.Contains(out, "Creating user 'nearside'") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := dry(write(t, "bad.conf", replaced(t, text, "\nu ", "\nx "))); err == nil {
		t.Error("a mistake passes")
	}
}
