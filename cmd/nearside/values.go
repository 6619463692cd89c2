package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/redis/go-redis/v9"
)

// Each function here makes a parser for one kind of value. Its errors state
// the reason; the caller knows the place.

// size parses 64MiB, 512KB, 1.5GiB or a plain number of bytes.
func size(dst *int64, least, most int64) func(string) error {
	return func(s string) error {
		n, err := humanize.ParseBytes(s)
		if err != nil {
			return fmt.Errorf("%q is not a size, such as 64MiB, 512KB or 1048576", s)
		}
		if n < uint64(least) {
			return fmt.Errorf("%s is too small: at least %s", s, sizeText(least))
		}
		if n > uint64(most) {
			return fmt.Errorf("%s is too large: at most %s", s, sizeText(most))
		}
		*dst = int64(n)
		return nil
	}
}

// sizeText writes a size as one would write it in the file: exactly.
func sizeText(n int64) string {
	for _, u := range []struct {
		name  string
		bytes int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// number parses a whole number.
func number[T int | int64](dst *T, least, most int64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			if errors.Is(err, strconv.ErrRange) {
				return fmt.Errorf("%s is out of range: %d to %d", s, least, most)
			}
			return fmt.Errorf("%q is not a whole number", s)
		}
		if n < least || n > most {
			if most == math.MaxInt64 || most == math.MaxInt32 {
				return fmt.Errorf("%d is too small: at least %d", n, least)
			}
			return fmt.Errorf("%d is out of range: %d to %d", n, least, most)
		}
		*dst = T(n)
		return nil
	}
}

// duration parses 250ms, 60s or 1h30m. Nothing below a millisecond makes
// sense in this file, except 0 where zero says that it is allowed.
func duration(dst *time.Duration, zero bool) func(string) error {
	return func(s string) error {
		v, err := time.ParseDuration(s)
		if err != nil {
			if _, err := strconv.ParseFloat(s, 64); err == nil {
				return fmt.Errorf("%s has no unit: write %ss or %sms", s, s, s)
			}
			return fmt.Errorf("%q is not a duration, such as 250ms, 60s or 1h30m", s)
		}
		if v < time.Millisecond && (v != 0 || !zero) {
			return fmt.Errorf("%s is too short: at least 1ms", s)
		}
		*dst = v
		return nil
	}
}

// word parses one of the known words.
func word(dst *string, known ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(known, s) {
			return fmt.Errorf("unknown word %q: one of %s", s, strings.Join(known, ", "))
		}
		*dst = s
		return nil
	}
}

// boolean parses true or false.
func boolean(dst *bool) func(string) error {
	return func(s string) error {
		if s != "true" && s != "false" {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*dst = s == "true"
		return nil
	}
}

// The longest path of a unix socket, less the zero byte at its end.
const maxSocketPath = 107

// listenAddress parses host:port or unix:/path.
func listenAddress(add func(string)) func(string) error {
	return func(s string) error {
		if path, ok := strings.CutPrefix(s, "unix:"); ok {
			if path == "" {
				return errors.New("unix: needs a path, as in unix:/run/nearside.sock")
			}
			if len(path) > maxSocketPath {
				return fmt.Errorf("the path of the socket is too long: %d bytes, at most %d", len(path), maxSocketPath)
			}
			add(s)
			return nil
		}
		if err := checkHostPort(s, "host:port or unix:/path"); err != nil {
			return err
		}
		add(s)
		return nil
	}
}

// adminAddress parses host:port; "" switches the HTTP endpoints off.
func adminAddress(dst *string) func(string) error {
	return func(s string) error {
		if s != "" {
			if err := checkHostPort(s, "host:port"); err != nil {
				return err
			}
		}
		*dst = s
		return nil
	}
}

func checkHostPort(s, want string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not an address: expected %s", s, want)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%q is not an address: the port is a number from 0 to 65535", s)
	}
	if strings.ContainsAny(host, " /@") {
		return fmt.Errorf("%q is not an address: expected %s", s, want)
	}
	return nil
}

var errBadURL = errors.New("this is not a URL: expected redis://[user:password@]host:port; special characters in a password are written as %XX")

// redisURL parses the origin's address. Its errors never show the URL: it may
// hold a password.
func redisURL(dst *string) func(string) error {
	return func(s string) error {
		u, err := url.Parse(s)
		if err != nil {
			return errBadURL
		}
		switch u.Scheme {
		case "redis", "rediss":
			if u.Hostname() == "" {
				return fmt.Errorf("the URL names no host: expected %s://host:port", u.Scheme)
			}
			if strings.Contains(u.Path, "@") {
				return errBadURL
			}
			if port, err := strconv.ParseUint(u.Port(), 10, 16); u.Port() != "" && (err != nil || port == 0) {
				return errors.New("the URL's port is a number from 1 to 65535")
			}
			if u.Path != "" && u.Path != "/" && u.Path != "/0" {
				return errors.New("the URL names a database: locks.db and cache.db choose the databases")
			}
		case "unix":
			if u.Path == "" {
				return errors.New("the URL names no socket: expected unix:///path")
			}
		case "redis+sentinel", "redis+cluster":
			return fmt.Errorf("%s:// is not supported by this version: expected redis://, rediss:// or unix://", u.Scheme)
		default:
			return errors.New("the origin is given as redis://host:port, rediss://host:port or unix:///path")
		}
		for k, v := range u.Query() {
			if k != "skip_verify" { // it may be the rest of a password
				return errors.New("the URL has a parameter other than skip_verify; a question mark in a password is written as %3F")
			}
			if _, err := strconv.ParseBool(v[0]); err != nil {
				return errors.New("the URL's skip_verify is true or false")
			}
		}
		if _, err := redis.ParseURL(s); err != nil {
			return errors.New("this is not the URL of a Redis: expected redis://[user:password@]host:port")
		}
		*dst = s
		return nil
	}
}

// readable takes the name of a file that can be read. It is read again whenever it
// changes, so it must be a file, not a pipe, and has an end.
func readable(dst *string) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("needs the name of a file")
		}
		if err := isReadable(s); err != nil {
			return fmt.Errorf("cannot read %s: %w", s, cause(err))
		}
		*dst = s
		return nil
	}
}

func isReadable(name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return syscall.EISDIR
	case !info.Mode().IsRegular():
		return errors.New("it is not a file")
	case info.Size() > mostConfig:
		return fmt.Errorf("it is larger than %s", sizeText(mostConfig))
	}
	_, err = f.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) { // what is in it is somebody else's concern
		return nil
	}
	return err
}

// name takes the name of a host.
func name(dst *string) func(string) error {
	return func(s string) error {
		if s == "" || strings.ContainsAny(s, " /:@") {
			return fmt.Errorf("%q is not the name of a host", s)
		}
		*dst = s
		return nil
	}
}
