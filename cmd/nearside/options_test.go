package main

import (
	"io"
	"testing"
)

func TestEmbeddedOnlyWithoutConfigAndRedis(t *testing.T) {
	tests := []struct {
		args []string
		env  map[string]string
		want bool
	}{
		{nil, nil, true},
		{[]string{"-listen", "127.0.0.1:1", "-admin", ""}, nil, true},
		{nil, map[string]string{"NEARSIDE_REDIS": "", "NEARSIDE_CONFIG": ""}, true},
		{[]string{"-redis", "redis://h"}, nil, false},
		{nil, map[string]string{"NEARSIDE_REDIS": "redis://h"}, false},
		{[]string{"-config", "f"}, nil, false},
		{nil, map[string]string{"NEARSIDE_CONFIG": "f"}, false},
	}
	for _, tt := range tests {
		o, err := parseOptions(tt.args, func(k string) string { return tt.env[k] }, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if o.embedded() != tt.want {
			t.Errorf("%q %q: %v", tt.args, tt.env, o.embedded())
		}
	}
}
