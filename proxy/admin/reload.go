package admin

import (
	"errors"
	"net/http"
	"strings"
)

// ErrNothingToReload is what Source.Reload returns when there is no file that could
// be read again.
var ErrNothingToReload = errors.New("nearside runs without a configuration file: there is nothing to read again")

// reload reads the configuration again. The answer is text, one change in a line.
func (s *Server) reload(w http.ResponseWriter, _ *http.Request) {
	changes, err := s.src.Reload()
	code, text := http.StatusOK, strings.Join(changes, "\n")
	switch {
	case errors.Is(err, ErrNothingToReload):
		code, text = http.StatusConflict, err.Error()
	case err != nil:
		code, text = http.StatusUnprocessableEntity, err.Error()
	case text == "":
		text = "nothing changed"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	s.write(w, code, []byte(text+"\n"))
}
