// Package sources finds nearside's own sources and builds it from them.
package sources

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Dir is the directory of nearside's own module.
func Dir() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..")
}

// Build builds nearside as go build does with these flags.
func Build(ctx context.Context, bin string, flags ...string) error {
	return build(ctx, bin, nil, flags)
}

// Release builds what "make build" builds.
func Release(ctx context.Context, bin string) error {
	return build(ctx, bin, []string{"CGO_ENABLED=0"}, []string{"-trimpath", "-ldflags", "-s -w -X main.version=" + version(ctx)})
}

func build(ctx context.Context, bin string, env, flags []string) error {
	args := append([]string{"build", "-o", bin}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/nearside")...)
	cmd.Dir = Dir()
	cmd.Env = append(cmd.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nearside cannot be built: %w\n%s", err, out)
	}
	return nil
}

// version names the sources as "make build" does.
func version(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	cmd.Dir = Dir()
	out, err := cmd.Output()
	if err != nil {
		return "devel"
	}
	return strings.TrimSpace(string(out))
}
