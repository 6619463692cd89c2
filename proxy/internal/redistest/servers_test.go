package redistest

import (
	"strings"
	"testing"
)

// TestNames: each server is what its name says.
func TestNames(t *testing.T) {
	says := map[Name]string{
		Debian: "redis_version:7.0.", Redis6: "redis_version:6.0.", Redis8: "redis_version:8.0.",
		Valkey8: "valkey_version:8.1.", Valkey9: "valkey_version:9.",
	}
	for _, name := range All {
		t.Run(name.String(), func(t *testing.T) {
			t.Parallel()
			s := StartNamed(t, name)
			if info := s.Do("INFO", "server"); !strings.Contains(info, says[name]) {
				t.Errorf("%s says %.200s", name, info)
			}
			s.Kill()
			s.Restart()
			if got := s.Do("DEBUG", "OBJECT", "nothing"); got != "-ERR no such key" {
				t.Errorf("DEBUG is not allowed: %s", got)
			}
		})
	}
}
