package configs_test

import (
	"debug/elf"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const dockerFile = "docker/Dockerfile"

type instruction struct{ name, rest string }

// stages of a Dockerfile: the instructions from one FROM up to the next.
func stages(text string) (all [][]instruction) {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "#") {
			lines = append(lines, line)
		}
	}
	joined := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(strings.Join(lines, ""), " ")
	for line := range strings.Lines(joined) {
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" {
			continue
		}
		if name == "FROM" {
			all = append(all, nil)
		}
		if len(all) > 0 {
			all[len(all)-1] = append(all[len(all)-1], instruction{name, strings.TrimSpace(rest)})
		}
	}
	return all
}

// of is every instruction of a name, without its options (--from=build).
func of(stage []instruction, name string) (rest [][]string) {
	for _, i := range stage {
		if i.name == name {
			rest = append(rest, slices.DeleteFunc(strings.Fields(i.rest), func(s string) bool { return strings.HasPrefix(s, "--") }))
		}
	}
	return rest
}

func one(t *testing.T, stage []instruction, name string) []string {
	t.Helper()
	all := of(stage, name)
	if len(all) != 1 {
		t.Fatalf("%d %s", len(all), name)
	}
	return all[0]
}

// There is no Docker where the tests run: this reads the Dockerfile, and does
// what its build stage does, but for the base image.
func TestDockerfile(t *testing.T) {
	all := stages(read(t, dockerFile))
	if len(all) != 2 {
		t.Fatalf("%d stages", len(all))
	}
	build, final := all[0], all[1]

	for _, stage := range all {
		image := one(t, stage, "FROM")[0]
		if first, _, ok := strings.Cut(image, "/"); ok && strings.ContainsAny(first, ".:") {
			t.Errorf("%s names a registry", image)
		}
	}
	_, minor, _ := strings.Cut(one(t, build, "FROM")[0], ":")
	if m := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod")); len(m) != 2 || m[1] != minor {
		t.Errorf("golang:%s, but go.mod says %v", minor, m)
	}

	if got := one(t, final, "FROM")[0]; got != "scratch" {
		t.Errorf("the image begins with %s", got)
	}
	var in []string
	for _, c := range of(final, "COPY") {
		in = append(in, c[1])
	}
	user, _, _ := strings.Cut(one(t, final, "USER")[0], ":")
	if n, err := strconv.Atoi(user); err != nil || n == 0 {
		t.Errorf("USER %s: Kubernetes must see that it is not root", user)
	}
	for _, name := range []string{"ENTRYPOINT", "HEALTHCHECK"} {
		rest := strings.TrimPrefix(strings.Join(one(t, final, name), " "), "CMD ")
		var argv []string
		if err := json.Unmarshal([]byte(rest), &argv); err != nil {
			t.Fatalf("%s %s: an image without a shell needs a list: %v", name, rest, err)
		}
		if !slices.Contains(in, argv[0]) {
			t.Errorf("%s %s is not in the image: %v", name, argv[0], in)
		}
		if name == "HEALTHCHECK" {
			// Nobody is there, which it must find, and understand.
			out, err := output(t, nearside, append(argv[1:], "-admin", "127.0.0.1:1")...)
			if err == nil || !strings.Contains(out, "does not answer") {
				t.Errorf("%v: %v: %s", argv, err, out)
			}
		}
	}
}

// The build stage has what it needs, and makes a static binary.
func TestDockerBuild(t *testing.T) {
	build := stages(read(t, dockerFile))[0]
	ignore := strings.Split(read(t, dockerFile+".dockerignore"), "\n")
	src, bin := t.TempDir(), filepath.Join(t.TempDir(), "nearside")
	for _, c := range of(build, "COPY") {
		for _, name := range c[:len(c)-1] {
			if !slices.Contains(ignore, "!"+name) {
				t.Errorf("%s is ignored", name)
			}
			// Files go into a folder, "./"; the contents of a folder become those of another.
			to, folder := filepath.Join(src, c[len(c)-1]), !strings.HasSuffix(c[len(c)-1], "/")
			if !folder {
				to = filepath.Join(to, path.Base(name))
			}
			place(t, filepath.Join("..", name), to, folder)
		}
	}
	var run string
	for _, i := range build {
		if i.name == "RUN" && strings.Contains(i.rest, "go build") {
			run = i.rest
		}
	}
	run = "cd '" + src + "' && " + replaced(t, run, "-o /nearside", "-o '"+bin+"'")
	for name, value := range map[string]string{"TARGETOS": "linux", "TARGETARCH": "amd64", "VERSION": "v1.2.3-docker"} {
		run = strings.ReplaceAll(run, "$"+name, value)
	}
	if out, err := output(t, "sh", "-c", run); err != nil {
		t.Fatalf("%s: %v: %s", run, err, out)
	}
	f, err := elf.Open(bin)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a dynamic loader")
		}
	}
	if b, err := os.ReadFile(bin); err != nil || !strings.Contains(string(b), "v1.2.3-docker") {
		t.Errorf("it does not know its version: %v", err)
	}
}

// place copies a file or a folder, without the tests.
func place(t *testing.T, from, to string, folder bool) {
	t.Helper()
	if !folder {
		if err := os.WriteFile(to, []byte(read(t, from)), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	err := filepath.WalkDir(from, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && d.Name() == "node_modules":
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o750)
		case strings.HasSuffix(p, "_test.go") || !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}
