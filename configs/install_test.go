package configs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestInstall(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere there is no systemd")
	}
	root := t.TempDir()
	install := func() {
		t.Helper()
		if out, err := output(t, "make", "-C", "..", "install", "BINARY="+nearside, "DESTDIR="+root, "PREFIX=/usr"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	install()
	want := map[string]fs.FileMode{
		"usr/bin/nearside":                        0o755,
		"usr/lib/systemd/system/nearside.service": 0o644,
		"usr/lib/sysusers.d/nearside.conf":        0o644,
		"etc/nearside/nearside.yaml":              0o644,
	}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if mode, ok := want[rel]; !ok || info.Mode() != mode {
			t.Errorf("%s %v, want %v", rel, info.Mode(), mode)
		}
		delete(want, rel)
		return nil
	})
	if err != nil || len(want) > 0 {
		t.Errorf("missing: %v (%v)", want, err)
	}
	if unit := read(t, root+"/usr/lib/systemd/system/nearside.service"); !strings.Contains(unit, "ExecStart=/usr/bin/nearside -config /etc/nearside/nearside.yaml\n") {
		t.Error(unit)
	}

	// What was changed stays.
	mine := root + "/etc/nearside/nearside.yaml"
	if err := os.WriteFile(mine, []byte("admin: \"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	install()
	if read(t, mine) != "admin: \"\"\n" {
		t.Error("the configuration was overwritten")
	}
}

func TestInstallBuildsNothing(t *testing.T) {
	out, err := output(t, "make", "-C", "..", "install", "BINARY=none", "DESTDIR="+t.TempDir())
	if err == nil || !strings.Contains(out, "there is no none: run make build first") {
		t.Errorf("%v: %s", err, out)
	}
}
