package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"nearside/configs"
)

// Bounds of the configuration file, and of the other files that it names.
const (
	mostConfig = 1 << 20
	readWithin = 5 * time.Second // from a pipe, such as a shell's <(…)
)

// sampleName is what messages call the built-in sample.
const sampleName = "configs/nearside.yaml"

// load reads the configuration and lets the overrides replace what it says.
func load(o *options) (*settings, error) {
	s, err := parseFile(o)
	if err != nil {
		return nil, err
	}
	for _, v := range o.overrides {
		if err := s.override(v); err != nil {
			return nil, err
		}
	}
	s.cfg.AdminToken = o.token
	s.at[tokenVariable] = place{source: tokenVariable}
	if err := s.check(); err != nil {
		return nil, err
	}
	return s, nil
}

// parseFile parses the configuration that the options name, else the sample.
func parseFile(o *options) (*settings, error) {
	if o.config == "" {
		return parse(sampleName, configs.Sample)
	}
	data, err := readConfig(o.config)
	if err != nil {
		return nil, err
	}
	return parse(o.config, data)
}

func readConfig(name string) ([]byte, error) {
	// Not to wait for somebody who writes into a pipe or types at a terminal.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(readWithin)) // files have none, and need none
	data, err := io.ReadAll(io.LimitReader(f, mostConfig+1))
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.EAGAIN) {
		err = fmt.Errorf("it is no file, and nothing has come from it for %v", readWithin)
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	if info, err := f.Stat(); err == nil && len(data) == 0 && info.Mode()&fs.ModeNamedPipe != 0 {
		return nil, unreadable(name, errors.New("it is a pipe that nobody writes into"))
	}
	if len(data) > mostConfig {
		return nil, unreadable(name, fmt.Errorf("it is larger than %s", sizeText(mostConfig)))
	}
	return data, nil
}

func unreadable(name string, err error) error {
	return fmt.Errorf("cannot read the configuration %s: %w", name, cause(err))
}

// cause is the error without the name of the file.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// parse reads one file. What its values mean together is checked later, when
// flags and environment have had their say.
func parse(name string, data []byte) (*settings, error) {
	s := defaults()
	d := &decoder{file: name, at: s.at}
	if err := d.decode(data, fieldsOf(s.keys())); err != nil {
		return nil, err
	}
	return s, nil
}

// override is a value that a flag or the environment gives for a key.
type override struct {
	key    string // listen, admin or redis
	value  string
	source string // -listen, NEARSIDE_LISTEN
}

func (s *settings) override(o override) error {
	at := place{source: o.source}
	var err error
	switch o.key {
	case "redis":
		err = redisURL(&s.cfg.Redis)(o.value)
	case "admin":
		err = adminAddress(&s.cfg.Admin)(o.value)
	case "listen":
		s.cfg.Listen = nil
		for i, a := range strings.Split(o.value, ",") {
			s.at[fmt.Sprintf("listen[%d]", i)] = at
			add := listenAddress(func(a string) { s.cfg.Listen = append(s.cfg.Listen, a) })
			if err = add(strings.TrimSpace(a)); err != nil {
				break
			}
		}
	}
	s.at[o.key] = at
	if err != nil {
		return &configError{at, err.Error()}
	}
	return nil
}
