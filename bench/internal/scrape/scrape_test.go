package scrape

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const text = "# TYPE x\nhits{prefix=\"a b:\"} 3\nhits{prefix=\"c\"} 4\nother 5\n\nup 1\n"

func TestMetrics(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			_, _ = w.Write([]byte(text))
		case "/json":
			_, _ = w.Write([]byte(`{"Hits": 3}`))
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	admin := strings.TrimPrefix(srv.URL, "http://")
	got, err := Metrics(t.Context(), admin)
	if want := (Series{`hits{prefix="a b:"}`: 3, `hits{prefix="c"}`: 4, "other": 5, "up": 1}); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if sums := got.Sums("hits", "up", "missing"); !maps.Equal(sums, map[string]float64{"hits": 7, "up": 1}) {
		t.Errorf("summed up: %v", sums)
	}
	var v struct{ Hits int }
	if err := JSON(t.Context(), admin, "/json", &v); err != nil || v.Hits != 3 {
		t.Errorf("%v, %v", v, err)
	}
	if err := JSON(t.Context(), admin, "/nothing", &v); err == nil || err.Error() != "404 Not Found" {
		t.Errorf("what is not there: %v", err)
	}
}

func TestParse(t *testing.T) {
	if _, err := parse(strings.NewReader("up one\n")); err == nil {
		t.Error("a value that is no number passes")
	}
}
