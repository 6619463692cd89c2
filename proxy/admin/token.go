package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
)

// LeastToken is the number of bytes that a token has at least.
const LeastToken = 16

// mostToken bounds the file of a token.
const mostToken = 64 << 10

// CheckToken says what is wrong with a token, without telling it.
func CheckToken(token string) error {
	switch {
	case len(token) < LeastToken:
		return fmt.Errorf("the admin token has %d bytes: at least %d", len(token), LeastToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("the admin token holds a blank or something that is not ASCII: no header could bring it")
	}
	return nil
}

// ReadToken reads a token: the first line of a file.
func ReadToken(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err
		}
		return "", fmt.Errorf("cannot read the admin token %s: %w", file, err)
	}
	line, _, _ := bytes.Cut(b[:min(len(b), mostToken)], []byte("\n"))
	token := string(bytes.TrimSpace(line))
	if err := CheckToken(token); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return token, nil
}

// tokens are what a client may show. Only hashes are kept, so that comparing
// takes the same time whatever is shown.
type tokens struct {
	log   *slog.Logger
	fixed [][sha256.Size]byte
	file  string // read again for each request; "": there is none

	mu       sync.Mutex
	fromFile [sha256.Size]byte
	told     bool // of the file's fault
}

// newTokens reads the file for the first time; nil if no token is asked for.
func newTokens(token, file string, log *slog.Logger) (*tokens, error) {
	if token == "" && file == "" {
		return nil, nil
	}
	t := &tokens{log: log, file: file}
	if token != "" {
		if err := CheckToken(token); err != nil {
			return nil, err
		}
		t.fixed = append(t.fixed, sha256.Sum256([]byte(token)))
	}
	if file != "" {
		text, err := ReadToken(file)
		if err != nil {
			return nil, err
		}
		t.fromFile = sha256.Sum256([]byte(text))
	}
	return t, nil
}

// allow tells whether a request shows a token.
func (t *tokens) allow(r *http.Request) bool {
	scheme, shown, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return false
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(shown)))
	ok := 0
	for i := range t.fixed {
		ok |= subtle.ConstantTimeCompare(sum[:], t.fixed[i][:])
	}
	if t.file != "" {
		want := t.current()
		ok |= subtle.ConstantTimeCompare(sum[:], want[:])
	}
	return ok == 1
}

// current is the file's token of this moment. While the file is missing or wrong the
// last one holds: whoever exchanges it need not do so in one step.
func (t *tokens) current() [sha256.Size]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	text, err := ReadToken(t.file)
	if err != nil {
		if !t.told {
			t.told = true
			t.log.Warn("the admin token stays what it was", "err", err)
		}
		return t.fromFile
	}
	t.told = false
	t.fromFile = sha256.Sum256([]byte(text))
	return t.fromFile
}
