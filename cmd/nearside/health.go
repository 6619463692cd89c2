package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"nearside/proxy"
)

const (
	healthTimeout = 3 * time.Second
	healthBody    = 4 << 10 // bytes of the answer that are looked at
)

// askHealth asks the nearside that runs with the same options for /healthz and
// returns what it says of itself. It is an error if nobody answers, or not
// with 200.
func askHealth(ctx context.Context, o *options) (string, error) {
	addr, token, err := adminOf(o)
	if err != nil {
		return "", err
	}
	switch {
	case addr == "":
		return "", errors.New("-health asks at the admin address, which is switched off")
	case anyPort(addr):
		return "", errors.New("-health cannot know the port of the admin address " + addr)
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	return getHealthz(ctx, addr, token)
}

// adminOf is the configured admin address and the token for it, "" without one. What
// the file says besides is not looked at twice: a certificate that has gone,
// say, does not make a process ill that runs. Nor does a token that cannot be read: it is alive
// without one, too, and only says less.
func adminOf(o *options) (addr, token string, err error) {
	given := false
	for _, v := range o.overrides {
		if v.key != "admin" {
			continue
		}
		if err := adminAddress(&addr)(v.value); err != nil {
			return "", "", &configError{place{source: v.source}, err.Error()}
		}
		given = true
	}
	token = o.token
	if given && (token != "" || o.config == "") {
		return addr, token, nil
	}
	s, err := parseFile(o)
	if err != nil {
		if given {
			return addr, token, nil
		}
		return "", "", err
	}
	if !given {
		addr = s.cfg.Admin
	}
	if file := s.cfg.AdminTokenFile; token == "" && file != "" {
		if t, err := proxy.ReadToken(file); err == nil {
			token = t
		}
	}
	return addr, token, nil
}

// getHealthz asks at an address to listen on, 0.0.0.0 included: the system
// takes that for itself. The host is named localhost, which nearside answers
// to wherever it listens.
func getHealthz(ctx context.Context, addr, token string) (string, error) {
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/healthz", http.NoBody)
	if err != nil {
		return "", err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return "", fmt.Errorf("%s does not answer: %w", addr, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, healthBody))
	if err != nil {
		return "", fmt.Errorf("%s: %w", addr, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s", addr, resp.Status)
	}
	return strings.TrimSpace(string(body)), nil
}
