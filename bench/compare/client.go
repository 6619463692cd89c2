package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// client is a small pipelining client for setting up and for looking at things;
// load comes from the generator.
type client struct {
	c   net.Conn
	in  *bufio.Reader
	out *bufio.Writer
	n   int // replies not yet read
}

func dial(addr string) (*client, error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &client{c: c, in: bufio.NewReaderSize(c, 64<<10), out: bufio.NewWriterSize(c, 64<<10)}, nil
}

func (c *client) close() { _ = c.c.Close() }

// batch is how many requests of a pipeline are unanswered at most: more could
// fill the buffers of both sides.
const batch = 500

// send queues a request.
func (c *client) send(args ...string) error {
	b := c.out.AvailableBuffer()
	b = appendRequest(b, args...)
	if _, err := c.out.Write(b); err != nil {
		return err
	}
	c.n++
	if c.n >= batch {
		return c.wait()
	}
	return nil
}

// wait reads all outstanding replies; the first error reply is returned.
func (c *client) wait() error {
	_ = c.c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.out.Flush(); err != nil {
		return err
	}
	var first error
	for ; c.n > 0; c.n-- {
		if _, err := c.reply(); err != nil {
			var e errorReply
			if !errors.As(err, &e) {
				return err
			}
			if first == nil {
				first = err
			}
		}
	}
	return first
}

// do sends one request and returns its reply: of a bulk or a line its text, of
// an array the number of elements, of a nil "".
func (c *client) do(args ...string) (string, error) {
	if err := c.wait(); err != nil {
		return "", err
	}
	_ = c.c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.out.Write(appendRequest(c.out.AvailableBuffer(), args...)); err != nil {
		return "", err
	}
	if err := c.out.Flush(); err != nil {
		return "", err
	}
	return c.reply()
}

// errorReply is what the server said after "-".
type errorReply string

func (e errorReply) Error() string { return string(e) }

func (c *client) reply() (string, error) {
	line, err := c.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	if len(line) < 3 {
		return "", fmt.Errorf("not RESP: %q", line)
	}
	text := line[1 : len(line)-2]
	switch line[0] {
	case '+', ':':
		return text, nil
	case '-':
		return "", errorReply(text)
	case '$', '*':
	default:
		return "", fmt.Errorf("not RESP2: %q", line)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return "", err
	}
	if line[0] == '*' {
		for range n {
			if _, err := c.reply(); err != nil {
				return "", err
			}
		}
		return text, nil
	}
	b := make([]byte, n+2)
	_, err = io.ReadFull(c.in, b)
	return string(b[:n]), err
}

// appendRequest appends a request in RESP.
func appendRequest(b []byte, args ...string) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(len(args)), 10)
	b = append(b, "\r\n"...)
	for _, a := range args {
		b = append(b, '$')
		b = strconv.AppendInt(b, int64(len(a)), 10)
		b = append(b, "\r\n"...)
		b = append(b, a...)
		b = append(b, "\r\n"...)
	}
	return b
}
